//! A host that exists in memory only: processes, disks, networks and files that outlive the node's runtime.
//!
//! ```text
//!   node runtime (may crash) ──► Doors (Hypervisor, Networks, Disks, Records, Host) ──► Host (goes on)
//!                                   └─ closed by a crash: whoever still knocks waits for ever
//! ```
//!
//! Each start of the runtime gets doors of its own. A crash closes them, so that a task that survived it in this process
//! (which a real crash would have killed) cannot touch the host any more. What breaks a promise while the host looks on
//! ("a second hypervisor for one disk") is written down in [`Host::broken`].

mod disks;
mod guests;
mod handover;
mod hypervisor;
mod machine;
mod networks;
mod records;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hull_node::hypervisor::{PluggedNic, RunState};
use hull_types::{
    error::{Error, Result},
    id::{NetworkId, RouterId, VmId},
    units::Bytes,
    vm::{Exit, ExitCause},
};
use serde::{Deserialize, Serialize};

pub use self::{guests::Guests, machine::Machine};
use crate::{clock::SimClock, fate::Fate, fuse::Fuse};

/// What of a VM's disks is on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSet {
    /// Root disks by generation, with their sizes.
    pub roots: BTreeMap<u64, Bytes>,
    /// Whether there is a rescue overlay.
    pub rescue: bool,
    /// Whether there is a seed.
    pub seed: bool,
    /// How often a guest has run on it: saved memory fits only the disk it was saved with.
    pub runs: u64,
    /// Whether only a part of it came from another host, or not all of it at one time.
    pub torn: bool,
}

/// A machine's memory in a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Saved {
    /// How often a guest had run on its disk.
    runs: u64,
    /// The NICs it had, and has when it is restored.
    nics: Vec<PluggedNic>,
}

/// What goes wrong here, until it is mended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The disk is full.
    pub disk_full: bool,
    /// So many starts fail.
    pub starts_fail: u32,
    /// So many network changes fail.
    pub networks_fail: u32,
}

#[derive(Default)]
struct Inner {
    boot: u64,
    machines: BTreeMap<VmId, Arc<Machine>>,
    disks: BTreeMap<VmId, DiskSet>,
    saved: BTreeMap<PathBuf, Saved>,
    networks: BTreeSet<NetworkId>,
    routers: BTreeSet<RouterId>,
    metadata: BTreeSet<VmId>,
    records: BTreeMap<VmId, String>,
    told: Option<String>,
    told_routers: Option<String>,
    faults: Faults,
    broken: Vec<String>,
    pids: u32,
}

/// A host.
pub struct Host {
    /// Its name.
    pub name: String,
    fate: Arc<Fate>,
    clock: SimClock,
    guests: Arc<Guests>,
    /// Closes the doors of the runtime's present life.
    pub fuse: Fuse,
    inner: Mutex<Inner>,
}

