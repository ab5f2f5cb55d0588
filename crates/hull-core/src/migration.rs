//! Migrations: when a VM may go, when it has gone, and when that is given up.
//!
//! ```text
//!   begin ─► placement.moving ─► new node: Expected ─► old node: Released ─► new node: Arrived
//!                  │                                                             │     └─► placement.node = new, generation + 1
//!                  └── cancel, deadline, a node that cannot ─────────────────────┘
//!                            └─► placement.moving = none: the old node goes on
//! ```
//!
//! All turns on one document. While the placement names the old node, only that may run the VM; it is told to hold it, and
//! says when it does ([`VmPhase::Released`]). The new node's word that it has everything ([`VmPhase::Arrived`]) changes the
//! placement, in the transaction that takes the word, and only where the old node holds the VM still. Either that happens,
//! or the migration is undone: a transaction decides.

use std::fmt;

use hull_types::{
    Timestamp,
    error::{Error, ErrorKind, Result},
    id::NodeId,
    migration::{Migration, MigrationPhase, Moving},
    node::NodeFacts,
    reason::{Reason, ReasonCode},
    units::Bytes,
    vm::{Accel, Placement, PowerTarget, Vm, VmPhase, VmStatus},
};
use jiff::SignedDuration;

use crate::{
    call::Call,
    change::{Changes, Doc, Write},
    event,
    placement::{self, Candidate, clock},
    vm::{report::is_rest, state::NodeSeen},
};

/// A migration is given up after this long, and as much more for each GiB of disk as [`PER_GIB`] says.
pub const PATIENCE: SignedDuration = SignedDuration::from_mins(60);
/// A GiB at 17 MB/s.
pub const PER_GIB: SignedDuration = SignedDuration::from_secs(60);

/// A node, as migrations see it.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// As placement sees it.
    pub candidate: &'a Candidate,
    /// What it last said it is.
    pub facts: Option<&'a NodeFacts>,
}

/// What beginning needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Begin<'a> {
    /// The VM.
    pub vm: &'a Vm,
    /// Where it shall be.
    pub placement: Option<&'a Placement>,
    /// What its node last said of it.
    pub status: Option<&'a VmStatus>,
    /// All nodes.
    pub nodes: &'a [Host<'a>],
    /// The node it shall go to; the emptiest that fits where none is named.
    pub wanted: Option<NodeId>,
}

/// Begins a migration.
///
/// # Errors
/// `Conflict` where the VM cannot leave now, or no node can take it; `Invalid` where it is on the node named.
pub fn begin(plan: &Begin<'_>, call: &mut Call<'_>) -> Result<Changes> {
    let (placement, from) = leaves(plan, call.now)?;
    let to = goes_to(plan, from, call.now)?;
    let (vm, id) = (plan.vm, call.id());
    let gibs = i32::try_from(vm.resources.disk.0.div_ceil(Bytes::gib(1).0)).unwrap_or(i32::MAX);
    let deadline = call.now.saturating_add(PATIENCE + PER_GIB * gibs).unwrap_or(Timestamp::MAX);
    let (from, to) = (from.candidate, to.candidate);
    let migration = Migration {
        id,
        vm: vm.id,
        vm_name: vm.meta.name.clone(),
        project: vm.meta.project,
        from: from.id,
        to: to.id,
        phase: MigrationPhase::Preparing,
        reason: None,
        began_at: call.now,
        deadline,
        halted_at: None,
        moved_at: None,
        ended_at: None,
        downtime_ms: None,
    };
    let placed =
        Placement { moving: Some(Moving { migration: id, to: to.id, ready: false, deadline }), ..placement.clone() };
    let told = event::vm(call, vm, "vm.migrate", format!("is to go from node {} to node {}", from.name, to.name));
    Ok(Changes::none()
        .exists(Doc::Vm(vm.id))
        .unchanged(Doc::Placement(vm.id))
        .unchanged(Doc::Node(to.id))
        .and(Write::PutPlacement(Box::new(placed)))
        .and(put(migration))
        .event(told))
}

