//! `explain path` says where a packet stops, and a real packet agrees: networks, groups and packets are generated, each
//! packet is asked about and then written to the sender's tap.

#![allow(clippy::unwrap_used)]

mod network_kit;

use std::{collections::HashMap, net::IpAddr, os::fd::OwnedFd};

use hull_node::network::Networks;
use hull_types::{
    id::{NetworkId, PortId, RouterId, SecurityGroupId, SecurityRuleId},
    link::{DesiredGroup, DesiredNetwork},
    path::{PathEnd, PathPacket, PathProtocol, PathQuery, PathReport, PathStart},
    security_group::{Direction, Family, Remote, RuleMatch, SecurityRule},
};
use network_kit::{
    Bench, Guest, frames, network, rule as opening, set_rules,
    site::{OUTSIDE, OUTSIDE6, Site, gateway, router, tenant},
};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use uuid::Uuid;

/// A virtio header without offloads comes before each frame of a tap (`IFF_VNET_HDR`).
const HEADER: usize = 10;
/// Sets of rules tried, and packets under each.
const TOPOLOGIES: usize = 500;
const PACKETS: usize = 3;

fn query(network: &DesiredNetwork, from: usize, packet: PathPacket) -> PathQuery {
    PathQuery { start: PathStart::Port { network: network.id, port: network.ports[from].id }, packet }
}

fn remote(members: bool) -> BoxedStrategy<Remote> {
    // Open ones more often than not, so that about as many packets pass as are dropped.
    let nets = prop::sample::select(vec![
        "0.0.0.0/0",
        "0.0.0.0/0",
        "0.0.0.0/0",
        "::/0",
        "::/0",
        "::/0",
        "10.90.0.0/16",
        "10.90.70.10/32",
        "10.90.70.8/30",
        "10.90.70.11/32",
        "192.0.2.0/24",
        "::/0",
        "fd00:90:70::/64",
        "fd00:90:70::a/128",
        "fd00:90:70::b/128",
        "2001:db8::/32",
    ]);
    let net = nets.prop_map(|net| Remote::Net(net.parse().unwrap()));
    if !members {
        return net.boxed();
    }
    prop_oneof![3 => net, 1 => (0u128..3).prop_map(|n| Remote::Group(SecurityGroupId(Uuid::from_u128(100 + n))))]
        .boxed()
}

fn matches() -> impl Strategy<Value = RuleMatch> {
    let ports = (0u16..6, 0u16..8).prop_map(|(from, length)| (79 + from, 79 + from + length));
    prop_oneof![
        2 => Just(RuleMatch::Any),
        3 => ports.clone().prop_map(|(from, to)| RuleMatch::Tcp { from, to }),
        2 => ports.prop_map(|(from, to)| RuleMatch::Udp { from, to }),
        1 => Just(RuleMatch::Icmp { kind: None, code: None }),
        1 => prop::sample::select(vec![8u8, 128, 0]).prop_map(|kind| RuleMatch::Icmp { kind: Some(kind), code: None }),
    ]
}

fn rule() -> impl Strategy<Value = SecurityRule> {
    let direction = prop_oneof![9 => Just(Direction::Ingress), 1 => Just(Direction::Egress)];
    let family = prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)];
    (direction, family, matches(), remote(true)).prop_map(|(direction, family, matches, remote)| {
        let family = match remote {
            Remote::Net(net) => Family::of(&net.addr()),
            Remote::Group(_) => family,
        };
        let id = SecurityRuleId(Uuid::now_v7());
        SecurityRule { id, direction, family, matches, remote, description: String::new() }
    })
}

/// The groups 100, 101, 102: the first two are of the sender and the receiver, the third of nobody.
fn groups() -> impl Strategy<Value = Vec<DesiredGroup>> {
    prop::collection::vec(prop::collection::vec(rule(), 0..9), 3).prop_map(|all| {
        let groups = all.into_iter().enumerate();
        groups
            .map(|(n, rules)| DesiredGroup {
                id: SecurityGroupId(Uuid::from_u128(100 + n as u128)),
                stateful: true,
                rules,
                members: vec![],
            })
            .collect()
    })
}

fn packet() -> impl Strategy<Value = (bool, bool, PathProtocol)> {
    let protocol = prop_oneof![
        3 => (79u16..88).prop_map(|port| PathProtocol::Tcp { port }),
        2 => (79u16..88).prop_map(|port| PathProtocol::Udp { port }),
        1 => Just(PathProtocol::Icmp),
    ];
    // Of which family, under its own address or another's, what.
    (any::<bool>(), prop::bool::weighted(0.15), protocol)
}

/// Two bare taps, as in `network_security.rs`.
struct Wire {
    sender: OwnedFd,
    receiver: OwnedFd,
}

