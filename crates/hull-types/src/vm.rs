//! Virtual machines: three documents, three writers.
//!
//! ```text
//!   Vm         what the user wants       written by the API on the user's behalf
//!   Placement  where it shall be         written by the scheduler and by migrations; each node is a new generation
//!   VmStatus   what is                   written by the node that holds the current generation, nobody else
//! ```
//!
//! The state people see ([`VmState`]) is computed from all three in one place (`hull_core::vm::state`). Acts that happen
//! once (reboot, rebuild) are counters: the user's document says how many were asked for, the status how many are done,
//! so a lost message or a crash delays an act and never repeats or forgets it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    digest::Digest,
    flavor::Resources,
    id::{FlavorId, ImageId, MigrationId, NodeId, PortId, VmId},
    image::DirectBoot,
    keypair::PublicKey,
    meta::Meta,
    migration::Moving,
    name::Name,
    reason::Reason,
};

/// The machine a VM sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// q35 with PCIe and hotplug: any operating system.
    #[default]
    Pc,
    /// microvm with a directly loaded kernel: small and fast.
    Micro,
}

/// What a `pc` machine starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// SeaBIOS.
    #[default]
    Bios,
    /// OVMF, with a variables file of the VM's own.
    Uefi,
}

/// The image a VM was made from, remembered with its bytes' name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageRef {
    /// The record.
    pub id: ImageId,
    /// Its name as the VM was made.
    pub name: Name,
    /// The bytes.
    pub digest: Digest,
}

/// The flavor a VM was made from; its size was copied and no longer follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlavorRef {
    /// The record.
    pub id: FlavorId,
    /// Its name as the VM was made.
    pub name: Name,
}

/// What the machine boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Boot {
    /// The image of the root disk; none for a VM that is all kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// A kernel loaded directly; `micro` needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<DirectBoot>,
    /// The firmware of a `pc`.
    #[serde(default)]
    pub firmware: Firmware,
    /// Whether the firmware verifies signatures (UEFI only).
    #[serde(default)]
    pub secure_boot: bool,
    /// Whether there is a TPM 2.0 (swtpm).
    #[serde(default)]
    pub tpm: bool,
}

/// Where power shall rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PowerTarget {
    /// On.
    #[default]
    Running,
    /// Off.
    Stopped,
    /// On, with its CPUs halted.
    Paused,
    /// Off, with memory saved to disk.
    Suspended,
}

/// What the user wants of power.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PowerIntent {
    /// Where it shall rest.
    pub target: PowerTarget,
    /// Grows with every power call, so that `start` after the guest turned itself off is a new wish.
    pub seq: u64,
    /// Stopping: seconds the guest has to shut down before it is forced off; 0 forces at once.
    pub grace_seconds: u32,
    /// When this was asked.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// How a reboot is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RebootKind {
    /// Ask the guest (ACPI), then reset after the grace.
    Soft,
    /// Reset now.
    Hard,
}

/// The newest reboot asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RebootIntent {
    /// Grows with every reboot call; 0 before the first.
    pub seq: u64,
    /// How.
    pub kind: RebootKind,
}

/// Boot another image once, with the VM's own disk as second disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rescue {
    /// The rescue system's image.
    pub image: ImageRef,
}

/// When a VM that ended by itself is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Always, with growing pauses.
    Always,
    /// Where the hypervisor died or the guest panicked; not where the guest shut itself down.
    #[default]
    OnFailure,
    /// Never.
    Never,
}

/// A VM as its user wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vm {
    /// Its id.
    pub id: VmId,
    /// Owner, name, times.
    #[serde(flatten)]
    pub meta: Meta,
    /// Its host name inside; fixed at creation.
    pub hostname: String,
    /// The flavor it was made or last resized with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<FlavorRef>,
    /// Its size.
    pub resources: Resources,
    /// The machine it sees.
    #[serde(default)]
    pub profile: Profile,
    /// What it boots.
    pub boot: Boot,
    /// Keys that may log in.
    #[serde(default)]
    pub ssh_keys: Vec<PublicKey>,
    /// Base64 of the user data given to cloud-init, at most 64 KiB decoded. Left out of API answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Its ports, in the order of its NICs.
    #[serde(default)]
    pub ports: Vec<PortId>,
    /// When it is started again by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// What power shall be.
    pub power: PowerIntent,
    /// The newest reboot asked for.
    pub reboot: RebootIntent,
    /// Grows with every rebuild: a root disk of an older generation is thrown away. From 1.
    pub disk_generation: u64,
    /// Rescue mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue: Option<Rescue>,
    /// Locked against changes by its own project's members.
    #[serde(default)]
    pub locked: bool,
    /// When its deletion was asked for; from then on it only goes away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deleted_at: Option<Timestamp>,
}

