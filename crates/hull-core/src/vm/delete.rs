//! Deleting VMs. Delete always wins: it is accepted in every state but locked, and the record goes at the latest when a
//! node that stays silent has had its time.
//!
//! ```text
//!   delete ── no node has it ─────────────────────────────────────────► purged
//!      │
//!      └─ marked ──► its node tears down, says Gone ──────────────────► purged
//!             └────► its node is silent for DELETE_WAITS, or removed ─► purged (it tears down what it does not know
//!                                                                       when it returns)
//! ```

use hull_types::{
    Timestamp,
    error::Result,
    migration::Migration,
    port::Port,
    project::Usage,
    router::FloatingIp,
    vm::{Placement, Vm, VmPhase, VmStatus},
};

use super::{
    create::name_claim,
    state::{DELETE_WAITS, NodeSeen},
};
use crate::{
    call::Call,
    change::{Changes, Doc, Write},
    event, migration,
    placement::clock,
    port, quota,
};

/// What purging needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Deleting<'a> {
    /// The VM.
    pub vm: &'a Vm,
    /// Where it shall be.
    pub placement: Option<&'a Placement>,
    /// Its present migration.
    pub migration: Option<&'a Migration>,
    /// Its ports.
    pub ports: &'a [Port],
    /// The floating IPs that lead to them.
    pub floating_ips: &'a [FloatingIp],
    /// What its project holds.
    pub usage: Usage,
}

/// Decides on a user's wish to delete. Asking again changes nothing.
pub fn delete(plan: &Deleting<'_>, call: &mut Call<'_>) -> Result<Changes> {
    let vm = plan.vm;
    if vm.deleted_at.is_some() {
        return Ok(Changes::none());
    }
    super::changeable(vm, "delete")?;
    let asked = event::vm(call, vm, "vm.delete", "deletion was asked for");
    if plan.placement.and_then(|placement| placement.node).is_none() {
        return Ok(purge(plan, "no node had it", call).event(asked));
    }
    let mut marked = vm.clone();
    marked.deleted_at = Some(call.now);
    marked.meta.updated_at = call.now;
    Ok(Changes::none().unchanged(Doc::Vm(vm.id)).and(Write::PutVm(Box::new(marked))).event(asked))
}

/// When a deleted VM's record may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Its deletion was not asked for.
    NotDeleted,
    /// Now, and why.
    Now(String),
    /// At this time, unless its node answers before.
    At(Timestamp),
    /// When its node says that nothing is left.
    WhenGone,
}

/// Whether the record may go. `node` is none where the node's record is gone.
pub fn due(
    vm: &Vm,
    placement: Option<&Placement>,
    status: Option<&VmStatus>,
    node: Option<NodeSeen<'_>>,
    now: Timestamp,
) -> Due {
    let Some(asked) = vm.deleted_at else { return Due::NotDeleted };
    let Some(placement) = placement.filter(|placement| placement.node.is_some()) else {
        return Due::Now("no node had it".to_owned());
    };
    if status.is_some_and(|status| status.generation == placement.generation && status.phase == VmPhase::Gone) {
        return Due::Now("its node has nothing of it left".to_owned());
    }
    match node {
        None => Due::Now("its node was removed".to_owned()),
        Some(NodeSeen { silent_since: None, .. }) => Due::WhenGone,
        Some(NodeSeen { name, silent_since: Some(since) }) => {
            let goes = goes(since, asked, now);
            if now < goes {
                return Due::At(goes);
            }
            let since = clock(since, now);
            Due::Now(format!("node {name} does not answer since {since}; what is left there goes when it returns"))
        }
    }
}

/// When the record of a VM on a silent node goes: [`DELETE_WAITS`] after the wish, or after the silence began where that
/// came later. A time far in the future tells that the clock was set back: how long it has been is not known then, and the
/// record goes now rather than in years (the node tears down what it does not know when it returns).
pub(super) fn goes(silent_since: Timestamp, asked: Timestamp, now: Timestamp) -> Timestamp {
    let began = silent_since.max(asked);
    if began > now.saturating_add(DELETE_WAITS).unwrap_or(now) { now } else { began + DELETE_WAITS }
}

/// Everything of a VM's goes, in one transaction: documents, the ports that were made with it, claims, quota; history and
/// ports that a user made stay.
pub fn purge(plan: &Deleting<'_>, why: &str, call: &mut Call<'_>) -> Changes {
    let vm = plan.vm;
    let project = vm.meta.project;
    let (go, stay): (Vec<&Port>, Vec<&Port>) = plan.ports.iter().partition(|port| port.goes_with_vm);
    let held = quota::of_vm(&vm.resources, go.len() as u64);
    let floating_ips: Vec<&FloatingIp> = plan.floating_ips.iter().collect();
    let mut changes = Changes::none()
        .unchanged(Doc::Vm(vm.id))
        .unchanged(Doc::Placement(vm.id))
        .unchanged(Doc::Usage(project))
        .and(Write::DeleteVm(vm.id))
        .and(Write::DeletePlacement(vm.id))
        .and(Write::DeleteVmStatus(vm.id))
        .and(Write::Release(name_claim(vm)))
        .and(Write::PutUsage { project, usage: quota::subtract(plan.usage, held) });
    if let Some(migration) = plan.migration {
        changes = changes.unchanged(Doc::Migration(migration.id)).and(migration::bereft(migration, call.now));
    }
    port::hostname_claims(vm.id, &go).for_each(|claim| changes.push(Write::Release(claim)));
    go.into_iter().for_each(|gone| port::remove(&mut changes, gone, &floating_ips, call));
    stay.into_iter().for_each(|kept| port::let_go(&mut changes, kept, call));
    changes.event(event::vm(call, vm, "vm.gone", format!("gone: {why}")))
}
