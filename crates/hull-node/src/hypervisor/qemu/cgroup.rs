//! Control groups of a VM: `hull/<vm>` in every hierarchy the host has, version 1, version 2, or both at once.
//!
//! Limits: CPU time (the VM's CPUs and one more for emulation), memory (the guest's and an allowance; swap counts, or has
//! the same limit), processes, and for each disk the VM's files lie on, bytes and operations a second. Version 1 counts
//! disk I/O where it is handed to the disk: writes that stay in the page cache until the kernel writes them back are
//! nobody's there. What the host has no controller for is said ([`Cgroups::lacking`]).

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
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

    /// How many processes and threads there may be.
    pub(super) fn processes(self) -> u64 {
        OTHER_THREADS + u64::from(self.max_vcpus)
    }

    /// Files to write and whether a refusal matters.
    fn files(self, controller: &str, v2: bool) -> Vec<(&'static str, String, bool)> {
        let cpus = u64::from(self.vcpus);
        let quota = (cpus + 1) * PERIOD_US;
        let memory = self.memory.0.to_string();
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
            ("memory", true) => vec![
                ("memory.max", memory.clone(), true),
                // Not there where the host has no swap, or does not count it.
                ("memory.swap.max", memory, false),
                // All of the VM's processes or none: half a machine is of no use.
                ("memory.oom.group", "1".to_owned(), false),
            ],
            // Memory and swap together may not be less than memory alone: first for growing, last for a new group.
            ("memory", false) => vec![
                ("memory.memsw.limit_in_bytes", memory.clone(), false),
                ("memory.limit_in_bytes", memory.clone(), true),
                ("memory.memsw.limit_in_bytes", memory, false),
            ],
            ("pids", _) => vec![("pids.max", self.processes().to_string(), true)],
            // Weights need a scheduler that knows them, which not every disk has.
            ("io", _) => vec![("io.weight", "default 100".to_owned(), false)],
            ("blkio", _) => vec![("blkio.bfq.weight", "100".to_owned(), false)],
            _ => vec![],
        }
    }
}

/// How hard the processes of one VM may press one disk of the host. The default is more than a SATA disk gives and less
/// than a fast NVMe: enough for a guest, not enough to keep the host from its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoLimit {
    /// Bytes a second, read and written each.
    pub bytes: u64,
    /// Operations a second, read and written each.
    pub operations: u64,
}

impl Default for IoLimit {
    fn default() -> Self {
        Self { bytes: 1 << 30, operations: 100_000 }
    }
}

impl IoLimit {
    /// Files to write for one disk, by its number `MAJOR:MINOR`.
    fn files(self, disk: &str, v2: bool) -> Vec<(&'static str, String)> {
        let Self { bytes, operations } = self;
        if v2 {
            return vec![("io.max", format!("{disk} rbps={bytes} wbps={bytes} riops={operations} wiops={operations}"))];
        }
        vec![
            ("blkio.throttle.read_bps_device", format!("{disk} {bytes}")),
            ("blkio.throttle.write_bps_device", format!("{disk} {bytes}")),
            ("blkio.throttle.read_iops_device", format!("{disk} {operations}")),
            ("blkio.throttle.write_iops_device", format!("{disk} {operations}")),
        ]
    }
}

/// `cpuacct` limits nothing; it counts what `cpu` limits.
const CONTROLLERS: &[&str] = &["cpu", "cpuacct", "memory", "pids", "io", "blkio"];

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

    /// Limits how hard the VM presses the disks that these files lie on. Files without a disk of this host (NFS, tmpfs,
    /// overlays) have none to press.
    pub(super) fn limit_io(&self, vm: VmId, limit: IoLimit, files: &[&Path]) -> Result<()> {
        let disks: BTreeSet<String> = files.iter().filter_map(|file| disk_of(file)).collect();
        let io = |h: &&Hierarchy| h.controllers.iter().any(|name| name == "io" || name == "blkio");
        for hierarchy in self.hierarchies.iter().filter(io) {
            for (name, value) in disks.iter().flat_map(|disk| limit.files(disk, hierarchy.v2)) {
                let path = hierarchy.group(vm).join(name);
                // A kernel without throttling has no such file; `lacking` tells of it.
                if path.exists() {
                    write(&path, &value).map_err(|error| {
                        let what = format!("{} ({value})", path.display());
                        Error::internal(format!("cannot limit {vm:?} by control groups: {what}: {error}"))
                    })?;
                }
            }
        }
        Ok(())
    }

    /// What cannot be limited on this host, in words for its operator.
    pub(super) fn lacking(&self) -> Vec<String> {
        let has = |names: &[&str]| {
            self.hierarchies.iter().any(|h| h.controllers.iter().any(|name| names.contains(&name.as_str())))
        };
        let wanted: [(&[&str], &str); 4] = [
            (&["cpu"], "limits on CPU time (control group controller cpu)"),
            (&["memory"], "limits on memory (control group controller memory)"),
            (&["pids"], "limits on processes (control group controller pids)"),
            (&["io", "blkio"], "limits on disk I/O (control group controller io)"),
        ];
        wanted.iter().filter(|(names, _)| !has(names)).map(|(_, words)| (*words).to_owned()).collect()
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

/// The number of the disk a file lies on: of the whole disk where it is a partition's, for only that can be limited.
fn disk_of(file: &Path) -> Option<String> {
    let dev = std::fs::metadata(file).ok()?.dev();
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let device = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let disk = if device.join("partition").exists() { device.parent()?.to_owned() } else { device };
    Some(std::fs::read_to_string(disk.join("dev")).ok()?.trim().to_owned())
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
    fn disks_are_limited_by_bytes_and_operations_in_both_versions() {
        let limit = IoLimit { bytes: 1000, operations: 10 };
        assert_eq!(limit.files("8:0", true), [("io.max", "8:0 rbps=1000 wbps=1000 riops=10 wiops=10".to_owned())]);
        let one = limit.files("8:0", false);
        assert_eq!(one.len(), 4);
        assert!(one.contains(&("blkio.throttle.write_bps_device", "8:0 1000".to_owned())));
    }

    #[test]
    fn what_cannot_be_limited_is_named() {
        let hierarchy = |names: &[&str]| Hierarchy {
            root: "/sys/fs/cgroup".into(),
            v2: true,
            controllers: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let whole = Cgroups { hierarchies: vec![hierarchy(&["cpu", "memory", "pids", "io"])] };
        assert!(whole.lacking().is_empty());
        let split = Cgroups { hierarchies: vec![hierarchy(&["cpu", "memory"]), hierarchy(&["blkio"])] };
        assert_eq!(split.lacking(), ["limits on processes (control group controller pids)"]);
        assert_eq!(Cgroups { hierarchies: vec![] }.lacking().len(), 4);
    }

    #[test]
    fn counts_out_of_memory_kills_in_both_versions() {
        assert_eq!(counter("low 0\noom 3\noom_kill 2\n", "oom_kill"), 2);
        assert_eq!(counter("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "oom_kill"), 1);
    }
}
