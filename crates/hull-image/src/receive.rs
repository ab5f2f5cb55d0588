//! Receiving: from a source to a staging file, on a blocking thread, in one pass.
//!
//! ```text
//! source -> [Tally: count, limit, cancel] -> [gz | xz | zst] -> Sink --> staging file (holes for zeros)
//!                     |                                          |        \
//!                 source digest              content digest (own thread)   fdatasync now and then (own thread)
//! ```
//!
//! Hashing runs beside the writing, and so does bringing what is written to the disk, so that little is left to wait for at
//! the end. Pieces are shared by the threads, never copied, and used again: fresh ones would cost as much as their
//! hashing, in page faults. Without compression both digests are the same and computed once. Holes of a source file are
//! neither read nor written, but hashed: the digest is that of the bytes, and SHA-256 knows no way around zeros.

use std::{
    cell::Cell,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use bytes::Bytes as Chunk;
use hull_types::{
    digest::Digest,
    error::{Error, ErrorKind, Result},
    units::Bytes,
};
use sha2::{Digest as _, Sha256};

use crate::{
    files::{io_error, require_space},
    format::{self, Compression, HEAD},
    limits::{Limits, RATIO_FREE_DATA, RATIO_FREE_TOTAL},
    progress::{Phase, Progress},
    unpack,
};

/// Read, written and hashed at a time.
const PIECE: usize = 1 << 20;
/// Zeros are found in units of this, the block size of common file systems.
const BLOCK: usize = 4096;
/// Holes are passed over in steps of this.
const HOLE_STEP: u64 = 64 << 20;
/// Free space is asked for after so many bytes written.
const SPACE_EVERY: u64 = 64 << 20;
/// Brought to the disk after so many bytes written.
const FLUSH_EVERY: u64 = 32 << 20;
/// Pieces on their way to the hashing thread.
const PIECES_IN_FLIGHT: usize = 4;
static ZEROS: [u8; PIECE] = [0; PIECE];

/// What an async source tells the blocking side. A channel that ends without [`Piece::End`] was given up.
pub(crate) enum Piece {
    Data(Chunk),
    End,
    Failed(Error),
}

/// Where the bytes come from.
pub(crate) enum Input {
    File(File),
    Channel(tokio::sync::mpsc::Receiver<Piece>),
}

/// How an import is held to its word.
pub(crate) struct Rules<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) progress: &'a Progress,
    /// Set by whoever gives up.
    pub(crate) cancelled: &'a AtomicBool,
    /// Length of the source, where known.
    pub(crate) expected: Option<u64>,
    /// Look inside compression; otherwise bytes are kept as they come.
    pub(crate) unpack: bool,
}

/// What arrived.
pub(crate) struct Received {
    pub(crate) source: Digest,
    pub(crate) content: Digest,
}

/// Receives `input` into `target`, which stands for `path` in errors.
///
/// # Errors
/// Limits exceeded, damaged compression, a full disk, a source that fails or gives up.
pub(crate) fn receive(input: Input, target: &File, path: &Path, rules: &Rules<'_>) -> Result<Received> {
    let dir = path.parent().unwrap_or(path);
    require_space(dir, expected_space(&input, rules), rules.limits.keep_free)?;
    let (mut sparse, source): (Option<File>, Box<dyn Read>) = match input {
        Input::File(file) => {
            let again = file.try_clone().map_err(|e| io_error("read", path, &e))?;
            (Some(again), Box::new(file))
        }
        Input::Channel(channel) => (None, Box::new(ChannelReader { channel, current: Chunk::new(), ended: false })),
    };
    let mut tally = Tally { inner: source, hasher: Some(Sha256::new()), done: Rc::default(), rules, failure: None };
    let mut head = Vec::new();
    let read = tally.by_ref().take(HEAD as u64).read_to_end(&mut head);
    read.map_err(|e| tally.explain(&e, None))?;
    let compression = format::compression(&head).filter(|kind| rules.unpack && !unpack::hides_initrd(*kind, &head));

    thread::scope(|scope| {
        let mut sink = Sink::new(target, path, rules, Hashing::start(scope), Flushing::start(scope, target));
        match compression {
            None => {
                tally.hasher = None;
                sink.data(head)?;
                match sparse.take() {
                    Some(file) => copy_file(&file, &mut tally, &mut sink)?,
                    None => copy(&mut tally, None, &mut sink)?,
                }
                let content = sink.finish()?;
                Ok(Received { source: content, content })
            }
            Some(kind) => {
                unpacked(kind, head, &mut tally, &mut sink)?;
                let source = tally.finish(kind)?;
                Ok(Received { source, content: sink.finish()? })
            }
        }
    })
}