impl Host {
    /// A host that has just booted for the first time.
    pub fn new(name: &str, fate: Arc<Fate>, clock: SimClock, guests: Arc<Guests>) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), fate, clock, guests, fuse: Fuse::default(), inner: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Doors for one life of the runtime.
    pub fn doors(self: &Arc<Self>) -> Doors {
        Doors { host: self.clone(), open: Arc::new(AtomicBool::new(true)) }
    }

    /// What goes wrong from now.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        let halted: Vec<Arc<Machine>> = {
            let mut inner = self.lock();
            change(&mut inner.faults);
            if inner.faults.disk_full { inner.machines.values().cloned().collect() } else { Vec::new() }
        };
        // A guest that writes now is halted by the full disk.
        for machine in halted.into_iter().filter(|_| self.fate.chance(30)) {
            machine.change(&[RunState::Running], RunState::IoError);
        }
    }

    /// The machines that are alive.
    pub fn alive(&self) -> Vec<Arc<Machine>> {
        self.lock().machines.values().filter(|machine| machine.is_alive()).cloned().collect()
    }

    /// The power goes and comes back: every process dies, the disk stays.
    pub fn reboot(&self) {
        let mut inner = self.lock();
        inner.boot += 1;
        for machine in inner.machines.values().filter(|machine| machine.is_alive()) {
            let detail = "the host went down under it".to_owned();
            machine.exit(Exit { at: self.clock.now(), cause: ExitCause::HostReboot, detail });
        }
        inner.networks.clear();
        inner.routers.clear();
        inner.metadata.clear();
    }

    /// Promises broken here.
    pub fn broken(&self) -> Vec<String> {
        self.lock().broken.clone()
    }

    /// Whether all of a VM that came from another host is here.
    pub fn has_whole(&self, vm: VmId) -> bool {
        self.lock().disks.get(&vm).is_some_and(|disks| !disks.torn)
    }

    /// The VMs of which anything is here, and what.
    pub fn holds(&self) -> BTreeMap<VmId, Vec<&'static str>> {
        let inner = self.lock();
        let mut held = BTreeMap::<VmId, Vec<&'static str>>::new();
        let mut add = |vm: VmId, what| held.entry(vm).or_default().push(what);
        inner.machines.keys().for_each(|&vm| add(vm, "a process"));
        inner.disks.keys().for_each(|&vm| add(vm, "disks"));
        inner.records.keys().for_each(|&vm| add(vm, "a record"));
        inner.metadata.iter().for_each(|&vm| add(vm, "metadata"));
        let of = |path: &PathBuf| path.parent()?.file_name()?.to_str()?.parse().ok();
        inner.saved.keys().filter_map(of).for_each(|vm| add(VmId(vm), "saved memory"));
        held
    }

    /// What is left here, by kind; all empty where nothing leaked.
    pub fn leftovers(&self) -> BTreeMap<&'static str, Vec<String>> {
        let inner = self.lock();
        let vms = |ids: Vec<&VmId>| ids.into_iter().map(ToString::to_string).collect::<Vec<_>>();
        BTreeMap::from([
            ("processes", vms(inner.machines.keys().collect())),
            ("disks", vms(inner.disks.keys().collect())),
            ("records", vms(inner.records.keys().collect())),
            ("metadata", vms(inner.metadata.iter().collect())),
            ("saved memory", inner.saved.keys().map(|path| path.display().to_string()).collect()),
            ("networks", inner.networks.iter().map(ToString::to_string).collect()),
            ("routers", inner.routers.iter().map(ToString::to_string).collect()),
        ])
    }

    fn broke(&self, what: &str) {
        self.lock().broken.push(format!("{}: {what}", self.name));
    }
}

/// The host as one life of the runtime reaches it.
#[derive(Clone)]
pub struct Doors {
    host: Arc<Host>,
    open: Arc<AtomicBool>,
}

impl Doors {
    /// The runtime is dead: nothing it left running reaches the host any more.
    pub fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    /// Work that takes at most this long. Never returns once the doors are closed.
    async fn takes(&self, at_most: Duration) {
        self.alive().await;
        self.host.fate.takes(at_most).await;
        self.alive().await;
    }

