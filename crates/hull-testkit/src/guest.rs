//! The tiny guest: Debian's cloud kernel and an initial file system of busybox, dropbear and a few shell scripts
//! (`guest/` beside this crate). It is a real Linux that boots in about two seconds under TCG, brings its network
//! up, reads its metadata, answers on the serial line and over ssh, and obeys the power button.
//!
//! ```text
//!  kernel ──► /init ──► modules ──► DHCP, SLAAC ──► metadata (NoCloud disk, EC2, OpenStack) ──► dropbear
//!                                                      │
//!   console:  HULL-GUEST-DHCP … HULL-GUEST-METADATA … HULL-GUEST-READY ip=… cpus=… mem_kb=…  then a root shell
//! ```
//!
//! Lines on the console that tests wait for:
//!
//! | line | means |
//! |---|---|
//! | `HULL-GUEST-DHCP eth0 ip=A/B router=R dns=D mtu=M` | a lease was taken |
//! | `HULL-GUEST-DHCP6 eth0 ip=A dns=D` | a lease was taken over IPv6, where that is wanted |
//! | `HULL-GUEST-METADATA source=nocloud\|network\|network6 host=H ec2=I openstack=U keys=N` | metadata was read, N keys installed |
//! | `HULL-GUEST-READY ip=A cpus=N mem_kb=K kernel=V uptime=S` | user space is up; a shell follows |
//! | `HULL-GUEST-BUTTON [ignored]` | the power button was heard |
//! | `HULL-GUEST-DISK + vdb` / `- vdb` | a disk came or went |
//!
//! User data that starts with `#!` is run as root once. Log in over ssh as root (debian and hull are the same).
//! The knobs on the kernel command line are listed at the head of `guest/init`.
//!
//! ## What was found out about machines (QEMU 7.2, TCG, kernel 6.1)
//! - `q35`: everything works, CPU, memory and PCIe hotplug included; power button by ACPI.
//! - `microvm`: Debian's kernels (cloud and generic) are built without `VIRTIO_MMIO_CMDLINE_DEVICES`, and the cloud
//!   kernel without `X86_MPPARSE`: with `acpi=off` there are **no virtio devices and one CPU**. They need
//!   `-M microvm,acpi=on` and, against the hang in clock calibration, the words of [`MICRO_CLOCK`].
//! - The cloud kernel has no AHCI driver: a NoCloud seed must be a virtio disk. It has no `vmgenid` driver either.

mod cpio;
mod disk;
pub(crate) mod packages;

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use cpio::Archive;
use packages::{Modules, libraries, resolve_meta_package, run, unpack};

/// Kernel words without which microvm with ACPI hangs in clock calibration in a fifth of all boots under TCG.
pub const MICRO_CLOCK: &str = "tsc_early_khz=2000000 lpj=4000000";

/// What the tiny guest prints when its user space is up.
pub const READY: &str = "HULL-GUEST-READY";

const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// Loaded at boot, with all they need.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_mmio",
    "virtio_net",
    "virtio_blk",
    "virtio_scsi",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "virtio_mem",
    "qemu_fw_cfg",
    "evdev",
    "button",
    "isofs",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_utf8",
    "sd_mod",
    "sr_mod",
    "pvpanic_pci",
];

/// Carried for `modprobe` to find.
const EXTRA_MODULES: &[&str] = &["dummy"];

const SCRIPTS: &[(&str, &str)] = &[
    ("/init", include_str!("../guest/init")),
    ("/etc/hotplug", include_str!("../guest/hotplug")),
    ("/etc/udhcpc", include_str!("../guest/udhcpc")),
    ("/etc/dhcp6", include_str!("../guest/dhcp6")),
    ("/etc/metadata", include_str!("../guest/metadata")),
    ("/etc/power", include_str!("../guest/power")),
    // busybox acpid runs what lies here when the power key is pressed.
    ("/etc/acpi/PWRF/00000080", "#!/bin/sh\nexec /etc/power\n"),
    ("/usr/bin/sudo", include_str!("../guest/sudo")),
];

/// Programs of our own: their names and sources in C.
const PROGRAMS: &[(&str, &str)] =
    &[("debug-exit", include_str!("../guest/debug-exit.c")), ("frames", include_str!("../guest/frames.c"))];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndebian:x:0:0:root:/root:/bin/sh\nhull:x:0:0:root:/root:/bin/sh\n";

/// A built guest: two files to hand to QEMU's `-kernel` and `-initrd`.
#[derive(Clone, Debug)]
pub struct TinyGuest {
    /// The bzImage.
    pub kernel: PathBuf,
    /// The initial file system, not compressed: unpacking costs more than loading it.
    pub initrd: PathBuf,
}

