//! Topologies drawn from a number: networks, routers, rules, what is broken in them, and packets that are sent in them.
//! Pure: the same number is the same topology on every machine.
//!
//! There are three places for networks and two for routers, so that one topology is made out of the last one as a node
//! does it: networks and routers come and go, ports move between hosts, ranges, routes and rules change.

use std::{collections::BTreeMap, net::IpAddr};

use hull_types::{
    id::{FloatingIpId, NetworkId, PortId, RouterId, SecurityGroupId, SecurityRuleId, VmId},
    link::{
        DesiredFloatingIp, DesiredGateway, DesiredGroup, DesiredNetwork, DesiredPort, DesiredRouter,
        DesiredRouterSubnet, DesiredSubnet, PortPlace,
    },
    network::{Mac, Uplink, Vni},
    path::PathProtocol,
    port::{AddressPair, Bandwidth},
    security_group::{Direction, Family, Remote, RuleMatch, SecurityRule},
};
use ipnet::IpNet;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use uuid::Uuid;

use super::site::{OUTSIDE, OUTSIDE6};

/// Somewhere beyond the machine outside.
const INTERNET: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
/// Addresses of the segment outside that nobody has.
const VACANT: [&str; 2] = ["203.0.113.222", "2001:db8:ff::222"];

/// Something broken by hand after all is built.
#[derive(Clone, Debug)]
pub enum Broken {
    /// A router's default routes are gone.
    NoWayOut { host: usize, router: RouterId },
    /// A router's route to one of its ranges is gone.
    NoRange { host: usize, router: RouterId, range: IpNet },
    /// The router's end of its link to a network is down.
    RouterEnd { host: usize, router: RouterId, network: NetworkId },
    /// The network's end of it is.
    NetworkEnd { host: usize, router: RouterId, network: NetworkId },
    /// A VM's tap is down.
    Tap { host: usize, network: NetworkId, port: PortId },
    /// A network's tunnel is down.
    Tunnel { host: usize, network: NetworkId },
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Vm {
        network: usize,
        port: usize,
    },
    /// The machine outside.
    Outside,
}

/// A packet to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Shot {
    pub from: From,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: PathProtocol,
    pub size: u16,
}

/// Where a port's VM is, beside what the node is told.
#[derive(Clone, Debug)]
pub struct Topology {
    pub seed: u64,
    pub hosts: usize,
    /// The last one is the external one.
    pub networks: Vec<DesiredNetwork>,
    pub places: BTreeMap<PortId, usize>,
    /// Routers as all hosts would have them: with every floating IP.
    pub routers: Vec<DesiredRouter>,
    pub broken: Option<Broken>,
    pub shots: Vec<Shot>,
}

impl Topology {
    pub fn new(seed: u64) -> Self {
        let mut draw = Draw(StdRng::seed_from_u64(seed));
        let hosts = if draw.0.random_bool(0.4) { 2 } else { 1 };
        let mut networks: Vec<DesiredNetwork> =
            (0..draw.0.random_range(1..=3)).map(|slot| draw.network(slot, hosts)).collect();
        let routers = draw.routers(&mut networks);
        networks.push(draw.external());
        let places: BTreeMap<PortId, usize> =
            networks.iter().flat_map(|n| &n.ports).map(|port| (port.id, draw.0.random_range(0..hosts))).collect();
        draw.govern(&mut networks);
        let mut topology = Self { seed, hosts, networks, places, routers, broken: None, shots: vec![] };
        draw.ways_out(&mut topology);
        topology.broken = if draw.0.random_bool(0.2) { draw.broken(&topology) } else { None };
        topology.shots = (0..3).filter_map(|_| draw.shot(&topology)).collect();
        topology
    }

    pub fn external(&self) -> &DesiredNetwork {
        self.networks.last().unwrap()
    }

    /// Whether anything is on the external network.
    pub fn leads_out(&self) -> bool {
        !self.external().ports.is_empty() || self.routers.iter().any(|router| router.gateway.is_some())
    }

    /// Whether an answer to this source comes back to the port: it is its own, and answers need no rule.
    pub fn answerable(&self, network: usize, port: usize, source: IpAddr) -> bool {
        let network = &self.networks[network];
        let port = &network.ports[port];
        let stateful = network.groups.iter().any(|group| group.stateful && port.groups.contains(&group.id));
        let governed = port.port_security && !port.groups.is_empty();
        port.addresses.contains(&source) && (stateful || !governed)
    }

