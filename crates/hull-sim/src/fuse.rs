//! Something that burns through after a number of calls, so that a test can break what it likes at every one of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    None,
    Left(u32),
    Burnt,
}

/// A fuse.
#[derive(Debug, Default)]
pub struct Fuse(Mutex<State>);

impl Fuse {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It burns through at the call after so many.
    pub fn set(&self, calls: u32) {
        *self.lock() = State::Left(calls);
    }

    /// It is taken out.
    pub fn remove(&self) {
        *self.lock() = State::None;
    }

    /// Whether it has burnt through.
    pub fn is_burnt(&self) -> bool {
        *self.lock() == State::Burnt
    }

    /// A call. True for the one at which it burns through.
    pub(crate) fn burns(&self) -> bool {
        let mut state = self.lock();
        let State::Left(left) = *state else { return false };
        *state = left.checked_sub(1).map_or(State::Burnt, State::Left);
        *state == State::Burnt
    }
}
