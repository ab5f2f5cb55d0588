//! Networks are kept as said: damage is mended, what is right is not touched, and nothing is left behind.

#![allow(clippy::unwrap_used)]

mod network_kit;

use hull_node::network::Networks;
use hull_testkit::eventually;
use hull_types::{id::NetworkId, network::Uplink, security_group::RuleMatch};
use network_kit::{Bench, Guest, SOON, network, rule};
use uuid::Uuid;

async fn reaches_the_world(bench: &Bench, guest: &Guest, after: &str) {
    let ping = || async { guest.attempt(&format!("ping -c 1 -W 1 {}", bench.world.address())) };
    eventually(after, SOON, ping).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_by_hand_comes_back() {
    let bench = Bench::new();
    let network = network(30);
    bench.networks.apply(&network).await.unwrap();
    let guest = bench.guest(&network, 0).await;
    guest.dhcp().unwrap();
    reaches_the_world(&bench, &guest, "before any damage").await;

    let tables = format!("{}_host", bench.prefix.as_str());
    let inside = bench.namespace(network.id);
    let damages = [
        "ip link del br0".to_owned(),
        "ip link del up0".to_owned(),
        "ip route del default".to_owned(),
        "ip addr flush dev br0".to_owned(),
        "nft delete table inet hull".to_owned(),
        "nft flush chain inet hull postrouting".to_owned(),
        "ip link set br0 down".to_owned(),
        "sysctl -qw net.ipv4.ip_forward=0".to_owned(),
    ];
    for damage in damages {
        bench.inside(network.id, &damage);
        reaches_the_world(&bench, &guest, &damage).await;
    }
    for damage in [format!("nft delete table inet {tables}"), "sysctl -qw net.ipv4.ip_forward=0".to_owned()] {
        bench.host.run(&damage).unwrap();
        reaches_the_world(&bench, &guest, &damage).await;
    }
    // DHCP's sockets were bound to a bridge that is gone; the new one is served as well.
    let leased = || async { guest.dhcp() };
    eventually("DHCP after the repair", SOON, leased).await.unwrap();

    let status = std::process::Command::new("ip").args(["netns", "del", &inside]).status().unwrap();
    assert!(status.success());
    let named = || async {
        if bench.networks.list().await.unwrap().contains(&network.id) { Ok(()) } else { Err("not listed") }
    };
    eventually("the namespace's name", SOON, named).await.unwrap();
    reaches_the_world(&bench, &guest, "the namespace named again").await;

    bench.inside(network.id, "nft flush chain bridge hull prerouting");
    let rules = || async {
        let text = bench.inside(network.id, "nft list chain bridge hull prerouting");
        if text.contains("spoofed") { Ok(()) } else { Err(text) }
    };
    eventually("the anti-spoofing rules", SOON, rules).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_repeats_and_new_rules_cost_a_stream_no_packet() {
    let mut bench = Bench::new();
    let mut network = network(31);
    bench.networks.apply(&network).await.unwrap();
    let guest = bench.guest(&network, 0).await;
    let neighbour = bench.guest(&network, 1).await;
    for guest in [&guest, &neighbour] {
        guest.dhcp().unwrap();
    }
    let outward = format!("ping -i 0.01 -q {}", bench.world.address());
    let streams = [guest.start(&outward), guest.start("ping -i 0.01 -q 10.90.31.11")];

    let held = |bench: &Bench| bench.inside(network.id, "nft -a -s -t list ruleset; ip link; ip addr; ip route");
    let before = held(&bench);
    bench.networks.apply(&network).await.unwrap();
    bench.restart();
    bench.networks.apply(&network).await.unwrap();
    assert_eq!(held(&bench), before, "applying what is right already changes nothing, rule handles included");

    for step in 0..5 {
        network.groups[0].rules.push(rule(RuleMatch::Tcp { from: 1000 + step, to: 2000 }, "10.0.0.0/8"));
        bench.networks.apply(&network).await.unwrap();
    }
    assert!(bench.inside(network.id, "nft list table inet hull").contains("2000"));
    bench.networks.explain(network.id, network.ports[0].id).await.unwrap();
    for stream in streams {
        let summary = stream.interrupt();
        // The last one may have been under way as the stream was interrupted.
        let count = |word: &str| -> u32 {
            let before = summary.split(word).next().unwrap().trim_end();
            before.rsplit([' ', '\n', ',']).next().unwrap().parse().unwrap()
        };
        let (sent, back) = (count("packets transmitted"), count("received"));
        assert!(sent > 10 && sent - back <= 1, "{summary}");
    }
    // The new instance serves what the old one did.
    let leased = || async { guest.dhcp() };
    eventually("DHCP of the new instance", SOON, leased).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_leaves_nothing() {
    let bench = Bench::new();
    let (one, mut other) = (network(32), network(33));
    other.uplink = Uplink::None;
    for network in [&one, &other] {
        bench.networks.apply(network).await.unwrap();
    }
    let mut listed = bench.networks.list().await.unwrap();
    listed.sort_unstable();
    assert_eq!(listed, [one.id, other.id]);
    assert!(!bench.traces().is_empty());
    bench.networks.remove(one.id).await.unwrap();
    assert_eq!(bench.networks.list().await.unwrap(), [other.id]);
    bench.networks.remove(other.id).await.unwrap();
    bench.networks.remove(other.id).await.unwrap();
    let gone = || async {
        let traces = bench.traces();
        if traces.is_empty() { Ok(()) } else { Err(traces) }
    };
    eventually("every trace gone", SOON, gone).await.unwrap();
    assert_eq!(std::fs::read_dir(bench.state.path().join("networks")).unwrap().count(), 0);

    bench.networks.apply(&one).await.unwrap();
    assert_eq!(bench.networks.list().await.unwrap(), [one.id], "it may come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_nobody_told_of_are_listed_and_can_be_removed() {
    let bench = Bench::new();
    let forgotten = NetworkId(Uuid::now_v7());
    let made = std::process::Command::new("ip").args(["netns", "add", &bench.namespace(forgotten)]).status().unwrap();
    assert!(made.success());
    assert_eq!(bench.networks.list().await.unwrap(), [forgotten]);
    bench.networks.remove(forgotten).await.unwrap();
    assert!(bench.networks.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_belongs_to_one_holder_and_can_be_taken_over() {
    let bench = Bench::new();
    let network = network(34);
    let port = network.ports[0].id;
    assert!(bench.networks.tap(network.id, port).await.is_err(), "before the network is told");
    bench.networks.apply(&network).await.unwrap();
    let guest = bench.guest(&network, 0).await;
    guest.dhcp().unwrap();
    let taken = bench.networks.tap(network.id, port).await.unwrap_err();
    assert!(taken.detail.contains("held by another process"), "{taken}");
    drop(guest.unplug());
    let again = bench.guest(&network, 0).await;
    again.dhcp().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_goes_off_with_the_last_network_where_hull_turned_it_on() {
    let setting = |bench: &Bench| {
        let text = bench.host.run("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding").unwrap();
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    for (before, after) in [("0", ["0", "0"]), ("1", ["1", "0"])] {
        let mut bench = Bench::new();
        let line = format!("sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv4.ip_forward={before}");
        bench.host.run(&line).unwrap();
        let (one, other) = (network(34), network(35));
        bench.networks.apply(&one).await.unwrap();
        bench.networks.apply(&other).await.unwrap();
        assert_eq!(setting(&bench), ["1", "1"]);
        bench.networks.remove(one.id).await.unwrap();
        assert_eq!(setting(&bench), ["1", "1"], "the other one needs it");
        // Another life of Hull's knows it as well.
        bench.restart();
        bench.networks.apply(&other).await.unwrap();
        bench.networks.remove(other.id).await.unwrap();
        assert_eq!(setting(&bench), after, "as it was before Hull came: {before}");
        assert_eq!(bench.traces(), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_stays_on_while_another_hull_has_networks_on_the_host() {
    let bench = Bench::new();
    bench.host.run("sysctl -qw net.ipv4.ip_forward=0").unwrap();
    let network = network(36);
    bench.networks.apply(&network).await.unwrap();
    bench.host.run("nft add table inet other_host").unwrap();
    bench.networks.remove(network.id).await.unwrap();
    assert_eq!(bench.host.run("sysctl -n net.ipv4.ip_forward").unwrap().trim(), "1");
}
