//! What the server takes from the world besides its store: the time, new ids and randomness. Injected, so that the
//! simulator decides them.

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

/// The wall clock.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// Makes ids that sort by creation.
pub trait Ids: Send + Sync + 'static {
    /// A new UUID of version 7.
    fn next(&self) -> Uuid;
}

/// Randomness fit for secrets.
pub trait Rng: Send + Sync + 'static {
    /// Fills the buffer.
    fn fill(&self, buffer: &mut [u8]);
}

/// The world as the server sees it. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    rng: Arc<dyn Rng>,
}

impl Env {
    /// An environment of these parts.
    pub fn new(clock: Arc<dyn Clock>, ids: Arc<dyn Ids>, rng: Arc<dyn Rng>) -> Self {
        Self { clock, ids, rng }
    }

    /// The machine's own clock and randomness.
    pub fn system() -> Self {
        let system = Arc::new(System);
        Self::new(system.clone(), system.clone(), system)
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A new id of the noun wanted.
    pub fn id<I: From<Uuid>>(&self) -> I {
        self.ids.next().into()
    }

    /// Random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill(&mut bytes);
        bytes
    }
}

struct System;

impl Clock for System {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

impl Ids for System {
    fn next(&self) -> Uuid {
        Uuid::now_v7()
    }
}

impl Rng for System {
    fn fill(&self, buffer: &mut [u8]) {
        rand::RngCore::fill_bytes(&mut rand::rng(), buffer);
    }
}
