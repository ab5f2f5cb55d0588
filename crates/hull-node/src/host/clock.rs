//! The time that documents and deadlines bear.
//!
//! A wall clock may be set: by an operator, by NTP after a long sleep, by a firmware that lost it. A guest's grace must not
//! end early by that, nor a restart wait for a day. So the wall clock is read once, and time goes on from there by the
//! kernel's uptime; the next start of Hull reads it anew, and brings what was recorded by the last one's clock over to its
//! own ([`crate::plan::stamp`]).

use std::time::Duration;

use hull_types::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// A clock. Tasks sleep by tokio's timers; this tells the time that documents bear.
pub trait Clock: Send + Sync + 'static {
    /// The time.
    fn now(&self) -> Timestamp;

    /// Time since the host's boot, by a clock that nobody can set and that [`Clock::now`] goes on by.
    fn uptime(&self) -> Duration;
}

/// The host's clock as it was when this was made, going on by the kernel's uptime.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    began: Timestamp,
    uptime: Duration,
}

impl SystemClock {
    /// A clock that agrees with the wall's now.
    pub fn new() -> Self {
        Self { began: Timestamp::now(), uptime: uptime() }
    }

    fn at(&self, uptime: Duration) -> Timestamp {
        // An age of the universe past the start is the only sum that does not fit.
        self.began.checked_add(uptime.saturating_sub(self.uptime)).unwrap_or(Timestamp::MAX)
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.at(uptime())
    }

    fn uptime(&self) -> Duration {
        uptime()
    }
}

/// Time since the host's boot, sleep included; nobody can set it.
fn uptime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_from_the_wall_clock_it_began_with_whatever_that_says_later() {
        let clock = SystemClock { began: Timestamp::from_second(1_000_000).unwrap(), uptime: Duration::from_secs(50) };
        assert_eq!(clock.at(Duration::from_secs(50)).as_second(), 1_000_000);
        assert_eq!(clock.at(Duration::from_secs(3650)).as_second(), 1_003_600);
        // Far from the wall's time, and no call ever looks at that again.
        let (first, second) = (clock.now(), clock.now());
        assert!(first <= second && second.as_second() < 1_000_000 + 100 * 365 * 86_400);
    }

    #[test]
    fn it_begins_with_the_walls_time() {
        let wall = Timestamp::now();
        let told = SystemClock::new().now();
        assert!((told.as_second() - wall.as_second()).abs() <= 5, "{told} {wall}");
    }
}
