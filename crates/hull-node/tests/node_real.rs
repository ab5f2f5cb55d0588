//! A whole node on a real host: QEMU, namespaces, files; its server played by the test. Needs root.

#![allow(clippy::unwrap_used)]

mod network_kit;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use hull_node::{
    Drivers, Node, NodeConfig, NodeHandle,
    host::{LocalHost, SystemClock},
    hypervisor::qemu::{QemuConfig, QemuHypervisor},
    link::{Connector, Dialled, in_process},
    network::{LinuxNetworks, NetworksConfig},
    storage::{ImageSource, LocalDisks},
    vm::{handover::FileHandover, records::FileRecords},
};
use hull_testkit::guest::{READY, TinyGuest};
use hull_types::{
    Timestamp,
    digest::Digest,
    error::Result,
    flavor::Resources,
    id::{ImageId, NodeId, PortId, ProjectId, StreamId, VmId},
    image::{ImageContent, ImageFormat},
    link::{Desired, DesiredNetwork, DesiredNic, DesiredVm, FromNode, NodeCall, NodeReply, StreamTarget, ToNode},
    meta::Meta,
    name::Name,
    units::Bytes,
    vm::{
        Accel, Boot, ExitCause, ImageRef, PowerIntent, PowerTarget, RebootIntent, RebootKind, RestartPolicy, Vm,
        VmPhase, VmStatus,
    },
};
use network_kit::Bench;
use tokio::{
    io::AsyncReadExt,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

/// Generous: the machine may be busy with everything else.
const DEADLINE: Duration = Duration::from_secs(240);

/// The one image there is.
struct OneImage(PathBuf);

#[async_trait]
impl ImageSource for OneImage {
    async fn fetch(&self, _: Digest) -> Result<PathBuf> {
        Ok(self.0.clone())
    }
}

/// A host whose node can be started again, with the server's end of its link.
struct World {
    bench: Bench,
    dir: tempfile::TempDir,
    image: PathBuf,
    connector: Arc<dyn Connector>,
    dialled: mpsc::Receiver<Dialled>,
    link: Option<(mpsc::Sender<ToNode>, mpsc::Receiver<FromNode>)>,
    statuses: BTreeMap<VmId, VmStatus>,
    calls: u64,
}

impl World {
    fn new() -> Self {
        let (connector, dialled) = in_process();
        // Quicker than the boot menu's own pause would be; the guest itself says when it is up.
        let image = TinyGuest::get().unwrap().disk("").unwrap();
        Self {
            bench: Bench::new(),
            dir: tempfile::tempdir().unwrap(),
            image,
            connector: Arc::new(connector),
            dialled,
            link: None,
            statuses: BTreeMap::new(),
            calls: 0,
        }
    }

    async fn node(&mut self) -> NodeHandle {
        let dir = self.dir.path();
        let images = Arc::new(OneImage(self.image.clone()));
        let mut networks = NetworksConfig::new(dir.join("networks"));
        networks.prefix = self.bench.prefix.clone();
        networks.host_namespace = Some(self.bench.host.namespace_path());
        let qemu = QemuConfig { accel: Some(Accel::Tcg), ..QemuConfig::default() };
        let drivers = Drivers {
            hypervisor: Arc::new(QemuHypervisor::new(qemu)),
            networks: Arc::new(LinuxNetworks::new(networks).unwrap()),
            disks: Arc::new(LocalDisks::new(dir.join("disks"), images.clone())),
            images,
            handover: Arc::new(FileHandover::new(dir.join("disks"), dir)),
            records: Arc::new(FileRecords::new(dir)),
            host: Arc::new(LocalHost::new(dir)),
            clock: Arc::new(SystemClock::new()),
        };
        let config = NodeConfig {
            id: NodeId(Uuid::from_u128(1)),
            zone: "z1".into(),
            hull_version: "test".into(),
            memory_reserved: Bytes::ZERO,
            underlay: None,
            providers: Vec::new(),
        };
        let node = Node::start(config, drivers, self.connector.clone()).await.unwrap();
        self.statuses.clear();
        let dialled = timeout(DEADLINE, self.dialled.recv()).await.unwrap().unwrap();
        let Dialled::Link { to_node, from_node } = dialled else { panic!("a stream nobody asked for") };
        self.link = Some((to_node, from_node));
        node
    }

    async fn tell(&mut self, vms: &[&DesiredVm], networks: &[&DesiredNetwork]) {
        let vms = vms.iter().map(|vm| (*vm).clone()).collect();
        let networks = networks.iter().map(|network| (*network).clone()).collect();
        let desired = Desired { full: true, vms, networks, ..Desired::default() };
        self.link.as_ref().unwrap().0.send(ToNode::Desired(desired)).await.unwrap();
    }

    async fn until(&mut self, vm: &DesiredVm, what: &str, wanted: impl Fn(&VmStatus) -> bool) -> VmStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            let status = self.statuses.get(&vm.vm.id);
            if let Some(status) = status.filter(|status| wanted(status) && status.observed_revision == vm.revision) {
                return status.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            let Ok(message) = timeout(left, self.link.as_mut().unwrap().1.recv()).await else {
                panic!("never {what}: {status:#?}");
            };
            if let FromNode::Vm(status) = message.unwrap() {
                self.statuses.insert(status.vm, *status);
            }
        }
    }

    async fn until_phase(&mut self, vm: &DesiredVm, phase: VmPhase) -> VmStatus {
        self.until(vm, &format!("{phase:?}"), |status| status.phase == phase).await
    }

    async fn call(&mut self, call: NodeCall) -> Result<NodeReply> {
        self.calls += 1;
        let wanted = self.calls;
        let (to, from) = self.link.as_mut().unwrap();
        to.send(ToNode::Call { id: wanted, call }).await.unwrap();
        loop {
            match timeout(DEADLINE, from.recv()).await.unwrap().unwrap() {
                FromNode::Reply { id, result } if id == wanted => return result,
                FromNode::Vm(status) => drop(self.statuses.insert(status.vm, *status)),
                _ => {}
            }
        }
    }

    /// Waits until the guest's ssh server greets, as from `hull ssh`.
    async fn greeted(&mut self, vm: &DesiredVm) {
        let end = Instant::now() + DEADLINE;
        loop {
            let stream = StreamId(Uuid::now_v7());
            let call = NodeCall::OpenStream { stream, vm: vm.vm.id, target: StreamTarget::Tcp { port: 22 } };
            let opened = self.call(call).await;
            if opened.is_ok() {
                let Some(Dialled::Stream { stream: mut bytes, .. }) = self.dialled.recv().await else {
                    panic!("no stream")
                };
                let mut banner = [0; 8];
                if matches!(timeout(DEADLINE, bytes.read_exact(&mut banner)).await, Ok(Ok(_))) {
                    assert_eq!(&banner, b"SSH-2.0-");
                    return;
                }
            }
            assert!(Instant::now() < end, "no greeting: {opened:?}");
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn console_shows(&mut self, vm: &DesiredVm, text: &str) {
        self.console_shows_times(vm, text, 1).await;
    }

    async fn console_shows_times(&mut self, vm: &DesiredVm, text: &str, times: usize) {
        let end = Instant::now() + DEADLINE;
        loop {
            let log = self.call(NodeCall::ConsoleLog { vm: vm.vm.id, tail: 1 << 20 }).await.unwrap();
            let NodeReply::Bytes { base64 } = log else { panic!("no log") };
            use base64::Engine;
            let log = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
            if String::from_utf8_lossy(&log).matches(text).count() >= times {
                return;
            }
            assert!(Instant::now() < end, "never saw {text:?} {times} times: {}", String::from_utf8_lossy(&log));
            sleep(Duration::from_millis(200)).await;
        }
    }
}

fn desired(network: &DesiredNetwork, image: &Path) -> DesiredVm {
    let port = &network.ports[0];
    let size = Bytes(std::fs::metadata(image).unwrap().len());
    let digest = Digest([1; 32]);
    let now = Timestamp::now();
    let name = Name::new("tiny").unwrap();
    let vm = Vm {
        id: port.vm.unwrap(),
        meta: Meta::new(ProjectId(Uuid::nil()), name.clone(), now),
        hostname: "tiny".into(),
        flavor: None,
        resources: Resources { vcpus: 1, memory: Bytes::mib(256), disk: size.max(Bytes::mib(128)) },
        profile: Default::default(),
        boot: Boot { image: Some(ImageRef { id: ImageId(Uuid::nil()), name, digest }), ..Boot::default() },
        ssh_keys: vec![],
        user_data: None,
        ports: vec![port.id],
        restart: RestartPolicy::OnFailure,
        power: PowerIntent { target: PowerTarget::Running, seq: 1, grace_seconds: 120, at: now },
        reboot: RebootIntent { seq: 0, kind: RebootKind::Soft },
        disk_generation: 1,
        rescue: None,
        locked: false,
        deleted_at: None,
    };
    let image =
        ImageContent { digest, format: ImageFormat::Raw, size, virtual_size: size, source_digest: Digest([1; 32]) };
    let nics = vec![DesiredNic { port: port.id, network: network.id, mac: port.mac }];
    DesiredVm { vm, generation: 1, revision: 1, image: Some(image), rescue_image: None, nics, transit: None }
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// Whatever fails, no process outlives the test.
struct EndAtLast(u32);

impl Drop for EndAtLast {
    fn drop(&mut self) {
        let cmdline = std::fs::read(format!("/proc/{}/cmdline", self.0)).unwrap_or_default();
        let pid = i32::try_from(self.0).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid.filter(|_| String::from_utf8_lossy(&cmdline).contains("qemu")) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_lives_through_all_that_befalls_it_and_leaves_nothing_behind() {
    let mut world = World::new();
    let network = network_kit::network(9);
    let mut vm = desired(&network, &world.image);
    let change = |vm: &mut DesiredVm, change: fn(&mut Vm)| {
        change(&mut vm.vm);
        vm.revision += 1;
    };

    let node = world.node().await;
    world.tell(&[&vm], &[&network]).await;
    let first = world.until_phase(&vm, VmPhase::Running).await.vmm.unwrap().pid;
    let _first = EndAtLast(first);
    world.console_shows(&vm, READY).await;
    world.greeted(&vm).await;

    // Stopped by the power button, which the guest heeds; started again.
    change(&mut vm, |vm| (vm.power.target, vm.power.seq) = (PowerTarget::Stopped, 2));
    world.tell(&[&vm], &[&network]).await;
    let stopped = world.until_phase(&vm, VmPhase::Stopped).await;
    assert_eq!(stopped.last_exit.unwrap().cause, ExitCause::GuestShutdown);
    assert!(!alive(first));
    change(&mut vm, |vm| (vm.power.target, vm.power.seq) = (PowerTarget::Running, 3));
    world.tell(&[&vm], &[&network]).await;
    let second = world.until_phase(&vm, VmPhase::Running).await.vmm.unwrap().pid;
    let _second = EndAtLast(second);

    // Killed: restarted by policy, and what happened is known.
    let pid = rustix::process::Pid::from_raw(i32::try_from(second).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let other = |status: &VmStatus| status.vmm.as_ref().is_some_and(|vmm| vmm.pid != second);
    let again = world.until(&vm, "restarted", |status| status.phase == VmPhase::Running && other(status)).await;
    assert_eq!((again.last_exit.unwrap().cause, again.restarts), (ExitCause::Died, 1));
    let third = again.vmm.unwrap().pid;
    let _third = EndAtLast(third);
    world.greeted(&vm).await;

    // The node goes and comes; the process stays.
    node.shutdown().await;
    assert!(alive(third));
    let node = world.node().await;
    world.tell(&[&vm], &[&network]).await;
    assert_eq!(world.until_phase(&vm, VmPhase::Running).await.vmm.unwrap().pid, third);
    world.greeted(&vm).await;

    // Rebuilt: another disk, another process.
    change(&mut vm, |vm| vm.disk_generation = 2);
    world.tell(&[&vm], &[&network]).await;
    let rebuilt = |status: &VmStatus| status.phase == VmPhase::Running && status.disk_generation == 2;
    let fourth = world.until(&vm, "rebuilt", rebuilt).await.vmm.unwrap().pid;
    let _fourth = EndAtLast(fourth);
    assert!(fourth != third && !alive(third));

    // Deleted while it boots: nothing is left.
    change(&mut vm, |vm| vm.deleted_at = Some(Timestamp::now()));
    world.tell(&[&vm], &[&network]).await;
    world.until_phase(&vm, VmPhase::Gone).await;
    assert!(!alive(fourth));
    world.tell(&[], &[]).await;
    let end = Instant::now() + DEADLINE;
    while !world.bench.traces().is_empty() {
        assert!(Instant::now() < end, "left on the host: {:?}", world.bench.traces());
        sleep(Duration::from_millis(100)).await;
    }
    for left in ["vms", "disks"] {
        let left: Vec<_> =
            std::fs::read_dir(world.dir.path().join(left)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let group = format!("/sys/fs/cgroup/hull/{}", vm.vm.id);
    assert!(!Path::new(&group).exists(), "{group}");
    node.shutdown().await;
}

/// Makes what Hull wrote down as of another boot: the host's own name of its boot is not to be changed.
fn of_another_boot(vms: &Path) {
    let here = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for vm in std::fs::read_dir(vms).unwrap() {
        for file in ["vm.json", "vmm.json"] {
            let path = vm.as_ref().unwrap().path().join(file);
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            std::fs::write(path, text.replace(here.trim(), "5ca1ab1e-0000-4000-8000-00000000b007")).unwrap();
        }
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// The nearest to a reboot that a test may do: Hull is gone, then every QEMU and the networks; what is on disk names another boot.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_of_the_host_vms_come_back_as_they_were() {
    let mut world = World::new();
    let mut network = network_kit::network(12);
    let mut third = network.ports[0].clone();
    (third.id, third.vm) = (PortId(Uuid::now_v7()), Some(VmId(Uuid::now_v7())));
    (third.mac.0[5], third.hostname) = (12, "vm12".into());
    third.addresses = vec!["10.90.12.12".parse().unwrap(), "fd00:90:12::c".parse().unwrap()];
    network.ports.push(third);
    let wanted = [PowerTarget::Running, PowerTarget::Paused, PowerTarget::Stopped];
    let vm = |(place, target): (usize, &PowerTarget)| {
        let mut vm =
            desired(&DesiredNetwork { ports: vec![network.ports[place].clone()], ..network.clone() }, &world.image);
        vm.vm.power.target = *target;
        // A host's reboot is not the VM's doing: what ran runs again whatever its policy.
        vm.vm.restart = RestartPolicy::Never;
        vm
    };
    let vms: Vec<DesiredVm> = wanted.iter().enumerate().map(vm).collect();
    let vms: Vec<&DesiredVm> = vms.iter().collect();
    let phases = [VmPhase::Running, VmPhase::Paused, VmPhase::Stopped];

    let node = world.node().await;
    world.tell(&vms, &[&network]).await;
    let mut pids = Vec::new();
    for (vm, phase) in vms.iter().zip(phases) {
        pids.extend(world.until_phase(vm, phase).await.vmm.map(|vmm| vmm.pid));
    }
    let _pids: Vec<EndAtLast> = pids.iter().map(|pid| EndAtLast(*pid)).collect();
    assert_eq!(pids.len(), 2, "the stopped one has no process");

    node.shutdown().await;
    for pid in &pids {
        kill(*pid);
    }
    let end = Instant::now() + DEADLINE;
    while pids.iter().any(|pid| alive(*pid)) {
        assert!(Instant::now() < end, "QEMU outlives SIGKILL");
        sleep(Duration::from_millis(50)).await;
    }
    of_another_boot(&world.dir.path().join("vms"));
    let namespace = world.bench.namespace(network.id);
    assert!(std::process::Command::new("ip").args(["netns", "del", &namespace]).status().unwrap().success());

    // No server has said anything yet: the node goes by its records.
    let node = world.node().await;
    let mut again = Vec::new();
    for (vm, phase) in vms.iter().zip(phases) {
        let back = world.until_phase(vm, phase).await;
        let ran = phase != VmPhase::Stopped;
        assert_eq!(back.last_exit.map(|exit| exit.cause), ran.then_some(ExitCause::HostReboot), "{phase:?}");
        assert_eq!((back.restarts, back.vmm.is_some()), (0, ran), "{phase:?}");
        again.extend(back.vmm.map(|vmm| vmm.pid));
    }
    let _again: Vec<EndAtLast> = again.iter().map(|pid| EndAtLast(*pid)).collect();
    assert!(again.iter().all(|pid| alive(*pid) && !pids.contains(pid)));
    world.console_shows(vms[0], READY).await;
    world.greeted(vms[0]).await;

    let gone = |vm: &DesiredVm| {
        let mut vm = vm.clone();
        (vm.vm.deleted_at, vm.revision) = (Some(Timestamp::now()), vm.revision + 1);
        vm
    };
    let gone: Vec<DesiredVm> = vms.iter().map(|vm| gone(vm)).collect();
    world.tell(&gone.iter().collect::<Vec<_>>(), &[&network]).await;
    for vm in &gone {
        world.until_phase(vm, VmPhase::Gone).await;
    }
    assert!(again.iter().all(|pid| !alive(*pid)));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_nic_comes_and_goes_while_the_vm_runs_and_is_there_after_a_stop() {
    let mut world = World::new();
    let (first, mut second) = (network_kit::network(11), network_kit::network(12));
    let mut vm = desired(&first, &world.image);
    second.ports[0].vm = Some(vm.vm.id);
    let (port, address) = (second.ports[0].clone(), "HULL-GUEST-DHCP eth1 ip=10.90.12.10/");
    let with_second = |vm: &mut DesiredVm, second: &DesiredNetwork| {
        vm.nics.push(DesiredNic { port: port.id, network: second.id, mac: port.mac });
        vm.revision += 1;
    };
    let as_wished = |status: &VmStatus| status.phase == VmPhase::Running && status.reason.is_none();

    let node = world.node().await;
    world.tell(&[&vm], &[&first]).await;
    let pid = world.until_phase(&vm, VmPhase::Running).await.vmm.unwrap().pid;
    let _first = EndAtLast(pid);
    world.console_shows(&vm, READY).await;

    with_second(&mut vm, &second);
    world.tell(&[&vm], &[&first, &second]).await;
    world.until(&vm, "attached", as_wished).await;
    world.console_shows_times(&vm, address, 1).await;

    vm.nics.pop();
    vm.revision += 1;
    world.tell(&[&vm], &[&first, &second]).await;
    world.until(&vm, "detached", as_wished).await;

    with_second(&mut vm, &second);
    world.tell(&[&vm], &[&first, &second]).await;
    world.until(&vm, "attached again", as_wished).await;
    world.console_shows_times(&vm, address, 2).await;

    for (target, seq) in [(PowerTarget::Stopped, 2), (PowerTarget::Running, 3)] {
        (vm.vm.power.target, vm.vm.power.seq) = (target, seq);
        vm.revision += 1;
        world.tell(&[&vm], &[&first, &second]).await;
        let phase = if seq == 2 { VmPhase::Stopped } else { VmPhase::Running };
        let status = world.until_phase(&vm, phase).await;
        if let Some(vmm) = status.vmm {
            let _second = EndAtLast(vmm.pid);
            assert_ne!(vmm.pid, pid);
            world.console_shows_times(&vm, address, 3).await;
        }
    }
    (vm.vm.deleted_at, vm.revision) = (Some(Timestamp::now()), vm.revision + 1);
    world.tell(&[&vm], &[&first, &second]).await;
    world.until_phase(&vm, VmPhase::Gone).await;
    node.shutdown().await;
}
