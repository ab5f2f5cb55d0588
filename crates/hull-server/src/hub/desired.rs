//! What one node shall hold, computed from the cache, and what of it the node has not been told yet.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use hull_types::{
    id::{NetworkId, NodeId, VmId},
    image::ImageContent,
    link::{Desired, DesiredNetwork, DesiredNic, DesiredPort, DesiredSubnet, DesiredVm},
    network::{Network, Port, SecurityRule},
    vm::{ImageRef, Vm},
};

use crate::state::{
    cache::Cache,
    keys::Kind,
    table::Doc,
    view::{Changed, State},
};

/// A VM as its node shall hold it; none where it is not placed on this node.
pub fn vm(state: &State, node: NodeId, id: VmId) -> Option<DesiredVm> {
    let placement = state.placement(id)?;
    if placement.node != Some(node) {
        return None;
    }
    let vm = state.vms.get(id)?;
    let rescue = vm.rescue.as_ref().map(|rescue| &rescue.image);
    Some(DesiredVm {
        vm: Vm::clone(&vm.value),
        generation: placement.generation,
        revision: vm.revision,
        image: vm.boot.image.as_ref().and_then(|image| content(state, image)),
        rescue_image: rescue.and_then(|image| content(state, image)),
        nics: ports(state, vm).map(|port| DesiredNic { port: port.id, network: port.network, mac: port.mac }).collect(),
    })
}

fn content(state: &State, image: &ImageRef) -> Option<ImageContent> {
    let content = state.images.get(image.id)?.content.as_ref()?;
    (content.digest == image.digest).then(|| content.clone())
}

fn ports<'a>(state: &'a State, vm: &'a Vm) -> impl Iterator<Item = &'a Doc<Port>> {
    vm.ports.iter().filter_map(|&id| state.ports.get(id))
}

/// A network as this node shall hold it.
pub fn network(state: &State, node: NodeId, network: &Network) -> DesiredNetwork {
    let subnets = network.subnets.iter();
    DesiredNetwork {
        id: network.id,
        name: network.meta.name.to_string(),
        subnets: subnets
            .map(|subnet| DesiredSubnet { cidr: subnet.cidr, gateway: subnet.gateway, dns: subnet.dns.clone() })
            .collect(),
        uplink: network.uplink,
        mtu: network.mtu,
        domain: network.domain.clone(),
        ports: state.ports_of(network.id).filter_map(|held| port(state, node, held)).collect(),
    }
}

fn port(state: &State, node: NodeId, port: &Port) -> Option<DesiredPort> {
    let vm = port.vm?;
    Some(DesiredPort {
        id: port.id,
        vm,
        local: state.placement(vm).is_some_and(|placement| placement.node == Some(node)),
        mac: port.mac,
        addresses: port.addresses.iter().map(|fixed| fixed.address).collect(),
        hostname: port.hostname.clone(),
        rules: rules(state, port),
    })
}

/// The union of the groups' rules, each once.
fn rules(state: &State, port: &Port) -> Vec<SecurityRule> {
    let mut seen = HashSet::new();
    let groups = port.security_groups.iter().filter_map(|&id| state.groups.get(id));
    groups.flat_map(|group| group.value.rules.iter()).filter(|rule| seen.insert(*rule)).cloned().collect()
}

/// What a VM's desired state was made of.
type Stamp = (u64, u64, bool, bool);

/// What a node has been told.
pub(super) struct Told {
    node: NodeId,
    /// Up to here; none before the first, full telling.
    at: Option<u64>,
    vms: HashMap<VmId, Stamp>,
    networks: BTreeMap<NetworkId, DesiredNetwork>,
}

impl Told {
    pub(super) fn new(node: NodeId) -> Self {
        Self { node, at: None, vms: HashMap::new(), networks: BTreeMap::new() }
    }

    /// What the node must be told now, if anything.
    pub(super) fn next(&mut self, cache: &Cache) -> Option<Desired> {
        // Too far behind is as good as never told.
        let changed = self.at.and_then(|at| cache.since(at).ok());
        cache.read_at(|state, revision| {
            self.at = Some(revision);
            let Some((changed, _)) = changed else { return Some(self.full(state)) };
            let desired = self.delta(state, &changed);
            (desired != Desired::default()).then_some(desired)
        })
    }

    fn full(&mut self, state: &State) -> Desired {
        self.vms.clear();
        self.networks.clear();
        let mut desired = Desired { full: true, ..Desired::default() };
        let vms: Vec<VmId> = state.vms_on(self.node).collect();
        let networks = vms.iter().filter_map(|&id| state.vms.get(id)).flat_map(|vm| networks_of(state, vm)).collect();
        self.tell(state, &vms.into_iter().collect(), networks, &mut desired);
        desired
    }

    fn delta(&mut self, state: &State, changed: &[Changed]) -> Desired {
        let mut vms = BTreeSet::new();
        let mut networks = BTreeSet::new();
        for change in changed {
            match change.kind {
                Kind::Vm | Kind::Placement => {
                    let vm = VmId(change.id);
                    vms.insert(vm);
                    networks.extend(state.vms.get(vm).into_iter().flat_map(|vm| networks_of(state, vm)));
                }
                Kind::Network => _ = networks.insert(NetworkId(change.id)),
                Kind::Port => match state.ports.get(change.id) {
                    Some(port) => _ = networks.insert(port.network),
                    None => networks.extend(self.networks.keys()),
                },
                Kind::SecurityGroup => networks.extend(self.networks.keys()),
                Kind::Image => vms.extend(self.vms.keys()),
                _ => {}
            }
        }
        let mut desired = Desired::default();
        self.tell(state, &vms, networks, &mut desired);
        desired
    }

    /// Adds those of the candidates that differ from what the node was told.
    fn tell(&mut self, state: &State, vms: &BTreeSet<VmId>, networks: BTreeSet<NetworkId>, desired: &mut Desired) {
        for &id in vms {
            match vm(state, self.node, id) {
                Some(vm) => {
                    let stamp = (vm.revision, vm.generation, vm.image.is_some(), vm.rescue_image.is_some());
                    if self.vms.insert(id, stamp) != Some(stamp) {
                        desired.vms.push(vm);
                    }
                }
                None if self.vms.remove(&id).is_some() => desired.vms_removed.push(id),
                None => {}
            }
        }
        let mut networks = networks;
        if !desired.vms_removed.is_empty() {
            // A VM that left may have been the last of its networks here.
            networks.extend(self.networks.keys());
        }
        for id in networks {
            let held = state.networks.get(id).map(|held| network(state, self.node, held));
            match held.filter(|held| held.ports.iter().any(|port| port.local)) {
                Some(held) if self.networks.get(&id) == Some(&held) => {}
                Some(held) => {
                    self.networks.insert(id, held.clone());
                    desired.networks.push(held);
                }
                None if self.networks.remove(&id).is_some() => desired.networks_removed.push(id),
                None => {}
            }
        }
    }
}

fn networks_of<'a>(state: &'a State, vm: &'a Vm) -> impl Iterator<Item = NetworkId> {
    ports(state, vm).map(|port| port.network)
}
