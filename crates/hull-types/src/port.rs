//! Ports: ends on a network. A VM's NIC is a port; a port without a VM keeps its addresses for one to come.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{NetworkId, NodeId, PortId, RouterId, SecurityGroupId, SubnetId, VmId},
    meta::Meta,
    network::{DhcpOption, Mac},
};

/// An address a port holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct FixedIp {
    /// The subnet it is from.
    pub subnet: SubnetId,
    /// The address.
    #[schema(value_type = String)]
    pub address: IpAddr,
}

/// Addresses beside its own that a port may send from: a virtual router's, a cluster's shared address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressPair {
    /// The addresses.
    #[schema(value_type = String, example = "10.0.0.100/32")]
    pub addresses: IpNet,
    /// The MAC it may use for them; the port's own where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
}

/// How much a port may send and receive. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// To the VM, in kilobits (1,000 bits) a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_kbps: Option<u64>,
    /// From the VM, in kilobits (1,000 bits) a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_kbps: Option<u64>,
}

impl Bandwidth {
    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// The end of a router on its external network, on one node: the address that node's VMs leave from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct RouterGatewayOn {
    /// The router.
    pub router: RouterId,
    /// The node.
    pub node: NodeId,
}

/// A port. It keeps its MAC and addresses for as long as it lives: over stop, start, rebuild and migration of its VM.
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
    /// Whether it was made with its VM and goes with it; one that a user made stays.
    #[serde(default)]
    pub goes_with_vm: bool,
    /// It is a router's end on its external network, and the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_gateway: Option<RouterGatewayOn>,
    /// Its MAC address.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: Vec<FixedIp>,
    /// Its host name, as DHCP and DNS give it.
    pub hostname: String,
    /// The security groups that let traffic through.
    pub security_groups: Vec<SecurityGroupId>,
    /// Whether it is kept from spoofing and filtered by its groups. Turning it off needs the network's owner as admin.
    #[serde(default = "yes")]
    pub port_security: bool,
    /// Further addresses it may send from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_pairs: Vec<AddressPair>,
    /// Further DHCP options told to this port; they stand before the subnet's of the same code.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dhcp_options: Vec<DhcpOption>,
    /// How much it may send and receive.
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}

fn yes() -> bool {
    true
}

impl Port {
    /// Its addresses without their subnets.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(|fixed| fixed.address)
    }
}