impl TinyGuest {
    /// The plain guest, built at the first call on this machine and cached below `target/testkit`.
    ///
    /// # Errors
    /// Says which program or package is missing.
    pub fn get() -> anyhow::Result<Self> {
        Self::cached(false)
    }

    /// The guest with Debian's own `qemu-ga`, which serves the port `org.qemu.guest_agent.0` when the machine has it.
    ///
    /// # Errors
    /// Says which program or package is missing.
    pub fn with_agent() -> anyhow::Result<Self> {
        Self::cached(true)
    }

    /// Kernel words for a q35 machine.
    pub fn pc_cmdline() -> String {
        "console=ttyS0 panic=-1 quiet".to_owned()
    }

    /// Kernel words for a microvm machine (with ACPI; see the module's head).
    pub fn micro_cmdline() -> String {
        format!("console=ttyS0 reboot=t panic=-1 quiet {MICRO_CLOCK}")
    }

    /// This guest as a raw disk of 62 MiB that boots through BIOS and UEFI, with `extra` words on its kernel's
    /// command line; cached like the guest. Copy it before a machine writes to it.
    ///
    /// # Errors
    /// Says which program is missing.
    pub fn disk(&self, extra: &str) -> anyhow::Result<PathBuf> {
        let cmdline = format!("{} {extra}", Self::pc_cmdline());
        let mut hasher = DefaultHasher::new();
        (&self.initrd, &cmdline, include_str!("guest/disk.rs")).hash(&mut hasher);
        let cache = cache_dir()?;
        let disk = cache.join(format!("disk-{:016x}.raw", hasher.finish()));
        let _lock = lock(&cache)?;
        if !disk.exists() {
            let work = tempfile::tempdir_in(&cache)?;
            let unfinished = work.path().join("disk.raw");
            disk::build(self, &cmdline, work.path(), &unfinished).context("cannot build the tiny guest's disk")?;
            std::fs::rename(unfinished, &disk)?;
        }
        Ok(disk)
    }

    fn cached(agent: bool) -> anyhow::Result<Self> {
        let cache = cache_dir()?;
        let _lock = lock(&cache)?;
        let directory = cache.join(format!("guest-{:016x}", recipe_hash(agent)));
        let guest = Self { kernel: directory.join("vmlinuz"), initrd: directory.join("initrd.cpio") };
        if !directory.exists() {
            let building = tempfile::tempdir_in(&cache)?;
            build(agent, &cache, building.path()).context("cannot build the tiny guest")?;
            std::fs::rename(building.keep(), &directory)?;
        }
        Ok(guest)
    }
}

/// Tests run in parallel processes: the first builds, the others wait for the lock and find it built.
fn lock(cache: &Path) -> anyhow::Result<File> {
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// Where built guests and unpacked packages are kept: `$HULL_TESTKIT_CACHE`, else `target/testkit`.
///
/// # Errors
/// When the directory cannot be made.
pub fn cache_dir() -> anyhow::Result<PathBuf> {
    let path = match (std::env::var_os("HULL_TESTKIT_CACHE"), std::env::var_os("CARGO_TARGET_DIR")) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(target)) => PathBuf::from(target).join("testkit"),
        (None, None) => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/testkit"),
    };
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path.canonicalize()?)
}

/// Changes whenever a rebuild is due because our own part changed; Debian's part is kept until the cache goes.
fn recipe_hash(agent: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    (agent, MODULES, EXTRA_MODULES, SCRIPTS, PROGRAMS, PASSWD, include_str!("guest.rs")).hash(&mut hasher);
    hasher.finish()
}

fn build(agent: bool, cache: &Path, into: &Path) -> anyhow::Result<()> {
    let kernel_package = resolve_meta_package(KERNEL_PACKAGE)?;
    let version = kernel_package.trim_start_matches("linux-image-");
    let kernel_tree = unpack(&kernel_package, cache)?;
    std::fs::copy(kernel_tree.join(format!("boot/vmlinuz-{version}")), into.join("vmlinuz"))?;

    let mut archive = Archive::default();
    add_base(&mut archive);
    add_busybox(&mut archive)?;
    add_modules(&mut archive, &kernel_tree, version)?;
    add_program(&mut archive, Path::new("/usr/sbin/dropbear"), "/usr/sbin/dropbear")?;
    add_program(&mut archive, Path::new("/usr/bin/dropbearkey"), "/usr/bin/dropbearkey")?;
    add_program(&mut archive, Path::new("/sbin/dhclient"), "/sbin/dhclient")?;
    for (name, source) in PROGRAMS {
        add_program(&mut archive, &compile(name, source, into)?, &format!("/usr/sbin/{name}"))?;
    }
    if agent {
        let tree = unpack("qemu-guest-agent", cache)?;
        add_program(&mut archive, &tree.join("usr/sbin/qemu-ga"), "/usr/sbin/qemu-ga")?;
    }
    std::fs::write(into.join("initrd.cpio"), archive.finish())?;
    Ok(())
}

