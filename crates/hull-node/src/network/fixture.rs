//! A network for the unit tests of the responders and the rules.
#![allow(clippy::unwrap_used)]

use hull_types::{
    id::{NetworkId, PortId, VmId},
    link::{DesiredNetwork, DesiredPort, DesiredSubnet},
    network::{Direction, Mac, RuleMatch, SecurityRule, Uplink},
};

use super::{GuestMetadata, view::View};

pub(crate) fn mac(number: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, number])
}

pub(crate) fn rule(direction: Direction, matches: RuleMatch, remote: &str) -> SecurityRule {
    SecurityRule { direction, matches, remote: remote.parse().unwrap() }
}

/// `web` (10.90.0.10, fd00:90::a) and `db` (10.90.0.11, fd00:90::b) on this node, `far` on another.
pub(crate) fn network() -> DesiredNetwork {
    let port = |number: u8, hostname: &str, local| DesiredPort {
        id: PortId(uuid::Uuid::from_u128(0x100 + u128::from(number))),
        vm: VmId(uuid::Uuid::from_u128(0x200 + u128::from(number))),
        local,
        mac: mac(number),
        addresses: vec![format!("10.90.0.{number}").parse().unwrap(), format!("fd00:90::{number:x}").parse().unwrap()],
        hostname: hostname.to_owned(),
        rules: vec![
            rule(Direction::Ingress, RuleMatch::Tcp { from: 22, to: 22 }, "0.0.0.0/0"),
            rule(Direction::Ingress, RuleMatch::Icmp { kind: None }, "::/0"),
        ],
    };
    let mut db = port(11, "db", true);
    db.rules = vec![
        rule(Direction::Ingress, RuleMatch::Tcp { from: 5432, to: 5432 }, "10.90.0.0/24"),
        rule(Direction::Egress, RuleMatch::Any, "10.90.0.0/24"),
    ];
    DesiredNetwork {
        id: NetworkId("0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap()),
        name: "default".to_owned(),
        subnets: vec![
            DesiredSubnet { cidr: "10.90.0.0/16".parse().unwrap(), gateway: "10.90.0.1".parse().unwrap(), dns: vec![] },
            DesiredSubnet {
                cidr: "fd00:90::/64".parse().unwrap(),
                gateway: "fd00:90::1".parse().unwrap(),
                dns: vec![],
            },
        ],
        uplink: Uplink::Nat,
        mtu: 1400,
        domain: "hull.internal".to_owned(),
        ports: vec![port(10, "web", true), db, port(12, "far", false)],
    }
}

pub(crate) fn view() -> View {
    View::new(network())
}

pub(crate) fn guest() -> GuestMetadata {
    GuestMetadata {
        vm: network().ports[0].vm,
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
