//! What must be true once faults have stopped: everything rests as asked or says why, and all can be deleted.

use std::{collections::BTreeSet, time::Duration};

use hull_core::vm::state::rest;
use hull_node::hypervisor::RunState;
use hull_types::{
    project::Usage,
    vm::{VmPhase, VmState},
    wire::{VmAction, VmView},
};

use crate::cloud::{Cloud, ctx};

/// The longest that anything may be on its way once nothing is broken: a guest that does not heed the power button within
/// the longest grace a run gives, a hypervisor taken for hung, the longest pause before a restart, each once.
const COMES_TO_REST_WITHIN: Duration = Duration::from_secs(1800);
/// How long deletions take at most.
const GONE_WITHIN: Duration = Duration::from_secs(600);
/// How long hosts take at most to remove what is no longer theirs.
const TIDY_WITHIN: Duration = Duration::from_secs(120);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

impl Cloud {
    fn views(&self) -> Vec<VmView> {
        let Some(app) = self.app() else { return Vec::new() };
        self.truth.vms.keys().filter_map(|id| app.vm(&ctx(), &id.to_string()).ok()).collect()
    }

    /// Mends everything and waits until all VMs rest; says what does not.
    pub async fn comes_to_rest(&mut self) {
        self.mend_all().await;
        let mut left = COMES_TO_REST_WITHIN;
        loop {
            self.pass(LOOK_EVERY).await;
            let moving: Vec<VmView> = self.views().into_iter().filter(|view| !rests(view)).collect();
            if moving.is_empty() {
                break;
            }
            left = left.saturating_sub(LOOK_EVERY);
            if left.is_zero() {
                let said = moving.iter().map(|view| format!("{} does not come to rest: {view:#?}", view.vm.id));
                self.truth.broken.extend(said);
                return;
            }
        }
        self.hosts_agree();
        self.hosts_hold_their_own().await;
    }

    /// What is said of VMs at rest is so on their hosts.
    fn hosts_agree(&mut self) {
        for view in self.views() {
            let Some(node) = view.placement.as_ref().and_then(|placement| placement.node) else { continue };
            let Some(host) = self.nodes.iter().find(|held| held.id == node) else { continue };
            let machine = host.host.alive().into_iter().find(|machine| machine.vm == view.vm.id);
            let state = machine.as_ref().map(|machine| machine.now());
            let phase = view.status.as_ref().map(|status| status.phase);
            let agrees = match (phase, &state) {
                (Some(VmPhase::Running), Some(RunState::Running)) | (Some(VmPhase::Paused), Some(RunState::Paused)) => {
                    true
                }
                (Some(VmPhase::Stopped | VmPhase::Suspended | VmPhase::Failed), None) => true,
                // A machine its disk has halted, and one that does not answer, say so.
                (_, Some(RunState::IoError | RunState::Hung)) => view.reason.is_some(),
                _ => false,
            };
            let reached = phase == Some(rest(view.vm.power.target)) || view.reason.is_some();
            if view.vm.deleted_at.is_none() && (!agrees || !reached) {
                self.truth.broken.push(format!("{} is said to rest; its machine is {state:?}: {view:#?}", view.vm.id));
            }
            // The NICs of a machine are its VM's ports, or it is said why not.
            let taps: Option<BTreeSet<_>> = machine.map(|machine| machine.nics().iter().map(|nic| nic.port).collect());
            let ports: BTreeSet<_> = view.vm.ports.iter().copied().collect();
            if taps.as_ref().is_some_and(|taps| *taps != ports) && view.vm.deleted_at.is_none() && view.reason.is_none()
            {
                self.truth.broken.push(format!("{} rests with the NICs {taps:?}: {view:#?}", view.vm.id));
            }
        }
    }

    /// Nothing of a VM is on hosts that do not have it, and none is on its way any more.
    async fn hosts_hold_their_own(&mut self) {
        let mut left = TIDY_WITHIN;
        let strays = loop {
            let strays = self.strays();
            if strays.is_empty() || left.is_zero() {
                break strays;
            }
            self.pass(LOOK_EVERY).await;
            left = left.saturating_sub(LOOK_EVERY);
        };
        self.truth.broken.extend(strays);
    }

