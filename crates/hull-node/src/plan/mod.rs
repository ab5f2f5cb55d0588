//! The planner: from what shall be, what is and what is remembered, the one next step. Pure.
//!
//! ```text
//!                          ┌───────────────────────── restart policy, start ◄───────────────────────────┐
//!                          ▼                                                                            │
//!   (nothing) ─► prepare disk ─► [grow] ─► start ─► RUNNING ◄──pause/resume──► PAUSED                    │
//!                    ▲                      ▲  │       │ power button, then force         halted by      │
//!                    │ rebuild              │  │       │ save memory                      the guest,     │
//!                    │                      │  │       ▼                                  died, hung     │
//!                    │                      │  └──► quit ◄────────────────────────────────────┤          │
//!                    │                      │         ▼                                       │          │
//!                    │                      │       clear (forget the process) ◄──────────────┘          │
//!                    │                      │         ▼                                                  │
//!                    └──────────────────────┴────── judge ── STOPPED, SUSPENDED or FAILED, at rest ──────┘
//!
//!   leaving:   RUNNING, PAUSED ─► save memory ─► quit ─► clear ─► RELEASED    at rest, whatever power shall be
//!   arriving:  (nothing) ─► fetch its images ─► EXPECTED ─► take over ─► ARRIVED ─► once it is this node's, as above: with a disk, and memory to start from
//!
//!   from anywhere, once it is deleted, removed from this node or placed anew:  quit ─► clear ─► tear down ─► GONE
//! ```
//!
//! The rules behind it:
//!
//! * **Never twice.** A process is started only where none is seen, the record remembers none, and the last one's end
//!   was judged. Where a process can neither be seen nor be ruled out, the answer is to look again.
//! * **An end is noted before it is acted on** ([`Note::Ended`]), so that a crash of the node between the guest's
//!   shutdown and the process's cannot turn one cause into another.
//! * **Saved memory is used once.** A restored machine starts halted; the saved memory is forgotten, durably, before
//!   its CPUs run, because from then on the disk no longer fits that memory.
//! * **A VM on its way is run by nobody** from the moment its old node says that it holds it until its new node is told that
//!   it is its own; where that never comes, the old node goes on from the saved memory.
//! * **Delete always wins.** Tearing down asks nothing of the guest and is tried for ever.
//! * **What the guest must agree to holds nothing else up**: a NIC is unplugged last of all changes, again and again, and
//!   at the next start at the latest.
//! * **What waits says until when**: every plan that rests short of its target has a reason, and a deadline where it
//!   goes on by itself.

use hull_types::{
    Timestamp,
    digest::Digest,
    error::Error,
    flavor::Resources,
    id::MigrationId,
    link::{DesiredNic, DesiredVm},
    migration::Transit,
    reason::{Reason, ReasonCode},
    units::Bytes,
    vm::{Exit, ExitCause, PowerTarget, RebootKind, RestartPolicy, VmPhase},
};
use serde::{Deserialize, Serialize};

use crate::hypervisor::{PluggedNic, Resized, RunState};

mod absent;
mod alive;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod nic_tests;
pub mod record;
pub mod stamp;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod transit;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod transit_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod world;

use record::{Ask, Carried, Record};
pub(crate) use transit::FETCHING;

/// Seconds after which a hypervisor that does not answer is ended and its VM restarted by policy.
pub const HUNG_SECONDS: i64 = 120;
/// Seconds a hypervisor that does not answer is given when its VM shall stop.
const HUNG_STOP_SECONDS: i64 = 15;
/// The power button is pressed again so often, in seconds: a guest that is booting misses the first.
const PRESS_AGAIN_SECONDS: i64 = 10;
/// What must be free before a machine that a full disk halted goes on.
const DISK_SPACE_TO_GO_ON: Bytes = Bytes::mib(64);
/// How often what cannot wake us is looked at, in seconds.
const LOOK_AGAIN_SECONDS: i64 = 5;

