//! What a node remembers of a VM, durably: enough to go on without the server after any crash.
//!
//! The record changes in three places only, all here and all pure: when a step begins ([`Record::begin`]), when it
//! succeeded ([`Record::done`]), when it failed ([`Record::failed`]). The VM's task writes it to disk after each, before
//! anything else happens.

use hull_core::restart;
use hull_types::{
    Timestamp,
    digest::Digest,
    error::{Error, ErrorKind},
    flavor::Resources,
    id::{MigrationId, VmId},
    link::DesiredVm,
    reason::{Reason, ReasonCode},
    units::Bytes,
    vm::{Exit, ExitCause, PowerTarget},
};
use serde::{Deserialize, Serialize};

use super::{Act, Note, Step, StepOutcome, secs, stamp::Stamp};
use crate::hypervisor::PluggedNic;

/// The root disk that is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// Its generation.
    pub generation: u64,
    /// The size it was made with or grown to.
    pub size: Bytes,
}

/// The hypervisor process that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The host's boot it was started in.
    pub boot_id: String,
    /// Whether the start is known to have succeeded. Written unconfirmed before the start, so that a crash in between
    /// is not taken for a death of the VM.
    pub confirmed: bool,
    /// The newest power wish it is known to have met: an end is judged by that wish, and not by one made since.
    pub seq: u64,
    /// The rescue image it runs, where it does.
    pub rescue: Option<Digest>,
    /// The size it runs with.
    pub resources: Resources,
    /// The size last asked of it online.
    pub sized_for: Resources,
    /// What of that takes effect at the next start only.
    pub pending: Vec<String>,
    /// Since when it runs.
    pub since: Timestamp,
    /// Changes of its NICs that take effect at the next start only.
    #[serde(default)]
    pub nics_waiting: Vec<NicWaiting>,
}

/// A NIC that comes or goes at the next start only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicWaiting {
    /// The NIC.
    pub nic: PluggedNic,
    /// Whether it comes; else it goes.
    pub comes: bool,
    /// Why not now, as a sentence for people.
    pub why: String,
}

/// Memory saved to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The size it was saved with, and must be restored with.
    pub resources: Resources,
    /// The root disk it belongs to.
    pub disk_generation: u64,
    /// It was saved to go to another node, and not because someone wants the VM suspended: who stops the VM meanwhile means
    /// the guest to shut down.
    #[serde(default)]
    pub for_the_way: bool,
}

/// Why the guest was asked to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Ask {
    /// To be off.
    Stop {
        /// The power wish.
        seq: u64,
    },
    /// To be started again.
    Reboot {
        /// The reboot wish.
        seq: u64,
    },
    /// To be started with or without the rescue system.
    Rescue,
}

/// The guest was asked to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Why.
    pub ask: Ask,
    /// When the power button was last pressed.
    pub pressed_at: Timestamp,
    /// When it is forced.
    pub deadline: Timestamp,
}

/// It ended by itself, and stays off until the power wish changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Off {
    /// The power wish in force as it ended.
    pub seq: u64,
    /// Why it stays off.
    pub reason: Reason,
}

/// It ended, and is started again by its restart policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartAt {
    /// When.
    pub at: Timestamp,
    /// The power wish in force as it ended; a newer one is heeded at once.
    pub seq: u64,
    /// Why.
    pub reason: Reason,
}

/// A step that fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What kind of step.
    pub act: Act,
    /// The user's document it failed under; a newer one is tried at once.
    pub revision: u64,
    /// How often in a row.
    pub failures: u32,
    /// How often of those, lately, for the same reason.
    #[serde(default)]
    pub alike: u32,
    /// When it is tried again; none where it was given up.
    pub retry_at: Option<Timestamp>,
    /// Why it failed.
    pub reason: Reason,
    /// The same, as the step itself said it.
    #[serde(default)]
    pub cause: String,
}

/// The machine was halted by a disk error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoTrouble {
    /// How often it was let go on.
    pub resumes: u32,
    /// When it may next be let go on.
    pub next_at: Timestamp,
}

