//! What every document carries.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{id::ProjectId, name::Name};

/// Free key-value labels a user puts on a resource. At most 64 pairs, keys and values up to 255 characters.
pub type Metadata = BTreeMap<String, String>;

/// The head of every document a project owns. `id` stands beside it, typed, in each document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Meta {
    /// The document format's version; readers of version N accept N−1 and N+1.
    #[serde(default = "first")]
    #[schema(value_type = u32)]
    pub v: u32,
    /// The owner.
    pub project: ProjectId,
    /// Unique among the project's resources of its kind.
    pub name: Name,
    /// Free text, at most 4,096 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub metadata: Metadata,
    /// Free words to find it by. At most 50, each of 1 to 60 characters.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub tags: BTreeSet<String>,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When a user last changed it.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

impl Meta {
    /// The head of a document that is made now, without description, labels and tags.
    pub fn new(project: ProjectId, name: Name, now: Timestamp) -> Self {
        Self {
            v: first(),
            project,
            name,
            description: String::new(),
            metadata: Metadata::new(),
            tags: BTreeSet::new(),
            created_at: now,
            updated_at: now,
        }
    }
}

fn first() -> u32 {
    1
}
