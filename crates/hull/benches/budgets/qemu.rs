//! QEMU by hand: from `exec` until its monitor says that the guest runs. The floor under any manager of VMs.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hull_testkit::TinyGuest;

use crate::guests::MEMORY;

const PATIENCE: Duration = Duration::from_secs(60);

/// Ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already is as good; either way it must be reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A q35 with a fresh overlay on this disk.
pub(crate) fn pc(scratch: &Path, disk: &Path) -> anyhow::Result<Duration> {
    let file = scratch.join("disk.qcow2");
    let begin = Instant::now();
    overlay(disk, &file)?;
    let drive = format!("file={},if=virtio,format=qcow2", file.display());
    start(scratch, &["-M", "q35", "-drive", &drive, "-device", "virtio-rng-pci", "-device", "virtio-balloon-pci"])?;
    let took = begin.elapsed();
    std::fs::remove_file(file)?;
    Ok(took)
}

/// A microvm that boots this kernel.
pub(crate) fn micro(scratch: &Path, guest: &TinyGuest) -> anyhow::Result<Duration> {
    let (kernel, initrd) = (guest.kernel.display().to_string(), guest.initrd.display().to_string());
    let cmdline = TinyGuest::micro_cmdline();
    let begin = Instant::now();
    let args = ["-M", "microvm,acpi=on", "-kernel", &kernel, "-initrd", &initrd, "-append", &cmdline];
    start(scratch, &args)?;
    Ok(begin.elapsed())
}

/// A copy-on-write disk of 1 GiB, as any manager makes one.
pub(crate) fn overlay(disk: &Path, file: &Path) -> anyhow::Result<()> {
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([disk, file])
        .arg("1G")
        .status()?;
    anyhow::ensure!(made.success(), "qemu-img create ended with {made}");
    Ok(())
}

fn start(scratch: &Path, args: &[&str]) -> anyhow::Result<()> {
    let socket = scratch.join("qmp");
    // Absent before the first run.
    let _ = std::fs::remove_file(&socket);
    let child = Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-smp", "1", "-serial", "null"])
        .args(["-m", &MEMORY.as_mib().to_string(), "-qmp", &format!("unix:{},server=on,wait=off", socket.display())])
        .args(args)
        .stdin(Stdio::null())
        .spawn()
        .context("qemu-system-x86_64 cannot be run")?;
    let mut running = Running(child);
    let end = Instant::now() + PATIENCE;
    let mut stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > end => bail!("QEMU has no monitor: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
        if let Some(status) = running.0.try_wait()? {
            bail!("QEMU ended at its start ({status})");
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n")?;
    for line in BufReader::new(stream).lines() {
        if line?.contains("\"running\": true") {
            return Ok(());
        }
    }
    bail!("QEMU's monitor closed before the guest ran")
}
