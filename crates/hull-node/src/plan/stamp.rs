//! What is recorded by one run of Hull's clock, brought over to the next one's.
//!
//! Deadlines in a record are dates by the clock of the run that wrote them. While Hull was away the wall clock may have been
//! set by years, and the new run has read it anew. So a record bears the time it was written at by both clocks: the wall's,
//! and the kernel's uptime, which nobody can set. In the same boot the difference of the two tells how far the wall clock
//! moved, and every date moves with it. After a reboot, or without a stamp, nothing tells how much time passed; then no wait
//! is longer than the longest of its kind. So a deadline may come early after both a reboot and a jump, and never late.

use std::time::Duration;

use hull_core::restart;
use hull_types::{Timestamp, reason::Reason};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::{
    record::{IO_PAUSE_MOST, Record},
    secs,
};

/// A moment, by both clocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The host's boot.
    pub boot_id: String,
    /// Time since then.
    pub uptime: Duration,
    /// The date, by the clock of the run of Hull.
    pub wall: Timestamp,
}

impl Stamp {
    /// How far the wall clock was set between two moments of one boot; none where that cannot be known.
    fn moved(&self, now: &Self) -> Option<SignedDuration> {
        let passed = now.uptime.checked_sub(self.uptime)?;
        (self.boot_id == now.boot_id).then(|| {
            now.wall.duration_since(self.wall).saturating_sub(SignedDuration::try_from(passed).unwrap_or_default())
        })
    }
}

impl Record {
    /// Goes on in a run of Hull whose clocks say `now`. Doing it again changes nothing.
    pub fn resume(&mut self, now: Stamp) {
        let moved = self.stamp.as_ref().and_then(|before| before.moved(&now)).unwrap_or_default();
        if !moved.is_zero() {
            self.each_date(|date, _| *date = date.saturating_add(moved).unwrap_or(*date));
        }
        self.each_date(|date, most| *date = (*date).min(now.wall.saturating_add(most).unwrap_or(*date)));
        self.stamp = Some(now);
    }