/// Where the VM is, where it can leave from there.
fn leaves<'a>(plan: &Begin<'a>, now: Timestamp) -> Result<(&'a Placement, Host<'a>)> {
    let name = &plan.vm.meta.name;
    let refuse = |why: fmt::Arguments<'_>| Err(Error::conflict(format!("cannot migrate {name}: {why}")));
    if plan.vm.deleted_at.is_some() {
        return refuse(format_args!("it is being deleted"));
    }
    let Some((placement, on)) = plan.placement.and_then(|placement| Some((placement, placement.node?))) else {
        return refuse(format_args!("it has no node yet; wait until it runs"));
    };
    if let Some(moving) = placement.moving {
        let id = moving.migration;
        return refuse(format_args!("it is on its way already; wait, or end that (`hull migration cancel {id}`)"));
    }
    let Some(from) = plan.nodes.iter().find(|node| node.candidate.id == on) else {
        return refuse(format_args!("its node was removed from the cloud, and its disk with it"));
    };
    if let Some(since) = from.candidate.silent_since {
        let (node, since) = (&from.candidate.name, clock(since, now));
        return refuse(format_args!(
            "its node {node} does not answer since {since}, and its disk is there; it can go once the node answers"
        ));
    }
    if plan.vm.rescue.is_some() {
        return refuse(format_args!("it is in rescue mode; leave it first (`hull vm unrescue {name}`)"));
    }
    if let Some(why) = too_old(*from) {
        return refuse(format_args!("{why}"));
    }
    if plan.status.is_none_or(|status| status.generation != placement.generation) {
        let node = &from.candidate.name;
        return refuse(format_args!("its node {node} has not answered for it yet; wait until it runs"));
    }
    Ok((placement, *from))
}

fn goes_to<'a>(plan: &Begin<'a>, from: Host<'a>, now: Timestamp) -> Result<Host<'a>> {
    let (vm, name) = (plan.vm, &plan.vm.meta.name);
    let in_memory = plan.status.is_some_and(|status| has_memory(status.phase));
    let against = |to: &Host<'_>| too_old(*to).or_else(|| if in_memory { differs(from, *to) } else { None });
    let find = |id: NodeId| plan.nodes.iter().find(|node| node.candidate.id == id).copied();
    if let Some(wanted) = plan.wanted {
        let to = find(wanted).ok_or_else(|| Error::not_found("the node named is gone").at("/node"))?;
        let node = &to.candidate.name;
        if wanted == from.candidate.id {
            return Err(Error::invalid(format!("{name} is on node {node} already; name another")).at("/node"));
        }
        if let Some(why) = against(&to) {
            let detail = format!("cannot migrate {name} as it is: {why}; {}choose another node", stop_first(in_memory));
            return Err(Error::conflict(detail).at("/node"));
        }
        let fits = placement::place(&vm.resources, std::slice::from_ref(to.candidate), now);
        let refused = |why: Reason| full(format!("cannot migrate {name} to node {node}: {}", why.message)).at("/node");
        return fits.map(|_| to).map_err(refused);
    }
    let others: Vec<Host<'_>> =
        plan.nodes.iter().filter(|node| node.candidate.id != from.candidate.id).copied().collect();
    if others.is_empty() {
        let detail = format!("cannot migrate {name}: there is no other node; join one (`hull node join-token`)");
        return Err(Error::conflict(detail));
    }
    let able: Vec<Candidate> =
        others.iter().filter(|node| against(node).is_none()).map(|node| node.candidate.clone()).collect();
    if able.is_empty() {
        let why = others.iter().find_map(against).unwrap_or_default();
        let detail = format!("cannot migrate {name} as it is: {why}; {}join another node", stop_first(in_memory));
        return Err(Error::conflict(detail));
    }
    let chosen = placement::place(&vm.resources, &able, now);
    let chosen = chosen.map_err(|why| full(format!("cannot migrate {name}: {}", why.message)))?;
    find(chosen).ok_or_else(|| Error::internal("the node chosen is not among the nodes"))
}

const fn stop_first(in_memory: bool) -> &'static str {
    if in_memory { "stop it first, or " } else { "" }
}

/// A node whose Hull does not know of migrations would take a VM that comes for a new one.
fn too_old(node: Host<'_>) -> Option<String> {
    let able = node.facts.is_some_and(|facts| facts.migrates);
    (!able).then(|| format!("the Hull of node {} does not know how to; upgrade it", node.candidate.name))
}

