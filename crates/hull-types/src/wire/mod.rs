//! What the API takes and answers beyond the documents themselves.

pub mod network;

use std::net::IpAddr;

mod identity;
pub use identity::*;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    digest::Digest,
    flavor::Resources,
    image::{ImageFormat, ImageKind, Visibility},
    keypair::PublicKey,
    meta::Metadata,
    name::Name,
    network::Mac,
    node::{Node, NodeStatus},
    project::{QuotaKind, QuotaUpdate, Usage},
    reason::Reason,
    sensitive::Sensitive,
    units::Bytes,
    vm::{Firmware, Placement, Profile, RebootKind, RestartPolicy, Vm, VmState, VmStatus},
};

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// The items.
    pub items: Vec<T>,
    /// Pass it as `?after=` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The store's revision this was read at; watch from here.
    pub revision: u64,
}

/// One line of a `?watch=true` stream (newline-delimited JSON).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum WatchEvent<T> {
    /// The resource is new or changed.
    Put {
        /// The revision of the change.
        revision: u64,
        /// The resource as it is now.
        object: T,
    },
    /// The resource is gone.
    Delete {
        /// The revision of the change.
        revision: u64,
        /// Its id.
        id: String,
    },
    /// Nothing changed; all up to this revision was sent.
    Bookmark {
        /// The revision.
        revision: u64,
    },
}

/// A document with the revision that is its `ETag`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revised<T> {
    /// The document.
    #[serde(flatten)]
    pub object: T,
    /// The store revision that last changed it.
    pub revision: u64,
}

/// `POST /v1/projects`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectCreate {
    /// Its name.
    pub name: Name,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// What it may hold; the default limit for each kind that is absent.
    #[serde(default)]
    pub quota: Option<QuotaUpdate>,
}

/// `PATCH /v1/projects/{project}`. Absent fields stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectUpdate {
    /// New name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// New description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// New limits. One below what is held takes nothing away: no more is given until less is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaUpdate>,
}

/// A project with what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProjectView {
    /// The project.
    #[serde(flatten)]
    pub project: crate::project::Project,
    /// What it holds now.
    pub usage: Usage,
    /// What it holds more of than its quota allows: the quota was lowered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub above: Vec<QuotaKind>,
}

/// `POST /v1/flavors`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FlavorCreate {
    /// Its name.
    pub name: Name,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// The size.
    #[serde(flatten)]
    pub resources: Resources,
}

/// `POST /v1/keypairs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeypairCreate {
    /// Its name.
    pub name: Name,
    /// The public key, one line.
    pub public_key: PublicKey,
}

/// `POST /v1/images`: makes the record; bytes follow by `PUT …/content`, or are fetched from `source_url`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageCreate {
    /// Its name.
    pub name: Name,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Free labels.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub metadata: Metadata,
    /// What it holds.
    #[serde(default)]
    pub kind: ImageKind,
    /// The format of the bytes given; found out where absent.
    #[serde(default)]
    pub format: Option<ImageFormat>,
    /// SHA-256 the bytes given must have.
    #[serde(default)]
    pub checksum: Option<Digest>,
    /// HTTP(S) URL to fetch the bytes from.
    #[serde(default)]
    pub source_url: Option<String>,
    /// Who sees it.
    #[serde(default)]
    pub visibility: Visibility,
    /// The least disk a VM made of it needs.
    #[serde(default)]
    pub min_disk: Bytes,
    /// The least memory a VM made of it needs.
    #[serde(default)]
    pub min_memory: Bytes,
    /// Names or ids of a kernel and an initrd image for direct boot.
    #[serde(default)]
    pub direct_boot: Option<DirectBootRequest>,
}

/// Direct boot as a caller asks for it: image names or ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectBootRequest {
    /// Name or id of a kernel image.
    pub kernel: String,
    /// Name or id of an initrd image.
    #[serde(default)]
    pub initrd: Option<String>,
    /// The kernel's command line.
    #[serde(default)]
    pub cmdline: String,
}