    /// Every date that something still follows from, with how far in the future it may be. What is history stays as told.
    fn each_date(&mut self, mut f: impl FnMut(&mut Timestamp, SignedDuration)) {
        let reason = |reason: &mut Reason, most: SignedDuration, f: &mut dyn FnMut(&mut Timestamp, SignedDuration)| {
            f(&mut reason.since, SignedDuration::ZERO);
            if let Some(deadline) = &mut reason.deadline {
                f(deadline, most);
            }
        };
        let grace = self.desired.as_ref().map_or(0, |desired| desired.vm.power.grace_seconds);
        if let Some(started) = &mut self.started {
            f(&mut started.since, SignedDuration::ZERO);
        }
        if let Some(asked) = &mut self.asked {
            f(&mut asked.pressed_at, SignedDuration::ZERO);
            f(&mut asked.deadline, secs(i64::from(grace)));
        }
        if let Some(ended) = &mut self.ended {
            f(&mut ended.at, SignedDuration::ZERO);
        }
        if let Some(off) = &mut self.off {
            reason(&mut off.reason, SignedDuration::ZERO, &mut f);
        }
        if let Some(restart) = &mut self.restart_at {
            f(&mut restart.at, restart::PAUSE_MAX);
            reason(&mut restart.reason, restart::PAUSE_MAX, &mut f);
        }
        if let Some(trouble) = &mut self.trouble {
            let most = secs(trouble.act.longest_pause());
            if let Some(at) = &mut trouble.retry_at {
                f(at, most);
            }
            reason(&mut trouble.reason, most, &mut f);
        }
        if let Some(io) = &mut self.io {
            f(&mut io.next_at, secs(IO_PAUSE_MOST));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_types::{
        error::Error,
        reason::ReasonCode,
        vm::{ExitCause, PowerTarget, VmPhase},
    };

    use super::*;
    use crate::{
        hypervisor::RunState,
        plan::{Act, Plan, Step, world::World},
    };

    const YEARS: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

    /// The world's Hull ends, the clock is set, some seconds pass, and Hull starts again.
    fn restarted(world: &World, moved: SignedDuration, passed: i64, boot: &str) -> World {
        let mut world = world.clone();
        let uptime = Duration::from_secs(5_000);
        world.record.stamp = Some(Stamp { boot_id: world.boot_id.clone(), uptime, wall: world.now });
        world.boot_id = boot.to_owned();
        let passed = secs(passed);
        let shift = moved + passed;
        world.now += shift;
        if let Some((_, since)) = &mut world.process {
            *since += shift;
        }
        let uptime =
            if boot == "boot-1" { uptime + Duration::try_from(passed).unwrap() } else { Duration::from_secs(9) };
        world.record.resume(Stamp { boot_id: boot.to_owned(), uptime, wall: world.now });
        world
    }

    fn waits(world: &World) -> i64 {
        let Plan { step: None, wake_at: Some(at), .. } = world.plan() else { panic!("it acts: {:?}", world.plan()) };
        at.duration_since(world.now).as_secs()
    }

    /// One that died thrice in a row and waits four seconds for its restart.
    fn in_backoff() -> World {
        let mut world = World::running();
        for _ in 0..3 {
            while world.state().is_none() {
                world.tick();
            }
            world.died();
            while world.plan().step.is_some() {
                world.tick();
            }
        }
        assert_eq!(waits(&world), 4);
        world
    }

    /// One whose guest does not heed the power button, ten seconds before it is forced off.
    fn in_grace() -> World {
        let mut world = World::running();
        world.heeds = false;
        world.power(PowerTarget::Stopped);
        let asked = world.now;
        while world.now.duration_since(asked) < secs(20) {
            world.tick();
        }
        world
    }

    #[test]
    fn what_waits_goes_on_waiting_as_long_whatever_the_wall_clock_was_set_to() {
        for moved in [SignedDuration::ZERO, YEARS, -YEARS, secs(-3)] {
            let backoff = restarted(&in_backoff(), moved, 1, "boot-1");
            assert_eq!(waits(&backoff), 3, "{moved}");
            let reason = backoff.plan().reason.unwrap();
            assert_eq!(reason.code, ReasonCode::RestartBackoff);
            assert_eq!(reason.deadline, Some(backoff.now + secs(3)));

            let mut grace = restarted(&in_grace(), moved, 4, "boot-1");
            let until = grace.now + secs(6);
            assert_eq!(grace.record.asked.unwrap().deadline, until, "{moved}");
            grace.until_rest();
            assert!(grace.steps.contains(&Step::Quit) && grace.now == until, "forced when its grace was over: {moved}");

            let mut failing = World::new();
            failing.failing = Some((Act::Prepare, Error::unavailable("no server")));
            while failing.record.trouble.as_ref().is_none_or(|trouble| trouble.failures < 6) {
                failing.tick();
            }
            assert_eq!(waits(&restarted(&failing, moved, 2, "boot-1")), 30, "{moved}");
        }
    }

    #[test]
    fn a_machine_that_ran_well_has_run_so_long_by_the_clock_that_nobody_sets() {
        let mut world = in_backoff();
        while world.state().is_none() {
            world.tick();
        }
        for (moved, passed, restarts) in [(YEARS, 60, 3), (-YEARS, 60, 3), (-YEARS, 600, 0), (YEARS, 600, 0)] {
            let mut later = restarted(&world, moved, passed, "boot-1");
            while later.plan().step.is_some() {
                later.tick();
            }
            assert_eq!(later.record.restarts, restarts, "{moved} {passed}");
        }
    }

    #[test]
    fn after_a_reboot_no_wait_is_longer_than_the_longest_of_its_kind() {
        for moved in [YEARS, -YEARS] {
            let mut world = restarted(&in_backoff(), moved, 30, "boot-2");
            let now = world.now;
            while world.state() != Some(&RunState::Running) {
                world.tick();
            }
            assert!(world.now.duration_since(now) <= restart::PAUSE_MAX, "{moved}");

            let mut stopping = in_grace();
            stopping.process = None;
            let mut stopping = restarted(&stopping, moved, 30, "boot-2");
            let now = stopping.now;
            stopping.until_rest();
            assert_eq!((stopping.plan().phase, stopping.now), (VmPhase::Stopped, now), "{moved}");
            assert_eq!(stopping.record.last_exit.unwrap().cause, ExitCause::HostReboot);
        }
    }

    #[test]
    fn a_record_without_a_stamp_is_taken_at_its_word_within_bounds() {
        let mut world = in_backoff();
        let now = Stamp { boot_id: "boot-1".into(), uptime: Duration::ZERO, wall: world.now };
        let before = world.record.clone();
        world.record.resume(now.clone());
        assert_eq!(Record { stamp: None, ..world.record.clone() }, before);
        world.record.resume(Stamp { wall: now.wall - YEARS, ..now });
        assert_eq!(world.record.restart_at.unwrap().at, before.restart_at.unwrap().at - YEARS, "then it is stamped");
    }
}