fn full(detail: String) -> Error {
    Error::new(ErrorKind::InsufficientResources, detail)
}

/// Whether a VM in this phase may have memory that goes along.
const fn has_memory(phase: VmPhase) -> bool {
    match phase {
        VmPhase::Preparing | VmPhase::Stopped | VmPhase::Failed | VmPhase::Rebuilding => false,
        VmPhase::Starting
        | VmPhase::Running
        | VmPhase::Paused
        | VmPhase::Stopping
        | VmPhase::Suspending
        | VmPhase::Suspended
        | VmPhase::Released
        | VmPhase::Expected
        | VmPhase::Arriving
        | VmPhase::Arrived
        | VmPhase::Deleting
        | VmPhase::Gone => true,
    }
}

/// Why a machine's memory from one node cannot go on on the other: it is bound to the hypervisor's version, to how it
/// runs guests, and under hardware acceleration to the processor.
fn differs(from: Host<'_>, to: Host<'_>) -> Option<String> {
    let (Some(old), Some(new)) = (from.facts, to.facts) else {
        return Some(format!("node {} has not said what it is", to.candidate.name));
    };
    let (one, other) = (&from.candidate.name, &to.candidate.name);
    let words = |accel| match accel {
        Accel::Kvm => "hardware acceleration",
        Accel::Tcg => "emulation",
    };
    if old.accel != new.accel {
        let (old, new) = (words(old.accel), words(new.accel));
        return Some(format!("node {one} runs guests by {old}, node {other} by {new}"));
    }
    let version = |facts: &NodeFacts| facts.qemu_version.clone().unwrap_or_else(|| "none".to_owned());
    if old.qemu_version != new.qemu_version {
        return Some(format!("node {one} has QEMU {}, node {other} {}", version(old), version(new)));
    }
    let model = |facts: &NodeFacts| facts.cpu_model.clone().unwrap_or_else(|| "an unknown processor".to_owned());
    (old.accel == Accel::Kvm && old.cpu_model != new.cpu_model)
        .then(|| format!("node {one} has {}, node {other} {}", model(old), model(new)))
}

/// A VM with its present migration.
#[derive(Clone, Copy, Debug)]
pub struct UnderWay<'a> {
    /// The VM.
    pub vm: &'a Vm,
    /// Its placement, which names the migration.
    pub placement: &'a Placement,
    /// The migration.
    pub migration: &'a Migration,
}

impl UnderWay<'_> {
    fn base(&self) -> Changes {
        Changes::none()
            .exists(Doc::Vm(self.vm.id))
            .unchanged(Doc::Placement(self.vm.id))
            .unchanged(Doc::Migration(self.migration.id))
    }

    /// The VM goes on where it is.
    fn undone(&self, phase: MigrationPhase, reason: Reason, call: &mut Call<'_>) -> Changes {
        let (action, words) = match phase {
            MigrationPhase::Cancelled => ("vm.migrate-cancelled", "stays on its node"),
            _ => ("vm.migrate-failed", "stays on its node, for it could not be moved"),
        };
        let told = event::vm(call, self.vm, action, format!("{words}: {}", reason.message));
        let ended = Migration { phase, reason: Some(reason), ended_at: Some(call.now), ..self.migration.clone() };
        let stays = Placement { moving: None, ..self.placement.clone() };
        self.base().and(Write::PutPlacement(Box::new(stays))).and(put(ended)).event(told)
    }
}

/// Ends a migration at someone's wish. One that is over stays as it is.
///
/// # Errors
/// `Conflict` where the VM is the new node's already.
pub fn cancel(under_way: &UnderWay<'_>, call: &mut Call<'_>) -> Result<Changes> {
    if under_way.placement.leaving().is_none() {
        let name = &under_way.vm.meta.name;
        let detail = format!("{name} is on its new node already; migrate it back if it shall not be there");
        return Err(Error::conflict(detail));
    }
    let reason = Reason::new(ReasonCode::Requested, "it was cancelled", call.now);
    Ok(under_way.undone(MigrationPhase::Cancelled, reason, call))
}

