//! Rules while they change: no packet is lost or let through, and what stands afterwards is what would have been loaded
//! at once.

#![allow(clippy::unwrap_used)]

mod network_kit;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hull_node::network::Networks;
use hull_testkit::eventually;
use hull_types::{
    id::SecurityGroupId,
    link::DesiredNetwork,
    network::Mac,
    port::AddressPair,
    security_group::{Direction, Remote, RuleMatch},
};
use network_kit::{Bench, SOON, frames, group, network, rule, wire::Wire};
use uuid::Uuid;

const OTHER: SecurityGroupId = SecurityGroupId(Uuid::from_u128(2));

/// Each of these lets the neighbour's datagrams to port 5000 in and none to port 6000.
fn variants(network: &DesiredNetwork) -> Vec<DesiredNetwork> {
    let allowed = rule(RuleMatch::Udp { from: 5000, to: 5000 }, "0.0.0.0/0");
    let mut members = allowed.clone();
    members.remote = Remote::Group(OTHER);
    let changed = |change: &dyn Fn(&mut DesiredNetwork)| {
        let mut network = network.clone();
        network.groups[0].rules.push(allowed.clone());
        network.groups.push(group(OTHER, vec![]));
        change(&mut network);
        network
    };
    vec![
        changed(&|_| {}),
        changed(&|network| {
            let range = rule(RuleMatch::Udp { from: 4000, to: 5999 }, "10.0.0.0/8");
            network.groups[0].rules.insert(0, range);
        }),
        changed(&|network| {
            network.groups[0].rules.clear();
            network.groups[0].rules.push(members.clone());
            network.groups[1].members = vec![network.ports[0].addresses[0], "10.9.9.9".parse().unwrap()];
        }),
        changed(&|network| {
            network.groups[1].rules.push(allowed.clone());
            network.ports[1].groups = vec![OTHER];
        }),
        changed(&|network| network.ports[0].groups = vec![OTHER]),
        changed(&|network| {
            let mut out = rule(RuleMatch::Udp { from: 1, to: 65535 }, "10.0.0.0/8");
            out.direction = Direction::Egress;
            network.groups[0].rules.push(out);
        }),
        changed(&|network| network.groups[0].stateful = false),
        changed(&|network| {
            let addresses = "10.77.0.0/16".parse().unwrap();
            network.ports[1].allowed_pairs = vec![AddressPair { addresses, mac: Some(Mac([2, 0, 0, 0, 0, 9])) }];
            network.ports[0].bandwidth.egress_kbps = Some(1_000_000);
        }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_loses_nothing_and_gains_nothing_while_rules_change() {
    let bench = Bench::new();
    let variants = variants(&network(40));
    let wire = Wire::new(&bench, variants[0].clone()).await;
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    let stream = std::thread::spawn(move || {
        let path = wire.path(false);
        let mut sent = 0u32;
        while !end.load(Ordering::Relaxed) {
            // Nobody answers, so no packet passes for an earlier one's sake; and fewer connections than a guest may have.
            let port = 10_000 + (sent % 8_000) as u16;
            let (allowed, forbidden) = (frames::udp(path, port, 5000), frames::udp(path, port, 6000));
            wire.write(&forbidden);
            wire.write(&allowed);
            loop {
                let seen = wire.next("an allowed packet");
                assert!(!seen.starts_with(&forbidden), "a forbidden packet was let through");
                if seen.starts_with(&allowed) {
                    break;
                }
            }
            sent += 1;
        }
        sent
    });
    for round in 0..6 {
        for step in 0..variants.len() {
            bench.networks.apply(&variants[(step * 3 + round) % variants.len()]).await.unwrap();
        }
        // Somebody's hand in our tables: all is loaded anew.
        bench.inside(variants[0].id, "nft add chain inet hull stranger");
        bench.networks.apply(&variants[round]).await.unwrap();
        assert!(!bench.inside(variants[0].id, "nft list table inet hull").contains("stranger"));
    }
    ended.store(true, Ordering::Relaxed);
    let sent = stream.join().unwrap();
    assert!(sent > 48, "{sent} packets are not many for 48 changes");
}

const METERS: [&str; 8] =
    ["arp_rate", "dhcp_rate", "dns_rate", "nd_rate", "metadata_rate", "drops", "tracked4", "tracked6"];

/// What the kernel holds, whatever the order it came in: each chain's rules, each set's elements.
fn held(bench: &Bench, network: &DesiredNetwork) -> BTreeMap<String, Vec<String>> {
    let listing = bench.inside(network.id, "nft -j list ruleset");
    let listing: serde_json::Value = serde_json::from_str(&listing).unwrap();
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for object in listing["nftables"].as_array().unwrap() {
        let (kind, body) = object.as_object().unwrap().iter().next().unwrap();
        let of = |key: &str| format!("{} {} {}", body["family"], body["table"], body[key]);
        match kind.as_str() {
            "rule" => {
                let mut rule = body["expr"].to_string();
                // Counters count.
                if let Some(at) = rule.find("{\"counter\"") {
                    rule.truncate(at);
                }
                held.entry(of("chain")).or_default().push(rule);
            }
            "chain" => drop(held.entry(of("name")).or_default()),
            // What comes and goes with traffic.
            "set" | "map" if METERS.iter().any(|meter| body["name"] == *meter) => {}
            "set" | "map" => {
                let elements = body["elem"].as_array().into_iter().flatten().map(ToString::to_string);
                let elements: BTreeSet<String> = elements.collect();
                held.insert(of("name"), elements.into_iter().collect());
            }
            _ => {}
        }
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_add_up_to_what_would_be_loaded_at_once() {
    let bench = Bench::new();
    let network = network(41);
    let mut variants = variants(&network);
    variants[3].ports[0].port_security = false;
    for variant in [0, 3, 7, 2, 5, 6, 1, 4, 7].map(|index| &variants[index]) {
        bench.networks.apply(variant).await.unwrap();
        let changed = held(&bench, &network);
        assert!(changed.len() > 30, "{changed:?}");
        bench.inside(network.id, "nft flush ruleset");
        bench.networks.apply(variant).await.unwrap();
        let loaded = held(&bench, &network);
        for (name, rules) in &loaded {
            assert_eq!(changed.get(name), Some(rules), "{name}");
        }
        assert_eq!(loaded.len(), changed.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_rules_are_left_alone_and_ours_are_mended() {
    let bench = Bench::new();
    let network = network(42);
    bench.networks.apply(&network).await.unwrap();
    let ours = || bench.inside(network.id, "nft -a -s -t list table inet hull; nft -a -s -t list table bridge hull");
    let before = ours();
    bench.inside(network.id, "nft add table inet stranger; nft add chain inet stranger mine");
    bench.networks.apply(&network).await.unwrap();
    assert_eq!(ours(), before, "somebody else's table is no reason to touch ours");

    bench.inside(network.id, "nft delete element inet hull to4 { 10.90.42.10 }");
    let mended = || async {
        let text = bench.inside(network.id, "nft list map inet hull to4");
        if text.contains("10.90.42.10") { Ok(()) } else { Err(text) }
    };
    eventually("the element", SOON, mended).await.unwrap();
    assert!(bench.inside(network.id, "nft list tables").contains("stranger"));
}
