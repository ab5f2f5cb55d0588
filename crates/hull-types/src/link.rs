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
    error::Error,
    id::{NetworkId, NodeId, PortId, StreamId, VmId},
    image::ImageContent,
    network::{Mac, SecurityRule, Uplink},
    node::NodeStatus,
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

/// A network as one node shall hold it.
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
    /// Largest packet.
    pub mtu: u16,
    /// The domain of its names.
    pub domain: String,
    /// Every port of the network (DNS answers for all; taps exist only for `local` ones).
    pub ports: Vec<DesiredPort>,
}

/// A subnet as a node shall serve it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredSubnet {
    /// The range.
    pub cidr: IpNet,
    /// The gateway, answered by the node.
    pub gateway: IpAddr,
    /// Name servers told to guests; empty means the gateway.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
}

/// A port as a node shall serve it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredPort {
    /// The port.
    pub id: PortId,
    /// The VM.
    pub vm: VmId,
    /// Whether the VM is placed on this node.
    pub local: bool,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its host name.
    pub hostname: String,
    /// The union of its security groups' rules.
    pub rules: Vec<SecurityRule>,
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
        password: String,
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
    /// The name it wants; a host that joins again under its name gets its old id.
    pub name: crate::name::Name,
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
