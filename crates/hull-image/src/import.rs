//! The door: from a source to a stored image, or to a refusal with nothing left behind.

use std::{
    fs::File,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use hull_types::{
    digest::Digest,
    error::{Error, Result},
    units::Bytes as Size,
};
use tokio::{io::AsyncRead, sync::mpsc};
use tokio_util::io::ReaderStream;
use url::Url;

use crate::{
    Format, ImageStore, Kind, Phase, Progress,
    convert::{self, Conversion},
    fetch,
    files::{io_error, require_space},
    format::{self, Inspected},
    receive::{self, Input, Piece, Received, Rules},
    store::{Staged, blocking, hash_file},
};

/// Pieces between an async source and the disk. Networks deliver some of a few KiB, some of half a MiB.
const PIECES_IN_FLIGHT: usize = 16;
const PIECE: usize = 256 << 10;

/// An async source's bytes, as they come.
pub type Pieces = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Where an image comes from.
pub enum Source {
    /// A regular file on this machine.
    File(PathBuf),
    /// An `http` or `https` address.
    Url(Url),
    /// Any stream: an upload's body, standard input.
    Stream {
        /// The bytes.
        pieces: Pieces,
        /// How many there will be, where that is known.
        size: Option<u64>,
    },
}

impl Source {
    /// A stream of unknown length.
    pub fn stream(reader: impl AsyncRead + Send + 'static) -> Self {
        Self::Stream { pieces: Box::pin(ReaderStream::with_capacity(reader, PIECE)), size: None }
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url(url) => write!(f, "{url}"),
            Self::Stream { .. } => f.write_str("stream"),
        }
    }
}

/// What the caller says about the image; all of it is checked.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// SHA-256 of the source's bytes as they come (still compressed).
    pub sha256: Option<Digest>,
    /// The format inside any compression. Needed only for raw disks without partition table or file system.
    pub format: Option<Format>,
    /// What it is for.
    pub kind: Option<Kind>,
    /// Lets URLs reach addresses that are not public (loopback, private, link-local). For operators, never for tenants.
    pub allow_private: bool,
    /// PEM certificates trusted for `https` beside the system's.
    pub extra_roots: Vec<Vec<u8>>,
    /// Whom to tell how far it is.
    pub progress: Progress,
}

/// An image that is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its name: SHA-256 of the stored bytes.
    pub digest: Digest,
    /// Length of the stored bytes.
    pub size: Size,
    /// How it is stored: raw or qcow2.
    pub format: Format,
    /// The format it came in.
    pub source_format: Format,
    /// The disk as the guest sees it.
    pub virtual_size: Size,
    /// What it is for.
    pub kind: Kind,
    /// SHA-256 of the source's bytes.
    pub source_digest: Digest,
}

impl ImageStore {
    /// Brings an image into the store. Dropping the future gives it up; nothing is left behind.
    ///
    /// # Errors
    /// `Invalid` or `TooLarge` with the reason the image is refused, `InsufficientResources` for a full disk or a missing
    /// qemu-img, `Unavailable`, `NotFound` or `Timeout` for a source that fails, `Forbidden` for an address tenants may not reach.
    pub async fn import(&self, source: Source, options: &ImportOptions) -> Result<Imported> {
        let cancelled = CancelOnDrop(Arc::default());
        let (staged, received) = self.receive(source, options, &cancelled).await?;
        if let Some(said) = options.sha256.filter(|said| *said != received.source) {
            return Err(Error::invalid(format!(
                "the image's checksum is wrong: {said} was expected and {} arrived; get it again, or correct the checksum",
                received.source
            )));
        }
        let (staged, member) = self.inspect(staged, options).await?;
        let source_format = if member.from_ova { Format::Ova } else { member.inspected.format };
        let inspected = member.inspected;
        let (staged, format, content) = if inspected.clean && !member.from_ova {
            (staged, inspected.format, received.content)
        } else {
            let converted = self.rewrite(staged, &member, options).await?;
            (converted.0, Format::Qcow2, converted.1)
        };
        let size = staged.file.metadata().map_err(|e| io_error("read", &staged.path, &e))?.len();
        let store = self.clone();
        blocking(move || store.publish(staged, &content)).await?;
        Ok(Imported {
            digest: content,
            size: Size(size),
            format,
            source_format,
            virtual_size: Size(inspected.virtual_size),
            kind: inspected.kind,
            source_digest: received.source,
        })
    }

