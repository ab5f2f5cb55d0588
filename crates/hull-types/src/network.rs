//! Networks and their subnets. Ports, security groups, routers and floating IPs have modules of their own.
//!
//! ```text
//!   external network ◄── gateway ── router ── interface ──► subnet ∈ network ◄── port ── VM
//!         ▲                           (one router a subnet)                        │
//!         └────── floating IP ─────────────────────────────────────────────────────┘
//! ```

use std::net::IpAddr;

use ipnet::IpNet;
use macaddr::MacAddr6;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{NetworkId, RouterId, SubnetId},
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

/// A span of addresses, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressRange {
    /// The first address.
    #[schema(value_type = String, example = "10.0.0.10")]
    pub first: IpAddr,
    /// The last address.
    #[schema(value_type = String, example = "10.0.0.99")]
    pub last: IpAddr,
}

/// A route told to guests or held by a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The range.
    #[schema(value_type = String, example = "192.168.0.0/16")]
    pub to: IpNet,
    /// The next hop, on one of the subnets at hand.
    #[schema(value_type = String, example = "10.0.0.254")]
    pub via: IpAddr,
}

/// A DHCP option beyond those Hull sends by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DhcpOption {
    /// The option's number (RFC 2132 and later): 1 to 254, none of those Hull decides on (addresses, leases, server).
    pub code: u8,
    /// Its value, sent as these bytes of text.
    pub value: String,
}

/// A subnet: a range of addresses on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subnet {
    /// Its id.
    pub id: SubnetId,
    /// Owner, name, times. The owner is the network's.
    #[serde(flatten)]
    pub meta: Meta,
    /// Its network.
    pub network: NetworkId,
    /// The range, IPv4 or IPv6 (`/64` for IPv6, so that addresses can be announced by RA). Never changes.
    #[schema(value_type = String, example = "10.90.0.0/16")]
    pub cidr: IpNet,
    /// The gateway told to guests; none for a subnet that leads nowhere. Answered by the network itself, on every node,
    /// where it has an uplink by NAT or the subnet is on a router; a machine outside of Hull where it is on a provider's
    /// network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<IpAddr>,
    /// Name servers handed to guests; empty means the network's own resolver.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// Where addresses are given from; empty means the whole range.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<AddressRange>,
    /// Whether DHCP (and for IPv6 router advertisements) serve it.
    #[serde(default = "yes")]
    pub dhcp: bool,
    /// Routes told to guests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Further DHCP options told to guests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dhcp_options: Vec<DhcpOption>,
    /// The router it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<RouterId>,
}

fn yes() -> bool {
    true
}

/// How a network reaches beyond itself, apart from routers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Uplink {
    /// Not at all.
    None,
    /// Out through the node's own address; the node's host reaches in.
    Nat,
    /// It is a network outside of Hull: plugged, untagged, into the bridge that each node's configuration names for this
    /// provider network.
    Provider(String),
}

/// A network's number on the wire between nodes (VXLAN, RFC 7348): 1 to 16,777,215, unique in the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = u32, minimum = 1, maximum = 16_777_215)]
pub struct Vni(pub u32);

impl std::fmt::Display for Vni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Owner, name, times.
    #[serde(flatten)]
    pub meta: Meta,
    /// Its subnets, oldest first. Changes with each of them, so that two that overlap cannot come at once.
    pub subnets: Vec<SubnetId>,
    /// How it reaches beyond itself.
    pub uplink: Uplink,
    /// Its number between nodes; none where nothing of it goes from node to node (a provider's network does by itself).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,
    /// Largest packet, in bytes, as guests are told.
    pub mtu: u16,
    /// The domain of its VMs' names, `hull.internal`.
    pub domain: String,
    /// Whether every project may use it.
    #[serde(default)]
    pub shared: bool,
    /// Whether routers may have their gateway here and floating IPs come from here.
    #[serde(default)]
    pub external: bool,
    /// Whether its ports are kept from spoofing and filtered by security groups, where the port does not say.
    #[serde(default = "yes")]
    pub port_security: bool,
}
