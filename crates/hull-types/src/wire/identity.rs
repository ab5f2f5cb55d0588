//! Users, groups, roles and credentials on the wire.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    event::Actor,
    name::Name,
    role_assignment::RoleAssignment,
    sensitive::Sensitive,
    token::{Role, Scope},
};

fn yes() -> bool {
    true
}

/// `POST /v1/users`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserCreate {
    /// What they sign in with.
    pub name: Name,
    /// Where they can be written to.
    #[serde(default)]
    pub email: Option<String>,
    /// How people call them.
    #[serde(default)]
    pub display_name: String,
    /// Whether they may do anything.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// A first password; without one they cannot log in here.
    #[serde(default)]
    pub password: Option<Sensitive>,
    /// Whether they must choose another at their first log-in.
    #[serde(default)]
    pub must_change_password: bool,
}

/// `PATCH /v1/users/{user}`: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserUpdate {
    /// A new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Where they can be written to; the empty text removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// How people call them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Whether they may do anything. Disabling ends their sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Whether they must choose another password first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub must_change_password: Option<bool>,
}

/// `PUT /v1/users/{user}/password`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserPasswordSet {
    /// The new password.
    pub password: Sensitive,
    /// The present one; needed by users who change their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Sensitive>,
    /// Whether the user must choose another at the next log-in; for admins.
    #[serde(default)]
    pub must_change: bool,
}

/// `POST /v1/user-groups`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserGroupCreate {
    /// The name.
    pub name: Name,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// The first members: names or ids.
    #[serde(default)]
    pub members: Vec<String>,
}

/// `PATCH /v1/user-groups/{group}`: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserGroupUpdate {
    /// A new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Users to take in: names or ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// Users to put out: names or ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// `POST /v1/role-assignments`: a user or a group, on a project or the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleAssignmentCreate {
    /// What they may do.
    pub role: Role,
    /// Name or id of a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Name or id of a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_group: Option<String>,
    /// On the whole cloud instead of the call's project.
    #[serde(default)]
    pub system: bool,
}

/// `PATCH /v1/role-assignments/{assignment}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleAssignmentUpdate {
    /// What they may do from now.
    pub role: Role,
}

/// A role assignment with the names behind its ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoleAssignmentView {
    /// The assignment.
    #[serde(flatten)]
    pub assignment: RoleAssignment,
    /// The user's or the group's name.
    pub subject_name: String,
    /// The project's name; absent for the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_name: Option<String>,
}

/// `POST /v1/app-credentials`: for the caller, in the call's project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppCredentialCreate {
    /// What it is for.
    pub name: Name,
    /// The most it may do.
    pub role: Role,
    /// Days until it stops working; never where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_days: Option<u32>,
}

/// `POST /v1/auth/login`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: Sensitive,
    /// Limits the token to this project (name or id).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Limits the token to what concerns the whole cloud.
    #[serde(default)]
    pub system: bool,
}

/// A signed token, as logging in and renewing give it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// The token: send it as `Authorization: Bearer`.
    pub token: Sensitive,
    /// When it stops working.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Until when it can be renewed, each time for a while; then the user must log in again.
    #[schema(value_type = String, format = DateTime)]
    pub renewable_until: Timestamp,
    /// Whether the user must first choose another password; until then the token serves for nothing else.
    #[serde(default)]
    pub must_change_password: bool,
}

/// A role somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    /// What they may do.
    pub role: Role,
    /// Where.
    pub scope: Scope,
}

/// `GET /v1/whoami`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// As history names them.
    #[serde(flatten)]
    pub actor: Actor,
    /// The user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The role, where the caller has but one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Where that role holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// All roles, as they are at this moment.
    pub roles: Vec<Grant>,
}

/// `GET /v1/auth/methods`: how one can log in here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuthMethods {
    /// With a user's name and password.
    pub password: bool,
    /// At an identity provider, where the server knows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcMethod>,
}

/// An identity provider, as far as clients need to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OidcMethod {
    /// The provider; `…/.well-known/openid-configuration` describes it.
    pub issuer: String,
    /// Hull's id there: a public client.
    pub client_id: String,
    /// What to ask for beside `openid`.
    pub scopes: Vec<String>,
}

/// `POST /v1/auth/oidc`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OidcLogin {
    /// The ID token. It logs in once.
    pub id_token: Sensitive,
    /// The nonce it was asked for with; absent in the device flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Limits the token to this project (name or id).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Limits the token to what concerns the whole cloud.
    #[serde(default)]
    pub system: bool,
}
