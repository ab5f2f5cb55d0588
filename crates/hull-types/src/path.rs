//! The way of a packet, hop by hop: what `hull explain path` asks nodes and shows people.
//!
//! A node walks the packet through what its kernel holds (rules, routes, bridges, tunnels) until it is dropped, delivered
//! to a port here, leaves for another node, or leaves the cloud. The server goes on at the next node with the packet as it
//! then is (addresses may have been translated).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{NetworkId, PortId, RouterId};

/// What a packet carries above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "protocol")]
pub enum PathProtocol {
    /// The first segment of a TCP connection.
    Tcp {
        /// The destination's port.
        port: u16,
    },
    /// A UDP datagram that nothing came before.
    Udp {
        /// The destination's port.
        port: u16,
    },
    /// An echo request (ping).
    Icmp,
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct PathPacket {
    /// Where it says it comes from.
    #[schema(value_type = String)]
    pub source: IpAddr,
    /// Where it goes.
    #[schema(value_type = String)]
    pub destination: IpAddr,
    /// What it carries.
    #[serde(flatten)]
    pub protocol: PathProtocol,
    /// Its size in bytes, with its IP header; it may not be fragmented.
    pub size: u16,
}

/// Where on a node a packet begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum PathStart {
    /// A VM sends it.
    Port {
        /// Its network.
        network: NetworkId,
        /// Its port.
        port: PortId,
    },
    /// It came over the wire from another node.
    Tunnel {
        /// Its network.
        network: NetworkId,
    },
    /// It came from outside, on this external network.
    Outside {
        /// The network.
        network: NetworkId,
    },
}

/// A packet and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct PathQuery {
    /// Where.
    #[serde(flatten)]
    pub start: PathStart,
    /// The packet.
    pub packet: PathPacket,
}

/// A step on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PathHop {
    /// Where: `network net1`, `router r1`, `host`.
    pub place: String,
    /// The network, where the place is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkId>,
    /// The router, where the place is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<RouterId>,
    /// What looked at the packet: `anti-spoofing`, `security groups`, `route`, `floating ip`, `snat`, `mtu`, `tunnel`, …
    pub part: String,
    /// One sentence: which rule, route or translation, and what it did.
    pub told: String,
    /// Whether the packet goes on.
    pub passes: bool,
}

/// How a packet's way on a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "end")]
pub enum PathEnd {
    /// It is dropped or refused; the last hop says where and why.
    Dropped,
    /// It reaches this port's VM.
    Delivered {
        /// The port.
        port: PortId,
    },
    /// It goes on to another node.
    Tunnel {
        /// That node's underlay address.
        #[schema(value_type = String)]
        node: IpAddr,
        /// The network it travels on.
        network: NetworkId,
    },
    /// It leaves the cloud, on this external network or through the host.
    Outside,
    /// A service of the network itself answers (DHCP, DNS, metadata, the gateway's ping).
    Service,
}

/// How far a packet gets on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PathReport {
    /// The steps, in order.
    pub hops: Vec<PathHop>,
    /// How it ends here.
    #[serde(flatten)]
    pub end: PathEnd,
    /// The packet as it ends, translated or not.
    pub packet: PathPacket,
}

/// A step on the way, with the node it is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeHop {
    /// The node's name.
    pub node: String,
    /// The step.
    #[serde(flatten)]
    pub hop: PathHop,
}

/// The whole way of a packet, over all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PathExplanation {
    /// One sentence.
    pub summary: String,
    /// Whether it gets where it should.
    pub reaches: bool,
    /// The steps, in order.
    pub hops: Vec<NodeHop>,
}
