//! Tenants' networks with real machines on them: the same addresses twice, ways from outside, routers, IPv6 alone, and a
//! machine that lies. Needs root and QEMU.

#![allow(clippy::unwrap_used)]

#[allow(dead_code, unreachable_pub, reason = "made for tests of the network alone, which use all of it")]
#[path = "../../hull-node/tests/network_kit/frames.rs"]
mod frames;
mod kit;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use frames::{EVERYBODY, Path};
use hull_testkit::eventually_blocking;
use hull_types::network::Mac;
use kit::{
    DEADLINE,
    site::{Site, Tenant},
    text,
};
use serde_json::Value;

const ECHO: [u8; 8] = [0, 1, 0, 1, b'h', b'u', b'l', b'l'];
/// A range that nobody has.
const BAD: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0);

/// The way of a packet from one machine to the other as Hull tells it: whether it gets there, and all it says.
fn explained(tenant: &Tenant<'_>, more: &[&str]) -> (bool, Value) {
    let said = tenant.run(&[&["-o", "json", "explain", "path"], more].concat());
    let told: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    assert_eq!(said.code, i32::from(told["reaches"] != true), "{said:?}");
    (told["reaches"] == true, told)
}

#[test]
fn two_projects_machines_at_the_same_address_are_each_reached_by_its_own_floating_ip() {
    let site = Site::new("");
    let tenants = [site.tenant("ann"), site.tenant("bob")];
    for tenant in &tenants {
        tenant.ok(&["router", "create", "way", "--gateway", "outside"]);
        tenant.network("web", &["10.7.0.0/24"], "way");
        tenant.create(&format!("{}-box", tenant.name), &["--network", "web=10.7.0.10"]);
    }
    let floating = tenants.each_ref().map(|tenant| tenant.floating(&format!("{}-box", tenant.name), &[]));
    assert_ne!(floating[0], floating[1]);

    for (tenant, address) in tenants.iter().zip(&floating) {
        let name = format!("{}-box", tenant.name);
        let inside = tenant.ssh(address, "hostname; cut -d. -f1 /proc/uptime; ip -4 -o addr show eth0");
        assert_eq!(inside.lines().next(), Some(name.as_str()));
        assert!(inside.contains("inet 10.7.0.10/24 "), "{inside}");
    }
    // Both run, and each has opened to its own key only.
    for (tenant, other) in [(0, 1), (1, 0)] {
        let name = format!("{}-box", tenants[tenant].name);
        let view = tenants[tenant].vm(&name);
        assert_eq!((&view["state"], text(&view, "/addresses/0/address")), (&"running".into(), "10.7.0.10"));
        // What each learned at the metadata's address, the same for both, is its own.
        let learned = format!("source=network host={name} ec2={} ", text(&view, "/id"));
        tenants[tenant].until_said(&name, &learned);
        let refused = site.ssh(&tenants[other].key, &floating[tenant], "hostname");
        assert!(refused.code == 255 && refused.err.contains("Permission denied"), "{refused:?}");
        // Nor does the other project know of it, or lead its address elsewhere.
        let unseen = tenants[other].run(&["vm", "show", &name]);
        assert_eq!(unseen.code, 3, "{unseen:?}");
        let theft = tenants[other].run(&["floating-ip", "unassign", &floating[tenant]]);
        assert_eq!(theft.code, 3, "{theft:?}");
    }
    for (tenant, address) in tenants.iter().zip(&floating) {
        assert_eq!(tenant.ssh(address, "hostname").trim(), format!("{}-box", tenant.name));
    }
}

