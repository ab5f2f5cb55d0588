//! Control groups of a VM: `hull/<vm>` in every hierarchy the host has, version 1, version 2, or both at once.
//!
//! Limits: CPU time (the VM's CPUs and one more for emulation), memory (the guest's and an allowance), processes, and a
//! plain weight for disk I/O where the host has one.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use hull_types::{
    error::{Error, Result},
    id::VmId,
    units::Bytes,
    vm::Accel,
};

/// QEMU's own memory beyond the guest's: code, caches, device models, VNC, swtpm; under TCG also translated code.
const OVERHEAD_KVM: Bytes = Bytes::mib(256);
const OVERHEAD_TCG: Bytes = Bytes::mib(512);
/// Threads beside the virtual CPUs': disk workers (64 a pool), VNC, migration, swtpm.
const OTHER_THREADS: u64 = 256;
const PERIOD_US: u64 = 100_000;

/// What a VM's processes may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub vcpus: u16,
    pub memory: Bytes,
    pub max_vcpus: u16,
}

impl Limits {
    /// Limits of a machine of this size.
    pub(super) fn new(vcpus: u16, max_vcpus: u16, memory: Bytes, accel: Accel) -> Self {
        let overhead = if accel == Accel::Kvm { OVERHEAD_KVM } else { OVERHEAD_TCG };
        // Page tables and bitmaps grow with the guest: a 64th covers them.
        Self { vcpus, max_vcpus, memory: Bytes(memory.0.saturating_add(memory.0 / 64 + overhead.0)) }
    }

    /// Files to write and whether a refusal matters.
    fn files(self, controller: &str, v2: bool) -> Vec<(&'static str, String, bool)> {
        let cpus = u64::from(self.vcpus);
        let quota = (cpus + 1) * PERIOD_US;
        let pids = (OTHER_THREADS + u64::from(self.max_vcpus)).to_string();
        match (controller, v2) {
            ("cpu", true) => vec![
                ("cpu.max", format!("{quota} {PERIOD_US}"), true),
                ("cpu.weight", (cpus * 100).min(10_000).to_string(), true),
            ],
            ("cpu", false) => vec![
                ("cpu.cfs_period_us", PERIOD_US.to_string(), true),
                ("cpu.cfs_quota_us", quota.to_string(), true),
                ("cpu.shares", (cpus * 1024).min(262_144).to_string(), true),
            ],
            ("memory", true) => vec![("memory.max", self.memory.0.to_string(), true)],
            ("memory", false) => vec![("memory.limit_in_bytes", self.memory.0.to_string(), true)],
            ("pids", _) => vec![("pids.max", pids, true)],
            // Weights need a scheduler that knows them, which not every disk has.
            ("io", _) => vec![("io.weight", "default 100".to_owned(), false)],
            ("blkio", _) => vec![("blkio.bfq.weight", "100".to_owned(), false)],
            _ => vec![],
        }
    }
}

const CONTROLLERS: &[&str] = &["cpu", "memory", "pids", "io", "blkio"];

/// A mounted hierarchy with controllers we use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    v2: bool,
    controllers: Vec<String>,
}

/// The host's hierarchies.
#[derive(Clone, Debug)]
pub(super) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    /// What is mounted here. A host without any gets no limits, and a warning.
    pub(super) fn detect() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut hierarchies = parse_mounts(&mounts);
        for hierarchy in hierarchies.iter_mut().filter(|hierarchy| hierarchy.v2) {
            let available = std::fs::read_to_string(hierarchy.root.join("cgroup.controllers")).unwrap_or_default();
            hierarchy.controllers = known(available.split_whitespace());
        }
        hierarchies.retain(|hierarchy| !hierarchy.controllers.is_empty());
        if hierarchies.is_empty() {
            tracing::warn!("this host has no control groups: VMs run without limits on CPU, memory and processes");
        }
        Self { hierarchies }
    }

    /// Makes the VM's groups with these limits, or changes the limits of those there are.
    pub(super) fn apply(&self, vm: VmId, limits: Limits) -> Result<()> {
        self.hierarchies.iter().try_for_each(|hierarchy| hierarchy.apply(vm, limits)).map_err(|(path, error)| {
            Error::internal(format!("cannot limit {vm:?} by control groups: {}: {error}", path.display()))
        })
    }

    /// Open `cgroup.procs` files, one a hierarchy: a process that writes `0` joins.
    pub(super) fn doors(&self, vm: VmId) -> io::Result<Vec<File>> {
        let open = |h: &Hierarchy| OpenOptions::new().write(true).open(h.group(vm).join("cgroup.procs"));
        self.hierarchies.iter().map(open).collect()
    }

    /// How often the kernel killed one of its processes for memory.
    pub(super) fn oom_kills(&self, vm: VmId) -> u64 {
        let file = |h: &Hierarchy| h.group(vm).join(if h.v2 { "memory.events" } else { "memory.oom_control" });
        let memory = self.hierarchies.iter().filter(|h| h.controllers.iter().any(|c| c == "memory"));
        memory.filter_map(|h| std::fs::read_to_string(file(h)).ok()).map(|text| counter(&text, "oom_kill")).sum()
    }

    /// Removes the VM's groups; they must be empty.
    pub(super) fn remove(&self, vm: VmId) -> io::Result<()> {
        self.hierarchies.iter().try_for_each(|hierarchy| match std::fs::remove_dir(hierarchy.group(vm)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        })
    }
}

