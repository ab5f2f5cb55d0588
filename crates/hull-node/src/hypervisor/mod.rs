//! The border to hypervisors: what the node asks of one, whichever it is.
//!
//! A hypervisor process ([`Vmm`]) outlives the node's: it is found again by its VM's private directory ([`Hypervisor::adopt`]).
//! When the guest turns itself off or panics, the process stays, halted, until the node has seen why and quits it; so the
//! cause is known even if the node was down at that moment.

pub mod qemu;
pub mod qmp;

use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use hull_types::{
    error::Result,
    flavor::Resources,
    id::{PortId, VmId},
    link::ExecResult,
    network::Mac,
    units::Bytes,
    vm::{Accel, Exit, Firmware, Profile, Vmm as VmmInfo},
};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncRead, io::AsyncWrite, sync::watch};

/// A disk given to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// `root`, `rescue`, `seed`; unique in the machine; becomes the disk's serial.
    pub id: String,
    /// The file.
    pub path: PathBuf,
    /// Whether it is qcow2; raw otherwise. Never probed.
    pub qcow2: bool,
    /// The files a qcow2 overlay stands on, nearest first; empty for a disk of its own. The header's own idea of its
    /// backing file is never used: a taken-over hypervisor could have written any path there.
    pub backing: Vec<BackingSpec>,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// Place in the boot order, from 0.
    pub boot_index: Option<u8>,
}

/// A file beneath an overlay, only ever read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingSpec {
    /// The file.
    pub path: PathBuf,
    /// Whether it is qcow2; raw otherwise. Never probed.
    pub qcow2: bool,
}

/// A kernel loaded directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSpec {
    /// The kernel's file. Where it may be read by others (in a directory only root enters) it is handed over as it is;
    /// otherwise it is copied into the VM's directory first.
    pub kernel: PathBuf,
    /// The initial RAM disk's file.
    pub initrd: Option<PathBuf>,
    /// The command line.
    pub cmdline: String,
}

/// A NIC: its tap is opened by the network side and handed over as a descriptor.
#[derive(Debug)]
pub struct NicSpec {
    /// The port it embodies.
    pub port: PortId,
    /// Its MAC.
    pub mac: Mac,
    /// What the guest is told of the largest packet (virtio `host_mtu`).
    pub mtu: u16,
    /// The tap (`IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`).
    pub tap: OwnedFd,
}

/// A NIC that a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluggedNic {
    /// The port it embodies.
    pub port: PortId,
    /// Its MAC.
    pub mac: Mac,
}

/// What became of a change of a running machine's devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plugged {
    /// It is done.
    Now,
    /// It cannot be done while the machine runs, for this reason, a sentence for people.
    AtNextStart(String),
}

/// A machine to start.
#[derive(Debug)]
pub struct VmmSpec {
    /// The VM it embodies.
    pub vm: VmId,
    /// Its private directory: sockets, variables, state live here. Made by the caller, owned by root.
    pub dir: PathBuf,
    /// For people who look at the process list.
    pub name: String,
    /// The machine it sees.
    pub profile: Profile,
    /// The firmware of a `pc`.
    pub firmware: Firmware,
    /// Whether the firmware verifies signatures.
    pub secure_boot: bool,
    /// Whether there is a TPM.
    pub tpm: bool,
    /// CPUs and memory at start.
    pub resources: Resources,
    /// Its disks.
    pub disks: Vec<DiskSpec>,
    /// A kernel loaded directly.
    pub kernel: Option<KernelSpec>,
    /// Its NICs. A machine restored from memory has those it was saved with: of these, the ones given here are
    /// connected, the others have a cable that leads nowhere.
    pub nics: Vec<NicSpec>,
    /// Memory saved by [`Vmm::save`], to be restored.
    pub restore: Option<PathBuf>,
    /// Leave the CPUs halted.
    pub paused: bool,
}

/// What a machine is doing, as its hypervisor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Its CPUs run.
    Running,
    /// Its CPUs are halted by us.
    Paused,
    /// The guest turned itself off; the process waits to be quit.
    GuestShutdown,
    /// The guest panicked; the process waits to be quit.
    GuestPanicked,
    /// A disk error halted it (`ENOSPC`, `EIO`); it goes on with [`Vmm::resume`] once the cause is mended.
    IoError,
    /// The process lives but does not answer.
    Hung,
    /// The process ended.
    Exited(Exit),
}

/// What changed a machine online.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resized {
    /// The size it has now.
    pub now: Option<Resources>,
    /// What takes effect at the next start only, as sentences for people.
    pub pending: Vec<String>,
}