#[test]
fn a_router_joins_two_networks_until_the_rules_say_no() {
    let site = Site::new("");
    let ann = site.tenant("ann");
    ann.ok(&["router", "create", "way", "--gateway", "outside"]);
    ann.network("left", &["10.7.1.0/24"], "way");
    ann.network("right", &["10.7.2.0/24"], "way");
    ann.ok(&["security-group", "create", "served"]);
    ann.ok(&["security-group", "add-rule", "served", "--tcp", "8080", "--from", "10.7.1.0/24"]);
    ann.ok(&["security-group", "add-rule", "served", "--icmp", "8"]);
    let serve = site.hull.file("serve");
    std::fs::write(&serve, "#!/bin/sh\nnc -ll -p 8080 -e hostname &\nnc -ll -p 8081 -e hostname &\n").unwrap();
    let served = ["--security-group", "served", "--user-data", serve.to_str().unwrap()];
    ann.create("server", &[&["--network", "right=10.7.2.10"][..], &served].concat());
    ann.create("client", &["--network", "left=10.7.1.10"]);
    let address = ann.floating("client", &[]);

    // What is real, as seen from the client, and what is told, for each kind of packet.
    const TRIES: &str = "(ping -c 2 -W 5 10.7.2.10 >/dev/null && echo ping) & (nc -w 5 10.7.2.10 8080 </dev/null) & \
        (nc -w 5 10.7.2.10 8081 </dev/null && echo 8081) & wait";
    let real = || {
        let seen = ann.ssh(&address, &format!("({TRIES}) 2>/dev/null; true"));
        let mut seen: Vec<String> = seen.lines().map(str::to_owned).collect();
        seen.sort();
        seen
    };
    let told = || {
        let packets = [&[][..], &["--port", "8080"], &["--port", "8081"]];
        packets.map(|packet| explained(&ann, &[&["client", "server"], packet].concat()).0)
    };

    // The server may still be starting.
    let open = || {
        let seen = real();
        if seen == ["ping", "server"] { Ok(()) } else { Err(seen) }
    };
    eventually_blocking("what the rules let in", DEADLINE, open).unwrap();
    assert_eq!(told(), [true, true, false]);
    let (_, way) = explained(&ann, &["client", "server", "--port", "8080"]);
    let places: Vec<&str> = way["hops"].as_array().unwrap().iter().map(|hop| text(hop, "/place")).collect();
    let order = ["network left", "router way", "network right"].map(|at| places.iter().position(|place| *place == at));
    assert!(order.is_sorted() && order[0].is_some(), "{way:#}");
    assert!(way.to_string().contains("security group served lets it in"), "{way:#}");

    let group = ann.json(&["security-group", "show", "served"]);
    for rule in group["rules"].as_array().unwrap().iter().filter(|rule| rule["direction"] == "ingress") {
        ann.ok(&["security-group", "remove-rule", "served", text(rule, "/id")]);
    }
    let shut = || Some(()).filter(|()| told() == [false; 3]).ok_or("still open");
    eventually_blocking("the rules in the kernel", DEADLINE, shut).unwrap();
    assert_eq!(real(), [""; 0]);
    let (_, way) = explained(&ann, &["client", "server"]);
    let stopped = way["hops"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&stopped["place"], &stopped["passes"]), (&"network right".into(), &false.into()), "{way:#}");
    assert!(text(&stopped, "/part").contains("security group"), "{stopped}");
}

