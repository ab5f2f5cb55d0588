//! One node's link: hello, then desired state one way and reports the other.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use hull_types::{
    error::{Error, Result},
    id::NodeId,
    link::{FromNode, NodeCall, NodeReply, PROTOCOL, ToNode},
    node::NodeStatus,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Hub, desired::Told, lock, report::Reporter};

/// A link, as callers see it.
pub(super) struct Link {
    pub(super) epoch: u64,
    to: mpsc::Sender<ToNode>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Result<NodeReply>>>>,
    calls: AtomicU64,
    ended: CancellationToken,
}

impl Link {
    pub(super) fn new(epoch: u64, to: mpsc::Sender<ToNode>) -> Self {
        Self { epoch, to, waiting: Mutex::default(), calls: AtomicU64::new(1), ended: CancellationToken::new() }
    }

    pub(super) fn end(&self) {
        self.ended.cancel();
        // Whoever waits for an answer learns at once that none will come.
        lock(&self.waiting).clear();
    }

    pub(super) async fn call(&self, call: NodeCall) -> Result<NodeReply> {
        let lost = || Error::unavailable("the link to the node broke; try again");
        let id = self.calls.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).insert(id, answer);
        // Forgotten even where the caller stops waiting.
        let _forget = Forget(self, id);
        self.to.send(ToNode::Call { id, call }).await.map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?
    }

    fn answer(&self, id: u64, result: Result<NodeReply>) {
        if let Some(waiting) = lock(&self.waiting).remove(&id) {
            // Who stopped waiting does not mind.
            _ = waiting.send(result);
        }
    }
}

struct Forget<'a>(&'a Link, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.0.waiting).remove(&self.1);
    }
}

/// Serves a link until it ends.
pub(super) async fn serve(
    hub: &Arc<Hub>,
    node: NodeId,
    link: &Arc<Link>,
    mut from: mpsc::Receiver<FromNode>,
) -> Result<()> {
    let status = hello(node, from.recv().await)?;
    let mut reporter = Reporter::new(hub.clone(), node);
    reporter.hello(status).await?;
    if let Some(older) = lock(&hub.links).insert(node, link.clone()) {
        older.end();
    }
    let mut wake = hub.cache.subscribe();
    let mut told = Told::new(node);
    loop {
        wake.borrow_and_update();
        if let Some(desired) = told.next(&hub.cache)
            && link.to.send(ToNode::Desired(desired)).await.is_err()
        {
            break;
        }
        tokio::select! {
            () = link.ended.cancelled() => break,
            changed = wake.changed() => if changed.is_err() { break },
            message = from.recv() => match message {
                Some(FromNode::Reply { id, result }) => link.answer(id, result),
                Some(FromNode::Vm(status)) => reporter.vm(*status).await?,
                Some(FromNode::Status(status)) => reporter.status(*status).await?,
                Some(FromNode::Hello { .. }) => return Err(Error::invalid("a node said hello twice on one link")),
                None => break,
            },
        }
    }
    link.end();
    Ok(())
}

fn hello(node: NodeId, first: Option<FromNode>) -> Result<NodeStatus> {
    match first {
        Some(FromNode::Hello { protocol, .. }) if protocol.abs_diff(PROTOCOL) > 1 => Err(Error::unsupported(format!(
            "the node speaks protocol {protocol}, this server {PROTOCOL}; upgrade the older of the two"
        ))),
        Some(FromNode::Hello { node: said, status, .. }) if said == node && status.node == node => Ok(*status),
        Some(FromNode::Hello { node: said, .. }) => {
            Err(Error::forbidden(format!("the link of node {node} says it is node {said}")))
        }
        Some(_) => Err(Error::invalid("a node must say hello first")),
        None => Err(Error::unavailable("the link closed before the node said hello")),
    }
}
