//! A host in memory for the node's tests: what is here outlives the node, as on a real host.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use hull_types::{
    Timestamp,
    digest::Digest,
    error::{Error, Result},
    flavor::Resources,
    id::{NetworkId, PortId, RouterId, VmId},
    image::ImageContent,
    link::{DesiredNetwork, DesiredRouter, ExecResult},
    network::Mac,
    path::{PathQuery, PathReport},
    units::Bytes,
    vm::{Accel, Exit, ExitCause, Vmm as VmmInfo},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::Instant,
};

use crate::{
    host::{Clock, Host, HostFacts},
    hypervisor::{
        ByteStream, DiskSpec, Hypervisor, HypervisorFacts, NicSpec, Plugged, PluggedNic, Resized, RunState, Vmm,
        VmmSpec,
    },
    network::{GuestMetadata, Networks},
    node::Drivers,
    plan::record::{Carried, Record},
    storage::{Disks, ImageSource},
    vm::{
        handover::{Handover, Progress},
        records::Records,
    },
};

/// All that a host holds.
#[derive(Default)]
pub(super) struct State {
    pub(super) processes: BTreeMap<VmId, Arc<FakeVmm>>,
    pub(super) started: u32,
    pub(super) disks: BTreeMap<VmId, BTreeSet<u64>>,
    pub(super) networks: BTreeSet<NetworkId>,
    pub(super) routers: BTreeSet<RouterId>,
    pub(super) metadata: BTreeMap<VmId, GuestMetadata>,
    pub(super) records: BTreeMap<VmId, Record>,
    pub(super) told_networks: Vec<DesiredNetwork>,
    pub(super) told_routers: Vec<DesiredRouter>,
    pub(super) boot: u32,
    /// How far the wall's clock was set, in seconds.
    pub(super) wall: i64,
    /// Guests do not heed the power button.
    pub(super) deaf: bool,
    /// Making disks never ends.
    pub(super) disks_hang: bool,
    /// Networks cannot be made.
    pub(super) networks_fail: bool,
    /// NICs of a machine that was saved.
    pub(super) saved_nics: Arc<Mutex<Vec<PluggedNic>>>,
}

/// A host.
#[derive(Clone)]
pub(super) struct FakeHost {
    state: Arc<Mutex<State>>,
    epoch: Instant,
}

impl FakeHost {
    pub(super) fn new() -> Self {
        Self { state: Arc::default(), epoch: Instant::now() }
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap())
    }

    pub(super) fn drivers(&self) -> Drivers {
        let host = Arc::new(self.clone());
        Drivers {
            hypervisor: host.clone(),
            networks: host.clone(),
            disks: host.clone(),
            images: host.clone(),
            handover: host.clone(),
            records: host.clone(),
            host: host.clone(),
            clock: host,
        }
    }

    /// The host loses power and comes back.
    pub(super) fn reboot(&self) {
        self.with(|state| {
            state.boot += 1;
            state.processes.clear();
            state.networks.clear();
            state.routers.clear();
            state.metadata.clear();
        });
    }
}

#[async_trait]
impl Handover for FakeHost {
    async fn give(&self, _vm: VmId, carried: Carried, to: &mut (dyn AsyncWrite + Send + Unpin)) -> Result<()> {
        let told = serde_json::to_vec(&carried).unwrap();
        to.write_all(&told).await.map_err(|e| Error::unavailable(e.to_string()))
    }

    async fn take(&self, vm: VmId, from: &mut (dyn AsyncRead + Send + Unpin), _: &Progress) -> Result<Carried> {
        let mut told = Vec::new();
        from.read_to_end(&mut told).await.map_err(|e| Error::unavailable(e.to_string()))?;
        let carried: Carried = serde_json::from_slice(&told).map_err(|e| Error::unavailable(e.to_string()))?;
        let generations = carried.disk.iter().map(|disk| disk.generation).collect();
        self.with(|state| state.disks.insert(vm, generations));
        Ok(carried)
    }
}

impl Clock for FakeHost {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + self.with(|state| state.wall)).unwrap() + self.epoch.elapsed()
    }

    fn uptime(&self) -> Duration {
        self.epoch.elapsed()
    }
}

