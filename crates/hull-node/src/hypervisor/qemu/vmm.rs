//! A running QEMU, as the node sees it.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use hull_types::{
    Timestamp,
    error::{Error, Result},
    flavor::Resources,
    id::{PortId, VmId},
    link::ExecResult,
    units::Bytes,
    vm::{Exit, ExitCause, Profile, Vmm as VmmInfo},
};
use rustix::{
    fs::{MemfdFlags, Mode, OFlags},
    net::{AddressFamily, SocketFlags, SocketType},
};
use serde_json::{Value, json};
use tokio::{net::UnixStream, sync::watch, task::AbortHandle};

use super::{
    QemuConfig, agent,
    cgroup::Cgroups,
    cmdline, console, log, migrate, monitor, nics,
    process::Process,
    record::{Files, Record},
    resize,
};
use crate::hypervisor::{
    ByteStream, NicSpec, Plugged, PluggedNic, Resized, RunState, Vmm,
    qmp::{Client, QmpError},
};

/// How long QEMU may take to end by itself: it writes its qcow2 caches out.
const POLITE_QUIT: Duration = Duration::from_secs(10);
/// How long the kernel may take to end a killed process.
const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// A screen of 8K in PNG stays below this.
const MOST_SCREENSHOT: u64 = 64 << 20;

/// What the tasks of one machine share.
pub(super) struct Shared {
    pub vm: VmId,
    pub info: VmmInfo,
    pub files: Files,
    pub config: QemuConfig,
    pub process: Process,
    pub qmp: Client,
    pub cgroups: Cgroups,
    pub state: watch::Sender<RunState>,
    /// What is written down of it; changes with its shape.
    pub record: Mutex<Record>,
}

impl Shared {
    pub(super) fn record(&self) -> Record {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn profile(&self) -> Profile {
        self.record().profile
    }

    /// Runs a command without arguments or answer.
    pub(super) async fn tell(&self, command: &str) -> Result<()> {
        self.qmp.run(command, Value::Null).await.map(drop).map_err(|error| self.explain(error))
    }

    /// Says a failed command in terms of the machine.
    pub(super) fn explain(&self, error: QmpError) -> Error {
        if let RunState::Exited(exit) = &*self.state.borrow() {
            return Error::conflict(format!("the machine is not running: {}", exit.detail));
        }
        error.into()
    }

    fn micro_lacks(&self, what: &str) -> Result<()> {
        match self.profile() {
            Profile::Pc => Ok(()),
            Profile::Micro => {
                Err(Error::unsupported(format!("a VM of profile micro has no {what}; use its serial console")))
            }
        }
    }
}

/// A QEMU process. Dropping it lets go of the process, not of the machine.
pub(super) struct QemuVmm {
    shared: Arc<Shared>,
    console: console::Hub,
    agent: Arc<agent::Agent>,
    watcher: Option<AbortHandle>,
    /// Viewers so far: names of descriptors must not repeat while two are on their way.
    viewers: AtomicU64,
}

impl Drop for QemuVmm {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

impl QemuVmm {
    /// Takes charge of a machine and begins to watch it.
    pub(super) fn new(shared: Shared) -> Self {
        let ended = matches!(&*shared.state.borrow(), RunState::Exited(_));
        let shared = Arc::new(shared);
        let watcher = (!ended).then(|| tokio::spawn(monitor::watch(Arc::clone(&shared))).abort_handle());
        let agent = Arc::new(agent::Agent::new(shared.files.agent(), shared.files.frozen()));
        if !ended {
            agent::Agent::resume_thaw(&agent);
        }
        Self { console: console::Hub::open(shared.files.serial()), agent, watcher, viewers: AtomicU64::new(0), shared }
    }

    async fn wait_gone(&self, within: Duration) -> bool {
        let mut state = self.shared.state.subscribe();
        let gone = state.wait_for(|state| matches!(state, RunState::Exited(_)));
        tokio::time::timeout(within, gone).await.is_ok()
    }

    /// Hands a descriptor over under a name for the next command to use.
    async fn pass(&self, name: &str, fd: OwnedFd) -> Result<()> {
        let arguments = json!({"fdname": name});
        self.shared.qmp.run_with_fd("getfd", arguments, fd).await.map(drop).map_err(|e| self.shared.explain(e))
    }
}

#[async_trait]
impl Vmm for QemuVmm {
    fn info(&self) -> VmmInfo {
        self.shared.info.clone()
    }

    fn state(&self) -> watch::Receiver<RunState> {
        self.shared.state.subscribe()
    }

    async fn refresh(&self) -> Result<RunState> {
        monitor::look(&self.shared).await;
        Ok(self.shared.state.borrow().clone())
    }

