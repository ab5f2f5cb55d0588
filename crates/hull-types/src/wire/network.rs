//! What the API takes about networks, subnets, routers, floating IPs, ports and security groups.
//!
//! Changes leave alone what they do not name. Where a value can be taken away, `null` does it.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{
    meta::Metadata,
    name::Name,
    network::{AddressRange, DhcpOption, Mac, Route, Uplink},
    port::{AddressPair, Bandwidth},
    security_group::{Direction, Family},
};

/// `POST /v1/networks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkCreate {
    /// Its name.
    pub name: Name,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Free labels.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub metadata: Metadata,
    /// Free words.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub tags: BTreeSet<String>,
    /// How it reaches beyond itself, apart from routers: not at all where absent. A provider's network is for system
    /// administrators to make.
    #[serde(default = "alone")]
    pub uplink: Uplink,
    /// Largest packet, in bytes; what fits everywhere where absent.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// The domain of its VMs' names; `hull.internal` where absent.
    #[serde(default)]
    pub domain: Option<String>,
    /// Whether every project may use it. For system administrators.
    #[serde(default)]
    pub shared: bool,
    /// Whether routers may have their gateway here and floating IPs come from here. For system administrators.
    #[serde(default)]
    pub external: bool,
    /// Whether its ports are kept from spoofing and filtered, where they do not say.
    #[serde(default = "yes")]
    pub port_security: bool,
}

/// `PATCH /v1/networks/{network}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkUpdate {
    /// New name.
    #[serde(default)]
    pub name: Option<Name>,
    /// New description.
    #[serde(default)]
    pub description: Option<String>,
    /// New labels (all of them).
    #[serde(default)]
    #[schema(value_type = Option<std::collections::HashMap<String, String>>)]
    pub metadata: Option<Metadata>,
    /// New tags (all of them).
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub tags: Option<BTreeSet<String>>,
    /// New largest packet. Running VMs learn it when their leases are renewed, or at their next start.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// New domain.
    #[serde(default)]
    pub domain: Option<String>,
    /// Whether every project may use it. Stays while another project does.
    #[serde(default)]
    pub shared: Option<bool>,
    /// Whether routers lead here and floating IPs come from here. Stays while they do.
    #[serde(default)]
    pub external: Option<bool>,
    /// What new ports have where they do not say.
    #[serde(default)]
    pub port_security: Option<bool>,
}

/// `POST /v1/subnets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubnetCreate {
    /// Its name.
    pub name: Name,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Free labels.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub metadata: Metadata,
    /// Free words.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub tags: BTreeSet<String>,
    /// Name or id of its network.
    pub network: String,
    /// The range: IPv4 from /8 to /30, or an IPv6 /64.
    #[schema(value_type = String, example = "10.1.0.0/24")]
    pub cidr: IpNet,
    /// The gateway told to guests: the range's first address where absent, none where `null`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Option<IpAddr>>,
    /// Name servers told to guests; the network's own where empty.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// Where addresses are given from; the whole range where empty.
    #[serde(default)]
    pub pools: Vec<AddressRange>,
    /// Whether DHCP (and for IPv6 router advertisements) serve it.
    #[serde(default = "yes")]
    pub dhcp: bool,
    /// Routes told to guests.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Further DHCP options told to guests.
    #[serde(default)]
    pub dhcp_options: Vec<DhcpOption>,
}

/// `PATCH /v1/subnets/{subnet}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubnetUpdate {
    /// New name.
    #[serde(default)]
    pub name: Option<Name>,
    /// New description.
    #[serde(default)]
    pub description: Option<String>,
    /// New labels (all of them).
    #[serde(default)]
    #[schema(value_type = Option<std::collections::HashMap<String, String>>)]
    pub metadata: Option<Metadata>,
    /// New tags (all of them).
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub tags: Option<BTreeSet<String>>,
    /// New gateway; none where `null`. Stays while a router is on the subnet.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Option<IpAddr>>,
    /// New name servers (all of them).
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub dns: Option<Vec<IpAddr>>,
    /// New pools (all of them). Addresses in use stay in use.
    #[serde(default)]
    pub pools: Option<Vec<AddressRange>>,
    /// Whether DHCP serves it.
    #[serde(default)]
    pub dhcp: Option<bool>,
    /// New routes (all of them).
    #[serde(default)]
    pub routes: Option<Vec<Route>>,
    /// New DHCP options (all of them).
    #[serde(default)]
    pub dhcp_options: Option<Vec<DhcpOption>>,
}