/// The least a source will take: its own length, unless it has holes.
fn expected_space(input: &Input, rules: &Rules<'_>) -> u64 {
    use std::os::unix::fs::MetadataExt;
    match input {
        Input::File(file) => file.metadata().map_or(0, |m| m.len().min(m.blocks() * 512)),
        Input::Channel(_) => rules.expected.unwrap_or(0),
    }
}

fn unpacked(kind: Compression, head: Vec<u8>, tally: &mut Tally<'_>, sink: &mut Sink<'_>) -> Result<()> {
    let consumed = Rc::clone(&tally.done);
    let mut reader = {
        let chained = io::Cursor::new(head).chain(tally.by_ref());
        unpack::decoder(kind, chained).map_err(|e| Error::internal(format!("cannot start unpacking: {e}")))?
    };
    let outcome = loop {
        let mut piece = sink.hashing.piece();
        match fill(&mut reader, &mut piece, PIECE) {
            Ok(0) => break Ok(()),
            Ok(_) => sink.data(piece)?,
            Err(e) => break Err(e),
        }
        require_ratio(sink, consumed.get())?;
    };
    drop(reader);
    outcome.map_err(|e| tally.explain(&e, Some(kind)))
}

/// Refuses a bomb: far more bytes than the compressed source can honestly stand for.
fn require_ratio(sink: &Sink<'_>, source: u64) -> Result<()> {
    let limits = sink.rules.limits;
    let data = RATIO_FREE_DATA.max(source.saturating_mul(limits.data_ratio));
    let total = RATIO_FREE_TOTAL.max(source.saturating_mul(limits.total_ratio));
    if sink.written <= data && sink.length <= total {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::TooLarge,
        format!(
            "the image looks like a decompression bomb: {} of source became {} ({} of it not zero); unpack it yourself if you trust it",
            Bytes(source),
            Bytes(sink.length),
            Bytes(sink.written)
        ),
    ))
}

fn copy(tally: &mut Tally<'_>, limit: Option<u64>, sink: &mut Sink<'_>) -> Result<()> {
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let mut piece = sink.hashing.piece();
        let n = fill(tally, &mut piece, want).map_err(|e| tally.explain(&e, None))?;
        if n == 0 {
            break;
        }
        sink.data(piece)?;
        left -= n as u64;
    }
    Ok(())
}

/// Copies a file's data and passes over its holes. `tally` reads through the same open file, so both share a position.
fn copy_file(file: &File, tally: &mut Tally<'_>, sink: &mut Sink<'_>) -> Result<()> {
    use rustix::fs::{SeekFrom as At, seek};
    loop {
        let here = sink.length;
        let data = match seek(file, At::Data(here)) {
            Ok(data) => data,
            // No data after `here`: the rest is a hole (or nothing), up to the end.
            Err(rustix::io::Errno::NXIO) => {
                let end = file.metadata().map_or(here, |m| m.len());
                return hole(tally, sink, end.saturating_sub(here));
            }
            // The file system cannot tell; read all of it.
            Err(_) => {
                let mut whole = file;
                whole.seek(SeekFrom::Start(here)).map_err(|e| tally.explain(&e, None))?;
                return copy(tally, None, sink);
            }
        };
        hole(tally, sink, data - here)?;
        let end = seek(file, At::Hole(data)).map_err(|e| tally.explain(&e.into(), None))?;
        seek(file, At::Start(data)).map_err(|e| tally.explain(&e.into(), None))?;
        copy(tally, Some(end - data), sink)?;
        if sink.length < end {
            return Ok(()); // cut shorter while we read it; what we hashed is what we have
        }
    }
}

/// In steps, because hashing the zeros takes time in which somebody may want to see progress or give up.
fn hole(tally: &mut Tally<'_>, sink: &mut Sink<'_>, mut left: u64) -> Result<()> {
    while left > 0 {
        let step = left.min(HOLE_STEP);
        tally.admit(step)?;
        sink.hole(step)?;
        left -= step;
    }
    Ok(())
}

