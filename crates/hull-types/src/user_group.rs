//! User groups: many people who are given roles as one. (A bare `group` would be read as one of VMs.)

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{UserGroupId, UserId},
    name::Name,
};

/// A group of users. The name is unique in the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserGroup {
    /// The group's id.
    pub id: UserGroupId,
    /// The name.
    pub name: Name,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Who is in it.
    pub members: BTreeSet<UserId>,
    /// When the group was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the group was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}
