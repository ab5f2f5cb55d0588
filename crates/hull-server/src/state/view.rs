//! All that the store holds, as typed values with the indexes that reads need. Plain data: it changes only by
//! [`State::apply`], one committed transaction after another.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use hull_core::{ipam::NetworkUse, placement::Room};
use hull_store::{Change, StoreError};
use hull_types::{
    digest::Digest,
    event::Event,
    flavor::{Flavor, Resources},
    id::{ImageId, NetworkId, NodeId, PortId, ProjectId, RouterId, SecurityGroupId, VmId},
    image::Image,
    keypair::Keypair,
    migration::Migration,
    network::{Network, Subnet},
    node::{Node, NodeStatus},
    port::Port,
    project::{Project, Usage},
    router::{FloatingIp, Router},
    security_group::{Remote, SecurityGroup},
    token::{JoinToken, Token},
    vm::{Placement, Vm, VmStatus},
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{
    keys::Kind,
    people::People,
    table::{Doc, Noun, Table},
};
use crate::app::image::Promise;

/// What is placed on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// VMs.
    pub vms: u64,
    /// Their sizes, summed, and of those that are on their way to it.
    pub room: Room,
}

/// One document that changed, as watchers of a noun follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The transaction.
    pub revision: u64,
    /// What kind of document.
    pub kind: Kind,
    /// Whose.
    pub id: Uuid,
    /// The owner's project, where it has one.
    pub project: Option<ProjectId>,
    /// Whether it went away.
    pub deleted: bool,
}

/// All documents.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "the fields are the nouns")]
pub struct State {
    pub projects: Table<Project>,
    pub flavors: Table<Flavor>,
    pub keypairs: Table<Keypair>,
    pub images: Table<Image>,
    pub networks: Table<Network>,
    pub subnets: Table<Subnet>,
    pub routers: Table<Router>,
    pub floating_ips: Table<FloatingIp>,
    pub groups: Table<SecurityGroup>,
    pub ports: Table<Port>,
    pub vms: Table<Vm>,
    pub migrations: Table<Migration>,
    pub nodes: Table<Node>,
    pub events: Table<Event>,
    pub tokens: Table<Token>,
    pub joins: Table<JoinToken>,
    pub people: People,
    placements: HashMap<Uuid, Doc<Placement>>,
    statuses: HashMap<Uuid, Doc<VmStatus>>,
    node_statuses: HashMap<Uuid, Doc<NodeStatus>>,
    alive: BTreeSet<Uuid>,
    usages: HashMap<Uuid, Doc<Usage>>,
    promises: HashMap<Uuid, Doc<Promise>>,
    loads: HashMap<Uuid, Load>,
    by_node: BTreeMap<Uuid, BTreeSet<Uuid>>,
    coming: BTreeMap<Uuid, BTreeSet<Uuid>>,
    unplaced: BTreeSet<Uuid>,
    deleted: BTreeSet<Uuid>,
    by_network: BTreeMap<Uuid, BTreeSet<Uuid>>,
    network_uses: HashMap<Uuid, NetworkUse>,
    by_group: BTreeMap<Uuid, BTreeSet<Uuid>>,
    naming_group: BTreeMap<Uuid, BTreeSet<Uuid>>,
    floating_to: BTreeMap<Uuid, BTreeSet<Uuid>>,
    routers_out: BTreeMap<Uuid, BTreeSet<Uuid>>,
    gateway_ports: BTreeMap<Uuid, BTreeSet<Uuid>>,
    by_image: HashMap<Digest, u64>,
    secrets: HashMap<Digest, Uuid>,
}

impl State {
    /// Where a VM shall be.
    pub fn placement(&self, vm: VmId) -> Option<&Doc<Placement>> {
        self.placements.get(&vm.0)
    }

    /// What its node says of a VM.
    pub fn status(&self, vm: VmId) -> Option<&Doc<VmStatus>> {
        self.statuses.get(&vm.0)
    }

    /// What a node says of itself.
    pub fn node_status(&self, node: NodeId) -> Option<&Doc<NodeStatus>> {
        self.node_statuses.get(&node.0)
    }