/// What of a record goes along when its VM goes to another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The root disk.
    pub disk: Option<DiskRecord>,
    /// Saved memory.
    pub saved: Option<Saved>,
    /// How it last ended.
    pub last_exit: Option<Exit>,
    /// It ended and stays off.
    pub off: Option<Off>,
    /// The newest power wish reached or given up.
    pub power_seq: u64,
    /// Reboots done.
    pub reboot_seq: u64,
    /// Restarts by policy since it last ran well.
    pub restarts: u32,
}

/// What a node remembers of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The format's version.
    pub v: u32,
    /// The VM.
    pub vm: VmId,
    /// What shall be, as last told.
    pub desired: Option<DesiredVm>,
    /// It is this node's no longer: tear down.
    pub removed: bool,
    /// The placement's generation that what is here belongs to; 0 while nothing is here.
    pub generation: u64,
    /// Nothing is left here.
    pub gone: bool,
    /// The migration by which it is to come, and for which its images are here.
    pub expected: Option<MigrationId>,
    /// The migration by which it came.
    pub arrived: Option<MigrationId>,
    /// The root disk.
    pub disk: Option<DiskRecord>,
    /// Root disks of older generations may be here.
    pub old_disks: bool,
    /// A rescue disk may be here.
    pub rescue_disk: bool,
    /// The process.
    pub started: Option<Started>,
    /// Saved memory.
    pub saved: Option<Saved>,
    /// The guest was asked to shut down.
    pub asked: Option<Asked>,
    /// The process ended or shall end; what follows from it is not yet decided.
    pub ended: Option<Exit>,
    /// How it last ended.
    pub last_exit: Option<Exit>,
    /// It ended and stays off.
    pub off: Option<Off>,
    /// The newest power wish reached or given up.
    pub power_seq: u64,
    /// Reboots done.
    pub reboot_seq: u64,
    /// Restarts by policy since it last ran well.
    pub restarts: u32,
    /// When it is restarted.
    pub restart_at: Option<RestartAt>,
    /// What fails.
    pub trouble: Option<Trouble>,
    /// A disk error halted it.
    pub io: Option<IoTrouble>,
    /// When this was last written.
    pub stamp: Option<Stamp>,
}

impl Default for Record {
    fn default() -> Self {
        Self::new(VmId(uuid::Uuid::nil()))
    }
}

impl Record {
    /// A VM of which nothing is here.
    pub fn new(vm: VmId) -> Self {
        Self {
            v: 1,
            vm,
            desired: None,
            removed: false,
            generation: 0,
            gone: false,
            expected: None,
            arrived: None,
            disk: None,
            old_disks: false,
            rescue_disk: false,
            started: None,
            saved: None,
            asked: None,
            ended: None,
            last_exit: None,
            off: None,
            power_seq: 0,
            reboot_seq: 0,
            restarts: 0,
            restart_at: None,
            trouble: None,
            io: None,
            stamp: None,
        }
    }

    /// What shall be here: none where it shall be torn down.
    pub fn wanted(&self) -> Option<&DesiredVm> {
        self.desired.as_ref().filter(|_| !self.removed)
    }

    /// Takes what shall be. What failed for a migration's sake says nothing about the next.
    pub fn hold(&mut self, desired: DesiredVm) {
        let transit = |desired: Option<&DesiredVm>| desired.and_then(|desired| desired.transit);
        let held_back = self.trouble.as_ref().is_some_and(|it| matches!(it.act, Act::Suspend | Act::TakeOver));
        if held_back && transit(self.desired.as_ref()) != desired.transit {
            self.trouble = None;
        }
        self.desired = Some(desired);
        self.removed = false;
    }

    /// What goes along to another node.
    pub fn carried(&self) -> Carried {
        Carried {
            disk: self.disk,
            saved: self.saved,
            last_exit: self.last_exit.clone(),
            off: self.off.clone(),
            power_seq: self.power_seq,
            reboot_seq: self.reboot_seq,
            restarts: self.restarts,
        }
    }