/// What the host's hypervisor can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HypervisorFacts {
    /// Its version.
    pub version: String,
    /// How guests run, proven by running one.
    pub accel: Accel,
    /// Why hardware acceleration is not used, where it is not.
    pub fallback: Option<String>,
    /// Fences around hypervisor processes that this host cannot put up, in words for its operator.
    pub unfenced: Vec<String>,
}

/// A byte stream to a guest (console, VNC).
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A kind of hypervisor.
#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// What it can do here. Boots a tiny guest to prove acceleration; the answer is kept per boot of the host.
    async fn facts(&self) -> Result<HypervisorFacts>;

    /// Starts a process for the machine. On error nothing is left running. The directory records what is needed to
    /// adopt it before the guest's first instruction.
    async fn start(&self, spec: VmmSpec) -> Result<Arc<dyn Vmm>>;

    /// The process that was started for the VM in this directory, alive or ended; `None` where none was, or where
    /// [`Hypervisor::clear`] was called since.
    async fn adopt(&self, vm: VmId, dir: &std::path::Path) -> Result<Option<Arc<dyn Vmm>>>;

    /// The newest bytes of a console log, at most `tail`, of a VM that has no process: it stays after [`Hypervisor::clear`],
    /// since it is wanted most after a crash.
    async fn console_log(&self, dir: &std::path::Path, tail: usize) -> Result<Vec<u8>>;

    /// Forgets an ended process of this directory: sockets, pid record, control group, uid.
    async fn clear(&self, vm: VmId, dir: &std::path::Path) -> Result<()>;
}

/// A hypervisor process that embodies a VM.
#[async_trait]
pub trait Vmm: Send + Sync + 'static {
    /// Pid, start, accelerator.
    fn info(&self) -> VmmInfo;

    /// What it is doing; changes wake the VM's task.
    fn state(&self) -> watch::Receiver<RunState>;

    /// Asks again what it is doing, without trusting events.
    async fn refresh(&self) -> Result<RunState>;

    /// Lets the CPUs run.
    async fn resume(&self) -> Result<()>;

    /// Halts the CPUs.
    async fn pause(&self) -> Result<()>;

    /// Presses the power button.
    async fn power_button(&self) -> Result<()>;

    /// Presses the reset button.
    async fn reset(&self) -> Result<()>;

    /// Ends the process: politely, then by SIGKILL to exactly this process (pidfd). Returns when it is gone.
    async fn quit(&self) -> Result<()>;

    /// Halts the CPUs and writes the machine's state to the file, atomically (a half-written file never bears the name).
    async fn save(&self, file: &std::path::Path) -> Result<()>;

    /// Brings the running machine to this size as far as it can be done online.
    async fn resize(&self, to: Resources) -> Result<Resized>;

    /// The NICs it has, asked anew: what was half plugged or unplugged is cleared away first.
    async fn nics(&self) -> Result<Vec<PluggedNic>>;

    /// Plugs a NIC in. Nothing happens where it is there.
    async fn attach_nic(&self, nic: NicSpec) -> Result<Plugged>;

    /// Unplugs a port's NIC, which its guest must agree to: [`hull_types::error::ErrorKind::Timeout`] where it does not
    /// in time. Nothing happens where there is none.
    async fn detach_nic(&self, port: PortId) -> Result<Plugged>;

    /// Tells the guest that a disk grew.
    async fn grow_disk(&self, disk: &str, to: Bytes) -> Result<()>;

    /// The serial console, interactive. Several at once see the same bytes.
    async fn console(&self) -> Result<Box<dyn ByteStream>>;

    /// The VNC server.
    async fn vnc(&self) -> Result<Box<dyn ByteStream>>;

    /// The newest bytes of the console log, at most `tail`.
    async fn console_log(&self, tail: usize) -> Result<Vec<u8>>;

    /// The screen as PNG.
    async fn screenshot(&self) -> Result<Vec<u8>>;

    /// Whether the guest agent answers.
    async fn agent_ping(&self) -> Result<()>;

    /// Runs a program in the guest.
    async fn agent_exec(&self, argv: Vec<String>, input: Vec<u8>, timeout: std::time::Duration) -> Result<ExecResult>;

    /// Sets a user's password in the guest.
    async fn set_password(&self, user: &str, password: &str) -> Result<()>;

    /// Freezes the guest's file systems; how many. They thaw by themselves after the deadline.
    async fn quiesce(&self, deadline: std::time::Duration) -> Result<u64>;

    /// Thaws them; how many.
    async fn thaw(&self) -> Result<u64>;
}