    /// Whether a node answers: its lease lives.
    pub fn answers(&self, node: NodeId) -> bool {
        self.alive.contains(&node.0)
    }

    /// What a project holds.
    pub fn usage(&self, project: ProjectId) -> Option<&Doc<Usage>> {
        self.usages.get(&project.0)
    }

    /// What was said of an image's bytes before they came.
    pub fn promise(&self, image: ImageId) -> Option<&Promise> {
        self.promises.get(&image.0).map(|promise| &*promise.value)
    }

    /// What is placed on a node.
    pub fn load(&self, node: NodeId) -> Load {
        self.loads.get(&node.0).copied().unwrap_or_default()
    }

    /// The VMs placed on a node.
    pub fn vms_on(&self, node: NodeId) -> impl Iterator<Item = VmId> + '_ {
        self.by_node.get(&node.0).into_iter().flatten().map(|&id| VmId(id))
    }

    /// The VMs on their way to a node.
    pub fn vms_coming(&self, node: NodeId) -> impl Iterator<Item = VmId> + '_ {
        self.coming.get(&node.0).into_iter().flatten().map(|&id| VmId(id))
    }

    /// The VMs on their way to another node.
    pub fn leaving(&self) -> impl Iterator<Item = VmId> + '_ {
        self.coming.values().flatten().map(|&id| VmId(id))
    }

    /// A VM's present migration.
    pub fn migration_of(&self, vm: VmId) -> Option<&Doc<Migration>> {
        self.migrations.get(self.placement(vm)?.moving?.migration)
    }

    /// The VMs without a node.
    pub fn unplaced(&self) -> impl Iterator<Item = VmId> + '_ {
        self.unplaced.iter().map(|&id| VmId(id))
    }

    /// The VMs whose deletion was asked for.
    pub fn deleted(&self) -> impl Iterator<Item = VmId> + '_ {
        self.deleted.iter().map(|&id| VmId(id))
    }

    /// The image bytes VMs need.
    pub fn contents_used(&self) -> impl Iterator<Item = Digest> + '_ {
        self.by_image.keys().copied()
    }

    /// The ports of a network.
    pub fn ports_of(&self, network: NetworkId) -> impl Iterator<Item = &Doc<Port>> + '_ {
        self.by_network.get(&network.0).into_iter().flatten().filter_map(|&id| self.ports.get(id))
    }

    /// A network's subnets, oldest first.
    pub fn subnets_of<'a>(&'a self, network: &'a Network) -> impl Iterator<Item = &'a Doc<Subnet>> + 'a {
        network.subnets.iter().filter_map(|&id| self.subnets.get(id))
    }

    /// The addresses and MACs ports of a network hold.
    pub fn network_use(&self, network: NetworkId) -> Option<&NetworkUse> {
        self.network_uses.get(&network.0)
    }

    /// The ports in a security group.
    pub fn ports_in(&self, group: SecurityGroupId) -> impl Iterator<Item = &Doc<Port>> + '_ {
        self.by_group.get(&group.0).into_iter().flatten().filter_map(|&id| self.ports.get(id))
    }

    /// The groups with a rule that names this group as its remote side.
    pub fn groups_naming(&self, group: SecurityGroupId) -> impl Iterator<Item = SecurityGroupId> + '_ {
        self.naming_group.get(&group.0).into_iter().flatten().map(|&id| SecurityGroupId(id))
    }

    /// The floating IPs that lead to a port.
    pub fn floating_ips_of(&self, port: PortId) -> impl Iterator<Item = &Doc<FloatingIp>> + '_ {
        self.floating_to.get(&port.0).into_iter().flatten().filter_map(|&id| self.floating_ips.get(id))
    }

    /// The routers with their gateway on a network.
    pub fn routers_out_by(&self, network: NetworkId) -> impl Iterator<Item = RouterId> + '_ {
        self.routers_out.get(&network.0).into_iter().flatten().map(|&id| RouterId(id))
    }

    /// A router's own ports on its external network, one for each node that needs one.
    pub fn gateway_ports_of(&self, router: RouterId) -> impl Iterator<Item = &Doc<Port>> + '_ {
        self.gateway_ports.get(&router.0).into_iter().flatten().filter_map(|&id| self.ports.get(id))
    }

    /// How many VMs use these bytes as root disk, kernel, initrd or rescue system.
    pub fn users_of(&self, content: &Digest) -> u64 {
        self.by_image.get(content).copied().unwrap_or_default()
    }

    /// The token whose secret has this digest.
    pub fn token_by_secret(&self, digest: &Digest) -> Option<&Doc<Token>> {
        self.tokens.get(*self.secrets.get(digest)?)
    }

    /// Takes over one change. Keys that are no documents are skipped.
    ///
    /// # Errors
    /// Where a value is not the document its key promises; the state is as before.
    pub fn apply(&mut self, change: &Change, revision: u64) -> Result<Vec<Changed>, StoreError> {
        let Some((kind, id)) = Kind::parse(change.key()) else { return Ok(Vec::new()) };
        let deleted = matches!(change, Change::Delete(_));
        let mut project = None;
        match kind {
            Kind::Project => project = table(&mut self.projects, change, id)?.or(Some(ProjectId(id))),
            Kind::Flavor => project = table(&mut self.flavors, change, id)?,
            Kind::Keypair => project = table(&mut self.keypairs, change, id)?,
            Kind::Image => project = table(&mut self.images, change, id)?,
            Kind::Network => project = table(&mut self.networks, change, id)?,
            Kind::Subnet => project = table(&mut self.subnets, change, id)?,
            Kind::Router => project = self.apply_router(change, id)?,
            Kind::FloatingIp => project = self.apply_floating_ip(change, id)?,
            Kind::SecurityGroup => project = self.apply_group(change, id)?,
            Kind::Migration => project = table(&mut self.migrations, change, id)?,
            Kind::Node => project = table(&mut self.nodes, change, id)?,
            Kind::Event => project = table(&mut self.events, change, id)?,
            Kind::Join => project = table(&mut self.joins, change, id)?,
            Kind::User
            | Kind::UserPassword
            | Kind::UserGroup
            | Kind::RoleAssignment
            | Kind::AppCredential
            | Kind::SigningKey
            | Kind::EndedSession => self.people.apply(kind, change, id)?,
            Kind::Token => self.apply_token(change, id)?,
            Kind::Port => project = self.apply_port(change, id)?,
            Kind::Vm => project = self.apply_vm(change, id)?,
            Kind::Placement => self.placing(id, |state| side(&mut state.placements, change, id))?,
            Kind::VmStatus => side(&mut self.statuses, change, id)?,
            Kind::NodeStatus => side(&mut self.node_statuses, change, id)?,
            Kind::Promise => side(&mut self.promises, change, id)?,
            Kind::Usage => side(&mut self.usages, change, id)?,
            Kind::NodeLease => {
                if deleted {
                    self.alive.remove(&id);
                } else {
                    self.alive.insert(id);
                }
            }
        }
        if matches!(kind, Kind::Placement | Kind::VmStatus) {
            project = self.vms.get(id).map(|vm| vm.meta.project);
        }
        let mut changed = vec![Changed { revision, kind, id, project, deleted }];
        if kind == Kind::NodeLease {
            // Whether a node answers is part of what is known of each of its VMs.
            changed.extend(self.vms_on(NodeId(id)).map(|vm| Changed {
                revision,
                kind: Kind::VmStatus,
                id: vm.0,
                project: self.vms.get(vm).map(|vm| vm.meta.project),
                deleted: false,
            }));
        }
        Ok(changed)
    }

    fn apply_token(&mut self, change: &Change, id: Uuid) -> Result<(), StoreError> {
        let old = self.tokens.get(id).map(|token| token.secret_digest);
        table(&mut self.tokens, change, id)?;
        if let Some(old) = old {
            self.secrets.remove(&old);
        }
        if let Some(token) = self.tokens.get(id) {
            self.secrets.insert(token.secret_digest, id);
        }
        Ok(())
    }

    fn apply_port(&mut self, change: &Change, id: Uuid) -> Result<Option<ProjectId>, StoreError> {
        let old = self.ports.get(id).cloned();
        let project = table(&mut self.ports, change, id)?;
        if let Some(old) = old {
            let network = old.network.0;
            remove(&mut self.by_network, network, &id);
            old.security_groups.iter().for_each(|group| remove(&mut self.by_group, group.0, &id));
            if let Some(gateway) = old.router_gateway {
                remove(&mut self.gateway_ports, gateway.router.0, &id);
            }
            if let Some(held) = self.network_uses.get_mut(&network) {
                old.addresses.iter().for_each(|fixed| _ = held.addresses.remove(&fixed.address));
                held.macs.remove(&old.mac);
                if let Some(ports) = held.hostnames.get_mut(&old.hostname) {
                    *ports -= 1;
                    if *ports == 0 {
                        held.hostnames.remove(&old.hostname);
                    }
                }
            }
        }
        if let Some(new) = self.ports.get(id) {
            let network = new.network.0;
            self.by_network.entry(network).or_default().insert(id);
            for group in &new.security_groups {
                self.by_group.entry(group.0).or_default().insert(id);
            }
            if let Some(gateway) = new.router_gateway {
                self.gateway_ports.entry(gateway.router.0).or_default().insert(id);
            }
            let held = self.network_uses.entry(network).or_default();
            held.addresses.extend(new.addresses.iter().map(|fixed| fixed.address));
            held.macs.insert(new.mac);
            *held.hostnames.entry(new.hostname.clone()).or_default() += 1;
        }
        Ok(project)
    }

    fn apply_group(&mut self, change: &Change, id: Uuid) -> Result<Option<ProjectId>, StoreError> {
        let named = |state: &Self| -> Vec<Uuid> {
            let rules = state.groups.get(id).map(|group| group.value.rules.clone()).unwrap_or_default();
            let named = rules.iter().filter_map(|rule| match rule.remote {
                Remote::Group(group) => Some(group.0),
                Remote::Net(_) => None,
            });
            named.collect()
        };
        let old = named(self);
        let project = table(&mut self.groups, change, id)?;
        old.into_iter().for_each(|group| remove(&mut self.naming_group, group, &id));
        for group in named(self) {
            self.naming_group.entry(group).or_default().insert(id);
        }
        Ok(project)
    }

    fn apply_router(&mut self, change: &Change, id: Uuid) -> Result<Option<ProjectId>, StoreError> {
        let out = |state: &Self| state.routers.get(id).and_then(|router| router.gateway).map(|out| out.network.0);
        let old = out(self);
        let project = table(&mut self.routers, change, id)?;
        if let Some(network) = old {
            remove(&mut self.routers_out, network, &id);
        }
        if let Some(network) = out(self) {
            self.routers_out.entry(network).or_default().insert(id);
        }
        Ok(project)
    }

    fn apply_floating_ip(&mut self, change: &Change, id: Uuid) -> Result<Option<ProjectId>, StoreError> {
        let old = self.floating_ips.get(id).cloned();
        let project = table(&mut self.floating_ips, change, id)?;
        if let Some(old) = old {
            if let Some(target) = old.target {
                remove(&mut self.floating_to, target.port.0, &id);
            }
            if let Some(held) = self.network_uses.get_mut(&old.network.0) {
                held.addresses.remove(&old.address);
            }
        }
        if let Some(new) = self.floating_ips.get(id) {
            if let Some(target) = new.target {
                self.floating_to.entry(target.port.0).or_default().insert(id);
            }
            self.network_uses.entry(new.network.0).or_default().addresses.insert(new.address);
        }
        Ok(project)
    }

    fn apply_vm(&mut self, change: &Change, id: Uuid) -> Result<Option<ProjectId>, StoreError> {
        let old = self.vms.get(id).map(|vm| contents(vm)).unwrap_or_default();
        let project = self.placing(id, |state| table(&mut state.vms, change, id))?;
        if self.vms.get(id).is_some_and(|vm| vm.deleted_at.is_some()) {
            self.deleted.insert(id);
        } else {
            self.deleted.remove(&id);
        }
        for digest in old {
            if let Some(users) = self.by_image.get_mut(&digest) {
                *users -= 1;
                if *users == 0 {
                    self.by_image.remove(&digest);
                }
            }
        }
        for digest in self.vms.get(id).map(|vm| contents(vm)).unwrap_or_default() {
            *self.by_image.entry(digest).or_default() += 1;
        }
        Ok(project)
    }

    /// Makes a change of one VM's wish or placement and keeps the indexes that follow from the two together.
    fn placing<T>(
        &mut self,
        id: Uuid,
        change: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        for Share { node, size, coming } in self.shares(id) {
            let load = self.loads.entry(node).or_default();
            load.room = load.room.minus(Room::of(&size));
            load.vms -= u64::from(!coming);
            remove(if coming { &mut self.coming } else { &mut self.by_node }, node, &id);
        }
        let outcome = change(self);
        for Share { node, size, coming } in self.shares(id) {
            let load = self.loads.entry(node).or_default();
            load.room = load.room.plus(Room::of(&size));
            load.vms += u64::from(!coming);
            let index = if coming { &mut self.coming } else { &mut self.by_node };
            index.entry(node).or_default().insert(id);
        }
        let placed = self.placements.get(&id).is_some_and(|placement| placement.node.is_some());
        if self.vms.get(id).is_some() && !placed {
            self.unplaced.insert(id);
        } else {
            self.unplaced.remove(&id);
        }
        outcome
    }

    /// What a VM takes of which nodes: of the one it is placed on, and of the one it goes to.
    fn shares(&self, id: Uuid) -> Vec<Share> {
        let (Some(placement), Some(vm)) = (self.placements.get(&id), self.vms.get(id)) else { return Vec::new() };
        let size = vm.resources;
        let on = placement.node.map(|node| Share { node: node.0, size, coming: false });
        let to = placement.leaving().map(|moving| Share { node: moving.to.0, size, coming: true });
        on.into_iter().chain(to).collect()
    }
}