impl Hierarchy {
    fn group(&self, vm: VmId) -> PathBuf {
        self.root.join("hull").join(vm.to_string())
    }

    fn apply(&self, vm: VmId, limits: Limits) -> Result<(), (PathBuf, io::Error)> {
        let group = self.group(vm);
        let hull = self.root.join("hull");
        std::fs::create_dir_all(&hull).map_err(|error| (hull.clone(), error))?;
        if self.v2 {
            for parent in [&self.root, &hull] {
                for controller in &self.controllers {
                    // One that cannot be switched on (io without a scheduler) shows below if it matters.
                    let _ = write(&parent.join("cgroup.subtree_control"), &format!("+{controller}"));
                }
            }
        }
        std::fs::create_dir_all(&group).map_err(|error| (group.clone(), error))?;
        let files = self.controllers.iter().flat_map(|controller| limits.files(controller, self.v2));
        for (name, value, needed) in files {
            let path = group.join(name);
            match write(&path, &value) {
                Err(error) if needed => return Err((path, error)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Control files are written whole, and never made: in a plain directory that must fail.
fn write(path: &Path, value: &str) -> io::Result<()> {
    io::Write::write_all(&mut OpenOptions::new().write(true).open(path)?, value.as_bytes())
}

/// Reads `/proc/self/mountinfo`: mount point in field 5, after ` - ` the type and, at the end, the options.
fn parse_mounts(text: &str) -> Vec<Hierarchy> {
    let parse = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let root = PathBuf::from(mount.split(' ').nth(4)?);
        let options = kind.rsplit(' ').next()?;
        match kind.split(' ').next()? {
            "cgroup2" => Some(Hierarchy { root, v2: true, controllers: Vec::new() }),
            "cgroup" => Some(Hierarchy { root, v2: false, controllers: known(options.split(',')) }),
            _ => None,
        }
    };
    let mut seen: Vec<Hierarchy> = Vec::new();
    for hierarchy in text.lines().filter_map(parse) {
        // The same hierarchy mounted twice is one; so are the two names of one version 1 mount.
        let again = |other: &Hierarchy| other.v2 == hierarchy.v2 && other.controllers == hierarchy.controllers;
        if !seen.iter().any(again) {
            seen.push(hierarchy);
        }
    }
    seen
}

fn known<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.filter(|name| CONTROLLERS.contains(name)).map(str::to_owned).collect()
}

fn counter(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok();
    text.lines().find_map(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_both_versions_at_once() {
        let mounts = "\
25 1 0:23 / /sys/fs/cgroup rw - tmpfs tmpfs rw
26 25 0:24 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
27 25 0:25 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
28 25 0:26 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
29 25 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";
        let found = parse_mounts(mounts);
        let named: Vec<_> = found.iter().map(|h| (h.root.to_str().unwrap_or(""), h.v2, h.controllers.len())).collect();
        assert_eq!(
            named,
            [
                ("/sys/fs/cgroup/cpu", false, 1),
                ("/sys/fs/cgroup/memory", false, 1),
                ("/sys/fs/cgroup/systemd", false, 0),
                ("/sys/fs/cgroup/unified", true, 0)
            ]
        );
    }

    #[test]
    fn limits_leave_room_for_emulation() {
        let limits = Limits::new(2, 8, Bytes::mib(512), Accel::Kvm);
        assert_eq!(limits.memory, Bytes::mib(512 + 8 + 256));
        assert_eq!(limits.files("cpu", true)[0], ("cpu.max", "300000 100000".to_owned(), true));
        assert_eq!(limits.files("pids", false)[0].1, "264");
    }

    #[test]
    fn counts_out_of_memory_kills_in_both_versions() {
        assert_eq!(counter("low 0\noom 3\noom_kill 2\n", "oom_kill"), 2);
        assert_eq!(counter("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "oom_kill"), 1);
    }
}
