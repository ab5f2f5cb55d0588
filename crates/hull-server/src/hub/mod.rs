//! The server's end of the links to nodes.
//!
//! ```text
//!   node ── Hello ──> [attach] ── grant lease, status ──> store
//!        <─ Desired (full) ─┐
//!        <─ Desired (delta) ┤ woken by the cache; computed from it, never from messages
//!        ── Vm, Status ────>│ reports: of the current generation only, then into the store
//!        <─ Call / Reply ──>│ calls with deadlines
//!        ── streams/{id} ──>  dialled back by the node, joined to whoever asked for the stream
//!        ── handovers/{id} ─> the node a VM goes to asks for it; joined to a stream from the node it leaves
//! ```
//!
//! A link carries no state of its own: a node that comes back is told everything again. A second link of the same node
//! ends the first. In one process a link is two channels; over the network the same messages travel in a WebSocket.

pub mod desired;
mod link;
mod report;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hull_store::Store;
use hull_types::{
    error::{Error, Result},
    id::{MigrationId, NodeId, StreamId, VmId},
    link::{FromNode, NodeCall, NodeReply, StreamTarget, ToNode},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
};

use self::link::Link;
use crate::{env::Env, state::cache::Cache};

/// A node that sends nothing for so long is taken not to answer.
pub const LEASE: Duration = Duration::from_secs(30);
/// How long a node has to dial back for a stream. Longer than it waits itself for a guest's TCP port: its refusal says more.
const DIAL_BACK: Duration = Duration::from_secs(15);

/// A byte stream to somewhere on a node.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Where the node that dials back finds who asked for the stream.
struct Expected {
    node: NodeId,
    joined: oneshot::Sender<Box<dyn Io>>,
}

/// All links.
pub struct Hub {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    env: Env,
    links: Mutex<HashMap<NodeId, Arc<Link>>>,
    streams: Mutex<HashMap<StreamId, Expected>>,
    epochs: AtomicU64,
}

impl Hub {
    /// A hub without links.
    pub fn new(store: Arc<dyn Store>, cache: Arc<Cache>, env: Env) -> Arc<Self> {
        Arc::new(Self {
            store,
            cache,
            env,
            links: Mutex::default(),
            streams: Mutex::default(),
            epochs: AtomicU64::new(0),
        })
    }

    /// Serves a node's link until it ends: the node's channel closes, another link of the node takes over, or the node
    /// breaks the protocol. The first message must be [`FromNode::Hello`] of this very node.
    ///
    /// # Errors
    /// `Invalid` where the node breaks the protocol; `NotFound` where it is not registered; the store's.
    pub async fn attach(
        self: &Arc<Self>,
        node: NodeId,
        from: mpsc::Receiver<FromNode>,
        to: mpsc::Sender<ToNode>,
    ) -> Result<()> {
        let link = Arc::new(Link::new(self.epochs.fetch_add(1, Ordering::Relaxed), to));
        let outcome = link::serve(self, node, &link, from).await;
        let mut links = lock(&self.links);
        if links.get(&node).is_some_and(|current| current.epoch == link.epoch) {
            links.remove(&node);
        }
        outcome
    }

    /// Whether a node has a link now.
    pub fn is_attached(&self, node: NodeId) -> bool {
        lock(&self.links).contains_key(&node)
    }

    /// Asks a node something and waits for its answer.
    ///
    /// # Errors
    /// `Unavailable` where it has no link, `Timeout` where it does not answer, and the node's own refusals.
    pub async fn call(&self, node: NodeId, call: NodeCall, within: Duration) -> Result<NodeReply> {
        let link = lock(&self.links).get(&node).cloned().ok_or_else(|| self.unreachable(node))?;
        match tokio::time::timeout(within, link.call(call)).await {
            Ok(reply) => reply,
            Err(_) => {
                let name = self.name(node);
                Err(Error::timeout(format!("node {name} did not answer within {} s; try again", within.as_secs())))
            }
        }
    }

    /// Opens a byte stream to somewhere in a VM on a node.
    ///
    /// # Errors
    /// As [`Hub::call`], and `Timeout` where the node does not dial back.
    pub async fn open_stream(&self, node: NodeId, vm: VmId, target: StreamTarget) -> Result<Box<dyn Io>> {
        let stream: StreamId = self.env.id();
        let (joined, dialled) = oneshot::channel();
        lock(&self.streams).insert(stream, Expected { node, joined });
        let call = NodeCall::OpenStream { stream, vm, target };
        let opened = match self.call(node, call, DIAL_BACK).await {
            Ok(_) => match tokio::time::timeout(DIAL_BACK, dialled).await {
                Ok(Ok(io)) => Ok(io),
                _ => {
                    Err(Error::timeout(format!("node {} did not open the stream in time; try again", self.name(node))))
                }
            },
            Err(error) => Err(error),
        };
        lock(&self.streams).remove(&stream);
        opened
    }

    /// Joins the stream a node has dialled back with to whoever asked for it.
    ///
    /// # Errors
    /// `NotFound` where nobody waits for it, or it was asked of another node.
    pub fn accept_stream(&self, node: NodeId, stream: StreamId, io: Box<dyn Io>) -> Result<()> {
        let refusal = || Error::not_found(format!("nobody waits for stream {stream}"));
        let expected = {
            let mut streams = lock(&self.streams);
            if streams.get(&stream).is_none_or(|expected| expected.node != node) {
                return Err(refusal());
            }
            streams.remove(&stream)
        };
        expected.ok_or_else(refusal)?.joined.send(io).map_err(|_| refusal())
    }

    /// Opens a stream of all that a VM is, for the node it goes to, from the one it leaves.
    ///
    /// # Errors
    /// `NotFound` where no VM goes to this node by this migration; as [`Hub::open_stream`].
    pub async fn handover(&self, node: NodeId, migration: MigrationId) -> Result<Box<dyn Io>> {
        let found = self.cache.read(|state| {
            let vm = state.migrations.get(migration)?.vm;
            let placement = state.placement(vm)?;
            let goes = placement.leaving().is_some_and(|moving| moving.migration == migration && moving.to == node);
            placement.node.filter(|_| goes).map(|from| (vm, from))
        });
        let none = || Error::not_found(format!("no VM goes to this node by migration {migration}"));
        let (vm, from) = found.ok_or_else(none)?;
        self.open_stream(from, vm, StreamTarget::Handover { migration }).await
    }

    /// Ends every link.
    pub fn close(&self) {
        for (_, link) in lock(&self.links).drain() {
            link.end();
        }
    }

    fn unreachable(&self, node: NodeId) -> Error {
        Error::unavailable(format!("node {} is not connected; see `hull node list`", self.name(node)))
    }

    fn name(&self, node: NodeId) -> String {
        self.cache.read(|state| state.nodes.get(node).map_or_else(|| node.to_string(), |node| node.name.to_string()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps are whole at every point where a panic could happen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
