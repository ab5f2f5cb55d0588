//! One task per VM, the only owner of its process, disks and record.
//!
//! ```text
//!   wish (watch) ──►┐
//!   process state ─►├─► observe ─► plan ─► begin: record ─► effect ─► done or failed: record ─► report ─┐
//!   time ──────────►┘      ▲                                                                           │
//!                          └───────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Whoever needs an answer now (consoles, guest agent) takes the process's handle from `VmHandle::vmm` and does not
//! wait for the task. The task may be dropped at any await, as by a crash: what it began is in the record, and the next
//! one finds out how far it came.

use std::{sync::Arc, time::Duration};

use hull_types::{
    Timestamp,
    error::{Error, ErrorKind, Result},
    id::{NodeId, VmId},
    link::DesiredVm,
    migration::Transit,
    reason::{Reason, ReasonCode},
    units::Bytes,
    vm::VmStatus,
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::{
    hypervisor::{PluggedNic, RunState, Vmm},
    link::Connector,
    node::{Drivers, networks::Keeper},
    plan::{Act, Note, Observed, Plan, Process, Step, plan, record::Record, stamp::Stamp},
};

mod act;
pub mod handover;
pub mod records;
mod status;

pub(crate) use status::metadata;

/// How often the truth is asked for even though nothing said that it changed.
const LOOK_AGAIN: Duration = Duration::from_secs(20);
/// How long a process has to say what it does.
const OBSERVE_WITHIN: Duration = Duration::from_secs(30);
/// How soon a record that could not be written is tried again.
const STUMBLED: Duration = Duration::from_secs(5);

/// What a VM's task is told, numbered so that it can be known which was heeded.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) number: u64,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Nothing yet: go on as the record says.
    AsRecorded,
    /// The VM shall be so.
    Hold(Box<DesiredVm>),
    /// The VM shall not be here.
    Remove,
}

/// What a VM's task tells its node.
#[derive(Debug)]
pub(crate) enum Report {
    /// Something changed.
    Status(Box<VmStatus>),
    /// A step that takes long is further than it was.
    Progress {
        /// Whose.
        vm: VmId,
        /// What its status says meanwhile.
        message: String,
    },
    /// Nothing of it is left; the task has ended, having heeded wishes up to this number.
    Ended { vm: VmId, heeded: u64 },
}

/// What all tasks of a node share.
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) zone: String,
    pub(crate) boot_id: String,
    pub(crate) drivers: Drivers,
    pub(crate) networks: Keeper,
    /// The way to the server; none for a node that is worked by hand.
    pub(crate) server: Option<Arc<dyn Connector>>,
    pub(crate) reports: mpsc::UnboundedSender<Report>,
}

impl Shared {
    pub(crate) fn now(&self) -> Timestamp {
        self.drivers.clock.now()
    }

    /// Now, by both clocks.
    pub(crate) fn stamp(&self) -> Stamp {
        let clock = &self.drivers.clock;
        Stamp { boot_id: self.boot_id.clone(), uptime: clock.uptime(), wall: clock.now() }
    }
}

/// The way to a VM's task.
pub(crate) struct VmHandle {
    pub(crate) wish: watch::Sender<Wish>,
    /// The process, while there is one (also for a while after it ended).
    pub(crate) vmm: watch::Receiver<Option<Arc<dyn Vmm>>>,
}

/// Starts the task of a VM.
pub(crate) fn spawn(
    shared: Arc<Shared>,
    mut record: Record,
    what: What,
    tasks: &mut tokio::task::JoinSet<()>,
) -> VmHandle {
    record.resume(shared.stamp());
    let (wish, wishes) = watch::channel(Wish { number: 0, what });
    let (live, vmm) = watch::channel(None);
    let task = Task { shared, record, wishes, heeded: 0, live, seen: None, metadata_told: None, reported: None };
    tasks.spawn(task.run());
    VmHandle { wish, vmm }
}

struct Task {
    shared: Arc<Shared>,
    record: Record,
    wishes: watch::Receiver<Wish>,
    heeded: u64,
    live: watch::Sender<Option<Arc<dyn Vmm>>>,
    /// What the process was last seen to do, and since when.
    seen: Option<(RunState, Timestamp)>,
    /// The revision of the document whose metadata the guest is told.
    metadata_told: Option<u64>,
    reported: Option<VmStatus>,
}

impl Task {
    async fn run(mut self) {
        self.wishes.mark_changed();
        while !self.round().await {}
        let vm = self.record.vm;
        // The node outlives its tasks unless it is shutting down, when nobody needs to know.
        let _ = self.shared.reports.send(Report::Ended { vm, heeded: self.heeded });
    }

