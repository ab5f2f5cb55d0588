//! Forwarding on the host: turned on with the first network, and off again with the last one where it was Hull who turned
//! it on.
//!
//! What was changed is written down before it is changed, so that a Hull that dies in between changes nothing it would not
//! undo. The note counts for the host's boot and namespace it was made in. Where another Hull has networks on the host,
//! forwarding stays: nobody would turn it on again for the guests there before their next repair.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use hull_types::error::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{command, netns::Netns};

const V4: &str = "ipv4/ip_forward";
const V6: &str = "ipv6/conf/all/forwarding";

/// Networks are kept by a task each; the note is one. Held by threads that never wait for anyone.
static NOTE: Mutex<()> = Mutex::new(());

/// What Hull changed on the host.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Changed {
    /// In which boot.
    boot: String,
    /// In which namespace.
    namespace: u64,
    /// Which settings; those of forwarding were 0.
    #[serde(default)]
    forwarding: Vec<String>,
    /// Devices that heeded router advertisements as hosts do, and heed them now as routers that want to (1, then 2).
    #[serde(default)]
    heeding: Vec<String>,
}

/// Turns forwarding on in the host's namespace. Settings that are on are not Hull's doing, and not remembered.
pub(crate) async fn turn_on(namespace: &Netns, memory: PathBuf) -> Result<()> {
    let mut off = Vec::new();
    for key in [V4, V6] {
        if namespace.read_sysctl(key).await?.is_some_and(|now| now != "1") {
            off.push(key);
        }
    }
    if off.is_empty() {
        return Ok(());
    }
    let identity = namespace.identity();
    namespace
        .run(move || {
            let _alone = NOTE.lock().unwrap_or_else(PoisonError::into_inner);
            let mut changed = recall(&memory, identity);
            for key in off {
                // A forwarding host ignores router advertisements unless told to heed them (2): without this it would lose
                // its own IPv6 default route.
                let heeding = if key == V6 { heeding("1") } else { Vec::new() };
                changed.heeding.extend(heeding.iter().cloned());
                if !changed.forwarding.iter().any(|known| known == key) {
                    changed.forwarding.push(key.to_owned());
                }
                remember(&memory, &changed)?;
                heeding.iter().for_each(|device| heed(device, "2"));
                tracing::info!("turning net/{key} on: guests' packets pass through this host");
                write(key, "1")?;
            }
            Ok(())
        })
        .await?
}

/// Turns off again what Hull turned on.
pub(crate) async fn turn_off(namespace: &Netns, memory: PathBuf) -> Result<()> {
    let identity = namespace.identity();
    namespace
        .run(move || {
            let _alone = NOTE.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = recall(&memory, identity);
            let tables = command::run("nft", &["list", "tables", "inet"], "").unwrap_or_default();
            if !others(&tables) {
                for key in &changed.forwarding {
                    tracing::info!(
                        "turning net/{key} off again: the last network is gone, and it was off before the first"
                    );
                    write(key, "0")?;
                }
                let now = heeding("2");
                changed.heeding.iter().filter(|device| now.contains(device)).for_each(|device| heed(device, "1"));
            }
            let _ = std::fs::remove_file(&memory);
            Ok(())
        })
        .await?
}

/// Whether a listing of tables shows another Hull's: the own one is gone by now.
fn others(tables: &str) -> bool {
    tables.lines().any(|line| line.trim_end().ends_with("_host"))
}

fn recall(memory: &std::path::Path, namespace: u64) -> Changed {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let known = std::fs::read(memory).ok().and_then(|bytes| serde_json::from_slice::<Changed>(&bytes).ok());
    // Another boot has begun with the host's own settings.
    known.filter(|known| known.boot == boot && known.namespace == namespace).unwrap_or_else(|| Changed {
        boot,
        namespace,
        ..Changed::default()
    })
}

fn remember(memory: &std::path::Path, changed: &Changed) -> Result<()> {
    let failed = |error: String| Error::unavailable(format!("{} cannot be written: {error}", memory.display()));
    let bytes = serde_json::to_vec(changed).map_err(|error| failed(error.to_string()))?;
    let fresh = memory.with_extension("new");
    std::fs::write(&fresh, bytes)
        .and_then(|()| std::fs::rename(&fresh, memory))
        .map_err(|error| failed(error.to_string()))
}

fn write(key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{key}");
    std::fs::write(&path, value)
        .map_err(|error| Error::unavailable(format!("the kernel setting {path} cannot be set to {value}: {error}")))
}

/// The devices whose way with router advertisements is this.
fn heeding(how: &str) -> Vec<String> {
    let Ok(devices) = std::fs::read_dir("/proc/sys/net/ipv6/conf") else { return Vec::new() };
    let heeds = |device: &std::fs::DirEntry| {
        std::fs::read_to_string(device.path().join("accept_ra")).is_ok_and(|now| now.trim() == how)
    };
    devices.flatten().filter(heeds).filter_map(|device| device.file_name().into_string().ok()).collect()
}

/// Settings whose devices come and go meanwhile are no concern.
fn heed(device: &str, how: &str) {
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/accept_ra"), how);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn another_hulls_table_is_told_from_everyone_elses() {
        assert!(!others("table inet filter\ntable inet ghost_town\n"));
        assert!(others("table inet filter\ntable inet hull_host\n"));
    }

    #[test]
    fn what_was_changed_in_another_boot_or_namespace_is_not_undone() {
        let dir = tempfile::tempdir().unwrap();
        let memory = dir.path().join("forwarding.json");
        let mut changed = recall(&memory, 7);
        assert_eq!(changed.forwarding, [""; 0]);
        changed.forwarding.push(V4.to_owned());
        remember(&memory, &changed).unwrap();
        assert_eq!(recall(&memory, 7), changed);
        assert_eq!(recall(&memory, 8).forwarding, [""; 0]);
        remember(&memory, &Changed { boot: "another".into(), ..changed }).unwrap();
        assert_eq!(recall(&memory, 7).forwarding, [""; 0]);
    }
}
