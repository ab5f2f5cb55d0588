//! Links between nodes and the server that can be cut: closed at once, or silent as a partition is.

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
    io::AsyncRead,
    sync::{mpsc, watch},
};

use crate::fate::Fate;

/// Messages under way in each direction.
const DEPTH: usize = 64;

/// A link as the server gets it.
pub struct Dialled {
    /// Who dials.
    pub node: NodeId,
    /// What it says.
    pub from: mpsc::Receiver<FromNode>,
    /// What it is told.
    pub to: mpsc::Sender<ToNode>,
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
        self.switchboard.dial(Dialled { node: self.node, from, to })?;
        tokio::spawn(carry(near, far, self.cable.clone(), self.fate.clone()));
        tokio::spawn(carry(far_down, near_down, self.cable.clone(), self.fate.clone()));
        Ok(Link { tx, rx })
    }

    async fn open_stream(&self, _id: StreamId) -> Result<Box<dyn ByteStream>> {
        Err(Error::unsupported("not simulated"))
    }

    async fn handover(&self, _migration: MigrationId) -> Result<Box<dyn ByteStream>> {
        Err(Error::unsupported("not simulated"))
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