/// `POST /v1/ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortCreate {
    /// Its name.
    pub name: Name,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Free labels.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub metadata: Metadata,
    /// Free words.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub tags: BTreeSet<String>,
    /// Name or id of its network.
    pub network: String,
    /// Addresses wanted; one of each family the network has where neither these nor subnets are given.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Names or ids of subnets to give one free address each.
    #[serde(default)]
    pub subnets: Vec<String>,
    /// MAC wanted.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Host name, as DHCP and DNS give it, unique on the network; made of the name where absent.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Names or ids of security groups; the project's `default` where absent.
    #[serde(default)]
    pub security_groups: Option<Vec<String>>,
    /// Whether it is kept from spoofing and filtered; as the network says where absent. Off needs an administrator of
    /// the network's project.
    #[serde(default)]
    pub port_security: Option<bool>,
    /// Further addresses it may send from. On another project's network that project's to allow.
    #[serde(default)]
    pub allowed_pairs: Vec<AddressPair>,
    /// Further DHCP options told to it.
    #[serde(default)]
    pub dhcp_options: Vec<DhcpOption>,
    /// How much it may send and receive.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// `PATCH /v1/ports/{port}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortUpdate {
    /// New name.
    #[serde(default)]
    pub name: Option<Name>,
    /// New description.
    #[serde(default)]
    pub description: Option<String>,
    /// New labels (all of them).
    #[serde(default)]
    #[schema(value_type = Option<std::collections::HashMap<String, String>>)]
    pub metadata: Option<Metadata>,
    /// New tags (all of them).
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub tags: Option<BTreeSet<String>>,
    /// New addresses (all of them); its VM learns them by DHCP.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub addresses: Option<Vec<IpAddr>>,
    /// New host name.
    #[serde(default)]
    pub hostname: Option<String>,
    /// New security groups (all of them), by name or id.
    #[serde(default)]
    pub security_groups: Option<Vec<String>>,
    /// Whether it is kept from spoofing and filtered.
    #[serde(default)]
    pub port_security: Option<bool>,
    /// New further addresses (all of them).
    #[serde(default)]
    pub allowed_pairs: Option<Vec<AddressPair>>,
    /// New DHCP options (all of them).
    #[serde(default)]
    pub dhcp_options: Option<Vec<DhcpOption>>,
    /// New limits.
    #[serde(default)]
    pub bandwidth: Option<Bandwidth>,
}

/// `POST /v1/security-groups`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityGroupCreate {
    /// Its name.
    pub name: Name,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Free labels.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub metadata: Metadata,
    /// Free words.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub tags: BTreeSet<String>,
    /// Whether answers to what was let through pass by themselves.
    #[serde(default = "yes")]
    pub stateful: bool,
    /// What it lets through; nothing inbound and everything outbound where empty.
    #[serde(default)]
    pub rules: Vec<SecurityRuleCreate>,
}

/// `PATCH /v1/security-groups/{group}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityGroupUpdate {
    /// New name.
    #[serde(default)]
    pub name: Option<Name>,
    /// New description.
    #[serde(default)]
    pub description: Option<String>,
    /// New labels (all of them).
    #[serde(default)]
    #[schema(value_type = Option<std::collections::HashMap<String, String>>)]
    pub metadata: Option<Metadata>,
    /// New tags (all of them).
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub tags: Option<BTreeSet<String>>,
    /// Whether answers pass by themselves. Stays while a port is in the group.
    #[serde(default)]
    pub stateful: Option<bool>,
}

/// What a rule matches above IP, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleProtocol {
    /// Everything.
    #[default]
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
    /// Another, by `number`.
    Other,
}

/// The other side of a rule, as callers name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RemoteRequest {
    /// These addresses.
    #[schema(value_type = String)]
    Net(IpNet),
    /// The ports in this group, by its name or id.
    Group(String),
}

/// `POST /v1/security-groups/{group}/rules`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecurityRuleCreate {
    /// Which way.
    #[serde(default = "inbound")]
    pub direction: Direction,
    /// Of which packets; the family of `remote` where absent, IPv4 where that names a group.
    #[serde(default)]
    pub family: Option<Family>,
    /// What.
    #[serde(default)]
    pub protocol: RuleProtocol,
    /// TCP, UDP: the first port; every port where neither is given.
    #[serde(default)]
    pub from: Option<u16>,
    /// TCP, UDP: the last port; `from` where absent.
    #[serde(default)]
    pub to: Option<u16>,
    /// ICMP: the type; every type where absent.
    #[serde(default)]
    pub kind: Option<u8>,
    /// ICMP: the code; every code where absent.
    #[serde(default)]
    pub code: Option<u8>,
    /// Other: the protocol's number.
    #[serde(default)]
    pub number: Option<u8>,
    /// The other side; everything of the family where absent.
    #[serde(default)]
    pub remote: Option<RemoteRequest>,
    /// Free text.
    #[serde(default)]
    pub description: String,
}

