//! API tokens. The secret is shown once; the store keeps its SHA-256.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    digest::Digest,
    id::{ProjectId, TokenId},
    name::Name,
};

/// What a token's bearer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Reads.
    Reader,
    /// Reads and changes the project's resources.
    Member,
    /// Everything in its scope.
    Admin,
}

/// Where a role holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The whole cloud, all projects.
    System,
    /// One project.
    Project(ProjectId),
}

/// A token as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// What it is for.
    pub name: Name,
    /// SHA-256 of the secret (the secret itself has 256 random bits, so no slow hash is needed).
    pub secret_digest: Digest,
    /// What its bearer may do.
    pub role: Role,
    /// Where.
    pub scope: Scope,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it stops working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// A join token for a node, as the store keeps it. The text given to people is
/// `hull-join:<server address>:<CA fingerprint>:<secret>`, so that the node pins the CA. One that is not reusable goes in
/// the transaction in which a host joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinToken {
    /// Its id.
    pub id: TokenId,
    /// SHA-256 of the secret.
    pub secret_digest: Digest,
    /// Whether more than one host may join with it.
    #[serde(default)]
    pub reusable: bool,
    /// The only name a host may join under with it. Who makes such a token allows its bearer to be that node, also in the
    /// place of a host that was it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it stops working.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}
