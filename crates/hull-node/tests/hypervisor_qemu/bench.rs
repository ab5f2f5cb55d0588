//! A bench with one VM on it: its directory, its hypervisor, and waiting with deadlines. Nothing outlives it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hull_node::hypervisor::{
    Hypervisor, KernelSpec, RunState, Vmm, VmmSpec,
    qemu::{QemuConfig, QemuHypervisor},
};
use hull_testkit::{
    eventually, eventually_blocking,
    guest::{READY, TinyGuest},
};
use hull_types::{
    flavor::Resources,
    id::VmId,
    units::Bytes,
    vm::{Accel, Firmware, Profile},
};
use tokio::{io::AsyncReadExt, time::timeout};

/// Generous: the machine may be busy with everything else.
pub(crate) const DEADLINE: Duration = Duration::from_secs(240);

pub(crate) struct Bench {
    pub(crate) vm: VmId,
    pub(crate) dir: PathBuf,
    pub(crate) hypervisor: QemuHypervisor,
    _root: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(config())
    }

    pub(crate) fn with(config: QemuConfig) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("vm");
        std::fs::create_dir(&dir).unwrap();
        Self { vm: VmId(uuid::Uuid::now_v7()), dir, hypervisor: QemuHypervisor::new(config), _root: root }
    }

    /// A machine of this profile with the tiny guest in it and these words for its kernel.
    pub(crate) fn guest(&self, profile: Profile, words: &str) -> VmmSpec {
        self.boot(profile, &TinyGuest::get().unwrap(), words)
    }

    /// The same with the guest agent.
    pub(crate) fn guest_with_agent(&self) -> VmmSpec {
        self.boot(Profile::Pc, &TinyGuest::with_agent().unwrap(), "hull.net=off")
    }

    fn boot(&self, profile: Profile, guest: &TinyGuest, words: &str) -> VmmSpec {
        let cmdline = match profile {
            Profile::Pc => TinyGuest::pc_cmdline(),
            Profile::Micro => TinyGuest::micro_cmdline(),
        };
        let kernel = KernelSpec {
            kernel: guest.kernel.clone(),
            initrd: Some(guest.initrd.clone()),
            cmdline: format!("{cmdline} {words}"),
        };
        VmmSpec { kernel: Some(kernel), profile, ..self.empty() }
    }

    /// A machine with nothing in it: its firmware finds nothing to boot and waits.
    pub(crate) fn empty(&self) -> VmmSpec {
        VmmSpec {
            vm: self.vm,
            dir: self.dir.clone(),
            name: "test, with a comma".into(),
            profile: Profile::Pc,
            firmware: Firmware::Bios,
            secure_boot: false,
            tpm: false,
            resources: Resources { vcpus: 1, memory: Bytes::mib(256), disk: Bytes::ZERO },
            disks: vec![],
            kernel: None,
            nics: vec![],
            restore: None,
            paused: false,
        }
    }

    pub(crate) async fn start(&self, spec: VmmSpec) -> Arc<dyn Vmm> {
        self.hypervisor.start(spec).await.unwrap()
    }

    /// Starts it and waits until the guest is up.
    pub(crate) async fn start_ready(&self, spec: VmmSpec) -> Arc<dyn Vmm> {
        let vmm = self.start(spec).await;
        wait_console(&*vmm, READY).await;
        vmm
    }

    /// A VM of the same directory as a new Hull finds it.
    pub(crate) async fn adopt(&self) -> Option<Arc<dyn Vmm>> {
        QemuHypervisor::new(config()).adopt(self.vm, &self.dir).await.unwrap()
    }

    /// Processes of the VM's user.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.uid().map(processes_of).unwrap_or_default()
    }

    /// The VM's user, as recorded.
    pub(crate) fn uid(&self) -> Option<u32> {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(self.dir.join("vmm.json")).ok()?).ok()?;
        Some(u32::try_from(record["uid"].as_u64()?).unwrap())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for pid in self.processes() {
            kill(pid, rustix::process::Signal::KILL);
        }
        // Freed by the next `clear` on a real node; here there is none.
        if let Some(uid) = self.uid() {
            let _ = std::fs::remove_file(Path::new("/run/hull/uids").join(uid.to_string()));
        }
        let emptied = || groups_of(self.vm).iter().try_for_each(std::fs::remove_dir);
        // A group that outlasts its killed processes is the kernel's; dropping must not panic.
        let _ = eventually_blocking("groups without processes", Duration::from_secs(5), emptied);
    }
}

/// Quick to notice a hung QEMU. TCG, because these tests are not about acceleration.
pub(crate) fn config() -> QemuConfig {
    QemuConfig {
        ping_every: Duration::from_millis(500),
        hung_after: Duration::from_secs(3),
        accel: Some(Accel::Tcg),
        ..QemuConfig::default()
    }
}

pub(crate) fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It may have ended.
    let _ = rustix::process::kill_process(pid, signal);
}

pub(crate) fn processes_of(uid: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| field(*pid, "Uid:").starts_with(&format!("{uid}\t")) && !field(*pid, "State:").starts_with('Z'))
        .collect()
}

/// A field of `/proc/PID/status`.
pub(crate) fn field(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
}

/// The VM's control groups.
pub(crate) fn groups_of(vm: VmId) -> Vec<PathBuf> {
    let below = |path: PathBuf| path.join("hull").join(vm.to_string());
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().map(|entry| entry.unwrap().path());
    hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(below).filter(|path| path.exists()).collect()
}

pub(crate) async fn wait_state(vmm: &dyn Vmm, wanted: impl Fn(&RunState) -> bool) -> RunState {
    let mut state = vmm.state();
    let found = timeout(DEADLINE, state.wait_for(wanted)).await;
    match found {
        Ok(state) => state.unwrap().clone(),
        Err(_) => panic!("still {:?} after {DEADLINE:?}", vmm.state().borrow()),
    }
}

pub(crate) async fn wait_console(vmm: &dyn Vmm, text: &str) -> String {
    let seen = || async {
        let seen = String::from_utf8_lossy(&vmm.console_log(1 << 20).await.unwrap()).into_owned();
        if seen.contains(text) { Ok(seen) } else { Err(seen) }
    };
    eventually(&format!("{text:?} on the console"), DEADLINE, seen).await.unwrap()
}

/// Reads a stream until it has shown the text.
pub(crate) async fn read_until(stream: &mut (impl tokio::io::AsyncRead + Unpin + ?Sized), text: &str) -> String {
    let mut seen = Vec::new();
    let read = timeout(DEADLINE, async {
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the stream ended before {text:?}");
            seen.extend_from_slice(&buffer[..count]);
            if String::from_utf8_lossy(&seen).contains(text) {
                return;
            }
        }
    });
    let found = read.await.is_ok();
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(found, "never saw {text:?}; the stream: {seen}");
    seen
}