#[async_trait]
impl Host for FakeHost {
    async fn facts(&self) -> Result<HostFacts> {
        Ok(HostFacts {
            cpu_model: None,
            hostname: "fake".into(),
            kernel: "6.1".into(),
            cpus: 4,
            memory: Bytes::gib(8),
            memory_available: Bytes::gib(8),
            disk: Bytes::gib(100),
            boot_id: format!("boot-{}", self.with(|state| state.boot)),
        })
    }
}

/// How a change of a device goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It fails and changes nothing.
    Before,
    /// It takes effect and says it failed.
    After,
    /// It takes effect and nobody hears of it: the node dies meanwhile.
    Silent,
}

/// What was asked of a process's NICs.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) made: Vec<String>,
    pub(super) wrong: Option<Wrong>,
}

/// A process.
pub(super) struct FakeVmm {
    pub(super) pid: u32,
    pub(super) state: watch::Sender<RunState>,
    now: Timestamp,
    deaf: bool,
    pub(super) nics: Mutex<Vec<PluggedNic>>,
    pub(super) changes: Mutex<Changes>,
    saved_nics: Arc<Mutex<Vec<PluggedNic>>>,
}

impl FakeVmm {
    fn set(&self, state: RunState) -> Result<()> {
        self.state.send_replace(state);
        Ok(())
    }

    async fn change(&self, what: String, effect: impl FnOnce(&mut Vec<PluggedNic>)) -> Result<Plugged> {
        let wrong = {
            let mut changes = self.changes.lock().unwrap();
            changes.made.push(what);
            changes.wrong.take()
        };
        if wrong != Some(Wrong::Before) {
            effect(&mut self.nics.lock().unwrap());
        }
        match wrong {
            None => Ok(Plugged::Now),
            Some(Wrong::Before | Wrong::After) => Err(Error::timeout("the guest does not let go")),
            Some(Wrong::Silent) => std::future::pending().await,
        }
    }

    pub(super) fn exit(&self, cause: ExitCause) {
        self.state.send_replace(RunState::Exited(Exit { at: self.now, cause, detail: "signal 9".into() }));
    }
}

#[async_trait]
impl Hypervisor for FakeHost {
    async fn facts(&self) -> Result<HypervisorFacts> {
        Ok(HypervisorFacts { version: "7.2".into(), accel: Accel::Tcg, fallback: None, unfenced: Vec::new() })
    }

    async fn console_log(&self, _dir: &Path, _tail: usize) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    async fn start(&self, spec: VmmSpec) -> Result<Arc<dyn Vmm>> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = self.now();
        self.with(|state| {
            assert!(!state.processes.contains_key(&spec.vm), "a second process for one VM");
            state.started += 1;
            let first = if spec.paused { RunState::Paused } else { RunState::Running };
            let deaf = state.deaf;
            let nics = spec.nics.iter().map(|nic| PluggedNic { port: nic.port, mac: nic.mac }).collect();
            let nics = if spec.restore.is_some() { state.saved_nics.lock().unwrap().clone() } else { nics };
            let vmm = Arc::new(FakeVmm {
                pid: state.started,
                state: watch::channel(first).0,
                now,
                deaf,
                nics: Mutex::new(nics),
                changes: Mutex::default(),
                saved_nics: state.saved_nics.clone(),
            });
            state.processes.insert(spec.vm, vmm.clone());
            Ok(vmm as Arc<dyn Vmm>)
        })
    }

    async fn adopt(&self, vm: VmId, _: &Path) -> Result<Option<Arc<dyn Vmm>>> {
        Ok(self.with(|state| state.processes.get(&vm).cloned()).map(|vmm| vmm as Arc<dyn Vmm>))
    }

    async fn clear(&self, vm: VmId, _: &Path) -> Result<()> {
        self.with(|state| state.processes.remove(&vm));
        Ok(())
    }
}

