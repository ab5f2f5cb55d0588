//! `hull store`: the store of this host's Hull.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use hull_store::embedded::{self, EmbeddedStore};
use hull_types::{
    Timestamp,
    error::{Error, Result},
    units::Bytes,
};
use serde::Serialize;

use super::Global;
use crate::{
    config::DATA_DIR,
    output::{self, Show},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List the automatic backups, newest first
    #[command(visible_alias = "ls")]
    List,
    /// Check the store of a Hull that does not run
    Check,
    /// Put a backup in the store's place; Hull must not run
    Restore {
        /// The backup's file, as `hull store list` shows it; the newest where absent
        backup: Option<PathBuf>,
    },
}

/// The store in a data directory.
pub(crate) fn dir(data: &Path) -> PathBuf {
    data.join("store")
}

/// Opens a store at rest, which checks it, and closes it again.
pub(crate) fn check(dir: &Path) -> hull_store::Result<()> {
    let options = embedded::Options { backup_every: None, ..embedded::Options::default() };
    EmbeddedStore::open(dir, options).map(drop)
}

/// A backup as it is listed.
#[derive(Serialize)]
struct Row {
    path: PathBuf,
    revision: u64,
    size: Bytes,
    taken: Option<Timestamp>,
}

impl From<&embedded::Backup> for Row {
    fn from(backup: &embedded::Backup) -> Self {
        Self {
            path: backup.path.clone(),
            revision: backup.revision.0,
            size: Bytes(backup.bytes),
            taken: Timestamp::try_from(backup.taken).ok(),
        }
    }
}

impl Show for Row {
    const COLUMNS: &'static [&'static str] = &["file", "revision", "size", "taken"];
    fn row(&self) -> Vec<String> {
        let taken = self.taken.map(|at| format!("{at:.0}")).unwrap_or_default();
        vec![self.path.display().to_string(), self.revision.to_string(), self.size.to_string(), taken]
    }
}

impl Verb {
    #[expect(clippy::unused_async, reason = "verbs are run alike")]
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let dir = dir(global.data_dir.as_deref().unwrap_or(Path::new(DATA_DIR)));
        match self {
            Self::List => {
                let backups = embedded::list_backups(&dir)?;
                output::list(&backups.iter().map(Row::from).collect::<Vec<_>>(), global.output);
            }
            Self::Check => {
                check(&dir)?;
                output::line(format!("{} is sound", dir.display()));
            }
            Self::Restore { backup } => {
                let newest = || {
                    let backups = embedded::list_backups(&dir)?;
                    let newest = backups.into_iter().next().map(|backup| backup.path);
                    newest.ok_or_else(|| Error::not_found(format!("no backup in {}", dir.display())))
                };
                let backup = backup.map_or_else(newest, Ok)?;
                embedded::restore(&dir, &backup)?;
                output::line(format!("restored {}; start Hull again with `hull up`", backup.display()));
            }
        }
        Ok(0)
    }
}
