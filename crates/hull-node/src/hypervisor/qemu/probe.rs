//! What QEMU can do here.

use hull_types::{
    error::{Error, Result},
    vm::Accel,
};

use super::{QemuConfig, start::missing};
use crate::hypervisor::HypervisorFacts;

/// Asks QEMU for its version, and finds out how guests run.
pub(super) async fn facts(config: &QemuConfig) -> Result<HypervisorFacts> {
    let version = version(config).await?;
    Ok(HypervisorFacts { version, accel: config.accel.unwrap_or(Accel::Tcg), fallback: None })
}

async fn version(config: &QemuConfig) -> Result<String> {
    let output = tokio::process::Command::new(&config.program).arg("--version").output().await;
    let output = output.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => missing(&config.program, "qemu-system-x86"),
        _ => Error::internal(format!("cannot run {}: {error}", config.program.display())),
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
