//! What a process holds, by the kernel's books (`proc_pid_smaps(5)`).

use anyhow::Context;

/// Sums over some mappings, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    resident: u64,
    proportional: u64,
    private: u64,
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
        let (mut sum, mut skipping, mut skipped, mut code) = (Self::default(), false, 0, false);
        for line in text.lines() {
            // A mapping's first line: addresses, rights, offset, device, inode, path.
            if let [_, rights, _, _, inode, ..] = line.split_whitespace().collect::<Vec<_>>()[..] {
                code = rights == "rwxp" && inode == "0";
            }
            if code {
                sum.translated += field(line, "Rss:").unwrap_or(0);
            }
            if let Some(size) = field(line, "Size:") {
                skipping = size == guest_kib;
                skipped += u32::from(skipping);
            }
            if !skipping {
                sum.add(line);
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

    /// The emulator's translations of guest code: memory both writable and executable. None under KVM.
    pub(crate) fn translated_mib(self) -> f64 {
        self.translated as f64 / 1024.0
    }
}

fn field(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok()
}
