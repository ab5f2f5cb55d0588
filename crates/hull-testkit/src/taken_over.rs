//! A program that plays a QEMU its guest has taken over (`confined/taken-over.c`), and what came of its attempts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guest::cache_dir;
use crate::guest::packages::run;

/// The program: to be started in QEMU's place with its plan as a disk, or freely.
#[derive(Clone, Debug)]
pub struct TakenOver {
    /// Statically linked: it needs nothing of the place it runs in.
    pub program: PathBuf,
}

/// What came of each attempt, by its name: `done`, or `refused` and an errno's name.
pub type Verdicts = BTreeMap<String, String>;

impl TakenOver {
    /// Compiles it (needs gcc) into the test kit's cache.
    ///
    /// # Errors
    /// When gcc or the static C library is missing.
    pub fn get() -> anyhow::Result<Self> {
        let cache = cache_dir()?;
        let work = tempfile::tempdir_in(&cache)?;
        let (source, made) = (work.path().join("taken-over.c"), work.path().join("taken-over"));
        std::fs::write(&source, include_str!("../confined/taken-over.c"))?;
        run(Command::new("gcc").args(["-static", "-O1", "-o"]).arg(&made).arg(&source))?;
        let program = cache.join("taken-over");
        std::fs::rename(&made, &program)?; // whole or not at all, for tests that run beside this one
        Ok(Self { program })
    }

    /// Carries out the plan as whoever runs the test, without any confinement.
    ///
    /// # Errors
    /// When it cannot be started or ends badly.
    pub fn run_free(&self, plan: &Path) -> anyhow::Result<Verdicts> {
        Ok(verdicts(&run(Command::new(&self.program).arg("--plan").arg(plan))?))
    }
}

/// Reads what the program printed.
pub fn verdicts(printed: &str) -> Verdicts {
    printed.lines().filter_map(|line| line.split_once(' ')).map(|(name, said)| (name.into(), said.into())).collect()
}
