//! Time as leases see it: a monotonic reading, injected.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A clock that never goes back. Its zero is arbitrary.
pub trait Clock: Send + Sync + 'static {
    /// The time since the clock's zero.
    fn now(&self) -> Duration;

    /// How long a thread that waits for `rest` to pass on this clock may really sleep before it looks again.
    fn nap(&self, rest: Duration) -> Duration {
        rest
    }
}

/// The machine's monotonic clock; under tokio's paused time, tokio's.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic(tokio::time::Instant);

impl Default for Monotonic {
    fn default() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A clock that a test moves by hand. Clones share the time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Moves time forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }

    // It may be moved at any moment.
    fn nap(&self, rest: Duration) -> Duration {
        rest.min(Duration::from_millis(5))
    }
}
