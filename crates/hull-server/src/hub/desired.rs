//! What one node shall hold, computed from the cache, and what of it the node has not been told yet.
//!
//! A node holds the VMs placed on it and those that come to it, the networks those have ports on, the routers of these
//! networks, and whatever a packet may come to from there: the routers' other networks and their external ones.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use hull_types::{
    id::{NetworkId, NodeId, RouterId, SecurityGroupId, VmId},
    image::ImageContent,
    link::{
        Desired, DesiredFloatingIp, DesiredGateway, DesiredGroup, DesiredNetwork, DesiredNic, DesiredPort,
        DesiredRouter, DesiredRouterSubnet, DesiredSubnet, DesiredVm, PortPlace,
    },
    migration::{Moving, Transit},
    network::{Network, Subnet, Uplink},
    port::Port,
    router::{Router, RouterGateway},
    security_group::Remote,
    vm::{ImageRef, Vm, VmPhase},
};
use ipnet::IpNet;

use crate::state::{
    cache::Cache,
    keys::Kind,
    table::Doc,
    view::{Changed, State},
};

/// A VM as its node shall hold it; none where it neither is placed on this node nor may be fetched by it.
pub fn vm(state: &State, node: NodeId, id: VmId) -> Option<DesiredVm> {
    let placement = state.placement(id)?;
    let vm = state.vms.get(id)?;
    let leaving = placement.leaving();
    let (generation, transit) = if placement.node == Some(node) {
        let ready = leaving.filter(|moving| moving.ready);
        (placement.generation, ready.map(|moving| Transit::Leaving { migration: moving.migration }))
    } else {
        let moving = leaving.filter(|moving| moving.to == node && vm.deleted_at.is_none())?;
        let migration = moving.migration;
        let held = moving.ready && held(state, vm, &moving);
        let transit = if held { Transit::Arriving { migration } } else { Transit::Expected { migration } };
        (placement.generation + 1, Some(transit))
    };
    let rescue = vm.rescue.as_ref().map(|rescue| &rescue.image);
    Some(DesiredVm {
        vm: Vm::clone(&vm.value),
        generation,
        revision: vm.revision,
        image: vm.boot.image.as_ref().and_then(|image| content(state, image)),
        rescue_image: rescue.and_then(|image| content(state, image)),
        nics: ports(state, vm).map(|port| DesiredNic { port: port.id, network: port.network, mac: port.mac }).collect(),
        transit,
    })
}

/// Whether its node holds a VM for the one it goes to.
fn held(state: &State, vm: &Vm, moving: &Moving) -> bool {
    state
        .status(vm.id)
        .is_some_and(|status| status.phase == VmPhase::Released && status.migration == Some(moving.migration))
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
    let ports: Vec<DesiredPort> = state.ports_of(network.id).filter_map(|held| port(state, node, held)).collect();
    let here: BTreeSet<SecurityGroupId> =
        ports.iter().filter(|port| port.is_here()).flat_map(|port| port.groups.iter().copied()).collect();
    DesiredNetwork {
        id: network.id,
        name: network.meta.name.to_string(),
        subnets: state.subnets_of(network).map(|held| subnet(network, held)).collect(),
        uplink: network.uplink.clone(),
        vni: network.vni,
        mtu: network.mtu,
        domain: network.domain.clone(),
        ports,
        groups: groups(state, &here),
    }
}

fn subnet(network: &Network, subnet: &Subnet) -> DesiredSubnet {
    DesiredSubnet {
        cidr: subnet.cidr,
        gateway: subnet.gateway,
        gateway_is_ours: subnet.router.is_some() || network.uplink == Uplink::Nat,
        dns: subnet.dns.clone(),
        dhcp: subnet.dhcp,
        routes: subnet.routes.clone(),
        dhcp_options: subnet.dhcp_options.clone(),
        router: subnet.router,
    }
}

/// None for routers' own ends: routers are told of them.
fn port(state: &State, node: NodeId, port: &Port) -> Option<DesiredPort> {
    if port.router_gateway.is_some() {
        return None;
    }
    Some(DesiredPort {
        id: port.id,
        vm: port.vm,
        place: place(state, node, port),
        mac: port.mac,
        addresses: port.ips().collect(),
        allowed_pairs: port.allowed_pairs.clone(),
        port_security: port.port_security,
        hostname: port.hostname.clone(),
        groups: port.security_groups.clone(),
        dhcp_options: port.dhcp_options.clone(),
        bandwidth: port.bandwidth,
    })
}

