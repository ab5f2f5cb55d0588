//! Plans where the process is there and answers.

use super::*;

/// What is done when the guest did not heed the power button in time.
#[derive(Clone, Copy)]
enum Force {
    Quit,
    Reset,
}

impl View<'_> {
    /// The CPUs run, or are halted by us.
    pub(super) fn alive(&self, paused: bool) -> Plan {
        if self.record.saved.is_some() {
            if paused && self.target() == PowerTarget::Suspended {
                return Plan::step(Step::Quit, VmPhase::Suspending, self.saving());
            }
            return Plan::note(Note::DropSaved, self.present(paused));
        }
        if self.rebuild_wanted() {
            let reason = self.reason(ReasonCode::Rebuilding, "being stopped to make its disk anew");
            return Plan::step(Step::Quit, VmPhase::Rebuilding, reason);
        }
        match self.target() {
            PowerTarget::Stopped => self.stop(paused),
            PowerTarget::Suspended if !self.suspend_given_up() => {
                Plan::step(Step::Save, VmPhase::Suspending, self.saving())
            }
            PowerTarget::Suspended => self.not_suspended(paused),
            PowerTarget::Running | PowerTarget::Paused if self.rescue_differs() => self.swap_rescue(paused),
            PowerTarget::Running | PowerTarget::Paused => self.on(paused),
        }
    }

    pub(super) fn rescue_differs(&self) -> bool {
        self.record.started.as_ref().is_some_and(|started| started.rescue != self.wanted_rescue())
    }

    fn present(&self, paused: bool) -> VmPhase {
        if paused { VmPhase::Paused } else { VmPhase::Running }
    }

    fn saving(&self) -> Option<Reason> {
        self.reason(ReasonCode::Suspending, "its memory is being saved to disk")
    }

    fn suspend_given_up(&self) -> bool {
        self.record.trouble.as_ref().is_some_and(|trouble| {
            trouble.act == Act::Suspend && trouble.retry_at.is_none() && trouble.revision == self.desired.revision
        })
    }

    /// Memory could not be saved: the guest goes on rather than staying halted.
    fn not_suspended(&self, paused: bool) -> Plan {
        let reason = self.record.trouble.as_ref().map(|trouble| trouble.reason.clone());
        if paused {
            return Plan::step(Step::Resume, VmPhase::Paused, reason);
        }
        Plan::rest(VmPhase::Running, reason)
    }

    fn stop(&self, paused: bool) -> Plan {
        let power = &self.desired.vm.power;
        let ask = Ask::Stop { seq: power.seq };
        self.ask(ask, power.grace_seconds, Force::Quit, VmPhase::Stopping, paused)
    }

    fn swap_rescue(&self, paused: bool) -> Plan {
        let grace = self.desired.vm.power.grace_seconds;
        self.ask(Ask::Rescue, grace, Force::Quit, VmPhase::Starting, paused)
    }

    /// Asks the guest to shut down, again and again, and forces it at the deadline.
    fn ask(&self, ask: Ask, grace: u32, force: Force, phase: VmPhase, paused: bool) -> Plan {
        let forced = match force {
            Force::Quit => Step::Quit,
            Force::Reset => Step::Reset,
        };
        if grace == 0 {
            return Plan::step(forced, phase, None);
        }
        let asked = self.record.asked.filter(|asked| asked.ask == ask);
        if asked.is_some_and(|asked| asked.deadline <= self.now) {
            return Plan::step(forced, phase, None);
        }
        if paused {
            // A halted guest cannot heed anything.
            return Plan::step(Step::Resume, phase, None);
        }
        let deadline = asked.map_or(self.now + secs(i64::from(grace)), |asked| asked.deadline);
        let reason = Reason::new(
            ReasonCode::AwaitingGuestShutdown,
            format!("the guest was asked to shut down and is forced after {grace} s"),
            self.now,
        );
        let press_at = asked.map_or(self.now, |asked| asked.pressed_at + secs(PRESS_AGAIN_SECONDS));
        if press_at <= self.now {
            return Plan::step(Step::PowerButton { ask, deadline }, phase, Some(reason.until(deadline)));
        }
        let mut plan = Plan::wait(phase, reason, deadline);
        plan.wake_at = Some(deadline.min(press_at));
        plan
    }

    /// Running or paused, as wished, but for what is left to adjust.
    fn on(&self, paused: bool) -> Plan {
        let reboot = &self.desired.vm.reboot;
        if reboot.seq > self.record.reboot_seq {
            return match reboot.kind {
                RebootKind::Hard => Plan::step(Step::Reset, self.present(paused), None),
                RebootKind::Soft => {
                    let grace = self.desired.vm.power.grace_seconds;
                    self.ask(Ask::Reboot { seq: reboot.seq }, grace, Force::Reset, VmPhase::Running, paused)
                }
            };
        }
        if let Some(waiting) = self.heed_old_ask(paused) {
            return waiting;
        }
        match (paused, self.target()) {
            (true, PowerTarget::Running) => return Plan::step(Step::Resume, VmPhase::Paused, None),
            (false, PowerTarget::Paused) => return Plan::step(Step::Pause, VmPhase::Running, None),
            _ => {}
        }
        self.resize(paused)
            .or_else(|| self.nics(paused))
            .or_else(|| self.tidy(self.present(paused)))
            .unwrap_or_else(|| self.settled(paused))
    }

    /// The guest was asked to shut down by a wish since withdrawn: it may still do so, and is then started again.
    fn heed_old_ask(&self, paused: bool) -> Option<Plan> {
        let asked = self.record.asked?;
        if asked.deadline <= self.now {
            return Some(Plan::note(Note::ForgetAsked, self.present(paused)));
        }
        if paused {
            return None;
        }
        let text = "the guest was asked to shut down before; it is started again if it does";
        let reason = Reason::new(ReasonCode::AwaitingGuestShutdown, text, self.now);
        Some(Plan::wait(VmPhase::Running, reason, asked.deadline))
    }

    /// Brings the running machine to its size. Where that fails the machine runs on as it is, and the reason says so.
    fn resize(&self, paused: bool) -> Option<Plan> {
        let started = self.record.started.as_ref()?;
        let to = self.desired.vm.resources;
        if self.held_back(Act::Tune) {
            return None;
        }
        if (started.sized_for.vcpus, started.sized_for.memory) != (to.vcpus, to.memory) {
            return Some(Plan::step(Step::Resize { to }, self.present(paused), None));
        }
        let disk = self.record.disk?;
        (to.disk > disk.size && self.desired.image.is_some())
            .then(|| Plan::step(Step::GrowDiskOnline { to: to.disk }, self.present(paused), None))
    }

    /// Gives the machine its NICs: first those that come, for which nobody is asked, then those that go.
    fn nics(&self, paused: bool) -> Option<Plan> {
        let held = self.observed.nics.as_ref()?;
        let started = self.record.started.as_ref()?;
        if self.held_back(Act::Tune) {
            return None;
        }
        let waits = |nic: PluggedNic, comes| {
            started.nics_waiting.iter().any(|waiting| waiting.nic == nic && waiting.comes == comes)
        };
        let comes = self.desired.nics.iter().find(|nic| {
            // A port's NIC of another MAC goes first.
            !held.iter().any(|held| held.port == nic.port) && !waits(plugged(nic), true)
        });
        if let Some(nic) = comes {
            return Some(Plan::step(Step::AttachNic { nic: nic.clone() }, self.present(paused), None));
        }
        // A halted guest can let go of nothing.
        let goes = self.nics_to_go().find(|nic| !paused && !waits(*nic, false));
        goes.map(|nic| Plan::step(Step::DetachNic { nic }, self.present(paused), None))
    }

    /// NICs that the machine has and shall not have.
    fn nics_to_go(&self) -> impl Iterator<Item = PluggedNic> {
        let wanted = |held: &PluggedNic| self.desired.nics.iter().any(|nic| plugged(nic) == *held);
        self.observed.nics.iter().flatten().copied().filter(move |held| !wanted(held))
    }

    fn settled(&self, paused: bool) -> Plan {
        let phase = self.present(paused);
        if self.record.power_seq < self.desired.vm.power.seq {
            return Plan::note(Note::PowerReached, phase);
        }
        if self.record.io.is_some_and(|io| io.next_at <= self.now) {
            return Plan::note(Note::IoMended, phase);
        }
        let since = self.record.started.as_ref().map_or(self.now, |started| started.since);
        let ran_well = (self.record.restarts > 0).then(|| since + hull_core::restart::RAN_WELL);
        if ran_well.is_some_and(|at| at <= self.now) {
            return Plan::note(Note::RanWell, phase);
        }
        let mut plan = Plan::rest(phase, self.short_of_wish(paused));
        let retry = self.record.trouble.as_ref().and_then(|trouble| trouble.retry_at).filter(|at| *at > self.now);
        plan.wake_at = [self.record.io.map(|io| io.next_at), ran_well, retry].into_iter().flatten().min();
        plan
    }

    /// What of the wish is not in effect.
    fn short_of_wish(&self, paused: bool) -> Option<Reason> {
        if self.held_back(Act::Tune) {
            return self.record.trouble.as_ref().map(|trouble| trouble.reason.clone());
        }
        let mut pending = self.record.pending();
        if paused {
            let goes = |nic: PluggedNic| format!("the NIC of port {} goes once the guest runs again", nic.port);
            pending.extend(self.nics_to_go().map(goes));
        }
        (!pending.is_empty()).then(|| Reason::new(ReasonCode::NeedsRestart, pending.join("; "), self.now))
    }
}

/// The NIC a machine has once this wish is met.
fn plugged(nic: &DesiredNic) -> PluggedNic {
    PluggedNic { port: nic.port, mac: nic.mac }
}
