//! Routers join networks and lead out: on one host and across hosts, in both families.

#![allow(clippy::unwrap_used)]

mod network_kit;

use std::{collections::HashMap, net::IpAddr};

use hull_node::network::Networks;
use hull_testkit::eventually;
use hull_types::{
    id::{PortId, RouterId},
    link::{DesiredGateway, DesiredNetwork, DesiredRouter},
};
use network_kit::{
    Guest, Running, SOON,
    site::{OUTSIDE, OUTSIDE6, Site, gateway, router, tenant},
};
use uuid::Uuid;

async fn reaches(guest: &Guest, address: impl std::fmt::Display, after: &str) {
    let ping = || async { guest.attempt(&format!("ping -c 1 -W 1 {address}")) };
    eventually(&format!("{address}, {after}"), SOON, ping).await.unwrap();
}

fn silent(guest: &Guest, address: impl std::fmt::Display) {
    guest.attempt(&format!("ping -c 1 -W 1 {address}")).unwrap_err();
}

fn v4(network: &DesiredNetwork, port: usize) -> IpAddr {
    network.ports[port].addresses[0]
}

fn v6(network: &DesiredNetwork, port: usize) -> IpAddr {
    network.ports[port].addresses[1]
}

fn new_router() -> RouterId {
    RouterId(Uuid::now_v7())
}

