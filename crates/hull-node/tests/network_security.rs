//! What passes on a network and what does not: frames written to one tap and looked for on another, and real programs.

#![allow(clippy::unwrap_used)]

mod network_kit;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use hull_node::network::Networks;
use hull_testkit::eventually;
use hull_types::{network::Mac, security_group::RuleMatch};
use network_kit::{
    Bench, SOON,
    frames::{self, EVERYBODY, Path},
    network, rule,
    wire::{Wire, v4, v6},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_port_speaks_for_itself_alone() {
    let bench = Bench::new();
    let mut wire = Wire::new(&bench, network(10)).await;
    let (honest4, honest6) = (wire.path(false), wire.path(true));
    let own4 = v4(honest4.from);
    let gateway4 = Ipv4Addr::new(10, 90, 10, 1);
    let gateway6: Ipv6Addr = "fd00:90:10::1".parse().unwrap();
    let stranger = Mac([0x52, 0x54, 9, 9, 9, 9]);
    let echo = [0, 1, 0, 1, b'h', b'u', b'l', b'l'];
    let to_all = |path: Path| Path { to_mac: EVERYBODY, to: Ipv4Addr::BROADCAST.into(), ..path };
    let to_nodes = Path { to_mac: Mac([0x33, 0x33, 0, 0, 0, 1]), to: "ff02::1".parse().unwrap(), ..honest6 };

    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("its own ARP", frames::arp(honest4.from_mac, honest4.from_mac, own4, v4(honest4.to)), true),
        ("an ARP probe", frames::arp(honest4.from_mac, honest4.from_mac, Ipv4Addr::UNSPECIFIED, own4), true),
        ("ARP for the gateway", frames::arp(honest4.from_mac, honest4.from_mac, gateway4, v4(honest4.to)), false),
        ("ARP with another MAC inside", frames::arp(honest4.from_mac, stranger, own4, v4(honest4.to)), false),
        ("ARP in another's frame", frames::arp(stranger, stranger, own4, v4(honest4.to)), false),
        ("its own ping", frames::icmp(honest4, 8, &echo), true),
        ("ping from another address", frames::icmp(Path { from: gateway4.into(), ..honest4 }, 8, &echo), false),
        ("ping from another MAC", frames::icmp(Path { from_mac: stranger, ..honest4 }, 8, &echo), false),
        ("its own ping6", frames::icmp(honest6, 128, &echo), true),
        ("ping6 from another address", frames::icmp(Path { from: gateway6.into(), ..honest6 }, 128, &echo), false),
        (
            "ping6 from another link-local",
            frames::icmp(Path { from: "fe80::1".parse().unwrap(), ..honest6 }, 128, &echo),
            false,
        ),
        ("its own advertisement", frames::advertisement(honest6, v6(honest6.from)), true),
        ("advertising the gateway", frames::advertisement(honest6, gateway6), false),
        ("advertising its neighbour", frames::advertisement(honest6, v6(honest6.to)), false),
        ("a router advertisement", frames::icmp(to_nodes, 134, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]), false),
        (
            "the same behind an option",
            frames::behind_option(&frames::icmp(to_nodes, 134, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0])),
            false,
        ),
        ("its own ping6 behind an option", frames::behind_option(&frames::icmp(honest6, 128, &echo)), true),
        ("a redirect", frames::icmp(honest6, 137, &[0; 36]), false),
        ("a DHCP offer", frames::udp(to_all(honest4), 67, 68), false),
        ("a DHCPv6 reply", frames::udp(honest6, 547, 546), false),
        (
            "a question to DHCP",
            frames::udp(Path { from: Ipv4Addr::UNSPECIFIED.into(), ..to_all(honest4) }, 68, 67),
            false,
        ),
        ("a VLAN tag", frames::ethernet(honest4.to_mac, honest4.from_mac, 0x8100, &[0, 5, 8, 0, 0x45, 0]), false),
        ("LLDP", frames::ethernet(Mac([1, 0x80, 0xc2, 0, 0, 0xe]), honest4.from_mac, 0x88cc, &[0; 46]), false),
    ];
    for (what, frame, passes) in cases {
        assert_eq!(wire.passes(&frame), passes, "{what}");
    }
    let told = bench.networks.explain(wire.network.id, wire.network.ports[0].id).await.unwrap().join("\n");
    assert!(told.contains("packets from it were dropped as not its own"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_rules_let_in_comes_in() {
    let bench = Bench::new();
    let mut wire = Wire::new(&bench, network(11)).await;
    let (to4, to6) = (wire.path(false), wire.path(true));
    let multicast = Path { to_mac: Mac([1, 0, 0x5e, 0, 0, 0xfb]), to: Ipv4Addr::new(224, 0, 0, 251).into(), ..to4 };
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("ssh", frames::tcp_syn(to4, 40000, 22), true),
        ("ssh over IPv6", frames::tcp_syn(to6, 40000, 22), true),
        ("http", frames::tcp_syn(to4, 40000, 80), false),
        ("http over IPv6", frames::tcp_syn(to6, 40000, 80), false),
        ("udp", frames::udp(to4, 40000, 22), false),
        ("multicast", frames::udp(multicast, 5353, 5353), false),
        // The rules are found by the address, so the MAC must not lead to another port than the address does.
        ("its own address at another's MAC", frames::tcp_syn(Path { to: to4.from, ..to4 }, 40001, 22), false),
        (
            "a foreign address at another's MAC",
            frames::udp(Path { to: "192.0.2.9".parse().unwrap(), ..to4 }, 1, 2),
            false,
        ),
    ];
    for (what, frame, passes) in cases {
        assert_eq!(wire.passes(&frame), passes, "{what}");
    }

    let mut changed = wire.network.clone();
    let rules = vec![
        rule(RuleMatch::Tcp { from: 79, to: 81 }, "10.90.11.0/24"),
        rule(RuleMatch::Tcp { from: 22, to: 80 }, "203.0.113.0/24"),
        rule(RuleMatch::Udp { from: 53, to: 53 }, "0.0.0.0/0"),
        rule(RuleMatch::Icmp { kind: Some(128), code: None }, "fd00:90:11::/64"),
    ];
    network_kit::set_rules(&mut changed, 1, rules);
    bench.networks.apply(&changed).await.unwrap();
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("ssh, no longer", frames::tcp_syn(to4, 41000, 22), false),
        ("http from the range", frames::tcp_syn(to4, 41000, 80), true),
        ("a port beside it", frames::tcp_syn(to4, 41000, 82), false),
        ("udp to 53", frames::udp(to4, 41000, 53), true),
        ("a ping6 of the right type", frames::icmp(to6, 128, &[0, 9, 0, 1]), true),
        ("ping", frames::icmp(to4, 8, &[0, 9, 0, 1]), false),
    ];
    for (what, frame, passes) in cases {
        assert_eq!(wire.passes(&frame), passes, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_with_another_mac_gets_no_lease() {
    let bench = Bench::new();
    let network = network(12);
    bench.networks.apply(&network).await.unwrap();
    let guest = bench.guest(&network, 0).await;
    guest.run("ip link set eth0 address 52:54:00:99:99:99");
    guest.dhcp().unwrap_err();
    guest.run(&format!("ip link set eth0 address {}", network.ports[0].mac));
    guest.dhcp().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_reach_neither_the_hosts_services_nor_other_networks() {
    let bench = Bench::new();
    let (one, other) = (network(13), network(14));
    for network in [&one, &other] {
        bench.networks.apply(network).await.unwrap();
    }
    let (guest, foreign) = (bench.guest(&one, 0).await, bench.guest(&other, 0).await);
    guest.dhcp().unwrap();
    foreign.dhcp().unwrap();
    let mut httpd = bench.host.command("busybox");
    httpd.args(["httpd", "-f", "-p", "9999", "-h"]).arg(bench.state.path());
    let _server = network_kit::Running::start(httpd);
    let host = bench.host.address();
    // The service is there, and the world is reached: what fails below fails for the rules.
    let reached = || async { bench.world.run(&format!("curl -sf --max-time 5 http://{host}:9999/resolv.conf")) };
    eventually("the host's service", SOON, reached).await.unwrap();
    guest.run(&format!("ping -c 1 -W 5 {}", bench.world.address()));
    foreign.run(&format!("ping -c 1 -W 5 {}", bench.world.address()));

    for target in [host.to_string(), "10.90.13.1".to_owned()] {
        guest.attempt(&format!("curl -sf --max-time 2 http://{target}:9999/resolv.conf")).unwrap_err();
    }
    guest.attempt("ping -c 2 -W 2 10.90.14.10").unwrap_err();
    bench.host.run("ping -c 1 -W 5 10.90.14.10").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_with_the_same_addresses_live_side_by_side() {
    let bench = Bench::new();
    let (one, mut two) = (network(15), network(15));
    two.ports[0].mac = Mac([0x52, 0x54, 7, 7, 7, 7]);
    for network in [&one, &two] {
        bench.networks.apply(network).await.unwrap();
    }
    for network in [&one, &two] {
        let guest = bench.guest(network, 0).await;
        guest.dhcp().unwrap();
        guest.run(&format!("ping -c 2 -W 5 {}", bench.world.address()));
        let server = guest.start(&format!("busybox nc -l -p 22 -e echo {}", network.id));
        let address = network.ports[0].addresses[0];
        let connected = || async {
            let mut stream = bench.networks.connect(network.id, address, 22).await?;
            let mut text = String::new();
            let read = tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text);
            let _ = tokio::time::timeout(Duration::from_secs(10), read).await;
            Ok::<_, hull_types::error::Error>(text)
        };
        let text = eventually("a connection from inside", SOON, connected).await.unwrap();
        assert_eq!(text.trim(), network.id.to_string());
        drop(server);
    }
}
