//! How far a long piece of work is, for progress bars.

use std::{fmt, sync::Arc};

use serde::Serialize;

/// What a long piece of work is doing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reading the source; counted in bytes of the source.
    Receiving,
    /// Converting between disk formats; counted in bytes of the virtual disk.
    Converting,
    /// Hashing what will be stored; counted in its bytes.
    Hashing,
    /// Downloading and unpacking packages; counted in packages.
    Packages,
    /// Writing the disk of a built image; counted in steps.
    Assembling,
}

/// A moment of a long piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What is being done.
    pub phase: Phase,
    /// How much of it is done, in the phase's unit.
    pub done: u64,
    /// How much there is to do, where that is known.
    pub total: Option<u64>,
}

/// Whom to tell. Called from any thread, often (about once per MiB): it must be quick and must not block.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Step) + Send + Sync>);

impl Progress {
    /// Calls `tell` with each step.
    pub fn new(tell: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Tells nobody.
    pub fn silent() -> Self {
        Self::new(|_| {})
    }

    pub(crate) fn report(&self, phase: Phase, done: u64, total: Option<u64>) {
        (self.0)(Step { phase, done, total });
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::silent()
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}
