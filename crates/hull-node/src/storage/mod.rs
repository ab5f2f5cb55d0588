//! The border to disks: where a VM's bytes live on this host.

use std::{collections::BTreeSet, path::PathBuf};

use async_trait::async_trait;
use hull_types::{digest::Digest, error::Result, id::VmId, image::ImageContent, network::Mac, units::Bytes};

use crate::{hypervisor::DiskSpec, network::GuestMetadata};

mod cache;
mod local;
mod seed;

pub use cache::ImageCache;
pub use local::LocalDisks;
pub(crate) use local::generation_of;

/// Brings an image's bytes to this host.
#[async_trait]
pub trait ImageSource: Send + Sync + 'static {
    /// The local file with exactly these bytes, fetched and verified where it was not here.
    async fn fetch(&self, digest: Digest) -> Result<PathBuf>;

    /// Lets go what is of least use, where more is kept than shall be; never what VMs here are made of.
    async fn tidy(&self, _used: BTreeSet<Digest>) -> Result<()> {
        Ok(())
    }
}

/// VM disks on this host.
#[async_trait]
pub trait Disks: Send + Sync + 'static {
    /// Makes the root disk of this generation from the image (copy-on-write), at least `size` large; returns it if it is
    /// already there. A half-made disk never bears the final name. Older generations are left for
    /// [`Disks::remove_older`].
    async fn root(&self, vm: VmId, generation: u64, image: &ImageContent, size: Bytes) -> Result<DiskSpec>;

    /// Makes a fresh overlay of a rescue image.
    async fn rescue(&self, vm: VmId, image: &ImageContent) -> Result<DiskSpec>;

    /// Removes the rescue overlay.
    async fn remove_rescue(&self, vm: VmId) -> Result<()>;

    /// Makes the NoCloud seed (`CIDATA`) with the VM's metadata; its NICs, by MAC, are configured by DHCP.
    async fn seed(&self, metadata: &GuestMetadata, macs: &[Mac]) -> Result<DiskSpec>;

    /// Grows the root disk's file while no hypervisor has it open; never shrinks.
    async fn grow(&self, vm: VmId, generation: u64, to: Bytes) -> Result<()>;

    /// Removes root disks of generations older than this.
    async fn remove_older(&self, vm: VmId, generation: u64) -> Result<()>;

    /// Removes everything of the VM's. Nothing happens where there is nothing.
    async fn remove(&self, vm: VmId) -> Result<()>;

    /// VMs that have anything here, known or not.
    async fn list(&self) -> Result<Vec<VmId>>;

    /// Bytes free for disks.
    async fn free(&self) -> Result<Bytes>;
}
