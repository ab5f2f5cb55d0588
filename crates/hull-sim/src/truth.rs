//! What the store says, read apart from the server's own reading of it, and what must hold at every revision.
//!
//! | promise | checked |
//! |---|---|
//! | nothing half-made | a VM's ports, placement and status exist only with it; claims are exactly what documents hold |
//! | quota is exact | each project's usage is the sum over its VMs, ports, images and keypairs |
//! | one writer, newest generation | a status is written for the placement in force, by its node |
//! | history is complete | what comes, goes or changes does so with its event, in the same transaction |

use std::collections::{BTreeMap, BTreeSet};

use hull_core::{
    quota,
    vm::report::{is_rest, is_worth_telling},
};
use hull_store::{Batch, Change};
use hull_types::{
    event::Event,
    id::ProjectId,
    image::Image,
    keypair::Keypair,
    port::Port,
    project::Usage,
    vm::{Placement, Vm, VmStatus},
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// The documents promises are about.
#[derive(Default)]
pub struct Truth {
    /// VMs.
    pub vms: BTreeMap<Uuid, (Vm, u64)>,
    /// Placements, by VM.
    pub placements: BTreeMap<Uuid, Placement>,
    /// Statuses, by VM.
    pub statuses: BTreeMap<Uuid, VmStatus>,
    /// Ports.
    pub ports: BTreeMap<Uuid, Port>,
    /// Images.
    pub images: BTreeMap<Uuid, Image>,
    /// Keypairs.
    pub keypairs: BTreeMap<Uuid, Keypair>,
    /// Usage, by project.
    pub usages: BTreeMap<Uuid, Usage>,
    /// Claims, by key.
    pub claims: BTreeMap<String, Uuid>,
    /// History of VMs, in order.
    pub history: BTreeMap<Uuid, Vec<Event>>,
    /// What was broken.
    pub broken: Vec<String>,
}

/// What one transaction did, as far as history must tell of it.
#[derive(Default)]
struct Told {
    events: Vec<Event>,
    born: Vec<Uuid>,
    gone: Vec<Uuid>,
    changed: Vec<(Vm, Vm)>,
    rested: Vec<Uuid>,
}

impl Truth {
    /// Takes over a transaction and checks what it left.
    pub fn take(&mut self, batch: &Batch) {
        let revision = batch.revision.0;
        let mut told = Told::default();
        for change in &batch.changes {
            self.apply(change, revision, &mut told);
        }
        let mut broken = self.history_broken(&told);
        // Most transactions are reports and heartbeats, which these promises do not depend on.
        if batch.changes.iter().any(|change| is_structural(change.key())) {
            broken.extend(self.sums_broken());
            broken.extend(self.claims_broken());
            broken.extend(self.orphans());
        }
        for event in told.events {
            self.history.entry(event.resource.id).or_default().push(event);
        }
        self.broken.extend(broken.into_iter().map(|what| format!("at revision {revision}: {what}")));
    }

    fn apply(&mut self, change: &Change, revision: u64, told: &mut Told) {
        let (key, value) = match change {
            Change::Put(entry) => (&entry.key, Some(&entry.value[..])),
            Change::Delete(key) => (key, None),
        };
        let Some((kind, rest)) = key.split_once('/') else { return };
        if matches!(kind, "name" | "address" | "mac" | "hostname") {
            match value.and_then(|value| serde_json::from_slice(value).ok()) {
                Some(holder) => _ = self.claims.insert(key.to_string(), holder),
                None => _ = self.claims.remove(&**key),
            }
            return;
        }
        let Ok(id) = Uuid::parse_str(rest) else { return };
        match kind {
            "vm" => self.apply_vm(id, value, revision, told),
            "vm-status" => self.apply_status(id, value, told),
            "placement" => self.apply_placement(id, value),
            "port" => set(&mut self.ports, id, value),
            "image" => set(&mut self.images, id, value),
            "keypair" => set(&mut self.keypairs, id, value),
            "usage" => set(&mut self.usages, id, value),
            "event" => told.events.extend(value.and_then(|value| serde_json::from_slice(value).ok())),
            _ => {}
        }
    }

    fn apply_vm(&mut self, id: Uuid, value: Option<&[u8]>, revision: u64, told: &mut Told) {
        let before = self.vms.remove(&id);
        let after = value.and_then(|value| serde_json::from_slice::<Vm>(value).ok());
        match (before, &after) {
            (None, Some(_)) => told.born.push(id),
            (Some(_), None) => told.gone.push(id),
            (Some((before, _)), Some(after)) => told.changed.push((before, after.clone())),
            (None, None) => {}
        }
        if let Some(after) = after {
            self.vms.insert(id, (after, revision));
        }
    }

    fn apply_status(&mut self, id: Uuid, value: Option<&[u8]>, told: &mut Told) {
        let before = self.statuses.get(&id).map(|status| (status.generation, status.phase));
        set(&mut self.statuses, id, value);
        let Some(status) = self.statuses.get(&id) else { return };
        let placement = self.placements.get(&id);
        if !placement.is_some_and(|p| p.generation == status.generation && p.node == Some(status.node)) {
            self.broken.push(format!("a status of {id} was taken from another generation or node"));
        }
        if is_rest(status.phase) && is_worth_telling(status) && before != Some((status.generation, status.phase)) {
            told.rested.push(id);
        }
    }

    fn apply_placement(&mut self, id: Uuid, value: Option<&[u8]>) {
        let before = self.placements.get(&id).cloned();
        set(&mut self.placements, id, value);
        let (Some(before), Some(after)) = (before, self.placements.get(&id)) else { return };
        if after.generation < before.generation || (before.node.is_some() && after.node != before.node) {
            self.broken.push(format!("{id} was placed anew while its disk is on one node: {before:?} {after:?}"));
        }
    }

    fn history_broken(&self, told: &Told) -> Vec<String> {
        let tells = |id: Uuid, actions: &[&str]| {
            told.events.iter().any(|event| event.resource.id == id && actions.contains(&event.action.as_str()))
        };
        let mut broken = Vec::new();
        for &id in &told.born {
            if !tells(id, &["vm.create"]) {
                broken.push(format!("{id} came without history"));
            }
        }
        for &id in &told.gone {
            if !tells(id, &["vm.gone"]) {
                broken.push(format!("{id} went without history"));
            }
            let asked = self.history.get(&id).into_iter().flatten().any(|event| event.action == "vm.delete");
            if !asked && !tells(id, &["vm.delete"]) {
                broken.push(format!("{id} went though nobody asked"));
            }
        }
        for (before, after) in &told.changed {
            if !told.events.iter().any(|event| event.resource.id == after.id.0) {
                broken.push(format!("{} changed without history", after.id));
            }
            if before.power.seq > after.power.seq || before.reboot.seq > after.reboot.seq {
                broken.push(format!("{}'s counters went back", after.id));
            }
        }
        for &id in &told.rested {
            if !tells(id, &["vm.state"]) {
                broken.push(format!("{id} came to rest without history"));
            }
        }
        broken
    }

    /// What a project holds, summed over what exists.
    pub fn sum(&self, project: ProjectId) -> Usage {
        let vms = self.vms.values().filter(|(vm, _)| vm.meta.project == project);
        let sum = vms.fold(Usage::default(), |sum, (vm, _)| quota::add(sum, quota::of_vm(&vm.resources, 0)));
        let count = |n: usize| n as u64;
        Usage {
            ports: count(self.ports.values().filter(|port| port.meta.project == project).count()),
            images: count(self.images.values().filter(|image| image.meta.project == project).count()),
            keypairs: count(self.keypairs.values().filter(|keypair| keypair.meta.project == project).count()),
            ..sum
        }
    }

    fn sums_broken(&self) -> Vec<String> {
        let wrong = self.usages.iter().filter(|(id, usage)| self.sum(ProjectId(**id)) != **usage);
        wrong
            .map(|(id, usage)| {
                format!("project {id} is said to hold {usage:?}, it holds {:?}", self.sum(ProjectId(*id)))
            })
            .collect()
    }

    fn claims_broken(&self) -> Vec<String> {
        let mut wanted = BTreeSet::new();
        for port in self.ports.values() {
            wanted.insert(format!("mac/{}/{}", port.network, port.mac));
            wanted.insert(format!("hostname/{}/{}", port.network, port.hostname));
            wanted.extend(port.addresses.iter().map(|fixed| format!("address/{}/{}", port.network, fixed.address)));
        }
        wanted.extend(self.vms.values().map(|(vm, _)| format!("name/vm/{}/{}", vm.meta.project, vm.meta.name)));
        wanted.extend(self.images.values().map(|i| format!("name/image/{}/{}", i.meta.project, i.meta.name)));
        let counted = |key: &str| {
            key.starts_with("mac/")
                || key.starts_with("hostname/")
                || key.starts_with("address/")
                || key.starts_with("name/vm/")
                || key.starts_with("name/image/")
        };
        let held: BTreeSet<String> = self.claims.keys().filter(|key| counted(key)).cloned().collect();
        let leaked = held.difference(&wanted).map(|key| format!("{key} is claimed by nothing that exists"));
        let missing = wanted.difference(&held).map(|key| format!("{key} is used and not claimed"));
        leaked.chain(missing).collect()
    }

    fn orphans(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for id in self.placements.keys().chain(self.statuses.keys()).filter(|id| !self.vms.contains_key(id)) {
            broken.push(format!("a placement or status of {id} is left, which is gone"));
        }
        for (vm, _) in self.vms.values() {
            if vm.ports.iter().any(|port| !self.ports.contains_key(&port.0)) {
                broken.push(format!("{} lacks a port", vm.id));
            }
        }
        for port in self.ports.values().filter(|port| port.vm.is_none_or(|vm| !self.vms.contains_key(&vm.0))) {
            broken.push(format!("port {} is left without its VM", port.id));
        }
        broken
    }
}

/// Whether a key takes part in sums, claims or belonging.
fn is_structural(key: &str) -> bool {
    let kind = key.split('/').next().unwrap_or_default();
    !matches!(kind, "node-status" | "node-lease" | "event" | "idempotency")
}

fn set<T: DeserializeOwned>(map: &mut BTreeMap<Uuid, T>, id: Uuid, value: Option<&[u8]>) {
    match value.and_then(|value| serde_json::from_slice(value).ok()) {
        Some(document) => _ = map.insert(id, document),
        None => _ = map.remove(&id),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_store::{Entry, Revision};

    use super::*;

    const VM: &str = r#"{"id":"00000000-0000-0000-0000-000000000007","project":"00000000-0000-0000-0000-000000000001",
        "name":"web","created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z","hostname":"web",
        "resources":{"vcpus":1,"memory":1048576,"disk":0},"boot":{},
        "power":{"target":"running","seq":1,"grace_seconds":60,"at":"2026-01-01T00:00:00Z"},
        "reboot":{"seq":0,"kind":"soft"},"disk_generation":1}"#;
    const KEY: &str = "vm/00000000-0000-0000-0000-000000000007";
    const NAME: &str = "name/vm/00000000-0000-0000-0000-000000000001/web";
    const USAGE: &str = "usage/00000000-0000-0000-0000-000000000001";

    fn put(key: &str, value: &str) -> Change {
        let revision = Revision(1);
        let value = value.to_owned().into();
        Change::Put(Entry { key: key.into(), value, created: revision, modified: revision, version: 1, lease: None })
    }

    fn event(action: &str) -> Change {
        let value = format!(
            r#"{{"id":"00000000-0000-0000-0000-000000000009","at":"2026-01-01T00:00:00Z","actor":"server","action":"{action}",
            "resource":{{"kind":"vm","id":"00000000-0000-0000-0000-000000000007","name":"web"}},"message":"m"}}"#
        );
        put("event/00000000-0000-0000-0000-000000000009", &value)
    }

    fn creation() -> Vec<Change> {
        let usage = r#"{"vms":1,"vcpus":1,"memory":1048576,"disk":0,"images":0,"ports":0}"#;
        let holder = r#""00000000-0000-0000-0000-000000000007""#;
        vec![put(KEY, VM), put(NAME, holder), put(USAGE, usage), event("vm.create")]
    }

    fn broken(batches: Vec<Vec<Change>>) -> String {
        let mut truth = Truth::default();
        for (at, changes) in batches.into_iter().enumerate() {
            truth.take(&Batch { revision: Revision(at as u64 + 1), changes });
        }
        truth.broken.join("; ")
    }

    fn without(at: usize) -> Vec<Change> {
        let mut changes = creation();
        changes.remove(at);
        changes
    }

    #[test]
    fn a_whole_creation_breaks_nothing_and_each_missing_part_is_seen() {
        assert_eq!(broken(vec![creation()]), "");
        assert!(broken(vec![without(1)]).contains("used and not claimed"));
        assert!(broken(vec![without(3)]).contains("came without history"));
        let wrong = put(USAGE, r#"{"vms":2,"vcpus":1,"memory":1048576,"disk":0,"images":0,"ports":0}"#);
        assert!(broken(vec![creation(), vec![wrong]]).contains("is said to hold"));
    }

    #[test]
    fn what_is_left_behind_is_seen() {
        let gone = Change::Delete(KEY.into());
        let left = broken(vec![creation(), vec![gone]]);
        for says in ["went without history", "nobody asked", "claimed by nothing", "is said to hold"] {
            assert!(left.contains(says), "{left}");
        }
        let placement = put(
            "placement/00000000-0000-0000-0000-000000000008",
            r#"{"vm":"00000000-0000-0000-0000-000000000008","generation":1,"decided_at":"2026-01-01T00:00:00Z"}"#,
        );
        assert!(broken(vec![vec![placement]]).contains("is left, which is gone"));
    }
}