    fn took_over(&mut self, migration: MigrationId, outcome: StepOutcome) {
        let StepOutcome::TookOver(carried) = outcome else { return };
        let Carried { disk, saved, last_exit, off, power_seq, reboot_seq, restarts } = *carried;
        *self = Self {
            arrived: Some(migration),
            disk,
            saved,
            last_exit,
            off,
            power_seq,
            reboot_seq,
            restarts,
            ..self.clone()
        };
    }

    fn revision(&self) -> u64 {
        self.wanted().map_or(0, |desired| desired.revision)
    }

    /// Notes what must be known before the step's effect: that a process may be there, that one is to end.
    pub fn begin(&mut self, step: &Step, boot_id: &str, now: Timestamp) {
        match step {
            Step::Start(start) => {
                self.rescue_disk |= start.rescue.is_some();
                self.started = Some(Started {
                    boot_id: boot_id.to_owned(),
                    confirmed: false,
                    seq: self.wanted().map_or(0, |desired| desired.vm.power.seq),
                    rescue: start.rescue,
                    resources: start.resources,
                    sized_for: start.resources,
                    pending: Vec::new(),
                    since: now,
                    nics_waiting: Vec::new(),
                });
            }
            Step::Quit if self.ended.is_none() => {
                let detail = "ended as asked".to_owned();
                self.ended = Some(Exit { at: now, cause: ExitCause::Requested, detail });
            }
            _ => {}
        }
    }

    /// Notes that the step succeeded.
    pub fn done(&mut self, step: &Step, outcome: StepOutcome, boot_id: &str, now: Timestamp) {
        if self.trouble.as_ref().is_some_and(|trouble| Some(trouble.act) == step.act()) {
            self.trouble = None;
        }
        match step {
            Step::PrepareDisk { generation, size } => {
                self.old_disks |= self.disk.is_some();
                self.disk = Some(DiskRecord { generation: *generation, size: *size });
            }
            Step::FetchImages { migration } => self.expected = Some(*migration),
            Step::TakeOver { migration } => self.took_over(*migration, outcome),
            Step::RemoveOlderDisks => self.old_disks = false,
            Step::GrowDisk { to } | Step::GrowDiskOnline { to } => {
                if let Some(disk) = &mut self.disk {
                    disk.size = disk.size.max(*to);
                }
            }
            Step::RemoveRescueDisk => self.rescue_disk = false,
            Step::Start(_) => self.started_well(now),
            Step::PowerButton { ask, deadline } => {
                self.asked = Some(Asked { ask: *ask, pressed_at: now, deadline: *deadline });
            }
            Step::Reset => self.reset_done(),
            Step::Save => {
                let target = self.wanted().map(|desired| desired.vm.power.target);
                let for_the_way = target.is_some_and(|target| target != PowerTarget::Suspended);
                let resources = self.started.as_ref().map(|started| started.resources);
                self.saved = resources.zip(self.disk).map(|(resources, disk)| Saved {
                    resources,
                    disk_generation: disk.generation,
                    for_the_way,
                });
            }
            Step::Resize { to } => self.resized(*to, outcome),
            Step::AttachNic { nic } => self.nic_changed(PluggedNic { port: nic.port, mac: nic.mac }, true, outcome),
            Step::DetachNic { nic } => self.nic_changed(*nic, false, outcome),
            Step::ResumeAfterIoError => {
                let resumes = self.io.map_or(0, |io| io.resumes) + 1;
                self.io = Some(IoTrouble { resumes, next_at: now + pause(resumes, IO_PAUSE_MOST) });
            }
            Step::TearDown => self.torn_down(),
            Step::Resume | Step::Pause | Step::Quit | Step::Clear => {}
            Step::Note(note) => self.note(note, boot_id, now),
        }
    }

    fn started_well(&mut self, now: Timestamp) {
        if let Some(started) = &mut self.started {
            started.confirmed = true;
            started.since = now;
        }
        self.reset_done();
        self.asked = None;
        self.off = None;
        self.restart_at = None;
        self.io = None;
    }

    /// A machine that was just started or reset needs no reboot.
    fn reset_done(&mut self) {
        let asked = self.wanted().map_or(0, |desired| desired.vm.reboot.seq);
        self.reboot_seq = self.reboot_seq.max(asked);
        self.asked = None;
    }

