//! A link within one process: channels.

use async_trait::async_trait;
use hull_types::{
    digest::Digest,
    error::{Error, Result},
    id::{MigrationId, StreamId},
    link::{FromNode, ToNode},
};
use tokio::{
    io::{AsyncRead, DuplexStream, duplex},
    sync::mpsc,
};

use super::{Connector, Link};
use crate::hypervisor::ByteStream;

/// Messages under way in each direction before the sender waits.
const DEPTH: usize = 256;
/// Bytes under way in each direction of a stream.
const BUFFER: usize = 64 * 1024;

/// What the node dialled, as its counterpart gets it.
#[derive(Debug)]
pub enum Dialled {
    /// A link; the node speaks first.
    Link {
        /// To the node.
        to_node: mpsc::Sender<ToNode>,
        /// From the node.
        from_node: mpsc::Receiver<FromNode>,
    },
    /// A stream that was asked for by [`hull_types::link::NodeCall::OpenStream`].
    Stream {
        /// The id it was asked for with.
        id: StreamId,
        /// The bytes.
        stream: DuplexStream,
    },
    /// A VM comes to this node, and is asked for.
    Handover {
        /// By which migration.
        migration: MigrationId,
        /// The bytes; closed where it cannot be had.
        stream: DuplexStream,
    },
}

/// The node's end.
#[derive(Clone, Debug)]
pub struct InProcess {
    dial: mpsc::Sender<Dialled>,
}

/// A connector, and what it dials. Node and server share the image store, so images are not fetched over it.
pub fn in_process() -> (InProcess, mpsc::Receiver<Dialled>) {
    let (dial, dialled) = mpsc::channel(DEPTH);
    (InProcess { dial }, dialled)
}

impl InProcess {
    async fn dial(&self, dialled: Dialled) -> Result<()> {
        self.dial.send(dialled).await.map_err(|_| Error::unavailable("the server part of this process has ended"))
    }
}

#[async_trait]
impl Connector for InProcess {
    async fn connect(&self) -> Result<Link> {
        let (tx, from_node) = mpsc::channel(DEPTH);
        let (to_node, rx) = mpsc::channel(DEPTH);
        self.dial(Dialled::Link { to_node, from_node }).await?;
        Ok(Link { tx, rx })
    }

    async fn open_stream(&self, id: StreamId) -> Result<Box<dyn ByteStream>> {
        let (near, stream) = duplex(BUFFER);
        self.dial(Dialled::Stream { id, stream }).await?;
        Ok(Box::new(near))
    }

    async fn handover(&self, migration: MigrationId) -> Result<Box<dyn ByteStream>> {
        let (near, stream) = duplex(BUFFER);
        self.dial(Dialled::Handover { migration, stream }).await?;
        Ok(Box::new(near))
    }

    async fn image(&self, digest: Digest) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
        Err(Error::not_found(format!("image {digest} is not in the image store; import it again")))
    }
}