#[async_trait]
impl Vmm for FakeVmm {
    fn info(&self) -> VmmInfo {
        VmmInfo { pid: self.pid, started_at: self.now, accel: Accel::Tcg }
    }
    fn state(&self) -> watch::Receiver<RunState> {
        self.state.subscribe()
    }
    async fn refresh(&self) -> Result<RunState> {
        Ok(self.state.borrow().clone())
    }
    async fn resume(&self) -> Result<()> {
        self.set(RunState::Running)
    }
    async fn pause(&self) -> Result<()> {
        self.set(RunState::Paused)
    }
    async fn power_button(&self) -> Result<()> {
        if self.deaf {
            return Ok(());
        }
        self.set(RunState::GuestShutdown)
    }
    async fn reset(&self) -> Result<()> {
        Ok(())
    }
    async fn quit(&self) -> Result<()> {
        self.exit(ExitCause::Requested);
        Ok(())
    }
    async fn save(&self, _: &Path) -> Result<()> {
        *self.saved_nics.lock().unwrap() = self.nics.lock().unwrap().clone();
        self.set(RunState::Paused)
    }
    async fn resize(&self, to: Resources) -> Result<Resized> {
        Ok(Resized { now: Some(to), pending: vec![] })
    }
    async fn nics(&self) -> Result<Vec<PluggedNic>> {
        Ok(self.nics.lock().unwrap().clone())
    }
    async fn attach_nic(&self, nic: NicSpec) -> Result<Plugged> {
        self.change(format!("+{}", nic.mac), |nics| {
            assert!(nics.iter().all(|held| held.port != nic.port), "a port was plugged in twice");
            nics.push(PluggedNic { port: nic.port, mac: nic.mac });
        })
        .await
    }
    async fn detach_nic(&self, port: PortId) -> Result<Plugged> {
        self.change(format!("-{port}"), |nics| nics.retain(|held| held.port != port)).await
    }
    async fn grow_disk(&self, _: &str, _: Bytes) -> Result<()> {
        Ok(())
    }
    async fn console(&self) -> Result<Box<dyn ByteStream>> {
        let (near, mut far) = tokio::io::duplex(64);
        far.write_all(b"login: ").await.unwrap();
        tokio::spawn(async move { far.shutdown().await });
        Ok(Box::new(near))
    }
    async fn vnc(&self) -> Result<Box<dyn ByteStream>> {
        self.console().await
    }
    async fn console_log(&self, _: usize) -> Result<Vec<u8>> {
        Ok(b"booted".to_vec())
    }
    async fn screenshot(&self) -> Result<Vec<u8>> {
        Ok(vec![])
    }
    async fn agent_ping(&self) -> Result<()> {
        Err(Error::unavailable("no agent"))
    }
    async fn agent_exec(&self, _: Vec<String>, _: Vec<u8>, _: Duration) -> Result<ExecResult> {
        Err(Error::unavailable("no agent"))
    }
    async fn set_password(&self, _: &str, _: &str) -> Result<()> {
        Ok(())
    }
    async fn quiesce(&self, _: Duration) -> Result<u64> {
        Ok(1)
    }
    async fn thaw(&self) -> Result<u64> {
        Ok(1)
    }
}

#[async_trait]
impl Networks for FakeHost {
    async fn apply(&self, network: &DesiredNetwork) -> Result<()> {
        self.with(|state| {
            if state.networks_fail {
                return Err(Error::internal("nft: broken"));
            }
            state.networks.insert(network.id);
            Ok(())
        })
    }
    async fn remove(&self, network: NetworkId) -> Result<()> {
        self.with(|state| {
            assert!(state.processes.is_empty(), "a network was removed under a VM");
            state.networks.remove(&network);
            Ok(())
        })
    }
    async fn list(&self) -> Result<Vec<NetworkId>> {
        Ok(self.with(|state| state.networks.iter().copied().collect()))
    }
    async fn apply_router(&self, router: &DesiredRouter) -> Result<()> {
        self.with(|state| {
            if router.subnets.iter().any(|subnet| !state.networks.contains(&subnet.network)) {
                return Err(Error::unavailable("a router before its network"));
            }
            state.routers.insert(router.id);
            Ok(())
        })
    }
    async fn remove_router(&self, router: RouterId) -> Result<()> {
        self.with(|state| state.routers.remove(&router));
        Ok(())
    }
    async fn routers(&self) -> Result<Vec<RouterId>> {
        Ok(self.with(|state| state.routers.iter().copied().collect()))
    }
    async fn tap(&self, network: NetworkId, _: PortId) -> Result<OwnedFd> {
        assert!(self.with(|state| state.networks.contains(&network)), "a tap on no network");
        Ok(std::fs::File::open("/dev/null").unwrap().into())
    }
    async fn set_metadata(&self, metadata: GuestMetadata) -> Result<()> {
        self.with(|state| state.metadata.insert(metadata.vm, metadata));
        Ok(())
    }
    async fn forget_metadata(&self, vm: VmId) -> Result<()> {
        self.with(|state| state.metadata.remove(&vm));
        Ok(())
    }
    async fn connect(&self, _: NetworkId, _: std::net::IpAddr, _: u16) -> Result<Box<dyn ByteStream>> {
        Err(Error::unavailable("nobody listens"))
    }
    async fn explain_path(&self, _: PathQuery) -> Result<PathReport> {
        Err(Error::unsupported("a host without a kernel has no paths"))
    }
    async fn explain(&self, _: NetworkId, _: PortId) -> Result<Vec<String>> {
        Ok(vec!["port up".into()])
    }
}

