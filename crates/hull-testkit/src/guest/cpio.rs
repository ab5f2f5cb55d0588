//! A writer of `newc` cpio archives, the form in which the Linux kernel takes its initial file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Everything belongs to root and is dated zero,
//! so the same inputs give the same bytes.

use std::collections::BTreeSet;
use std::path::Path;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written. Paths are absolute; parents appear by themselves.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Archive {
    /// A directory with the given permissions.
    pub(crate) fn directory(&mut self, path: &str, permissions: u32) {
        self.parents(path);
        if self.directories.insert(path.to_owned()) {
            self.entry(path, DIRECTORY | permissions, (0, 0), &[]);
        }
    }

    /// A regular file.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.parents(path);
        self.entry(path, FILE | permissions, (0, 0), content);
        self.files.insert(path.to_owned());
    }

    /// Whether this regular file is in it already.
    pub(crate) fn holds(&self, path: &str) -> bool {
        self.files.contains(path)
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// A character device; the kernel opens `/dev/console` before anything could make it.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.parents(path);
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// Closes the archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("/TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        let Some(parent) = Path::new(path).parent().and_then(Path::to_str) else { return };
        if parent != "/" && !self.directories.contains(parent) {
            self.directory(parent, 0o755);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let name = path.trim_start_matches('/');
        let fields = [
            self.entries,                                      // inode
            mode,                                              //
            0,                                                 // uid
            0,                                                 // gid
            1,                                                 // links
            0,                                                 // mtime
            content.len() as u32,                              // size: our files are far below 4 GiB
            0,                                                 // device major
            0,                                                 // device minor
            device.0,                                          //
            device.1,                                          //
            u32::try_from(name.len() + 1).unwrap_or(u32::MAX), // with its NUL
            0,                                                 // checksum, unused in this form
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn parents_are_written_once_and_before_their_children() {
        let mut archive = Archive::default();
        archive.file("/etc/a", 0o644, b"one");
        archive.file("/etc/b", 0o644, b"two");
        let text = String::from_utf8_lossy(&archive.finish()).into_owned();
        assert_eq!(text.matches("etc\0").count(), 1);
        assert!(text.find("etc\0") < text.find("etc/a\0"));
        assert_eq!(text.len() % 4, 0);
    }
}