#[test]
fn a_machine_of_ipv6_alone_takes_its_key_from_its_metadata() {
    // It looks at no disk for keys: what it has, it has over the network.
    let site = Site::new("hull.net=ipv6 hull.seed=off");
    let ann = site.tenant("ann");
    ann.ok(&["router", "create", "way", "--gateway", "outside"]);
    ann.network("six", &["fd07::/64"], "way");
    ann.create("alone", &["--network", "six"]);
    let address = ann.floating("alone", &["--ipv6"]);
    let view = ann.vm("alone");
    let addresses = view["addresses"].as_array().unwrap();
    assert_eq!(addresses.len(), 1, "{view:#}");
    let own = text(&addresses[0], "/address");
    assert!(own.starts_with("fd07::") && address.starts_with("2001:db8:ff::"), "{own} {address}");

    let inside =
        ann.ssh(&address, "hostname; ip -o addr show dev eth0; ip -6 route show default; cat .ssh/authorized_keys");
    assert_eq!(inside.lines().next(), Some("alone"));
    assert!(inside.contains(&format!("inet6 {own}/128")) && !inside.contains("inet "), "{inside}");
    assert!(inside.contains("default via fe80::"), "it has its route from an advertisement: {inside}");
    let public = std::fs::read_to_string(ann.key.with_extension("pub")).unwrap();
    assert!(inside.contains(public.split(' ').nth(1).unwrap()), "{inside}");
    let console = ann.until_said("alone", "HULL-GUEST-METADATA");
    let id = text(&view, "/id");
    let learned = format!("HULL-GUEST-METADATA source=network6 host=alone ec2={id} openstack={id} keys=");
    assert!(console.contains(&learned) && !console.contains("source=nocloud"), "{console}");
    // No key of anyone else opens it, and it reaches the world by itself.
    let bob = site.tenant("bob");
    let refused = site.ssh(&bob.key, &address, "hostname");
    assert!(refused.code == 255 && refused.err.contains("Permission denied"), "{refused:?}");
    ann.ssh(&address, "ping -6 -c 2 -W 5 2001:db8:ff::1");
}

#[test]
fn a_machine_keeps_its_addresses_over_stop_start_rebuild_and_hulls_own_restarts() {
    let site = Site::new("");
    let ann = site.tenant("ann");
    ann.ok(&["router", "create", "way", "--gateway", "outside"]);
    ann.network("web", &["10.7.0.0/24", "fd07::/64"], "way");
    ann.create("box", &["--network", "web"]);
    let floating = ann.floating("box", &[]);
    let told = || ann.vm("box")["addresses"].clone();
    // Its address, its MAC, and which boot this is.
    const LOOK: &str = "ip -4 -o addr show dev eth0 | awk '{print $4}'; cat /sys/class/net/eth0/address /proc/sys/kernel/random/boot_id";
    let seen = || ann.ssh(&floating, LOOK).lines().map(str::to_owned).collect::<Vec<_>>();
    let (before, first) = (told(), seen());
    let own: Vec<&str> = before.as_array().unwrap().iter().map(|address| text(address, "/address")).collect();
    assert_eq!(own.len(), 2, "one of each family: {own:?}");
    assert_eq!(first[..2], [format!("{}/24", own[0]), text(&before, "/0/mac").to_owned()]);
    let same_in_another_boot = |last: &[String]| {
        let now = seen();
        assert_eq!((told(), &now[..2]), (before.clone(), &first[..2]));
        assert_ne!(now[2], last[2], "another boot");
        now
    };

    // Off, with Hull off as well, nobody else gets them, and a Hull that came later starts it where it was.
    ann.ok(&["vm", "stop", "box", "--wait", "--timeout", "180"]);
    site.hull.ok(&["down"]);
    site.up();
    ann.create("other", &["--network", "web", "--stopped", "--wait"]);
    let others = ann.vm("other")["addresses"].to_string();
    assert!(own.iter().all(|own| !others.contains(&format!("\"{own}\""))), "{others}");
    ann.ok(&["vm", "start", "box", "--wait", "--timeout", "180"]);
    let started = same_in_another_boot(&first);
    ann.ok(&["vm", "rebuild", "box", "--wait", "--timeout", "180"]);
    let rebuilt = same_in_another_boot(&started);

    // Running, it is reached at them while there is no Hull, and after.
    site.hull.kill();
    assert_eq!(seen(), rebuilt);
    site.up();
    assert_eq!((told(), seen()), (before.clone(), rebuilt));
}

/// What the host holds of networks and routers at a moment: their namespaces, and the links in those.
struct Held {
    namespaces: Vec<String>,
    links: String,
}

impl Held {
    fn now(site: &Site) -> Self {
        let namespaces = site.hull.namespaces();
        // One may go while it is looked at.
        let look = |name: &String| site.hull.host.run(&format!("ip -n {name} -o link")).unwrap_or_default();
        let links = namespaces.iter().map(look).collect();
        Self { namespaces, links }
    }
}