fn add_base(archive: &mut Archive) {
    archive.character_device("/dev/console", 5, 1);
    for directory in ["/proc", "/sys", "/etc/dropbear", "/run", "/usr/bin", "/usr/sbin", "/var/run", "/var/log"] {
        archive.directory(directory, 0o755);
    }
    archive.directory("/tmp", 0o1777);
    archive.directory("/root", 0o700);
    archive.directory("/root/.ssh", 0o700);
    archive.file("/root/.ssh/authorized_keys", 0o600, b"");
    archive.file("/root/.profile", 0o644, b"export PS1='tiny# ' PATH=/bin:/sbin:/usr/bin:/usr/sbin\n");
    archive.file("/etc/passwd", 0o644, PASSWD.as_bytes());
    archive.file("/etc/group", 0o644, b"root:x:0:\n");
    archive.file("/etc/shells", 0o644, b"/bin/sh\n");
    archive.file("/etc/hosts", 0o644, b"127.0.0.1 localhost\n::1 localhost\n");
    for (path, script) in SCRIPTS {
        archive.file(path, 0o755, script.as_bytes());
    }
}

fn add_busybox(archive: &mut Archive) -> anyhow::Result<()> {
    let busybox = Path::new("/bin/busybox");
    archive.file("/bin/busybox", 0o755, &read(busybox)?);
    let applets = run(Command::new(busybox).arg("--list"))?;
    for applet in applets.lines().filter(|applet| !["busybox", "init"].contains(applet)) {
        archive.symlink(&format!("/bin/{applet}"), "busybox");
    }
    Ok(())
}

fn add_modules(archive: &mut Archive, kernel_tree: &Path, version: &str) -> anyhow::Result<()> {
    let modules = Modules::find(&kernel_tree.join("lib/modules"))?;
    let wanted: Vec<&str> = MODULES.iter().chain(EXTRA_MODULES).copied().collect();
    let directory = format!("/lib/modules/{version}");
    let closure = modules.closure(&wanted)?;
    let mut dependencies = String::new();
    for (name, (path, needs)) in &closure {
        archive.file(&format!("{directory}/{name}.ko"), 0o644, &read(path)?);
        let needs = transitive(needs, &|name| closure.get(name).map(|(_, needs)| needs.clone()).unwrap_or_default());
        dependencies += &format!("{name}.ko:{}\n", needs.iter().map(|need| format!(" {need}.ko")).collect::<String>());
    }
    archive.file(&format!("{directory}/modules.dep"), 0o644, dependencies.as_bytes());
    archive.file("/etc/modules", 0o644, MODULES.join("\n").as_bytes());
    Ok(())
}

/// What a module needs, and what those need, nearest first: the order of a line in `modules.dep`.
fn transitive(direct: &[String], needs_of: &dyn Fn(&str) -> Vec<String>) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut queue: std::collections::VecDeque<String> = direct.iter().cloned().collect();
    while let Some(name) = queue.pop_front() {
        queue.extend(needs_of(&name));
        order.retain(|known| *known != name); // a need seen again must load earlier, so it stands later in the line
        order.push(name);
    }
    order
}

fn add_program(archive: &mut Archive, program: &Path, path: &str) -> anyhow::Result<()> {
    archive.file(path, 0o755, &read(program)?);
    let is_static = run(Command::new("ldd").arg(program)).is_err();
    if is_static {
        return Ok(());
    }
    for library in libraries(program)? {
        let name = library.to_str().context("a library's path is not UTF-8")?;
        if !archive.holds(name) {
            archive.file(name, 0o755, &read(&library)?);
        }
    }
    Ok(())
}

fn compile(name: &str, text: &str, into: &Path) -> anyhow::Result<PathBuf> {
    let (source, program) = (into.join(format!("{name}.c")), into.join(name));
    std::fs::write(&source, text)?;
    run(Command::new("gcc").args(["-static", "-O2", "-s", "-o"]).arg(&program).arg(&source))?;
    Ok(program)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}; run scripts/deps.sh test", path.display()))
}

#[cfg(test)]
mod tests {
    use super::transitive;

    #[test]
    fn a_need_shared_by_two_stands_after_both() {
        let needs = |name: &str| match name {
            "virtio_ring" | "net_failover" => vec!["virtio".to_owned()],
            _ => Vec::new(),
        };
        let order = transitive(&["virtio".to_owned(), "virtio_ring".to_owned()], &needs);
        assert_eq!(order, ["virtio_ring", "virtio"]);
    }
}
