//! `explain path` says where a packet stops, and a real packet agrees: topologies, rules, faults and packets are drawn
//! from numbers, each packet is asked about and then sent.
//!
//! A disagreement names its number: `HULL_PATH_SEED=17` tries that topology alone, `HULL_PATH_SEED=15,17` after another.

#![allow(clippy::unwrap_used)]

mod network_kit;

use std::{collections::HashMap, net::IpAddr};

use hull_node::network::Networks;
use hull_types::{
    id::{NetworkId, PortId, RouterId},
    path::{PathEnd, PathPacket, PathProtocol, PathQuery, PathReport, PathStart},
    security_group::RuleMatch,
};
use network_kit::{
    Guest, rule as opening, set_rules,
    site::{OUTSIDE, OUTSIDE6, Site, gateway, router, tenant},
    topology::Topology,
    yard::Yard,
};
use uuid::Uuid;

fn told(report: &PathReport) -> String {
    report.hops.iter().map(|hop| format!("\n  {} / {}: {}", hop.place, hop.part, hop.told)).collect()
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

/// How many topologies are drawn.
const DRAWN: u64 = 500;
/// How many are built and tried at once.
const YARDS: u64 = 2;

/// The topologies to try: all, or those that `HULL_PATH_SEED` names (`17`, or `15,17`), one after another.
fn chosen() -> Option<Vec<u64>> {
    let named = std::env::var("HULL_PATH_SEED").ok()?;
    Some(named.split(',').map(|seed| seed.trim().parse().unwrap()).collect())
}

/// What disagreed, and how much passed and was stopped.
#[derive(Default)]
struct Tally {
    wrong: Vec<String>,
    passed: u32,
    stopped: u32,
}

async fn tried(number: u64, seeds: Vec<u64>) -> Tally {
    let mut yard = Yard::new(usize::try_from(number).unwrap());
    let (mut tally, mut before) = (Tally::default(), None);
    for seed in seeds {
        let topology = Topology::new(seed);
        yard.build(&topology).await;
        let mut outcomes = Vec::new();
        for &shot in &topology.shots {
            outcomes.push(yard.fire(&topology, shot).await);
        }
        for mut outcome in outcomes {
            yard.later(&mut outcome);
            *(if outcome.passes() { &mut tally.passed } else { &mut tally.stopped }) += 1;
            if !outcome.agrees(&topology) {
                let again = before.map_or_else(String::new, |before| format!(", HULL_PATH_SEED={before},{seed}"));
                let wrong = format!(
                    "HULL_PATH_SEED={seed}{again}: {:?} came out at {:?} (answered: {}), but it was said to be {:?}:{}\n{:#?}",
                    outcome.shot,
                    outcome.arrived,
                    outcome.answered,
                    outcome.report.end,
                    told(&outcome.report),
                    Topology { shots: vec![], ..topology.clone() },
                );
                // At once, lest it be lost if the rest takes too long.
                eprintln!("{wrong}");
                tally.wrong.push(wrong);
            }
        }
        before = Some(seed);
        // Enough to look into.
        if tally.wrong.len() > 20 {
            break;
        }
    }
    tally
}

/// Networks, routers, ways out, floating IPs, rules and faults, drawn and built by the node's own code.
#[tokio::test(flavor = "multi_thread")]
async fn in_five_hundred_topologies_packets_go_as_explained() {
    let yards = if chosen().is_some() { 1 } else { YARDS };
    let share = |yard: u64| chosen().unwrap_or_else(|| (yard..DRAWN).step_by(YARDS as usize).collect());
    let all: Vec<_> = (0..yards).map(|yard| tokio::spawn(tried(yard, share(yard)))).collect();
    let (mut passed, mut stopped, mut wrong) = (0, 0, Vec::new());
    for one in all {
        let tally = one.await.unwrap();
        (passed, stopped) = (passed + tally.passed, stopped + tally.stopped);
        wrong.extend(tally.wrong);
    }
    assert!(wrong.is_empty(), "{} of {} disagree:\n{}", wrong.len(), passed + stopped, wrong.join("\n\n"));
    // A test in which nothing passes, or all does, would show nothing.
    assert!(chosen().is_some() || (passed > 400 && stopped > 400), "{passed} passed, {stopped} were stopped");
}
