//! The host as the node sees it: its facts, its clock. A border like the drivers', so that a simulated host can stand in.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use hull_types::{error::Result, units::Bytes};

mod clock;
pub mod proc;

pub use clock::{Clock, SystemClock};

/// What a host tells of itself, besides what its hypervisor can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Its name.
    pub hostname: String,
    /// The kernel's release.
    pub kernel: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// The processors' model, as their maker calls it.
    pub cpu_model: Option<String>,
    /// Memory.
    pub memory: Bytes,
    /// Memory that can be had now without swapping.
    pub memory_available: Bytes,
    /// Size of the file system for VM disks.
    pub disk: Bytes,
    /// Changes with every boot.
    pub boot_id: String,
}

/// A host.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// Its facts now.
    async fn facts(&self) -> Result<HostFacts>;
}

/// The host this process runs on.
#[derive(Clone, Debug)]
pub struct LocalHost {
    dir: PathBuf,
}

impl LocalHost {
    /// Its disk is the file system that holds this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }
}

#[async_trait]
impl Host for LocalHost {
    async fn facts(&self) -> Result<HostFacts> {
        let dir = self.dir.clone();
        crate::blocking(move || facts(&dir)).await
    }
}

fn facts(dir: &Path) -> Result<HostFacts> {
    let uname = rustix::system::uname();
    let memory = proc::memory(&read("/proc/meminfo")?);
    Ok(HostFacts {
        hostname: uname.nodename().to_string_lossy().into_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        cpu_model: proc::cpu_model(&read("/proc/cpuinfo")?),
        memory: memory.total,
        memory_available: memory.available,
        disk: file_system(dir)?.size,
        boot_id: read("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
    })
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| crate::io_error("read", Path::new(path), &e))
}

/// A file system's size and what of it is free to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// All of it.
    pub size: Bytes,
    /// Free.
    pub free: Bytes,
}

/// The file system that holds the path.
pub fn file_system(path: &Path) -> Result<FileSystem> {
    let stat = rustix::fs::statvfs(path).map_err(|e| crate::io_error("ask the space of", path, &e.into()))?;
    let bytes = |blocks: u64| Bytes(blocks.saturating_mul(stat.f_frsize));
    Ok(FileSystem { size: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
}
