//! Networks, their subnets, ports and security groups.

use std::net::IpAddr;

use ipnet::IpNet;
use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{NetworkId, PortId, SecurityGroupId, SubnetId, VmId},
    meta::Meta,
};

/// A MAC address, `52:54:00:12:34:56`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "52:54:00:12:34:56")]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = macaddr::ParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<MacAddr6>().map(|mac| Self(mac.into_array()))
    }
}

impl TryFrom<String> for Mac {
    type Error = macaddr::ParseError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// A range of addresses on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subnet {
    /// Its id.
    pub id: SubnetId,
    /// The range, IPv4 or IPv6 (`/64` for IPv6, so that addresses can be announced by RA).
    #[schema(value_type = String, example = "10.90.0.0/16")]
    pub cidr: IpNet,
    /// The gateway's address; always the network's own.
    #[schema(value_type = String)]
    pub gateway: IpAddr,
    /// Name servers handed to guests; empty means the network's own resolver at the gateway's address.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
}

/// How a network reaches beyond itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Uplink {
    /// Not at all.
    None,
    /// Out through the node's own address; the node's host reaches in.
    Nat,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Owner, name, times.
    #[serde(flatten)]
    pub meta: Meta,
    /// Its address ranges.
    pub subnets: Vec<Subnet>,
    /// How it reaches beyond itself.
    pub uplink: Uplink,
    /// Largest packet, in bytes, as guests are told.
    pub mtu: u16,
    /// The domain of its VMs' names, `hull.internal`.
    pub domain: String,
    /// Whether every project may use it.
    #[serde(default)]
    pub shared: bool,
}

/// An address a port holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct FixedIp {
    /// The subnet it is from.
    pub subnet: SubnetId,
    /// The address.
    #[schema(value_type = String)]
    pub address: IpAddr,
}

/// A port: a VM's end on a network. It keeps its MAC and addresses for as long as it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// Its id.
    pub id: PortId,
    /// Owner, name, times.
    #[serde(flatten)]
    pub meta: Meta,
    /// Its network.
    pub network: NetworkId,
    /// The VM it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmId>,
    /// Its MAC address.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: Vec<FixedIp>,
    /// Its host name, as DHCP and DNS give it.
    pub hostname: String,
    /// The security groups that let traffic in.
    pub security_groups: Vec<SecurityGroupId>,
}

/// Which way a rule lets packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// To the VM.
    Ingress,
    /// From the VM.
    Egress,
}

/// What a rule matches above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
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
    },
}

/// A rule that lets packets through. What no rule lets through inbound is dropped; outbound all is let through
/// unless the group has egress rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct SecurityRule {
    /// Which way.
    pub direction: Direction,
    /// What.
    #[serde(flatten)]
    pub matches: RuleMatch,
    /// The other side's addresses; its family is the rule's family. `0.0.0.0/0` or `::/0` for all.
    #[schema(value_type = String)]
    pub remote: IpNet,
}

/// A security group: stateful, default deny inbound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecurityGroup {
    /// Its id.
    pub id: SecurityGroupId,
    /// Owner, name, times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What it lets through.
    pub rules: Vec<SecurityRule>,
}
