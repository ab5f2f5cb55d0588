//! Images on this host: the server's own store where both share a host, a cache filled over the link elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use hull_image::ImageStore;
use hull_types::{
    digest::Digest,
    error::{Error, Result},
    units::Bytes,
};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::OnceCell,
};

use super::ImageSource;
use crate::{blocking, host::file_system, io_error, link::Connector};

#[async_trait]
impl ImageSource for ImageStore {
    async fn fetch(&self, digest: Digest) -> Result<PathBuf> {
        if self.contains(&digest) {
            return Ok(self.path(&digest));
        }
        Err(Error::not_found(format!("image {digest} is not in the image store; import it again")))
    }
}

/// The most a cache keeps unless it is told otherwise: this, or a fifth of its file system where that is less.
const CACHE_MOST: Bytes = Bytes::gib(50);
/// What is left of a fetch that broke off is of no use after this long without a byte.
const BROKEN_OFF: Duration = Duration::from_secs(3600);

/// Images fetched by digest, each once however many VMs wait for it, kept under their digest once they are whole.
///
/// What no VM here is made of may go once the cache has grown too large, the longest unused first: it can be fetched again.
/// When an image was last used is its file's time of change.
pub struct ImageCache {
    dir: PathBuf,
    connector: Arc<dyn Connector>,
    limit: Option<Bytes>,
    fetching: Mutex<BTreeMap<Digest, Weak<OnceCell<PathBuf>>>>,
}

impl ImageCache {
    /// A cache in this directory.
    pub fn new(dir: impl Into<PathBuf>, connector: Arc<dyn Connector>) -> Self {
        Self { dir: dir.into(), connector, limit: None, fetching: Mutex::default() }
    }

    /// Keeps no more than this, but for what is in use.
    #[must_use]
    pub fn with_limit(self, limit: Option<Bytes>) -> Self {
        Self { limit, ..self }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// The cell that whoever wants this image now shares.
    fn cell(&self, digest: Digest) -> Arc<OnceCell<PathBuf>> {
        // Every change under this lock is whole even if its holder panicked.
        let mut fetching = self.fetching.lock().unwrap_or_else(PoisonError::into_inner);
        fetching.retain(|_, cell| cell.strong_count() > 0);
        if let Some(cell) = fetching.get(&digest).and_then(Weak::upgrade) {
            return cell;
        }
        let cell = Arc::new(OnceCell::new());
        fetching.insert(digest, Arc::downgrade(&cell));
        cell
    }

    async fn download(&self, digest: Digest) -> Result<PathBuf> {
        let path = self.path(digest);
        let (dir, temp) = (self.dir.clone(), self.dir.join(format!(".{}.part", digest.hex())));
        let failed = |error: std::io::Error| io_error("fetch image into", &temp, &error);
        let mut from = self.connector.image(digest).await?;
        blocking(move || fs::create_dir_all(&dir).map_err(|e| io_error("make", &dir, &e))).await?;
        let mut to = tokio::fs::File::create(&temp).await.map_err(failed)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n = from.read(&mut buffer).await;
            let n = n.map_err(|e| Error::unavailable(format!("image {digest} broke off while it was fetched: {e}")))?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            to.write_all(&buffer[..n]).await.map_err(failed)?;
        }
        to.flush().await.map_err(failed)?;
        to.sync_all().await.map_err(failed)?;
        let found = Digest(hash.finalize().into());
        blocking(move || publish(&temp, &path, digest, found)).await
    }
}

fn publish(temp: &Path, path: &Path, wanted: Digest, found: Digest) -> Result<PathBuf> {
    if found != wanted {
        let _ = fs::remove_file(temp);
        let detail = format!("the bytes fetched for image {wanted} are {found}; they were thrown away");
        return Err(Error::unavailable(detail));
    }
    fs::rename(temp, path).map_err(|e| io_error("name", path, &e))?;
    Ok(path.to_owned())
}

#[async_trait]
impl ImageSource for ImageCache {
    async fn fetch(&self, digest: Digest) -> Result<PathBuf> {
        let path = self.path(digest);
        if tokio::fs::try_exists(&path).await.unwrap_or(false) {
            return blocking(move || {
                // A time that cannot be set only makes it look older than it is.
                let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                Ok(path)
            })
            .await;
        }
        let cell = self.cell(digest);
        Box::pin(cell.get_or_try_init(|| self.download(digest))).await.cloned()
    }

    async fn tidy(&self, used: BTreeSet<Digest>) -> Result<()> {
        let (dir, limit) = (self.dir.clone(), self.limit);
        blocking(move || {
            if !dir.exists() {
                return Ok(());
            }
            let limit = match limit {
                Some(limit) => limit,
                None => CACHE_MOST.min(Bytes(file_system(&dir)?.size.0 / 5)),
            };
            let now = SystemTime::now();
            let (images, parts) = look(&dir)?;
            for part in parts.iter().filter(|part| now.duration_since(part.1).is_ok_and(|age| age > BROKEN_OFF)) {
                remove(&part.0)?;
            }
            for image in to_evict(images, &used, limit) {
                tracing::info!(image = %image.digest, size = %image.size, "the image cache is full and nobody here uses this image: removing it");
                remove(&dir.join(image.digest.hex()))?;
            }
            Ok(())
        })
        .await
    }
}

/// An image that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    digest: Digest,
    size: Bytes,
    used_at: SystemTime,
}

/// What goes so that no more than the limit is kept: the longest unused first, and nothing that is in use.
fn to_evict(mut images: Vec<Kept>, used: &BTreeSet<Digest>, limit: Bytes) -> Vec<Kept> {
    let mut kept: u64 = images.iter().map(|image| image.size.0).sum();
    images.retain(|image| !used.contains(&image.digest));
    images.sort_by_key(|image| (image.used_at, image.digest));
    let goes = |image: &Kept| {
        let over = kept > limit.0;
        if over {
            kept = kept.saturating_sub(image.size.0);
        }
        over
    };
    images.into_iter().take_while(goes).collect()
}

