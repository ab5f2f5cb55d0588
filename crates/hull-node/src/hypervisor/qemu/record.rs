//! What Hull writes down of a VM's process, so that its successor finds it again.
//!
//! ```text
//!   (no record) ──claim──► Launching ──pid, before the first instruction──► Launched ──gone──► (exit record)
//!        ▲                     │                                                                   │
//!        └── nothing was run ──┘◄──────────────────────────── clear ───────────────────────────────┘
//! ```
//!
//! A record that still says `Launching` when it is read by a new Hull belongs to a start that was cut short: whatever
//! runs under its user is killed, for the guest has never run.

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use hull_types::{
    Timestamp,
    id::VmId,
    vm::{Accel, Exit, Profile},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::shape::Shape;

/// The record's form.
const VERSION: u32 = 1;

/// The process of a VM's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub v: u32,
    pub vm: VmId,
    /// The host's boot it belongs to.
    pub boot: String,
    pub uid: u32,
    pub accel: Accel,
    pub profile: Profile,
    pub shape: Shape,
    pub stage: Stage,
}

/// How far its start came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "stage")]
pub(super) enum Stage {
    /// Something may run under its user; the guest does not.
    Launching,
    /// It runs, or has ended.
    Launched {
        pid: u32,
        /// When the kernel says it started, in clock ticks since boot: a pid that was used again has another.
        start_ticks: u64,
        started_at: Timestamp,
    },
}

impl Record {
    /// The record of a start that begins now.
    pub(super) fn launching(vm: VmId, uid: u32, accel: Accel, profile: Profile, shape: Shape) -> io::Result<Self> {
        Ok(Self { v: VERSION, vm, boot: boot_id()?, uid, accel, profile, shape, stage: Stage::Launching })
    }
}

/// Names in a VM's directory.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub dir: PathBuf,
}

impl Files {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(super) fn record(&self) -> PathBuf {
        self.dir.join("vmm.json")
    }

    pub(super) fn exit(&self) -> PathBuf {
        self.dir.join("exit.json")
    }

    pub(super) fn frozen(&self) -> PathBuf {
        self.dir.join("frozen.json")
    }

    pub(super) fn qmp(&self) -> PathBuf {
        self.dir.join("qmp.sock")
    }

    pub(super) fn serial(&self) -> PathBuf {
        self.dir.join("serial.sock")
    }

    pub(super) fn agent(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    pub(super) fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    pub(super) fn qemu_log(&self) -> PathBuf {
        self.dir.join("qemu.log")
    }

    pub(super) fn read_record(&self) -> io::Result<Option<Record>> {
        read(&self.record())
    }

    pub(super) fn read_exit(&self) -> io::Result<Option<Exit>> {
        read(&self.exit())
    }

    /// Removes what belongs to one process only; logs, variables and TPM state stay with the VM.
    pub(super) fn forget(&self) -> io::Result<()> {
        // The record goes last: while it is there, a successor knows that there is something to clear.
        for path in [self.qmp(), self.serial(), self.agent(), self.frozen(), self.exit(), self.record()] {
            remove(&path)?;
        }
        sync_dir(&self.dir)
    }
}

/// Reads a JSON document; `None` where there is none.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a JSON document so that after a power cut either the old or the new one is there, whole.
pub(super) fn write_durably<T: Serialize>(path: &Path, document: &T) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(document)?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Removes a file; one that is not there is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Names this boot of the host.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