    async fn alive(&self) {
        if self.host.fuse.burns() {
            self.close();
        }
        if !self.open.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    fn space(&self) -> Result<()> {
        if self.host.lock().faults.disk_full {
            return Err(Error::insufficient("the disk that holds the VMs is full; free some space"));
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl hull_node::host::Host for Doors {
    async fn facts(&self) -> Result<hull_node::host::HostFacts> {
        self.alive().await;
        Ok(hull_node::host::HostFacts {
            cpu_model: None,
            hostname: self.host.name.clone(),
            kernel: "6.1.0-sim".to_owned(),
            cpus: 64,
            memory: Bytes::gib(256),
            memory_available: Bytes::gib(200),
            disk: Bytes::gib(4096),
            boot_id: format!("{}-boot-{}", self.host.name, self.host.lock().boot),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_node::{
        hypervisor::{Hypervisor, VmmSpec},
        vm::handover::{Handover, Progress},
    };
    use hull_types::flavor::Resources;
    use uuid::Uuid;

    use super::*;

    fn spec() -> VmmSpec {
        VmmSpec {
            vm: VmId(Uuid::from_u128(1)),
            dir: PathBuf::from("/sim/vm"),
            name: "web".into(),
            profile: Default::default(),
            firmware: Default::default(),
            secure_boot: false,
            tpm: false,
            resources: Resources { vcpus: 1, memory: Bytes::mib(64), disk: Bytes::ZERO },
            disks: vec![],
            kernel: None,
            nics: vec![],
            restore: None,
            paused: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_hypervisor_and_a_forgotten_one_are_seen() {
        let host = Host::new("h", Arc::new(Fate::new(1)), SimClock::new(), Arc::default());
        let doors = host.doors();
        doors.start(spec()).await.unwrap();
        assert!(host.broken().is_empty());
        doors.start(spec()).await.unwrap();
        assert!(host.broken()[0].contains("a second hypervisor"));
        doors.clear(spec().vm, &spec().dir).await.unwrap();
        assert!(host.broken()[1].contains("was forgotten"));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_goes_with_the_disk_it_was_saved_with_only() {
        let host = Host::new("h", Arc::new(Fate::new(1)), SimClock::new(), Arc::default());
        let doors = host.doors();
        let file = PathBuf::from("/sim/vm/memory");
        let vmm = doors.start(spec()).await.unwrap();
        vmm.save(&file).await.unwrap();
        vmm.quit().await.unwrap();
        let restore = || VmmSpec { restore: Some(file.clone()), paused: true, ..spec() };
        let vmm = doors.start(restore()).await.unwrap();
        vmm.resume().await.unwrap();
        vmm.quit().await.unwrap();
        assert_eq!(host.broken(), [""; 0]);
        doors.start(restore()).await.unwrap();
        assert!(host.broken()[0].contains("moved on"));
    }

    /// A host, and another of the same cloud to which the VM's disk came while it ran here.
    async fn two_hosts() -> (Arc<Host>, Arc<Host>, Arc<dyn hull_node::hypervisor::Vmm>) {
        let (guests, fate, clock) = (Arc::<Guests>::default(), Arc::new(Fate::new(1)), SimClock::new());
        let (one, other) =
            (Host::new("one", fate.clone(), clock, guests.clone()), Host::new("other", fate, clock, guests));
        let vmm = one.doors().start(spec()).await.unwrap();
        let carried = hull_node::plan::record::Record::new(spec().vm).carried();
        let (mut near, mut far) = tokio::io::duplex(64);
        let (from, to, progress) = (one.doors(), other.doors(), Progress::default());
        let (given, taken) =
            tokio::join!(from.give(spec().vm, carried.clone(), &mut near), to.take(spec().vm, &mut far, &progress));
        given.unwrap();
        assert_eq!(taken.unwrap(), carried);
        assert_eq!([one.broken(), other.broken()].concat(), [""; 0]);
        (one, other, vmm)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_while_a_guest_ran_is_not_whole() {
        let (_, other, vmm) = two_hosts().await;
        vmm.quit().await.unwrap();
        assert!(!other.has_whole(spec().vm));
        other.doors().start(spec()).await.unwrap();
        assert!(other.broken()[0].contains("did not come whole"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_on_two_hosts_and_one_on_an_old_disk_are_seen() {
        let (one, other, vmm) = two_hosts().await;
        other.lock().disks.entry(spec().vm).or_default().torn = false;
        other.doors().start(spec()).await.unwrap();
        assert!(other.broken()[0].contains("while it lives on one"), "{:?}", other.broken());
        vmm.quit().await.unwrap();
        let vmm = other.doors().adopt(spec().vm, &spec().dir).await.unwrap().unwrap();
        vmm.quit().await.unwrap();
        assert_eq!((one.broken().len(), other.broken().len()), (0, 1));
        one.doors().start(spec()).await.unwrap();
        assert!(one.broken()[0].contains("has seen 1 runs, the newest has seen 2"), "{:?}", one.broken());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_half_is_not_whole() {
        let host = Host::new("h", Arc::new(Fate::new(1)), SimClock::new(), Arc::default());
        let carried = hull_node::plan::record::Record::new(spec().vm).carried();
        let (mut near, mut far) = tokio::io::duplex(64);
        let (from, to, progress) = (host.doors(), host.doors(), Progress::default());
        let given = async {
            _ = tokio::time::timeout(Duration::from_millis(700), from.give(spec().vm, carried, &mut near)).await;
            drop(near);
        };
        let ((), taken) = tokio::join!(given, to.take(spec().vm, &mut far, &progress));
        assert!(taken.unwrap_err().detail.contains("broke"));
        assert!(host.holds().contains_key(&spec().vm) && !host.has_whole(spec().vm));
    }

    #[tokio::test(start_paused = true)]
    async fn closed_doors_let_nobody_through() {
        let host = Host::new("h", Arc::new(Fate::new(1)), SimClock::new(), Arc::default());
        let doors = host.doors();
        doors.close();
        let through = tokio::time::timeout(Duration::from_secs(3600), doors.start(spec())).await;
        assert!(through.is_err() && host.alive().is_empty());
    }
}