    /// The host that answers for an address of the segment outside: a floating IP, or a VM's own.
    pub fn host_of_floating(&self, address: IpAddr) -> Option<usize> {
        let fixed = self.floating().find(|floating| floating.address == address).map(|floating| floating.fixed);
        let direct = || self.external().ports.iter().any(|port| port.addresses.contains(&address)).then_some(address);
        let fixed = fixed.or_else(direct)?;
        self.ports().find(|(_, port)| port.addresses.contains(&fixed)).map(|(_, port)| self.places[&port.id])
    }

    pub fn floating(&self) -> impl Iterator<Item = &DesiredFloatingIp> {
        self.routers.iter().filter_map(|router| router.gateway.as_ref()).flat_map(|gateway| &gateway.floating_ips)
    }

    /// All ports, with their network's place.
    pub fn ports(&self) -> impl Iterator<Item = (usize, &DesiredPort)> {
        self.networks.iter().enumerate().flat_map(|(n, network)| network.ports.iter().map(move |port| (n, port)))
    }

    /// A router as one host is told it: its own addresses outside, and the floating IPs of its own VMs.
    pub fn router_on(&self, router: &DesiredRouter, host: usize) -> DesiredRouter {
        let mut router = router.clone();
        let number = router.id.0.as_u128() as u8 & 0x0f;
        if let Some(gateway) = &mut router.gateway {
            let own = u8::try_from(host).unwrap();
            gateway.mac = Mac([0x02, 0xee, 0, 0, number, own]);
            for address in &mut gateway.addresses {
                *address = match address {
                    IpNet::V4(_) => format!("203.0.113.{}/24", 180 + 10 * number + own),
                    IpNet::V6(_) => format!("2001:db8:ff::{}/64", 180 + 10 * number + own),
                }
                .parse()
                .unwrap();
            }
            gateway.floating_ips.retain(|floating| self.host_of_floating(floating.address) == Some(host));
        }
        router
    }
}

/// Draws things.
struct Draw(StdRng);

impl Draw {
    fn network(&mut self, slot: u8, hosts: usize) -> DesiredNetwork {
        // Others may have the same range: nothing joins them but by mistake.
        let range: u8 = *[slot, slot, 0].choose(&mut self.0).unwrap();
        let (v4, v6) = *[(true, true), (true, true), (true, false), (false, true)].choose(&mut self.0).unwrap();
        let number = 70 + range;
        let mut subnets = Vec::new();
        let subnet = |cidr: String, gateway: String| DesiredSubnet {
            cidr: cidr.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
            gateway_is_ours: false,
            dns: vec![],
            dhcp: true,
            routes: vec![],
            dhcp_options: vec![],
            router: None,
        };
        if v4 {
            subnets.push(subnet(format!("10.90.{number}.0/24"), format!("10.90.{number}.1")));
        }
        if v6 {
            subnets.push(subnet(format!("fd00:90:{number}::/64"), format!("fd00:90:{number}::1")));
        }
        let nat = self.0.random_bool(0.25);
        for subnet in &mut subnets {
            subnet.gateway_is_ours = nat;
        }
        let ports = (0..self.0.random_range(2..=3)).map(|port| self.port(slot, port, &subnets)).collect();
        DesiredNetwork {
            id: NetworkId(Uuid::from_u128(0xa0 + u128::from(slot))),
            name: format!("net{slot}"),
            subnets,
            uplink: if nat { Uplink::Nat } else { Uplink::None },
            vni: (hosts > 1).then_some(Vni(1000 + u32::from(slot))),
            mtu: *[1280, 1400, 1400, 1450, 1500].choose(&mut self.0).unwrap(),
            domain: "hull.internal".to_owned(),
            ports,
            groups: vec![],
        }
    }

    fn port(&mut self, slot: u8, port: u8, subnets: &[DesiredSubnet]) -> DesiredPort {
        let host = 10 + u128::from(port) + 10 * u128::from(slot);
        let addresses: Vec<IpAddr> = subnets.iter().map(|subnet| nth(subnet.cidr, host)).collect();
        let shared = self.0.random_bool(0.15);
        // An address of one's own beside the port's: two of one network never share one here.
        let pairs = subnets
            .iter()
            .filter(|_| shared)
            .map(|subnet| AddressPair { addresses: IpNet::from(nth(subnet.cidr, host + 100)), mac: None });
        DesiredPort {
            id: PortId(Uuid::from_u128(0xb000 + u128::from(slot) * 16 + u128::from(port))),
            vm: Some(VmId(Uuid::from_u128(0xc000 + u128::from(slot) * 16 + u128::from(port)))),
            place: PortPlace::Nowhere,
            mac: Mac([0x52, 0x54, 0, 7, slot, port]),
            addresses,
            allowed_pairs: pairs.collect(),
            port_security: !self.0.random_bool(0.12),
            hostname: format!("vm{slot}{port}"),
            groups: vec![],
            dhcp_options: vec![],
            bandwidth: Bandwidth::default(),
        }
    }

