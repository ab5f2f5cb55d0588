//! How a node reaches its server: one link of messages, streams dialled on request, images fetched by digest.
//!
//! ```text
//!   connect ──► Link { tx: FromNode, rx: ToNode } ──► (either end drops it) ──► connect again, with backoff
//!   NodeCall::OpenStream { id } ──► open_stream(id) ──► bytes both ways
//!   image(digest) ──► bytes
//!   handover(migration) ──► bytes, from the node that the VM leaves
//! ```
//!
//! Two connectors: [`in_process()`] (channels; the other ends are handed to whoever takes [`Dialled`]s) and [`remote`]
//! (WebSocket and HTTP over mTLS).

use async_trait::async_trait;
use hull_types::{
    digest::Digest,
    error::Result,
    id::{MigrationId, StreamId},
    link::{FromNode, ToNode},
};
use tokio::{
    io::{AsyncRead, copy_bidirectional},
    sync::mpsc,
};

use crate::hypervisor::ByteStream;

mod identity;
pub mod in_process;
pub mod join;
pub mod remote;
pub mod renew;
mod tls;

pub use identity::Identity;
pub use in_process::{Dialled, InProcess, in_process};
pub use join::{JoinToken, join};
pub use remote::Remote;
pub use renew::Certificate;

/// A link to the server. It is over when `rx` ends or `tx` is closed.
#[derive(Debug)]
pub struct Link {
    /// To the server.
    pub tx: mpsc::Sender<FromNode>,
    /// From the server.
    pub rx: mpsc::Receiver<ToNode>,
}

/// Reaches the server.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Makes a link; the caller speaks first ([`FromNode::Hello`]).
    async fn connect(&self) -> Result<Link>;

    /// Makes a byte stream the server asked for by this id.
    async fn open_stream(&self, id: StreamId) -> Result<Box<dyn ByteStream>>;

    /// The bytes of an image; the caller verifies them.
    async fn image(&self, digest: Digest) -> Result<Box<dyn AsyncRead + Send + Unpin>>;

    /// All that a VM is that comes to this node, as [`crate::vm::handover`] writes it.
    async fn handover(&self, migration: MigrationId) -> Result<Box<dyn ByteStream>>;

    /// The certificate the node proves itself by, where it needs one.
    fn certificate(&self) -> Option<Certificate> {
        None
    }
}

/// Joins two streams until either ends.
pub(crate) async fn pipe(mut near: Box<dyn ByteStream>, mut far: Box<dyn ByteStream>) {
    // How a console or a connection ended is for its two ends to know.
    let _ = copy_bidirectional(&mut near, &mut far).await;
}