/// What a broken fetch left, with when it was last written to.
type Part = (PathBuf, SystemTime);

/// The images in the directory, and what broken fetches left.
fn look(dir: &Path) -> Result<(Vec<Kept>, Vec<Part>)> {
    let failed = |e: std::io::Error| io_error("list", dir, &e);
    let (mut images, mut parts) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(metadata) = entry.metadata() else { continue };
        let used_at = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.ends_with(".part") {
            parts.push((entry.path(), used_at));
        } else if let Ok(digest) = name.parse() {
            images.push(Kept { digest, size: Bytes(metadata.len()), used_at });
        }
    }
    Ok((images, parts))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", path, &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use hull_types::id::{MigrationId, StreamId};
    use tokio::io::AsyncRead;

    use super::*;
    use crate::{hypervisor::ByteStream, link::Link};

    struct Server {
        bytes: &'static [u8],
        asked: AtomicU32,
    }

    #[async_trait]
    impl Connector for Server {
        async fn connect(&self) -> Result<Link> {
            Err(Error::unavailable("no links here"))
        }
        async fn open_stream(&self, _: StreamId) -> Result<Box<dyn ByteStream>> {
            Err(Error::unavailable("no streams here"))
        }
        async fn handover(&self, _: MigrationId) -> Result<Box<dyn ByteStream>> {
            Err(Error::unavailable("no VMs here"))
        }
        async fn image(&self, _: Digest) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok(Box::new(self.bytes))
        }
    }

    #[tokio::test]
    async fn an_image_is_fetched_once_and_only_if_its_bytes_are_right() {
        let dir = tempfile::tempdir().unwrap();
        let server = Arc::new(Server { bytes: b"image", asked: AtomicU32::new(0) });
        let cache = ImageCache::new(dir.path(), server.clone());
        let digest = Digest(Sha256::digest(b"image").into());
        let (one, two) = tokio::join!(cache.fetch(digest), cache.fetch(digest));
        assert_eq!(one.clone().unwrap(), two.unwrap());
        assert_eq!(fs::read(one.unwrap()).unwrap(), b"image");
        cache.fetch(digest).await.unwrap();
        assert_eq!(server.asked.load(Ordering::SeqCst), 1);

        let wrong = cache.fetch(Digest([3; 32])).await.unwrap_err();
        assert!(wrong.detail.contains("thrown away"), "{wrong}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-made stays");
    }

    fn kept(name: u8, size: u64, used_at: u64) -> Kept {
        let used_at = SystemTime::UNIX_EPOCH + Duration::from_secs(used_at);
        Kept { digest: Digest([name; 32]), size: Bytes(size), used_at }
    }

    #[test]
    fn the_longest_unused_goes_first_and_what_is_used_never() {
        let images = vec![kept(1, 10, 40), kept(2, 10, 10), kept(3, 10, 30), kept(4, 10, 20)];
        let goes = |used: &[u8], limit| {
            let used = used.iter().map(|name| Digest([*name; 32])).collect();
            let gone = to_evict(images.clone(), &used, Bytes(limit));
            gone.iter().map(|image| image.digest.0[0]).collect::<Vec<_>>()
        };
        assert_eq!(goes(&[], 40), [0; 0], "there is room");
        assert_eq!(goes(&[], 39), [2]);
        assert_eq!(goes(&[], 15), [2, 4, 3]);
        assert_eq!(goes(&[2, 3], 15), [4, 1], "as far as it goes");
        assert_eq!(goes(&[1, 2, 3, 4], 0), [0; 0]);
    }

    #[tokio::test]
    async fn a_cache_that_is_too_large_lets_go_what_no_vm_is_made_of_and_fetches_it_again() {
        let dir = tempfile::tempdir().unwrap();
        let server = Arc::new(Server { bytes: b"image", asked: AtomicU32::new(0) });
        let cache = ImageCache::new(dir.path(), server.clone()).with_limit(Some(Bytes(7)));
        let digest = Digest(Sha256::digest(b"image").into());
        let old = Digest([9; 32]);
        let path = cache.fetch(digest).await.unwrap();
        fs::write(dir.path().join(old.hex()), b"other").unwrap();
        let age = |path: &Path, hours: u64| {
            let then = SystemTime::now() - Duration::from_secs(hours * 3600);
            fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
        };
        age(&path, 30);
        age(&dir.path().join(old.hex()), 20);
        for (part, hours) in [("fresh", 0), ("stale", 2)] {
            let part = dir.path().join(format!(".{part}.part"));
            fs::write(&part, b"").unwrap();
            age(&part, hours);
        }
        // Using it makes it the newest.
        cache.fetch(digest).await.unwrap();
        cache.tidy(BTreeSet::new()).await.unwrap();
        assert!(path.exists() && !dir.path().join(old.hex()).exists());
        assert!(dir.path().join(".fresh.part").exists() && !dir.path().join(".stale.part").exists());

        let none = ImageCache::new(dir.path(), server.clone()).with_limit(Some(Bytes::ZERO));
        none.tidy(BTreeSet::from([digest])).await.unwrap();
        assert!(path.exists(), "a VM is made of it");
        none.tidy(BTreeSet::new()).await.unwrap();
        assert!(!path.exists());
        none.fetch(digest).await.unwrap();
        assert_eq!(server.asked.load(Ordering::SeqCst), 2);
        ImageCache::new(dir.path().join("none yet"), server).tidy(BTreeSet::new()).await.unwrap();
    }
}
