//! Starts a process that can reach nothing but what it is given.
//!
//! What a QEMU that its guest has taken over may still do: compute, use the descriptors of its own machine (disks, taps,
//! console, control socket), and end. The fences, in the order they are put up between fork and exec:
//!
//! | fence | keeps it from |
//! |---|---|
//! | session, control groups, limits | outliving its VM's share of CPU, memory, processes, disk; core dumps |
//! | close on exec | descriptors nobody meant to pass |
//! | PID namespace | seeing, signalling or tracing any other process |
//! | network, IPC, host name, control group namespaces | sockets (abstract ones too), shared memory, queues of others |
//! | mount namespace with its own root ([`super::root`]) | every file that is not the system's libraries or its own |
//! | its VM's own user, no capabilities, no new privileges | what is left of the host, if a fence above has a hole |
//! | Landlock | opening or running other files than those named, if the root has a hole |
//! | seccomp ([`super::forbidden`]) | the calls that make such holes |
//!
//! QEMU then adds its own filter (`-sandbox`). It is the first process of its PID namespace: when it ends, so does
//! whatever it may have started.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
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
    io::Errno,
    process::{Resource, Rlimit},
    thread::{CapabilitySet, UnshareFlags},
};
use seccompiler::BpfProgram;

use super::{
    forbidden,
    process::Process,
    root::{self, DEVICES, Given, Parts, Root},
};

/// What the kernel itself opens to run a program.
const LOADERS: &[&str] = &["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"];
const OPEN_FILES: u64 = 4096;
/// Processes beyond what the control group allows: it refuses first, and says so in its counters.
const SPARE_PROCESSES: u64 = 64;

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
    /// How many processes and threads its user may have.
    pub processes: u64,
    /// An empty directory of root's, where its own root is mounted in its own view.
    pub mount_on: PathBuf,
    /// Devices it may use besides the harmless ones.
    pub devices: Vec<PathBuf>,
    /// Files it may read by path.
    pub given: Vec<Given>,
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
    let mut fences = Fences::plan(&process)?;
    // SAFETY: `put_up` makes only system calls on values made before the fork: no allocation, no lock.
    unsafe { command.pre_exec(move || fences.put_up()) };
    // After the closure above: its descriptors must not be overwritten by those with fixed numbers.
    let mappings = process.fds.into_iter().map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    let process = Process::open(fork(command)?)?;
    process.reap_when_ended();
    Ok(process)
}

/// Starts it as the first process of a PID namespace. The namespace is a thread's choice for its children, so a thread
/// is made for it: any other would be left unable to start anything else.
fn fork(mut command: Command) -> io::Result<u32> {
    let thread = std::thread::Builder::new().name("confine".into()).spawn(move || {
        // SAFETY: no descriptor table is unshared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }?;
        command.spawn().map(|child| child.id())
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the starting thread panicked")))
}

/// What is done in the child, made out beforehand.
struct Fences {
    cgroups: Vec<File>,
    processes: u64,
    root: Root,
    uid: u32,
    group: Option<u32>,
    ruleset: Option<RulesetCreated>,
    filters: Vec<BpfProgram>,
}

impl Fences {
    fn plan(process: &Confined) -> io::Result<Self> {
        let parts = Parts {
            mount_on: &process.mount_on,
            program: &process.program,
            devices: &process.devices,
            given: &process.given,
            home: process.home.as_deref(),
        };
        Ok(Self {
            cgroups: process.cgroups.iter().map(File::try_clone).collect::<io::Result<_>>()?,
            processes: process.processes.saturating_add(SPARE_PROCESSES),
            root: Root::plan(&parts)?,
            uid: process.uid,
            group: process.group,
            ruleset: Some(ruleset(process).map_err(io::Error::other)?),
            filters: forbidden::filters()?,
        })
    }

    /// Runs in the child. What fails says so on standard error, the process's log: the parent sees a number only.
    fn put_up(&mut self) -> io::Result<()> {
        step("setsid", rustix::process::setsid().map(drop))?;
        for procs in &self.cgroups {
            step("control group", rustix::io::write(procs, b"0").map(drop))?;
        }
        step("descriptors", close_on_exec())?;
        let namespaces = UnshareFlags::NEWNS
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWCGROUP;
        // SAFETY: no descriptor table is unshared.
        step("namespaces", unsafe { rustix::thread::unshare_unsafe(namespaces) })?;
        limit(Resource::Core, 0)?;
        limit(Resource::Nofile, OPEN_FILES)?;
        limit(Resource::Nproc, self.processes)?;
        limit(Resource::Nice, 0)?;
        limit(Resource::Rtprio, 0)?;
        limit(Resource::Msgqueue, 0)?;
        step("oom_score_adj", prefer_as_victim())?;
        step("its own root", self.root.enter())?;
        step("capabilities", forgo_capabilities())?;
        step("groups", become_user(self.uid, self.group))?;
        step("no_new_privs", rustix::thread::set_no_new_privs(true))?;
        match self.ruleset.take().map(RulesetCreated::restrict_self) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => step("landlock", Err(Errno::PERM))?,
        }
        self.filters
            .iter()
            .try_for_each(|filter| step("seccomp", seccompiler::apply_filter(filter).map_err(|_| Errno::PERM)))
    }
}

fn limit(resource: Resource, value: u64) -> io::Result<()> {
    step("limits", rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) }))
}

/// All of Hull's descriptors are closed on exec one by one; this is for those of some library that are not. Those that
/// are passed get their numbers, and lose the mark, afterwards.
fn close_on_exec() -> rustix::io::Result<()> {
    // SAFETY: no descriptor is closed while this process runs Hull's code.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// Without a bounding set no program, however marked, brings a capability back.
fn forgo_capabilities() -> rustix::io::Result<()> {
    for number in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // The first number this kernel does not know.
            Err(Errno::INVAL) => return Ok(()),
            other => other?,
        }
    }
    Ok(())
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
        // "Not found" would be taken for the program's.
        if error == Errno::NOENT { Errno::IO.into() } else { error.into() }
    })
}

/// What may be opened and run. On kernels without Landlock (before 5.13, or switched off) the other fences stand.
fn ruleset(process: &Confined) -> Result<RulesetCreated, landlock::RulesetError> {
    let abi = ABI::V3;
    let all = AccessFs::from_all(abi);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let run = AccessFs::ReadFile | AccessFs::Execute;
    let use_device = AccessFs::ReadFile | AccessFs::WriteFile;
    let mut rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?.create()?;
    rules = allow(rules, root::system(), read)?;
    rules = allow(rules, LOADERS.iter().map(Path::new).chain([process.program.as_path()]), run)?;
    rules =
        allow(rules, DEVICES.iter().map(Path::new).chain(process.devices.iter().map(PathBuf::as_path)), use_device)?;
    rules = allow(rules, process.home.iter().map(PathBuf::as_path), all & !BitFlags::from(AccessFs::Execute))?;
    allow(rules, process.given.iter().map(|file| file.source.as_path()), AccessFs::ReadFile.into())
}

/// Whether this kernel has Landlock.
pub(super) fn has_landlock() -> bool {
    let asked = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    asked.handle_access(AccessFs::from_all(ABI::V1)).and_then(Ruleset::create).is_ok()
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
