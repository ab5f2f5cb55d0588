//! Disks: made of images, grown, thrown away.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use hull_node::{
    hypervisor::DiskSpec,
    network::GuestMetadata,
    storage::{Disks, ImageSource},
};
use hull_types::{
    digest::Digest,
    error::{Error, Result},
    id::VmId,
    image::ImageContent,
    network::Mac,
    units::Bytes,
};

use super::Doors;

impl Doors {
    fn disk(&self, vm: VmId, id: &str, file: &str) -> DiskSpec {
        DiskSpec {
            id: id.to_owned(),
            path: self.path(vm, file),
            qcow2: true,
            backing: Vec::new(),
            read_only: false,
            boot_index: None,
        }
    }

    pub(super) fn path(&self, vm: VmId, file: &str) -> PathBuf {
        PathBuf::from(format!("/sim/{}/{vm}/{file}", self.host.name))
    }

    /// Removing what a living machine has open would be its ruin.
    pub(super) fn may_remove(&self, vm: VmId, file: &str) {
        let path = self.path(vm, file);
        let used = {
            let inner = self.host.lock();
            inner.machines.get(&vm).is_some_and(|m| m.is_alive() && m.root.as_ref() == Some(&path))
        };
        if used {
            self.host.broke(&format!("{} was removed under a living hypervisor", path.display()));
        }
    }
}

#[async_trait]
impl ImageSource for Doors {
    async fn fetch(&self, digest: Digest) -> Result<PathBuf> {
        self.takes(Duration::from_secs(5)).await;
        Ok(PathBuf::from(format!("/sim/{}/images/{}", self.host.name, digest.hex())))
    }
}

#[async_trait]
impl Disks for Doors {
    async fn root(&self, vm: VmId, generation: u64, _image: &ImageContent, size: Bytes) -> Result<DiskSpec> {
        self.takes(Duration::from_secs(8)).await;
        let file = format!("root-{generation}");
        let exists = self.host.lock().disks.get(&vm).is_some_and(|disks| disks.roots.contains_key(&generation));
        if !exists {
            self.space()?;
            self.host.lock().disks.entry(vm).or_default().roots.insert(generation, size);
        }
        Ok(self.disk(vm, "root", &file))
    }

    async fn rescue(&self, vm: VmId, _image: &ImageContent) -> Result<DiskSpec> {
        self.takes(Duration::from_secs(5)).await;
        self.space()?;
        self.host.lock().disks.entry(vm).or_default().rescue = true;
        Ok(self.disk(vm, "rescue", "rescue"))
    }

    async fn remove_rescue(&self, vm: VmId) -> Result<()> {
        self.takes(Duration::from_millis(500)).await;
        if let Some(disks) = self.host.lock().disks.get_mut(&vm) {
            disks.rescue = false;
        }
        Ok(())
    }

    async fn seed(&self, metadata: &GuestMetadata, _macs: &[Mac]) -> Result<DiskSpec> {
        self.takes(Duration::from_millis(500)).await;
        self.space()?;
        self.host.lock().disks.entry(metadata.vm).or_default().seed = true;
        Ok(self.disk(metadata.vm, "seed", "seed"))
    }

    async fn grow(&self, vm: VmId, generation: u64, to: Bytes) -> Result<()> {
        self.takes(Duration::from_secs(1)).await;
        self.space()?;
        let mut inner = self.host.lock();
        let size = inner.disks.get_mut(&vm).and_then(|disks| disks.roots.get_mut(&generation));
        let size = size.ok_or_else(|| Error::not_found(format!("{vm} has no root disk {generation}")))?;
        *size = (*size).max(to);
        Ok(())
    }

    async fn remove_older(&self, vm: VmId, generation: u64) -> Result<()> {
        self.takes(Duration::from_millis(500)).await;
        let older: Vec<u64> = {
            let inner = self.host.lock();
            let roots = inner.disks.get(&vm).map(|disks| disks.roots.clone()).unwrap_or_default();
            roots.into_keys().filter(|&held| held < generation).collect()
        };
        for held in older {
            self.may_remove(vm, &format!("root-{held}"));
            if let Some(disks) = self.host.lock().disks.get_mut(&vm) {
                disks.roots.remove(&held);
            }
        }
        Ok(())
    }

    async fn remove(&self, vm: VmId) -> Result<()> {
        self.takes(Duration::from_secs(1)).await;
        let roots: Vec<u64> = {
            let inner = self.host.lock();
            inner.disks.get(&vm).map(|disks| disks.roots.keys().copied().collect()).unwrap_or_default()
        };
        for generation in roots {
            self.may_remove(vm, &format!("root-{generation}"));
        }
        self.host.lock().disks.remove(&vm);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<VmId>> {
        self.alive().await;
        Ok(self.host.lock().disks.keys().copied().collect())
    }

    async fn free(&self) -> Result<Bytes> {
        self.alive().await;
        Ok(if self.host.lock().faults.disk_full { Bytes::ZERO } else { Bytes::gib(2048) })
    }
}
