//! The mechanism on one host: VMs, their disks and their networks, kept as the server says they shall be.
//!
//! ```text
//!             Desired (link)                      FromNode::Vm, Status, Reply (link)
//!                  │                                          ▲
//!                  ▼                                          │
//!   ┌──────── node ────────┐   one task a VM    ┌─────────────┴─────────────┐
//!   │ what shall be here   ├───────────────────►│ vm task: observe, plan,   │
//!   └──────────┬───────────┘                    │ do one step, report       │
//!              │ networks                       └──┬──────────┬──────────┬──┘
//!              ▼                                   ▼          ▼          ▼
//!        [network::Networks]              [hypervisor::   [storage::  [network::
//!        namespaces, bridges, rules,       Hypervisor]     Disks]      Networks]
//!        DHCP, DNS, metadata               QEMU, QMP       overlays     taps
//! ```
//!
//! The three traits are the border to the host: the simulator has its own implementations and runs the very same
//! planner and tasks. Nothing in this crate knows of the server's store or API.

pub mod host;
pub mod hypervisor;
pub mod link;
pub mod network;
pub mod node;
pub mod plan;
pub mod storage;
pub mod vm;

pub use node::{Drivers, Node, NodeConfig, NodeHandle};

use std::path::Path;

use hull_types::error::{Error, Result};

/// Runs file work on a thread of its own, so that no task waits for a disk.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::internal(format!("file work did not finish: {e}"))))
}

/// An I/O error with what was done to which path; a full disk says so.
pub(crate) fn io_error(act: &str, path: &Path, error: &std::io::Error) -> Error {
    let detail = format!("cannot {act} {}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::insufficient(detail),
        std::io::ErrorKind::NotFound => Error::not_found(detail),
        _ => Error::internal(detail),
    }
}

/// Removes a directory with all in it; one that is not there is removed already.
pub(crate) fn remove_tree(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove", dir, &e)),
        _ => Ok(()),
    }
}
