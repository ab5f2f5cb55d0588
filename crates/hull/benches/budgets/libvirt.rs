//! The peer: libvirt with the same QEMU, in namespaces of its own.
//!
//! A private `libvirtd` in private mount, network and process namespaces: its directories are empty tmpfs, its `/dev` has no KVM (which on some
//! hosts opens and then hangs libvirt's own probe), and all of it ends with the first process of its process namespace. No init
//! system is needed, and the host's own libvirt, where there is one, is not touched.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hull_testkit::TinyGuest;
use tempfile::TempDir;

use crate::{guests::MEMORY, qemu};

/// libvirt asks QEMU hundreds of questions at its first use.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs as the first process of the namespaces; `$1` is the directory for sockets. It must reap: QEMU daemonizes.
const INIT: &str = r#"
set -e
for dir in /run/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /etc/libvirt; do
    mkdir -p "$dir"
    mount -t tmpfs tmpfs "$dir"
done
mkdir -p "$1/dev"
mount -t tmpfs tmpfs "$1/dev"
for node in null zero full random urandom tty; do : > "$1/dev/$node"; mount --bind "/dev/$node" "$1/dev/$node"; done
mkdir "$1/dev/pts" "$1/dev/shm"
mount --bind /dev/pts "$1/dev/pts"
ln -s pts/ptmx "$1/dev/ptmx"
ln -s /proc/self/fd "$1/dev/fd"
mount --move "$1/dev" /dev
mkdir -p /etc/libvirt/qemu
cat > /etc/libvirt/qemu.conf <<END
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
END
printf 'unix_sock_dir="%s"\nauth_unix_rw="none"\n' "$1" > "$1/libvirtd.conf"
/usr/sbin/libvirtd -f "$1/libvirtd.conf" -p "$1/libvirtd.pid" &
wait $!
"#;

/// A private libvirtd with a disk that its guests boot from.
pub(crate) struct Libvirt {
    dir: TempDir,
    child: Child,
}

impl Libvirt {
    pub(crate) fn start(disk: &Path) -> anyhow::Result<Self> {
        let dir = hull_testkit::short_dir()?;
        std::os::unix::fs::symlink(disk, dir.path().join("base.raw"))?;
        let log = File::create(dir.path().join("log"))?;
        let child = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
            .args(["bash", "-c", INIT, "libvirt"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("unshare cannot be run")?;
        let mut libvirt = Self { dir, child };
        let end = Instant::now() + PATIENCE;
        while libvirt.virsh("version").is_err() {
            if libvirt.child.try_wait()?.is_some() || Instant::now() > end {
                let log = std::fs::read_to_string(libvirt.dir.path().join("log")).unwrap_or_default();
                bail!("{}", log.lines().last().unwrap_or("it ended without a word"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(libvirt)
    }

    /// Overlay, define, start: until `virsh` says that the guest runs. Then removes it.
    pub(crate) fn define_and_start(&self, run: usize) -> anyhow::Result<Duration> {
        let (xml, disk) = (self.dir.path().join("domain.xml"), self.dir.path().join("disk.qcow2"));
        std::fs::write(&xml, self.domain(run, &disk))?;
        let begin = Instant::now();
        qemu::overlay(&self.dir.path().join("base.raw").canonicalize()?, &disk)?;
        self.virsh(&format!("define {}; start bench{run}", xml.display()))?;
        let took = begin.elapsed();
        self.virsh(&format!("destroy bench{run}; undefine bench{run}"))?;
        std::fs::remove_file(disk)?;
        Ok(took)
    }

    /// The same of a microvm that boots this kernel. (libvirt 9 does start one, with nothing in it but its serial line.)
    pub(crate) fn define_and_start_micro(&self, run: usize, guest: &TinyGuest) -> anyhow::Result<Duration> {
        let xml = self.dir.path().join("micro.xml");
        let domain = format!(
            "<domain type='qemu'><name>micro{run}</name><memory unit='MiB'>{}</memory><vcpu>1</vcpu>
            <os><type arch='x86_64' machine='microvm'>hvm</type>
            <kernel>{}</kernel><initrd>{}</initrd><cmdline>{}</cmdline></os>
            <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
            <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>",
            MEMORY.as_mib(),
            guest.kernel.display(),
            guest.initrd.display(),
            TinyGuest::micro_cmdline(),
        );
        std::fs::write(&xml, domain)?;
        let begin = Instant::now();
        self.virsh(&format!("define {}; start micro{run}", xml.display()))?;
        let took = begin.elapsed();
        self.virsh(&format!("destroy micro{run}; undefine micro{run}"))?;
        Ok(took)
    }

    fn virsh(&self, commands: &str) -> anyhow::Result<()> {
        let socket = self.dir.path().join("libvirt-sock");
        let uri = format!("qemu+unix:///system?socket={}", socket.display());
        let output = Command::new("timeout")
            .args(["120", "virsh", "-q", "-c", &uri, commands])
            .output()
            .context("virsh cannot be run")?;
        anyhow::ensure!(output.status.success(), "virsh: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// The same machine as ours: q35, one CPU, virtio disk, serial line to a file, random numbers, balloon.
    fn domain(&self, run: usize, disk: &Path) -> String {
        let (mib, serial) = (MEMORY.as_mib(), self.dir.path().join("serial.log"));
        format!(
            "<domain type='qemu'><name>bench{run}</name><memory unit='MiB'>{mib}</memory><vcpu>1</vcpu>
            <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
            <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
            <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>
            <target dev='vda' bus='virtio'/></disk>
            <serial type='file'><source path='{}'/></serial>
            <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
            <memballoon model='virtio'/></devices></domain>",
            disk.display(),
            serial.display(),
        )
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // With unshare goes the first process of the namespace, and with that every other one in it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