/// Reads `want` bytes, or fewer where the source ends: the piece is as long as what was read.
fn fill(source: &mut impl Read, buf: &mut Vec<u8>, want: usize) -> io::Result<usize> {
    // A piece that was full before is not cleared for nothing.
    buf.resize(want, 0);
    let mut n = 0;
    while n < want {
        match source.read(&mut buf[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buf.truncate(n);
    Ok(n)
}

/// Counts and hashes what comes from the source, and stops it at its limit or when nobody wants it any more.
struct Tally<'a> {
    inner: Box<dyn Read + 'a>,
    hasher: Option<Sha256>,
    /// Bytes read so far; shared, because a decoder holds the rest of this while ratios are checked.
    done: Rc<Cell<u64>>,
    rules: &'a Rules<'a>,
    /// Why reading stopped, where that says more than an `io::Error` can.
    failure: Option<Error>,
}

impl Tally<'_> {
    fn admit(&mut self, more: u64) -> Result<()> {
        let done = self.done.get().saturating_add(more);
        self.done.set(done);
        if self.rules.cancelled.load(Ordering::Relaxed) {
            return Err(Error::conflict("the import was given up"));
        }
        if done > self.rules.limits.source.0 {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the source is larger than the {} allowed", self.rules.limits.source),
            ));
        }
        self.rules.progress.report(Phase::Receiving, done, self.rules.expected);
        Ok(())
    }

    fn explain(&mut self, error: &io::Error, unpacking: Option<Compression>) -> Error {
        match (self.failure.take(), unpacking) {
            (Some(failure), _) => failure,
            (None, Some(kind)) => Error::invalid(format!(
                "the image's {} compression is damaged or cut off ({error}); get it again and give its checksum",
                format!("{kind:?}").to_lowercase()
            )),
            (None, None) => Error::unavailable(format!("cannot read the image's source: {error}")),
        }
    }

    /// Reads what follows the compressed data (nothing, usually) so that the digest is that of all the source's bytes.
    fn finish(mut self, kind: Compression) -> Result<Digest> {
        io::copy(&mut self, &mut io::sink()).map_err(|e| self.explain(&e, Some(kind)))?;
        Ok(Digest(self.hasher.take().unwrap_or_default().finalize().into()))
    }
}

impl Read for Tally<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf).inspect_err(|e| {
            self.failure = e.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).cloned();
        })?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buf[..n]);
        }
        if let Err(error) = self.admit(n as u64) {
            self.failure = Some(error.clone());
            return Err(io::Error::other(error));
        }
        Ok(n)
    }
}

/// The blocking end of an async source.
struct ChannelReader {
    channel: tokio::sync::mpsc::Receiver<Piece>,
    current: Chunk,
    ended: bool,
}

impl Read for ChannelReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.channel.blocking_recv() {
                Some(Piece::Data(data)) => self.current = data,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Failed(error)) => return Err(io::Error::other(error)),
                None => return Err(io::Error::other(Error::conflict("the import was given up"))),
            }
        }
        let n = buf.len().min(self.current.len());
        buf[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

/// The hashing thread. Pieces go there and come back, so a copy needs a handful of them.
struct Hashing<'s> {
    work: mpsc::SyncSender<Hash>,
    returned: mpsc::Receiver<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    thread: thread::ScopedJoinHandle<'s, Digest>,
}

enum Hash {
    Data(Arc<Vec<u8>>),
    Zeros(u64),
}

impl<'s> Hashing<'s> {
    fn start<'env>(scope: &'s thread::Scope<'s, 'env>) -> Self {
        let (work, todo) = mpsc::sync_channel(PIECES_IN_FLIGHT);
        let (give_back, returned) = mpsc::channel();
        let thread = scope.spawn(move || {
            let mut hasher = Sha256::new();
            for item in todo {
                match item {
                    Hash::Data(data) => {
                        hasher.update(data.as_slice());
                        if let Some(piece) = Arc::into_inner(data) {
                            // The other end only goes away when the import failed.
                            let _ = give_back.send(piece);
                        }
                    }
                    Hash::Zeros(mut left) => {
                        while left > 0 {
                            let n = left.min(PIECE as u64);
                            hasher.update(&ZEROS[..n as usize]);
                            left -= n;
                        }
                    }
                }
            }
            Digest(hasher.finalize().into())
        });
        Self { work, returned, spare: Vec::new(), thread }
    }

    /// A piece to read into, whatever is in it.
    fn piece(&mut self) -> Vec<u8> {
        self.spare.pop().or_else(|| self.returned.try_recv().ok()).unwrap_or_else(|| Vec::with_capacity(PIECE))
    }

    fn data(&self, data: &Arc<Vec<u8>>) -> Result<()> {
        self.work.send(Hash::Data(Arc::clone(data))).map_err(|_| hashing_died())
    }

    /// This side is done with a piece; whichever side is last keeps it for the next.
    fn done_with(&mut self, data: Arc<Vec<u8>>) {
        self.spare.extend(Arc::into_inner(data));
    }

    fn finish(self) -> Result<Digest> {
        drop(self.work);
        self.thread.join().map_err(|_| hashing_died())
    }
}

