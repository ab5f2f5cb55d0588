//! What a node says of a VM: a fact with a generation, taken or dropped.

use hull_types::{
    event::Event,
    vm::{Exit, Placement, Vm, VmPhase, VmStatus},
};

use super::{
    delete::{self, Deleting},
    state,
};
use crate::{
    call::Call,
    change::{Changes, Doc, Write},
    event,
    migration::{self, Arrival, UnderWay},
};

/// What becomes of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is written (or, where it says that a deleted VM is gone, the VM is purged).
    Take(Changes),
    /// It says nothing new.
    Same,
    /// It is dropped, and why: the VM is gone, or it speaks for an older generation. The node is to be told again what
    /// it shall hold.
    Drop(&'static str),
}

/// Judges a report. `known` is the VM with its ports and usage, none where there is no such VM; `before` the last report taken.
pub fn report(
    known: Option<&Deleting<'_>>,
    before: Option<&VmStatus>,
    said: &VmStatus,
    call: &mut Call<'_>,
) -> Verdict {
    let Some(plan) = known else { return Verdict::Drop("there is no such VM") };
    let Some(placement) = plan.placement else { return Verdict::Drop("it was never placed") };
    let under_way = plan.migration.map(|migration| UnderWay { vm: plan.vm, placement, migration });
    if let Some(under_way) = under_way.filter(|_| migration::is_arrival(placement, said)) {
        return match migration::arrival(&under_way, before, said, call) {
            Arrival::Take(changes) => Verdict::Take(changes),
            Arrival::Same => Verdict::Same,
            Arrival::Drop(why) => Verdict::Drop(why),
        };
    }
    if !speaks_for(placement, said) {
        return Verdict::Drop("it speaks for another generation");
    }
    if said.phase == VmPhase::Gone && plan.vm.deleted_at.is_some() {
        return Verdict::Take(delete::purge(plan, "its node has nothing of it left", call));
    }
    if before.is_some_and(|before| same(before, said)) {
        return Verdict::Same;
    }
    let mut changes = Changes::none()
        .exists(Doc::Vm(plan.vm.id))
        .unchanged(Doc::Placement(plan.vm.id))
        .unchanged(Doc::VmStatus(plan.vm.id))
        .and(Write::PutVmStatus(Box::new(said.clone())));
    for event in history(plan.vm, before.filter(|before| before.generation == said.generation), said, call) {
        changes = changes.event(event);
    }
    if let Some(progress) = under_way.and_then(|under_way| migration::progress(&under_way, before, said, call)) {
        changes = changes.with(progress);
    }
    Verdict::Take(changes)
}

fn speaks_for(placement: &Placement, said: &VmStatus) -> bool {
    placement.node == Some(said.node) && placement.generation == said.generation
}

fn same(before: &VmStatus, said: &VmStatus) -> bool {
    VmStatus { at: before.at, ..said.clone() } == *before
}

/// Each rest that power comes to is told once, and each end of a hypervisor; failures that repeat themselves less and less.
fn history(vm: &Vm, before: Option<&VmStatus>, said: &VmStatus, call: &mut Call<'_>) -> Vec<Event> {
    let mut events = Vec::new();
    let ended = said.last_exit.as_ref().filter(|exit| before.and_then(|b| b.last_exit.as_ref()) != Some(exit));
    if let Some(Exit { detail, .. }) = ended {
        events.push(event::vm(call, vm, "vm.exit", detail.clone()));
    }
    if before.map(|before| before.phase) != Some(said.phase) && is_rest(said.phase) && is_worth_telling(said) {
        let why = said.reason.as_ref().map(|reason| format!(": {}", reason.message)).unwrap_or_default();
        events.push(event::vm(call, vm, "vm.state", format!("{}{why}", state::word(said.phase))));
    }
    events
}

/// Whether a rest is news. A step that fails again and again for the same reason is told of the first time, the second, the
/// fourth, the eighth, …, and at the end, when it is given up: a history full of one sentence tells nothing more.
pub fn is_worth_telling(said: &VmStatus) -> bool {
    let gave_up = said.reason.as_ref().is_none_or(|reason| reason.deadline.is_none());
    said.phase != VmPhase::Failed || said.failures == 0 || said.failures.is_power_of_two() || gave_up
}

/// Whether power rests in this phase; each such transition is in history.
pub fn is_rest(phase: VmPhase) -> bool {
    match phase {
        VmPhase::Running | VmPhase::Paused | VmPhase::Stopped | VmPhase::Suspended | VmPhase::Failed => true,
        VmPhase::Preparing
        | VmPhase::Starting
        | VmPhase::Stopping
        | VmPhase::Suspending
        | VmPhase::Rebuilding
        | VmPhase::Released
        | VmPhase::Expected
        | VmPhase::Arriving
        | VmPhase::Arrived
        | VmPhase::Deleting
        | VmPhase::Gone => false,
    }
}