fn place(state: &State, node: NodeId, port: &Port) -> PortPlace {
    match on(state, port) {
        Some(there) if there == node => PortPlace::Here,
        Some(there) => underlay(state, there).map_or(PortPlace::Nowhere, |node| PortPlace::There { node }),
        None => PortPlace::Nowhere,
    }
}

/// The node that a port's VM is placed on.
fn on(state: &State, port: &Port) -> Option<NodeId> {
    state.placement(port.vm?)?.node
}

/// The node that a VM is on its way to.
fn goes_to(state: &State, vm: VmId) -> Option<NodeId> {
    state.placement(vm)?.leaving().map(|moving| moving.to)
}

fn underlay(state: &State, node: NodeId) -> Option<IpAddr> {
    state.node_status(node)?.facts.underlay
}

/// These groups with their rules, and those that the rules name with their members.
fn groups(state: &State, here: &BTreeSet<SecurityGroupId>) -> Vec<DesiredGroup> {
    let rules = |id: SecurityGroupId| state.groups.get(id).into_iter().flat_map(|group| group.value.rules.iter());
    let named: BTreeSet<SecurityGroupId> = here
        .iter()
        .flat_map(|&id| rules(id))
        .filter_map(|rule| match rule.remote {
            Remote::Group(group) => Some(group),
            Remote::Net(_) => None,
        })
        .collect();
    let all = here.union(&named).filter_map(|&id| state.groups.get(id));
    all.map(|group| DesiredGroup {
        id: group.id,
        stateful: group.stateful,
        rules: if here.contains(&group.id) { group.rules.clone() } else { Vec::new() },
        members: if named.contains(&group.id) { members(state, group.id) } else { Vec::new() },
    })
    .collect()
}

fn members(state: &State, group: SecurityGroupId) -> Vec<IpAddr> {
    let all: BTreeSet<IpAddr> = state.ports_in(group).flat_map(|port| port.ips().collect::<Vec<_>>()).collect();
    all.into_iter().collect()
}

/// A router as this node shall hold it.
pub fn router(state: &State, node: NodeId, router: &Router) -> DesiredRouter {
    let subnets = router.subnets.iter().filter_map(|&id| state.subnets.get(id));
    DesiredRouter {
        id: router.id,
        name: router.meta.name.to_string(),
        subnets: subnets
            .filter_map(|subnet| {
                let gateway = subnet.gateway?;
                Some(DesiredRouterSubnet { network: subnet.network, cidr: subnet.cidr, gateway })
            })
            .collect(),
        routes: router.routes.clone(),
        gateway: router.gateway.and_then(|out| gateway(state, node, router, out)),
    }
}

fn gateway(state: &State, node: NodeId, router: &Router, out: RouterGateway) -> Option<DesiredGateway> {
    let network = state.networks.get(out.network)?;
    let own = state.gateway_ports_of(router.id).find(|port| port.router_gateway.is_some_and(|on| on.node == node));
    let addresses = own.into_iter().flat_map(|port| port.value.addresses.iter()).filter_map(|fixed| {
        let subnet = state.subnets.get(fixed.subnet)?;
        IpNet::new(fixed.address, subnet.cidr.prefix_len()).ok()
    });
    Some(DesiredGateway {
        network: out.network,
        mac: hull_core::mac::of_router(router.id, node),
        addresses: addresses.collect(),
        next_hops: state.subnets_of(network).filter_map(|subnet| subnet.gateway).collect(),
        snat: out.snat,
        floating_ips: floating_ips(state, node, router),
    })
}

/// Those that lead through this router to VMs on this node.
fn floating_ips(state: &State, node: NodeId, router: &Router) -> Vec<DesiredFloatingIp> {
    let networks: BTreeSet<NetworkId> = networks_of_router(state, router).collect();
    let here =
        networks.into_iter().flat_map(|network| state.ports_of(network)).filter(|port| on(state, port) == Some(node));
    let all = here.flat_map(|port| state.floating_ips_of(port.id));
    all.filter_map(|floating| {
        let target = floating.target.filter(|target| target.router == router.id)?;
        Some(DesiredFloatingIp { id: floating.id, address: floating.address, fixed: target.fixed })
    })
    .collect()
}

fn networks_of_router<'a>(state: &'a State, router: &'a Router) -> impl Iterator<Item = NetworkId> + 'a {
    router.subnets.iter().filter_map(|&id| state.subnets.get(id)).map(|subnet| subnet.network)
}

