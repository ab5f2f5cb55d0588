//! Images: what VMs are started from.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{digest::Digest, id::ImageId, meta::Meta, reason::Reason, units::Bytes};

/// What an image holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImageKind {
    /// A bootable disk.
    #[default]
    Disk,
    /// A kernel for direct boot: Linux bzImage, or an ELF with a PVH note or a multiboot header.
    Kernel,
    /// An initial RAM disk.
    Initrd,
}

/// A disk format, as imported, stored or exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    /// Bytes as the disk has them.
    Raw,
    /// QEMU's.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// Hyper-V's.
    Vhdx,
    /// VirtualBox's.
    Vdi,
    /// A tar with an OVF and its disks.
    Ova,
}

/// Who sees an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Visibility {
    /// The owning project.
    #[default]
    Private,
    /// Every project.
    Public,
}

/// How the bytes of an image come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImagePhase {
    /// The record is there, its bytes have not been uploaded yet.
    Queued,
    /// Bytes are coming in or being converted.
    Importing,
    /// Ready to boot from.
    Ready,
    /// The import failed; the reason says why. Delete it and try again.
    Failed,
    /// Being deleted.
    Deleting,
}

/// What a disk image says of booting its own kernel directly (the `micro` profile).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DirectBoot {
    /// The kernel.
    pub kernel: Digest,
    /// The initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<Digest>,
    /// The kernel's command line.
    #[serde(default)]
    pub cmdline: String,
}

/// The bytes of a ready image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageContent {
    /// SHA-256 of the stored bytes.
    pub digest: Digest,
    /// The stored form: raw or qcow2 for disks, raw for kernels.
    pub format: ImageFormat,
    /// Bytes stored.
    pub size: Bytes,
    /// The disk's size as a guest sees it.
    pub virtual_size: Bytes,
    /// SHA-256 of the bytes as they were given.
    pub source_digest: Digest,
}

/// Where an import stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageProgress {
    /// Bytes handled so far.
    pub done: Bytes,
    /// Bytes in all, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<Bytes>,
}

/// An image record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Owner, name, times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What it holds.
    #[serde(default)]
    pub kind: ImageKind,
    /// Who sees it.
    #[serde(default)]
    pub visibility: Visibility,
    /// Left out of listings; still usable by id.
    #[serde(default)]
    pub hidden: bool,
    /// The least disk a VM made of it needs.
    #[serde(default)]
    pub min_disk: Bytes,
    /// The least memory a VM made of it needs.
    #[serde(default)]
    pub min_memory: Bytes,
    /// How to boot its kernel directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_boot: Option<DirectBoot>,
    /// Where its bytes stand.
    pub phase: ImagePhase,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The import's progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ImageProgress>,
    /// Its bytes, once ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ImageContent>,
    /// Where it was fetched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_url: Option<String>,
    /// When its bytes became ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ready_at: Option<Timestamp>,
}