    async fn resume(&self) -> Result<()> {
        self.shared.tell("cont").await?;
        self.refresh().await.map(drop)
    }

    async fn pause(&self) -> Result<()> {
        self.shared.tell("stop").await?;
        self.refresh().await.map(drop)
    }

    async fn power_button(&self) -> Result<()> {
        self.shared.tell("system_powerdown").await
    }

    async fn reset(&self) -> Result<()> {
        self.shared.tell("system_reset").await
    }

    async fn quit(&self) -> Result<()> {
        let state = self.shared.state.borrow().clone();
        let (cause, detail) = match state {
            RunState::Exited(_) => return Ok(()),
            RunState::GuestShutdown => (ExitCause::GuestShutdown, "the guest turned itself off"),
            RunState::GuestPanicked => (ExitCause::GuestPanic, "the guest panicked"),
            RunState::Running | RunState::Paused | RunState::IoError | RunState::Hung => {
                (ExitCause::Requested, "ended as asked")
            }
        };
        // Written down first: whoever finds it gone, finds why.
        monitor::write_exit(&self.shared.files, &Exit { at: Timestamp::now(), cause, detail: detail.to_owned() });
        if !matches!(*self.shared.state.borrow(), RunState::Hung) {
            let quit = self.shared.qmp.run_within(self.shared.config.hung_after, "quit", Value::Null, None).await;
            // The connection may break before the answer is out.
            if matches!(quit, Ok(_) | Err(QmpError::Disconnected { .. })) && self.wait_gone(POLITE_QUIT).await {
                return Ok(());
            }
        }
        let pid = self.shared.process.pid;
        self.shared
            .process
            .kill()
            .map_err(|error| Error::internal(format!("cannot kill QEMU (pid {pid}): {error}")))?;
        if self.wait_gone(KILL_DEADLINE).await {
            return Ok(());
        }
        Err(Error::timeout(format!("QEMU (pid {pid}) was killed but the kernel has not ended it: its disk may hang")))
    }

    async fn save(&self, file: &Path) -> Result<()> {
        self.pause().await?;
        migrate::save(&self.shared, file).await
    }

    async fn resize(&self, to: Resources) -> Result<Resized> {
        resize::resize(&self.shared, to).await
    }

    async fn nics(&self) -> Result<Vec<PluggedNic>> {
        nics::held(&self.shared).await
    }

    async fn attach_nic(&self, nic: NicSpec) -> Result<Plugged> {
        nics::attach(&self.shared, nic).await
    }

    async fn detach_nic(&self, port: PortId) -> Result<Plugged> {
        nics::detach(&self.shared, port).await
    }

    async fn grow_disk(&self, disk: &str, to: Bytes) -> Result<()> {
        let arguments = json!({"node-name": cmdline::node_name(disk), "size": to.0});
        self.shared.qmp.run("block_resize", arguments).await.map_err(|error| self.shared.explain(error))?;
        resize::remember(&self.shared, |shape| {
            if disk == "root" {
                shape.disk = to;
            }
        })
    }

    async fn console(&self) -> Result<Box<dyn ByteStream>> {
        let stream = self.console.attach().await.map_err(|error| {
            Error::unavailable(format!("the serial console of {:?} does not answer: {error}", self.shared.vm))
        })?;
        Ok(Box::new(stream))
    }

    async fn vnc(&self) -> Result<Box<dyn ByteStream>> {
        self.shared.micro_lacks("screen")?;
        let fail = |error: std::io::Error| Error::internal(format!("cannot open a channel to the screen: {error}"));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|error| fail(error.into()))?;
        let ours = UnixStream::from_std(ours.into()).map_err(fail)?;
        let name = format!("vnc{}", self.viewers.fetch_add(1, Ordering::Relaxed));
        self.pass(&name, theirs).await?;
        let arguments = json!({"protocol": "vnc", "fdname": name, "skipauth": true});
        self.shared.qmp.run("add_client", arguments).await.map_err(|error| self.shared.explain(error))?;
        Ok(Box::new(ours))
    }

    async fn console_log(&self, most: usize) -> Result<Vec<u8>> {
        log::tail(&self.shared.files.console_log(), most)
            .map_err(|error| Error::internal(format!("cannot read the console log of {:?}: {error}", self.shared.vm)))
    }

