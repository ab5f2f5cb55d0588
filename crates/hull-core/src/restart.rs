//! What follows when a hypervisor ended: another start, at once or later, or rest.
//!
//! | ended by | always | on-failure | never |
//! |---|---|---|---|
//! | host reboot | start now | start now | start now |
//! | died, guest panic | start after a pause | start after a pause | rest |
//! | guest shutdown | start after a pause | rest | rest |
//! | request | rest | rest | rest |
//!
//! A host's reboot is not the VM's doing: what ran runs again, whatever its policy. Pauses double from one second to five
//! minutes; a VM that ran well for ten minutes begins anew.

use hull_types::{
    Timestamp,
    reason::{Reason, ReasonCode},
    vm::{Exit, ExitCause, RestartPolicy},
};
use jiff::SignedDuration;

/// The longest pause before a restart.
pub const PAUSE_MAX: SignedDuration = SignedDuration::from_secs(300);

/// A VM that ran so long ran well: its restarts count from nothing again.
pub const RAN_WELL: SignedDuration = SignedDuration::from_secs(600);

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is started again.
    Start {
        /// When.
        at: Timestamp,
        /// Restarts so far, with this one: the next status' `restarts`.
        restarts: u32,
        /// Why it waits.
        reason: Reason,
    },
    /// It stays off until someone acts.
    Rest(Reason),
}

/// The pause before the `n`th try (from 1): 1 s, 2 s, 4 s, … 5 min.
pub fn pause(n: u32) -> SignedDuration {
    let seconds = 1i64 << n.saturating_sub(1).min(30);
    SignedDuration::from_secs(seconds).min(PAUSE_MAX)
}

/// Decides. `ran` is how long it had run, `restarts` how often it was restarted since it last ran well.
pub fn after_exit(policy: RestartPolicy, exit: &Exit, ran: SignedDuration, restarts: u32) -> Next {
    let restarts = if ran >= RAN_WELL { 0 } else { restarts };
    let again = match (exit.cause, policy) {
        (ExitCause::Requested, _) => false,
        (ExitCause::HostReboot, _) => {
            let reason = Reason::new(ReasonCode::Starting, "the host was rebooted; it starts again", exit.at);
            return Next::Start { at: exit.at, restarts, reason: reason.until(exit.at) };
        }
        (ExitCause::GuestShutdown, RestartPolicy::Always) => true,
        (ExitCause::GuestShutdown, RestartPolicy::OnFailure | RestartPolicy::Never) => false,
        (ExitCause::GuestPanic | ExitCause::Died, RestartPolicy::Always | RestartPolicy::OnFailure) => true,
        (ExitCause::GuestPanic | ExitCause::Died, RestartPolicy::Never) => false,
    };
    if !again {
        return Next::Rest(rest(policy, exit));
    }
    let restarts = restarts.saturating_add(1);
    let at = exit.at + pause(restarts);
    let message = format!("{}; restart {restarts} follows in {} s", exit.detail, pause(restarts).as_secs());
    Next::Start { at, restarts, reason: Reason::new(ReasonCode::RestartBackoff, message, exit.at).until(at) }
}

fn rest(policy: RestartPolicy, exit: &Exit) -> Reason {
    let policy = match policy {
        RestartPolicy::Always => "always",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Never => "never",
    };
    let kept = |what: &str| format!("{what}; its restart policy ({policy}) leaves it off, start it when you want it");
    let (code, message) = match exit.cause {
        ExitCause::Requested | ExitCause::HostReboot => (ReasonCode::Requested, "it was stopped as asked".to_owned()),
        ExitCause::GuestShutdown => (ReasonCode::GuestShutdown, kept("the guest shut itself down")),
        ExitCause::GuestPanic => (ReasonCode::GuestPanicked, kept("the guest panicked")),
        ExitCause::Died => (ReasonCode::HypervisorDied, kept(&exit.detail)),
    };
    Reason::new(code, message, exit.at)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{NOW, at};

    fn exit(cause: ExitCause) -> Exit {
        Exit { at: NOW, cause, detail: "killed by signal 9".into() }
    }

    const SHORT: SignedDuration = SignedDuration::from_secs(30);

    #[test]
    fn every_cause_meets_every_policy() {
        use ExitCause::*;
        use RestartPolicy::*;
        for (cause, starts) in [
            (Requested, [false, false, false]),
            (GuestShutdown, [true, false, false]),
            (GuestPanic, [true, true, false]),
            (Died, [true, true, false]),
            (HostReboot, [true, true, true]),
        ] {
            for (policy, starts) in [Always, OnFailure, Never].into_iter().zip(starts) {
                let next = after_exit(policy, &exit(cause), SHORT, 0);
                assert_eq!(matches!(next, Next::Start { .. }), starts, "{cause:?} with {policy:?}");
                if let Next::Rest(reason) = next {
                    assert_eq!(reason.deadline, None, "what rests has no deadline");
                }
            }
        }
    }

    #[test]
    fn a_rebooted_host_starts_its_vms_at_once() {
        let Next::Start { at, restarts, .. } = after_exit(RestartPolicy::Never, &exit(ExitCause::HostReboot), SHORT, 4)
        else {
            panic!("it must start")
        };
        assert_eq!((at, restarts), (NOW, 4));
    }

    #[test]
    fn pauses_double_to_five_minutes_and_begin_anew_after_a_good_run() {
        let seconds: Vec<_> = (1..=11).map(|n| pause(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
        let started = |ran, restarts| match after_exit(RestartPolicy::Always, &exit(ExitCause::Died), ran, restarts) {
            Next::Start { at, restarts, reason } => {
                assert_eq!(reason.deadline, Some(at));
                (at, restarts)
            }
            Next::Rest(_) => panic!("it must start"),
        };
        assert_eq!(started(SHORT, 3), (at(8), 4));
        assert_eq!(started(RAN_WELL, 3), (at(1), 1));
    }

    proptest! {
        #[test]
        fn a_restart_is_never_in_the_past_nor_farther_than_the_longest_pause(restarts: u32, ran in 0i64..100_000) {
            let next = after_exit(RestartPolicy::Always, &exit(ExitCause::Died), SignedDuration::from_secs(ran), restarts);
            let Next::Start { at, .. } = next else { panic!("it must start") };
            prop_assert!(at > NOW && at <= NOW + PAUSE_MAX);
        }
    }
}