    fn resized(&mut self, to: Resources, outcome: StepOutcome) {
        let StepOutcome::Resized(resized) = outcome else { return };
        if let Some(started) = &mut self.started {
            started.sized_for = to;
            started.pending = resized.pending;
            started.resources = resized.now.unwrap_or(started.resources);
        }
    }

    fn nic_changed(&mut self, nic: PluggedNic, comes: bool, outcome: StepOutcome) {
        let Some(started) = &mut self.started else { return };
        // One that went may have made room for those that wait to come.
        let room = !comes && outcome == StepOutcome::Done;
        started.nics_waiting.retain(|waiting| waiting.nic.port != nic.port && !(room && waiting.comes));
        if let StepOutcome::AtNextStart(why) = outcome {
            started.nics_waiting.push(NicWaiting { nic, comes, why });
        }
    }

    /// What of the wish takes effect at the next start only, as sentences for people.
    pub fn pending(&self) -> Vec<String> {
        let (Some(started), Some(desired)) = (&self.started, self.wanted()) else { return Vec::new() };
        let wanted = |nic: PluggedNic| desired.nics.iter().any(|one| (one.port, one.mac) == (nic.port, nic.mac));
        let nics = started.nics_waiting.iter().filter(|waiting| wanted(waiting.nic) == waiting.comes);
        started.pending.iter().cloned().chain(nics.map(|waiting| waiting.why.clone())).collect()
    }

    fn torn_down(&mut self) {
        let (desired, removed) = (self.desired.take(), self.removed);
        *self = Self { desired, removed, gone: true, ..Self::new(self.vm) };
    }

    fn note(&mut self, note: &Note, boot_id: &str, now: Timestamp) {
        match note {
            Note::TakeGeneration => {
                self.generation = self.wanted().map_or(0, |desired| desired.generation);
                self.gone = false;
            }
            Note::Adopted => self.adopted(boot_id, now),
            Note::NeverStarted => self.started = None,
            Note::Ended(exit) => self.ended = Some(exit.clone()),
            Note::Judge => self.judge(),
            Note::ForgetAsked => self.asked = None,
            Note::DropSaved => self.saved = None,
            Note::PowerReached => {
                self.power_seq = self.wanted().map_or(0, |desired| desired.vm.power.seq);
                if let Some(started) = &mut self.started {
                    started.seq = self.power_seq;
                }
            }
            Note::RebootVoid => self.reset_done(),
            Note::RanWell => self.restarts = 0,
            Note::IoMended => self.io = None,
        }
    }

    /// A process was found that the record does not know to have started: what it was started with is what shall be now.
    fn adopted(&mut self, boot_id: &str, now: Timestamp) {
        let Some(desired) = self.wanted() else { return };
        let (resources, seq) = (desired.vm.resources, desired.vm.power.seq);
        let disk = DiskRecord { generation: desired.vm.disk_generation, size: resources.disk };
        let rescue = desired.vm.rescue.as_ref().map(|rescue| rescue.image.digest);
        let started = self.started.get_or_insert_with(|| Started {
            boot_id: boot_id.to_owned(),
            confirmed: true,
            seq,
            rescue,
            resources,
            sized_for: resources,
            pending: Vec::new(),
            since: now,
            nics_waiting: Vec::new(),
        });
        let since = started.since;
        self.disk.get_or_insert(disk);
        self.started_well(since);
    }

