//! The protocol between server and node: what a node should hold, what it reports, and calls that need an answer now.
//!
//! The node dials the server and says [`FromNode::Hello`]; the server answers with the whole desired state
//! ([`ToNode::Desired`] with `full`), then with what changed. Nothing here is an order of events: a node that missed
//! messages reconnects and is told everything again. Byte streams (consoles, TCP) do not share this channel: the server
//! asks for one by id ([`NodeCall::OpenStream`]) and the node dials back with that id.
//!
//! Over the network this is JSON in WebSocket text frames over mTLS; in one process, two channels.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    error::Error,
    id::{FloatingIpId, MigrationId, NetworkId, NodeId, PortId, RouterId, SecurityGroupId, StreamId, VmId},
    image::ImageContent,
    migration::Transit,
    network::{DhcpOption, Mac, Route, Uplink, Vni},
    node::NodeStatus,
    path::{PathQuery, PathReport},
    port::{AddressPair, Bandwidth},
    security_group::SecurityRule,
    sensitive::Sensitive,
    vm::{Vm, VmStatus},
};

/// The protocol's version; a node and a server may differ by one.
pub const PROTOCOL: u32 = 1;

/// A VM as one node shall hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredVm {
    /// What the user wants. Its deletion mark means: tear down, then report [`crate::vm::VmPhase::Gone`].
    pub vm: Vm,
    /// The placement's generation.
    pub generation: u64,
    /// The store revision of `vm`.
    pub revision: u64,
    /// The root disk image's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageContent>,
    /// The rescue image's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue_image: Option<ImageContent>,
    /// Its NICs, in order.
    pub nics: Vec<DesiredNic>,
    /// This node's part in the VM's migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transit: Option<Transit>,
}

impl DesiredVm {
    /// The images it is made of.
    pub fn images(&self) -> impl Iterator<Item = Digest> {
        let boot = &self.vm.boot;
        let named = [boot.image.as_ref(), self.vm.rescue.as_ref().map(|rescue| &rescue.image)];
        let told = [self.image.as_ref(), self.rescue_image.as_ref()];
        let kernel = boot.kernel.as_ref();
        let named = named.into_iter().flatten().map(|image| image.digest);
        let told = told.into_iter().flatten().map(|content| content.digest);
        named.chain(told).chain(kernel.map(|kernel| kernel.kernel)).chain(kernel.and_then(|kernel| kernel.initrd))
    }
}

/// A NIC of a VM on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredNic {
    /// The port.
    pub port: PortId,
    /// Its network (told in the same or an earlier message).
    pub network: NetworkId,
    /// Its MAC.
    pub mac: Mac,
}

/// A network as one node shall hold it: because a VM of it is here, or because a router that is here leads to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredNetwork {
    /// The network.
    pub id: NetworkId,
    /// Its name, for people who look at the host.
    pub name: String,
    /// Its ranges with gateways and name servers.
    pub subnets: Vec<DesiredSubnet>,
    /// How it reaches out.
    pub uplink: Uplink,
    /// Its number between nodes; none where this node is alone with it.
    #[serde(default)]
    pub vni: Option<Vni>,
    /// Largest packet.
    pub mtu: u16,
    /// The domain of its names.
    pub domain: String,
    /// Every port of the network (DNS answers for all; taps exist only for those that are here).
    pub ports: Vec<DesiredPort>,
    /// The security groups of its ports here, and the groups that their rules name.
    #[serde(default)]
    pub groups: Vec<DesiredGroup>,
}

/// A subnet as a node shall serve it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredSubnet {
    /// The range.
    pub cidr: IpNet,
    /// The gateway told to guests.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Whether the network itself answers at the gateway's address (NAT uplink, or a router); a machine outside does
    /// where not.
    #[serde(default = "yes")]
    pub gateway_is_ours: bool,
    /// Name servers told to guests; empty means the network's own resolver.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// Whether DHCP and RA serve it.
    #[serde(default = "yes")]
    pub dhcp: bool,
    /// Routes told to guests.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Further DHCP options.
    #[serde(default)]
    pub dhcp_options: Vec<DhcpOption>,
    /// The router it is on (told in the same or a later message).
    #[serde(default)]
    pub router: Option<RouterId>,
}

fn yes() -> bool {
    true
}