    async fn screenshot(&self) -> Result<Vec<u8>> {
        self.shared.micro_lacks("screen")?;
        let fail = |error: std::io::Error| Error::internal(format!("cannot take a screenshot: {error}"));
        let picture =
            rustix::fs::memfd_create("screenshot", MemfdFlags::CLOEXEC).map_err(|error| fail(error.into()))?;
        // QEMU takes a descriptor only with just the access it asks for.
        let path = format!("/proc/self/fd/{}", picture.as_raw_fd());
        let writer = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| fail(error.into()))?;
        let qmp = &self.shared.qmp;
        let added = qmp.run_with_fd("add-fd", Value::Null, writer).await.map_err(|error| self.shared.explain(error))?;
        let set = added.get("fdset-id").and_then(Value::as_u64).unwrap_or_default();
        let arguments = json!({"filename": format!("/dev/fdset/{set}"), "format": "png"});
        let dumped = qmp.run("screendump", arguments).await;
        qmp.run("remove-fd", json!({"fdset-id": set})).await.map_err(|error| self.shared.explain(error))?;
        dumped.map_err(|error| self.shared.explain(error))?;
        read_picture(picture.into()).map_err(fail)
    }

    async fn agent_ping(&self) -> Result<()> {
        self.agent.ping().await
    }

    async fn agent_exec(&self, argv: Vec<String>, input: Vec<u8>, timeout: Duration) -> Result<ExecResult> {
        self.agent.exec(argv, &input, timeout).await
    }

    async fn set_password(&self, user: &str, password: &str) -> Result<()> {
        self.agent.set_password(user, password).await
    }

    async fn quiesce(&self, deadline: Duration) -> Result<u64> {
        agent::Agent::quiesce(&self.agent, deadline).await
    }

    async fn thaw(&self) -> Result<u64> {
        self.agent.thaw().await
    }
}

/// A process that had ended before Hull looked. All it can still do is tell.
pub(super) struct Ended {
    pub info: VmmInfo,
    pub files: Files,
    pub state: watch::Sender<RunState>,
}

impl Ended {
    fn gone<T>(&self) -> Result<T> {
        match &*self.state.borrow() {
            RunState::Exited(exit) => Err(Error::conflict(format!("the machine is not running: {}", exit.detail))),
            _ => Err(Error::conflict("the machine is not running")),
        }
    }
}

#[async_trait]
impl Vmm for Ended {
    fn info(&self) -> VmmInfo {
        self.info.clone()
    }

    fn state(&self) -> watch::Receiver<RunState> {
        self.state.subscribe()
    }

    async fn refresh(&self) -> Result<RunState> {
        Ok(self.state.borrow().clone())
    }

    async fn resume(&self) -> Result<()> {
        self.gone()
    }

    async fn pause(&self) -> Result<()> {
        self.gone()
    }

    async fn power_button(&self) -> Result<()> {
        self.gone()
    }

    async fn reset(&self) -> Result<()> {
        self.gone()
    }

    async fn quit(&self) -> Result<()> {
        Ok(())
    }

    async fn save(&self, _file: &Path) -> Result<()> {
        self.gone()
    }

    async fn resize(&self, _to: Resources) -> Result<Resized> {
        self.gone()
    }

    async fn nics(&self) -> Result<Vec<PluggedNic>> {
        self.gone()
    }

    async fn attach_nic(&self, _nic: NicSpec) -> Result<Plugged> {
        self.gone()
    }

    async fn detach_nic(&self, _port: PortId) -> Result<Plugged> {
        self.gone()
    }

    async fn grow_disk(&self, _disk: &str, _to: Bytes) -> Result<()> {
        self.gone()
    }

    async fn console(&self) -> Result<Box<dyn ByteStream>> {
        self.gone()
    }

    async fn vnc(&self) -> Result<Box<dyn ByteStream>> {
        self.gone()
    }

    async fn console_log(&self, most: usize) -> Result<Vec<u8>> {
        log::tail(&self.files.console_log(), most)
            .map_err(|error| Error::internal(format!("cannot read the console log: {error}")))
    }

    async fn screenshot(&self) -> Result<Vec<u8>> {
        self.gone()
    }

    async fn agent_ping(&self) -> Result<()> {
        self.gone()
    }

    async fn agent_exec(&self, _argv: Vec<String>, _input: Vec<u8>, _timeout: Duration) -> Result<ExecResult> {
        self.gone()
    }

    async fn set_password(&self, _user: &str, _password: &str) -> Result<()> {
        self.gone()
    }

    async fn quiesce(&self, _deadline: Duration) -> Result<u64> {
        self.gone()
    }

    async fn thaw(&self) -> Result<u64> {
        self.gone()
    }
}

/// Reads what QEMU drew, within limits: a taken-over QEMU writes what it likes.
fn read_picture(mut file: std::fs::File) -> std::io::Result<Vec<u8>> {
    use std::io::{Read, Seek};
    file.rewind()?;
    let mut png = Vec::new();
    file.take(MOST_SCREENSHOT).read_to_end(&mut png)?;
    match png.starts_with(b"\x89PNG\r\n\x1a\n") {
        true => Ok(png),
        false => Err(std::io::Error::other("QEMU gave no PNG")),
    }
}