impl Wire {
    /// Whether a frame comes out at the receiver; a mark that surely does follows it.
    fn passes(&self, frame: &[u8], mark: &[u8]) -> bool {
        let write = |frame: &[u8]| rustix::io::write(&self.sender, &[&[0; HEADER], frame].concat()).unwrap();
        write(frame);
        write(mark);
        let mut seen = false;
        loop {
            let mut ready = [PollFd::new(&self.receiver, PollFlags::IN)];
            let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
            assert_eq!(poll(&mut ready, Some(&patience)).unwrap(), 1, "the mark did not come through");
            let mut bytes = [0; 2048];
            let length = rustix::io::read(&self.receiver, &mut bytes).unwrap();
            let received = &bytes[HEADER..length];
            seen |= received.starts_with(frame);
            if received.starts_with(mark) {
                return seen;
            }
        }
    }
}

fn frame(path: frames::Path, protocol: PathProtocol) -> Vec<u8> {
    match protocol {
        // The port an explained packet is said to come from.
        PathProtocol::Tcp { port } => frames::tcp_syn(path, 49_152, port),
        PathProtocol::Udp { port } => frames::udp(path, 49_152, port),
        PathProtocol::Icmp if path.from.is_ipv4() => frames::icmp(path, 8, &[0, 1, 0, 1, 7]),
        PathProtocol::Icmp => frames::icmp(path, 128, &[0, 1, 0, 1, 7]),
    }
}

fn told(report: &PathReport) -> String {
    report.hops.iter().map(|hop| format!("\n  {} / {}: {}", hop.place, hop.part, hop.told)).collect()
}

/// Sets group members as the server would: every port's addresses.
fn fill(network: &mut DesiredNetwork, mut groups: Vec<DesiredGroup>) {
    for (n, port) in network.ports.iter_mut().enumerate() {
        port.groups = vec![groups[n].id];
        groups[n].members.clone_from(&port.addresses);
    }
    network.groups = groups;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_explained_is_what_happens() {
    let bench = Bench::new();
    let mut network = network(70);
    bench.networks.apply(&network).await.unwrap();
    let wire = Wire {
        sender: bench.networks.tap(network.id, network.ports[0].id).await.unwrap(),
        receiver: bench.networks.tap(network.id, network.ports[1].id).await.unwrap(),
    };
    // The same cases each time: one that fails is found again.
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let (mut delivered, mut dropped) = (0, 0);
    for topology in 0..TOPOLOGIES {
        fill(&mut network, groups().new_tree(&mut runner).unwrap().current());
        bench.networks.apply(&network).await.unwrap();
        for number in 0..PACKETS {
            let (v6, spoofed, protocol) = packet().new_tree(&mut runner).unwrap().current();
            let address = |port: usize| -> IpAddr {
                *network.ports[port].addresses.iter().find(|address| address.is_ipv6() == v6).unwrap()
            };
            let stranger: IpAddr = if v6 { "fd00:90:70::99" } else { "10.90.70.99" }.parse().unwrap();
            let source = if spoofed { stranger } else { address(0) };
            let (from_mac, to_mac) = (network.ports[0].mac, network.ports[1].mac);
            let path = frames::Path { from_mac, to_mac, from: source, to: address(1) };
            let bytes = frame(path, protocol);
            let size = u16::try_from(bytes.len() - 14).unwrap();
            let packet = PathPacket { source, destination: address(1), protocol, size };
            let report = bench.networks.explain_path(query(&network, 0, packet)).await.unwrap();
            let explained = report.end == PathEnd::Delivered { port: network.ports[1].id };
            let mark = [u8::try_from(topology % 250).unwrap(), u8::try_from(number).unwrap()];
            let IpAddr::V4(own) = network.ports[0].addresses[0] else { unreachable!() };
            let mark = frames::arp(from_mac, from_mac, own, std::net::Ipv4Addr::new(10, 90, mark[0], mark[1]));
            let passes = wire.passes(&bytes, &mark);
            assert_eq!(
                explained,
                passes,
                "topology {topology}: {packet:?} under {:#?}\nexplained:{}",
                network.groups,
                told(&report)
            );
            (delivered, dropped) = if passes { (delivered + 1, dropped) } else { (delivered, dropped + 1) };
        }
    }
    // A test in which nothing passes, or all does, would show nothing.
    assert!(delivered > 100 && dropped > 100, "{delivered} passed, {dropped} were dropped");
}

/// The floating IP of the paths' test, and the host that answers for it.
const FLOATING: &str = "203.0.113.60";
const AT: usize = 1;

/// Asks hosts one after another, as the server does, until the packet's way ends.
async fn walk(site: &Site, mut host: usize, mut query: PathQuery) -> PathReport {
    let mut hops = Vec::new();
    loop {
        let mut report = site.hosts[host].networks.explain_path(query).await.unwrap();
        hops.append(&mut report.hops);
        let start = match report.end {
            PathEnd::Tunnel { node, network } => {
                host = site.hosts.iter().position(|bench| IpAddr::from(bench.host.address()) == node).unwrap();
                PathStart::Tunnel { network }
            }
            PathEnd::Outside if host != AT && report.packet.destination.to_string() == FLOATING => {
                host = AT;
                PathStart::Outside { network: site.external.id }
            }
            _ => return PathReport { hops, ..report },
        };
        query = PathQuery { start, packet: report.packet };
    }
}

/// A guest, where it is, and which port of which network it is.
struct Place<'a> {
    guest: &'a Guest,
    host: usize,
    network: NetworkId,
    port: PortId,
    addresses: Vec<IpAddr>,
}

