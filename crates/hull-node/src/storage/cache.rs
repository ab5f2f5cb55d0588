//! Images on this host: the server's own store where both share a host, a cache filled over the link elsewhere.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use async_trait::async_trait;
use hull_image::ImageStore;
use hull_types::{
    digest::Digest,
    error::{Error, Result},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::OnceCell,
};

use super::ImageSource;
use crate::{blocking, io_error, link::Connector};

#[async_trait]
impl ImageSource for ImageStore {
    async fn fetch(&self, digest: Digest) -> Result<PathBuf> {
        if self.contains(&digest) {
            return Ok(self.path(&digest));
        }
        Err(Error::not_found(format!("image {digest} is not in the image store; import it again")))
    }
}

/// Images fetched by digest, each once however many VMs wait for it, kept under their digest once they are whole.
pub struct ImageCache {
    dir: PathBuf,
    connector: Arc<dyn Connector>,
    fetching: Mutex<BTreeMap<Digest, Weak<OnceCell<PathBuf>>>>,
}

impl ImageCache {
    /// A cache in this directory.
    pub fn new(dir: impl Into<PathBuf>, connector: Arc<dyn Connector>) -> Self {
        Self { dir: dir.into(), connector, fetching: Mutex::default() }
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
            return Ok(path);
        }
        let cell = self.cell(digest);
        Box::pin(cell.get_or_try_init(|| self.download(digest))).await.cloned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use hull_types::id::StreamId;
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
}