/// A step that Hull has got to, as the host shows it.
type Step = (&'static str, fn(&Held) -> bool);

const STEPS: [Step; 5] = [
    ("a namespace", |held| !held.namespaces.is_empty()),
    ("a bridge", |held| held.links.contains(" br0:")),
    ("the router", |held| held.namespaces.iter().any(|name| name.contains("-r-"))),
    ("the router's way out", |held| held.links.contains(" gw0@")),
    ("the machine's tap", |held| held.links.contains(" tap")),
];

#[test]
fn hull_killed_at_any_step_makes_networks_and_routers_whole_and_leaves_nothing() {
    let site = Site::new("");
    let ann = site.tenant("ann");
    ann.ok(&["router", "create", "way", "--gateway", "outside"]);
    ann.network("web", &["10.7.0.0/24"], "way");
    let empty = |after: &str| {
        let nothing = || {
            let left = site.hull.namespaces();
            if left.is_empty() { Ok(()) } else { Err(left) }
        };
        eventually_blocking(&format!("nothing left {after}"), DEADLINE, nothing).unwrap();
    };
    for (step, is_there) in STEPS {
        empty(&format!("before {step}"));
        ann.create("box", &["--network", "web"]);
        let there = || Some(()).filter(|()| is_there(&Held::now(&site))).ok_or("not there yet");
        eventually_blocking(step, DEADLINE, there).unwrap();
        site.hull.kill();
        site.up();
        let address = ann.floating("box", &[]);
        assert_eq!(ann.ssh(&address, "hostname").trim(), "box", "killed at {step}");
        ann.ok(&["floating-ip", "delete", &address]);
        // Nor does it matter when it goes.
        ann.ok(&["vm", "delete", "box"]);
        site.hull.kill();
        site.up();
    }
    empty("in the end");
}

/// What a machine with root inside may try on the wire, and whether a neighbour gets to see it.
fn frames_of(thief: &End, neighbour: &End) -> Vec<(&'static str, Vec<u8>, bool)> {
    let path = |from: IpAddr, to: IpAddr| Path { from_mac: thief.mac, to_mac: neighbour.mac, from, to };
    let own4 = path(thief.v4.into(), neighbour.v4.into());
    let own6 = path(thief.v6.into(), neighbour.v6.into());
    let from4 = |from: Ipv4Addr| Path { from: from.into(), ..own4 };
    let from6 = |from: Ipv6Addr| Path { from: from.into(), ..own6 };
    let stranger = Mac([0x52, 0x54, 9, 9, 9, 9]);
    let (gateway4, gateway6) = (Ipv4Addr::new(10, 7, 0, 1), "fd07::1".parse().unwrap());
    let arp = |frame: Mac, sender: Mac, claims: Ipv4Addr| frames::arp(frame, sender, claims, neighbour.v4);
    let nodes = Path { to_mac: Mac([0x33, 0x33, 0, 0, 0, 1]), to: "ff02::1".parse().unwrap(), ..own6 };
    let everybody = Path { to_mac: EVERYBODY, to: Ipv4Addr::BROADCAST.into(), ..own4 };
    // A router for 30 minutes, with a prefix to make addresses of.
    let prefix = [&[3, 4, 64, 0xc0][..], &[0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0], &BAD.octets()].concat();
    let router = [&[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &prefix].concat();
    vec![
        ("its own ARP", arp(thief.mac, thief.mac, thief.v4), true),
        ("its own ping", frames::icmp(own4, 8, &ECHO), true),
        ("its own ping6", frames::icmp(own6, 128, &ECHO), true),
        ("its own UDP", frames::udp(own4, 4000, 4000), true),
        ("its own advertisement", frames::advertisement(own6, thief.v6), true),
        ("a ping from another MAC", frames::icmp(Path { from_mac: stranger, ..own4 }, 8, &ECHO), false),
        ("a ping6 from another MAC", frames::icmp(Path { from_mac: stranger, ..own6 }, 128, &ECHO), false),
        ("a ping from a free address", frames::icmp(from4(Ipv4Addr::new(10, 7, 0, 99)), 8, &ECHO), false),
        ("a ping from the gateway's address", frames::icmp(from4(gateway4), 8, &ECHO), false),
        ("a ping from the neighbour's address", frames::icmp(from4(neighbour.v4), 8, &ECHO), false),
        ("a ping from afar", frames::icmp(from4(Ipv4Addr::new(203, 0, 113, 1)), 8, &ECHO), false),
        ("a ping6 from a free address", frames::icmp(from6("fd07::99".parse().unwrap()), 128, &ECHO), false),
        ("a ping6 from the gateway's address", frames::icmp(from6(gateway6), 128, &ECHO), false),
        ("a ping6 from another link-local", frames::icmp(from6("fe80::1".parse().unwrap()), 128, &ECHO), false),
        ("ARP for the gateway", arp(thief.mac, thief.mac, gateway4), false),
        ("ARP for the neighbour", arp(thief.mac, thief.mac, neighbour.v4), false),
        ("ARP with another MAC inside", arp(thief.mac, stranger, thief.v4), false),
        ("ARP in another's frame", arp(stranger, stranger, thief.v4), false),
        ("advertising the gateway", frames::advertisement(own6, gateway6), false),
        ("advertising the neighbour", frames::advertisement(own6, neighbour.v6), false),
        ("a redirect", frames::icmp(own6, 137, &[0; 36]), false),
        (
            "a router's advertisement",
            frames::icmp(Path { from: thief.link_local().into(), ..nodes }, 134, &router),
            false,
        ),
        (
            "the same behind an option",
            frames::behind_option(&frames::icmp(Path { from: thief.link_local().into(), ..nodes }, 134, &router)),
            false,
        ),
        ("a DHCP offer", frames::udp(everybody, 67, 68), false),
        ("a DHCP offer to the neighbour", frames::udp(own4, 67, 68), false),
        ("a DHCP offer as the gateway", frames::udp(from4(gateway4), 67, 68), false),
        ("a DHCPv6 reply", frames::udp(own6, 547, 546), false),
        ("neither IP nor ARP", frames::ethernet(neighbour.mac, thief.mac, 0x88b5, &[0; 46]), false),
    ]
}

/// What a machine is on its network.
struct End {
    mac: Mac,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl End {
    fn of(view: &Value) -> Self {
        let address = |number: usize| text(view, &format!("/addresses/{number}/address"));
        let mac = text(view, "/addresses/0/mac").parse().unwrap();
        Self { mac, v4: address(0).parse().unwrap(), v6: address(1).parse().unwrap() }
    }

    fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac.0.map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
    }
}

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_machine_that_lies_is_heard_by_nobody() {
    let site = Site::new("");
    let ann = site.tenant("ann");
    ann.ok(&["router", "create", "way", "--gateway", "outside"]);
    ann.network("web", &["10.7.0.0/24", "fd07::/64"], "way");
    // No rule of a group stops anything: what does not come is stopped for what it is.
    ann.ok(&["security-group", "create", "open"]);
    ann.ok(&["security-group", "add-rule", "open", "--any"]);
    ann.ok(&["security-group", "add-rule", "open", "--any", "--ipv6"]);
    let [(thief, at_thief), (neighbour, at_neighbour)] = ["thief", "neighbour"].map(|name| {
        ann.create(name, &["--network", "web", "--security-group", "open"]);
        (End::of(&ann.vm(name)), ann.floating(name, &[]))
    });
    let (in_thief, in_neighbour) = (|line: &str| ann.ssh(&at_thief, line), |line: &str| ann.ssh(&at_neighbour, line));

    in_neighbour(
        "frames watch eth0 </dev/null >/run/seen 2>&1 & until grep -q watching /run/seen; do usleep 50000; done",
    );
    // Where it sends what is for elsewhere, and which addresses it has.
    const BELIEFS: &str = "ping -c 1 -W 5 10.7.0.1 >/dev/null; ip neigh show to 10.7.0.1 | awk '{print $5}'; \
        ip -6 route show default | awk '{print $3}'; ip -o addr show dev eth0 | awk '{print $4}'";
    let believed = in_neighbour(BELIEFS);
    let cases = frames_of(&thief, &neighbour);
    let last = hex(&frames::arp(thief.mac, thief.mac, thief.v4, Ipv4Addr::new(10, 7, 0, 250)));
    let lines: Vec<String> = cases.iter().map(|(_, frame, _)| hex(frame)).chain([last.clone()]).collect();
    in_thief(&format!("printf '{}\\n' | frames send eth0", lines.join("\\n")));
    let arrived = || {
        let seen = in_neighbour("cat /run/seen");
        if seen.contains(&last) { Ok(seen) } else { Err(seen) }
    };
    let seen = eventually_blocking("the last frame", DEADLINE, arrived).unwrap();
    // Short frames are padded on the way.
    let came = |line: &str| seen.lines().any(|seen| seen.starts_with(line));
    let heard: Vec<&str> =
        cases.iter().zip(&lines).filter(|(_, line)| came(line)).map(|((what, ..), _)| *what).collect();
    let honest: Vec<&str> = cases.iter().filter(|(.., honest)| *honest).map(|(what, ..)| *what).collect();
    assert_eq!(heard, honest);
    assert_eq!(in_neighbour(BELIEFS), believed, "nothing of it is believed");
    assert!(ann.ok(&["explain", "vm", "thief"]).contains("packets from it were dropped as not its own"));

    // The same with a system's own means: each try is followed by one that must succeed.
    let tries = in_thief(&TRIES.replace("NEIGHBOUR", &neighbour.v4.to_string()));
    let wanted = [
        "itself passes",
        "another-mac stops",
        "another-mac-at-dhcp stops",
        "itself passes",
        "another-address stops",
        "neighbours-address stops",
        "itself passes",
    ];
    assert_eq!(tries.lines().collect::<Vec<_>>(), wanted);

    // A server of its own hears nobody, and its neighbour's lease is Hull's.
    in_thief(
        "printf 'start 10.7.0.200\\nend 10.7.0.210\\ninterface eth0\\nlease_file /run/leases\\nopt router 10.7.0.2\\n' >/run/udhcpd.conf; : >/run/leases; udhcpd -f /run/udhcpd.conf </dev/null >/run/udhcpd.log 2>&1 & until grep -q started /run/udhcpd.log; do usleep 50000; done",
    );
    let lease = in_neighbour("udhcpc -f -n -q -i eth0 -s /bin/true 2>&1");
    assert!(lease.contains(&format!("lease of {} obtained from 10.7.0.1", neighbour.v4)), "{lease}");
    let heard = in_thief("cat /run/udhcpd.log");
    assert!(!heard.contains("OFFER") && !heard.contains("ACK"), "{heard}");
}

/// What the thief runs, by a connection that outlasts its tries: each is a line, with what came of it.
const TRIES: &str = r#"
try() {
    name=$1
    shift
    if "$@" >/dev/null 2>&1; then echo "$name passes"; else echo "$name stops"; fi
}
own=$(cat /sys/class/net/eth0/address)
try itself ping -c 2 -W 5 NEIGHBOUR
ip link set eth0 address 52:54:00:99:99:99
try another-mac ping -c 2 -W 2 NEIGHBOUR
try another-mac-at-dhcp udhcpc -f -n -q -t 2 -T 1 -i eth0 -s /bin/true
ip link set eth0 address $own
try itself ping -c 2 -W 5 NEIGHBOUR
ip addr add 10.7.0.99/24 dev eth0
try another-address ping -c 2 -W 2 -I 10.7.0.99 NEIGHBOUR
ip addr del 10.7.0.99/24 dev eth0
ip addr add NEIGHBOUR/32 dev eth0
try neighbours-address ping -c 2 -W 2 -I NEIGHBOUR 10.7.0.1
ip addr del NEIGHBOUR/32 dev eth0
try itself ping -c 2 -W 5 NEIGHBOUR
"#;
