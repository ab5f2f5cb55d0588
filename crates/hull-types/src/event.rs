//! History: what happened to which resource, by whom. Written in the transaction that made it happen.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::id::{AppCredentialId, EventId, NodeId, ProjectId, TokenId, UserId};

/// Who caused an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "actor")]
pub enum Actor {
    /// The bearer of a token.
    Token {
        /// The token.
        token: TokenId,
    },
    /// A user who has logged in.
    User {
        /// The user.
        user: UserId,
    },
    /// A program, by an application credential.
    AppCredential {
        /// For whom it acts.
        user: UserId,
        /// The credential.
        credential: AppCredentialId,
    },
    /// Root, over the local socket.
    LocalRoot,
    /// A controller of the server's.
    Server,
    /// A node.
    Node {
        /// The node.
        node: NodeId,
    },
}

/// The resource an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct ResourceRef {
    /// The noun: `vm`, `image`, …
    pub kind: String,
    /// Its id.
    pub id: Uuid,
    /// Its name at the time.
    pub name: String,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its id; events sort by it.
    pub id: EventId,
    /// The project it belongs to; none for the system's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who.
    #[serde(flatten)]
    pub actor: Actor,
    /// On what.
    pub resource: ResourceRef,
    /// What: `vm.create`, `vm.state`, `image.import`, … (noun, dot, verb).
    pub action: String,
    /// One sentence.
    pub message: String,
}