/// What a VM takes of a node.
struct Share {
    node: Uuid,
    size: Resources,
    /// Whether it is not there yet.
    coming: bool,
}

/// The image bytes a VM needs.
fn contents(vm: &Vm) -> Vec<Digest> {
    let kernel = vm.boot.kernel.as_ref();
    let image = vm.boot.image.as_ref().map(|image| image.digest);
    let rescue = vm.rescue.as_ref().map(|rescue| rescue.image.digest);
    [image, rescue, kernel.map(|k| k.kernel), kernel.and_then(|k| k.initrd)].into_iter().flatten().collect()
}

fn remove(index: &mut BTreeMap<Uuid, BTreeSet<Uuid>>, key: Uuid, member: &Uuid) {
    if let Some(members) = index.get_mut(&key) {
        members.remove(member);
        if members.is_empty() {
            index.remove(&key);
        }
    }
}

fn decode<T: DeserializeOwned>(change: &Change) -> Result<Option<Doc<T>>, StoreError> {
    match change {
        Change::Delete(_) => Ok(None),
        Change::Put(entry) => {
            let document = hull_store::json::parse(entry)?;
            Ok(Some(Doc { value: Arc::new(document.value), revision: document.modified.0 }))
        }
    }
}

/// Changes a table; answers the owner of what was put or removed.
pub(super) fn table<T: Noun + DeserializeOwned>(
    table: &mut Table<T>,
    change: &Change,
    id: Uuid,
) -> Result<Option<ProjectId>, StoreError> {
    match decode::<T>(change)? {
        Some(new) => {
            let project = new.project();
            table.put(new.value, new.revision);
            Ok(project)
        }
        None => Ok(table.remove(id).and_then(|old| old.project())),
    }
}

pub(super) fn side<T: DeserializeOwned>(
    map: &mut HashMap<Uuid, Doc<T>>,
    change: &Change,
    id: Uuid,
) -> Result<(), StoreError> {
    match decode(change)? {
        Some(new) => _ = map.insert(id, new),
        None => _ = map.remove(&id),
    }
    Ok(())
}
