//! What a process holds, by the kernel's books (`proc_pid_smaps(5)`).
//!
//! ```text
//!   resident = guest memory            left out: it is what was sold
//!            + program                 QEMU's file and its libraries, as they are on disk: page cache, one copy for all VMs
//!            + translated              TCG's translations of guest code; none under KVM
//!            + own                     the rest: device models, tables, copies of kernel and firmware
//! ```

use anyhow::Context;

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Translated,
    Own,
}

impl Kind {
    /// By a mapping's first line: addresses, rights, offset, device, inode, path.
    fn of_mapping(line: &str) -> Option<Self> {
        let [addresses, rights, _, _, inode, path @ ..] = &line.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        if !addresses.contains('-') || rights.len() != 4 {
            return None;
        }
        Some(match (*rights, *inode, path.first()) {
            // Both writable and executable, and of no file.
            ("rwxp", "0", _) => Self::Translated,
            (_, _, Some(path)) if path.starts_with('/') && !path.starts_with("/memfd:") => Self::File,
            _ => Self::Own,
        })
    }
}

/// Sums over some mappings, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    resident: u64,
    proportional: u64,
    private: u64,
    program: u64,
    translated: u64,
}

impl Memory {
    /// All of a process.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = std::fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
        let mut sum = Self::default();
        text.lines().for_each(|line| sum.add(line));
        Ok(sum)
    }

    /// All of a process but its guest's memory: the mappings exactly that large.
    pub(crate) fn beside_guest(pid: u32, guest_kib: u64) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/smaps");
        let text = std::fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
        let (mut sum, mut kind, mut skipping, mut skipped) = (Self::default(), Kind::Own, false, 0);
        for line in text.lines() {
            if let Some(found) = Kind::of_mapping(line) {
                kind = found;
            }
            if let Some(size) = field(line, "Size:") {
                skipping = size == guest_kib;
                skipped += u32::from(skipping);
            }
            if !skipping {
                sum.add(line);
                sum.add_kind(kind, line);
            }
        }
        anyhow::ensure!(skipped > 0, "process {pid} maps no guest memory of {guest_kib} KiB");
        Ok(sum)
    }

    fn add(&mut self, line: &str) {
        self.resident += field(line, "Rss:").unwrap_or(0);
        self.proportional += field(line, "Pss:").unwrap_or(0);
        self.private += field(line, "Private_Clean:").or_else(|| field(line, "Private_Dirty:")).unwrap_or(0);
    }

    /// A page of a file is the file's until it is written to; then it is a copy, and private.
    fn add_kind(&mut self, kind: Kind, line: &str) {
        match kind {
            Kind::File => {
                let parts = ["Shared_Clean:", "Shared_Dirty:", "Private_Clean:"];
                self.program += parts.iter().find_map(|part| field(line, part)).unwrap_or(0);
            }
            Kind::Translated => self.translated += field(line, "Rss:").unwrap_or(0),
            Kind::Own => {}
        }
    }

    pub(crate) fn resident_mib(self) -> f64 {
        self.resident as f64 / 1024.0
    }

    pub(crate) fn proportional_mib(self) -> f64 {
        self.proportional as f64 / 1024.0
    }

    /// Shared with no other process.
    pub(crate) fn private_mib(self) -> f64 {
        self.private as f64 / 1024.0
    }

    /// Unwritten pages of files: the program and its libraries. The host holds them once, whoever maps them.
    pub(crate) fn program_mib(self) -> f64 {
        self.program as f64 / 1024.0
    }

    /// The emulator's translations of guest code. None under KVM.
    pub(crate) fn translated_mib(self) -> f64 {
        self.translated as f64 / 1024.0
    }
}

fn field(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok()
}