/// Gives a migration up, where it cannot be done: its time is over, or the new node is not there. `to` is none where that
/// was removed.
pub fn give_up(under_way: &UnderWay<'_>, to: Option<NodeSeen<'_>>, call: &mut Call<'_>) -> Option<Changes> {
    let moving = under_way.placement.leaving()?;
    let now = call.now;
    let (code, message) = match to {
        None => (ReasonCode::NodeUnreachable, "the node it was to go to was removed".to_owned()),
        Some(NodeSeen { name, silent_since: Some(since) }) => {
            let since = clock(since, now);
            (ReasonCode::NodeUnreachable, format!("the node it was to go to, {name}, does not answer since {since}"))
        }
        Some(NodeSeen { silent_since: None, .. }) => {
            let why = is_late(under_way.migration, moving.deadline, now)?;
            let last = under_way.migration.reason.as_ref().map(|reason| format!(" ({})", reason.message));
            (ReasonCode::Migrating, format!("{why}{}", last.unwrap_or_default()))
        }
    };
    Some(under_way.undone(MigrationPhase::Failed, Reason::new(code, message, now), call))
}

/// Why a migration has taken too long. One that began far in the future tells that the clock was set back: how long it has
/// been is not known then, and it ends now rather than in years.
fn is_late(migration: &Migration, deadline: Timestamp, now: Timestamp) -> Option<String> {
    if deadline <= now {
        return Some(format!("it was not done by {}", clock(deadline, now)));
    }
    let set_back = migration.began_at.duration_since(now) > PATIENCE;
    set_back.then(|| "the clock was set back since it began, so nobody knows how long it has taken".to_owned())
}

/// What becomes of a word from the node that a VM goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It changes something: the VM is that node's, or what holds it up is known.
    Take(Changes),
    /// It says nothing new.
    Same,
    /// It is dropped, and why.
    Drop(&'static str),
}

/// Whether a report is the word of the node that a VM goes to, about its coming.
pub fn is_arrival(placement: &Placement, said: &VmStatus) -> bool {
    placement.leaving().is_some_and(|moving| moving.to == said.node) && said.generation == placement.generation + 1
}

/// Judges the word of the node that a VM goes to ([`is_arrival`]). `last` is what the old node said last.
pub fn arrival(under_way: &UnderWay<'_>, last: Option<&VmStatus>, said: &VmStatus, call: &mut Call<'_>) -> Arrival {
    let UnderWay { vm, placement, migration } = *under_way;
    if said.migration != Some(migration.id) {
        return Arrival::Drop("it speaks of another migration");
    }
    if vm.deleted_at.is_some() {
        return Arrival::Drop("the VM is being deleted");
    }
    let ready = placement.moving.is_some_and(|moving| moving.ready);
    if !ready && said.phase == VmPhase::Expected {
        return Arrival::Take(releasing(under_way, call));
    }
    let held = |last: &VmStatus| {
        last.generation == placement.generation
            && last.phase == VmPhase::Released
            && last.migration == Some(migration.id)
    };
    if said.phase == VmPhase::Arrived {
        return match last.is_some_and(held) {
            true => Arrival::Take(moved(under_way, said, call)),
            false => Arrival::Drop("its old node does not hold it for another"),
        };
    }
    let Some(reason) = &said.reason else { return Arrival::Same };
    if reason.deadline.is_none() {
        return Arrival::Take(under_way.undone(MigrationPhase::Failed, reason.clone(), call));
    }
    if migration.reason.as_ref().is_some_and(|known| known.message == reason.message) {
        return Arrival::Same;
    }
    let held_up = Migration { reason: Some(reason.clone()), ..migration.clone() };
    Arrival::Take(under_way.base().and(put(held_up)))
}

/// The new node is ready: the VM may leave, unless it runs a rescue system by now, which is not made to go anywhere.
fn releasing(under_way: &UnderWay<'_>, call: &mut Call<'_>) -> Changes {
    if under_way.vm.rescue.is_some() {
        let reason = Reason::new(ReasonCode::Requested, "it went into rescue mode; leave that first", call.now);
        return under_way.undone(MigrationPhase::Failed, reason, call);
    }
    let moving = under_way.placement.moving.map(|moving| Moving { ready: true, ..moving });
    let leaves = Placement { moving, ..under_way.placement.clone() };
    let releasing = Migration { phase: MigrationPhase::Releasing, reason: None, ..under_way.migration.clone() };
    under_way.base().and(Write::PutPlacement(Box::new(leaves))).and(put(releasing))
}