    fn strays(&self) -> Vec<String> {
        let under_way = self.truth.migrations_under_way();
        let mut broken: Vec<String> = under_way.map(|it| format!("a migration does not end: {it:?}")).collect();
        for node in &self.nodes {
            for (vm, what) in node.host.holds() {
                let on = self.truth.placements.get(&vm.0).and_then(|placement| placement.node);
                if on != Some(node.id) {
                    broken
                        .push(format!("{what:?} of {vm}, which is on {on:?}, are on {} ({})", node.id, node.host.name));
                }
            }
        }
        broken
    }

    /// Deletes every VM and image and looks for what is left of them.
    pub async fn leaves_nothing(&mut self) {
        let Some(app) = self.app().cloned() else { return };
        for id in self.truth.vms.keys().map(ToString::to_string).collect::<Vec<_>>() {
            let unlocked = app.act_on_vm(&ctx(), &id, &VmAction::Unlock).await;
            let asked = app.delete_vm(&ctx(), &id).await;
            if let (Err(error), true) = (asked, app.vm(&ctx(), &id).is_ok()) {
                self.truth.broken.push(format!("{id} cannot be deleted: {error} (unlock: {unlocked:?})"));
            }
        }
        let mut left = GONE_WITHIN;
        while !self.truth.vms.is_empty() && !left.is_zero() {
            self.pass(LOOK_EVERY).await;
            left = left.saturating_sub(LOOK_EVERY);
        }
        let stuck: Vec<String> =
            self.views().iter().map(|view| format!("it stays though deleted: {view:#?}")).collect();
        self.truth.broken.extend(stuck);
        for id in self.truth.images.keys().map(ToString::to_string).collect::<Vec<_>>() {
            if let (Err(error), true) = (app.delete_image(&ctx(), &id).await, app.image(&ctx(), &id).is_ok()) {
                self.truth.broken.push(format!("image {id} cannot be deleted: {error}"));
            }
        }
        self.networks_go().await;
        self.pass(Duration::from_secs(120)).await;
        self.nothing_is_left();
    }

    fn nothing_is_left(&mut self) {
        let mut broken = Vec::new();
        for node in &self.nodes {
            for (kind, left) in node.host.leftovers().into_iter().filter(|(_, left)| !left.is_empty()) {
                broken.push(format!("{kind} are left on {}: {left:?}", node.host.name));
            }
        }
        // What a project is born with, and the network of the first start, stay.
        let rest = |usage: &Usage| Usage { networks: 0, subnets: 0, security_groups: 0, ..*usage };
        for (project, usage) in self.truth.usages.iter().filter(|(_, usage)| rest(usage) != Usage::default()) {
            broken.push(format!("project {project} is still said to hold {usage:?}"));
        }
        let kinds = [
            "address/",
            "mac/",
            "hostname/",
            "vni/",
            "name/vm/",
            "name/image/",
            "name/port/",
            "name/router/",
            "name/floating-ip/",
        ];
        let claims: Vec<_> =
            self.truth.claims.keys().filter(|key| kinds.iter().any(|kind| key.starts_with(kind))).collect();
        if !claims.is_empty() {
            broken.push(format!("claims are left: {claims:?}"));
        }
        for (id, events) in &self.truth.history {
            let count = |action: &str| events.iter().filter(|event| event.action == action).count();
            if count("vm.create") != count("vm.gone") || count("image.create") != count("image.gone") {
                broken.push(format!("the history of {id} does not end: {events:#?}"));
            }
        }
        self.truth.broken.extend(broken);
    }
}

/// Whether a VM stays as it is until someone acts.
fn rests(view: &VmView) -> bool {
    let kept = view.reason.as_ref().is_some_and(|reason| reason.deadline.is_none() && !reason.message.is_empty());
    // Every node is up by now, so that one which does not answer yet is on its way.
    let going = view.vm.deleted_at.is_some() || view.state == VmState::Unknown;
    !going && (view.settled || kept)
}