/// What is, as far as it can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The hypervisor process.
    pub process: Process,
    /// The host's boot.
    pub boot_id: String,
    /// Space for disks; asked for only while a disk error halts the machine.
    pub disk_free: Option<Bytes>,
    /// The NICs of the process; none where it cannot be told.
    pub nics: Option<Vec<PluggedNic>>,
}

/// A VM's hypervisor process, as seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Process {
    /// There is none, nor a trace of an ended one.
    None,
    /// There is one, alive or ended and not yet cleared.
    Seen {
        /// What it does.
        state: RunState,
        /// Since when it was seen to do that.
        since: Timestamp,
    },
    /// It cannot be told whether there is one.
    Unknown(Error),
}

/// How to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The rescue system, where it shall run.
    pub rescue: Option<Digest>,
    /// From saved memory.
    pub restore: bool,
    /// With halted CPUs.
    pub paused: bool,
    /// With this size.
    pub resources: Resources,
}

/// One step of the node's on a VM. Every step may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the root disk from its image, where the VM has one.
    PrepareDisk {
        /// The disk's generation.
        generation: u64,
        /// At least so large.
        size: Bytes,
    },
    /// Fetch the images that the VM is made of, which is yet to come.
    FetchImages {
        /// The migration.
        migration: MigrationId,
    },
    /// Fetch all that the VM is from the node it leaves.
    TakeOver {
        /// The migration.
        migration: MigrationId,
    },
    /// Remove root disks of older generations.
    RemoveOlderDisks,
    /// Grow the root disk while no process uses it.
    GrowDisk {
        /// To this size.
        to: Bytes,
    },
    /// Grow the root disk of a running machine.
    GrowDiskOnline {
        /// To this size.
        to: Bytes,
    },
    /// Remove the rescue disk.
    RemoveRescueDisk,
    /// Start a process.
    Start(Start),
    /// Let the CPUs run.
    Resume,
    /// Let the CPUs run after a disk error.
    ResumeAfterIoError,
    /// Halt the CPUs.
    Pause,
    /// Ask the guest to shut down.
    PowerButton {
        /// Why.
        ask: Ask,
        /// Until when it has time.
        deadline: Timestamp,
    },
    /// Press the reset button.
    Reset,
    /// Save memory to disk; the machine is halted afterwards.
    Save,
    /// Change the size of a running machine.
    Resize {
        /// To this size.
        to: Resources,
    },
    /// Plug a NIC into a running machine.
    AttachNic {
        /// The NIC.
        nic: DesiredNic,
    },
    /// Unplug a NIC from a running machine.
    DetachNic {
        /// The NIC.
        nic: PluggedNic,
    },
    /// End the process.
    Quit,
    /// Forget the ended process.
    Clear,
    /// Remove everything of the VM's from this host.
    TearDown,
    /// Change the record only.
    Note(Note),
}

/// A change of the record that follows from what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// What will be here belongs to the placement's present generation.
    TakeGeneration,
    /// The process found is ours.
    Adopted,
    /// A start was begun and left nothing.
    NeverStarted,
    /// The process ended, or the guest halted it, or it is given up.
    Ended(Exit),
    /// Decide what follows from the end.
    Judge,
    /// The guest did not heed the power button, and it no longer matters.
    ForgetAsked,
    /// The saved memory is of no use any more.
    DropSaved,
    /// Power is as wished.
    PowerReached,
    /// There is nothing to reboot.
    RebootVoid,
    /// It ran long enough for earlier restarts not to count.
    RanWell,
    /// The disk error is past.
    IoMended,
}

/// Kinds of steps that fail, and are retried, alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Disks.
    Prepare,
    /// Starting.
    Start,
    /// Changes of a running machine.
    Tune,
    /// Removing what is of no more use.
    Tidy,
    /// Fetching a VM from another node.
    TakeOver,
    /// Saving memory.
    Suspend,
    /// Ending a process.
    Stop,
    /// Removing all.
    TearDown,
}