/// Where a VM shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Placement {
    /// The VM.
    pub vm: VmId,
    /// The node; none while no node fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Grows with every placement on a node. Reports of older generations are dropped.
    pub generation: u64,
    /// Why there is no node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Its present migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving: Option<Moving>,
    /// When this was decided.
    #[schema(value_type = String, format = DateTime)]
    pub decided_at: Timestamp,
}

impl Placement {
    /// The migration that is to take it from its node.
    pub fn leaving(&self) -> Option<Moving> {
        self.moving.filter(|moving| self.node.is_some_and(|node| node != moving.to))
    }
}

/// What a node says of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VmPhase {
    /// Images, disks and network are being made ready.
    Preparing,
    /// The hypervisor is being started.
    Starting,
    /// It runs.
    Running,
    /// It runs with its CPUs halted.
    Paused,
    /// It was asked to stop.
    Stopping,
    /// Off, at rest.
    Stopped,
    /// Memory is being saved to disk.
    Suspending,
    /// Off, with memory on disk.
    Suspended,
    /// Its disk is being made anew.
    Rebuilding,
    /// At rest, held for the node it goes to.
    Released,
    /// On its way, with all that it needs here but itself.
    Expected,
    /// Being fetched from the node it leaves.
    Arriving,
    /// Fetched whole; the placement has yet to follow.
    Arrived,
    /// Off, because something failed; the reason says what, and whether it is tried again.
    Failed,
    /// Being torn down.
    Deleting,
    /// Nothing of it is left on the node.
    Gone,
}

/// The accelerator a hypervisor runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Accel {
    /// Hardware.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// The hypervisor process that embodies a VM now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vmm {
    /// Its process id on the node.
    pub pid: u32,
    /// When it was started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// How it runs.
    pub accel: Accel,
}

/// Why a hypervisor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExitCause {
    /// Hull ended it, as asked.
    Requested,
    /// The guest shut itself down.
    GuestShutdown,
    /// The guest panicked.
    GuestPanic,
    /// The hypervisor died (crash, signal, out of memory).
    Died,
    /// The host went down under it.
    HostReboot,
}

/// How a hypervisor ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exit {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Why.
    pub cause: ExitCause,
    /// One sentence: the signal, the last line of the hypervisor's log.
    pub detail: String,
}

/// What a node reports of a VM. Made by the node of the named generation only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmStatus {
    /// The VM.
    pub vm: VmId,
    /// The node that speaks.
    pub node: NodeId,
    /// The placement's generation it speaks for.
    pub generation: u64,
    /// The store revision of the user's document it has acted on.
    pub observed_revision: u64,
    /// What is.
    pub phase: VmPhase,
    /// Why it is not (yet) as asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The process, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm: Option<Vmm>,
    /// The newest power wish that was reached or given up.
    pub power_seq: u64,
    /// Reboots done.
    pub reboot_seq: u64,
    /// The root disk's generation.
    pub disk_generation: u64,
    /// Whether it runs the rescue system.
    #[serde(default)]
    pub rescue: bool,
    /// The size it runs with, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Resources>,
    /// Changes that take effect at the next start, as sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// How it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<Exit>,
    /// Restarts by policy since it last ran well.
    #[serde(default)]
    pub restarts: u32,
    /// The migration that the node knows itself to be part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationId>,
    /// How often in a row the same step has failed for the same reason, while it fails.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// When the node found this.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The state people see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    /// No node yet.
    Scheduling,
    /// Images, disks and network are being made ready.
    Preparing,
    /// The hypervisor is being started.
    Starting,
    /// It runs.
    Running,
    /// It runs with its CPUs halted.
    Paused,
    /// It was asked to stop.
    Stopping,
    /// Off, at rest.
    Stopped,
    /// Memory is being saved to disk.
    Suspending,
    /// Off, with memory on disk.
    Suspended,
    /// Its disk is being made anew.
    Rebuilding,
    /// On its way to another node.
    Migrating,
    /// Off, because something failed.
    Failed,
    /// Going away.
    Deleting,
    /// The node does not answer.
    Unknown,
}
