//! What single ports may do beyond the ordinary, and be kept from: further addresses, no security, no state, limits.

#![allow(clippy::unwrap_used)]

mod network_kit;

use std::net::Ipv4Addr;

use hull_node::network::Networks;
use hull_testkit::eventually;
use hull_types::{
    network::{Mac, Uplink},
    port::AddressPair,
    security_group::{Direction, RuleMatch},
};
use network_kit::{
    Bench, SOON,
    frames::{self, Path},
    metadata, network, rule, set_rules,
    wire::{Wire, v4, v6},
};

const ECHO: [u8; 8] = [0, 1, 0, 1, b'h', b'u', b'l', b'l'];

#[tokio::test(flavor = "multi_thread")]
async fn allowed_pairs_are_addresses_a_port_may_send_from_and_be_reached_at() {
    let bench = Bench::new();
    let mut network = network(50);
    let shared = Mac([0, 0, 0x5e, 0, 1, 7]);
    network.ports[0].allowed_pairs = vec![
        AddressPair { addresses: "10.90.50.128/25".parse().unwrap(), mac: Some(shared) },
        AddressPair { addresses: "10.77.0.0/16".parse().unwrap(), mac: None },
        AddressPair { addresses: "fd00:77::/64".parse().unwrap(), mac: None },
    ];
    let mut wire = Wire::new(&bench, network).await;
    let (own4, own6) = (wire.path(false), wire.path(true));
    let from = |mac: Mac, from: &str| Path { from_mac: mac, from: from.parse().unwrap(), ..own4 };
    let arp = |mac: Mac, address: &str| frames::arp(mac, mac, address.parse().unwrap(), v4(own4.to));
    let target = |address: &str| frames::advertisement(own6, address.parse().unwrap());
    let cases = [
        ("a pair's address at its MAC", frames::icmp(from(shared, "10.90.50.200"), 8, &ECHO), true),
        ("a pair's address at the port's MAC", frames::icmp(from(own4.from_mac, "10.90.50.200"), 8, &ECHO), false),
        ("beside the pair", frames::icmp(from(shared, "10.90.50.100"), 8, &ECHO), false),
        ("a pair without a MAC", frames::icmp(from(own4.from_mac, "10.77.3.4"), 8, &ECHO), true),
        ("ARP for a pair", arp(shared, "10.90.50.200"), true),
        ("ARP beside it", arp(shared, "10.90.50.99"), false),
        ("ARP for the gateway", arp(shared, "10.90.50.1"), false),
        ("IPv6", frames::icmp(Path { from: "fd00:77::5".parse().unwrap(), ..own6 }, 128, &ECHO), true),
        ("beside it", frames::icmp(Path { from: "fd00:78::5".parse().unwrap(), ..own6 }, 128, &ECHO), false),
        ("advertising it", target("fd00:77::5"), true),
        ("advertising another", target("fd00:78::5"), false),
    ];
    for (what, frame, passes) in cases {
        assert_eq!(wire.passes(&frame), passes, "{what}");
    }
    let mut back = wire.reversed();
    let own = back.path(false);
    let to = |mac: Mac, to: &str| Path { to_mac: mac, to: to.parse().unwrap(), ..own };
    for (what, path, passes) in [
        ("a pair's address at its MAC", to(shared, "10.90.50.200"), true),
        ("beside it", to(shared, "10.90.50.100"), false),
        ("at another MAC", to(own.to_mac, "10.90.50.200"), false),
    ] {
        assert_eq!(back.passes(&frames::tcp_syn(path, 40_000, 22)), passes, "{what}");
        assert!(!back.passes(&frames::tcp_syn(path, 40_001, 80)), "{what}, and no rule lets it in");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_security_may_be_anything_but_another_port_of_the_network() {
    let bench = Bench::new();
    let mut network = network(51);
    network.ports[0].port_security = false;
    let mut third = network.ports[1].clone();
    third.id = hull_types::id::PortId(uuid::Uuid::now_v7());
    third.mac = Mac([0x52, 0x54, 0, 0, 51, 12]);
    third.addresses = vec!["10.90.51.12".parse().unwrap(), "fd00:90:51::c".parse().unwrap()];
    network.ports.push(third.clone());
    let gateway = network.subnets[0].gateway.unwrap();
    let mut wire = Wire::new(&bench, network).await;
    let (own4, own6) = (wire.path(false), wire.path(true));
    let stranger = Mac([2, 9, 9, 9, 9, 9]);
    let from = |from: &str| Path { from: from.parse().unwrap(), ..own4 };
    let arp = |mac: Mac, address: Ipv4Addr| frames::arp(mac, mac, address, v4(own4.to));
    let third4 = v4(third.addresses[0]);
    let cases = [
        ("another's customer", frames::icmp(from("192.0.2.1"), 8, &ECHO), true),
        ("another MAC", frames::icmp(Path { from_mac: stranger, ..own4 }, 8, &ECHO), true),
        ("ARP for it", arp(stranger, Ipv4Addr::new(192, 0, 2, 1)), true),
        ("a neighbour's address", frames::icmp(from("10.90.51.12"), 8, &ECHO), false),
        ("a neighbour's IPv6 address", frames::icmp(Path { from: third.addresses[1], ..own6 }, 128, &ECHO), false),
        ("a neighbour's MAC", frames::icmp(Path { from_mac: third.mac, ..own4 }, 8, &ECHO), false),
        ("ARP for a neighbour", arp(own4.from_mac, third4), false),
        ("ARP for the gateway", arp(own4.from_mac, v4(gateway)), false),
        ("advertising a neighbour", frames::advertisement(own6, v6(third.addresses[1])), false),
        (
            "a router's advertisement",
            frames::icmp(Path { to: "ff02::1".parse().unwrap(), ..own6 }, 134, &[0; 12]),
            false,
        ),
        ("a lease", frames::udp(own4, 67, 68), false),
        ("what the receiver's groups do not let in", frames::tcp_syn(own4, 40_000, 80), false),
    ];
    for (what, frame, passes) in cases {
        assert_eq!(wire.passes(&frame), passes, "{what}");
    }
    let mut back = wire.reversed();
    let to = back.path(false);
    assert!(back.passes(&frames::tcp_syn(to, 40_000, 80)), "no group keeps anything from it");
    let elsewhere = Path { to: "192.0.2.1".parse().unwrap(), ..to };
    assert!(back.passes(&frames::udp(elsewhere, 1000, 2000)), "nor is it asked whether it owns the address");
    assert!(
        !back.passes(&frames::icmp(Path { from: third.addresses[0], ..to }, 8, &ECHO)),
        "the others are kept as ever"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateless_groups_rules_are_asked_for_each_packet() {
    let bench = Bench::new();
    let mut network = network(52);
    for port in [0, 1] {
        set_rules(&mut network, port, vec![rule(RuleMatch::Udp { from: 53, to: 53 }, "0.0.0.0/0")]);
    }
    network.groups.iter_mut().for_each(|group| group.stateful = false);
    let mut wire = Wire::new(&bench, network.clone()).await;
    let path = wire.path(false);
    assert!(wire.passes(&frames::udp(path, 40_000, 53)), "the question");
    assert!(bench.inside(network.id, "cat /proc/net/nf_conntrack 2>/dev/null || true").is_empty());
    let mut back = wire.reversed();
    let path = back.path(false);
    assert!(!back.passes(&frames::udp(path, 53, 40_000)), "an answer is a packet like any other");

    let mut stateful = network.clone();
    stateful.groups.iter_mut().for_each(|group| group.stateful = true);
    bench.networks.apply(&stateful).await.unwrap();
    let mut wire = back.reversed();
    let path = wire.path(false);
    assert!(wire.passes(&frames::udp(path, 40_002, 53)), "the question");
    let mut back = wire.reversed();
    let path = back.path(false);
    assert!(back.passes(&frames::udp(path, 53, 40_002)), "its answer belongs to it");
    assert!(!back.passes(&frames::udp(path, 53, 40_003)), "this one to none");
}

#[tokio::test(flavor = "multi_thread")]
async fn egress_rules_shut_what_they_do_not_name() {
    let bench = Bench::new();
    let mut network = network(53);
    let mut out = rule(RuleMatch::Tcp { from: 22, to: 22 }, "10.90.53.0/24");
    out.direction = Direction::Egress;
    set_rules(&mut network, 0, vec![out]);
    set_rules(&mut network, 1, vec![rule(RuleMatch::Any, "0.0.0.0/0"), rule(RuleMatch::Any, "::/0")]);
    let mut wire = Wire::new(&bench, network).await;
    let (to4, to6) = (wire.path(false), wire.path(true));
    for (what, frame, passes) in [
        ("what they name", frames::tcp_syn(to4, 40_000, 22), true),
        ("another port", frames::tcp_syn(to4, 40_000, 23), false),
        ("the other family", frames::tcp_syn(to6, 40_000, 22), false),
    ] {
        assert_eq!(wire.passes(&frame), passes, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn icmp_by_type_and_code_and_protocols_by_number() {
    let bench = Bench::new();
    let mut network = network(54);
    let rules = vec![
        rule(RuleMatch::Icmp { kind: Some(3), code: Some(0) }, "0.0.0.0/0"),
        rule(RuleMatch::Icmp { kind: Some(8), code: None }, "10.90.54.0/24"),
        rule(RuleMatch::Other { number: 17 }, "0.0.0.0/0"),
    ];
    set_rules(&mut network, 1, rules);
    set_rules(&mut network, 0, vec![]);
    network.groups.iter_mut().for_each(|group| group.stateful = false);
    let mut wire = Wire::new(&bench, network).await;
    let path = wire.path(false);
    for (what, frame, passes) in [
        ("the type and code", frames::icmp(path, 3, &[0; 32]), true),
        ("the type of any code", frames::icmp(path, 8, &ECHO), true),
        ("another type", frames::icmp(path, 11, &[0; 32]), false),
        ("the protocol", frames::udp(path, 1, 2), true),
        ("another protocol", frames::tcp_syn(path, 1, 2), false),
    ] {
        assert_eq!(wire.passes(&frame), passes, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_a_gateway_of_ours_has_names_and_metadata() {
    let bench = Bench::new();
    let mut network = network(55);
    network.uplink = Uplink::None;
    for subnet in &mut network.subnets {
        subnet.gateway_is_ours = false;
    }
    bench.networks.apply(&network).await.unwrap();
    bench.networks.set_metadata(metadata(&network.ports[0])).await.unwrap();
    let guest = bench.guest(&network, 0).await;
    let told = guest.dhcp().unwrap();
    assert!(told.contains("staticroutes=169.254.169.254/32 0.0.0.0 169.254.169.253/32 0.0.0.0\n"), "{told}");
    assert!(!told.contains("router="), "{told}");
    let id = network.ports[0].vm.unwrap().to_string();
    let metadata = "curl -sSf --max-time 20 http://169.254.169.254/latest/meta-data/instance-id";
    let name = "dig +short +time=5 +tries=3 @169.254.169.253 vm11.hull.internal";
    guest.run("ip route add 169.254.169.254 dev eth0; ip route add 169.254.169.253 dev eth0");
    assert_eq!(guest.run(metadata), id, "on the link");
    assert_eq!(guest.run(name).trim(), "10.90.55.11");

    // A gateway outside, which only has a MAC here: what it is sent for these addresses is answered by the bridge.
    guest.run("ip route del 169.254.169.254; ip route del 169.254.169.253; ip route add default via 10.90.55.1");
    guest.run("ip neigh replace 10.90.55.1 lladdr 52:54:00:99:99:99 dev eth0 nud permanent");
    assert_eq!(guest.run(metadata), id, "by the gateway");
    assert_eq!(guest.run(name).trim(), "10.90.55.11");

    guest.address("fd00:90:55::a/64");
    guest.run("ip -6 route add default via fd00:90:55::1; ip -6 neigh replace fd00:90:55::1 lladdr 52:54:00:99:99:99 dev eth0 nud permanent");
    assert_eq!(guest.run("curl -gsSf --max-time 20 http://[fd00:ec2::254]/latest/meta-data/instance-id"), id);
    assert_eq!(guest.run("dig +short +time=5 +tries=3 @fd00:ec2::253 vm11.hull.internal").trim(), "10.90.55.11");
}

#[tokio::test(flavor = "multi_thread")]
async fn bandwidth_is_what_was_given_and_is_mended() {
    let bench = Bench::new();
    let mut network = network(56);
    let udp = RuleMatch::Udp { from: 9, to: 9 };
    set_rules(&mut network, 0, vec![rule(udp, "0.0.0.0/0")]);
    set_rules(&mut network, 1, vec![rule(udp, "0.0.0.0/0")]);
    network.ports[0].bandwidth.ingress_kbps = Some(8_000);
    network.ports[0].bandwidth.egress_kbps = Some(1_000);
    let wire = Wire::new(&bench, network.clone()).await;
    let shown = || bench.inside(network.id, "tc qdisc show; nft list table bridge hull");
    let limited = || async {
        let text = shown();
        if text.contains("rate 8Mbit") && text.contains("over 125000 bytes/second") { Ok(()) } else { Err(text) }
    };
    eventually("both limits", SOON, limited).await.unwrap();
    let tap = bench.inside(network.id, "tc qdisc show | grep -o 'tap[0-9a-f]*' | head -1");
    bench.inside(network.id, &format!("tc qdisc del dev {} root", tap.trim()));
    eventually("the queue again", SOON, limited).await.unwrap();

    // What a bucket held at first, and what ran into it meanwhile, however long the machine took.
    let most = |burst: f64, rate: f64, took: std::time::Duration| (burst + rate * took.as_secs_f64()) * 1.05;
    let frame = |wire: &Wire| frames::datagram(wire.path(false), 40_000, 9, &[7; 1000]);
    let (sent, took) = wire.flood(&frame(&wire), 600);
    assert!(sent > 0 && (sent * 1000) as f64 <= most(131_072.0 + 125_000.0, 125_000.0, took), "{sent} in {took:?}");
    let wire = wire.reversed();
    let (received, took) = wire.flood(&frame(&wire), 600);
    assert!(received > 0 && (received * 1000) as f64 <= most(50_000.0, 1_000_000.0, took), "{received} in {took:?}");

    network.ports[0].bandwidth = hull_types::port::Bandwidth::default();
    bench.networks.apply(&network).await.unwrap();
    let text = shown();
    assert!(!text.contains("tbf") && !text.contains("rate_tap"), "{text}");
    assert_eq!(wire.flood(&frame(&wire), 600).0, 600, "nothing is lost without limits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_answers_is_one_connection() {
    let bench = Bench::new();
    let mut network = network(58);
    set_rules(&mut network, 1, vec![rule(RuleMatch::Udp { from: 9, to: 9 }, "0.0.0.0/0")]);
    let wire = Wire::new(&bench, network).await;
    let frame = frames::udp(wire.path(false), 40_000, 9);
    // More packets than a port may have connections.
    for round in 0..40 {
        assert_eq!(wire.flood(&frame, 500).0, 500, "in round {round}");
    }
}

/// How many connections a port may have at once.
const CONNECTIONS: usize = 16384;

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_floods_harms_no_neighbour() {
    let bench = Bench::new();
    let mut network = network(57);
    let mut third = network.ports[1].clone();
    third.id = hull_types::id::PortId(uuid::Uuid::now_v7());
    third.vm = Some(hull_types::id::VmId(uuid::Uuid::now_v7()));
    third.mac = Mac([0x52, 0x54, 0, 0, 57, 12]);
    third.addresses = vec!["10.90.57.12".parse().unwrap()];
    network.ports.push(third);
    bench.networks.apply(&network).await.unwrap();
    for port in &network.ports {
        bench.networks.set_metadata(metadata(port)).await.unwrap();
    }
    let neighbours = [bench.guest(&network, 1).await, bench.guest(&network, 2).await];
    let tap = bench.networks.tap(network.id, network.ports[0].id).await.unwrap();
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood = std::thread::spawn({
        let (ended, from_mac) = (std::sync::Arc::clone(&ended), network.ports[0].mac);
        let (from, gateway) = (network.ports[0].addresses[0], network.subnets[0].gateway.unwrap());
        let bridge: Mac = bench.inside(network.id, "cat /sys/class/net/br0/address").trim().parse().unwrap();
        move || {
            let everybody = frames::EVERYBODY;
            let path = |to: std::net::IpAddr| Path { from_mac, to_mac: everybody, from, to };
            let dhcp = Path { from: Ipv4Addr::UNSPECIFIED.into(), ..path(Ipv4Addr::BROADCAST.into()) };
            let mut number = 0u16;
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                number = number.wrapping_add(1);
                let metadata = path("169.254.169.254".parse().unwrap());
                for frame in [
                    frames::udp(dhcp, 68, 67),
                    frames::arp(from_mac, from_mac, v4(from), v4(gateway)),
                    frames::udp(path(gateway), number, 53),
                    frames::tcp_syn(metadata, number, 80),
                ] {
                    let _ = rustix::io::write(&tap, &[&[0; 10], &frame[..]].concat());
                }
                // A connection each, to nobody, routed onwards.
                let onwards = Path { to_mac: bridge, ..path("203.0.113.9".parse().unwrap()) };
                for port in 0..50 {
                    let frame = frames::udp(onwards, number, port);
                    let _ = rustix::io::write(&tap, &[&[0; 10], &frame[..]].concat());
                }
            }
        }
    });
    let tracked = || -> usize {
        // grep fails where it counts none.
        let count = bench.inside(network.id, "grep -c 'src=10.90.57.10 dst=203' /proc/net/nf_conntrack || true");
        count.trim().parse().unwrap()
    };
    let full = || async {
        let now = tracked();
        if now >= CONNECTIONS / 2 { Ok(()) } else { Err(now) }
    };
    // Each further one takes the kernel longer, and they expire: the whole number may never be reached.
    eventually("thousands of connections", SOON, full).await.unwrap();
    for neighbour in &neighbours {
        neighbour.dhcp().unwrap();
    }
    neighbours[0].run("ping -c 3 -W 5 10.90.57.12");
    neighbours[0].run("ping -c 3 -W 5 10.90.57.1");
    assert_eq!(neighbours[0].run("dig +short +time=5 +tries=3 @10.90.57.1 vm11.hull.internal").trim(), "10.90.57.11");
    let id = neighbours[0].run("curl -sSf --max-time 20 http://169.254.169.254/latest/meta-data/instance-id");
    assert_eq!(id, network.ports[1].vm.unwrap().to_string());
    // The kernel counts for each of its processors.
    let now = tracked();
    assert!(now < CONNECTIONS + CONNECTIONS / 8, "{now} connections of one port are tracked");
    ended.store(true, std::sync::atomic::Ordering::Relaxed);
    flood.join().unwrap();
}