impl Step {
    /// Its kind; none for notes, which cannot fail.
    pub const fn act(&self) -> Option<Act> {
        Some(match self {
            Self::PrepareDisk { .. } | Self::GrowDisk { .. } => Act::Prepare,
            Self::FetchImages { .. } | Self::TakeOver { .. } => Act::TakeOver,
            Self::Start(_) => Act::Start,
            Self::RemoveOlderDisks | Self::RemoveRescueDisk => Act::Tidy,
            Self::GrowDiskOnline { .. }
            | Self::Resume
            | Self::ResumeAfterIoError
            | Self::Pause
            | Self::Reset
            | Self::Resize { .. }
            | Self::AttachNic { .. }
            | Self::DetachNic { .. } => Act::Tune,
            Self::Save => Act::Suspend,
            Self::PowerButton { .. } | Self::Quit | Self::Clear => Act::Stop,
            Self::TearDown => Act::TearDown,
            Self::Note(_) => return None,
        })
    }
}

/// What a step that succeeded tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// Nothing more.
    Done,
    /// What of a new size took effect.
    Resized(Resized),
    /// What the VM brought along.
    TookOver(Box<Carried>),
    /// It takes effect at the next start only, for this reason.
    AtNextStart(String),
}

/// The next step, and what to tell meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do now; none means rest.
    pub step: Option<Step>,
    /// What is.
    pub phase: VmPhase,
    /// Why it is not (yet) as asked.
    pub reason: Option<Reason>,
    /// Look again then, even if nothing changed.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    fn step(step: Step, phase: VmPhase, reason: Option<Reason>) -> Self {
        Self { step: Some(step), phase, reason, wake_at: None }
    }

    fn note(note: Note, phase: VmPhase) -> Self {
        Self::step(Step::Note(note), phase, None)
    }

    fn rest(phase: VmPhase, reason: Option<Reason>) -> Self {
        Self { step: None, phase, reason, wake_at: None }
    }

    /// Rests until the time, which is also the reason's deadline.
    fn wait(phase: VmPhase, reason: Reason, until: Timestamp) -> Self {
        Self { step: None, phase, reason: Some(reason.until(until)), wake_at: Some(until) }
    }
}

pub(crate) fn secs(n: i64) -> jiff::SignedDuration {
    jiff::SignedDuration::from_secs(n)
}

/// What the planner looks at, by short names.
struct View<'a> {
    desired: &'a DesiredVm,
    observed: &'a Observed,
    record: &'a Record,
    now: Timestamp,
}

/// The one next step. `desired` is none where the VM shall not be on this node.
pub fn plan(desired: Option<&DesiredVm>, observed: &Observed, record: &Record, now: Timestamp) -> Plan {
    let plan = decide(desired, observed, record, now);
    gate(plan, desired, record, now)
}

fn decide(desired: Option<&DesiredVm>, observed: &Observed, record: &Record, now: Timestamp) -> Plan {
    let Some(desired) = desired.filter(|desired| desired.vm.deleted_at.is_none()) else {
        return tear_down(observed, record, now);
    };
    if record.generation == 0 {
        return Plan::note(Note::TakeGeneration, VmPhase::Preparing);
    }
    if record.generation != desired.generation {
        return tear_down(observed, record, now);
    }
    let view = View { desired, observed, record, now };
    match desired.transit {
        Some(Transit::Expected { migration }) => return view.expected(migration),
        Some(Transit::Arriving { migration }) => return view.arriving(migration),
        Some(Transit::Leaving { .. }) | None => {}
    }
    match &observed.process {
        Process::None if view.leaves() => view.released(),
        Process::None => view.absent(),
        Process::Unknown(error) => {
            let until = now + secs(LOOK_AGAIN_SECONDS);
            let message = format!("cannot tell whether its hypervisor runs: {}", error.detail);
            Plan::wait(view.steady_phase(), Reason::new(ReasonCode::HypervisorHung, message, now), until)
        }
        Process::Seen { state, since } => view.seen(state, *since),
    }
}

