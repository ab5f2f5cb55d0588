//! A machine's state in a file: QEMU's migration stream, preceded by the shape of the machine it belongs to.
//!
//! ```text
//!   "HULLVM1\n" | length of the shape (4 bytes, little endian) | shape (JSON) | QEMU's stream
//! ```

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use hull_types::error::{Error, Result};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{nics, record::sync_dir, shape::Shape, vmm::Shared};
use crate::hypervisor::qmp::{Client, QmpError};

const MAGIC: &[u8; 8] = b"HULLVM1\n";
const MOST_SHAPE: u32 = 64 << 10;
/// Memory goes to and comes from a disk: a terabyte at 100 MB/s takes three hours.
const DEADLINE: Duration = Duration::from_secs(4 * 3600);
const POLL: Duration = Duration::from_millis(20);

/// Writes the halted machine's state; the file bears its name only once it is whole and on disk.
pub(super) async fn save(machine: &Shared, path: &Path) -> Result<()> {
    let temporary = path.with_extension("saving");
    let outcome = write_state(machine, &temporary).await.and_then(|file| {
        let publish = || {
            file.sync_all()?;
            std::fs::rename(&temporary, path)?;
            sync_dir(path.parent().unwrap_or(Path::new("/")))
        };
        publish().map_err(|error| failed(machine, &error))
    });
    if outcome.is_err() {
        // Best effort: a half-written file is overwritten by the next attempt.
        let _ = std::fs::remove_file(&temporary);
    }
    outcome
}

fn failed(machine: &Shared, error: &dyn std::fmt::Display) -> Error {
    Error::internal(format!("cannot save the memory of {:?}: {error}", machine.vm))
}

async fn write_state(machine: &Shared, path: &Path) -> Result<File> {
    // With the devices it has now: one may have been half plugged or unplugged, and the halted guest changes none.
    nics::settle(machine).await?;
    let shape = machine.record().shape;
    let create = || -> io::Result<File> {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let shape = serde_json::to_vec(&shape)?;
        file.write_all(MAGIC)?;
        file.write_all(&u32::try_from(shape.len()).map_err(io::Error::other)?.to_le_bytes())?;
        file.write_all(&shape)?;
        Ok(file)
    };
    let file = create().map_err(|error| failed(machine, &error))?;
    let explain = |error| machine.explain(error);
    let qmp = &machine.qmp;
    // The guest is halted: nothing is gained by sparing the disk.
    qmp.run("migrate-set-parameters", json!({"max-bandwidth": 1_u64 << 40})).await.map_err(explain)?;
    let copy = file.try_clone().map_err(|error| failed(machine, &error))?;
    qmp.run_with_fd("getfd", json!({"fdname": "state"}), copy.into()).await.map_err(explain)?;
    qmp.run("migrate", json!({"uri": "fd:state"})).await.map_err(explain)?;
    finish(qmp).await.map_err(|error| failed(machine, &error))?;
    Ok(file)
}

/// Opens a saved state: the shape of the machine it belongs to, and the file at the beginning of QEMU's stream.
pub(super) fn open(path: &Path) -> Result<(Shape, File)> {
    let read = || -> io::Result<(Shape, File)> {
        let mut file = File::open(path)?;
        let mut head = [0; 12];
        file.read_exact(&mut head)?;
        let (magic, length) = head.split_at(MAGIC.len());
        let length = u32::from_le_bytes(length.try_into().map_err(io::Error::other)?);
        if magic != MAGIC || length > MOST_SHAPE {
            return Err(io::Error::other("it is not a saved machine"));
        }
        let mut shape = vec![0; length as usize];
        file.read_exact(&mut shape)?;
        Ok((serde_json::from_slice(&shape)?, file))
    };
    read().map_err(|error| Error::conflict(format!("cannot restore from {}: {error}", path.display())))
}

/// Loads the state into a QEMU that waits for it.
pub(super) async fn load(qmp: &Client, state: File) -> Result<(), String> {
    let say = |error: QmpError| error.to_string();
    qmp.run_with_fd("getfd", json!({"fdname": "state"}), state.into()).await.map_err(say)?;
    qmp.run("migrate-incoming", json!({"uri": "fd:state"})).await.map_err(say)?;
    finish(qmp).await
}

/// Waits for a migration's end. It may pass between two looks, so the looks tell, not events.
async fn finish(qmp: &Client) -> Result<(), String> {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        let status = qmp.run("query-migrate", Value::Null).await.map_err(|error| error.to_string())?;
        match status.get("status").and_then(Value::as_str) {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => {
                let why = status.get("error-desc").and_then(Value::as_str).unwrap_or("QEMU does not say why");
                return Err(why.to_owned());
            }
            Some(_) | None => sleep(POLL).await,
        }
    }
    Err(format!("not done within {} s", DEADLINE.as_secs()))
}
