//! Tenants' networks with real machines on them: the same addresses twice, ways from outside, routers, IPv6 alone, and a
//! machine that lies. Needs root and QEMU.

#![allow(clippy::unwrap_used)]

mod kit;

use hull_testkit::eventually_blocking;
use kit::{
    DEADLINE,
    site::{Site, Tenant},
    text,
};
use serde_json::Value;

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
    ann.until_said("server", "HULL-GUEST-READY");

    // What is real, as seen from the client, and what is told, for each kind of packet.
    const TRIES: [(&str, &str); 3] =
        [("ping", "ping -c 2 -W 5 10.7.2.10"), ("8080", "nc -w 5 10.7.2.10 8080"), ("8081", "nc -w 5 10.7.2.10 8081")];
    let real = || {
        let tries = TRIES
            .map(|(name, line)| format!("{line} </dev/null >/tmp/said 2>&1 && echo {name} $(tail -n 1 /tmp/said)"));
        ann.ssh(&address, &format!("{}; true", tries.join("; ")))
    };
    let told = || {
        let packets = [&[][..], &["--port", "8080"], &["--port", "8081"]];
        packets.map(|packet| explained(&ann, &[&["client", "server"], packet].concat()).0)
    };

    let seen = real();
    assert!(seen.contains("ping round-trip") && seen.contains("8080 server\n") && !seen.contains("8081"), "{seen}");
    assert_eq!(told(), [true, true, false]);
    let (_, way) = explained(&ann, &["client", "server", "--port", "8080"]);
    let places: Vec<&str> = way["hops"].as_array().unwrap().iter().map(|hop| text(hop, "/place")).collect();
    let order = ["network left", "router way", "network right"].map(|at| places.iter().position(|place| *place == at));
    assert!(order.is_sorted() && order[0].is_some(), "{way:#}");

    let group = ann.json(&["security-group", "show", "served"]);
    for rule in group["rules"].as_array().unwrap().iter().filter(|rule| rule["direction"] == "ingress") {
        ann.ok(&["security-group", "remove-rule", "served", text(rule, "/id")]);
    }
    let shut = || Some(()).filter(|()| told() == [false; 3]).ok_or("still open");
    eventually_blocking("the rules in the kernel", DEADLINE, shut).unwrap();
    assert_eq!(real(), "");
    let (_, way) = explained(&ann, &["client", "server"]);
    let stopped = way["hops"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&stopped["place"], &stopped["passes"]), (&"network right".into(), &false.into()), "{way:#}");
    assert!(text(&stopped, "/part").contains("security group"), "{stopped}");
}