/// `PATCH /v1/images/{image}`. Absent fields stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageUpdate {
    /// New name.
    #[serde(default)]
    pub name: Option<Name>,
    /// New description.
    #[serde(default)]
    pub description: Option<String>,
    /// New labels (all of them).
    #[serde(default)]
    #[schema(value_type = Option<std::collections::HashMap<String, String>>)]
    pub metadata: Option<Metadata>,
    /// Who sees it.
    #[serde(default)]
    pub visibility: Option<Visibility>,
    /// Left out of listings.
    #[serde(default)]
    pub hidden: Option<bool>,
    /// Direct boot.
    #[serde(default)]
    pub direct_boot: Option<DirectBootRequest>,
}

/// A NIC as a caller asks for it: on a network, with a port that goes with the VM; or a port that is there already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NicRequest {
    /// Name or id of the network; `default` where neither this nor a port is named.
    #[serde(default)]
    pub network: Option<String>,
    /// Name or id of a port without a VM; nothing else may be given with it.
    #[serde(default)]
    pub port: Option<String>,
    /// Names or ids of security groups; the project's `default` where absent.
    #[serde(default)]
    pub security_groups: Option<Vec<String>>,
    /// Addresses wanted; the next free ones where empty.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// MAC wanted.
    #[serde(default)]
    pub mac: Option<Mac>,
}

/// `POST /v1/vms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmCreate {
    /// Its name; with `count` above 1 the VMs are `name-1`, `name-2`, …
    pub name: Name,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Free labels.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub metadata: Metadata,
    /// How many, 1 to 1,000; all or none.
    #[serde(default = "one")]
    pub count: u32,
    /// Name or id of the root disk's image. May be absent with a kernel.
    #[serde(default)]
    pub image: Option<String>,
    /// A kernel to boot directly.
    #[serde(default)]
    pub kernel: Option<DirectBootRequest>,
    /// Name or id of the flavor; or give `resources`.
    #[serde(default)]
    pub flavor: Option<String>,
    /// The size, where no flavor is named; where both are, this disk size overrides if larger.
    #[serde(default)]
    pub resources: Option<Resources>,
    /// The machine it sees.
    #[serde(default)]
    pub profile: Profile,
    /// The firmware of a `pc`.
    #[serde(default)]
    pub firmware: Firmware,
    /// Secure boot (UEFI only).
    #[serde(default)]
    pub secure_boot: bool,
    /// A TPM 2.0.
    #[serde(default)]
    pub tpm: bool,
    /// Names or ids of keypairs.
    #[serde(default)]
    pub keypairs: Vec<String>,
    /// Public keys given directly.
    #[serde(default)]
    pub ssh_keys: Vec<PublicKey>,
    /// Base64 of the user data, at most 64 KiB decoded.
    #[serde(default)]
    pub user_data: Option<String>,
    /// NICs; one on the default network where absent, none where empty.
    #[serde(default)]
    pub nics: Option<Vec<NicRequest>>,
    /// When it is started again by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Whether it is started now.
    #[serde(default = "yes")]
    pub start: bool,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// `PATCH /v1/vms/{vm}`. Absent fields stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmUpdate {
    /// New name (the host name inside stays).
    #[serde(default)]
    pub name: Option<Name>,
    /// New description.
    #[serde(default)]
    pub description: Option<String>,
    /// New labels (all of them).
    #[serde(default)]
    #[schema(value_type = Option<std::collections::HashMap<String, String>>)]
    pub metadata: Option<Metadata>,
    /// New restart policy.
    #[serde(default)]
    pub restart: Option<RestartPolicy>,
}