    fn external(&mut self) -> DesiredNetwork {
        let subnet = |cidr: &str, gateway: &str| DesiredSubnet {
            cidr: cidr.parse().unwrap(),
            gateway: Some(gateway.parse().unwrap()),
            gateway_is_ours: false,
            dns: vec![],
            dhcp: false,
            routes: vec![],
            dhcp_options: vec![],
            router: None,
        };
        let subnets = vec![subnet("203.0.113.0/24", OUTSIDE), subnet("2001:db8:ff::/64", OUTSIDE6)];
        let ports = if self.0.random_bool(0.3) { vec![self.port(9, 0, &subnets)] } else { vec![] };
        DesiredNetwork {
            id: NetworkId(Uuid::from_u128(0xaf)),
            name: "outside".to_owned(),
            subnets,
            uplink: Uplink::Provider("physnet1".to_owned()),
            vni: None,
            mtu: 1500,
            domain: "hull.internal".to_owned(),
            ports,
            groups: vec![],
        }
    }

    /// None, one or two routers, each with ranges that do not overlap.
    fn routers(&mut self, networks: &mut [DesiredNetwork]) -> Vec<DesiredRouter> {
        let count = *[0, 1, 1, 1, 2].choose(&mut self.0).unwrap();
        let mut routers: Vec<DesiredRouter> = (0..count)
            .map(|number| DesiredRouter {
                id: RouterId(Uuid::from_u128(0xd0 + 2 * number)),
                name: format!("router{number}"),
                subnets: vec![],
                routes: vec![],
                gateway: None,
            })
            .collect();
        for network in networks {
            // All ranges of a network are on one router mostly, but need not be.
            let usual = self.0.random_range(0..=4usize);
            for subnet in &mut network.subnets {
                let which = if self.0.random_bool(0.9) { usual } else { self.0.random_range(0..=4) };
                let Some(router) = (which < 4 && count > 0).then(|| &mut routers[which % count as usize]) else {
                    continue;
                };
                if router.subnets.iter().any(|other| other.cidr == subnet.cidr) {
                    continue;
                }
                subnet.router = Some(router.id);
                subnet.gateway_is_ours = true;
                let (network, cidr, gateway) = (network.id, subnet.cidr, subnet.gateway.unwrap());
                router.subnets.push(DesiredRouterSubnet { network, cidr, gateway });
            }
        }
        routers
    }

    /// Gateways and floating IPs.
    fn ways_out(&mut self, topology: &mut Topology) {
        let external = topology.external().id;
        let mut number = 30;
        for n in 0..topology.routers.len() {
            let joined: Vec<IpNet> = topology.routers[n].subnets.iter().map(|subnet| subnet.cidr).collect();
            if !self.0.random_bool(0.75) {
                continue;
            }
            let mut floating_ips = Vec::new();
            let on = topology.routers[n].subnets.iter().map(|subnet| subnet.network).collect::<Vec<_>>();
            for (_, port) in topology.ports().filter(|(net, _)| on.contains(&topology.networks[*net].id)) {
                for &fixed in &port.addresses {
                    // Two with one address cannot both have a floating IP that leads there.
                    let alone = topology.ports().filter(|(_, other)| other.addresses.contains(&fixed)).count() == 1;
                    if !alone || !joined.iter().any(|net| net.contains(&fixed)) || !self.0.random_bool(0.35) {
                        continue;
                    }
                    number += 1;
                    let address = nth(
                        if fixed.is_ipv4() { "203.0.113.0/24" } else { "2001:db8:ff::/64" }.parse().unwrap(),
                        number,
                    );
                    floating_ips.push(DesiredFloatingIp { id: FloatingIpId(Uuid::from_u128(number)), address, fixed });
                }
            }
            topology.routers[n].gateway = Some(DesiredGateway {
                network: external,
                mac: Mac([0; 6]),
                // Given by `router_on`.
                addresses: vec!["203.0.113.0/24".parse().unwrap(), "2001:db8:ff::/64".parse().unwrap()],
                next_hops: vec![OUTSIDE.parse().unwrap(), OUTSIDE6.parse().unwrap()],
                snat: self.0.random_bool(0.7),
                floating_ips,
            });
        }
    }

