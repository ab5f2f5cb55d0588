//! A network for the unit tests of the responders and the rules.
#![allow(clippy::unwrap_used)]

use hull_types::{
    id::{NetworkId, PortId, SecurityGroupId, SecurityRuleId, VmId},
    link::{DesiredGroup, DesiredNetwork, DesiredPort, DesiredSubnet, PortPlace},
    network::{Mac, Uplink},
    port::Bandwidth,
    security_group::{Direction, Family, Remote, RuleMatch, SecurityRule},
};

use super::{GuestMetadata, view::View};

pub(crate) fn mac(number: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, number])
}

pub(crate) fn rule(direction: Direction, matches: RuleMatch, remote: &str) -> SecurityRule {
    let remote: ipnet::IpNet = remote.parse().unwrap();
    SecurityRule {
        id: SecurityRuleId(uuid::Uuid::nil()),
        direction,
        family: Family::of(&remote.addr()),
        matches,
        remote: Remote::Net(remote),
        description: String::new(),
    }
}

fn group(number: u128, rules: Vec<SecurityRule>) -> DesiredGroup {
    DesiredGroup { id: SecurityGroupId(uuid::Uuid::from_u128(number)), stateful: true, rules, members: vec![] }
}

fn subnet(cidr: &str, gateway: &str) -> DesiredSubnet {
    DesiredSubnet {
        cidr: cidr.parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
        gateway_is_ours: true,
        dns: vec![],
        dhcp: true,
        routes: vec![],
        dhcp_options: vec![],
        router: None,
    }
}

/// `web` (10.90.0.10, fd00:90::a) and `db` (10.90.0.11, fd00:90::b) on this node, `far` on another.
pub(crate) fn network() -> DesiredNetwork {
    let web = group(
        0x300,
        vec![
            rule(Direction::Ingress, RuleMatch::Tcp { from: 22, to: 22 }, "0.0.0.0/0"),
            rule(Direction::Ingress, RuleMatch::Icmp { kind: None, code: None }, "::/0"),
        ],
    );
    let db = group(
        0x301,
        vec![
            rule(Direction::Ingress, RuleMatch::Tcp { from: 5432, to: 5432 }, "10.90.0.0/24"),
            rule(Direction::Egress, RuleMatch::Any, "10.90.0.0/24"),
        ],
    );
    let port = |number: u8, hostname: &str, place, group: &DesiredGroup| DesiredPort {
        id: PortId(uuid::Uuid::from_u128(0x100 + u128::from(number))),
        vm: Some(VmId(uuid::Uuid::from_u128(0x200 + u128::from(number)))),
        place,
        mac: mac(number),
        addresses: vec![format!("10.90.0.{number}").parse().unwrap(), format!("fd00:90::{number:x}").parse().unwrap()],
        allowed_pairs: vec![],
        port_security: true,
        hostname: hostname.to_owned(),
        groups: vec![group.id],
        dhcp_options: vec![],
        bandwidth: Bandwidth::default(),
    };
    let there = PortPlace::There { node: "192.0.2.2".parse().unwrap() };
    DesiredNetwork {
        id: NetworkId("0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap()),
        name: "default".to_owned(),
        subnets: vec![subnet("10.90.0.0/16", "10.90.0.1"), subnet("fd00:90::/64", "fd00:90::1")],
        uplink: Uplink::Nat,
        vni: None,
        mtu: 1400,
        domain: "hull.internal".to_owned(),
        ports: vec![
            port(10, "web", PortPlace::Here, &web),
            port(11, "db", PortPlace::Here, &db),
            port(12, "far", there, &web),
        ],
        groups: vec![web, db],
    }
}

pub(crate) fn view() -> View {
    View::new(network())
}

pub(crate) fn guest() -> GuestMetadata {
    GuestMetadata {
        vm: network().ports[0].vm.unwrap(),
        name: "Web".to_owned(),
        hostname: "web".to_owned(),
        project: "p1".to_owned(),
        zone: "z1".to_owned(),
        flavor: "small".to_owned(),
        ssh_keys: vec![("a".to_owned(), "ssh-ed25519 A".to_owned()), ("b".to_owned(), "ssh-ed25519 B".to_owned())],
        user_data: None,
        metadata: [("role".to_owned(), "web".to_owned())].into(),
    }
}
