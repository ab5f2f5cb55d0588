//! What a node reports, into the store: its life (a lease), itself, its VMs.

use std::{sync::Arc, time::Duration};

use hull_core::{
    call::Call,
    change::Changes,
    vm::report::{Verdict, report},
};
use hull_store::{LeaseId, StoreError, Txn};
use hull_types::{
    Timestamp,
    error::{Error, Result},
    event::Actor,
    id::NodeId,
    node::NodeStatus,
    vm::VmStatus,
};
use serde::{Deserialize, Serialize};

use super::{Hub, LEASE};
use crate::{
    app::{ctx::FreshEnv, vm::deleting},
    state::{
        keys::Kind,
        repo::{Committed, Plan, store_error},
    },
};

/// A node's status that says nothing new is written again only so often: heartbeats cost no transaction.
const STATUS_AGE: Duration = Duration::from_secs(60);
/// How often a report is judged again because the VM changed meanwhile.
const ATTEMPTS: u32 = 8;

/// The value under a node's lease.
#[derive(Debug, Serialize, Deserialize)]
struct Alive {
    since: Timestamp,
}

/// One link's way into the store.
pub(super) struct Reporter {
    hub: Arc<Hub>,
    node: NodeId,
    lease: Option<LeaseId>,
    written: Option<NodeStatus>,
}

impl Reporter {
    pub(super) fn new(hub: Arc<Hub>, node: NodeId) -> Self {
        Self { hub, node, lease: None, written: None }
    }

    /// The node is here: its lease begins, its status is known.
    pub(super) async fn hello(&mut self, status: NodeStatus) -> Result<()> {
        if self.hub.cache.read(|state| state.nodes.get(self.node).is_none()) {
            let detail = "this node is not registered (or was removed); join it again with a join token";
            return Err(Error::not_found(detail));
        }
        self.renew().await?;
        self.write(status).await
    }

    /// The node says how it is; every such word keeps its lease.
    pub(super) async fn status(&mut self, status: NodeStatus) -> Result<()> {
        if status.node != self.node {
            return Err(Error::forbidden("a node reported another node's status"));
        }
        self.renew().await?;
        if self.written.as_ref().is_some_and(|written| same(written, &status)) {
            return Ok(());
        }
        self.write(status).await
    }

    /// The node says how a VM is. A report of an older generation is dropped; so is one of a VM that is not there.
    pub(super) async fn vm(&mut self, said: VmStatus) -> Result<()> {
        if said.node != self.node {
            return Err(Error::forbidden("a node reported another node's VM"));
        }
        for _ in 0..ATTEMPTS {
            let plan = match self.judge(&said)? {
                Judged::Write(plan) => plan,
                Judged::Same => return Ok(()),
                Judged::Dropped(why) => {
                    tracing::debug!(vm = %said.vm, node = %self.node, why, "a report is dropped");
                    return Ok(());
                }
            };
            match plan.commit(&self.hub.store).await? {
                Committed::At(revision) => {
                    self.hub.cache.reached(revision).await;
                    return Ok(());
                }
                Committed::Stale => {
                    let newest = self.hub.store.revision().await.map_err(store_error)?;
                    self.hub.cache.reached(newest.0).await;
                }
            }
        }
        // The link ends with this: a node that comes back tells of all its VMs again, so the word is late and not lost.
        Err(Error::conflict(format!("what was reported of VM {} could not be written: it keeps changing", said.vm)))
    }

    fn judge(&self, said: &VmStatus) -> Result<Judged> {
        let hub = &self.hub;
        hub.cache.read(|state| {
            let mut fresh = FreshEnv(&hub.env);
            let actor = Actor::Node { node: self.node };
            let mut call = Call { now: hub.env.now(), actor, fresh: &mut fresh };
            let before = state.status(said.vm).map(|status| &*status.value);
            let verdict = match state.vms.get(said.vm) {
                Some(vm) => deleting(state, vm, |known| report(Some(known), before, said, &mut call)),
                None => report(None, before, said, &mut call),
            };
            Ok(match verdict {
                Verdict::Take(changes) => Judged::Write(plan(changes, state)?),
                Verdict::Same => Judged::Same,
                Verdict::Drop(why) => Judged::Dropped(why),
            })
        })
    }

    async fn renew(&mut self) -> Result<()> {
        if let Some(lease) = self.lease {
            match self.hub.store.keep_alive(lease).await {
                Ok(()) => return Ok(()),
                Err(StoreError::NoLease(_)) => {}
                Err(error) => return Err(store_error(error)),
            }
        }
        let lease = self.hub.store.grant(LEASE).await.map_err(store_error)?;
        self.lease = Some(lease);
        let alive = serde_json::to_vec(&Alive { since: self.hub.env.now() })
            .map_err(|e| Error::internal(format!("a lease has no JSON form: {e}")))?;
        let txn = Txn::new().put_leased(Kind::NodeLease.key(self.node.0), alive, lease);
        self.hub.store.txn(txn).await.map_err(store_error)?;
        Ok(())
    }

    async fn write(&mut self, status: NodeStatus) -> Result<()> {
        let mut plan = Plan::default();
        plan.put(Kind::NodeStatus.key(self.node.0), &status)?;
        if let Committed::At(revision) = plan.commit(&self.hub.store).await? {
            self.hub.cache.reached(revision).await;
        }
        self.written = Some(status);
        Ok(())
    }
}

enum Judged {
    Write(Plan),
    Same,
    Dropped(&'static str),
}

fn plan(changes: Changes, state: &crate::state::view::State) -> Result<Plan> {
    Plan::new(changes, state)
}

/// Whether a status tells nothing worth a transaction: the same but for its time, and disk space within a sixteenth.
fn same(written: &NodeStatus, now: &NodeStatus) -> bool {
    let age = crate::app::ctx::since(now.at, written.at);
    let moved = written.disk_free.0.abs_diff(now.disk_free.0) > written.disk_free.0 / 16;
    age < STATUS_AGE && !moved && written.facts == now.facts && written.conditions == now.conditions
}