/// Ends and removes all there is, without asking the guest.
fn tear_down(observed: &Observed, record: &Record, now: Timestamp) -> Plan {
    let reason = || Some(Reason::new(ReasonCode::Deleting, "being removed from its node", now));
    let step = match &observed.process {
        Process::None if record.gone => return Plan::rest(VmPhase::Gone, None),
        Process::None => Step::TearDown,
        Process::Seen { state: RunState::Exited(_), .. } => Step::Clear,
        Process::Seen { .. } => Step::Quit,
        Process::Unknown(error) => {
            let message = format!("cannot tell whether its hypervisor runs: {}", error.detail);
            let until = now + secs(LOOK_AGAIN_SECONDS);
            return Plan::wait(VmPhase::Deleting, Reason::new(ReasonCode::Deleting, message, now), until);
        }
    };
    Plan::step(step, VmPhase::Deleting, reason())
}

/// Holds back a step whose kind failed under the same wish until its pause is over, or for good where it was given up.
fn gate(plan: Plan, desired: Option<&DesiredVm>, record: &Record, now: Timestamp) -> Plan {
    let (Some(act), Some(trouble)) = (plan.step.as_ref().and_then(Step::act), &record.trouble) else { return plan };
    let revision = desired.map_or(0, |desired| desired.revision);
    if trouble.act != act || (act != Act::TearDown && trouble.revision != revision) {
        return plan;
    }
    let phase = match act {
        Act::Prepare | Act::Start => VmPhase::Failed,
        Act::Tune | Act::Tidy | Act::TakeOver | Act::Suspend | Act::Stop | Act::TearDown => plan.phase,
    };
    match trouble.retry_at {
        Some(at) if at > now => Plan::wait(phase, trouble.reason.clone(), at),
        Some(_) => plan,
        None => Plan::rest(phase, Some(trouble.reason.clone())),
    }
}

