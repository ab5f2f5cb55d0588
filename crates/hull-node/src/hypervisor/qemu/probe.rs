//! What QEMU can do here, and whether KVM really runs guests.
//!
//! `/dev/kvm` may open, make machines and even run firmware, and still never get a kernel past its first steps in 64 bit
//! (seen under some nested hypervisors). Only a guest that goes there finds out: [`GUEST`], whose source is `probe.S`.
//! It takes milliseconds where KVM works. The answer holds until the host's next boot or another QEMU.

use std::{fs::OpenOptions, io::Write, process::Stdio, time::Duration};

use hull_types::{
    error::{Error, Result},
    vm::Accel,
};
use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};

use super::{
    QemuConfig,
    record::{boot_id, read, write_durably},
    start::missing,
};
use crate::hypervisor::HypervisorFacts;

/// A multiboot kernel that ends QEMU with [`PASSED`].
const GUEST: &[u8] = include_bytes!("probe.bin");
const PASSED: i32 = 33;
const DEADLINE: Duration = Duration::from_secs(10);
const KVM: &str = "/dev/kvm";

/// The answer, kept in the host's run directory.
#[derive(Debug, Serialize, Deserialize)]
struct Proof {
    boot: String,
    version: String,
    accel: Accel,
    fallback: Option<String>,
}

/// Asks QEMU for its version, and finds out how guests run.
pub(super) async fn facts(config: &QemuConfig) -> Result<HypervisorFacts> {
    let version = version(config).await?;
    if let Some(accel) = config.accel {
        return Ok(proven(version, accel, None));
    }
    let path = config.run_dir.join("accel.json");
    let fail = |error: std::io::Error| Error::internal(format!("cannot keep the probe's answer: {error}"));
    let boot = boot_id().map_err(fail)?;
    // One that cannot be read is made anew.
    let kept = read::<Proof>(&path).ok().flatten();
    if let Some(kept) = kept.filter(|kept| kept.boot == boot && kept.version == version) {
        return Ok(proven(version, kept.accel, kept.fallback));
    }
    let (accel, fallback) = match prove(config).await {
        Ok(()) => (Accel::Kvm, None),
        Err(why) => (Accel::Tcg, Some(format!("{why}; guests are emulated (TCG), many times slower"))),
    };
    std::fs::create_dir_all(&config.run_dir).map_err(fail)?;
    let proof = Proof { boot, version: version.clone(), accel, fallback: fallback.clone() };
    write_durably(&path, &proof).map_err(fail)?;
    Ok(proven(version, accel, fallback))
}

/// Of fences the probe knows nothing.
fn proven(version: String, accel: Accel, fallback: Option<String>) -> HypervisorFacts {
    HypervisorFacts { version, accel, fallback, unfenced: Vec::new() }
}

/// Whether KVM runs guests here; else why not.
async fn prove(config: &QemuConfig) -> Result<(), String> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open(KVM) {
        return Err(format!("{KVM} cannot be used ({error}): enable virtualisation in the host's firmware"));
    }
    run(config, "kvm", DEADLINE).await
}

/// Runs the probe's guest.
async fn run(config: &QemuConfig, accel: &str, within: Duration) -> Result<(), String> {
    let say = |error: std::io::Error| format!("the probe guest cannot be started: {error}");
    let mut kernel = tempfile::NamedTempFile::new().map_err(say)?;
    kernel.write_all(GUEST).map_err(say)?;
    let guest = Command::new(&config.program)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-M", "q35", "-m", "128", "-accel", accel])
        .args(["-device", "isa-debug-exit,iobase=0x501,iosize=1", "-no-reboot", "-kernel"])
        .arg(kernel.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(say)?;
    let Ok(output) = timeout(within, guest.wait_with_output()).await else {
        let seconds = within.as_secs();
        return Err(format!("{accel} starts but does not run guests: a probe guest did not end within {seconds} s"));
    };
    let output = output.map_err(say)?;
    if output.status.code() == Some(PASSED) {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    Err(format!("a probe guest under {accel} ended with {}: {last}", output.status))
}

async fn version(config: &QemuConfig) -> Result<String> {
    let output = Command::new(&config.program).arg("--version").output().await;
    let output = output.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => missing(&config.program, "qemu-system-x86"),
        _ => Error::unavailable(format!(
            "cannot run {}: {error}; mend it with `apt install --reinstall qemu-system-x86`",
            config.program.display()
        )),
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| {
        Error::unsupported(format!("{} does not say its version as QEMU does", config.program.display()))
    })
}

/// `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)` → `7.2.22`.
fn parse_version(text: &str) -> Option<String> {
    let rest = text.split_once("version ")?.1;
    let version: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    (!version.is_empty()).then_some(version)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
        assert_eq!(parse_version(text).as_deref(), Some("7.2.22"));
        assert_eq!(parse_version("nothing"), None);
    }

    #[tokio::test]
    async fn the_probe_guest_passes_where_guests_run_and_says_where_they_do_not() {
        let config = QemuConfig::default();
        run(&config, "tcg", Duration::from_secs(60)).await.unwrap();
        let unknown = run(&config, "no-such", DEADLINE).await.unwrap_err();
        assert!(unknown.contains("no-such"), "{unknown}");
    }

    #[tokio::test]
    async fn the_answer_is_kept_until_the_next_boot() {
        let root = tempfile::tempdir().unwrap();
        let config = QemuConfig { run_dir: root.path().join("run"), ..QemuConfig::default() };
        let found = facts(&config).await.unwrap();
        // Hardware, or a sentence why not.
        assert_eq!(found.accel == Accel::Tcg, found.fallback.is_some(), "{found:?}");
        let path = config.run_dir.join("accel.json");
        let mut proof: Proof = read(&path).unwrap().unwrap();
        proof.fallback = Some("kept".into());
        proof.accel = Accel::Tcg;
        write_durably(&path, &proof).unwrap();
        assert_eq!(facts(&config).await.unwrap().fallback.as_deref(), Some("kept"));
        proof.boot = "another".into();
        write_durably(&path, &proof).unwrap();
        assert_eq!(facts(&config).await.unwrap(), found);
    }
}
