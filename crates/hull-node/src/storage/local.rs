//! Disks as files: `<dir>/<vm>/root-<generation>.{qcow2,raw}`, `rescue.qcow2`, `seed.img`.
//!
//! A root disk is a qcow2 overlay of its image, or, where the file system can share blocks and the image is raw, a copy
//! that costs nothing. It is made under another name and gets its own when it is whole.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use async_trait::async_trait;
use hull_types::{
    error::{Error, Result},
    id::VmId,
    image::{ImageContent, ImageFormat},
    network::Mac,
    units::Bytes,
};
use tokio::process::Command;

use super::{Disks, ImageSource, seed};
use crate::{
    blocking,
    host::file_system,
    hypervisor::{BackingSpec, DiskSpec},
    io_error,
    network::GuestMetadata,
    remove_tree,
};

/// What must be free before a disk is made: room for its tables and for the guest's first writes.
const FREE_AT_LEAST: Bytes = Bytes::mib(64);

/// Disks in a directory.
pub struct LocalDisks {
    dir: PathBuf,
    images: Arc<dyn ImageSource>,
}

impl LocalDisks {
    /// Disks beneath this directory (absolute, as overlays and processes name it), of images from this source.
    pub fn new(dir: impl Into<PathBuf>, images: Arc<dyn ImageSource>) -> Self {
        Self { dir: dir.into(), images }
    }

    fn vm(&self, vm: VmId) -> PathBuf {
        self.dir.join(vm.to_string())
    }

    /// Makes the VM's directory, where there is space for more.
    async fn room(&self, vm: VmId) -> Result<PathBuf> {
        let (dir, root) = (self.vm(vm), self.dir.clone());
        blocking(move || {
            let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(&dir);
            made.map_err(|e| io_error("make", &dir, &e))?;
            let free = file_system(&root)?.free;
            if free < FREE_AT_LEAST {
                return Err(Error::insufficient(format!(
                    "no space for a disk in {}: {FREE_AT_LEAST} are needed, {free} are free; remove images or VMs, or add space",
                    root.display()
                )));
            }
            Ok(dir)
        })
        .await
    }

    /// Makes a copy-on-write disk of an image under the name `stem` with the format's ending, unless it is there.
    async fn overlay(&self, vm: VmId, stem: &str, image: &ImageContent, size: Bytes) -> Result<DiskSpec> {
        let base = self.images.fetch(image.digest).await?;
        let format = match image.format {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
            other => return Err(Error::internal(format!("image {} is stored as {other:?}", image.digest))),
        };
        let dir = self.vm(vm);
        let (copy, overlay) = (dir.join(format!("{stem}.raw")), dir.join(format!("{stem}.qcow2")));
        let backing = vec![BackingSpec { path: base.clone(), qcow2: image.format == ImageFormat::Qcow2 }];
        let copied = DiskSpec {
            id: String::new(),
            path: copy.clone(),
            qcow2: false,
            backing: Vec::new(),
            read_only: false,
            boot_index: None,
        };
        let layered = DiskSpec { path: overlay.clone(), qcow2: true, backing, ..copied.clone() };
        if copy.exists() {
            return Ok(copied);
        }
        if overlay.exists() {
            return Ok(layered);
        }
        self.room(vm).await?;
        let size = size.max(image.virtual_size);
        if image.format == ImageFormat::Raw && reflink(base.clone(), copy, size).await? {
            return Ok(copied);
        }
        let temp = dir.join(format!(".{stem}.new"));
        let args = [OsStr::new("create"), "-q".as_ref(), "-f".as_ref(), "qcow2".as_ref(), "-b".as_ref()];
        let size = size.0.to_string();
        let rest = [base.as_os_str(), "-F".as_ref(), format.as_ref(), temp.as_os_str(), size.as_ref()];
        qemu_img(&[&args[..], &rest[..]].concat()).await?;
        blocking(move || publish(&temp, &overlay)).await?;
        Ok(layered)
    }

    async fn remove_file(&self, path: PathBuf) -> Result<()> {
        blocking(move || match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path, &e)),
            _ => Ok(()),
        })
        .await
    }
}

/// Copies by sharing blocks; false where the file system cannot.
async fn reflink(base: PathBuf, copy: PathBuf, size: Bytes) -> Result<bool> {
    blocking(move || {
        let temp = copy.with_extension("raw.new");
        let _ = fs::remove_file(&temp);
        if reflink_copy::reflink(&base, &temp).is_err() {
            let _ = fs::remove_file(&temp);
            return Ok(false);
        }
        let grown = fs::OpenOptions::new().write(true).open(&temp).and_then(|file| file.set_len(size.0));
        grown.map_err(|e| io_error("grow", &temp, &e))?;
        publish(&temp, &copy).map(|()| true)
    })
    .await
}

