//! Where records are kept: `vm.json` in each VM's private directory.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use hull_types::{
    error::{Error, ErrorKind, Result},
    id::VmId,
    link::{DesiredNetwork, DesiredRouter},
};

use crate::{blocking, io_error, plan::record::Record, remove_tree};

/// Where a suspended VM's memory is kept, in its private directory.
pub const SAVED_MEMORY: &str = "memory.saved";

/// The memory of a node. What was written is there after any crash, whole or not at all.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// The VM's private directory, made where needed.
    async fn dir(&self, vm: VmId) -> Result<PathBuf>;

    /// Every record.
    async fn load(&self) -> Result<Vec<Record>>;

    /// Writes a record.
    async fn save(&self, record: &Record) -> Result<()>;

    /// Removes the VM's directory with all in it.
    async fn remove(&self, vm: VmId) -> Result<()>;

    /// Removes the VM's saved memory ([`SAVED_MEMORY`] in its directory). Nothing happens where there is none.
    async fn remove_saved(&self, vm: VmId) -> Result<()>;

    /// The networks last told.
    async fn load_networks(&self) -> Result<Vec<DesiredNetwork>>;

    /// Writes the networks told.
    async fn save_networks(&self, networks: &[DesiredNetwork]) -> Result<()>;

    /// The routers last told.
    async fn load_routers(&self) -> Result<Vec<DesiredRouter>>;

    /// Writes the routers told.
    async fn save_routers(&self, routers: &[DesiredRouter]) -> Result<()>;
}

/// Records as files: `<dir>/vms/<id>/vm.json`, `<dir>/networks.json`, `<dir>/routers.json`; and `<dir>/reserve`, space for them on a full disk.
#[derive(Clone, Debug)]
pub struct FileRecords {
    dir: PathBuf,
}

impl FileRecords {
    /// Records beneath this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    fn vms(&self) -> PathBuf {
        self.dir.join("vms")
    }

    fn vm(&self, vm: VmId) -> PathBuf {
        self.vms().join(vm.to_string())
    }
}

#[async_trait]
impl Records for FileRecords {
    async fn dir(&self, vm: VmId) -> Result<PathBuf> {
        let dir = self.vm(vm);
        blocking(move || make_private(&dir).map(|()| dir)).await
    }

    async fn load(&self) -> Result<Vec<Record>> {
        let vms = self.vms();
        blocking(move || {
            let entries = match fs::read_dir(&vms) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(e) => return Err(io_error("list", &vms, &e)),
            };
            let ids = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse::<VmId>().ok());
            Ok(ids.map(|id| load(&vms.join(id.to_string()), id)).collect())
        })
        .await
    }

    async fn save(&self, record: &Record) -> Result<()> {
        let (dir, reserve) = (self.vm(record.vm), self.dir.join("reserve"));
        let bytes = to_json(record)?;
        blocking(move || {
            let write = || make_private(&dir).and_then(|()| write_atomic(&dir, "vm.json", &bytes));
            match write() {
                Err(error) if error.kind == ErrorKind::InsufficientResources && fs::remove_file(&reserve).is_ok() => {
                    write()
                }
                Err(error) => Err(error),
                Ok(()) => {
                    keep_reserve(&reserve);
                    Ok(())
                }
            }
        })
        .await
    }

    async fn remove(&self, vm: VmId) -> Result<()> {
        let dir = self.vm(vm);
        blocking(move || remove_tree(&dir)).await
    }

    async fn remove_saved(&self, vm: VmId) -> Result<()> {
        let path = self.vm(vm).join(SAVED_MEMORY);
        blocking(move || match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path, &e)),
            _ => Ok(()),
        })
        .await
    }

    async fn load_networks(&self) -> Result<Vec<DesiredNetwork>> {
        self.load_told("networks.json").await
    }

    async fn save_networks(&self, networks: &[DesiredNetwork]) -> Result<()> {
        self.save_told("networks.json", to_json(&networks)?).await
    }

    async fn load_routers(&self) -> Result<Vec<DesiredRouter>> {
        self.load_told("routers.json").await
    }

    async fn save_routers(&self, routers: &[DesiredRouter]) -> Result<()> {
        self.save_told("routers.json", to_json(&routers)?).await
    }
}

impl FileRecords {
    async fn load_told<T: serde::de::DeserializeOwned + Send + 'static>(&self, name: &str) -> Result<Vec<T>> {
        let path = self.dir.join(name);
        blocking(move || match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| Error::internal(format!("{} is not readable: {e}", path.display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(io_error("read", &path, &e)),
        })
        .await
    }

    async fn save_told(&self, name: &'static str, bytes: Vec<u8>) -> Result<()> {
        let dir = self.dir.clone();
        blocking(move || {
            make_private(&dir)?;
            write_atomic(&dir, name, &bytes)
        })
        .await
    }
}

/// Bytes given up when the disk is full, so that records can still be written: deleting a VM, which frees space, needs one.
const RESERVE: usize = 1 << 20;

fn keep_reserve(path: &Path) {
    if !path.exists() && fs::write(path, vec![0; RESERVE]).is_err() {
        // Space is short already: what was written of it is needed elsewhere.
        let _ = fs::remove_file(path);
    }
}

pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|e| Error::internal(format!("cannot write a record as JSON: {e}")))
}

/// A record that cannot be read is as one that remembers nothing: what runs is found by its process, and the server says
/// again what shall be. Until then nothing is removed for its sake.
fn load(dir: &Path, vm: VmId) -> Record {
    let path = dir.join("vm.json");
    let read = fs::read(&path).map_err(|e| e.to_string());
    match read.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).map_err(|e| e.to_string())) {
        Ok(record) if record.vm == vm => record,
        Ok(_) => Record::new(vm),
        Err(error) => {
            tracing::warn!(path = %path.display(), error, "a VM's record cannot be read; waiting for the server's word");
            Record::new(vm)
        }
    }
}

/// Only root looks into these directories: records hold user data.
pub(crate) fn make_private(dir: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(dir);
    made.map_err(|e| io_error("make", dir, &e))
}

pub(crate) fn write_atomic(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let (path, temp) = (dir.join(name), dir.join(format!(".{name}.new")));
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temp, &path)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(|e| io_error("write", &path, &e))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_are_read_back_and_a_broken_one_is_as_none() {
        let temp = tempfile::tempdir().unwrap();
        let records = FileRecords::new(temp.path());
        assert_eq!(records.load().await.unwrap(), []);
        let id = |n: u128| VmId(uuid::Uuid::from_u128(n));
        let record = Record { generation: 3, power_seq: 5, ..Record::new(id(1)) };
        records.save(&record).await.unwrap();
        let broken = records.dir(id(2)).await.unwrap();
        fs::write(broken.join("vm.json"), b"{\"generation\": 3, ").unwrap();
        let mut loaded = records.load().await.unwrap();
        loaded.sort_by_key(|record| record.vm);
        assert_eq!(loaded, [record, Record::new(id(2))]);
        records.remove(id(1)).await.unwrap();
        records.remove(id(1)).await.unwrap();
        assert_eq!(records.load().await.unwrap().len(), 1);
    }
}
