//! All that a VM at rest is, from the node it leaves to the one it goes to: its root disk, its saved memory, what its
//! firmware and its TPM remember, its console log, and what its record must carry on.
//!
//! ```text
//!   "HULLMV1\n" | length (u32) | manifest (JSON) | file … | SHA-256 of everything before it
//!       file:  chunk …, end         chunk: offset (u64) | length (u32, not 0) | bytes         end: offset 0, length 0
//! ```
//!
//! Numbers are little endian. Holes are not sent. The other node may be anyone's who took it over, so what comes is
//! believed as little as what a guest writes: names are of a known few, sizes are told beforehand and kept, and no byte
//! counts until all are there and on disk.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use hull_types::{
    error::{Error, Result},
    id::VmId,
    units::Bytes,
};
use rustix::fs::{SeekFrom, seek};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::records::{SAVED_MEMORY, make_private};
use crate::{blocking, io_error, plan::record::Carried, remove_tree, storage::generation_of};

const MAGIC: &[u8; 8] = b"HULLMV1\n";
/// The largest manifest: a few names, and sentences of a record.
const MOST_MANIFEST: u32 = 1 << 20;
/// Bytes of a chunk.
const CHUNK: usize = 1 << 20;
/// Files of a VM at most: a TPM's state is several.
const MOST_FILES: usize = 64;
/// A sender that sends nothing for so long is gone.
const SILENT_AT_MOST: Duration = Duration::from_secs(60);
/// Files of a VM's private directory that go along, beside its saved memory and the TPM's.
const KEPT: [&str; 3] = ["efi-vars.fd", "efi-vars-secure.fd", "console.log"];
const TPM: &str = "tpm";

/// How much of a VM has come.
#[derive(Debug, Default)]
pub struct Progress {
    come: AtomicU64,
    whole: AtomicU64,
}

impl Progress {
    /// So many bytes more of so many in all, holes included: they take no time.
    pub fn at(&self, come: u64, whole: u64) {
        self.whole.store(whole, Ordering::Relaxed);
        self.come.store(come, Ordering::Relaxed);
    }
}

/// `1.2 GiB of 4 GiB`; empty before anything is known.
impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.whole.load(Ordering::Relaxed) {
            0 => Ok(()),
            whole => write!(f, "{} of {}", Bytes(self.come.load(Ordering::Relaxed)), Bytes(whole)),
        }
    }
}

/// Gives VMs away and takes them.
#[async_trait]
pub trait Handover: Send + Sync + 'static {
    /// Writes all of a VM at rest.
    async fn give(&self, vm: VmId, carried: Carried, to: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<()>;

    /// Takes all of a VM; it is on disk when this returns. What an earlier attempt left is thrown away.
    async fn take(&self, vm: VmId, from: &mut (dyn AsyncRead + Send + Unpin), progress: &Progress) -> Result<Carried>;
}

/// VMs as files: disks beneath one directory, private directories beneath another.
#[derive(Clone, Debug)]
pub struct FileHandover {
    disks: PathBuf,
    vms: PathBuf,
}

impl FileHandover {
    /// Of a node that keeps its disks and its records beneath these directories.
    pub fn new(disks: impl Into<PathBuf>, records: impl Into<PathBuf>) -> Self {
        Self { disks: disks.into(), vms: records.into().join("vms") }
    }

    fn path(&self, vm: VmId, file: &Sent) -> PathBuf {
        let dir = match file.place {
            Place::Disks => &self.disks,
            Place::Private => &self.vms,
        };
        dir.join(vm.to_string()).join(&file.name)
    }
}

/// Where a file belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Place {
    /// Beside the VM's other disks.
    Disks,
    /// In the VM's private directory.
    Private,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sent {
    place: Place,
    name: String,
    /// Its size, holes included.
    size: u64,
}

impl Sent {
    /// Whether a VM has such a file; else it is somebody's attempt to write elsewhere.
    fn is_known(&self, carried: &Carried) -> bool {
        match self.place {
            Place::Disks => carried.disk.is_some_and(|disk| generation_of(&self.name) == Some(disk.generation)),
            Place::Private => match self.name.split_once('/') {
                None => KEPT.contains(&self.name.as_str()) || self.name == SAVED_MEMORY && carried.saved.is_some(),
                Some((dir, name)) => dir == TPM && is_plain(name),
            },
        }
    }
}

/// Letters, digits and `-._`, not hidden: what swtpm calls its files.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !name.is_empty() && !name.starts_with('.') && name.len() <= 64 && name.chars().all(plain)
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    carried: Carried,
    files: Vec<Sent>,
}

