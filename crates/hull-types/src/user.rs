//! Users: people who sign in. What they may do is said by role assignments, to them or to groups they are members of.
//!
//! | document | holds | seen by |
//! |---|---|---|
//! | [`User`] | who they are | the API |
//! | [`UserPassword`] | the hash of their password | the server alone; no answer carries it |

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{id::UserId, name::Name, sensitive::Sensitive};

/// A user. The name is unique in the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// What they sign in with.
    pub name: Name,
    /// Where they can be written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// How people call them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// Whether they may do anything at all.
    pub enabled: bool,
    /// Whether they must choose a password of their own before they do anything else.
    #[serde(default)]
    pub must_change_password: bool,
    /// Who they are at an identity provider, where they sign in there. Such a user has no password here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalIdentity>,
    /// The groups that provider said they are in, at their last log-in. Each counts as the user group of the same name, where there is one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub external_groups: BTreeSet<String>,
    /// Sessions of another epoch are over. It goes up as the password changes, the user is disabled, or someone says so. (A counter and
    /// not a time: it owes nothing to clocks.)
    #[serde(default)]
    pub session_epoch: u64,
    /// When the user was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the user was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// Who someone is at an identity provider: the only two claims that OpenID Connect promises to stay theirs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct ExternalIdentity {
    /// The provider.
    pub issuer: String,
    /// Their id there.
    pub subject: String,
}

/// The hash of a user's password, in the PHC string form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserPassword {
    /// Whose.
    pub user: UserId,
    /// `$argon2id$…`.
    pub phc: Sensitive,
}