fn with(router: &DesiredRouter, gateway: DesiredGateway) -> DesiredRouter {
    DesiredRouter { gateway: Some(gateway), ..router.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_networks_of_one_host_meet_and_a_third_does_not() {
    let site = Site::new(1);
    let id = new_router();
    let (one, two) = (tenant(40, id), tenant(41, id));
    // Another tenant has the very addresses of the first, and a router of its own.
    let other_router = new_router();
    let mut stranger = tenant(40, other_router);
    stranger.vni = Some(hull_types::network::Vni(7));
    let here: HashMap<PortId, usize> =
        [&one, &two, &stranger].iter().flat_map(|network| network.ports.iter().map(|port| (port.id, 0))).collect();
    site.tell(&[&one, &two], &here, |_| router(id, &[&one, &two])).await;
    site.tell(&[&stranger], &here, |_| router(other_router, &[&stranger])).await;
    let (a, b) = (site.guest(0, &one, 0).await, site.guest(0, &two, 0).await);
    let foreign = site.guest(0, &stranger, 0).await;

    reaches(&a, v4(&two, 0), "by the router").await;
    reaches(&a, v6(&two, 0), "by the router").await;
    reaches(&b, v4(&one, 0), "by the router").await;
    reaches(&a, "10.90.41.1", "the other network's gateway").await;
    silent(&foreign, v4(&two, 0));
    silent(&foreign, v6(&two, 0));

    // Smaller packets there than here: who sends larger ones is told by the gateway it knows.
    let mut small = site.seen(&two, &here, 0);
    small.mtu = 1300;
    site.hosts[0].networks.apply(&small).await.unwrap();
    site.hosts[0].networks.apply_router(&router(id, &[&one, &two])).await.unwrap();
    a.run("ping -c 1 -W 5 -M do -s 1272 10.90.41.10");
    let told = a.attempt("ping -c 1 -W 2 -M do -s 1273 10.90.41.10").unwrap_err();
    assert!(told.contains("10.90.40.1") && told.contains("mtu = 1300"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_and_routers_span_hosts_and_nothing_is_flooded() {
    let site = Site::new(2);
    let id = new_router();
    let (one, two) = (tenant(42, id), tenant(43, id));
    // The first of each network on host 0, the second on host 1.
    let places: HashMap<PortId, usize> = [&one, &two]
        .iter()
        .flat_map(|network| network.ports.iter().enumerate().map(|(number, port)| (port.id, number)))
        .collect();
    site.tell(&[&one, &two], &places, |_| router(id, &[&one, &two])).await;
    let (near, near_two) = (site.guest(0, &one, 0).await, site.guest(0, &two, 0).await);
    let (far, far_two) = (site.guest(1, &one, 1).await, site.guest(1, &two, 1).await);

    let mut watch = std::process::Command::new("ip");
    watch.args(["netns", "exec", site.hosts[1].host.namespace(), "tcpdump", "-lnei", "eth0", "udp", "port", "4789"]);
    let watch = Running::start(watch);
    for address in [v4(&one, 1), v6(&one, 1), v4(&two, 1), v6(&two, 1)] {
        reaches(&near, address, "on the other host").await;
    }
    for address in [v4(&one, 0), v6(&two, 0)] {
        reaches(&far_two, address, "on the other host").await;
    }
    reaches(&near_two, v4(&two, 1), "in its own network").await;
    // Full size, and one byte more.
    near.run(&format!("ping -c 1 -W 5 -M do -s 1372 {}", v4(&two, 1)));
    near.attempt(&format!("ping -c 1 -W 1 -M do -s 1373 {}", v4(&two, 1))).unwrap_err();
    // What the underlay does not carry whole is told, until it is mended.
    let networks = &site.hosts[0].networks;
    let fitting = site.seen(&one, &places, 0);
    networks.apply(&DesiredNetwork { mtu: 1451, ..fitting.clone() }).await.unwrap();
    let told = networks.troubles();
    assert!(matches!(&told[..], [told] if told.contains("(MTU 1451)") && told.contains("to 1450 at most")), "{told:?}");
    site.hosts[0].host.run("ip link set eth0 mtu 1501").unwrap();
    networks.apply(&DesiredNetwork { mtu: 1451, ..fitting.clone() }).await.unwrap();
    assert_eq!(networks.troubles(), [""; 0], "mended on the host");
    site.hosts[0].host.run("ip link set eth0 mtu 1500").unwrap();
    networks.apply(&DesiredNetwork { mtu: 1452, ..fitting.clone() }).await.unwrap();
    assert_eq!(networks.troubles().len(), 1);
    networks.apply(&fitting).await.unwrap();
    assert_eq!(networks.troubles(), [""; 0], "mended in the network");
    // Everybody, nobody, and somebody whom nobody knows.
    let _ = near
        .attempt("ping -c 2 -i 0.2 -W 1 -b 10.90.42.255; ping -c 1 -W 1 10.90.42.99; ping -c 1 -W 1 fd00:90:42::99");
    let _ = near
        .attempt("ping -c 2 -i 0.2 -W 1 ff02::1%eth0; ip neigh replace 10.90.42.98 lladdr 52:54:00:99:99:99 dev eth0");
    let _ = near.attempt("ping -c 2 -i 0.2 -W 1 10.90.42.98");
    reaches(&far, v4(&one, 0), "after all that").await;

    let seen = watch.interrupt();
    let inner: Vec<&str> = seen.lines().filter(|line| !line.contains("4789") && line.contains(" > ")).collect();
    assert!(inner.iter().any(|line| line.contains("10.90.43.11")), "{seen}");
    for flooded in ["ff:ff:ff:ff:ff:ff", "33:33:", "52:54:00:99:99:99", "10.90.42.99", "fd00:90:42::99"] {
        let leaked = inner.iter().any(|line| line.contains(flooded));
        assert!(!leaked, "{flooded} went over the underlay: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_span_hosts_that_reach_each_other_by_ipv6() {
    let site = Site::over6(2);
    let id = new_router();
    let (one, two) = (tenant(44, id), tenant(45, id));
    let places: HashMap<PortId, usize> = [&one, &two]
        .iter()
        .flat_map(|network| network.ports.iter().enumerate().map(|(number, port)| (port.id, number)))
        .collect();
    site.tell(&[&one, &two], &places, |_| router(id, &[&one, &two])).await;
    let near = site.guest(0, &one, 0).await;
    let (_far, far_two) = (site.guest(1, &one, 1).await, site.guest(1, &two, 1).await);
    for address in [v4(&one, 1), v6(&one, 1), v4(&two, 1), v6(&two, 1)] {
        reaches(&near, address, "on the other host").await;
    }
    reaches(&far_two, v4(&one, 0), "back by the router").await;
    near.run(&format!("ping -c 1 -W 5 -M do -s 1372 {}", v4(&two, 1)));
    // The tunnel takes 70 bytes of each packet, of 1500.
    let networks = &site.hosts[0].networks;
    networks.apply(&DesiredNetwork { mtu: 1431, ..site.seen(&one, &places, 0) }).await.unwrap();
    let told = networks.troubles();
    assert!(matches!(&told[..], [told] if told.contains("to 1430 at most")), "{told:?}");
    // A stranger on the same wire is not heard: the tunnel opens to known nodes only.
    let rules = site.hosts[1].host.run("nft list ruleset").unwrap();
    assert!(rules.contains(&site.hosts[0].host.address6().to_string()), "{rules}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_known_nodes_speak_to_a_tunnel() {
    let site = Site::new(2);
    let id = new_router();
    let one = tenant(44, id);
    let places: HashMap<PortId, usize> = one.ports.iter().enumerate().map(|(number, port)| (port.id, number)).collect();
    site.tell(&[&one], &places, |_| router(id, &[&one])).await;
    let (a, b) = (site.guest(0, &one, 0).await, site.guest(1, &one, 1).await);
    reaches(&a, v4(&one, 1), "by the tunnel").await;
    reaches(&b, v4(&one, 0), "by the tunnel").await;
    let world = &site.hosts[0].world;
    world.run(&format!("bash -c 'echo x > /dev/udp/{}/4789'", site.hosts[0].host.address())).unwrap();
    let table = format!("{}_tunnels", site.hosts[0].prefix.as_str());
    let dropped = || async {
        let rules = site.hosts[0].host.run(&format!("nft list chain inet {table} input")).unwrap();
        if rules.contains("packets 0 ") { Err(rules) } else { Ok(()) }
    };
    eventually("the stranger's packet dropped", SOON, dropped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_speaks_to_no_tunnel() {
    let site = Site::new(2);
    let id = new_router();
    let one = tenant(48, id);
    let places: HashMap<PortId, usize> = one.ports.iter().enumerate().map(|(number, port)| (port.id, number)).collect();
    site.tell(&[&one], &places, |_| router(id, &[&one])).await;
    // The way out of this one leads through the host, which masquerades: the other node would take it for the host's.
    let with_way_out = network_kit::network(49);
    site.hosts[0].networks.apply(&with_way_out).await.unwrap();
    let guest = site.guest(0, &with_way_out, 0).await;

    // Four bytes, which no frame in a tunnel is: twelve with the header.
    let watched = |line: &str| site.hosts[1].host.run(line).unwrap();
    watched("nft add table inet watch");
    watched("nft 'add chain inet watch heard { type filter hook prerouting priority -300; }'");
    for port in [4789, 4790] {
        watched(&format!("nft add rule inet watch heard udp dport {port} udp length 12 counter"));
    }
    let [own, other] = [0, 1].map(|host| site.hosts[host].host.address());
    let send = |address: std::net::Ipv4Addr, port: u16| {
        guest.run(&format!("bash -c 'printf hull > /dev/udp/{address}/{port}'"));
    };
    let tunnels = format!("nft list chain inet {}_tunnels forward", site.hosts[0].prefix.as_str());
    let refused = || async {
        send(other, 4789);
        send(own, 4789);
        let rules = site.hosts[0].host.run(&tunnels).unwrap();
        if rules.contains("packets 0 ") { Err(rules) } else { Ok(()) }
    };
    eventually("the guest's packets dropped", SOON, refused).await.unwrap();
    // What was sent before would have been heard before.
    let heard = |port: u16| {
        let rules = watched("nft list chain inet watch heard");
        let rule = rules.lines().find(|line| line.contains(&port.to_string())).unwrap().to_owned();
        !rule.contains("packets 0 ")
    };
    let another = || async {
        send(other, 4790);
        if heard(4790) { Ok(()) } else { Err("nothing was heard") }
    };
    eventually("a packet to another port", SOON, another).await.unwrap();
    assert!(!heard(4789), "a guest's packet came to another node's tunnel");
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_get_out_and_floating_ips_lead_in() {
    let site = Site::new(2);
    let id = new_router();
    let one = tenant(45, id);
    let places: HashMap<PortId, usize> = one.ports.iter().enumerate().map(|(number, port)| (port.id, number)).collect();
    let plain = router(id, &[&one]);
    let floating = [("203.0.113.20", v4(&one, 0)), ("2001:db8:ff::20", v6(&one, 0))];
    let external = site.external.id;
    site.tell(&[&one], &places, |host| with(&plain, gateway(external, host, if host == 0 { &floating } else { &[] })))
        .await;
    let (has, has_none) = (site.guest(0, &one, 0).await, site.guest(1, &one, 1).await);

    let mut watch = std::process::Command::new("ip");
    watch.args(["netns", "exec", site.segment.namespace(), "tcpdump", "-lni", "seg", "icmp", "or", "icmp6"]);
    let watch = Running::start(watch);
    for outside in [OUTSIDE, OUTSIDE6] {
        reaches(&has, outside, "under the floating IP").await;
        reaches(&has_none, outside, "under the node's address").await;
    }
    for (address, _) in floating {
        let ping = || async { site.segment.run(&format!("ping -c 1 -W 1 {address}")) };
        eventually(address, SOON, ping).await.unwrap();
        // One's own, and from a VM of the same router on another node.
        reaches(&has, address, "its own").await;
        reaches(&has_none, address, "another node's").await;
    }
    // Who knows the way gets no further than the router.
    site.segment.run("ip route add 10.90.45.0/24 via 203.0.113.100").unwrap();
    site.segment.run(&format!("ping -c 1 -W 1 {}", v4(&one, 0))).unwrap_err();
    let seen = watch.interrupt();
    for under in ["203.0.113.20 >", "203.0.113.101 >", "2001:db8:ff::20 >", "2001:db8:ff::101 >"] {
        assert!(seen.contains(under), "{under}: {seen}");
    }
    assert!(!seen.contains("IP 10.90.45.") && !seen.contains("IP6 fd00:90:45:"), "an inner address got out: {seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_with_floating_ips_behind_one_router_meet_by_them() {
    let site = Site::new(1);
    let id = new_router();
    let (one, two) = (tenant(46, id), tenant(47, id));
    let here: HashMap<PortId, usize> =
        [&one, &two].iter().flat_map(|network| network.ports.iter().map(|port| (port.id, 0))).collect();
    let plain = router(id, &[&one, &two]);
    let floating = [("203.0.113.30", v4(&one, 0)), ("203.0.113.31", v4(&two, 0)), ("2001:db8:ff::31", v6(&two, 0))];
    for snat in [true, false] {
        let way_out = DesiredGateway { snat, ..gateway(site.external.id, 0, &floating) };
        site.tell(&[&one, &two], &here, |_| with(&plain, way_out.clone())).await;
        let (a, none) = (site.guest(0, &one, 0).await, site.guest(0, &one, 1).await);
        let b = site.guest(0, &two, 0).await;
        for guest in [&a, &none] {
            reaches(guest, "203.0.113.31", "by the floating IP").await;
            reaches(guest, "2001:db8:ff::31", "by the floating IP").await;
        }
        reaches(&b, "203.0.113.31", "its own").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_floating_ip_moves_with_its_vm_and_its_neighbours_are_told() {
    let site = Site::new(2);
    let id = new_router();
    let mut one = tenant(48, id);
    one.ports.truncate(1);
    let external = site.external.id;
    let floating = [("203.0.113.40", v4(&one, 0)), ("2001:db8:ff::40", v6(&one, 0))];
    let plain = router(id, &[&one]);
    let mut guest = None;
    for now in [0, 1] {
        drop(guest.take());
        let places = [(one.ports[0].id, now)].into();
        let told = |host| with(&plain, gateway(external, host, if host == now { &floating } else { &[] }));
        site.tell(&[&one], &places, told).await;
        let guest = guest.insert(site.guest(now, &one, 0).await);
        for (address, outside) in [("203.0.113.40", OUTSIDE), ("2001:db8:ff::40", OUTSIDE6)] {
            // Before anything is asked: the segment remembers the old place and is told the new one.
            let mac = format!("02:ee:00:00:00:0{now}");
            if now == 1 {
                let known = || async {
                    let table = site.segment.run(&format!("ip neigh show {address}")).unwrap();
                    if table.contains(&mac) { Ok(()) } else { Err(table) }
                };
                eventually("the neighbour's new MAC", SOON, known).await.unwrap();
            }
            let ping = || async { site.segment.run(&format!("ping -c 1 -W 1 {address}")) };
            eventually(address, SOON, ping).await.unwrap();
            reaches(guest, outside, "from its new place").await;
        }
    }
    // Taken away, it leads nowhere, for connections of before as well, though the segment still sends them here.
    let guest = guest.unwrap();
    let mut stream = std::process::Command::new("ip");
    stream.args(["netns", "exec", site.segment.namespace(), "ping", "-q", "-i", "0.1", "203.0.113.40"]);
    let stream = Running::start(stream);
    guest.run("timeout 20 tcpdump -c 2 -ni eth0 icmp");
    let places = [(one.ports[0].id, 1)].into();
    site.tell(&[&one], &places, |host| with(&plain, gateway(external, host, &[]))).await;
    guest.attempt("timeout 2 tcpdump -c 1 -ni eth0 icmp").unwrap_err();
    drop(stream);
    site.segment.run("ping -c 1 -W 1 203.0.113.40").unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_by_hand_comes_back_and_removal_leaves_nothing() {
    let mut site = Site::new(2);
    let id = new_router();
    let (one, two) = (tenant(50, id), tenant(51, id));
    let places: HashMap<PortId, usize> = [(one.ports[0].id, 0), (two.ports[0].id, 0), (two.ports[1].id, 1)].into();
    let plain = router(id, &[&one, &two]);
    let external = site.external.id;
    let told = |host| with(&plain, gateway(external, host, &[]));
    site.tell(&[&one, &two], &places, told).await;
    let guest = site.guest(0, &one, 0).await;
    let _far = site.guest(1, &two, 1).await;
    let works = async |after: &str| {
        reaches(&guest, v4(&two, 1), after).await;
        reaches(&guest, v6(&two, 1), after).await;
        reaches(&guest, OUTSIDE, after).await;
        reaches(&guest, OUTSIDE6, after).await;
    };
    works("before any damage").await;

    let held = |site: &Site| {
        let bench = &site.hosts[0];
        // The kernel says some time later whether a link is up.
        let everything = "(ip link; ip addr) | sed 's/ state [A-Z]*//'; ip rule; ip route show table all; ip -6 rule; ip -6 route show table all | grep -v ^multicast; nft -a -s -t list ruleset";
        let fdb = "bridge fdb show | grep -v dynamic | grep ' static\\| permanent'";
        [
            bench.inside_router(id, everything),
            bench.inside(one.id, everything),
            bench.inside(two.id, &format!("{everything}; {fdb}")),
            bench.inside(external, "ip -o link; ip addr; ip route"),
        ]
    };
    let before = held(&site);
    site.tell(&[&one, &two], &places, told).await;
    assert_eq!(held(&site), before, "applying what is right already changes nothing");
    site.hosts[0].restart();
    site.tell(&[&one, &two], &places, told).await;
    assert_eq!(held(&site), before, "nor does a restart");

    let link = format!("rt{}", &id.0.simple().to_string()[20..]);
    let cable = format!("gw{}", &id.0.simple().to_string()[20..]);
    for (network, damage) in [
        (one.id, format!("ip link del {link}")),
        (one.id, "ip rule flush; ip rule add from all lookup main pref 32766".to_owned()),
        (one.id, format!("ip addr flush dev {link}")),
        (one.id, "ip link del br0".to_owned()),
        (two.id, "ip link del vx0".to_owned()),
        (two.id, "ip link set vx0 nomaster".to_owned()),
        (two.id, "bridge fdb del 52:54:00:00:33:0b dev vx0 self".to_owned()),
        (two.id, "bridge fdb del 52:54:00:00:33:0b dev vx0 master".to_owned()),
        (two.id, "ip link set vx0 type bridge_slave neigh_suppress off".to_owned()),
        (external, "ip link del pv0".to_owned()),
        (external, format!("ip link set {cable} nomaster")),
        (external, format!("ip link del {cable}")),
        (external, "ip link del br0".to_owned()),
    ] {
        site.hosts[0].inside(network, &damage);
        works(&damage).await;
    }
    for damage in [
        "nft delete table inet hull",
        "ip route flush proto 72",
        "ip -6 route flush proto 72",
        "ip link del gw0",
        "ip addr flush dev gw0",
        "ip addr flush dev lo",
        "sysctl -qw net.ipv4.ip_forward=0",
    ] {
        site.hosts[0].inside_router(id, damage);
        works(damage).await;
    }
    let name = site.hosts[0].router_namespace(id);
    assert!(std::process::Command::new("ip").args(["netns", "del", &name]).status().unwrap().success());
    works("the router's name taken away").await;
    let named =
        || async { if site.hosts[0].networks.routers().await.unwrap() == [id] { Ok(()) } else { Err("not listed") } };
    eventually("the router's name", SOON, named).await.unwrap();

    for bench in &site.hosts {
        bench.networks.remove_router(id).await.unwrap();
        bench.networks.remove_router(id).await.unwrap();
        let left = bench.inside(one.id, "ip rule; ip -6 rule; ip link");
        assert!(!left.contains(&link) && !left.contains("iif"), "of the router in its network: {left}");
        for network in [one.id, two.id, external] {
            bench.networks.remove(network).await.unwrap();
        }
        let gone = || async {
            let traces = bench.traces();
            if traces.is_empty() { Ok(()) } else { Err(traces) }
        };
        eventually("every trace gone", SOON, gone).await.unwrap();
        assert_eq!(std::fs::read_dir(bench.state.path().join("networks")).unwrap().count(), 0);
    }
}
