//! Nodes: hosts that run VMs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{id::NodeId, name::Name, reason::Reason, units::Bytes, vm::Accel};

/// What a node says of itself when it joins, and again when it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeFacts {
    /// The host's name.
    pub hostname: String,
    /// Hull's version on it.
    pub hull_version: String,
    /// QEMU's version on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu_version: Option<String>,
    /// The kernel's release.
    pub kernel: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory of the host.
    pub memory: Bytes,
    /// Memory Hull keeps off for the host itself.
    pub memory_reserved: Bytes,
    /// The file system for VM disks: size.
    pub disk: Bytes,
    /// The processors' model: a running machine moves between equal ones only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// How VMs run here, as proven by the probe.
    pub accel: Accel,
    /// The boot id of the host: another one means that it was rebooted.
    pub boot_id: String,
    /// The address at which other nodes reach its networks (VXLAN); none where it is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub underlay: Option<std::net::IpAddr>,
    /// The provider networks it is plugged into.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<String>,
    /// Whether it can give VMs to other nodes and take theirs; an older Hull cannot.
    #[serde(default)]
    pub migrates: bool,
}

/// A condition of a node that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeCondition {
    /// `accel-fallback`, `disk-pressure`, `qemu-missing`, `certificate-ending`, …
    pub name: String,
    /// Whether it needs attention.
    pub warning: bool,
    /// What it is and what to do.
    pub reason: Reason,
}

/// A node record, written by the server: identity by registration, maintenance by an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name; unique.
    pub name: Name,
    /// When it joined.
    #[schema(value_type = String, format = DateTime)]
    pub joined_at: Timestamp,
    /// No new VMs are placed here.
    #[serde(default)]
    pub maintenance: bool,
}

/// What a node reports of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// What it is.
    pub facts: NodeFacts,
    /// What an operator should know.
    #[serde(default)]
    pub conditions: Vec<NodeCondition>,
    /// Disk space left for VM disks.
    pub disk_free: Bytes,
    /// When it reported.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}