#[async_trait]
impl ImageSource for FakeHost {
    async fn fetch(&self, digest: Digest) -> Result<PathBuf> {
        Ok(PathBuf::from(digest.hex()))
    }
}

fn disk(id: &str) -> DiskSpec {
    DiskSpec { id: id.into(), path: id.into(), qcow2: true, backing: vec![], read_only: false, boot_index: None }
}

#[async_trait]
impl Disks for FakeHost {
    async fn root(&self, vm: VmId, generation: u64, _: &ImageContent, _: Bytes) -> Result<DiskSpec> {
        if self.with(|state| state.disks_hang) {
            std::future::pending::<()>().await;
        }
        self.with(|state| state.disks.entry(vm).or_default().insert(generation));
        Ok(disk("root"))
    }
    async fn rescue(&self, _: VmId, _: &ImageContent) -> Result<DiskSpec> {
        Ok(disk("rescue"))
    }
    async fn remove_rescue(&self, _: VmId) -> Result<()> {
        Ok(())
    }
    async fn seed(&self, _: &GuestMetadata, _: &[Mac]) -> Result<DiskSpec> {
        Ok(disk("seed"))
    }
    async fn grow(&self, _: VmId, _: u64, _: Bytes) -> Result<()> {
        Ok(())
    }
    async fn remove_older(&self, vm: VmId, generation: u64) -> Result<()> {
        self.with(|state| state.disks.entry(vm).or_default().retain(|found| *found >= generation));
        Ok(())
    }
    async fn remove(&self, vm: VmId) -> Result<()> {
        self.with(|state| {
            assert!(!state.processes.contains_key(&vm), "a disk was removed under its process");
            state.disks.remove(&vm);
        });
        Ok(())
    }
    async fn list(&self) -> Result<Vec<VmId>> {
        Ok(self.with(|state| state.disks.keys().copied().collect()))
    }
    async fn free(&self) -> Result<Bytes> {
        Ok(Bytes::gib(50))
    }
}

#[async_trait]
impl Records for FakeHost {
    async fn dir(&self, vm: VmId) -> Result<PathBuf> {
        Ok(PathBuf::from(vm.to_string()))
    }
    async fn load(&self) -> Result<Vec<Record>> {
        Ok(self.with(|state| state.records.values().cloned().collect()))
    }
    async fn save(&self, record: &Record) -> Result<()> {
        self.with(|state| state.records.insert(record.vm, record.clone()));
        Ok(())
    }
    async fn remove(&self, vm: VmId) -> Result<()> {
        self.with(|state| state.records.remove(&vm));
        Ok(())
    }
    async fn remove_saved(&self, _: VmId) -> Result<()> {
        Ok(())
    }
    async fn load_networks(&self) -> Result<Vec<DesiredNetwork>> {
        Ok(self.with(|state| state.told_networks.clone()))
    }
    async fn save_networks(&self, networks: &[DesiredNetwork]) -> Result<()> {
        self.with(|state| state.told_networks = networks.to_vec());
        Ok(())
    }
    async fn load_routers(&self) -> Result<Vec<DesiredRouter>> {
        Ok(self.with(|state| state.told_routers.clone()))
    }
    async fn save_routers(&self, routers: &[DesiredRouter]) -> Result<()> {
        self.with(|state| state.told_routers = routers.to_vec());
        Ok(())
    }
}
