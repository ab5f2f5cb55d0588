//! Time: tokio's, which the simulation pauses and lets jump, told as a date.

use hull_types::Timestamp;
use jiff::SignedDuration;
use tokio::time::Instant;

/// 2026-01-01 00:00:00 UTC, where every run begins.
const BEGINS: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// The run's clock. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct SimClock {
    zero: Instant,
}

impl SimClock {
    /// A clock that begins now. Needs a tokio runtime.
    pub fn new() -> Self {
        Self { zero: Instant::now() }
    }

    /// The date.
    pub fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.zero.elapsed()).unwrap_or(SignedDuration::MAX);
        BEGINS.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl hull_node::host::Clock for SimClock {
    fn now(&self) -> Timestamp {
        SimClock::now(self)
    }

    fn uptime(&self) -> std::time::Duration {
        self.zero.elapsed()
    }
}
