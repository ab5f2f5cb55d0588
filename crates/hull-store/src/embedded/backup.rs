//! Backups: whole, checked, single files, made while the store works, and the way back from one.
//!
//! Automatic ones lie in `<dir>/backups/` as `hull-<number>-r<revision>.db`. The number counts up and orders them, since a
//! wall clock may jump and revisions may start over in a restored store.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, SystemTime},
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup as Copy, StepResult},
};

use super::{
    lock::Lock,
    reader::{Readers, bounds},
    row,
    schema::{beside, check, connect, corrupt, database, explain, io, make_dir, make_private, remove, rename, sync},
};
use crate::{Result, Revision, StoreError};

/// Pages copied between two looks at whether the store is closing.
const STEP: i32 = 1024;
/// How often it is considered whether a backup is due.
const CONSIDER: Duration = Duration::from_secs(60);
/// How far a restored store's revisions start above the backup's: further than a store gets between two backups, so that
/// no revision (an `ETag`, a watcher's place) ever names two different states.
const LEAP: u64 = 1_000_000_000;

/// An automatic backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Where it is.
    pub path: PathBuf,
    /// Its number; later ones are higher.
    pub number: u64,
    /// The store's revision it holds.
    pub revision: Revision,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was written.
    pub taken: SystemTime,
}

/// When automatic backups are made, and how many are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) every: Duration,
    pub(super) keep: usize,
}

/// The directory of automatic backups.
fn backups(dir: &Path) -> PathBuf {
    dir.join("backups")
}

/// The automatic backups of a data directory, newest first. The store may be open.
pub(super) fn list(dir: &Path) -> Result<Vec<Backup>> {
    let dir = backups(dir);
    let files = match fs::read_dir(&dir) {
        Ok(files) => files,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io(&dir, "list", &e)),
    };
    let mut found = Vec::new();
    for file in files {
        let file = file.map_err(|e| io(&dir, "list", &e))?;
        let Some((number, revision)) = file.file_name().to_str().and_then(parse_name) else { continue };
        // One that went away since belongs to the past already.
        let Ok(meta) = file.metadata() else { continue };
        let taken = meta.modified().map_err(|e| io(&file.path(), "inspect", &e))?;
        found.push(Backup { path: file.path(), number, revision, bytes: meta.len(), taken });
    }
    found.sort_by_key(|backup| std::cmp::Reverse(backup.number));
    Ok(found)
}

fn parse_name(name: &str) -> Option<(u64, Revision)> {
    let (number, revision) = name.strip_prefix("hull-")?.strip_suffix(".db")?.split_once("-r")?;
    Some((number.parse().ok()?, Revision(revision.parse().ok()?)))
}

/// Copies the store as it is at one moment to `to`, checks the copy, and only then gives it its name.
pub(super) fn write(source: &Connection, to: &Path, go_on: impl Fn() -> bool) -> Result<Revision> {
    let partial = beside(to, ".partial");
    make_private(&partial)?;
    let made = copy(source, &partial, go_on).and_then(|revision| {
        sync(&partial)?;
        rename(&partial, to)?;
        Ok(revision)
    });
    if made.is_err() {
        // Best effort: the next backup to this name overwrites it anyway.
        let _ = remove(&partial);
    }
    made
}

