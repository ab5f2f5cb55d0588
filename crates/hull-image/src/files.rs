//! Small helpers on files: errors that name the path and the act, free space, random access for parsers.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use hull_types::{
    error::{Error, Result},
    units::Bytes,
};

/// An I/O error as the border tells it. A full disk is its own kind, because there is something to do about it.
pub(crate) fn io_error(act: &str, path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let free = free_space(path.parent().unwrap_or(path)).unwrap_or(0);
            Error::insufficient(format!(
                "cannot {act} {}: the file system is full ({} free); free some space or move the data directory",
                path.display(),
                Bytes(free)
            ))
        }
        io::ErrorKind::NotFound => Error::not_found(format!("cannot {act} {}: no such file", path.display())),
        _ => Error::internal(format!("cannot {act} {}: {error}", path.display())),
    }
}

/// Bytes that unprivileged processes may still write on the file system that holds `path`.
pub(crate) fn free_space(path: &Path) -> io::Result<u64> {
    let fs = rustix::fs::statvfs(path)?;
    Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
}

/// Refuses work that would leave less than `keep_free` on the file system of `dir`.
pub(crate) fn require_space(dir: &Path, need: u64, keep_free: Bytes) -> Result<()> {
    let free = free_space(dir).map_err(|e| io_error("ask for the free space of", dir, &e))?;
    if need.saturating_add(keep_free.0) <= free {
        return Ok(());
    }
    Err(Error::insufficient(format!(
        "not enough space in {}: need {} and {} kept free, but only {} is free; free some space or move the data directory",
        dir.display(),
        Bytes(need),
        keep_free,
        Bytes(free)
    )))
}

/// Makes a rename or unlink in `dir` survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io_error("sync", dir, &e))
}

/// Random access to bytes, so that parsers read only what they ask for and tests can hand them a slice.
pub(crate) trait ReadAt {
    /// How many bytes there are.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`; false where that reaches past the end.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool>;

    /// Up to `len` bytes from `offset`, fewer at the end. `len` is the caller's own bound, never the image's word.
    fn read_some(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let left = self.size().saturating_sub(offset);
        let mut buf = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(len)];
        let complete = self.read_exact_at(&mut buf, offset)?;
        if !complete {
            buf.clear();
        }
        Ok(buf)
    }
}

impl ReadAt for File {
    fn size(&self) -> u64 {
        self.metadata().map_or(0, |m| m.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        match FileExt::read_exact_at(self, buf, offset) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        let from = usize::try_from(offset).ok();
        let slice = from.and_then(|from| self.get(from..from.checked_add(buf.len())?));
        if let Some(slice) = slice {
            buf.copy_from_slice(slice);
        }
        Ok(slice.is_some())
    }
}