    /// Decides what follows from an end: at rest, started again at once, started again later, or left off.
    fn judge(&mut self) {
        let (Some(exit), asked) = (self.ended.take(), self.asked.take()) else { return };
        self.last_exit = Some(exit.clone());
        let (seq, ran) = match self.started.take() {
            Some(started) => (started.seq, exit.at.duration_since(started.since)),
            None => (self.power_seq, jiff::SignedDuration::ZERO),
        };
        self.io = None;
        if let Some(Ask::Reboot { seq }) = asked.map(|asked| asked.ask) {
            self.reboot_seq = self.reboot_seq.max(seq);
        }
        let Some(vm) = self.wanted().map(|desired| &desired.vm) else { return };
        let wanted_on = matches!(vm.power.target, PowerTarget::Running | PowerTarget::Paused);
        let ours = exit.cause == ExitCause::Requested || exit.cause == ExitCause::GuestShutdown && asked.is_some();
        if !wanted_on || ours {
            return;
        }
        match restart::after_exit(vm.restart, &exit, ran, self.restarts) {
            restart::Next::Start { at, restarts, reason } => {
                self.restarts = restarts;
                self.restart_at = Some(RestartAt { at, seq, reason });
            }
            restart::Next::Rest(reason) => {
                self.off = Some(Off { seq, reason });
                self.power_seq = self.power_seq.max(seq);
            }
        }
    }

    /// Notes that the step failed, and when it is tried again.
    pub fn failed(&mut self, step: &Step, code: ReasonCode, error: &Error, now: Timestamp) {
        if let Step::Start(_) = step {
            self.started = None;
        }
        if let Step::PowerButton { ask, .. } = step {
            // A guest that cannot be asked is not waited for.
            self.asked = Some(Asked { ask: *ask, pressed_at: now, deadline: now });
            return;
        }
        let Some(act) = step.act() else { return };
        let revision = if act == Act::TearDown { 0 } else { self.revision() };
        let failures = match &self.trouble {
            Some(trouble) if trouble.act == act && trouble.revision == revision => trouble.failures + 1,
            _ => 1,
        };
        let alike = match &self.trouble {
            Some(trouble) if failures > 1 && trouble.reason.code == code && trouble.cause == error.detail => {
                trouble.alike + 1
            }
            _ => 1,
        };
        let gives_up = act.attempts(error.kind).is_some_and(|most| failures >= most);
        let retry_at = (!gives_up).then(|| now + pause(failures, act.longest_pause()));
        let message = if gives_up && failures > 1 {
            format!("{} (given up after {failures} attempts; the next power call tries again)", error.detail)
        } else {
            error.detail.clone()
        };
        let mut reason = Reason::new(code, message, now);
        reason.deadline = retry_at;
        if gives_up && matches!(act, Act::Prepare | Act::Start | Act::Suspend) {
            self.power_seq = self.wanted().map_or(self.power_seq, |desired| desired.vm.power.seq);
        }
        self.trouble = Some(Trouble { act, revision, failures, alike, retry_at, reason, cause: error.detail.clone() });
    }
}

/// The longest wait before a machine halted by a disk error is let go on again, in seconds.
pub(super) const IO_PAUSE_MOST: i64 = 60;

/// The wait after the `n`th failure in a row: 1 s, 2 s, 4 s, … up to `most` seconds.
fn pause(n: u32, most: i64) -> jiff::SignedDuration {
    restart::pause(n).min(secs(most))
}

impl Act {
    /// Attempts until it is given up; none where the cause lies outside of the VM and passes, or giving up is no answer.
    const fn attempts(self, kind: ErrorKind) -> Option<u32> {
        let passes = matches!(kind, ErrorKind::Unavailable | ErrorKind::InsufficientResources | ErrorKind::Timeout);
        match self {
            Self::Prepare | Self::Start if passes => None,
            Self::Prepare | Self::Start => Some(10),
            Self::Suspend => Some(3),
            // The guest is halted meanwhile, and goes on where it was once this is given up.
            Self::TakeOver if matches!(kind, ErrorKind::InsufficientResources | ErrorKind::Invalid) => Some(1),
            Self::TakeOver => Some(4),
            // A guest that is booting lets go of nothing yet.
            Self::Tune if matches!(kind, ErrorKind::Timeout) => None,
            Self::Tune => Some(5),
            Self::Tidy | Self::Stop | Self::TearDown => None,
        }
    }

    pub(super) const fn longest_pause(self) -> i64 {
        match self {
            Self::Prepare | Self::Start | Self::Tune | Self::Tidy => 300,
            Self::Stop | Self::Suspend | Self::TakeOver | Self::TearDown => 30,
        }
    }
}
