//! Starts a machine, step by step; whatever fails, or if the start is given up, nothing stays behind.
//!
//! ```text
//!   claim (user, groups) ─► Launching written ─► open, plan ─► swtpm, QEMU halted ─► QMP ─► load state ─► Launched written ─► cont
//!         └──────────────────────────── on any failure: kill, give back, forget ◄──────────────────────────────┘
//! ```

use std::{
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use hull_types::{
    Timestamp,
    error::{Error, Result},
    id::VmId,
    vm::{Accel, Vmm as VmmInfo},
};
use serde_json::Value;
use tokio::sync::watch;

use super::{
    QemuHypervisor,
    cgroup::{Cgroups, Limits},
    cmdline,
    confine::{self, Confined},
    inputs::{self, Inputs},
    log, migrate,
    process::{Process, kill_user, stat},
    record::{Files, Record, Stage, write_durably},
    shape::Shape,
    vmm::{QemuVmm, Shared},
};
use crate::hypervisor::{PluggedNic, RunState, VmmSpec, qmp::Client};

/// How long QEMU may take until it answers; on a host under load it takes seconds.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
const KVM: &str = "/dev/kvm";
const SWTPM: &str = "/usr/bin/swtpm";

/// Starts a machine.
pub(super) async fn start(hypervisor: &QemuHypervisor, spec: VmmSpec) -> Result<QemuVmm> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::unsupported("VMs are confined to users of their own, for which the node must run as root"));
    }
    let (vm, dir) = (spec.vm, spec.dir.clone());
    if hypervisor.find(vm, &dir).await?.is_some_and(|record| record.1.is_some()) {
        return Err(Error::conflict(format!("{vm:?} already has a hypervisor process on this node")));
    }
    // An ended one, or a start cut short.
    hypervisor.clear_all(vm, &dir).await?;
    let outcome = launch(hypervisor, spec).await;
    if outcome.is_err()
        && let Err(error) = hypervisor.clear_all(vm, &dir).await
    {
        tracing::error!(%vm, %error, "cannot clear up after a failed start");
    }
    outcome
}

async fn launch(hypervisor: &QemuHypervisor, mut spec: VmmSpec) -> Result<QemuVmm> {
    let accel = hypervisor.proven().await?.accel;
    let (vm, files, paused, profile) = (spec.vm, Files::new(&spec.dir), spec.paused, spec.profile);
    let failed = |what: &str, error: io::Error| Error::internal(format!("cannot start {vm:?}: {what}: {error}"));
    let (mut shape, state) = match &spec.restore {
        Some(path) => migrate::open(path).map(|(shape, state)| (shape, Some(state)))?,
        None => (Shape::new(profile, spec.resources), None),
    };
    if shape.nics.is_none() {
        let nics = spec.nics.iter().map(|nic| (PluggedNic { port: nic.port, mac: nic.mac }, nic.mtu));
        shape.seat(profile, spec.disks.len(), nics);
    }
    std::fs::set_permissions(&spec.dir, std::fs::Permissions::from_mode(0o700))
        .map_err(|error| failed("its directory", error))?;
    let uid = hypervisor.uids.claim(vm, &spec.dir)?;
    let now = shape.now();
    let limits = Limits::new(now.vcpus, shape.max_vcpus, now.memory, accel);
    hypervisor.cgroups.apply(vm, limits)?;
    hypervisor.cgroups.limit_io(vm, hypervisor.config.io, &disks(&spec))?;
    let mut record = Record::launching(vm, uid, accel, profile, shape.clone()).map_err(|e| failed("its record", e))?;
    write_durably(&files.record(), &record).map_err(|error| failed("its record", error))?;

    // Names go into QEMU's options and the process list.
    spec.name.retain(|c| !c.is_control());
    let (cgroups, program) = (hypervisor.cgroups.clone(), hypervisor.config.program.clone());
    let mount_on = own_root(&hypervisor.config.run_dir).map_err(|error| failed("a place for its own root", error))?;
    let launch = Launch { vm, uid, accel, files: files.clone(), cgroups, limits, program, mount_on };
    // If this future is dropped meanwhile, so is the outcome, and with it the process.
    let spawning = tokio::task::spawn_blocking(move || launch.spawn(spec, shape)).await;
    let unless_done = spawning.map_err(|error| failed("starting it", io::Error::other(error)))??;
    let process = unless_done.process()?;
    let qmp = Client::open(files.qmp(), process.gone());
    await_answer(&qmp, &process, &files).await.map_err(|error| match hypervisor.cgroups.oom_kills(vm) {
        0 => error,
        _ => Error::insufficient(format!("{}: it reached the VM's memory limit", error.detail)),
    })?;
    if let Some(state) = state {
        let loaded = tokio::select! {
            _ = process.ended() => Err(log::last_lines(&files.qemu_log(), 3)),
            loaded = migrate::load(&qmp, state) => loaded,
        };
        loaded.map_err(|error| Error::conflict(format!("cannot restore the memory of {vm:?}: {error}")))?;
    }
    let start_ticks = stat(process.pid).map_err(|error| failed("QEMU ended at once", error))?.start_ticks;
    let started_at = Timestamp::now();
    record.stage = Stage::Launched { pid: process.pid, start_ticks, started_at };
    write_durably(&files.record(), &record).map_err(|error| failed("its record", error))?;
    if !paused {
        qmp.run("cont", Value::Null).await?;
    }
    unless_done.keep();
    let state = if paused { RunState::Paused } else { RunState::Running };
    Ok(QemuVmm::new(Shared {
        vm,
        info: VmmInfo { pid: process.pid, started_at, accel },
        files,
        config: hypervisor.config.clone(),
        process,
        qmp,
        cgroups: hypervisor.cgroups.clone(),
        state: watch::channel(state).0,
        record: Mutex::new(record),
    }))
}

