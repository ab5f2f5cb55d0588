//! Routers: they join networks, and lead out to an external one. A router is everywhere at once: on each node that hosts
//! a VM of one of its networks, with the same addresses, so there is no network node to wait for.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{NetworkId, RouterId, SubnetId},
    meta::Meta,
    network::Route,
    reason::Reason,
};

impl RouterId {
    /// A number of 29 bits that no two routers of a cloud share: nodes tell routers apart by it where an id is too long, as
    /// in the kernel's routing tables. Of the id's random part, and drawn anew with it where another router has it.
    pub const fn number(self) -> u32 {
        let id = self.0.as_u128() as u32;
        (id & 0x3fff_fffe) >> 1
    }
}

/// A router's way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterGateway {
    /// The external network.
    pub network: NetworkId,
    /// Whether VMs without a floating IP go out under an address of the router's. Each node that needs it has one of its
    /// own from the external network, since packets leave from the VM's own node.
    #[serde(default = "yes")]
    pub snat: bool,
}

fn yes() -> bool {
    true
}

/// A router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Router {
    /// Its id.
    pub id: RouterId,
    /// Owner, name, times.
    #[serde(flatten)]
    pub meta: Meta,
    /// The subnets it joins; it answers for their gateways' addresses. A subnet is on one router at most.
    pub subnets: Vec<SubnetId>,
    /// Its way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<RouterGateway>,
    /// Further routes; each next hop is on one of its subnets or on the external network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Why it does not (yet) lead out from every node as asked; written by the server's controller alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// An address of an external network that leads to a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FloatingIp {
    /// Its id.
    pub id: crate::id::FloatingIpId,
    /// Owner, name, times. Where no name is given the address is the name.
    #[serde(flatten)]
    pub meta: Meta,
    /// The external network it is from.
    pub network: NetworkId,
    /// The subnet it is from.
    pub subnet: SubnetId,
    /// The address; stays the same for its whole life.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Where it leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<FloatingIpTarget>,
}

/// Where a floating IP leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FloatingIpTarget {
    /// The port.
    pub port: crate::id::PortId,
    /// Which of its addresses, of the floating IP's family.
    #[schema(value_type = String)]
    pub fixed: IpAddr,
    /// The router between: the one of the fixed address's subnet, with its gateway on the floating IP's network.
    pub router: RouterId,
}