/// `POST /v1/vms/{vm}/actions`: acts on a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "action", deny_unknown_fields)]
pub enum VmAction {
    /// Turn on.
    Start,
    /// Ask the guest to shut down, force it off after the grace (default 60 s, 0 forces at once).
    Stop {
        /// Seconds.
        #[serde(default)]
        grace_seconds: Option<u32>,
    },
    /// Reboot.
    Reboot {
        /// How.
        kind: RebootKind,
    },
    /// Halt its CPUs.
    Pause,
    /// Let them run; from suspension, restore and run.
    Resume,
    /// Save memory to disk and turn off.
    Suspend,
    /// Plug a NIC in. While it runs this needs the `pc` profile; a `micro` VM has it at its next start.
    AttachNic {
        /// The NIC.
        nic: NicRequest,
    },
    /// Unplug a NIC. A port that was made with the VM is deleted.
    DetachNic {
        /// Name or id of the port.
        port: String,
    },
    /// Another size: a flavor's, or given.
    Resize {
        /// Name or id of a flavor.
        #[serde(default)]
        flavor: Option<String>,
        /// Virtual CPUs.
        #[serde(default)]
        vcpus: Option<u16>,
        /// Memory.
        #[serde(default)]
        memory: Option<Bytes>,
        /// Disk; grows only.
        #[serde(default)]
        disk: Option<Bytes>,
    },
    /// Throw the root disk away and make it anew from an image.
    Rebuild {
        /// Name or id; the present image where absent.
        #[serde(default)]
        image: Option<String>,
    },
    /// Boot a rescue image with the VM's disk as second disk.
    Rescue {
        /// Name or id; the VM's own image where absent.
        #[serde(default)]
        image: Option<String>,
    },
    /// Back from rescue.
    Unrescue,
    /// Lock against changes.
    Lock,
    /// Unlock.
    Unlock,
}

/// `POST /v1/vms/{vm}/exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Base64 of its standard input.
    #[serde(default)]
    pub input: Option<String>,
    /// Seconds until giving up, at most 600; 60 where absent.
    #[serde(default)]
    pub timeout_seconds: Option<u32>,
}

/// `POST /v1/vms/{vm}/password`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordRequest {
    /// The user inside.
    pub user: String,
    /// The new password.
    pub password: Sensitive,
}

/// One of a VM's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmAddress {
    /// The network's name.
    pub network: Name,
    /// The address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The NIC's MAC.
    pub mac: Mac,
}

/// A VM as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmView {
    /// What the user wants (without user data).
    #[serde(flatten)]
    pub vm: Vm,
    /// What people see.
    pub state: VmState,
    /// Why it is not (yet) as asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Whether it rests as asked: nothing is under way.
    pub settled: bool,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<VmAddress>,
    /// Where it shall be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// What its node says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<VmStatus>,
    /// The store revision of the user's document: its `ETag`.
    pub revision: u64,
}

/// A node as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// The record.
    #[serde(flatten)]
    pub node: Node,
    /// Whether it answers.
    pub ready: bool,
    /// What it last said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NodeStatus>,
    /// What is placed on it.
    pub allocated: Resources,
    /// VMs placed on it.
    pub vms: u64,
}

/// `PATCH /v1/nodes/{node}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeUpdate {
    /// No new VMs are placed here.
    #[serde(default)]
    pub maintenance: Option<bool>,
}

/// `POST /v1/migrations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrationCreate {
    /// The VM, by name or id.
    pub vm: String,
    /// The node it shall go to, by name or id; the scheduler chooses where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// `POST /v1/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// What it is for.
    pub name: Name,
    /// What its bearer may do.
    pub role: crate::token::Role,
    /// On the whole cloud; on the call's project where not.
    #[serde(default)]
    pub system: bool,
    /// Days until it stops working; never where absent.
    #[serde(default)]
    pub expires_in_days: Option<u32>,
}

/// `POST /v1/join-tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenCreate {
    /// Whether more than one host may join with it, until it expires.
    #[serde(default)]
    pub reusable: bool,
    /// The only name a host may join under with it; also that of a node there is, whose place the host then takes.
    #[serde(default)]
    pub name: Option<Name>,
}

/// A secret, shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// The text to keep.
    pub secret: Sensitive,
    /// When it stops working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// Why things are as they are, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// One sentence.
    pub summary: String,
    /// Sections, in reading order.
    pub sections: Vec<ExplanationSection>,
}

/// A part of an explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplanationSection {
    /// Its heading: `placement`, `node`, `network`, `history`.
    pub title: String,
    /// Its lines.
    pub lines: Vec<String>,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerStatus {
    /// Hull's version.
    pub version: String,
    /// When this server started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// The store's revision.
    pub revision: u64,
    /// Nodes that answer, of all.
    pub nodes_ready: u64,
    /// All nodes.
    pub nodes: u64,
    /// VMs by state.
    #[schema(value_type = std::collections::HashMap<String, u64>)]
    pub vms: std::collections::BTreeMap<String, u64>,
}