    /// Takes a blob from another store, as it is, and holds it to its digest.
    ///
    /// # Errors
    /// `Invalid` where the bytes are not those of `digest`; otherwise as [`Self::import`].
    pub async fn put(
        &self,
        digest: &Digest,
        reader: impl AsyncRead + Send + 'static,
        progress: Progress,
    ) -> Result<()> {
        if self.contains(digest) {
            return Ok(());
        }
        let options = ImportOptions { progress, ..ImportOptions::default() };
        let cancelled = CancelOnDrop(Arc::default());
        let (staged, found) = self.receive_as(Source::stream(reader), &options, &cancelled, false).await?;
        if found.content != *digest {
            return Err(Error::invalid(format!("asked for image {digest} and got {}", found.content)));
        }
        let (store, digest) = (self.clone(), *digest);
        blocking(move || store.publish(staged, &digest)).await
    }

    async fn receive(
        &self,
        source: Source,
        options: &ImportOptions,
        cancelled: &CancelOnDrop,
    ) -> Result<(Staged, Received)> {
        self.receive_as(source, options, cancelled, true).await
    }

    async fn receive_as(
        &self,
        source: Source,
        options: &ImportOptions,
        cancelled: &CancelOnDrop,
        unpack: bool,
    ) -> Result<(Staged, Received)> {
        let idle = self.limits().idle;
        match source {
            Source::File(path) => {
                let file = blocking(move || open_source(&path)).await?;
                let expected = file.metadata().ok().map(|m| m.len());
                self.receive_blocking(Input::File(file), expected, options, cancelled, unpack).await
            }
            Source::Url(url) => {
                let body = fetch::get(&url, options, self.limits()).await?;
                self.pumped(body.pieces, body.size, idle, options, cancelled, unpack).await
            }
            Source::Stream { pieces, size } => self.pumped(pieces, size, idle, options, cancelled, unpack).await,
        }
    }

    async fn pumped(
        &self,
        pieces: Pieces,
        size: Option<u64>,
        idle: Duration,
        options: &ImportOptions,
        cancelled: &CancelOnDrop,
        unpack: bool,
    ) -> Result<(Staged, Received)> {
        let (sender, channel) = mpsc::channel(PIECES_IN_FLIGHT);
        let receiving = self.receive_blocking(Input::Channel(channel), size, options, cancelled, unpack);
        // The pump ends by itself when the receiving end stops listening, so waiting for both cannot hang.
        let ((), received) = tokio::join!(pump(pieces, sender, idle), receiving);
        received
    }

    async fn receive_blocking(
        &self,
        input: Input,
        expected: Option<u64>,
        options: &ImportOptions,
        cancelled: &CancelOnDrop,
        unpack: bool,
    ) -> Result<(Staged, Received)> {
        let (store, progress, cancelled) = (self.clone(), options.progress.clone(), Arc::clone(&cancelled.0));
        blocking(move || {
            let staged = store.stage()?;
            let rules = Rules { limits: store.limits(), progress: &progress, cancelled: &cancelled, expected, unpack };
            let received = receive::receive(input, &staged.file, &staged.path, &rules)?;
            Ok((staged, received))
        })
        .await
    }