#[async_trait]
impl Handover for FileHandover {
    async fn give(&self, vm: VmId, carried: Carried, to: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<()> {
        let (this, found) = (self.clone(), carried.clone());
        let files = blocking(move || this.files(vm, &found)).await?;
        let mut writer = Writer { to, sum: Sha256::new() };
        let manifest = Manifest { carried, files: files.iter().map(|(sent, _)| sent.clone()).collect() };
        let manifest = serde_json::to_vec(&manifest).map_err(|e| Error::internal(format!("no manifest: {e}")))?;
        let length = u32::try_from(manifest.len()).map_err(|_| Error::internal("the manifest is too long"))?;
        writer.put(MAGIC).await?;
        writer.put(&length.to_le_bytes()).await?;
        writer.put(&manifest).await?;
        for (sent, file) in files {
            give_file(&mut writer, &sent, file).await?;
        }
        writer.finish().await
    }

    async fn take(&self, vm: VmId, from: &mut (dyn AsyncRead + Send + Unpin), progress: &Progress) -> Result<Carried> {
        let mut reader = Reader { from, sum: Sha256::new() };
        if &reader.get(MAGIC.len()).await?[..] != MAGIC {
            return Err(Error::unsupported(
                "the other node does not speak this node's form of handing over; upgrade the older of the two",
            ));
        }
        let length = u32::from_le_bytes(reader.array().await?);
        if length > MOST_MANIFEST {
            return Err(strange("its manifest is too long"));
        }
        let manifest = reader.get(length as usize).await?;
        let manifest: Manifest =
            serde_json::from_slice(&manifest).map_err(|e| strange(&format!("its manifest: {e}")))?;
        let Manifest { carried, files } = manifest;
        if files.len() > MOST_FILES || !files.iter().all(|file| file.is_known(&carried)) {
            return Err(strange("it has files that no VM has"));
        }
        self.clear(vm).await?;
        let whole = files.iter().map(|file| file.size).sum();
        let mut come = 0;
        for sent in &files {
            progress.at(come, whole);
            take_file(&mut reader, sent, self.path(vm, sent), &|at| progress.at(come + at, whole)).await?;
            come += sent.size;
        }
        reader.finish().await?;
        let paths: Vec<PathBuf> = files.iter().map(|sent| self.path(vm, sent)).collect();
        blocking(move || paths.iter().try_for_each(|path| settle(path))).await?;
        Ok(carried)
    }
}

fn strange(what: &str) -> Error {
    Error::invalid(format!("what the other node sent is not a VM: {what}"))
}

impl FileHandover {
    /// The VM's files that are there, opened.
    fn files(&self, vm: VmId, carried: &Carried) -> Result<Vec<(Sent, File)>> {
        let mut names: Vec<(Place, String)> = Vec::new();
        names.extend(list(&self.disks.join(vm.to_string()))?.into_iter().map(|name| (Place::Disks, name)));
        let private = self.vms.join(vm.to_string());
        names.extend(list(&private)?.into_iter().map(|name| (Place::Private, name)));
        let tpm = list(&private.join(TPM))?.into_iter().map(|name| (Place::Private, format!("{TPM}/{name}")));
        names.extend(tpm);
        let mut files = Vec::new();
        for (place, name) in names {
            let mut sent = Sent { place, name, size: 0 };
            if !sent.is_known(carried) {
                continue;
            }
            let path = self.path(vm, &sent);
            // swtpm runs as the VM's own user: a link of its making is not followed.
            let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
            let open = OpenOptions::new().read(true).custom_flags(flags).open(&path);
            let file = open.map_err(|e| io_error("open", &path, &e))?;
            let told = file.metadata().map_err(|e| io_error("look at", &path, &e))?;
            if told.is_file() {
                sent.size = told.len();
                files.push((sent, file));
            }
        }
        Ok(files)
    }

