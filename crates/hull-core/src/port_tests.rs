//! Ports: what a user may ask for, what becomes of it, and that it leaves nothing.

use hull_types::{
    error::ErrorKind,
    id::{FloatingIpId, ProjectId, RouterId, SecurityGroupId},
    network::{Network, Uplink},
    router::FloatingIpTarget,
};
use uuid::Uuid;

use super::*;
use crate::{
    change::Expect,
    ipam::NetworkUse,
    testing::{NETWORK, PROJECT, Seeded, call, meta, network, owner, project, subnets},
};

const MEMBER: Powers = Powers { system: false, owner: false };
const ADMIN: Powers = Powers { system: false, owner: true };

struct Case {
    network: Network,
    used: NetworkUse,
    powers: Powers,
    wanted: Vec<IpAddr>,
}

fn case() -> Case {
    let network = Network { shared: false, uplink: Uplink::None, ..network(&["10.0.0.0/24", "fd00::/64"]) };
    Case { network, used: NetworkUse::default(), powers: MEMBER, wanted: vec![] }
}

impl Case {
    fn asked(&self, json: &str) -> Result<Changes> {
        let request: PortCreate = serde_json::from_str(json).unwrap();
        let (all, project) = (subnets(&["10.0.0.0/24", "fd00::/64"]), project());
        let all: Vec<&Subnet> = all.iter().collect();
        let on = On { network: &self.network, subnets: &all, used: &self.used };
        let wish = Wish { on, addresses: &self.wanted, from: &[], mac: request.mac, groups: &[] };
        create(&request, &wish, &owner(&project), self.powers, &mut call(&mut Seeded::new(4)))
    }
}

fn put(changes: &Changes) -> Port {
    let put =
        changes.writes.iter().find_map(|w| if let Write::PutPort(p) = w { Some(p.as_ref().clone()) } else { None });
    put.unwrap()
}

