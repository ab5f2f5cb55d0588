//! The audit: one record for each call that changes something or tries to, and for each stream into a guest.
//!
//! A record never holds a body, a query or a secret; what a refusal says is kept only where it cannot repeat what the
//! caller sent.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{
    ToSchema,
    openapi::{
        Object, Ref,
        schema::{AnyOfBuilder, Schema},
    },
};
use uuid::Uuid;

use crate::{
    error::ErrorKind,
    event::{Actor, ResourceRef},
    id::{AuditId, ProjectId},
};

/// The longest path a record keeps, in characters.
pub const PATH_MAX: usize = 300;
/// The longest user agent a record keeps, in characters.
pub const AGENT_MAX: usize = 200;
/// The longest sentence a record keeps, in characters.
pub const DETAIL_MAX: usize = 500;

/// A call's circumstances, as the request brings them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Origin {
    /// The caller's address; none over the local socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// The trusted proxy that said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub proxy: Option<IpAddr>,
    /// The request's id, to find it in the log.
    pub request_id: String,
    /// What the client calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// What was called: the API description's operation id, noun and verb (`vms.create`).
    pub operation: String,
    /// The HTTP method.
    pub method: String,
    /// The path, without its query.
    pub path: String,
}

/// What a caller proved to be who they are with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct CredentialRef {
    /// Of which kind: `token`, `session`, `app-credential`.
    pub kind: String,
    /// Its id.
    pub id: Uuid,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// Done.
    Ok,
    /// Answered as the same call before it, under its idempotency key; nothing was done.
    Replayed,
    /// Refused, or failed.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The kind of error.
        error: ErrorKind,
        /// What was said; left out where it could repeat what the caller sent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// The field at fault.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        field: Option<String>,
    },
    /// The caller hung up before the answer: what was under way may be done or not.
    BrokenOff,
}

impl Outcome {
    /// Its word on the wire.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Replayed => "replayed",
            Self::Refused { .. } => "refused",
            Self::BrokenOff => "broken-off",
        }
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Audit {
    /// The document's version.
    pub v: u32,
    /// Its id; records sort by it.
    pub id: AuditId,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The project whose admins see it; none for what concerns the cloud, and for strangers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// Who; none where they proved nothing.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = an_actor_or_nobody)]
    pub actor: Option<Actor>,
    /// With what they proved it; the session of a user who logged in, a token, an application credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated_by: Option<CredentialRef>,
    /// From where, and what was called.
    #[serde(flatten)]
    pub origin: Origin,
    /// On what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<ResourceRef>,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How many alike this record stands for.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u64,
    /// When the last of them came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_at: Option<Timestamp>,
}

/// Flattened, nobody is the absence of an actor's fields, where the derived form would ask for a null.
fn an_actor_or_nobody() -> Schema {
    Schema::AnyOf(AnyOfBuilder::new().item(Ref::from_schema_name("Actor")).item(Object::new()).build())
}

impl Audit {
    /// The format written by this version.
    pub const V: u32 = 1;
}

fn one() -> u64 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_one(count: &u64) -> bool {
    *count == 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_written() {
        let origin = Origin {
            address: Some("192.0.2.7".parse().unwrap()),
            proxy: None,
            request_id: "r".into(),
            user_agent: None,
            operation: "vms.create".into(),
            method: "POST".into(),
            path: "/v1/vms".into(),
        };
        let refused =
            Outcome::Refused { status: 403, error: ErrorKind::Forbidden, detail: Some("no".into()), field: None };
        for (actor, outcome) in [(Some(Actor::LocalRoot), Outcome::Ok), (None, refused), (None, Outcome::BrokenOff)] {
            let record = Audit {
                v: Audit::V,
                id: Uuid::from_u128(7).into(),
                at: Timestamp::UNIX_EPOCH,
                project: None,
                actor,
                authenticated_by: None,
                origin: origin.clone(),
                targets: Vec::new(),
                outcome,
                count: 1,
                last_at: None,
            };
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Audit>(&text).unwrap(), record, "{text}");
            assert!(text.contains(&format!("\"outcome\":\"{}\"", record.outcome.word())), "{text}");
        }
    }
}