    /// Tells what was received; for an OVA, what its disk is.
    async fn inspect(&self, staged: Staged, options: &ImportOptions) -> Result<(Staged, Subject)> {
        let (limits, declared) = (self.limits().clone(), (options.format, options.kind));
        let store = self.clone();
        blocking(move || {
            let inspected = format::inspect(&staged.file, declared, &limits)?;
            if inspected.format != Format::Ova {
                return Ok((staged, Subject { inspected, from_ova: false }));
            }
            let member = format::find_disk(&staged.file)?;
            let disk = store.extract(&staged.file, &member)?;
            let inspected = format::inspect(&disk.file, (None, Some(Kind::Disk)), &limits)?;
            if inspected.format == Format::Ova {
                return Err(Error::invalid("refused ova image: its disk is an OVA again"));
            }
            Ok((disk, Subject { inspected, from_ova: true }))
        })
        .await
    }

    fn extract(&self, archive: &File, member: &format::Member) -> Result<Staged> {
        require_space(&self.staging(), member.size, self.limits().keep_free)?;
        let disk = self.stage()?;
        let fail = |e: &std::io::Error| io_error("unpack the archive's disk to", &disk.path, e);
        let mut from = archive.try_clone().map_err(|e| fail(&e))?;
        std::io::Seek::seek(&mut from, std::io::SeekFrom::Start(member.offset)).map_err(|e| fail(&e))?;
        let copied = std::io::copy(&mut std::io::Read::take(from, member.size), &mut &disk.file);
        match copied.map_err(|e| fail(&e))? {
            n if n == member.size => Ok(disk),
            _ => Err(Error::invalid(format!("refused ova image: the archive is truncated in {:?}", member.name))),
        }
    }

    /// Rewrites an image to a clean qcow2 and hashes that.
    async fn rewrite(&self, staged: Staged, subject: &Subject, options: &ImportOptions) -> Result<(Staged, Digest)> {
        let _turn = self.conversions().acquire().await.map_err(|e| Error::internal(e.to_string()))?;
        let store = self.clone();
        let output = blocking(move || store.stage()).await?;
        let conversion = Conversion {
            from: subject.inspected.format,
            to: Format::Qcow2,
            virtual_size: subject.inspected.virtual_size,
            compress: false,
        };
        convert::run(&staged.file, &output.file, &conversion, self.limits(), &options.progress).await?;
        let (limits, progress) = (self.limits().clone(), options.progress.clone());
        blocking(move || {
            drop(staged);
            let fail = |e: &std::io::Error| io_error("read", &output.path, e);
            // Our own output is held to the same rules; what qemu-img wrote must be what we store.
            format::inspect(&output.file, (Some(Format::Qcow2), Some(Kind::Disk)), &limits)?;
            let mut file = File::open(&output.path).map_err(|e| fail(&e))?;
            let total = file.metadata().map_err(|e| fail(&e))?.len();
            let digest = hash_file(&mut file, |done| progress.report(Phase::Hashing, done, Some(total)));
            let digest = digest.map_err(|e| fail(&e))?;
            Ok((output, digest))
        })
        .await
    }
}

/// What was received, after looking into archives.
struct Subject {
    inspected: Inspected,
    from_ova: bool,
}

/// Tells the blocking side that nobody waits any more.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn open_source(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|e| io_error("open", path, &e))?;
    let meta = file.metadata().map_err(|e| io_error("read", path, &e))?;
    if meta.is_file() {
        return Ok(file);
    }
    Err(Error::invalid(format!(
        "{} is not a regular file; name the image's file, or send it by standard input",
        path.display()
    )))
}

/// Hands pieces over as they are: their bytes are not copied on this side.
async fn pump(mut pieces: Pieces, sender: mpsc::Sender<Piece>, idle: Duration) {
    loop {
        let piece = match tokio::time::timeout(idle, pieces.next()).await {
            Ok(None) => Piece::End,
            Ok(Some(Ok(data))) => Piece::Data(data),
            Ok(Some(Err(e))) => Piece::Failed(Error::unavailable(format!("the image's source failed: {e}"))),
            Err(_) => {
                Piece::Failed(Error::timeout(format!("the image's source sent nothing for {} s", idle.as_secs())))
            }
        };
        let last = !matches!(piece, Piece::Data(_));
        if sender.send(piece).await.is_err() || last {
            return;
        }
    }
}