/// A router's way out, as callers name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterGatewayRequest {
    /// Name or id of an external network.
    pub network: String,
    /// Whether VMs without a floating IP go out under an address of the router's.
    #[serde(default = "yes")]
    pub snat: bool,
}

/// `POST /v1/routers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterCreate {
    /// Its name.
    pub name: Name,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Free labels.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub metadata: Metadata,
    /// Free words.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub tags: BTreeSet<String>,
    /// Names or ids of the subnets it joins.
    #[serde(default)]
    pub subnets: Vec<String>,
    /// Its way out.
    #[serde(default)]
    pub gateway: Option<RouterGatewayRequest>,
    /// Further routes.
    #[serde(default)]
    pub routes: Vec<Route>,
}

/// `PATCH /v1/routers/{router}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterUpdate {
    /// New name.
    #[serde(default)]
    pub name: Option<Name>,
    /// New description.
    #[serde(default)]
    pub description: Option<String>,
    /// New labels (all of them).
    #[serde(default)]
    #[schema(value_type = Option<std::collections::HashMap<String, String>>)]
    pub metadata: Option<Metadata>,
    /// New tags (all of them).
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub tags: Option<BTreeSet<String>>,
    /// New way out; none where `null`. Stays where floating IPs lead through it.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<RouterGatewayRequest>)]
    pub gateway: Option<Option<RouterGatewayRequest>>,
    /// New further routes (all of them).
    #[serde(default)]
    pub routes: Option<Vec<Route>>,
}

/// `POST /v1/routers/{router}/subnets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterSubnetAdd {
    /// Name or id of the subnet.
    pub subnet: String,
}

/// Where a floating IP shall lead, as callers name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FloatingIpTargetRequest {
    /// Name or id of a port; or name a VM.
    #[serde(default)]
    pub port: Option<String>,
    /// Name or id of a VM, one of whose ports it shall be.
    #[serde(default)]
    pub vm: Option<String>,
    /// Which of its addresses; the first that can be reached from the floating IP's network where absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub fixed: Option<IpAddr>,
}

/// `POST /v1/floating-ips`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FloatingIpCreate {
    /// Its name; the address where absent.
    #[serde(default)]
    pub name: Option<Name>,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Free labels.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub metadata: Metadata,
    /// Free words.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub tags: BTreeSet<String>,
    /// Name or id of the external network.
    pub network: String,
    /// The address wanted; the next free one where absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// Of which family, where no address is wanted; IPv4 where absent and the network has it.
    #[serde(default)]
    pub family: Option<Family>,
    /// Where it leads.
    #[serde(default)]
    pub target: Option<FloatingIpTargetRequest>,
}

/// `PATCH /v1/floating-ips/{floating_ip}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FloatingIpUpdate {
    /// New name.
    #[serde(default)]
    pub name: Option<Name>,
    /// New description.
    #[serde(default)]
    pub description: Option<String>,
    /// New labels (all of them).
    #[serde(default)]
    #[schema(value_type = Option<std::collections::HashMap<String, String>>)]
    pub metadata: Option<Metadata>,
    /// New tags (all of them).
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    pub tags: Option<BTreeSet<String>>,
    /// Where it leads; nowhere where `null`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<FloatingIpTargetRequest>)]
    pub target: Option<Option<FloatingIpTargetRequest>>,
}

/// Tells `null` from a field that is not there.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

fn alone() -> Uplink {
    Uplink::None
}

fn inbound() -> Direction {
    Direction::Ingress
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_told_from_absent() {
        let read = |text: &str| serde_json::from_str::<SubnetUpdate>(text).map(|update| update.gateway).ok();
        assert_eq!(read("{}"), Some(None));
        assert_eq!(read(r#"{"gateway":null}"#), Some(Some(None)));
        assert_eq!(read(r#"{"gateway":"10.0.0.1"}"#), Some(Some("10.0.0.1".parse().ok())));
    }
}
