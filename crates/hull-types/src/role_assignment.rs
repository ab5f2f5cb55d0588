//! Role assignments: who may do what, where. Nothing else gives a user rights.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{RoleAssignmentId, UserGroupId, UserId},
    token::{Role, Scope},
};

/// Who is given a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A user.
    User(UserId),
    /// Every member of a group.
    UserGroup(UserGroupId),
}

/// A role given to someone somewhere. A subject has at most one in each scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoleAssignment {
    /// The assignment's id.
    pub id: RoleAssignmentId,
    /// To whom.
    pub subject: Subject,
    /// What they may do.
    pub role: Role,
    /// Where.
    pub scope: Scope,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}
