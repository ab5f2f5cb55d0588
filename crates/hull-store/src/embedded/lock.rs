//! One process a data directory: a file locked by the kernel, which forgets the lock when its holder dies.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::schema::io;
use crate::{Result, StoreError};

/// Holds a data directory until dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `dir`, and writes who holds it.
    pub(super) fn take(dir: &Path) -> Result<Self> {
        let path = dir.join("LOCK");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(|e| io(&path, "open", &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // An unreadable holder is still a holder.
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.is_empty() { "?".to_owned() } else { holder };
                return Err(StoreError::Locked { path: path.display().to_string(), holder });
            }
            Err(TryLockError::Error(e)) => return Err(io(&path, "lock", &e)),
        }
        let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        written.map_err(|e| io(&path, "write", &e))?;
        Ok(Self { _file: file })
    }
}
