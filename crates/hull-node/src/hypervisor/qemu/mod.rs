//! QEMU, driven over QMP: no libvirt, nothing between the node and the process.
//!
//! ```text
//!   VmmSpec ──► inputs (open) ──► cmdline (pure) ──► confine (fork, exec) ──► QEMU
//!                                                                              │ qmp.sock, serial.sock, agent.sock
//!   record (on disk) ◄── start ──► vmm ◄─ monitor (state) ◄────────────────────┘
//!                                   ├─ console (serial), log (bounded)
//!                                   ├─ agent (guest agent)
//!                                   ├─ resize, nics (hotplug), migrate (save, restore)
//!   facts ◄── probe (boots a tiny guest under KVM)
//! ```
//!
//! QEMU has no path to anything: sockets are bound, files opened and taps made by Hull and handed over as descriptors.
//! The VM's directory stays root's alone. What a QEMU can reach that its guest has taken over is told in `confine`.

mod agent;
mod cgroup;
mod cmdline;
mod confine;
mod console;
mod forbidden;
mod inputs;
mod log;
mod migrate;
mod monitor;
mod nics;
mod probe;
mod process;
mod record;
mod resize;
mod root;
mod shape;
pub(crate) mod sockets;
mod start;
mod translations;
mod uid;
mod vmm;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use hull_types::{
    error::{Error, Result},
    id::VmId,
    vm::{Accel, Vmm as VmmInfo},
};
use tokio::sync::{OnceCell, watch};

pub use self::cgroup::IoLimit;
use self::{
    cgroup::Cgroups,
    monitor::post_mortem,
    record::{Files, Stage},
    uid::Uids,
    vmm::{QemuVmm, Shared},
};
use super::{Hypervisor, HypervisorFacts, RunState, Vmm, VmmSpec, qmp::Client};

/// How QEMU is used on this host.
#[derive(Clone, Debug)]
pub struct QemuConfig {
    /// The program.
    pub program: PathBuf,
    /// The host's (not one data directory's) place for what lasts until its next boot: claims on user ids, the
    /// acceleration probe's answer.
    pub run_dir: PathBuf,
    /// How often a machine is asked what it is doing, beside its events.
    pub ping_every: Duration,
    /// How long it may take to answer before it counts as hung.
    pub hung_after: Duration,
    /// Use this accelerator and prove nothing.
    pub accel: Option<Accel>,
    /// How hard one machine's processes may press one disk of the host.
    pub io: IoLimit,
}

impl Default for QemuConfig {
    fn default() -> Self {
        Self {
            program: "/usr/bin/qemu-system-x86_64".into(),
            run_dir: "/run/hull".into(),
            ping_every: Duration::from_secs(10),
            hung_after: Duration::from_secs(10),
            accel: None,
            io: IoLimit::default(),
        }
    }
}

/// QEMU on this host.
pub struct QemuHypervisor {
    config: QemuConfig,
    uids: Uids,
    cgroups: Cgroups,
    facts: OnceCell<HypervisorFacts>,
}

impl QemuHypervisor {
    /// QEMU, used so.
    pub fn new(config: QemuConfig) -> Self {
        let uids = Uids::new(config.run_dir.join("uids"));
        Self { uids, cgroups: Cgroups::detect(), facts: OnceCell::new(), config }
    }

    async fn proven(&self) -> Result<&HypervisorFacts> {
        self.facts.get_or_try_init(|| probe::facts(&self.config)).await
    }
}

#[async_trait]
impl Hypervisor for QemuHypervisor {
    async fn facts(&self) -> Result<HypervisorFacts> {
        let mut facts = self.proven().await?.clone();
        facts.unfenced = self.cgroups.lacking();
        if !confine::has_landlock() {
            facts.unfenced.push("Landlock (a kernel of 5.13 or later, with `landlock` in its list of LSMs)".to_owned());
        }
        Ok(facts)
    }

    async fn start(&self, spec: VmmSpec) -> Result<Arc<dyn Vmm>> {
        Ok(Arc::new(Box::pin(start::start(self, spec)).await?))
    }

    async fn adopt(&self, vm: VmId, dir: &Path) -> Result<Option<Arc<dyn Vmm>>> {
        let Some((record, process)) = self.find(vm, dir).await? else { return Ok(None) };
        let Stage::Launched { pid, started_at, .. } = record.stage else { return Ok(None) };
        let info = VmmInfo { pid, started_at, accel: record.accel };
        let files = Files::new(dir);
        let Some(process) = process else {
            let exit = post_mortem(&files, &record, self.cgroups.oom_kills(vm) > 0);
            return Ok(Some(Arc::new(vmm::Ended { info, files, state: watch::channel(RunState::Exited(exit)).0 })));
        };
        let vmm = QemuVmm::new(Shared {
            vm,
            info,
            config: self.config.clone(),
            qmp: Client::open(files.qmp(), process.gone()),
            process,
            files,
            cgroups: self.cgroups.clone(),
            // Until it has said better, just below.
            state: watch::channel(RunState::Paused).0,
            record: Mutex::new(record),
        });
        vmm.refresh().await?;
        Ok(Some(Arc::new(vmm)))
    }

    async fn console_log(&self, dir: &Path, most: usize) -> Result<Vec<u8>> {
        log::tail(&Files::new(dir).console_log(), most)
            .map_err(|error| Error::internal(format!("cannot read the console log in {}: {error}", dir.display())))
    }

    async fn clear(&self, vm: VmId, dir: &Path) -> Result<()> {
        match self.find(vm, dir).await? {
            Some((_, Some(process))) => {
                Err(Error::conflict(format!("QEMU of {vm:?} (pid {}) still runs: quit it first", process.pid)))
            }
            Some((_, None)) | None => self.clear_all(vm, dir).await,
        }
    }
}