    /// Groups and who is in them: three, each of which any port may be in.
    fn govern(&mut self, networks: &mut [DesiredNetwork]) {
        let nets: Vec<IpNet> = networks.iter().flat_map(|network| &network.subnets).map(|subnet| subnet.cidr).collect();
        let all = networks.iter().flat_map(|network| &network.ports).flat_map(|port| port.addresses.clone());
        let remotes: Vec<IpNet> = nets.iter().copied().chain(all.map(IpNet::from)).collect();
        let mut groups: Vec<DesiredGroup> = (0..3).map(|number| self.group(number, &remotes)).collect();
        for port in networks.iter_mut().flat_map(|network| &mut network.ports) {
            for group in &mut groups {
                if self.0.random_bool(0.45) {
                    port.groups.push(group.id);
                    group.members.extend(&port.addresses);
                }
            }
        }
        for network in networks {
            network.groups.clone_from(&groups);
        }
    }

    fn group(&mut self, number: u128, remotes: &[IpNet]) -> DesiredGroup {
        let closed = self.0.random_bool(0.2);
        let mut rules = Vec::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            if direction == Direction::Egress && !closed {
                continue;
            }
            // What lets all of a family in, now and then, so that about as much passes as is dropped.
            for all in ["0.0.0.0/0", "::/0"] {
                if self.0.random_bool(0.5) {
                    rules.push(rule(direction, RuleMatch::Any, Remote::Net(all.parse().unwrap()), Family::Ipv4));
                }
            }
            for _ in 0..self.0.random_range(0..5) {
                let matches = self.matches();
                let remote = match self.0.random_range(0..8) {
                    0..=1 => Remote::Group(SecurityGroupId(Uuid::from_u128(0xe0 + self.0.random_range(0..3u128)))),
                    2 => Remote::Net("0.0.0.0/0".parse().unwrap()),
                    3 => Remote::Net("::/0".parse().unwrap()),
                    4 => Remote::Net("203.0.113.0/24".parse().unwrap()),
                    _ => Remote::Net(*remotes.choose(&mut self.0).unwrap()),
                };
                let family = *Family::BOTH.choose(&mut self.0).unwrap();
                rules.push(rule(direction, matches, remote, family));
            }
        }
        let (id, stateful) = (SecurityGroupId(Uuid::from_u128(0xe0 + number)), !self.0.random_bool(0.15));
        DesiredGroup { id, stateful, rules, members: vec![] }
    }

    fn matches(&mut self) -> RuleMatch {
        let from = self.0.random_range(79..84);
        let to = from + self.0.random_range(0..6);
        match self.0.random_range(0..8) {
            0 => RuleMatch::Any,
            1..=3 => RuleMatch::Tcp { from, to },
            4..=5 => RuleMatch::Udp { from, to },
            6 => RuleMatch::Icmp { kind: None, code: None },
            _ => RuleMatch::Icmp { kind: Some(*[8u8, 128, 0].choose(&mut self.0).unwrap()), code: None },
        }
    }

    fn broken(&mut self, topology: &Topology) -> Option<Broken> {
        let host = self.0.random_range(0..topology.hosts);
        let (network, port) = topology.ports().collect::<Vec<_>>().choose(&mut self.0).copied()?;
        let network = topology.networks[network].id;
        let tap = Broken::Tap { host: topology.places[&port.id], network, port: port.id };
        let tunnel = Broken::Tunnel { host, network };
        let Some(router) = topology.routers.choose(&mut self.0) else {
            return Some(if network != topology.external().id && topology.hosts > 1 { tunnel } else { tap });
        };
        let (Some(joined), router) = (router.subnets.choose(&mut self.0), router.id) else { return Some(tap) };
        let network = joined.network;
        Some(match self.0.random_range(0..5) {
            0 => Broken::NoWayOut { host, router },
            1 => Broken::NoRange { host, router, range: joined.cidr },
            2 => Broken::RouterEnd { host, router, network },
            3 => Broken::NetworkEnd { host, router, network },
            _ => tap,
        })
    }

    fn shot(&mut self, topology: &Topology) -> Option<Shot> {
        let all: Vec<(usize, usize)> = topology
            .networks
            .iter()
            .enumerate()
            .flat_map(|(n, network)| (0..network.ports.len()).map(move |port| (n, port)))
            .collect();
        let floating: Vec<IpAddr> = topology.floating().map(|floating| floating.address).collect();
        if !floating.is_empty() && self.0.random_bool(0.15) {
            let destination = *floating.choose(&mut self.0)?;
            let source = if destination.is_ipv4() { OUTSIDE } else { OUTSIDE6 }.parse().unwrap();
            return Some(self.packet(From::Outside, source, destination));
        }
        let (network, port) = *all.choose(&mut self.0)?;
        let own = &topology.networks[network].ports[port];
        let mut source = *own.addresses.choose(&mut self.0)?;
        let v4 = source.is_ipv4();
        let destination = self.destination(topology, network, port, v4)?;
        if self.0.random_bool(0.12) {
            // Another's address, or one of those it may use beside its own.
            let pairs = own.allowed_pairs.iter().map(|pair| pair.addresses.addr()).filter(|pair| pair.is_ipv4() == v4);
            let subnet = topology.networks[network].subnets.iter().find(|subnet| subnet.cidr.contains(&source))?;
            source = pairs.chain([nth(subnet.cidr, 99)]).collect::<Vec<_>>().choose(&mut self.0).copied()?;
        }
        Some(self.packet(From::Vm { network, port }, source, destination))
    }

    fn destination(&mut self, topology: &Topology, network: usize, port: usize, v4: bool) -> Option<IpAddr> {
        let of_family = |addresses: Vec<IpAddr>| -> Vec<IpAddr> {
            addresses.into_iter().filter(|address| address.is_ipv4() == v4).collect()
        };
        let here = &topology.networks[network];
        let own = &here.ports[port];
        let pick = |pair: [&str; 2]| vec![pair[usize::from(!v4)].parse().unwrap()];
        let others = |near: bool| {
            let all = topology.ports().filter(|(n, other)| (*n == network) == near && other.id != own.id);
            all.flat_map(|(_, other)| other.addresses.clone()).filter(|a| !own.addresses.contains(a)).collect()
        };
        let candidates = match self.0.random_range(0..20) {
            0..=4 => others(true),
            5..=9 => others(false),
            10 => here
                .ports
                .iter()
                .filter(|other| other.id != own.id)
                .flat_map(|other| &other.allowed_pairs)
                .map(|pair| pair.addresses.addr())
                .collect(),
            11..=12 => topology.floating().map(|floating| floating.address).collect(),
            13 => pick([OUTSIDE, OUTSIDE6]),
            14..=15 => pick(INTERNET),
            16 => pick(["169.254.169.254", "fd00:ec2::254"]),
            17 => topology.networks.iter().flat_map(|n| &n.subnets).filter_map(|subnet| subnet.gateway).collect(),
            18 => here.subnets.iter().map(|subnet| nth(subnet.cidr, 77)).collect(),
            _ => pick(VACANT),
        };
        // Whatever was drawn may not be there in this topology; there is always something outside.
        let mut found = of_family(candidates);
        if found.is_empty() {
            found = of_family(others(true));
        }
        if found.is_empty() {
            found = pick(INTERNET);
        }
        found.choose(&mut self.0).copied()
    }

    fn packet(&mut self, from: From, source: IpAddr, destination: IpAddr) -> Shot {
        let port =
            if self.0.random_bool(0.8) { self.0.random_range(79..88) } else { *[53, 22].choose(&mut self.0).unwrap() };
        let metadata = ["169.254.169.254", "fd00:ec2::254"].contains(&destination.to_string().as_str());
        let protocol = match self.0.random_range(0..6) {
            _ if metadata && self.0.random_bool(0.7) => PathProtocol::Tcp { port: 80 },
            0..=2 => PathProtocol::Tcp { port },
            3..=4 => PathProtocol::Udp { port: if port == 22 { 80 } else { port } },
            _ => PathProtocol::Icmp,
        };
        let sizes = [1280, 1281, 1284, 1285, 1400, 1401, 1404, 1405, 1450, 1454, 1455, 1500, 1504, 1505, 1514];
        let size = if self.0.random_bool(0.3) { *sizes.choose(&mut self.0).unwrap() } else { 100 };
        Shot { from, source, destination, protocol, size }
    }
}

fn rule(direction: Direction, matches: RuleMatch, remote: Remote, family: Family) -> SecurityRule {
    let family = match &remote {
        Remote::Net(net) => Family::of(&net.addr()),
        Remote::Group(_) => family,
    };
    let id = SecurityRuleId(Uuid::nil());
    SecurityRule { id, direction, family, matches, remote, description: String::new() }
}

/// The address with this number in a range.
fn nth(range: IpNet, number: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + number as u32).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + number).into()),
    }
}