    /// One look, one step or one wait. True once nothing of the VM is left.
    async fn round(&mut self) -> bool {
        if let Err(error) = self.heed().await {
            return self.stumble(&error).await;
        }
        if self.record.desired.is_none() && !self.record.removed {
            // A record that tells nothing: what is here stays as it is until someone says what shall be.
            let _ = self.observe().await;
            self.wait(None).await;
            return false;
        }
        self.tell_metadata().await;
        let observed = self.observe().await;
        let plan = plan(self.record.wanted(), &observed, &self.record, self.shared.now());
        self.report(&plan);
        match plan.step {
            Some(step) => match self.take(&step).await {
                Ok(()) => false,
                Err(error) => self.stumble(&error).await,
            },
            None if self.record.gone && self.nothing_wanted() => self.leave().await,
            None => {
                self.wait(plan.wake_at).await;
                false
            }
        }
    }

    /// The record cannot be written, so nothing may be done: told, and tried again.
    async fn stumble(&mut self, error: &Error) -> bool {
        tracing::error!(vm = %self.record.vm, %error, "a VM's record cannot be written; nothing is done until it can");
        let (observed, now) = (self.observe().await, self.shared.now());
        let until = now + STUMBLED;
        let code = match error.kind {
            ErrorKind::InsufficientResources => ReasonCode::DiskFull,
            _ => ReasonCode::Other,
        };
        let message = format!("{}; free some space on the node if it is full, this goes on by itself", error.detail);
        let plan = plan(self.record.wanted(), &observed, &self.record, now);
        self.report(&Plan { step: None, reason: Some(Reason::new(code, message, now).until(until)), ..plan });
        sleep(STUMBLED).await;
        false
    }

    /// Whether the task may end: its VM shall not be here.
    fn nothing_wanted(&self) -> bool {
        self.record.wanted().is_none_or(|desired| desired.vm.deleted_at.is_some())
    }

    async fn leave(&mut self) -> bool {
        if self.wishes.has_changed().unwrap_or(false) {
            return false;
        }
        match self.shared.drivers.records.remove(self.record.vm).await {
            Ok(()) => true,
            Err(error) => self.stumble(&error).await,
        }
    }

    /// Takes what was told into the record. Older tellings than the known one are dropped.
    async fn heed(&mut self) -> Result<()> {
        if !self.wishes.has_changed().unwrap_or(false) {
            return Ok(());
        }
        let Wish { number, what } = self.wishes.borrow_and_update().clone();
        self.heeded = number;
        let before = self.record.clone();
        match what {
            What::AsRecorded => {}
            What::Remove => self.record.removed = true,
            What::Hold(desired) => {
                let known = self.record.desired.as_ref().map_or((0, 0), |known| (known.generation, known.revision));
                if (desired.generation, desired.revision) >= known {
                    self.record.hold(*desired);
                }
            }
        }
        if before != self.record { self.save().await } else { Ok(()) }
    }

    async fn save(&mut self) -> Result<()> {
        self.record.stamp = Some(self.shared.stamp());
        self.shared.drivers.records.save(&self.record).await
    }

    /// Sees what the process does, finding it first where it is not in hand.
    async fn observe(&mut self) -> Observed {
        let process = self.process().await;
        match &process {
            Process::Seen { state, since } => self.seen = Some((state.clone(), *since)),
            Process::None | Process::Unknown(_) => self.seen = None,
        }
        let halted_by_disk = matches!(&process, Process::Seen { state: RunState::IoError, .. });
        let alive = matches!(&process, Process::Seen { state: RunState::Running | RunState::Paused, .. });
        let nics = if alive { self.nics_held().await } else { None };
        let disk_free: Option<Bytes> = if halted_by_disk { self.shared.drivers.disks.free().await.ok() } else { None };
        Observed { process, boot_id: self.shared.boot_id.clone(), disk_free, nics }
    }

    async fn nics_held(&self) -> Option<Vec<PluggedNic>> {
        let asked = timeout(OBSERVE_WITHIN, self.vmm()?.nics()).await.ok()?;
        asked.inspect_err(|error| tracing::debug!(vm = %self.record.vm, %error, "its NICs are not known")).ok()
    }

    async fn process(&mut self) -> Process {
        let vmm = match self.vmm() {
            Some(vmm) => vmm,
            None => match timeout(OBSERVE_WITHIN, self.adopt()).await {
                Ok(Ok(Some(vmm))) => vmm,
                Ok(Ok(None)) => return Process::None,
                Ok(Err(error)) => return Process::Unknown(error),
                Err(_) => return Process::Unknown(Error::timeout("its process was not found in time")),
            },
        };
        let state = match timeout(OBSERVE_WITHIN, vmm.refresh()).await {
            Ok(Ok(state)) => state,
            Ok(Err(_)) | Err(_) => match vmm.state().borrow().clone() {
                exited @ RunState::Exited(_) => exited,
                _ => RunState::Hung,
            },
        };
        let now = self.shared.now();
        let since = self.seen.as_ref().filter(|(before, _)| *before == state).map_or(now, |(_, since)| *since);
        Process::Seen { state, since }
    }