/// The thread that brings to the disk what is written, while more is: the last `fsync` then finds little to do.
struct Flushing<'s> {
    work: mpsc::SyncSender<()>,
    thread: thread::ScopedJoinHandle<'s, io::Result<()>>,
}

impl<'s> Flushing<'s> {
    fn start<'env>(scope: &'s thread::Scope<'s, 'env>, file: &'env File) -> Self {
        let (work, todo) = mpsc::sync_channel(1);
        // The kernel tells of a failed write once per open file: the last `fsync` would not know of one that is told here.
        let thread = scope.spawn(move || todo.iter().try_for_each(|()| file.sync_data()));
        Self { work, thread }
    }

    /// Asks for it. While one is under way another waits, and more than that make no difference; nor does asking a thread
    /// that has failed: [`Self::finish`] tells.
    fn ask(&self) {
        let _ = self.work.try_send(());
    }

    fn finish(self) -> io::Result<()> {
        drop(self.work);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the flushing thread ended abnormally")))
    }
}

fn hashing_died() -> Error {
    Error::internal("the hashing thread ended abnormally")
}

/// Writes what is not zero, leaves holes for the rest, and watches limits and free space.
struct Sink<'a> {
    file: &'a File,
    path: &'a Path,
    rules: &'a Rules<'a>,
    hashing: Hashing<'a>,
    flushing: Flushing<'a>,
    length: u64,
    written: u64,
    checked: u64,
    flushed: u64,
}

impl<'a> Sink<'a> {
    fn new(file: &'a File, path: &'a Path, rules: &'a Rules<'a>, hashing: Hashing<'a>, flushing: Flushing<'a>) -> Self {
        Self { file, path, rules, hashing, flushing, length: 0, written: 0, checked: 0, flushed: 0 }
    }

    fn data(&mut self, data: Vec<u8>) -> Result<()> {
        let data = Arc::new(data);
        self.hashing.data(&data)?;
        let mut from = 0;
        while from < data.len() {
            let zero = is_zero(block_at(&data, from));
            let mut to = from;
            while to < data.len() && is_zero(block_at(&data, to)) == zero {
                to += block_at(&data, to).len();
            }
            if !zero {
                self.write(&data[from..to], self.length + from as u64)?;
            }
            from = to;
        }
        self.grow(data.len() as u64)?;
        self.hashing.done_with(data);
        Ok(())
    }

    fn hole(&mut self, len: u64) -> Result<()> {
        self.hashing.work.send(Hash::Zeros(len)).map_err(|_| hashing_died())?;
        self.grow(len)
    }

    fn write(&mut self, data: &[u8], at: u64) -> Result<()> {
        self.file.write_all_at(data, at).map_err(|e| io_error("write", self.path, &e))?;
        self.written += data.len() as u64;
        if self.written - self.checked >= SPACE_EVERY {
            self.checked = self.written;
            require_space(self.path.parent().unwrap_or(self.path), 0, self.rules.limits.keep_free)?;
        }
        if self.written - self.flushed >= FLUSH_EVERY {
            self.flushed = self.written;
            self.flushing.ask();
        }
        Ok(())
    }

    fn grow(&mut self, len: u64) -> Result<()> {
        self.length = self.length.saturating_add(len);
        if self.length > self.rules.limits.virtual_size.0.saturating_add(1 << 30) {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the image unpacks to more than the {} allowed", self.rules.limits.virtual_size),
            ));
        }
        Ok(())
    }

    fn finish(self) -> Result<Digest> {
        self.file.set_len(self.length).map_err(|e| io_error("write", self.path, &e))?;
        let content = self.hashing.finish()?;
        self.flushing.finish().map_err(|e| io_error("write", self.path, &e))?;
        Ok(content)
    }
}

fn block_at(data: &[u8], at: usize) -> &[u8] {
    &data[at..data.len().min(at + BLOCK)]
}

/// Compared with a slice of zeros, which is `memcmp` and fast without optimisation too.
fn is_zero(block: &[u8]) -> bool {
    block == &ZEROS[..block.len()]
}
