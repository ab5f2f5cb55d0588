//! Why something is not (yet) as asked: a code for programs, a sentence for people, and by when it changes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Machine-readable reason codes. A closed list: a new one is a change of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReasonCode {
    /// No node fits the VM's needs.
    NoNodeFits,
    /// No node is connected.
    NoNodes,
    /// Waits for the scheduler.
    AwaitingPlacement,
    /// The node has not yet answered for this VM.
    AwaitingNode,
    /// The node has not answered since a time; the true state is not known.
    NodeUnreachable,
    /// The image is still being imported or fetched.
    FetchingImage,
    /// The image is missing or its bytes do not match its digest.
    ImageUnavailable,
    /// The node prepares disks.
    PreparingDisk,
    /// The node prepares networks.
    PreparingNetwork,
    /// The hypervisor is starting.
    Starting,
    /// The hypervisor could not be started.
    StartFailed,
    /// The hypervisor does not answer.
    HypervisorHung,
    /// The hypervisor ended unexpectedly.
    HypervisorDied,
    /// The hypervisor program is missing or too old.
    HypervisorMissing,
    /// The host's disk is full.
    DiskFull,
    /// The host's memory does not suffice.
    OutOfMemory,
    /// The network could not be made.
    NetworkFailed,
    /// A network has no free address left.
    AddressesExhausted,
    /// The guest was asked to shut down and has until the deadline.
    AwaitingGuestShutdown,
    /// The guest turned itself off.
    GuestShutdown,
    /// The guest crashed (panicked).
    GuestPanicked,
    /// It will be restarted at the deadline, by the restart policy.
    RestartBackoff,
    /// It ended and the restart policy leaves it so.
    RestartPolicy,
    /// The user asked for it.
    Requested,
    /// It is saved to disk, or being restored.
    Suspending,
    /// Being restored from disk.
    Resuming,
    /// The change takes effect at the next start.
    NeedsRestart,
    /// Being rebuilt from an image.
    Rebuilding,
    /// On its way to another node.
    Migrating,
    /// Being deleted.
    Deleting,
    /// The node is in maintenance.
    Maintenance,
    /// Something else; the sentence tells.
    Other,
}

/// A reason with its sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// For programs.
    pub code: ReasonCode,
    /// For people: one sentence they can act on.
    pub message: String,
    /// Since when this is so.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// By when it changes by itself (a retry, a force-off, giving up); absent where it rests until someone acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline: Option<Timestamp>,
}

impl Reason {
    /// A reason that rests until someone acts.
    pub fn new(code: ReasonCode, message: impl Into<String>, since: Timestamp) -> Self {
        Self { code, message: message.into(), since, deadline: None }
    }

    /// A reason that changes by itself at the deadline.
    #[must_use]
    pub fn until(mut self, deadline: Timestamp) -> Self {
        self.deadline = Some(deadline);
        self
    }
}