fn made() -> Port {
    put(&case().asked(r#"{"name":"My Port","network":"n"}"#).unwrap())
}

fn floating(port: &Port) -> FloatingIp {
    FloatingIp {
        id: FloatingIpId(Uuid::from_u128(8)),
        meta: meta("f"),
        network: NETWORK,
        subnet: port.addresses[0].subnet,
        address: "203.0.113.5".parse().unwrap(),
        target: Some(FloatingIpTarget {
            port: port.id,
            fixed: port.addresses[0].address,
            router: RouterId(Uuid::from_u128(9)),
        }),
    }
}

#[test]
fn a_port_holds_its_name_mac_and_addresses_and_gives_them_back() {
    let changes = case().asked(r#"{"name":"My Port","network":"n"}"#).unwrap();
    let port = put(&changes);
    assert_eq!((port.addresses.len(), port.hostname.as_str(), port.vm), (2, "my-port", None));
    let claimed: Vec<Claim> =
        changes.writes.iter().filter_map(|w| if let Write::Claim(c) = w { Some(c.clone()) } else { None }).collect();
    assert_eq!(claimed.len(), 5, "name, host name, MAC, two addresses");
    let usage = hull_types::project::Usage { ports: 1, ..Default::default() };
    assert!(changes.writes.contains(&Write::PutUsage { project: PROJECT, usage }));

    let project = project();
    let held = Owner { project: &project, usage };
    let gone = delete(&port, &[&floating(&port)], &held, &mut call(&mut Seeded::new(1))).unwrap();
    let released: Vec<Claim> =
        gone.writes.iter().filter_map(|w| if let Write::Release(c) = w { Some(c.clone()) } else { None }).collect();
    assert_eq!(released, claimed);
    assert!(gone.writes.contains(&Write::PutUsage { project: PROJECT, usage: Default::default() }));
    let nowhere = gone.writes.iter().any(|w| matches!(w, Write::PutFloatingIp(f) if f.target.is_none()));
    assert!(nowhere, "a floating IP that led to it leads nowhere");
}

#[test]
fn what_cannot_be_a_port_is_refused_naming_the_field() {
    let mut case = case();
    case.used.macs.insert("52:54:00:00:00:01".parse().unwrap());
    case.used.hostnames.insert("web".into(), 1);
    let long = r#""allowed_pairs":[{"addresses":"10.0.0.1/24"}]"#;
    for (rest, field) in [
        (r#""mac":"52:54:00:00:00:01""#, "/mac"),
        (r#""mac":"ff:ff:ff:ff:ff:ff""#, "/mac"),
        (r#""hostname":"web""#, "/hostname"),
        (r#""hostname":"Web Server""#, "/hostname"),
        (r#""port_security":false"#, "/port_security"),
        (r#""bandwidth":{"ingress_kbps":1}"#, "/bandwidth/ingress_kbps"),
        (r#""dhcp_options":[{"code":51,"value":"1"}]"#, "/dhcp_options"),
        (r#""tags":[""]"#, "/tags"),
        (long, "/allowed_pairs"),
    ] {
        let refused = case.asked(&format!(r#"{{"name":"p","network":"n",{rest}}}"#)).unwrap_err();
        assert_eq!(refused.field.as_deref(), Some(field), "{rest}: {refused}");
    }
    for (address, says) in [("10.9.0.1", "its ranges are"), ("10.0.0.1", "own address"), ("10.0.0.255", "own address")]
    {
        case.wanted = vec![address.parse().unwrap()];
        let refused = case.asked(r#"{"name":"p","network":"n"}"#).unwrap_err();
        assert!(refused.detail.contains(says), "{address}: {refused}");
    }
}

#[test]
fn who_owns_the_network_says_who_may_lie_on_it() {
    let mut case = case();
    let pairs = r#"{"name":"p","network":"n","allowed_pairs":[{"addresses":"10.0.0.100/32"}]}"#;
    assert!(case.asked(pairs).is_ok(), "on their own network");
    case.powers = ADMIN;
    assert!(!put(&case.asked(r#"{"name":"p","network":"n","port_security":false}"#).unwrap()).port_security);
    case.powers = MEMBER;
    case.network.meta.project = ProjectId(Uuid::from_u128(99));
    assert_eq!(case.asked(r#"{"name":"p","network":"n"}"#).unwrap_err().kind, ErrorKind::Forbidden, "not shared");
    case.network.shared = true;
    assert!(case.asked(r#"{"name":"p","network":"n"}"#).is_ok());
    assert_eq!(case.asked(pairs).unwrap_err().field.as_deref(), Some("/allowed_pairs"));
}

#[test]
fn addresses_change_and_what_a_floating_ip_leads_to_stays() {
    let (case, port, project) = (case(), made(), project());
    let all = subnets(&["10.0.0.0/24", "fd00::/64"]);
    let all: Vec<&Subnet> = all.iter().collect();
    let mut used = case.used.clone();
    used.addresses.extend(port.ips());
    let on = On { network: &case.network, subnets: &all, used: &used };
    let change = |json: &str, floating: &[&FloatingIp]| {
        let wanted: PortUpdate = serde_json::from_str(json).unwrap();
        let at = Readdressing { port: &port, on, floating_ips: floating };
        update(&at, &wanted, None, &owner(&project), MEMBER, &mut call(&mut Seeded::new(6)))
    };
    let [v4, _] = port.addresses[..] else { panic!("{port:?}") };
    let moved = change(&format!(r#"{{"addresses":["{}","10.0.0.77"]}}"#, v4.address), &[]).unwrap();
    let kinds = |changes: &Changes| {
        let claims = changes.writes.iter().filter(|w| matches!(w, Write::Claim(_))).count();
        let releases = changes.writes.iter().filter(|w| matches!(w, Write::Release(_))).count();
        (claims, releases)
    };
    assert_eq!(kinds(&moved), (1, 1), "the new one is claimed, the one left out given back");
    assert!(moved.expect.contains(&Expect::Unchanged(Doc::Usage(PROJECT))), "the turnstile");
    let refused = change(r#"{"addresses":["10.0.0.77"]}"#, &[&floating(&port)]).unwrap_err();
    assert!(refused.detail.contains("floating IP 203.0.113.5 leads to"), "{refused}");
    assert!(change("{}", &[]).unwrap().is_empty());
    assert_eq!(kinds(&change(r#"{"name":"other"}"#, &[]).unwrap()), (1, 1), "the name moves");
    assert_eq!(kinds(&change(r#"{"hostname":"www"}"#, &[]).unwrap()), (1, 1), "and so does the host name");
}

#[test]
fn a_port_of_a_vm_or_a_router_is_not_deleted() {
    let (mut port, project) = (made(), project());
    port.vm = Some(VmId(Uuid::from_u128(3)));
    let gone = |port: &Port| delete(port, &[], &owner(&project), &mut call(&mut Seeded::new(1))).map_err(|e| e.detail);
    assert!(gone(&port).unwrap_err().contains("unplug it first"));
    let (router, node) = (RouterId(Uuid::from_u128(1)), hull_types::id::NodeId(Uuid::from_u128(2)));
    port = Port { vm: None, router_gateway: Some(hull_types::port::RouterGatewayOn { router, node }), ..port };
    assert!(gone(&port).unwrap_err().contains("router's gateway"));
}

#[test]
fn groups_are_expected_to_be_there() {
    let group =
        SecurityGroup { id: SecurityGroupId(Uuid::from_u128(5)), meta: meta("g"), stateful: true, rules: vec![] };
    let (case, all) = (case(), subnets(&["10.0.0.0/24"]));
    let all: Vec<&Subnet> = all.iter().collect();
    let wish = Wish {
        on: On { network: &case.network, subnets: &all, used: &case.used },
        addresses: &[],
        from: &[],
        mac: None,
        groups: &[&group],
    };
    let mut changes = Changes::none();
    expect(&mut changes, &wish);
    assert!(changes.expect.contains(&Expect::Exists(Doc::SecurityGroup(group.id))));
}
