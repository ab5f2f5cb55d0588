//! The store: files named by the SHA-256 of their bytes.
//!
//! ```text
//! <dir>/staging/<random>       being written; locked by its writer, unlinked when the writer gives up
//! <dir>/blobs/sha256/<hex>     complete, on the disk (fsync before rename), never changed again
//! ```
//!
//! A writer killed half-way leaves an unlocked staging file, which the next [`ImageStore::open`] removes.
//! Two writers of the same bytes meet at the rename: either wins, the bytes are the same.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use hull_types::{
    digest::Digest,
    error::{Error, Result},
    units::Bytes,
};
use sha2::{Digest as _, Sha256};
use tempfile::{NamedTempFile, TempPath};
use tokio::sync::Semaphore;

use crate::{
    files::{io_error, sync_dir},
    limits::Limits,
};

/// Conversions that run at once; more would only make each slower.
const CONVERSIONS: usize = 2;

/// Content-addressed images on a file system. Cheap to clone; clones share the same store.
#[derive(Clone, Debug)]
pub struct ImageStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    limits: Limits,
    conversions: Semaphore,
}

impl ImageStore {
    /// Opens the store in `dir`, making it if need be, and removes what killed writers left behind.
    ///
    /// # Errors
    /// The directory cannot be made, read or written.
    pub async fn open(dir: impl Into<PathBuf>, limits: Limits) -> Result<Self> {
        let dir = dir.into();
        blocking(move || {
            let store = Self { shared: Arc::new(Shared { dir, limits, conversions: Semaphore::new(CONVERSIONS) }) };
            store.prepare()?;
            Ok(store)
        })
        .await
    }

    /// The limits imports are held to.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Where the blob of this digest is, or would be. It may be opened and mapped, never written.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Whether the blob is here.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// `NotFound` where the store does not have it.
    pub async fn open_blob(&self, digest: &Digest) -> Result<File> {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || store.open_now(&digest)).await
    }

    /// The blob's length, and how much disk it takes (holes take none).
    ///
    /// # Errors
    /// `NotFound` where the store does not have it.
    pub async fn size(&self, digest: &Digest) -> Result<(Bytes, Bytes)> {
        use std::os::unix::fs::MetadataExt;
        let meta = self.open_blob(digest).await?.metadata();
        let meta = meta.map_err(|e| io_error("read", &self.path(digest), &e))?;
        Ok((Bytes(meta.len()), Bytes(meta.blocks() * 512)))
    }

    /// All digests in the store, sorted.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn list(&self) -> Result<Vec<Digest>> {
        let blobs = self.blobs();
        blocking(move || {
            let entries = fs::read_dir(&blobs).map_err(|e| io_error("list", &blobs, &e))?;
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let mut digests: Vec<Digest> = names.filter_map(|name| name.parse().ok()).collect();
            digests.sort_unstable();
            Ok(digests)
        })
        .await
    }

    /// Removes a blob; whoever has it open keeps it. Removing what is not there is done already.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub async fn delete(&self, digest: &Digest) -> Result<()> {
        let (blobs, path) = (self.blobs(), self.path(digest));
        blocking(move || match fs::remove_file(&path) {
            Ok(()) => sync_dir(&blobs),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io_error("delete", &path, &e)),
        })
        .await
    }

    /// Reads a blob and checks that its bytes still hash to its name.
    ///
    /// # Errors
    /// `NotFound`, or `Internal` where the bytes have changed on the disk.
    pub async fn verify(&self, digest: &Digest) -> Result<()> {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || {
            let path = store.path(&digest);
            let mut file = store.open_now(&digest)?;
            let found = hash_file(&mut file, |_| {}).map_err(|e| io_error("read", &path, &e))?;
            if found == digest {
                return Ok(());
            }
            Err(Error::internal(format!(
                "{} is damaged: its bytes hash to {found}; delete the image and import it again",
                path.display()
            )))
        })
        .await
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.shared.dir.join("staging")
    }

    pub(crate) fn conversions(&self) -> &Semaphore {
        &self.shared.conversions
    }

    /// A new staging file, locked so that no other process' clean-up takes it.
    pub(crate) fn stage(&self) -> Result<Staged> {
        let dir = self.staging();
        let fail = |e: &io::Error| io_error("write in", &dir, e);
        loop {
            let temp = NamedTempFile::new_in(&dir).map_err(|e| fail(&e))?;
            temp.as_file().lock().map_err(|e| fail(&e))?;
            // Another process' clean-up may have come between creation and lock; then its name is gone.
            if temp.path().exists() {
                let (file, path) = temp.into_parts();
                return Ok(Staged { file, path });
            }
        }
    }

    /// Makes a finished staging file the blob of `digest`.
    pub(crate) fn publish(&self, staged: Staged, digest: &Digest) -> Result<()> {
        let target = self.path(digest);
        let fail = |e: &io::Error| io_error("store", &target, e);
        crate::convert::share_with_sandbox(&staged.file).map_err(|e| fail(&e))?;
        staged.file.set_permissions(fs::Permissions::from_mode(0o440)).map_err(|e| fail(&e))?;
        staged.file.sync_all().map_err(|e| fail(&e))?;
        staged.path.persist(&target).map_err(|e| fail(&e.error))?;
        sync_dir(&self.blobs())
    }

    pub(crate) fn open_now(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::not_found(format!("image {digest} is not in this store")),
            _ => io_error("open", &path, &e),
        })
    }

    fn blobs(&self) -> PathBuf {
        self.shared.dir.join("blobs/sha256")
    }

    fn prepare(&self) -> Result<()> {
        for dir in [self.blobs(), self.staging()] {
            fs::create_dir_all(&dir).map_err(|e| io_error("create", &dir, &e))?;
        }
        // Blobs are readable by the sandbox's group; that nobody else can reach them is the directory's doing.
        let dir = &self.shared.dir;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(|e| io_error("protect", dir, &e))?;
        self.collect_staging()
    }

    fn collect_staging(&self) -> Result<()> {
        let dir = self.staging();
        for entry in fs::read_dir(&dir).map_err(|e| io_error("list", &dir, &e))?.flatten() {
            remove_if_abandoned(&entry.path());
        }
        Ok(())
    }
}

/// A staging file whose writer is gone is unlocked. Failing to remove it costs disk, not truth, so it is only logged.
fn remove_if_abandoned(path: &Path) {
    let abandoned = File::open(path).is_ok_and(|file| file.try_lock().is_ok());
    if abandoned && let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove an abandoned staging file");
    }
}

/// A file on its way into the store; unlinked when dropped.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) file: File,
    pub(crate) path: TempPath,
}

/// The digest of a file's bytes from its current position.
pub(crate) fn hash_file(file: &mut File, mut read: impl FnMut(u64)) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let n = file.read(&mut buf)?;
        if n == 0 {
            return Ok(Digest(hasher.finalize().into()));
        }
        hasher.update(&buf[..n]);
        done += n as u64;
        read(done);
    }
}

/// Runs file work where it may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(join) => Err(Error::internal(format!("image work ended abnormally: {join}"))),
    }
}