fn copy(source: &Connection, to: &Path, go_on: impl Fn() -> bool) -> Result<Revision> {
    let explained = |e: rusqlite::Error| explain(to, &e);
    let mut target = connect(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // The whole file is synced once at the end.
    target.pragma_update(None, "synchronous", "OFF").map_err(explained)?;
    {
        // One read transaction around all steps: otherwise each commit in between starts the copy over.
        let snapshot = source.unchecked_transaction().map_err(explained)?;
        bounds(&snapshot).map_err(explained)?;
        let steps = Copy::new(&snapshot, &mut target).map_err(explained)?;
        while steps.step(STEP).map_err(explained)? != StepResult::Done {
            if !go_on() {
                return Err(StoreError::Closed);
            }
        }
    }
    // The copy says of itself that it has a log; a backup is one file.
    target.pragma_update(None, "journal_mode", "DELETE").map_err(explained)?;
    check_whole(&target, to)
}

/// Checks that a file is a whole backup, and answers its revision.
pub(super) fn verify(path: &Path) -> Result<Revision> {
    if fs::metadata(path).map_err(|e| io(path, "open", &e))?.len() == 0 {
        return Err(corrupt(path, "it is empty"));
    }
    check_whole(&connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?, path)
}

/// Checks the file, and every row in it: a backup is the last place to find damage in.
fn check_whole(conn: &Connection, path: &Path) -> Result<Revision> {
    let revision = check(conn, path)?;
    row::check_all(conn).map_err(|e| explain(path, &e))?;
    Ok(revision)
}

/// Puts a backup in the place of `dir`'s database, which is set aside. See [`super::restore`].
pub(super) fn restore(dir: &Path, backup: &Path) -> Result<Revision> {
    make_dir(dir)?;
    let _lock = Lock::take(dir)?;
    verify(backup)?;
    let path = database(dir);
    let new = beside(&path, ".new");
    make_private(&new)?;
    fs::copy(backup, &new).map_err(|e| io(backup, "copy", &e))?;
    let revision = leap(&new)?;
    sync(&new)?;
    set_aside(&path)?;
    rename(&new, &path)?;
    Ok(revision)
}

/// Starts a restored database's revisions where no other history of it has been, with nothing to replay.
fn leap(path: &Path) -> Result<Revision> {
    let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let sql = format!(
        "BEGIN; DELETE FROM change;
         UPDATE state SET revision = revision + {LEAP}, compacted = revision + {LEAP}, history = 0; COMMIT"
    );
    conn.execute_batch(&sql).map_err(|e| explain(path, &e))?;
    check(&conn, path)
}

/// Keeps the database as `hull.db.replaced`. Its log goes first: a log beside another database would be replayed into it.
fn set_aside(path: &Path) -> Result<()> {
    for suffix in ["-wal", "-shm", "-journal", ""] {
        let from = beside(path, suffix);
        if from.exists() {
            rename(&from, &beside(path, &format!(".replaced{suffix}")))?;
        }
    }
    Ok(())
}

/// The automatic backups' thread: runs until the other end of `stop` goes.
pub(super) fn keep_backing_up(dir: &Path, schedule: Schedule, readers: &Arc<Readers>, stop: &Receiver<()>) {
    let stopping = || matches!(stop.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(schedule.every.min(CONSIDER)) {
        match back_up_if_due(dir, schedule, readers, || !stopping()) {
            Ok(()) | Err(StoreError::Closed) => {}
            Err(e) => {
                tracing::warn!(dir = %dir.display(), error = %e, "the automatic backup failed; trying again later")
            }
        }
    }
}

fn back_up_if_due(dir: &Path, schedule: Schedule, readers: &Readers, go_on: impl Fn() -> bool) -> Result<()> {
    let (revision, _) = readers.with(|conn| Ok(bounds(conn)?))?;
    let newest = list(dir)?.into_iter().next();
    if !is_due(newest.as_ref(), revision, schedule.every, SystemTime::now()) {
        return Ok(());
    }
    make_dir(&backups(dir))?;
    let number = newest.map_or(1, |backup| backup.number + 1);
    let path = backups(dir).join(format!("hull-{number:06}-r{}.db", revision.0));
    readers.with(|conn| Ok(write(conn, &path, go_on)?))?;
    prune(dir, schedule.keep)
}

/// Whether it is time: something changed, and the newest backup is old (or from the future: the clock was set back).
fn is_due(newest: Option<&Backup>, revision: Revision, every: Duration, now: SystemTime) -> bool {
    match newest {
        None => revision > Revision(0),
        Some(backup) => {
            backup.revision != revision && now.duration_since(backup.taken).map_or(true, |age| age >= every)
        }
    }
}

fn prune(dir: &Path, keep: usize) -> Result<()> {
    for old in list(dir)?.into_iter().skip(keep.max(1)) {
        remove(&old.path)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn backup(revision: u64, taken: SystemTime) -> Backup {
        Backup { path: PathBuf::new(), number: 1, revision: Revision(revision), bytes: 1, taken }
    }

    #[test]
    fn a_backup_is_due_when_something_changed_and_the_newest_is_old() {
        let (hour, now) = (Duration::from_secs(3600), SystemTime::now());
        let is_due = |newest: Option<Backup>, revision| is_due(newest.as_ref(), Revision(revision), hour, now);
        assert!(!is_due(None, 0), "an empty store");
        assert!(is_due(None, 1), "the first");
        assert!(!is_due(Some(backup(5, now - hour)), 5), "nothing changed");
        assert!(!is_due(Some(backup(5, now - hour / 2)), 6), "too soon");
        assert!(is_due(Some(backup(5, now - hour)), 6));
        assert!(is_due(Some(backup(5, now + hour)), 6), "the clock was set back");
    }

    #[test]
    fn only_our_names_are_backups() {
        assert_eq!(parse_name("hull-000012-r345.db"), Some((12, Revision(345))));
        for other in ["hull-000012-r345.db.partial", "hull-x-r1.db", "hull-1.db", "notes.txt"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