/// Where the machine's files lie: a taken-over QEMU can press these disks.
fn disks(spec: &VmmSpec) -> Vec<&Path> {
    let disks = spec.disks.iter().flat_map(|disk| {
        std::iter::once(disk.path.as_path()).chain(disk.backing.iter().map(|file| file.path.as_path()))
    });
    disks.chain([spec.dir.as_path()]).collect()
}

/// An empty directory to mount on: each process does so in a view of its own, so that one is enough for all.
fn own_root(run_dir: &Path) -> io::Result<PathBuf> {
    let path = run_dir.join("root");
    std::fs::create_dir_all(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
    Ok(path)
}

/// A start that is given up (its future dropped) must not leave a process.
struct KillOnDrop(Option<Process>);

impl KillOnDrop {
    fn process(&self) -> Result<Process> {
        self.0.clone().ok_or_else(|| Error::internal("QEMU was let go of before it ran"))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(process) = &self.0
            && let Err(error) = process.kill()
        {
            tracing::error!(pid = process.pid, %error, "cannot kill a QEMU whose start failed");
        }
    }
}

/// What the processes of a start have in common.
struct Launch {
    vm: VmId,
    uid: u32,
    accel: Accel,
    files: Files,
    cgroups: Cgroups,
    limits: Limits,
    program: PathBuf,
    mount_on: PathBuf,
}

impl Launch {
    /// Opens the machine's parts and starts its processes. Blocks.
    fn spawn(&self, spec: VmmSpec, shape: Shape) -> Result<KillOnDrop> {
        let Inputs { plan, fds, given, tpm } = inputs::open(spec, shape, self.accel, self.uid)?;
        let log = fresh_log(&self.files.qemu_log()).map_err(|error| self.failed(&self.program, "", &error))?;
        if let Some(socket) = tpm {
            let swtpm = Path::new(SWTPM);
            self.spawn_tpm(socket, &log).map_err(|error| self.failed(swtpm, "swtpm", &error))?;
        }
        let process = self.confined(&log).and_then(|confined| {
            let kvm = self.accel == Accel::Kvm;
            confine::spawn(Confined {
                args: cmdline::arguments(&plan),
                fds,
                given,
                devices: kvm.then(|| KVM.into()).into_iter().collect(),
                group: kvm.then(|| inputs::device_group(Path::new(KVM))).flatten(),
                ..confined
            })
        });
        process
            .map(|process| KillOnDrop(Some(process)))
            .map_err(|error| self.failed(&self.program, "qemu-system-x86", &error))
    }

    /// It ends with the socket's other end, which is QEMU's.
    fn spawn_tpm(&self, socket: OwnedFd, log: &File) -> io::Result<()> {
        let home = own_directory(&self.files.dir.join("tpm"), self.uid)?;
        let confined = self.confined(log)?;
        confine::spawn(Confined {
            program: SWTPM.into(),
            args: swtpm_arguments(),
            fds: vec![(socket, 3)],
            home: Some(home),
            ..confined
        })
        .map(drop)
    }

    fn confined(&self, log: &File) -> io::Result<Confined> {
        Ok(Confined {
            program: self.program.clone(),
            args: Vec::new(),
            fds: Vec::new(),
            uid: self.uid,
            group: None,
            cgroups: self.cgroups.doors(self.vm)?,
            processes: self.limits.processes(),
            mount_on: self.mount_on.clone(),
            devices: Vec::new(),
            given: Vec::new(),
            home: None,
            log: log.try_clone()?,
        })
    }

    fn failed(&self, program: &Path, package: &str, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::NotFound => missing(program, package),
            _ => Error::internal(format!("cannot start {}: {error}{}", program.display(), said(&self.files))),
        }
    }
}