    /// Throws away what an earlier attempt left, and makes the directories anew. The record stays.
    async fn clear(&self, vm: VmId) -> Result<()> {
        let (disks, private) = (self.disks.join(vm.to_string()), self.vms.join(vm.to_string()));
        blocking(move || {
            remove_tree(&disks)?;
            make_private(&disks)?;
            make_private(&private)?;
            remove_tree(&private.join(TPM))?;
            for name in KEPT.into_iter().chain([SAVED_MEMORY]) {
                let path = private.join(name);
                match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &path, &e)),
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }
}

/// The names in a directory; none where there is none.
fn list(dir: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("list", dir, &e)),
    };
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// Sends a file's bytes, but for holes.
async fn give_file(writer: &mut Writer<'_>, sent: &Sent, file: File) -> Result<()> {
    let (mut at, mut file) = (0, file);
    while at < sent.size {
        let size = sent.size;
        let read = blocking(move || {
            let chunk = next_chunk(&file, at, size);
            Ok((chunk, file))
        });
        let (chunk, back) = read.await?;
        file = back;
        let chunk = chunk.map_err(|e| Error::internal(format!("cannot read {}: {e}", sent.name)))?;
        let Some((offset, bytes)) = chunk else { break };
        writer.put(&offset.to_le_bytes()).await?;
        writer.put(&u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes()).await?;
        writer.put(&bytes).await?;
        at = offset + bytes.len() as u64;
    }
    writer.put(&[0; 12]).await
}

/// The next bytes at or after an offset that are no hole.
fn next_chunk(file: &File, at: u64, size: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
    let data = match seek(file, SeekFrom::Data(at)) {
        Ok(data) => data,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        // A file system without holes.
        Err(rustix::io::Errno::INVAL) => at,
        Err(error) => return Err(error.into()),
    };
    let hole = seek(file, SeekFrom::Hole(data)).unwrap_or(size).min(size);
    let length = hole.saturating_sub(data).min(CHUNK as u64);
    if length == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(CHUNK)];
    file.read_exact_at(&mut bytes, data)?;
    Ok(Some((data, bytes)))
}

async fn take_file(
    reader: &mut Reader<'_>,
    sent: &Sent,
    path: PathBuf,
    come: &(dyn Fn(u64) + Send + Sync),
) -> Result<()> {
    let (shown, size) = (path.clone(), sent.size);
    let make = move || {
        if let Some(dir) = path.parent() {
            make_private(dir)?;
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.and_then(|file| file.set_len(size).map(|()| file));
        file.map_err(|e| io_error("make", &path, &e))
    };
    let mut file = blocking(make).await?;
    loop {
        let offset = u64::from_le_bytes(reader.array().await?);
        let length = u32::from_le_bytes(reader.array().await?);
        if length == 0 {
            return Ok(());
        }
        let within = offset.checked_add(u64::from(length)).is_some_and(|end| end <= size);
        if !within || length as usize > CHUNK {
            return Err(strange("a file is longer than was told"));
        }
        let bytes = reader.get(length as usize).await?;
        let path = shown.clone();
        let write = move || match file.write_all_at(&bytes, offset) {
            Ok(()) => Ok(file),
            Err(e) => Err(io_error("write", &path, &e)),
        };
        file = blocking(write).await?;
        come(offset + u64::from(length));
    }
}

/// A file and its name survive a power cut.
fn settle(path: &Path) -> Result<()> {
    let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all()).map_err(|e| io_error("sync", path, &e));
    sync(path)?;
    path.parent().map_or(Ok(()), sync)
}

/// The stream, summed as it is written.
struct Writer<'a> {
    to: &'a mut (dyn AsyncWrite + Send + Unpin),
    sum: Sha256,
}

impl Writer<'_> {
    async fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.update(bytes);
        self.to.write_all(bytes).await.map_err(|e| gone(&e))
    }

    async fn finish(self) -> Result<()> {
        let Self { to, sum } = self;
        to.write_all(&sum.finalize()).await.map_err(|e| gone(&e))?;
        to.shutdown().await.map_err(|e| gone(&e))
    }
}

/// The stream, summed as it is read.
struct Reader<'a> {
    from: &'a mut (dyn AsyncRead + Send + Unpin),
    sum: Sha256,
}

impl Reader<'_> {
    async fn get(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes).await?;
        self.sum.update(&bytes);
        Ok(bytes)
    }

    async fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes).await?;
        self.sum.update(bytes);
        Ok(bytes)
    }

    async fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        let silent = || Error::unavailable(format!("the other node sent nothing for {} s", SILENT_AT_MOST.as_secs()));
        let read = timeout(SILENT_AT_MOST, self.from.read_exact(bytes)).await;
        read.map_err(|_| silent())?.map(drop).map_err(|e| gone(&e))
    }

    async fn finish(mut self) -> Result<()> {
        let mut told = [0; 32];
        self.fill(&mut told).await?;
        if told[..] == self.sum.finalize()[..] {
            return Ok(());
        }
        Err(Error::unavailable("what the other node sent is not what it read"))
    }
}

fn gone(error: &io::Error) -> Error {
    Error::unavailable(format!("the stream from node to node broke: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "handover_tests.rs"]
mod tests;
