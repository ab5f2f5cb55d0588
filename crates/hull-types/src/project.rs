//! Projects (tenants) and what they may hold.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{id::ProjectId, name::Name, units::Bytes};

/// A project. Its name is unique in the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// Its name.
    pub name: Name,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// What it may hold at most.
    pub quota: Quota,
}

/// Upper limits of a project. `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    /// VMs.
    pub vms: Option<u64>,
    /// Virtual CPUs over all VMs.
    pub vcpus: Option<u64>,
    /// Memory over all VMs.
    pub memory: Option<Bytes>,
    /// Disk space over all VMs.
    pub disk: Option<Bytes>,
    /// Images.
    pub images: Option<u64>,
    /// Ports.
    pub ports: Option<u64>,
    /// Keypairs.
    #[serde(default)]
    pub keypairs: Option<u64>,
}

/// What a project holds now; changes in the same transaction as the resources it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// VMs.
    pub vms: u64,
    /// Virtual CPUs over all VMs.
    pub vcpus: u64,
    /// Memory over all VMs.
    pub memory: Bytes,
    /// Disk space over all VMs.
    pub disk: Bytes,
    /// Images.
    pub images: u64,
    /// Ports.
    pub ports: u64,
    /// Keypairs.
    #[serde(default)]
    pub keypairs: u64,
}