/// The networks and routers that a node must hold.
#[derive(Default)]
pub(crate) struct Needs {
    pub(crate) networks: BTreeSet<NetworkId>,
    pub(crate) routers: BTreeSet<RouterId>,
}

/// What this node needs for the VMs placed on it, and beforehand for those that come.
pub(crate) fn needs(state: &State, node: NodeId) -> Needs {
    let mut needs = Needs::default();
    let vms = state.vms_on(node).chain(state.vms_coming(node)).filter_map(|id| state.vms.get(id));
    let mut left: Vec<NetworkId> = vms.flat_map(|vm| networks_of(state, vm)).collect();
    while let Some(id) = left.pop() {
        let Some(network) = state.networks.get(id).filter(|_| needs.networks.insert(id)) else { continue };
        let routers = state.subnets_of(network).filter_map(|subnet| subnet.router);
        for router in routers.filter_map(|router| state.routers.get(router)) {
            if needs.routers.insert(router.id) {
                left.extend(networks_of_router(state, router));
                left.extend(router.gateway.map(|out| out.network));
            }
        }
    }
    needs
}

/// The nodes that hold a router: those with a VM, or one that comes, on a network that routers join to one of its own, the
/// other way round than [`needs`].
pub(crate) fn nodes_of_router(state: &State, router: &Router) -> BTreeSet<NodeId> {
    let (mut routers, mut networks) = (BTreeSet::from([router.id]), BTreeSet::new());
    let mut left: Vec<NetworkId> = networks_of_router(state, router).collect();
    let mut nodes = BTreeSet::new();
    while let Some(id) = left.pop() {
        let Some(network) = state.networks.get(id).filter(|_| networks.insert(id)) else { continue };
        nodes.extend(
            state.ports_of(id).flat_map(|port| [on(state, port), port.vm.and_then(|vm| goes_to(state, vm))]).flatten(),
        );
        let joined = state.subnets_of(network).filter_map(|subnet| subnet.router);
        for other in joined.filter_map(|other| state.routers.get(other)) {
            if routers.insert(other.id) {
                left.extend(networks_of_router(state, other));
            }
        }
    }
    nodes
}

/// What a VM's desired state was made of.
#[derive(Clone, PartialEq, Eq)]
struct Stamp {
    revision: u64,
    generation: u64,
    image: bool,
    rescue_image: bool,
    nics: Vec<DesiredNic>,
    transit: Option<Transit>,
}

/// What a node has been told.
pub(super) struct Told {
    node: NodeId,
    /// Up to here; none before the first, full telling.
    at: Option<u64>,
    vms: HashMap<VmId, Stamp>,
    networks: BTreeMap<NetworkId, DesiredNetwork>,
    routers: BTreeMap<RouterId, DesiredRouter>,
    underlays: HashMap<NodeId, Option<IpAddr>>,
}

/// What may differ from what the node was told.
#[derive(Default)]
struct Suspects {
    vms: BTreeSet<VmId>,
    networks: BTreeSet<NetworkId>,
    /// Which networks and routers are needed, and what routers are like.
    topology: bool,
}

impl Told {
    pub(super) fn new(node: NodeId) -> Self {
        Self {
            node,
            at: None,
            vms: HashMap::new(),
            networks: BTreeMap::new(),
            routers: BTreeMap::new(),
            underlays: HashMap::new(),
        }
    }

    /// What the node must be told now, if anything.
    pub(super) fn next(&mut self, cache: &Cache) -> Option<Desired> {
        // Too far behind is as good as never told.
        let changed = self.at.and_then(|at| cache.since(at).ok());
        cache.read_at(|state, revision| {
            self.at = Some(revision);
            let Some((changed, _)) = changed else { return Some(self.full(state)) };
            let suspects = self.suspects(state, &changed);
            let mut desired = Desired::default();
            self.tell(state, suspects, &mut desired);
            (desired != Desired::default()).then_some(desired)
        })
    }

    fn full(&mut self, state: &State) -> Desired {
        *self = Self { at: self.at, ..Self::new(self.node) };
        let mut desired = Desired { full: true, ..Desired::default() };
        let vms = state.vms_on(self.node).chain(state.vms_coming(self.node)).collect();
        let suspects = Suspects { vms, networks: BTreeSet::new(), topology: true };
        self.tell(state, suspects, &mut desired);
        desired
    }

