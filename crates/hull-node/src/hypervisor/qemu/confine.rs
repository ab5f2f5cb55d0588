//! Starts a process that can reach nothing but what it is given.
//!
//! Between fork and exec, in this order: its own session (it outlives Hull and Hull's terminal), its VM's control
//! groups, empty namespaces for network, IPC and host name, limits, the first victim when memory runs out, its VM's own
//! user without capabilities, no new privileges, and Landlock: only the system's programs and libraries, and files named
//! one by one. QEMU then adds its seccomp filter (`-sandbox`). Descriptors are passed explicitly; all others close.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use command_fds::{CommandFdExt, FdMapping};
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr,
};
use rustix::{
    fs::{Mode, OFlags},
    process::{Resource, Rlimit},
    thread::UnshareFlags,
};

use super::process::Process;

/// Programs, libraries, firmware: readable by everyone on the host anyway.
const SYSTEM: &[&str] = &["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/ld.so.preload"];
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];
const OPEN_FILES: u64 = 4096;

/// A process to be started.
#[derive(Debug)]
pub(super) struct Confined {
    pub program: PathBuf,
    pub args: Vec<String>,
    /// Descriptors and the numbers they get.
    pub fds: Vec<(OwnedFd, i32)>,
    /// Its user and group.
    pub uid: u32,
    /// A further group (that of `/dev/kvm`).
    pub group: Option<u32>,
    /// `cgroup.procs` of its control groups, open for writing.
    pub cgroups: Vec<File>,
    /// Devices it may use besides the harmless ones.
    pub devices: Vec<PathBuf>,
    /// Files it may open for reading by their descriptor's path.
    pub readable: Vec<OwnedFd>,
    /// A directory of its own, which becomes its working directory.
    pub home: Option<PathBuf>,
    /// Where its output goes.
    pub log: File,
}

/// Starts it. Must be called within a tokio runtime, which reaps it when it ends.
pub(super) fn spawn(process: Confined) -> io::Result<Process> {
    let mut command = Command::new(&process.program);
    command.args(&process.args).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::null()).stdout(process.log.try_clone()?).stderr(process.log.try_clone()?);
    command.current_dir(process.home.as_deref().unwrap_or(Path::new("/")));
    let mut ruleset = Some(ruleset(&process).map_err(io::Error::other)?);
    let Confined { cgroups, uid, group, .. } = process;
    let enter = move || enter(&cgroups, uid, group, &mut ruleset);
    // SAFETY: `enter` makes only system calls on values made before the fork: no allocation, no lock.
    unsafe { command.pre_exec(enter) };
    // After the closure above: its descriptors must not be overwritten by those with fixed numbers.
    let mappings = process.fds.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    let process = Process::open(command.spawn()?.id())?;
    process.reap_when_ended();
    Ok(process)
}

/// Runs in the child. What fails says so on standard error, which is the process's log: the parent sees the number only.
fn enter(cgroups: &[File], uid: u32, group: Option<u32>, ruleset: &mut Option<RulesetCreated>) -> io::Result<()> {
    step("setsid", rustix::process::setsid().map(drop))?;
    for procs in cgroups {
        step("control group", rustix::io::write(procs, b"0").map(drop))?;
    }
    let namespaces = UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: no descriptor table is unshared.
    step("namespaces", unsafe { rustix::thread::unshare_unsafe(namespaces) })?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, OPEN_FILES)?;
    step("oom_score_adj", prefer_as_victim())?;
    step("groups", become_user(uid, group))?;
    step("no_new_privs", rustix::thread::set_no_new_privs(true))?;
    match ruleset.take().map(RulesetCreated::restrict_self) {
        Some(Ok(_)) => Ok(()),
        Some(Err(_)) | None => step("landlock", Err(rustix::io::Errno::PERM)),
    }
}

fn limit(resource: Resource, value: u64) -> io::Result<()> {
    step("limits", rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) }))
}

fn prefer_as_victim() -> rustix::io::Result<()> {
    let file = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, b"300").map(drop)
}

fn become_user(uid: u32, group: Option<u32>) -> rustix::io::Result<()> {
    let (user, own) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(uid));
    match group {
        Some(group) => rustix::thread::set_thread_groups(&[rustix::process::Gid::from_raw(group)])?,
        None => rustix::thread::set_thread_groups(&[])?,
    }
    rustix::thread::set_thread_res_gid(own, own, own)?;
    // The last step that needs root: it takes every capability with it.
    rustix::thread::set_thread_res_uid(user, user, user)
}

fn step(name: &str, outcome: rustix::io::Result<()>) -> io::Result<()> {
    outcome.map_err(|error| {
        let stderr = io::stderr();
        for part in ["hull: confinement failed: ", name, "\n"] {
            // There is no better place to complain.
            let _ = rustix::io::write(&stderr, part.as_bytes());
        }
        error.into()
    })
}

/// What may be opened. On kernels without Landlock (before 5.13, or switched off) the user's own rights are the fence.
fn ruleset(process: &Confined) -> Result<RulesetCreated, landlock::RulesetError> {
    let abi = ABI::V3;
    let (read, all) = (AccessFs::from_read(abi), AccessFs::from_all(abi));
    let use_device = AccessFs::ReadFile | AccessFs::WriteFile;
    let mut rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?.create()?;
    rules = allow(rules, SYSTEM.iter().map(Path::new), read)?;
    rules =
        allow(rules, DEVICES.iter().map(Path::new).chain(process.devices.iter().map(PathBuf::as_path)), use_device)?;
    rules = allow(rules, process.home.iter().map(PathBuf::as_path), all)?;
    for file in &process.readable {
        rules = rules.add_rule(PathBeneath::new(file.as_fd(), AccessFs::ReadFile))?;
    }
    Ok(rules)
}

fn allow<'a>(
    mut rules: RulesetCreated,
    paths: impl Iterator<Item = &'a Path>,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    // What is not on this host need not be allowed. (A rule for a file is narrowed to what files know.)
    for path in paths.filter_map(|path| PathFd::new(path).ok()) {
        rules = rules.add_rule(PathBeneath::new(path, access))?;
    }
    Ok(rules)
}