/// Makes a whole file durable under its name, for its owner's eyes only.
fn publish(temp: &Path, path: &Path) -> Result<()> {
    let publish = || {
        let file = fs::File::open(temp)?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        file.sync_all()?;
        fs::rename(temp, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    publish().map_err(|e| io_error("write", path, &e))
}

async fn qemu_img(args: &[&OsStr]) -> Result<()> {
    let run = Command::new("qemu-img").args(args).stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = run.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::not_found("qemu-img is not installed; install the package qemu-utils"),
        _ => Error::internal(format!("cannot run qemu-img: {e}")),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let full = said.contains("No space left on device");
    let detail = format!("qemu-img failed: {said}");
    Err(if full { Error::insufficient(detail) } else { Error::internal(detail) })
}

/// The generation a root disk's file name tells.
pub(crate) fn generation_of(name: &str) -> Option<u64> {
    let stem = name.strip_prefix("root-")?;
    stem.strip_suffix(".qcow2").or_else(|| stem.strip_suffix(".raw"))?.parse().ok()
}

#[async_trait]
impl Disks for LocalDisks {
    async fn root(&self, vm: VmId, generation: u64, image: &ImageContent, size: Bytes) -> Result<DiskSpec> {
        if size < image.virtual_size && size != Bytes::ZERO {
            return Err(Error::invalid(format!(
                "a disk of {size} is too small for its image of {}; resize the VM to a larger disk",
                image.virtual_size
            )));
        }
        let disk = Box::pin(self.overlay(vm, &format!("root-{generation}"), image, size)).await?;
        Ok(DiskSpec { id: "root".into(), boot_index: Some(0), ..disk })
    }

    async fn rescue(&self, vm: VmId, image: &ImageContent) -> Result<DiskSpec> {
        self.remove_rescue(vm).await?;
        let disk = Box::pin(self.overlay(vm, "rescue", image, Bytes::ZERO)).await?;
        Ok(DiskSpec { id: "rescue".into(), boot_index: Some(0), ..disk })
    }

    async fn remove_rescue(&self, vm: VmId) -> Result<()> {
        let dir = self.vm(vm);
        self.remove_file(dir.join("rescue.qcow2")).await?;
        self.remove_file(dir.join("rescue.raw")).await
    }

    async fn seed(&self, metadata: &GuestMetadata, macs: &[Mac]) -> Result<DiskSpec> {
        let bytes = seed::image(metadata, macs)?;
        let dir = self.room(metadata.vm).await?;
        let path = dir.join("seed.img");
        let disk = DiskSpec {
            id: "seed".into(),
            path: path.clone(),
            qcow2: false,
            backing: Vec::new(),
            read_only: true,
            boot_index: None,
        };
        blocking(move || {
            let temp = dir.join(".seed.new");
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let written = options.open(&temp).and_then(|mut file| io::Write::write_all(&mut file, &bytes));
            written.map_err(|e| io_error("write", &temp, &e))?;
            publish(&temp, &path)
        })
        .await?;
        Ok(disk)
    }

    async fn grow(&self, vm: VmId, generation: u64, to: Bytes) -> Result<()> {
        let raw = self.vm(vm).join(format!("root-{generation}.raw"));
        if raw.exists() {
            return blocking(move || {
                let grow = || {
                    let file = fs::OpenOptions::new().write(true).open(&raw)?;
                    if file.metadata()?.len() < to.0 { file.set_len(to.0) } else { Ok(()) }
                };
                grow().map_err(|e| io_error("grow", &raw, &e))
            })
            .await;
        }
        // qemu-img locks the file, so a disk in use is refused, and shrinks nothing unless told to.
        let path = self.vm(vm).join(format!("root-{generation}.qcow2"));
        let to = to.0.to_string();
        qemu_img(&["resize".as_ref(), "-q".as_ref(), "-f".as_ref(), "qcow2".as_ref(), path.as_ref(), to.as_ref()]).await
    }

    async fn remove_older(&self, vm: VmId, generation: u64) -> Result<()> {
        let dir = self.vm(vm);
        blocking(move || {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(io_error("list", &dir, &e)),
            };
            for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
                if generation_of(&name).is_some_and(|found| found < generation) {
                    let path = dir.join(name);
                    fs::remove_file(&path).map_err(|e| io_error("remove", &path, &e))?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn remove(&self, vm: VmId) -> Result<()> {
        let dir = self.vm(vm);
        blocking(move || remove_tree(&dir)).await
    }

    async fn list(&self) -> Result<Vec<VmId>> {
        let dir = self.dir.clone();
        blocking(move || match fs::read_dir(&dir) {
            Ok(entries) => {
                Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok()).collect())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(io_error("list", &dir, &e)),
        })
        .await
    }

    async fn free(&self) -> Result<Bytes> {
        let dir = self.dir.clone();
        blocking(move || {
            fs::create_dir_all(&dir).map_err(|e| io_error("make", &dir, &e))?;
            file_system(&dir).map(|space| space.free)
        })
        .await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_types::digest::Digest;

    use super::*;

    struct Images(PathBuf);

    #[async_trait]
    impl ImageSource for Images {
        async fn fetch(&self, digest: Digest) -> Result<PathBuf> {
            Ok(self.0.join(digest.hex()))
        }
    }

    struct Host {
        _temp: tempfile::TempDir,
        disks: LocalDisks,
        image: ImageContent,
        vm: VmId,
        dir: PathBuf,
    }

    fn host() -> Host {
        let temp = tempfile::tempdir().unwrap();
        let images = temp.path().join("images");
        fs::create_dir(&images).unwrap();
        let image = ImageContent {
            digest: Digest([7; 32]),
            format: ImageFormat::Raw,
            size: Bytes::mib(1),
            virtual_size: Bytes::mib(1),
            source_digest: Digest([7; 32]),
        };
        fs::write(images.join(image.digest.hex()), vec![9; 1 << 20]).unwrap();
        let vm = VmId(uuid::Uuid::from_u128(3));
        let disks = LocalDisks::new(temp.path().join("disks"), Arc::new(Images(images)));
        let dir = temp.path().join("disks").join(vm.to_string());
        Host { disks, image, vm, dir, _temp: temp }
    }

    /// The size a guest would see, as QEMU's own tool tells it.
    fn virtual_size(disk: &DiskSpec) -> u64 {
        let format = if disk.qcow2 { "qcow2" } else { "raw" };
        let mut info = std::process::Command::new("qemu-img");
        let output = info.args(["info", "--output=json", "-f", format]).arg(&disk.path).output().unwrap();
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        told["virtual-size"].as_u64().unwrap()
    }

    #[tokio::test]
    async fn a_disk_stands_on_its_image_is_as_large_as_asked_and_grows() {
        let host = host();
        let disk = host.disks.root(host.vm, 1, &host.image, Bytes::mib(4)).await.unwrap();
        assert_eq!((disk.id.as_str(), virtual_size(&disk)), ("root", 4 << 20));
        if disk.qcow2 {
            assert_eq!(disk.backing.len(), 1);
        }
        assert_eq!(host.disks.root(host.vm, 1, &host.image, Bytes::mib(4)).await.unwrap(), disk);
        host.disks.grow(host.vm, 1, Bytes::mib(8)).await.unwrap();
        assert_eq!(virtual_size(&disk), 8 << 20);
        assert_eq!(host.disks.list().await.unwrap(), [host.vm]);
    }

    #[tokio::test]
    async fn a_disk_smaller_than_its_image_is_refused() {
        let host = host();
        let error = host.disks.root(host.vm, 1, &host.image, Bytes::kib(4)).await.unwrap_err();
        assert!(error.detail.contains("too small for its image of 1 MiB"), "{error}");
    }

    #[tokio::test]
    async fn rebuilding_leaves_only_the_newest_and_removing_leaves_nothing() {
        let host = host();
        for generation in [1, 2, 10] {
            host.disks.root(host.vm, generation, &host.image, Bytes::mib(4)).await.unwrap();
        }
        host.disks.rescue(host.vm, &host.image).await.unwrap();
        host.disks.remove_older(host.vm, 10).await.unwrap();
        host.disks.remove_rescue(host.vm).await.unwrap();
        let left: Vec<_> = fs::read_dir(&host.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(left[0].to_str().unwrap().starts_with("root-10."));
        host.disks.remove(host.vm).await.unwrap();
        host.disks.remove(host.vm).await.unwrap();
        assert_eq!(host.disks.list().await.unwrap(), []);
    }
}