/// The VM is the new node's.
fn moved(under_way: &UnderWay<'_>, said: &VmStatus, call: &mut Call<'_>) -> Changes {
    let UnderWay { vm, placement, migration } = *under_way;
    let there =
        Placement { node: Some(said.node), generation: said.generation, decided_at: call.now, ..placement.clone() };
    let starting =
        Migration { phase: MigrationPhase::Starting, reason: None, moved_at: Some(call.now), ..migration.clone() };
    let told = event::vm(call, vm, "vm.move", "is on its new node, with all that it is");
    under_way
        .base()
        .unchanged(Doc::VmStatus(vm.id))
        .exists(Doc::Node(said.node))
        .and(Write::PutPlacement(Box::new(there)))
        .and(Write::PutVmStatus(Box::new(said.clone())))
        .and(put(starting))
        .event(told)
}

/// What the word of the node that has the VM means for its migration: changes beside that of the status, where there are
/// any. `before` is what was said last.
pub fn progress(
    under_way: &UnderWay<'_>,
    before: Option<&VmStatus>,
    said: &VmStatus,
    call: &mut Call<'_>,
) -> Option<Changes> {
    let UnderWay { vm, placement, migration } = *under_way;
    if placement.leaving().is_none() {
        // A machine restored from memory stands still for a moment before it runs.
        let stands = said.phase == VmPhase::Paused && vm.power.target != PowerTarget::Paused;
        return (is_rest(said.phase) && !stands).then(|| arrived(under_way, said, call));
    }
    if said.migration != Some(migration.id) || vm.deleted_at.is_some() {
        return None;
    }
    // Under way to being released there is always a deadline: what rests short of it cannot let go.
    if said.phase != VmPhase::Released
        && let Some(reason) = said.reason.as_ref().filter(|reason| reason.deadline.is_none())
    {
        return Some(under_way.undone(MigrationPhase::Failed, reason.clone(), call));
    }
    let mut after = migration.clone();
    let ran = before.is_some_and(|before| before.generation == said.generation && before.running.is_some());
    if after.halted_at.is_none() && (said.phase == VmPhase::Suspending || said.phase == VmPhase::Released && ran) {
        after.halted_at = Some(call.now);
    }
    if said.phase == VmPhase::Released && after.phase == MigrationPhase::Releasing {
        after.phase = MigrationPhase::Copying;
    }
    (after != *migration).then(|| under_way.base().and(put(after)))
}

/// The VM is where its power shall be, or has failed there as any VM may.
fn arrived(under_way: &UnderWay<'_>, said: &VmStatus, call: &Call<'_>) -> Changes {
    let UnderWay { placement, migration, .. } = *under_way;
    let halted = migration.halted_at.filter(|_| matches!(said.phase, VmPhase::Running | VmPhase::Paused));
    let downtime = halted.map(|at| call.now.duration_since(at).as_millis());
    let done = Migration {
        phase: MigrationPhase::Done,
        reason: said.reason.clone().filter(|_| said.phase == VmPhase::Failed),
        ended_at: Some(call.now),
        downtime_ms: downtime.map(|ms| u64::try_from(ms).unwrap_or(0)),
        ..migration.clone()
    };
    let settled = Placement { moving: None, ..placement.clone() };
    under_way.base().and(Write::PutPlacement(Box::new(settled))).and(put(done))
}

fn put(migration: Migration) -> Write {
    Write::PutMigration(Box::new(migration))
}

/// How a migration ends whose VM goes away meanwhile.
pub fn bereft(migration: &Migration, now: Timestamp) -> Write {
    let reason = Reason::new(ReasonCode::Deleting, "its VM was deleted", now);
    let ended =
        Migration { phase: MigrationPhase::Failed, reason: Some(reason), ended_at: Some(now), ..migration.clone() };
    put(ended)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "migration_tests.rs"]
mod tests;
