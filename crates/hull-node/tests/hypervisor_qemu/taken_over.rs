//! A QEMU that its guest has taken over: a program in QEMU's place, in the same confinement, tries to get out of it.
//!
//! What it tries and must not reach, root tries too, without confinement, and must reach: a test that could only pass
//! would prove nothing.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use hull_node::{
    hypervisor::{
        BackingSpec, DiskSpec, Hypervisor, NicSpec, RunState, Vmm, VmmSpec,
        qemu::{IoLimit, QemuConfig},
    },
    network::Networks,
};
use hull_testkit::{TakenOver, Verdicts, eventually, taken_over::verdicts};
use hull_types::units::Bytes;

use crate::{
    bench::{Bench, DEADLINE, config, groups_of},
    network_kit,
};

/// Calls that an old kernel would not know, and are refused as by one.
const UNKNOWN: &[&str] = &["call:clone3", "call:io_uring_setup", "call:io_uring_enter", "call:io_uring_register"];

/// The bench of a VM whose QEMU is the program.
fn taken_over(program: &TakenOver) -> Bench {
    Bench::with(QemuConfig { program: program.program.clone(), ..config() })
}

/// A machine whose only disk is the plan, which is where the program looks for it.
fn with_plan(bench: &Bench, plan: &str) -> VmmSpec {
    let path = bench.dir.join("plan");
    std::fs::write(&path, format!("PLAN\n{plan}")).unwrap();
    VmmSpec { disks: vec![disk("plan", path)], ..bench.empty() }
}

fn disk(id: &str, path: PathBuf) -> DiskSpec {
    DiskSpec { id: id.into(), path, qcow2: false, backing: vec![], read_only: false, boot_index: None }
}

/// Runs the plan in QEMU's place to its end.
async fn run_confined(bench: &Bench, spec: VmmSpec) -> Verdicts {
    let error = bench.hypervisor.start(spec).await.map(drop).unwrap_err();
    let said = std::fs::read_to_string(bench.dir.join("qemu.log")).unwrap();
    assert!(said.contains("\nover\n"), "it did not come to the end of its plan: {error:?}\n{said}");
    verdicts(&said)
}

/// Opens everything below to everybody, so that only the confinement is in the way.
fn open_to_all(dir: &Path) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => open_to_all(&entry.path()),
            false => std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(0o666)).unwrap(),
        }
    }
}

/// Another tenant's running VM, with a disk and a saved memory.
async fn neighbour() -> (Bench, Arc<dyn Vmm>) {
    let bench = Bench::new();
    for name in ["disk.raw", "base.raw", "memory"] {
        std::fs::write(bench.dir.join(name), vec![7; 1 << 20]).unwrap();
    }
    let mut root = disk("root", bench.dir.join("disk.raw"));
    root.backing = Vec::<BackingSpec>::new();
    let vmm = bench.start(VmmSpec { disks: vec![root], ..bench.empty() }).await;
    open_to_all(bench.dir.parent().unwrap());
    (bench, vmm)
}

/// A segment of shared memory that everybody may read; removed when dropped.
struct SharedMemory {
    key: i32,
    id: i32,
}

