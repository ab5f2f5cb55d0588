//! Logs that others write and nobody may fill the disk with: the console's and QEMU's own.
//!
//! QEMU holds the file open for appending, also while Hull is down, so there is no gap. Hull frees the blocks of all
//! but the newest [`KEEP`] bytes by punching a hole at the front: the writer's end of the file never moves, so nothing
//! is lost or written twice. Between two processes, when nobody writes, the file is made small again.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::{fs::FallocateFlags, io::Errno};

/// Bytes kept for readers.
pub(super) const KEEP: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// Opens the log for a new process to append to. Nobody else may be writing.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let old = tail(path, usize::try_from(KEEP).unwrap_or(usize::MAX))?;
    if std::fs::metadata(path).is_ok_and(|log| log.len() > KEEP) {
        // Its front is a hole; the size would grow for ever.
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, old)?;
        std::fs::rename(&temporary, path)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Frees what is too old, while others may be writing.
pub(super) fn trim(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let log = file.metadata()?;
    // Blocks, of 512 bytes by definition, tell what is really held.
    if log.blocks() * 512 <= 2 * KEEP || log.len() <= KEEP {
        return Ok(());
    }
    let front = (log.len() - KEEP) / BLOCK * BLOCK;
    match rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, front) {
        Ok(()) => Ok(()),
        // A file system without holes: the disk matters more than the log. Appending goes on at the new end.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(0),
        Err(error) => Err(error.into()),
    }
}

/// The newest bytes, at most `most` and never more than [`KEEP`].
pub(super) fn tail(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let wanted = u64::try_from(most).unwrap_or(KEEP).min(KEEP);
    file.seek(SeekFrom::Start(file.metadata()?.len().saturating_sub(wanted)))?;
    let mut bytes = Vec::new();
    file.take(wanted).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last lines, for an error's sentence.
pub(super) fn last_lines(path: &Path, count: usize) -> String {
    let bytes = tail(path, 4096).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("; ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_flood_leaves_the_newest_and_little_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = open(&path).unwrap();
        for round in 0..40_u32 {
            writer.write_all(&vec![b'a' + u8::try_from(round % 26).unwrap(); 256 << 10]).unwrap();
            trim(&path).unwrap();
            assert!(std::fs::metadata(&path).unwrap().blocks() * 512 <= 3 * KEEP);
        }
        writer.write_all(b"the end").unwrap();
        assert_eq!(tail(&path, 7).unwrap(), b"the end");
        let kept = tail(&path, usize::MAX).unwrap();
        assert_eq!(kept.len(), usize::try_from(KEEP).unwrap());
        assert!(!kept.contains(&0), "no hole is read");
        drop(writer);
        let mut again = open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), KEEP);
        again.write_all(b", and on").unwrap();
        assert_eq!(tail(&path, 15).unwrap(), b"the end, and on");
    }

    #[test]
    fn the_last_lines_make_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "one\n\ntwo\nthree\n").unwrap();
        assert_eq!(last_lines(&path, 2), "two; three");
        assert_eq!(last_lines(&dir.path().join("none"), 2), "");
    }
}