/// Two networks behind a router on two hosts, a third beside them, a floating IP, and a machine outside: who may ping whom
/// is asked and then tried.
#[tokio::test(flavor = "multi_thread")]
async fn paths_by_routers_tunnels_and_floating_ips_are_explained_as_they_are() {
    let site = Site::new(2);
    let (id, other) = (RouterId(Uuid::now_v7()), RouterId(Uuid::now_v7()));
    let (mut one, mut two, mut apart) = (tenant(71, id), tenant(72, id), tenant(73, other));
    for (n, network) in [&mut one, &mut two, &mut apart].into_iter().enumerate() {
        for (number, port) in network.ports.iter_mut().enumerate() {
            port.hostname = format!("vm{n}{number}");
        }
        // The second port of each answers pings of one family only.
        set_rules(network, 1, vec![opening(RuleMatch::Icmp { kind: None, code: None }, "0.0.0.0/0")]);
    }
    let networks = [&one, &two, &apart];
    let places: HashMap<PortId, usize> =
        networks.iter().flat_map(|n| n.ports.iter().enumerate().map(|(number, port)| (port.id, number))).collect();
    let floating = one.ports[1].addresses[0];
    let plain = router(id, &[&one, &two]);
    let leads = |host: usize| if host == AT { vec![(FLOATING, floating)] } else { vec![] };
    site.tell(&networks, &places, |host| hull_types::link::DesiredRouter {
        gateway: Some(gateway(site.external.id, host, &leads(host))),
        ..plain.clone()
    })
    .await;
    for bench in &site.hosts {
        bench.networks.apply_router(&router(other, &[&apart])).await.unwrap();
    }
    let mut guests = Vec::new();
    for network in networks {
        for host in 0..2 {
            guests.push((site.guest(host, network, host).await, host, network.id, network.ports[host].clone()));
        }
    }
    let all: Vec<Place<'_>> = guests
        .iter()
        .map(|(guest, host, network, port)| Place {
            guest,
            host: *host,
            network: *network,
            port: port.id,
            addresses: port.addresses.clone(),
        })
        .collect();
    let elsewhere: Vec<IpAddr> = [OUTSIDE, OUTSIDE6, FLOATING, "10.90.71.1", "169.254.169.254", "10.90.99.9"]
        .map(|address| address.parse().unwrap())
        .into();
    let (mut passed, mut stopped) = (0, 0);
    for from in &all {
        let targets = all.iter().filter(|to| to.port != from.port).flat_map(|to| to.addresses.clone());
        for destination in targets.chain(elsewhere.iter().copied()) {
            let source = *from.addresses.iter().find(|own| own.is_ipv4() == destination.is_ipv4()).unwrap();
            let packet = PathPacket { source, destination, protocol: PathProtocol::Icmp, size: 84 };
            let start = PathStart::Port { network: from.network, port: from.port };
            let report = walk(&site, from.host, PathQuery { start, packet }).await;
            let explained = match report.end {
                PathEnd::Dropped => false,
                // Only one machine outside answers, and not for addresses that are inside.
                PathEnd::Outside => [OUTSIDE, OUTSIDE6].contains(&destination.to_string().as_str()),
                PathEnd::Delivered { .. } | PathEnd::Service | PathEnd::Tunnel { .. } => true,
            };
            // Neighbours outside are found by the first packet, which may be lost meanwhile.
            let tries = if explained { 3 } else { 1 };
            let answered = from.guest.attempt(&format!("ping -c {tries} -i 0.2 -W 1 {destination}")).is_ok();
            assert_eq!(explained, answered, "from {source} to {destination}:{}", told(&report));
            (passed, stopped) = if answered { (passed + 1, stopped) } else { (passed, stopped + 1) };
        }
    }
    assert!(passed > 20 && stopped > 20, "{passed} passed, {stopped} were stopped");
}