impl SharedMemory {
    fn new() -> Self {
        let key = i32::try_from(std::process::id()).unwrap() | 0x4855_0000;
        // SAFETY: takes and returns numbers.
        let id = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | 0o666) };
        assert!(id >= 0, "{}", std::io::Error::last_os_error());
        Self { key, id }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the segment is ours and mapped nowhere.
        unsafe { libc::shmctl(self.id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

/// What was not refused to it, or not as it should be.
fn not_refused(inside: &Verdicts) -> String {
    let mut wrong = String::new();
    for (name, said) in inside {
        let expected = match name.as_str() {
            control if control.starts_with("control:") => said == "done",
            call if UNKNOWN.contains(&call) => said == "refused ENOSYS",
            call if call.starts_with("call:") => ["refused EPERM", "refused EACCES"].contains(&said.as_str()),
            _ => said.starts_with("refused "),
        };
        if !expected {
            writeln!(wrong, "confined: {name}: {said}").unwrap();
        }
    }
    wrong
}

/// What cannot be reached without confinement either, so that its refusal shows nothing.
fn not_reached(outside: &Verdicts, inside: &Verdicts) -> String {
    let mut wrong = String::new();
    for (name, said) in outside {
        let reached = match name.as_str() {
            // No such port there, but the host's network was reached.
            "host-network" => said != &inside[name],
            call if UNKNOWN.contains(&call) => said != "refused ENOSYS",
            call if call.starts_with("call:") => said != "refused EPERM",
            _ => said == "done",
        };
        if !reached {
            writeln!(wrong, "without confinement: {name}: {said}").unwrap();
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reaches_nothing_of_other_tenants_nor_of_the_host() {
    let program = TakenOver::get().unwrap();
    let (neighbour, vmm) = neighbour().await;
    let pid = vmm.info().pid;
    // What stands for Hull's own API: a socket file, a TCP port, an abstract socket.
    let api = tempfile::tempdir().unwrap();
    let _socket = UnixListener::bind(api.path().join("hull.sock")).unwrap();
    std::fs::write(api.path().join("admin-token"), "secret").unwrap();
    open_to_all(api.path());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let abstract_name = format!("hull-test-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
    let shared = SharedMemory::new();
    // Its own network, and another tenant's with a metadata service.
    let net = network_kit::Bench::new();
    let (own, others) = (network_kit::network(1), network_kit::network(2));
    for network in [&own, &others] {
        net.networks.apply(network).await.unwrap();
        net.networks.set_metadata(network_kit::metadata(&network.ports[0])).await.unwrap();
    }
    let tap = net.networks.tap(own.id, own.ports[0].id).await.unwrap();
    let other_guest = net.guest(&others, 0).await;
    other_guest.dhcp().unwrap();

    let dir = neighbour.dir.display();
    let (host, guest) = (net.host.namespace_path(), other_guest.namespace_path());
    let (host, guest, api) = (host.display(), guest.display(), api.path().display());
    let tempdir = std::env::temp_dir();
    let tempdir = tempdir.display();
    let key = shared.key;
    let plan = format!(
        "read neighbours-disk {dir}/disk.raw
write neighbours-directory {dir}/planted
read neighbours-memory-file {dir}/memory
read neighbours-console {dir}/console.log
read neighbours-record {dir}/vmm.json
connect neighbours-qmp {dir}/qmp.sock
connect neighbours-serial {dir}/serial.sock
connect neighbours-agent {dir}/agent.sock
read neighbours-memory /proc/{pid}/maps
read neighbours-descriptors /proc/{pid}/fd/2
connect api-socket {api}/hull.sock
read admin-token {api}/admin-token
tcp api-port - 127.0.0.1 {port}
tcp host-network {host} 127.0.0.1 1
connect abstract-socket @{abstract_name}
tcp others-metadata {guest} 169.254.169.254 80
signal neighbours-process {pid}
pidfd neighbours-pidfd {pid}
schedule neighbours-scheduling {pid}
others other-processes
shm shared-memory {key}
read passwords /etc/shadow
read users /etc/passwd
read process-list /proc/1/stat
read mount-table /proc/mounts
read kernel-log /dev/kmsg
read other-device /dev/full
write temporary-file {tempdir}/hull-taken-over
write file-in-its-root /planted
write file-in-libraries /usr/lib/planted
run shell /bin/sh
run programs-of-the-host /usr/bin/true
run program-among-libraries /usr/lib/x86_64-linux-gnu/libc.so.6
calls"
    );
    let bench = taken_over(&program);
    let mut spec = with_plan(
        &bench,
        &format!(
            "{plan}
stray stray-descriptors
read control:null-device /dev/null
read control:libraries /usr/lib/os-release
read control:randomness /dev/urandom\n"
        ),
    );
    let mut root = disk("root", bench.dir.join("own.raw"));
    std::fs::write(&root.path, vec![1; 4096]).unwrap();
    root.boot_index = Some(0);
    spec.disks.push(root);
    spec.nics = vec![NicSpec { port: own.ports[0].id, mac: own.ports[0].mac, mtu: own.mtu, tap }];
    let inside = run_confined(&bench, spec).await;

    let free = bench.dir.join("plan-without-confinement");
    std::fs::write(&free, format!("PLAN\n{plan}\n")).unwrap();
    let outside = program.run_free(&free).unwrap();
    let wrong = not_refused(&inside) + &not_reached(&outside, &inside);
    assert!(wrong.is_empty(), "{wrong}");
    let names = |verdicts: &Verdicts| -> BTreeSet<String> {
        let special = |name: &&String| !name.starts_with("control:") && *name != "stray-descriptors";
        verdicts.keys().filter(special).cloned().collect()
    };
    assert_eq!(names(&inside), names(&outside));
    assert!(inside.len() > 100, "{}", inside.len());
    assert_eq!(vmm.refresh().await.unwrap(), RunState::Running, "the neighbour has noticed nothing");
}

/// A file of one of the VM's control groups, in whichever hierarchy has it.
fn limit_of(bench: &Bench, names: &[&str]) -> Option<String> {
    let files = groups_of(bench.vm).into_iter().flat_map(|group| names.iter().map(move |name| group.join(name)));
    files.into_iter().find_map(|file| std::fs::read_to_string(file).ok())
}

fn counter(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(value).unwrap_or_default()
}

/// Runs the plan, which never ends, until the machine is as wanted; then gives it up.
async fn run_until(bench: &Bench, spec: VmmSpec, what: &str, wanted: impl Fn() -> Result<(), String>) {
    let reached = eventually(what, DEADLINE, || async { wanted() });
    tokio::select! {
        reached = reached => reached.unwrap(),
        ended = bench.hypervisor.start(spec) => panic!("{:?} before {what}", ended.map(drop)),
    }
    // Hull's next look at the directory ends it, and all it has started.
    assert!(bench.adopt().await.is_none());
    eventually("its end", DEADLINE, || async {
        let left = bench.processes();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await
    .unwrap();
}

fn said(bench: &Bench, word: &str) -> Option<String> {
    let log = std::fs::read_to_string(bench.dir.join("qemu.log")).ok()?;
    log.lines().find(|line| line.starts_with(word)).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stays_within_its_number_of_processes() {
    let bench = taken_over(&TakenOver::get().unwrap());
    let spec = with_plan(&bench, "bomb\n");
    run_until(&bench, spec, "a bomb that went off", || {
        let bomb = said(&bench, "bomb ").ok_or("not yet")?;
        // 256 and a thread for each CPU the machine may have; one is the program itself.
        assert_eq!(bomb, "bomb 263 EAGAIN");
        let current = limit_of(&bench, &["pids.current"]).unwrap();
        assert_eq!(current.trim(), limit_of(&bench, &["pids.max"]).unwrap().trim());
        assert!(counter(&limit_of(&bench, &["pids.events"]).unwrap(), "max") > 0, "the control group refused");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_hog_dies_within_its_group_and_its_neighbour_lives() {
    let (neighbour, vmm) = neighbour().await;
    let bench = taken_over(&TakenOver::get().unwrap());
    let mut spec = with_plan(&bench, "hog\n");
    spec.resources.memory = Bytes::mib(64);
    let error = bench.hypervisor.start(spec).await.map(drop).unwrap_err();
    assert!(error.detail.contains("killed by signal 9"), "{error:?}");
    assert!(error.detail.contains("it reached the VM's memory limit"), "{error:?}");
    assert_eq!(vmm.refresh().await.unwrap(), RunState::Running);
    let events = limit_of(&neighbour, &["memory.events", "memory.oom_control"]).unwrap();
    assert_eq!(counter(&events, "oom_kill"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_hog_is_held_to_its_quota_in_sessions_of_its_own_too() {
    let bench = taken_over(&TakenOver::get().unwrap());
    let spec = with_plan(&bench, "spin 6\n");
    let halved = std::sync::OnceLock::new();
    run_until(&bench, spec, "a throttled hog", || {
        said(&bench, "spin done").ok_or("not yet")?;
        let quota = limit_of(&bench, &["cpu.max", "cpu.cfs_quota_us"]).unwrap();
        // A host with two CPUs cannot exceed the quota of a machine with one, which is two: so it is made smaller.
        halved.get_or_init(|| {
            assert!(quota.starts_with("200000"), "{quota}");
            let group = groups_of(bench.vm);
            for (file, value) in [("cpu.cfs_quota_us", "5000"), ("cpu.max", "5000 100000")] {
                for file in group.iter().map(|group| group.join(file)).filter(|file| file.exists()) {
                    std::fs::write(file, value).unwrap();
                }
            }
        });
        let stat = limit_of(&bench, &["cpu.stat"]).unwrap();
        match counter(&stat, "nr_throttled") {
            0..10 => Err(stat),
            _ => Ok(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_disks_have_a_limit_where_the_host_can_limit_disks() {
    let io = IoLimit { bytes: 64 << 20, operations: 500 };
    let bench = Bench::with(QemuConfig { io, ..config() });
    let path = bench.dir.join("disk.raw");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let vmm = bench.start(VmmSpec { disks: vec![disk("root", path)], ..bench.empty() }).await;
    let limit = limit_of(&bench, &["io.max", "blkio.throttle.write_bps_device"]);
    let unfenced = bench.hypervisor.facts().await.unwrap().unfenced;
    match limit {
        Some(limit) => assert!(limit.contains("67108864"), "{limit}"),
        None => assert!(unfenced.iter().any(|lacking| lacking.contains("disk I/O")), "{unfenced:?}"),
    }
    let memory = limit_of(&bench, &["memory.max", "memory.limit_in_bytes"]).unwrap();
    // The guest's 256 MiB, a 64th, and the emulator's.
    assert_eq!(memory.trim(), ((256 + 4 + 512_u64) << 20).to_string());
    vmm.quit().await.unwrap();
}
