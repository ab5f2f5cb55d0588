//! Security groups: what may reach a port and what it may reach. Default deny inbound.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{SecurityGroupId, SecurityRuleId},
    meta::Meta,
};

/// Which way a rule lets packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// To the VM.
    Ingress,
    /// From the VM.
    Egress,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of an address.
    pub const fn of(address: &std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(_) => Self::Ipv4,
            std::net::IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

/// What a rule matches above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "protocol")]
pub enum RuleMatch {
    /// Everything.
    Any,
    /// TCP to a range of ports, both ends included.
    Tcp {
        /// First port.
        from: u16,
        /// Last port.
        to: u16,
    },
    /// UDP to a range of ports, both ends included.
    Udp {
        /// First port.
        from: u16,
        /// Last port.
        to: u16,
    },
    /// ICMP (IPv4) or ICMPv6, by the rule's address family.
    Icmp {
        /// The type; every type where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<u8>,
        /// The code; every code where absent. Needs a type.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u8>,
    },
    /// Another protocol, by its number (IANA's registry), whole.
    Other {
        /// The number.
        number: u8,
    },
}

/// The other side of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Remote {
    /// These addresses; the family is the rule's. `0.0.0.0/0` and `::/0` are all.
    #[schema(value_type = String)]
    Net(IpNet),
    /// The addresses of all ports in this group, whichever they are at the moment.
    Group(SecurityGroupId),
}

/// A rule that lets packets through. What no rule lets through inbound is dropped; outbound all is let through
/// unless the port's groups have egress rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct SecurityRule {
    /// Its id.
    pub id: SecurityRuleId,
    /// Which way.
    pub direction: Direction,
    /// Of which packets.
    pub family: Family,
    /// What.
    #[serde(flatten)]
    pub matches: RuleMatch,
    /// The other side.
    pub remote: Remote,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A security group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecurityGroup {
    /// Its id.
    pub id: SecurityGroupId,
    /// Owner, name, times.
    #[serde(flatten)]
    pub meta: Meta,
    /// Whether answers to what was let through pass by themselves. Without, each direction needs its rule; a port's
    /// groups are all of one kind.
    #[serde(default = "yes")]
    pub stateful: bool,
    /// What it lets through.
    pub rules: Vec<SecurityRule>,
}

fn yes() -> bool {
    true
}
