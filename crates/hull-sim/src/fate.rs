//! Chance, from one seed: how long things take, what goes wrong, what a user does next.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use uuid::Uuid;

/// The run's only source of randomness.
#[derive(Debug)]
pub struct Fate {
    rng: Mutex<StdRng>,
}

impl Fate {
    /// Everything that follows from this seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    /// A number below `n`; 0 where `n` is 0.
    pub fn below(&self, n: usize) -> usize {
        if n == 0 { 0 } else { self.rng().random_range(0..n) }
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&self, percent: u32) -> bool {
        self.rng().random_range(0..100) < percent
    }

    /// One of these.
    pub fn one_of<'a, T>(&self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }

    /// Fills a buffer.
    pub fn fill(&self, buffer: &mut [u8]) {
        self.rng().fill(buffer);
    }

    /// A version 7 UUID of this time and chance, later than every earlier one of the same millisecond with high odds.
    pub fn uuid(&self, milliseconds: u64) -> Uuid {
        let mut random = [0; 10];
        self.fill(&mut random);
        uuid::Builder::from_unix_timestamp_millis(milliseconds, &random).into_uuid()
    }

    /// Waits as long as some work takes: at most this long, usually much less.
    pub async fn takes(&self, at_most: Duration) {
        let share = if self.chance(90) { self.below(100) } else { self.below(1000) };
        let share = u32::try_from(share).unwrap_or(0);
        tokio::time::sleep(at_most * share / 1000).await;
    }

    fn rng(&self) -> MutexGuard<'_, StdRng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