/// Where a port's far end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "place")]
pub enum PortPlace {
    /// Its VM is on this node.
    Here,
    /// Its VM is on the node with this underlay address.
    There {
        /// The address.
        node: IpAddr,
    },
    /// It has no VM, or none that is placed, or its node has no underlay address.
    Nowhere,
}

/// A port as a node shall serve it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredPort {
    /// The port.
    pub id: PortId,
    /// The VM.
    #[serde(default)]
    pub vm: Option<VmId>,
    /// Where its VM is.
    #[serde(flatten)]
    pub place: PortPlace,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Further addresses it may send from.
    #[serde(default)]
    pub allowed_pairs: Vec<AddressPair>,
    /// Whether it is kept from spoofing and filtered by its groups.
    #[serde(default = "yes")]
    pub port_security: bool,
    /// Its host name.
    pub hostname: String,
    /// Its security groups, each in the network's `groups` where the port is here.
    #[serde(default)]
    pub groups: Vec<SecurityGroupId>,
    /// Further DHCP options.
    #[serde(default)]
    pub dhcp_options: Vec<DhcpOption>,
    /// How much it may send and receive.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

impl DesiredPort {
    /// Whether its VM is on this node.
    pub fn is_here(&self) -> bool {
        self.place == PortPlace::Here
    }
}

/// A security group as a node shall enforce it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredGroup {
    /// The group.
    pub id: SecurityGroupId,
    /// Whether answers pass by themselves.
    #[serde(default = "yes")]
    pub stateful: bool,
    /// What it lets through.
    #[serde(default)]
    pub rules: Vec<SecurityRule>,
    /// The addresses of all its ports, on every network; only for groups that a rule here names as remote.
    #[serde(default)]
    pub members: Vec<IpAddr>,
}

/// A router as one node shall hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredRouter {
    /// The router.
    pub id: RouterId,
    /// Its name, for people who look at the host.
    pub name: String,
    /// The ranges it joins and the networks they are on (told in the same or an earlier message).
    pub subnets: Vec<DesiredRouterSubnet>,
    /// Further routes.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Its way out.
    #[serde(default)]
    pub gateway: Option<DesiredGateway>,
}

/// A range that a router joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredRouterSubnet {
    /// Its network.
    pub network: NetworkId,
    /// The range.
    pub cidr: IpNet,
    /// The gateway's address, which the network answers for.
    pub gateway: IpAddr,
}

/// A router's way out, from one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredGateway {
    /// The external network (told in the same or an earlier message).
    pub network: NetworkId,
    /// The MAC of this router's end on this node.
    pub mac: Mac,
    /// This node's own addresses for the router, with their ranges; empty while none has been given.
    pub addresses: Vec<IpNet>,
    /// The next hops: the gateways of the external network's subnets.
    pub next_hops: Vec<IpAddr>,
    /// Whether VMs without a floating IP go out under `addresses`.
    pub snat: bool,
    /// Floating IPs that lead to VMs on this node.
    #[serde(default)]
    pub floating_ips: Vec<DesiredFloatingIp>,
}

/// A floating IP as a node shall answer for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredFloatingIp {
    /// The floating IP.
    pub id: FloatingIpId,
    /// Its address.
    pub address: IpAddr,
    /// The VM's address it leads to.
    pub fixed: IpAddr,
}

/// From server to node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum ToNode {
    /// What the node shall hold.
    Desired(Desired),
    /// A call that wants [`FromNode::Reply`].
    Call {
        /// Names the reply.
        id: u64,
        /// What is asked.
        call: NodeCall,
    },
}

/// What a node shall hold: everything (`full`), or what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Whether this is all; what is not named shall then not be here.
    pub full: bool,
    /// VMs new or changed.
    #[serde(default)]
    pub vms: Vec<DesiredVm>,
    /// VMs that are no longer this node's (placed elsewhere, or their records are gone): tear down.
    #[serde(default)]
    pub vms_removed: Vec<VmId>,
    /// Networks new or changed.
    #[serde(default)]
    pub networks: Vec<DesiredNetwork>,
    /// Networks no longer needed here.
    #[serde(default)]
    pub networks_removed: Vec<NetworkId>,
    /// Routers new or changed.
    #[serde(default)]
    pub routers: Vec<DesiredRouter>,
    /// Routers no longer needed here.
    #[serde(default)]
    pub routers_removed: Vec<RouterId>,
}

