//! What the store says, read apart from the server's own reading of it, and what must hold at every revision.
//!
//! | promise | checked |
//! |---|---|
//! | nothing half-made | a VM's ports, placement and status exist only with it; claims are exactly what documents hold |
//! | nothing dangles | what a document refers to is there: networks, subnets, groups, routers, ports, VMs |
//! | quota is exact | each project's usage is, kind by kind, the sum over what it holds |
//! | one writer, newest generation | a status is written for the placement in force, by its node |
//! | one node has a VM | a placement changes its node by its migration only (`migrations`) |
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
    meta::Meta,
    migration::Migration,
    network::{Network, Subnet},
    port::Port,
    project::Usage,
    router::{FloatingIp, Router},
    security_group::{Remote, SecurityGroup},
    vm::{Placement, Vm, VmStatus},
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::migrations::Before;

/// The kinds whose names are followed.
const NAMED: [&str; 8] = ["vm", "image", "network", "subnet", "port", "router", "floating-ip", "security-group"];

/// The documents promises are about.
#[derive(Default)]
pub struct Truth {
    /// VMs.
    pub vms: BTreeMap<Uuid, (Vm, u64)>,
    /// Placements, by VM.
    pub placements: BTreeMap<Uuid, Placement>,
    /// Statuses, by VM.
    pub statuses: BTreeMap<Uuid, VmStatus>,
    /// Migrations.
    pub migrations: BTreeMap<Uuid, Migration>,
    /// Ports.
    pub ports: BTreeMap<Uuid, Port>,
    /// Networks.
    pub networks: BTreeMap<Uuid, Network>,
    /// Subnets.
    pub subnets: BTreeMap<Uuid, Subnet>,
    /// Routers.
    pub routers: BTreeMap<Uuid, Router>,
    /// Floating IPs.
    pub floating_ips: BTreeMap<Uuid, FloatingIp>,
    /// Security groups.
    pub groups: BTreeMap<Uuid, SecurityGroup>,
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
    before: Before,
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
        broken.extend(self.migrations_broken(&told.before));
        // Most transactions are reports and heartbeats, which these promises do not depend on.
        if batch.changes.iter().any(|change| is_structural(change.key())) {
            broken.extend(self.sums_broken());
            broken.extend(self.claims_broken());
            broken.extend(self.orphans());
            broken.extend(self.dangling());
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
        if matches!(kind, "name" | "address" | "mac" | "hostname" | "vni" | "router-number") {
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
            "placement" => {
                told.before.placements.insert(id, self.placements.get(&id).cloned());
                set(&mut self.placements, id, value);
            }
            "migration" => {
                told.before.migrations.insert(id, self.migrations.get(&id).cloned());
                set(&mut self.migrations, id, value);
            }
            "port" => set(&mut self.ports, id, value),
            "network" => set(&mut self.networks, id, value),
            "subnet" => set(&mut self.subnets, id, value),
            "router" => set(&mut self.routers, id, value),
            "floating-ip" => set(&mut self.floating_ips, id, value),
            "security-group" => set(&mut self.groups, id, value),
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
        told.before.statuses.insert(id, self.statuses.get(&id).cloned());
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
        let networks = self.networks.values().filter(|network| network.meta.project == project);
        let groups = self.groups.values().filter(|group| group.meta.project == project);
        let held = vms.map(|(vm, _)| quota::of_vm(&vm.resources, 0));
        let held = held.chain(networks.map(quota::of_network)).chain(groups.map(quota::of_group));
        let sum = held.fold(Usage::default(), quota::add);
        let count = |n: usize| n as u64;
        Usage {
            // A router's own ends are the server's, and count for no quota.
            ports: count(
                self.ports
                    .values()
                    .filter(|port| port.meta.project == project && port.router_gateway.is_none())
                    .count(),
            ),
            routers: count(self.routers.values().filter(|router| router.meta.project == project).count()),
            floating_ips: count(self.floating_ips.values().filter(|ip| ip.meta.project == project).count()),
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
            if port.router_gateway.is_none() {
                wanted.insert(format!("hostname/{}/{}", port.network, port.hostname));
            }
            wanted.extend(port.addresses.iter().map(|fixed| format!("address/{}/{}", port.network, fixed.address)));
        }
        wanted.extend(self.floating_ips.values().map(|f| format!("address/{}/{}", f.network, f.address)));
        wanted.extend(self.networks.values().filter_map(|n| Some(format!("vni/{}", n.vni?))));
        wanted.extend(self.routers.values().map(|router| format!("router-number/{}", router.id.number())));
        let named = |kind: &str, meta: &Meta| format!("name/{kind}/{}/{}", meta.project, meta.name);
        let made = self.ports.values().filter(|port| !port.goes_with_vm && port.router_gateway.is_none());
        wanted.extend(made.map(|port| named("port", &port.meta)));
        wanted.extend(self.vms.values().map(|(vm, _)| named("vm", &vm.meta)));
        wanted.extend(self.images.values().map(|image| named("image", &image.meta)));
        wanted.extend(self.networks.values().map(|network| named("network", &network.meta)));
        wanted.extend(self.subnets.values().map(|subnet| named("subnet", &subnet.meta)));
        wanted.extend(self.routers.values().map(|router| named("router", &router.meta)));
        wanted.extend(self.floating_ips.values().map(|floating| named("floating-ip", &floating.meta)));
        wanted.extend(self.groups.values().map(|group| named("security-group", &group.meta)));
        let counted = |key: &str| match key.split('/').collect::<Vec<_>>()[..] {
            ["mac" | "address" | "hostname" | "vni" | "router-number", ..] => true,
            ["name", kind, ..] => NAMED.contains(&kind),
            _ => false,
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
        for port in self.ports.values() {
            let stray = match port.vm {
                Some(vm) => self.vms.get(&vm.0).is_none_or(|(vm, _)| !vm.ports.contains(&port.id)),
                None => port.goes_with_vm,
            };
            if stray {
                broken.push(format!("port {} is left without its VM", port.id));
            }
        }
        broken
    }

    /// References to what is not there.
    fn dangling(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut check = |there: bool, what: String| {
            if !there {
                broken.push(format!("{what}, which is gone"));
            }
        };
        for port in self.ports.values() {
            let id = port.id;
            check(self.networks.contains_key(&port.network.0), format!("port {id} is on network {}", port.network));
            for fixed in &port.addresses {
                check(self.subnets.contains_key(&fixed.subnet.0), format!("port {id} is from subnet {}", fixed.subnet));
            }
            for group in &port.security_groups {
                check(self.groups.contains_key(&group.0), format!("port {id} is in group {group}"));
            }
            if let Some(on) = port.router_gateway {
                check(self.routers.contains_key(&on.router.0), format!("port {id} is router {}'s", on.router));
            }
        }
        for network in self.networks.values() {
            for subnet in &network.subnets {
                check(self.subnets.contains_key(&subnet.0), format!("network {} lists {subnet}", network.id));
            }
        }
        for subnet in self.subnets.values() {
            let lists =
                self.networks.get(&subnet.network.0).is_some_and(|network| network.subnets.contains(&subnet.id));
            check(lists, format!("subnet {} is not of its network {}", subnet.id, subnet.network));
            if let Some(on) = subnet.router {
                let joins = self.routers.get(&on.0).is_some_and(|router| router.subnets.contains(&subnet.id));
                check(joins, format!("subnet {} is on router {on}", subnet.id));
            }
        }
        for router in self.routers.values() {
            for subnet in &router.subnets {
                let on = self.subnets.get(&subnet.0).is_some_and(|subnet| subnet.router == Some(router.id));
                check(on, format!("router {} joins subnet {subnet}", router.id));
            }
            if let Some(out) = router.gateway {
                let leads = self.networks.get(&out.network.0).is_some_and(|network| network.external);
                check(leads, format!("router {} leads out by {}", router.id, out.network));
            }
        }
        for floating in self.floating_ips.values() {
            let id = floating.id;
            check(
                self.subnets.contains_key(&floating.subnet.0),
                format!("floating IP {id} is from {}", floating.subnet),
            );
            if let Some(target) = floating.target {
                let port = self.ports.get(&target.port.0);
                let fixed = port.and_then(|port| port.addresses.iter().find(|fixed| fixed.address == target.fixed));
                check(fixed.is_some(), format!("floating IP {id} leads to {} of port {}", target.fixed, target.port));
                let subnet = fixed.and_then(|fixed| self.subnets.get(&fixed.subnet.0));
                let router = subnet.and_then(|subnet| self.routers.get(&subnet.router?.0));
                let out = router.filter(|router| router.id == target.router).and_then(|router| router.gateway);
                let leads = out.is_some_and(|out| out.network == floating.network);
                check(leads, format!("floating IP {id} leads through router {}", target.router));
            }
        }
        for group in self.groups.values() {
            for rule in &group.rules {
                if let Remote::Group(other) = rule.remote {
                    check(self.groups.contains_key(&other.0), format!("a rule of group {} names {other}", group.id));
                }
            }
        }
        broken
    }
}

/// Whether a key takes part in sums, claims or belonging.
fn is_structural(key: &str) -> bool {
    let kind = key.split('/').next().unwrap_or_default();
    !matches!(kind, "node-status" | "node-lease" | "event" | "idempotency" | "audit" | "audit-at")
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
