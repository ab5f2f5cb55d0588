//! Reads, each a snapshot on a connection of its own, so that none waits for the writer.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params, types::ToSql};
use tokio::sync::Semaphore;

use super::{
    row::{CHANGE, ENTRY, change, entry},
    schema::{connect, explain, i64, u64},
};
use crate::{Batch, Entry, Page, Result, Revision, StoreError, rules};

/// The most reads at once; more wait.
const READERS: usize = 8;
/// Connections kept open between reads; each holds a cache of up to 2 MiB.
const KEPT: usize = 3;

/// The connections that read. Closed when the store is.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Semaphore,
}

/// A piece of history.
#[derive(Debug)]
pub(super) struct Chapter {
    /// The batches under the prefix.
    pub(super) batches: Vec<Batch>,
    /// The revision it ends with.
    pub(super) upto: Revision,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default(), turns: Semaphore::new(READERS) }
    }

    pub(super) fn close(&self) {
        self.turns.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Reads on a thread that may block.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T> {
        let readers = Arc::clone(self);
        let _turn = self.turns.acquire().await.map_err(|_| StoreError::Closed)?;
        let task = tokio::task::spawn_blocking(move || readers.with(read));
        task.await.unwrap_or_else(|e| Err(StoreError::Engine(format!("a read ended early: {e}"))))
    }

    /// Reads on this thread, which blocks.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Trouble>) -> Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = match idle {
            Some(conn) => conn,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?,
        };
        let answer = read(&conn).map_err(|trouble| match trouble {
            Trouble::Sqlite(e) => explain(&self.path, &e),
            Trouble::Store(e) => e,
        });
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT && !self.turns.is_closed() {
            idle.push(conn);
        }
        answer
    }
}

/// What stops a read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// SQLite's error, not explained yet.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The newest revision and the newest forgotten one.
pub(super) fn bounds(conn: &Connection) -> rusqlite::Result<(Revision, Revision)> {
    let mut query = conn.prepare_cached("SELECT revision, compacted FROM state")?;
    query.query_row((), |row| Ok((Revision(u64(row.get(0)?)), Revision(u64(row.get(1)?)))))
}

pub(super) fn get(conn: &Connection, key: &str) -> rusqlite::Result<Option<Entry>> {
    let sql = format!("SELECT {ENTRY} FROM entry WHERE key = ?1");
    conn.prepare_cached(&sql)?.query_row([key], entry).optional()
}

pub(super) fn list(conn: &Connection, prefix: &str, after: Option<&str>, limit: usize) -> rusqlite::Result<Page> {
    // Revision and entries come from one snapshot.
    let snapshot = conn.unchecked_transaction()?;
    let (revision, _) = bounds(&snapshot)?;
    // One lower bound only: with two, SQLite would seek to one and filter by the other.
    let (lower, from) = match after {
        Some(after) if after >= prefix => ("key > ?1", after),
        _ => ("key >= ?1", prefix),
    };
    let end = rules::prefix_end(prefix);
    let upper = if end.is_some() { "AND key < ?2" } else { "AND ?2 IS NULL" };
    let sql = format!("SELECT {ENTRY} FROM entry WHERE {lower} {upper} ORDER BY key LIMIT ?3");
    // One more than asked for tells whether there is more.
    let limit_and_one = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut query = snapshot.prepare_cached(&sql)?;
    let found = query.query_map([&from as &dyn ToSql, &end, &limit_and_one], entry)?;
    let mut entries = found.collect::<rusqlite::Result<Vec<_>>>()?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    Ok(Page { entries, more, revision })
}

/// The next at most `revisions` of history after `after`.
pub(super) fn history(conn: &Connection, prefix: &str, after: Revision, revisions: u64) -> Result<Chapter, Trouble> {
    let snapshot = conn.unchecked_transaction()?;
    let (newest, compacted) = bounds(&snapshot)?;
    if after < compacted {
        return Err(StoreError::Compacted(compacted).into());
    }
    let upto = newest.min(Revision(after.0 + revisions)).max(after);
    let sql = format!(
        "SELECT {CHANGE} FROM change
         WHERE revision > ?1 AND revision <= ?2 AND key >= ?3 AND (?4 IS NULL OR key < ?4)
         ORDER BY revision, key"
    );
    let mut query = snapshot.prepare_cached(&sql)?;
    let mut rows = query.query(params![i64(after.0), i64(upto.0), prefix, rules::prefix_end(prefix)])?;
    let mut batches: Vec<Batch> = Vec::new();
    while let Some(row) = rows.next()? {
        let (revision, change) = change(row)?;
        match batches.last_mut() {
            Some(batch) if batch.revision == revision => batch.changes.push(change),
            _ => batches.push(Batch { revision, changes: vec![change] }),
        }
    }
    Ok(Chapter { batches, upto })
}