    fn suspects(&mut self, state: &State, changed: &[Changed]) -> Suspects {
        let mut suspects = Suspects::default();
        let told = |told: &Self| told.networks.keys().copied().collect::<Vec<_>>();
        for change in changed {
            match change.kind {
                Kind::Vm | Kind::Placement => {
                    let vm = VmId(change.id);
                    suspects.vms.insert(vm);
                    suspects.networks.extend(state.vms.get(vm).into_iter().flat_map(|vm| networks_of(state, vm)));
                    suspects.topology = true;
                }
                // Its node may hold it for this one now.
                Kind::VmStatus if goes_to(state, VmId(change.id)) == Some(self.node) => {
                    suspects.vms.insert(VmId(change.id));
                }
                Kind::Port => match state.ports.get(change.id) {
                    Some(port) => {
                        suspects.vms.extend(port.vm);
                        suspects.networks.insert(port.network);
                        suspects.networks.extend(self.naming(&port.security_groups));
                        suspects.topology = true;
                    }
                    None => {
                        suspects.networks.extend(told(self));
                        suspects.topology = true;
                    }
                },
                Kind::Network => _ = suspects.networks.insert(NetworkId(change.id)),
                Kind::SecurityGroup => suspects.networks.extend(told(self)),
                Kind::Subnet | Kind::Router | Kind::FloatingIp => {
                    suspects.networks.extend(told(self));
                    suspects.topology = true;
                }
                Kind::NodeStatus if self.moved(state, NodeId(change.id)) => suspects.networks.extend(told(self)),
                Kind::Image => suspects.vms.extend(self.vms.keys()),
                _ => {}
            }
        }
        suspects
    }

    /// Whether other nodes reach this one elsewhere than before.
    fn moved(&mut self, state: &State, node: NodeId) -> bool {
        let now = underlay(state, node);
        self.underlays.insert(node, now) != Some(now)
    }

    /// The networks told with one of these groups among theirs.
    fn naming(&self, groups: &[SecurityGroupId]) -> Vec<NetworkId> {
        let named = self.networks.values().filter(|network| network.groups.iter().any(|own| groups.contains(&own.id)));
        named.map(|network| network.id).collect()
    }

    /// Adds those of the suspects that differ from what the node was told.
    fn tell(&mut self, state: &State, suspects: Suspects, desired: &mut Desired) {
        for id in suspects.vms {
            self.tell_vm(state, id, desired);
        }
        let needs = needs(state, self.node);
        let new = needs.networks.iter().filter(|id| !self.networks.contains_key(id)).copied();
        let networks: BTreeSet<NetworkId> = suspects.networks.into_iter().chain(new).collect();
        for id in networks.into_iter().filter(|id| needs.networks.contains(id)) {
            let Some(held) = state.networks.get(id).map(|held| network(state, self.node, held)) else { continue };
            if self.networks.get(&id) != Some(&held) {
                self.networks.insert(id, held.clone());
                desired.networks.push(held);
            }
        }
        if !suspects.topology {
            return;
        }
        for id in &needs.routers {
            let Some(held) = state.routers.get(*id).map(|held| router(state, self.node, held)) else { continue };
            if self.routers.get(id) != Some(&held) {
                self.routers.insert(*id, held.clone());
                desired.routers.push(held);
            }
        }
        desired.networks_removed = drop_unneeded(&mut self.networks, &needs.networks);
        desired.routers_removed = drop_unneeded(&mut self.routers, &needs.routers);
    }

    fn tell_vm(&mut self, state: &State, id: VmId, desired: &mut Desired) {
        match vm(state, self.node, id) {
            Some(vm) => {
                let stamp = Stamp {
                    revision: vm.revision,
                    generation: vm.generation,
                    image: vm.image.is_some(),
                    rescue_image: vm.rescue_image.is_some(),
                    nics: vm.nics.clone(),
                    transit: vm.transit,
                };
                if self.vms.get(&id) != Some(&stamp) {
                    self.vms.insert(id, stamp);
                    desired.vms.push(vm);
                }
            }
            None if self.vms.remove(&id).is_some() => desired.vms_removed.push(id),
            None => {}
        }
    }
}

/// Forgets what is no longer needed; says what that was.
fn drop_unneeded<K: Ord + Copy, V>(told: &mut BTreeMap<K, V>, needed: &BTreeSet<K>) -> Vec<K> {
    let gone: Vec<K> = told.keys().filter(|id| !needed.contains(id)).copied().collect();
    gone.iter().for_each(|id| _ = told.remove(id));
    gone
}

fn networks_of<'a>(state: &'a State, vm: &'a Vm) -> impl Iterator<Item = NetworkId> {
    ports(state, vm).map(|port| port.network)
}
