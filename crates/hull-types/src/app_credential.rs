//! Application credentials: what a user gives to a program that acts for them, in one project, with no more than one role.
//! It never gives more than the user has at that moment. The secret is shown once; the store keeps its SHA-256.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    digest::Digest,
    id::{AppCredentialId, ProjectId, UserId},
    name::Name,
    token::Role,
};

/// An application credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppCredential {
    /// The credential's id.
    pub id: AppCredentialId,
    /// For whom it acts.
    pub user: UserId,
    /// What it is for.
    pub name: Name,
    /// SHA-256 of the secret (the secret itself has 256 random bits, so no slow hash is needed).
    pub secret_digest: Digest,
    /// The project it is limited to.
    pub project: ProjectId,
    /// The most it may do there.
    pub role: Role,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it stops working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}