/// From node to server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum FromNode {
    /// The first message on a link.
    Hello {
        /// The protocol it speaks.
        protocol: u32,
        /// Who it is; must agree with its certificate.
        node: NodeId,
        /// What it is.
        status: Box<NodeStatus>,
    },
    /// The node's own status changed; also sent as a heartbeat.
    Status(Box<NodeStatus>),
    /// A VM's status changed.
    Vm(Box<VmStatus>),
    /// The answer to a call.
    Reply {
        /// The call's id.
        id: u64,
        /// Its outcome.
        result: Result<NodeReply, Error>,
    },
}

/// Where a stream ends on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum StreamTarget {
    /// The serial console, interactive.
    Console,
    /// The VNC server.
    Vnc,
    /// A TCP connection to one of the VM's addresses, made from its network.
    Tcp {
        /// The port.
        port: u16,
    },
    /// All that a VM at rest is, for the node it goes to. It is given only while it leaves by this migration.
    Handover {
        /// The migration.
        migration: MigrationId,
    },
}

/// Calls that need an answer now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "call")]
pub enum NodeCall {
    /// Dial back with this stream id, joined to the target.
    OpenStream {
        /// The id to dial back with.
        stream: StreamId,
        /// The VM.
        vm: VmId,
        /// Where the stream ends.
        target: StreamTarget,
    },
    /// The newest bytes of the console log.
    ConsoleLog {
        /// The VM.
        vm: VmId,
        /// At most so many bytes.
        tail: u32,
    },
    /// The screen as PNG.
    Screenshot {
        /// The VM.
        vm: VmId,
    },
    /// Whether the guest agent answers.
    AgentPing {
        /// The VM.
        vm: VmId,
    },
    /// Runs a program in the guest through its agent.
    AgentExec {
        /// The VM.
        vm: VmId,
        /// Program and arguments.
        argv: Vec<String>,
        /// Base64 of its standard input.
        input: Option<String>,
        /// Seconds until giving up.
        timeout_seconds: u32,
    },
    /// Sets a user's password through the agent.
    SetPassword {
        /// The VM.
        vm: VmId,
        /// The user.
        user: String,
        /// The password.
        password: Sensitive,
    },
    /// Freezes the guest's file systems.
    Quiesce {
        /// The VM.
        vm: VmId,
    },
    /// Thaws them.
    Thaw {
        /// The VM.
        vm: VmId,
    },
    /// What the node knows of a VM, for `explain`.
    Explain {
        /// The VM.
        vm: VmId,
    },
    /// How far a packet would get on this node, computed from what its kernel holds.
    ExplainPath {
        /// The VM that sends it.
        vm: VmId,
        /// The packet, and where on this node it begins.
        query: PathQuery,
    },
}

/// Answers to calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reply")]
pub enum NodeReply {
    /// Done; nothing to tell.
    Done,
    /// Base64 bytes (console log, PNG).
    Bytes {
        /// The bytes.
        base64: String,
    },
    /// A program's outcome.
    Exec(ExecResult),
    /// File systems frozen or thawed.
    Count {
        /// How many.
        count: u64,
    },
    /// How far a packet gets.
    Path(Box<PathReport>),
    /// Lines for people.
    Text {
        /// The lines.
        lines: Vec<String>,
    },
}

/// A program's outcome in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExecResult {
    /// Its exit code; none where a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Base64 of its standard output.
    pub stdout: String,
    /// Base64 of its standard error.
    pub stderr: String,
    /// Whether output was cut by the agent's limit.
    pub truncated: bool,
}

/// `POST /node/v1/join`: a host asks to be a node. It has checked that the server's CA has the fingerprint its join
/// token pins, before it sends the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The join token's secret, its last part.
    pub secret: String,
    /// The name it wants. A host that joins again under its name gets its old id, where it proves to be that node by its
    /// certificate, or its token is bound to the name.
    pub name: crate::name::Name,
    /// A certificate signing request (PKCS #10, PEM) for a key that never leaves the host.
    pub request: String,
}

/// `POST /node/v1/renew`: a node asks, by its certificate, for another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// A certificate signing request (PKCS #10, PEM) for a key that never leaves the host.
    pub request: String,
}

/// What a host that has joined keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Its id.
    pub node: NodeId,
    /// Its certificate, PEM.
    pub certificate: String,
    /// The CA's certificate, PEM.
    pub ca: String,
}
