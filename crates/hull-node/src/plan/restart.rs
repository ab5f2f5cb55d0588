//! Whether a VM that ended by itself is started again, and when.

use hull_types::{
    Timestamp,
    vm::{ExitCause, RestartPolicy},
};

use super::secs;

/// What follows from an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Started again then.
    At(Timestamp),
    /// Left off.
    Leave,
}

/// The longest pause, in seconds.
const LONGEST: i64 = 300;

/// Decides after an end Hull did not ask for. Pauses are 1, 2, 4, … seconds with the number of restarts so far, at
/// most five minutes, spread by `roll` in 0..1 up to half as long again, so that VMs that fell together do not rise together.
pub fn after_exit(policy: RestartPolicy, cause: ExitCause, restarts: u32, now: Timestamp, roll: f64) -> Restart {
    let again = match (policy, cause) {
        (RestartPolicy::Never, _) | (RestartPolicy::OnFailure, ExitCause::GuestShutdown) => false,
        (RestartPolicy::Always | RestartPolicy::OnFailure, _) => true,
    };
    if !again {
        return Restart::Leave;
    }
    let pause = super::record::pause(restarts.saturating_add(1), LONGEST);
    let spread = (pause as f64 * 500.0 * roll.clamp(0.0, 1.0)) as i64;
    Restart::At(now + secs(pause) + jiff::SignedDuration::from_millis(spread))
}