/// The error for a program that is not on this host.
pub(super) fn missing(program: &Path, package: &str) -> Error {
    Error::insufficient(format!("{} is missing on this node: install the package {package}", program.display()))
}

fn said(files: &Files) -> String {
    match log::last_lines(&files.qemu_log(), 3) {
        said if said.is_empty() => said,
        said => format!(" ({said})"),
    }
}

/// The log both processes of a start share; what earlier ones said is not theirs.
fn fresh_log(path: &Path) -> io::Result<File> {
    let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.set_len(0)?;
    Ok(file)
}

/// A directory that belongs to the VM's user.
fn own_directory(path: &Path, uid: u32) -> io::Result<PathBuf> {
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    // The user may be another than last time. swtpm keeps plain files only; links are left alone.
    for entry in std::fs::read_dir(path)? {
        std::os::unix::fs::lchown(entry?.path(), Some(uid), Some(uid))?;
    }
    std::os::unix::fs::chown(path, Some(uid), Some(uid))?;
    Ok(path.to_owned())
}

/// swtpm(8) on one connected socket; it ends with it. Its state lies in its working directory.
fn swtpm_arguments() -> Vec<String> {
    ["socket", "--tpm2", "--tpmstate", "dir=.", "--ctrl", "type=unixio,clientfd=3", "--terminate"]
        .map(str::to_owned)
        .to_vec()
}

/// Waits until QEMU answers, or has ended and said why.
async fn await_answer(qmp: &Client, process: &Process, files: &Files) -> Result<()> {
    let asked = qmp.run_within(ANSWER_DEADLINE, "query-status", Value::Null, None);
    tokio::select! {
        how = process.ended() => {
            let how = how.ok().flatten().unwrap_or_else(|| "it ended".to_owned());
            Err(Error::internal(format!("QEMU could not start: {how}{}", said(files))))
        }
        answer = asked => Ok(answer.map(drop)?),
    }
}

impl QemuHypervisor {
    /// The directory's record and, if it lives, its process. A start cut short counts as never made.
    pub(super) async fn find(&self, vm: VmId, dir: &Path) -> Result<Option<(Record, Option<Process>)>> {
        let read = Files::new(dir).read_record();
        let record = match read {
            Ok(record) => record.filter(|record| record.vm == vm),
            Err(error) => {
                return Err(Error::internal(format!("cannot read the record of {vm:?}'s process: {error}")));
            }
        };
        let Some(record) = record else { return Ok(None) };
        match record.stage {
            Stage::Launching => {
                self.clear_all(vm, dir).await?;
                Ok(None)
            }
            Stage::Launched { pid, start_ticks, .. } => {
                let same_boot = super::record::boot_id().is_ok_and(|boot| boot == record.boot);
                let process = if same_boot { Process::find(pid, start_ticks) } else { Ok(None) };
                let process = process
                    .map_err(|error| Error::internal(format!("cannot look at the process of {vm:?}: {error}")))?;
                Ok(Some((record, process)))
            }
        }
    }

    /// Ends whatever runs under the VM's user and forgets it: control groups, user, sockets, record.
    pub(super) async fn clear_all(&self, vm: VmId, dir: &Path) -> Result<()> {
        let files = Files::new(dir);
        let fail = |error: io::Error| Error::internal(format!("cannot clear the process of {vm:?}: {error}"));
        if let Some(record) = files.read_record().map_err(fail)? {
            // On another boot of the host the number may be someone else's.
            if super::record::boot_id().map_err(fail)? == record.boot {
                kill_user(record.uid).await.map_err(fail)?;
            }
            self.uids.release(vm, dir, record.uid).map_err(fail)?;
        }
        self.remove_groups(vm).await.map_err(fail)?;
        files.forget().map_err(fail)
    }

    /// The kernel may still be taking a killed process apart: its group is busy until then.
    async fn remove_groups(&self, vm: VmId) -> io::Result<()> {
        for _ in 0..200 {
            match self.cgroups.remove(vm) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                other => return other,
            }
        }
        self.cgroups.remove(vm)
    }
}
