//! Why a VM is as it is, for people: one sentence, then placement, node, network and history.

use hull_types::{
    event::Event,
    migration::{Migration, MigrationPhase},
    name::Name,
    port::Port,
    vm::{Placement, Vm, VmState, VmStatus},
    wire::{Explanation, ExplanationSection},
};

use super::state::{NodeSeen, Seen, Standing, standing, word};
use crate::placement::clock;

/// What else is told.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The VM's ports with their networks' names.
    pub ports: &'a [(Port, Name)],
    /// Its present migration, with the name of the node it goes to.
    pub migration: Option<(&'a Migration, &'a Name)>,
    /// Its newest events, newest last.
    pub events: &'a [Event],
    /// What its node says of it, in lines; an error's sentence where it could not be asked.
    pub node_says: &'a [String],
}

/// Builds the explanation.
pub fn explain(seen: &Seen<'_>, around: &Around<'_>) -> Explanation {
    let standing = standing(seen);
    let lines = |title: &str, lines: Vec<String>| ExplanationSection { title: title.to_owned(), lines };
    let sections = [
        lines("wish", wish(seen.vm)),
        lines(
            "placement",
            placed(seen.placement, seen.node, seen).into_iter().chain(around.migration.map(goes)).collect(),
        ),
        lines(
            "node",
            seen.status.map(reported).into_iter().flatten().chain(around.node_says.iter().cloned()).collect(),
        ),
        lines("network", around.ports.iter().map(|(port, network)| networked(port, network)).collect()),
        lines("history", around.events.iter().map(told).collect()),
    ];
    let sections = sections.into_iter().filter(|section| !section.lines.is_empty()).collect();
    Explanation { summary: summary(seen.vm, &standing), sections }
}

fn summary(vm: &Vm, standing: &Standing) -> String {
    let Standing { state, reason, settled } = standing;
    let reason = reason.as_ref().map(|reason| format!(": {}", reason.message)).unwrap_or_default();
    let rests = if *settled { "" } else { " (not yet as asked)" };
    format!("{} is {}{rests}{reason}", vm.meta.name, name_of(*state))
}

fn name_of(state: VmState) -> &'static str {
    match state {
        VmState::Scheduling => "waiting for a node",
        VmState::Preparing => "being prepared",
        VmState::Starting => "starting",
        VmState::Running => "running",
        VmState::Paused => "paused",
        VmState::Stopping => "stopping",
        VmState::Stopped => "stopped",
        VmState::Suspending => "being suspended",
        VmState::Suspended => "suspended",
        VmState::Rebuilding => "being rebuilt",
        VmState::Migrating => "on its way to another node",
        VmState::Failed => "failed",
        VmState::Deleting => "being deleted",
        VmState::Unknown => "in an unknown state",
    }
}

fn wish(vm: &Vm) -> Vec<String> {
    let size = vm.resources;
    let flavor = vm.flavor.as_ref().map(|flavor| format!(" (flavor {})", flavor.name)).unwrap_or_default();
    let mut lines = vec![
        format!("power: {} (asked {})", word(super::state::rest(vm.power.target)), vm.power.at),
        format!("size: {} vCPUs, {} of memory, {} of disk{flavor}", size.vcpus, size.memory, size.disk),
    ];
    lines.extend(vm.boot.image.as_ref().map(|image| format!("image: {} ({})", image.name, image.digest)));
    lines.extend(vm.rescue.as_ref().map(|rescue| format!("rescue: {}", rescue.image.name)));
    lines.extend(vm.locked.then(|| "locked against changes".to_owned()));
    lines.extend(vm.deleted_at.map(|at| format!("deletion asked {at}")));
    lines
}

fn placed(placement: Option<&Placement>, node: Option<NodeSeen<'_>>, seen: &Seen<'_>) -> Vec<String> {
    let Some(placement) = placement else { return vec!["not placed yet".to_owned()] };
    match (node, placement.node, &placement.reason) {
        (Some(node), Some(_), _) => {
            let answers = node.silent_since.map_or_else(
                || "which answers".to_owned(),
                |since| format!("which does not answer since {}", clock(since, seen.now)),
            );
            vec![format!(
                "on node {}, {answers}; generation {}, since {}",
                node.name, placement.generation, placement.decided_at
            )]
        }
        (None, Some(id), _) => vec![format!("on node {id}, which is no longer part of the cloud")],
        (_, None, Some(reason)) => vec![reason.message.clone()],
        (_, None, None) => vec!["not placed yet".to_owned()],
    }
}

fn goes((migration, to): (&Migration, &Name)) -> String {
    let how = match migration.phase {
        MigrationPhase::Preparing => "that node makes ready for it",
        MigrationPhase::Releasing => "its node saves its memory and lets it go",
        MigrationPhase::Copying => "that node fetches it",
        MigrationPhase::Starting => "it is there, and brought to where its power shall be",
        MigrationPhase::Done | MigrationPhase::Failed | MigrationPhase::Cancelled => "which is over",
    };
    let reason = migration.reason.as_ref().map(|reason| format!(" ({})", reason.message)).unwrap_or_default();
    let Migration { id, began_at, .. } = migration;
    format!("on its way to node {to} by migration {id}, since {began_at}: {how}{reason}")
}

fn reported(status: &VmStatus) -> Vec<String> {
    let mut lines = vec![format!("{} (said {})", word(status.phase), status.at)];
    lines.extend(status.vmm.as_ref().map(|vmm| format!("hypervisor: process {} since {}", vmm.pid, vmm.started_at)));
    lines.extend(status.last_exit.as_ref().map(|exit| format!("last end, {}: {}", exit.at, exit.detail)));
    lines.extend((status.restarts > 0).then(|| format!("restarted {} times since it last ran well", status.restarts)));
    lines.extend(status.pending.iter().map(|change| format!("at the next start: {change}")));
    lines
}

fn networked(port: &Port, network: &Name) -> String {
    let addresses: Vec<String> = port.addresses.iter().map(|fixed| fixed.address.to_string()).collect();
    format!("{network}: {} ({}), host name {}", addresses.join(", "), port.mac, port.hostname)
}

fn told(event: &Event) -> String {
    format!("{} {} {}", event.at, event.action, event.message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        testing::{NOW, at, name},
        vm::testing::{placement, status, vm},
    };

    #[test]
    fn the_whole_story_in_reading_order() {
        let (vm, placed, status, n1) = (vm(), placement(), status(hull_types::vm::VmPhase::Running), name("n1"));
        let node = Some(NodeSeen { name: &n1, silent_since: Some(NOW) });
        let seen = Seen { vm: &vm, revision: 10, placement: Some(&placed), status: Some(&status), node, now: at(60) };
        let says = ["tap is up".to_owned()];
        let told = explain(&seen, &Around { ports: &[], migration: None, events: &[], node_says: &says });
        assert_eq!(
            told.summary,
            "web is in an unknown state (not yet as asked): node n1 does not answer since 12:00 UTC; it was running then"
        );
        let titles: Vec<_> = told.sections.iter().map(|section| section.title.as_str()).collect();
        assert_eq!(titles, ["wish", "placement", "node"], "empty sections are left out");
        assert!(told.sections[1].lines[0].starts_with("on node n1, which does not answer since 12:00 UTC"));
        assert_eq!(told.sections[2].lines[1], "tap is up");
    }
}
