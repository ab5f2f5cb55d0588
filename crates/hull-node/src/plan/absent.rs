//! Plans where no hypervisor process is there.

use super::*;

impl View<'_> {
    /// First the end of the last process is settled, then the disk is made right, then power.
    pub(super) fn absent(&self) -> Plan {
        self.settle().or_else(|| self.make_ready()).unwrap_or_else(|| self.power_on())
    }

    pub(super) fn settle(&self) -> Option<Plan> {
        if let (Some(started), None) = (&self.record.started, &self.record.ended) {
            if !started.confirmed {
                return Some(Plan::note(Note::NeverStarted, VmPhase::Starting));
            }
            let rebooted = started.boot_id != self.observed.boot_id;
            let (cause, detail) = if rebooted {
                (ExitCause::HostReboot, "the host went down under it")
            } else {
                (ExitCause::Died, "its hypervisor ended without a trace")
            };
            let exit = Exit { at: self.now, cause, detail: detail.to_owned() };
            return Some(Plan::note(Note::Ended(exit), self.ending_phase()));
        }
        self.record.ended.is_some().then(|| Plan::note(Note::Judge, self.ending_phase()))
    }

    /// Makes disks as they shall be while nothing uses them.
    fn make_ready(&self) -> Option<Plan> {
        let record = self.record;
        let stale = |saved: &record::Saved| {
            saved.disk_generation != self.desired.vm.disk_generation || self.wanted_rescue().is_some()
        };
        if record.saved.as_ref().is_some_and(stale) {
            return Some(Plan::note(Note::DropSaved, VmPhase::Stopped));
        }
        let generation = self.desired.vm.disk_generation;
        let size = self.desired.vm.resources.disk;
        match record.disk {
            Some(disk) if disk.generation == generation => {
                // A machine restored from memory must find its disk as large as it left it; it grows once it runs.
                if size > disk.size && record.saved.is_none() && self.desired.image.is_some() {
                    let reason = self.reason(ReasonCode::PreparingDisk, "its disk is being grown");
                    return Some(Plan::step(Step::GrowDisk { to: size }, VmPhase::Preparing, reason));
                }
            }
            disk => {
                let (phase, reason) = match disk {
                    None => (VmPhase::Preparing, self.reason(ReasonCode::PreparingDisk, "its disk is being made")),
                    Some(_) => (
                        VmPhase::Rebuilding,
                        self.reason(ReasonCode::Rebuilding, "its disk is being made anew from the image"),
                    ),
                };
                return Some(Plan::step(Step::PrepareDisk { generation, size }, phase, reason));
            }
        }
        self.tidy(VmPhase::Preparing)
    }

    fn power_on(&self) -> Plan {
        match self.target() {
            PowerTarget::Stopped if self.shuts_down_first() => self.start(),
            PowerTarget::Stopped => self.at_rest(VmPhase::Stopped, None),
            PowerTarget::Suspended if self.record.saved.is_some() => self.at_rest(VmPhase::Suspended, None),
            PowerTarget::Suspended => {
                let text = "it was off when suspending was asked, so there is no memory to keep; start it to run it";
                self.at_rest(VmPhase::Stopped, self.reason(ReasonCode::Requested, text))
            }
            PowerTarget::Running | PowerTarget::Paused => self.start(),
        }
    }

    /// Whether the guest was halted on its way only, and has yet to hear that it shall shut down.
    fn shuts_down_first(&self) -> bool {
        let halted = self.record.saved.as_ref().is_some_and(|saved| saved.for_the_way);
        halted && self.desired.vm.power.grace_seconds > 0 && !self.held_back(Act::Start)
    }

    /// Off, as wished: acknowledges what is settled thereby, then rests.
    fn at_rest(&self, phase: VmPhase, reason: Option<Reason>) -> Plan {
        if self.record.power_seq < self.desired.vm.power.seq {
            return Plan::step(Step::Note(Note::PowerReached), phase, reason);
        }
        if self.record.reboot_seq < self.desired.vm.reboot.seq {
            return Plan::step(Step::Note(Note::RebootVoid), phase, reason);
        }
        Plan::rest(phase, reason)
    }

    fn start(&self) -> Plan {
        let record = self.record;
        if let Some(off) = record.off.as_ref().filter(|off| off.seq == self.desired.vm.power.seq) {
            let phase = match off.reason.code {
                ReasonCode::GuestShutdown => VmPhase::Stopped,
                _ => VmPhase::Failed,
            };
            return self.at_rest(phase, Some(off.reason.clone()));
        }
        let seq = self.desired.vm.power.seq;
        let waits = |restart: &&record::RestartAt| restart.seq == seq && restart.at > self.now;
        if let Some(restart) = record.restart_at.as_ref().filter(waits) {
            let phase = match record.last_exit.as_ref().map(|exit| exit.cause) {
                Some(ExitCause::GuestShutdown) => VmPhase::Stopped,
                _ => VmPhase::Failed,
            };
            return Plan::wait(phase, restart.reason.clone(), restart.at);
        }
        let restore = record.saved.is_some();
        let start = Start {
            rescue: self.wanted_rescue(),
            restore,
            paused: restore || self.target() == PowerTarget::Paused,
            resources: record.saved.map_or(self.desired.vm.resources, |saved| saved.resources),
        };
        let reason = if restore {
            self.reason(ReasonCode::Resuming, "being restored from saved memory")
        } else {
            self.reason(ReasonCode::Starting, "its hypervisor is being started")
        };
        Plan::step(Step::Start(start), VmPhase::Starting, reason)
    }

    /// Removes disks of no more use. Where that fails it waits, and holds nothing else up.
    pub(super) fn tidy(&self, phase: VmPhase) -> Option<Plan> {
        if self.held_back(Act::Tidy) {
            return None;
        }
        if self.record.old_disks {
            return Some(Plan::step(Step::RemoveOlderDisks, phase, None));
        }
        let used = self.record.started.as_ref().is_some_and(|started| started.rescue.is_some());
        if self.record.rescue_disk && self.wanted_rescue().is_none() && !used {
            return Some(Plan::step(Step::RemoveRescueDisk, phase, None));
        }
        None
    }
}