    fn vmm(&self) -> Option<Arc<dyn Vmm>> {
        self.live.borrow().clone()
    }

    async fn adopt(&mut self) -> Result<Option<Arc<dyn Vmm>>> {
        let drivers = &self.shared.drivers;
        let dir = drivers.records.dir(self.record.vm).await?;
        let found = drivers.hypervisor.adopt(self.record.vm, &dir).await?;
        if let Some(vmm) = &found {
            self.live.send_replace(Some(vmm.clone()));
        }
        Ok(found)
    }

    /// Does one step, with the record written before and after.
    async fn take(&mut self, step: &Step) -> Result<()> {
        let before = self.record.clone();
        self.record.begin(step, &self.shared.boot_id, self.shared.now());
        if before != self.record {
            self.save().await?;
        }
        let limit = act::limit(step);
        let effect = tokio::select! {
            effect = timeout(limit, self.effect(step)) => effect.unwrap_or_else(|_| Err(act::too_long(step, limit))),
            // Fetching an image, or a VM, may take long; whoever does not want it any more does not wait for that.
            () = needless(self.wishes.clone(), step), if matches!(step.act(), Some(Act::Prepare | Act::TakeOver)) => return Ok(()),
        };
        let now = self.shared.now();
        match effect {
            Ok(outcome) => self.record.done(step, outcome, &self.shared.boot_id, now),
            Err(failure) => {
                tracing::warn!(vm = %self.record.vm, ?step, error = %failure.error, "a step failed");
                self.record.failed(step, failure.code, &failure.error, now);
            }
        }
        self.save().await?;
        if *step == Step::Note(Note::DropSaved) {
            self.remove_saved().await;
        }
        Ok(())
    }

    fn report(&mut self, plan: &Plan) {
        let limit = plan.step.as_ref().map(act::limit);
        let vmm = self.vmm().map(|vmm| vmm.info());
        let now = self.shared.now();
        let context = status::Context { node: self.shared.node, now, vmm, limit };
        let Some(status) = status::status(&self.record, plan, context, self.reported.as_ref()) else { return };
        if self.reported.as_ref().is_some_and(|reported| status::same(reported, &status)) {
            return;
        }
        self.reported = Some(status.clone());
        let _ = self.shared.reports.send(Report::Status(Box::new(status)));
    }

    /// The metadata service lives in this process, so it is told anew after a restart as well as after a change.
    async fn tell_metadata(&mut self) {
        let Some(desired) = self.record.wanted().filter(|desired| desired.vm.deleted_at.is_none()) else { return };
        let revision = desired.revision;
        if self.metadata_told == Some(revision) {
            return;
        }
        let metadata = metadata(desired, &self.shared.zone);
        match self.shared.drivers.networks.set_metadata(metadata).await {
            Ok(()) => self.metadata_told = Some(revision),
            Err(error) => tracing::warn!(vm = %self.record.vm, %error, "the metadata service could not be told of it"),
        }
    }

    /// Waits for a wish, a change of the process, the time, or long enough to look again.
    async fn wait(&mut self, wake_at: Option<Timestamp>) {
        let until = wake_at.map_or(LOOK_AGAIN, |at| {
            let left = Duration::try_from(at.duration_since(self.shared.now())).unwrap_or_default();
            left.max(Duration::from_millis(1)).min(LOOK_AGAIN)
        });
        let mut state = self.vmm().map(|vmm| vmm.state());
        let last = self.seen.as_ref().map(|(state, _)| state.clone());
        let changed = async {
            match &mut state {
                // The state may have changed between the look and this wait, unmarked.
                Some(state) => drop(state.wait_for(|now| Some(now) != last.as_ref()).await.is_ok()),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = self.wishes.changed() => self.wishes.mark_changed(),
            () = changed => {}
            () = sleep(until) => {}
        }
    }
}

/// Comes when the VM shall no longer be here, or shall come by another migration than by the step's.
async fn needless(mut wishes: watch::Receiver<Wish>, step: &Step) {
    let by = match step {
        Step::FetchImages { migration } | Step::TakeOver { migration } => Some(*migration),
        _ => None,
    };
    let goes = |wish: &Wish| match &wish.what {
        What::Remove => true,
        What::Hold(desired) => {
            desired.vm.deleted_at.is_some() || by.is_some() && by != desired.transit.map(Transit::migration)
        }
        What::AsRecorded => false,
    };
    if wishes.wait_for(goes).await.is_err() {
        std::future::pending::<()>().await;
    }
}