impl View<'_> {
    /// Where power shall rest; a VM that leaves is halted with its memory saved first.
    fn target(&self) -> PowerTarget {
        match self.desired.vm.power.target {
            PowerTarget::Running | PowerTarget::Paused if self.leaves() => PowerTarget::Suspended,
            target => target,
        }
    }

    fn leaves(&self) -> bool {
        matches!(self.desired.transit, Some(Transit::Leaving { .. }))
    }

    fn wanted_rescue(&self) -> Option<Digest> {
        self.desired.vm.rescue.as_ref().map(|rescue| rescue.image.digest)
    }

    /// Whether steps of this kind failed under the present wish and are not to be tried now.
    fn held_back(&self, act: Act) -> bool {
        self.record.trouble.as_ref().is_some_and(|trouble| {
            trouble.act == act
                && trouble.revision == self.desired.revision
                && trouble.retry_at.is_none_or(|at| at > self.now)
        })
    }

    fn rebuild_wanted(&self) -> bool {
        self.record.disk.is_some_and(|disk| disk.generation != self.desired.vm.disk_generation)
    }

    fn reason(&self, code: ReasonCode, message: impl Into<String>) -> Option<Reason> {
        Some(Reason::new(code, message, self.now))
    }

    /// The phase a VM is in while nothing can be learned.
    fn steady_phase(&self) -> VmPhase {
        match (&self.record.started, self.target()) {
            (Some(_), PowerTarget::Stopped) => VmPhase::Stopping,
            (Some(_), PowerTarget::Paused) => VmPhase::Paused,
            (Some(_), PowerTarget::Suspended) => VmPhase::Suspending,
            (Some(_), PowerTarget::Running) => VmPhase::Running,
            (None, _) => VmPhase::Preparing,
        }
    }

    /// The phase while a process is being taken away.
    fn ending_phase(&self) -> VmPhase {
        match self.target() {
            _ if self.rebuild_wanted() => VmPhase::Rebuilding,
            PowerTarget::Stopped => VmPhase::Stopping,
            PowerTarget::Suspended => VmPhase::Suspending,
            PowerTarget::Running | PowerTarget::Paused => VmPhase::Starting,
        }
    }

    fn seen(&self, state: &RunState, since: Timestamp) -> Plan {
        if let RunState::Exited(exit) = state {
            return self.exited(exit);
        }
        if self.record.started.as_ref().is_none_or(|started| !started.confirmed) {
            return Plan::note(Note::Adopted, self.steady_phase());
        }
        if self.record.ended.is_some() {
            return self.quit();
        }
        match state {
            RunState::Running => self.alive(false),
            RunState::Paused => self.alive(true),
            RunState::GuestShutdown => self.halted(ExitCause::GuestShutdown),
            RunState::GuestPanicked => self.halted(ExitCause::GuestPanic),
            RunState::IoError => self.io_error(),
            RunState::Hung => self.hung(since),
            RunState::Exited(exit) => self.exited(exit),
        }
    }

    fn quit(&self) -> Plan {
        Plan::step(Step::Quit, self.ending_phase(), None)
    }

    fn exited(&self, exit: &Exit) -> Plan {
        match (&self.record.started, &self.record.ended) {
            (Some(started), None) => {
                let mut exit = exit.clone();
                if started.boot_id != self.observed.boot_id {
                    exit.cause = ExitCause::HostReboot;
                }
                Plan::note(Note::Ended(exit), self.ending_phase())
            }
            _ => Plan::step(Step::Clear, self.ending_phase(), None),
        }
    }

    fn halted(&self, cause: ExitCause) -> Plan {
        let detail = match cause {
            ExitCause::GuestPanic => "the guest panicked",
            _ => "the guest shut itself down",
        };
        let exit = Exit { at: self.now, cause, detail: detail.to_owned() };
        Plan::note(Note::Ended(exit), self.ending_phase())
    }

    /// A disk error halted the machine: it goes on once there is space, with growing pauses, as the guest then sees no error.
    fn io_error(&self) -> Plan {
        match self.target() {
            PowerTarget::Stopped => return self.quit(),
            _ if self.rebuild_wanted() => return self.quit(),
            PowerTarget::Running | PowerTarget::Paused | PowerTarget::Suspended => {}
        }
        if self.rescue_differs() {
            return self.quit();
        }
        let full = self.observed.disk_free.is_some_and(|free| free < DISK_SPACE_TO_GO_ON);
        let next_at = self.record.io.map_or(self.now, |io| io.next_at);
        if !full && next_at <= self.now {
            return Plan::step(Step::ResumeAfterIoError, VmPhase::Paused, None);
        }
        let reason = if full {
            Reason::new(
                ReasonCode::DiskFull,
                format!(
                    "the host's disk is full and the guest waits; make space (at least {DISK_SPACE_TO_GO_ON} free)"
                ),
                self.now,
            )
        } else {
            let message = "a disk of the host's failed to read or write and the guest waits; look at the host's log";
            Reason::new(ReasonCode::Other, message, self.now)
        };
        Plan::wait(VmPhase::Paused, reason, next_at.max(self.now + secs(LOOK_AGAIN_SECONDS)))
    }

    /// The process lives but does not answer. It may come back, so it has time, unless it is to go anyway.
    fn hung(&self, since: Timestamp) -> Plan {
        if self.rebuild_wanted() {
            return self.quit();
        }
        let reason = |text: &str| Reason::new(ReasonCode::HypervisorHung, text.to_owned(), self.now);
        if self.target() == PowerTarget::Stopped {
            let until = since + secs(HUNG_STOP_SECONDS);
            if until <= self.now {
                return self.quit();
            }
            return Plan::wait(VmPhase::Stopping, reason("its hypervisor does not answer and is forced off"), until);
        }
        if self.desired.vm.restart == RestartPolicy::Never {
            let text = "its hypervisor does not answer, and its restart policy is never; stop it to force it off";
            return Plan::rest(self.steady_phase(), Some(reason(text)));
        }
        let until = since + secs(HUNG_SECONDS);
        if until <= self.now {
            let detail = format!("it did not answer for {HUNG_SECONDS} s and was ended");
            let exit = Exit { at: self.now, cause: ExitCause::Died, detail };
            return Plan::note(Note::Ended(exit), self.steady_phase());
        }
        Plan::wait(
            self.steady_phase(),
            reason("its hypervisor does not answer; it is ended and restarted if that stays so"),
            until,
        )
    }
}
