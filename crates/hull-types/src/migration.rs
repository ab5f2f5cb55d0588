//! Migrations: a VM goes from one node to another, with its disk, its memory and its addresses.
//!
//! ```text
//!             the new node is ready   the old node lets go   the new node has all   it runs there
//!   Preparing ────────────────► Releasing ────────────► Copying ────────────► Starting ────────► Done
//!       └─────────────────────── failed or cancelled ──────┘  (the VM goes on on the old node)
//! ```
//!
//! The VM's placement changes once, in one transaction: from `Copying` to `Starting`. Until then the VM is the old node's,
//! which holds it still; from then on it is the new one's. So whatever fails, one node has it, and never two.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    id::{MigrationId, NodeId, ProjectId, VmId},
    name::Name,
    reason::Reason,
};

/// How far a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationPhase {
    /// The new node fetches the images that the VM is made of and makes its networks, while the VM runs on.
    Preparing,
    /// The old node saves the machine's memory and ends it.
    Releasing,
    /// The new node fetches what the old one holds.
    Copying,
    /// The VM is the new node's, which brings it to where its power shall be.
    Starting,
    /// The VM is where its power shall be, on the new node.
    Done,
    /// It was given up; the VM is the old node's.
    Failed,
    /// Someone ended it; the VM is the old node's.
    Cancelled,
}

impl MigrationPhase {
    /// Whether nothing more comes of it.
    pub const fn is_over(self) -> bool {
        match self {
            Self::Preparing | Self::Releasing | Self::Copying | Self::Starting => false,
            Self::Done | Self::Failed | Self::Cancelled => true,
        }
    }

    /// Whether it can still be ended without a trace: the VM is the old node's.
    pub const fn can_be_undone(self) -> bool {
        matches!(self, Self::Preparing | Self::Releasing | Self::Copying)
    }
}

/// A migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Migration {
    /// Its id.
    pub id: MigrationId,
    /// The VM.
    pub vm: VmId,
    /// The VM's name as it began.
    pub vm_name: Name,
    /// The VM's owner.
    pub project: ProjectId,
    /// The node it leaves.
    pub from: NodeId,
    /// The node it goes to.
    pub to: NodeId,
    /// How far it is.
    pub phase: MigrationPhase,
    /// What holds it up, or why it ended without success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub began_at: Timestamp,
    /// When it is given up, unless the VM is the new node's by then.
    #[schema(value_type = String, format = DateTime)]
    pub deadline: Timestamp,
    /// Since when the machine does not run, as the server learned of it; none for one that was off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub halted_at: Option<Timestamp>,
    /// When the VM became the new node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub moved_at: Option<Timestamp>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// For how many milliseconds the machine did not run, as the server learned of it; once it runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_ms: Option<u64>,
}

/// A VM's present migration, as its placement names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Moving {
    /// The migration.
    pub migration: MigrationId,
    /// The node it goes to; the placement's own once it is there and not yet where its power shall be.
    pub to: NodeId,
    /// Whether that node is ready for it, so that it may leave.
    #[serde(default)]
    pub ready: bool,
    /// When it is given up, unless it is there by then.
    #[schema(value_type = String, format = DateTime)]
    pub deadline: Timestamp,
}

/// A node's part in a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "part")]
pub enum Transit {
    /// The VM leaves: bring it to rest, start it no more, and hold it for the other node to fetch.
    Leaving {
        /// The migration.
        migration: MigrationId,
    },
    /// The VM is to come: bring here what it is made of, and make its networks.
    Expected {
        /// The migration.
        migration: MigrationId,
    },
    /// The VM comes: fetch it, and do no more until told that it is yours.
    Arriving {
        /// The migration.
        migration: MigrationId,
    },
}

impl Transit {
    /// The migration.
    pub const fn migration(self) -> MigrationId {
        match self {
            Self::Leaving { migration } | Self::Expected { migration } | Self::Arriving { migration } => migration,
        }
    }
}
