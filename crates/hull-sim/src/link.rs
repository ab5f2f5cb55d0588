//! Links and byte streams between nodes and the server that can be cut: closed at once, or silent as a partition is.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use hull_node::{
    hypervisor::ByteStream,
    link::{Connector, Link},
};
use hull_types::{
    digest::Digest,
    error::{Error, Result},
    id::{MigrationId, NodeId, StreamId},
    link::{FromNode, ToNode},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    sync::{mpsc, watch},
    time::timeout,
};

use crate::fate::Fate;

/// Messages under way in each direction.
const DEPTH: usize = 64;
/// Bytes under way in each direction of a stream: so few that much of it is elsewhere when something breaks.
const BUFFER: usize = 256;
/// How long whoever dials over a silent cable waits for an answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// What a node dialled, as the server gets it.
pub struct Dialled {
    /// Who dials.
    pub node: NodeId,
    /// What for.
    pub what: What,
}

/// What a node dials for.
pub enum What {
    /// A link.
    Link {
        /// What it says.
        from: mpsc::Receiver<FromNode>,
        /// What it is told.
        to: mpsc::Sender<ToNode>,
    },
    /// A stream that it was asked for.
    Stream {
        /// The id it was asked for with.
        id: StreamId,
        /// The bytes.
        io: DuplexStream,
    },
    /// A VM that comes to it.
    Handover {
        /// By which migration.
        migration: MigrationId,
        /// The bytes; closed where it cannot be had.
        io: DuplexStream,
    },
}

/// Where the server is reached, while it is up.
#[derive(Clone, Default)]
pub struct Switchboard(Arc<Mutex<Option<mpsc::UnboundedSender<Dialled>>>>);

impl Switchboard {
    /// From now the server is reached here, or not at all.
    pub fn set(&self, server: Option<mpsc::UnboundedSender<Dialled>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    fn dial(&self, link: Dialled) -> Result<()> {
        let server = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let down = || Error::unavailable("the server does not answer");
        server.ok_or_else(down)?.send(link).map_err(|_| down())
    }
}

/// How a cable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// It works.
    Whole,
    /// Links over it break at once, and none can be made.
    Cut,
    /// Nothing gets through, and neither end is told.
    Silent,
}

/// One life of a node's way to the server.
pub struct SimConnector {
    node: NodeId,
    switchboard: Switchboard,
    cable: watch::Receiver<Cable>,
    fate: Arc<Fate>,
}

impl SimConnector {
    /// A way over this cable.
    pub fn new(node: NodeId, switchboard: Switchboard, cable: watch::Receiver<Cable>, fate: Arc<Fate>) -> Self {
        Self { node, switchboard, cable, fate }
    }
}

impl SimConnector {
    async fn stream(&self, what: impl FnOnce(DuplexStream) -> What) -> Result<Box<dyn ByteStream>> {
        self.fate.takes(Duration::from_millis(100)).await;
        let mut cable = self.cable.clone();
        let spoken = timeout(ANSWERS_WITHIN, cable.wait_for(|cable| *cable != Cable::Silent)).await;
        if !matches!(spoken, Ok(Ok(now)) if *now == Cable::Whole) {
            return Err(Error::unavailable("the cable is cut"));
        }
        let ((node, near), (far, server)) = (duplex(BUFFER), duplex(BUFFER));
        self.switchboard.dial(Dialled { node: self.node, what: what(server) })?;
        tokio::spawn(carry_bytes(near, far, self.cable.clone(), self.fate.clone()));
        Ok(Box::new(node))
    }
}

#[async_trait]
impl Connector for SimConnector {
    async fn connect(&self) -> Result<Link> {
        self.fate.takes(Duration::from_millis(100)).await;
        if *self.cable.borrow() != Cable::Whole {
            return Err(Error::unavailable("the cable is cut"));
        }
        let (tx, near) = mpsc::channel(DEPTH);
        let (far, from) = mpsc::channel(DEPTH);
        let (to, far_down) = mpsc::channel(DEPTH);
        let (near_down, rx) = mpsc::channel(DEPTH);
        self.switchboard.dial(Dialled { node: self.node, what: What::Link { from, to } })?;
        tokio::spawn(carry(near, far, self.cable.clone(), self.fate.clone()));
        tokio::spawn(carry(far_down, near_down, self.cable.clone(), self.fate.clone()));
        Ok(Link { tx, rx })
    }

    async fn open_stream(&self, id: StreamId) -> Result<Box<dyn ByteStream>> {
        self.stream(|io| What::Stream { id, io }).await
    }

    async fn handover(&self, migration: MigrationId) -> Result<Box<dyn ByteStream>> {
        self.stream(|io| What::Handover { migration, io }).await
    }

    async fn image(&self, _digest: Digest) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
        Err(Error::unsupported("not simulated"))
    }
}

/// Carries messages until an end closes or the cable is cut; what is under way then is lost.
async fn carry<T>(
    mut from: mpsc::Receiver<T>,
    to: mpsc::Sender<T>,
    mut cable: watch::Receiver<Cable>,
    fate: Arc<Fate>,
) {
    loop {
        let message = tokio::select! {
            message = from.recv() => message,
            _ = cable.wait_for(|cable| *cable == Cable::Cut) => None,
            () = to.closed() => None,
        };
        let Some(message) = message else { return };
        fate.takes(Duration::from_millis(50)).await;
        // A silent cable holds everything back until it is mended or cut.
        let Ok(now) = cable.wait_for(|cable| *cable != Cable::Silent).await.map(|now| *now) else { return };
        if now == Cable::Cut || to.send(message).await.is_err() {
            return;
        }
    }
}

/// Carries a stream's bytes until both directions are done, an end breaks or the cable is cut; then both ends are closed.
async fn carry_bytes(node: DuplexStream, server: DuplexStream, cable: watch::Receiver<Cable>, fate: Arc<Fate>) {
    let (from_node, to_node) = split(node);
    let (from_server, to_server) = split(server);
    let mut cut = cable.clone();
    tokio::select! {
        _ = cut.wait_for(|cable| *cable == Cable::Cut) => {}
        _ = async {
            tokio::try_join!(
                carry_one_way(from_node, to_server, cable.clone(), &fate),
                carry_one_way(from_server, to_node, cable.clone(), &fate),
            )
        } => {}
    }
}

async fn carry_one_way(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut cable: watch::Receiver<Cable>,
    fate: &Fate,
) -> std::io::Result<()> {
    let mut bytes = [0; BUFFER];
    loop {
        let count = from.read(&mut bytes).await?;
        fate.takes(Duration::from_millis(50)).await;
        // Whoever holds the other end of the cable is gone, and the run with it.
        _ = cable.wait_for(|cable| *cable != Cable::Silent).await.map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&bytes[..count]).await?;
    }
}
