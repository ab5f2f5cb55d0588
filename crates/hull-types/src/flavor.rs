//! Flavors: named sizes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{id::FlavorId, name::Name, units::Bytes};

/// What a VM is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resources {
    /// Virtual CPUs, 1 to 255.
    pub vcpus: u16,
    /// Memory; a whole number of MiB, at least 16 MiB.
    pub memory: Bytes,
    /// The root disk's size; zero for VMs without one.
    pub disk: Bytes,
}

/// A flavor. Flavors are global; their names are unique.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flavor {
    /// Its id.
    pub id: FlavorId,
    /// Its name.
    pub name: Name,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The size.
    pub resources: Resources,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
}
