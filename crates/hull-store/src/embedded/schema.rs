//! The database file: where it lies, how it is made, checked and opened, and what its errors mean.
//!
//! ```text
//! <dir>/hull.db            the database (SQLite; application id "HULL", user_version = schema)
//! <dir>/hull.db-wal, -shm  its write-ahead log
//! <dir>/LOCK               held while a Hull has it open
//! <dir>/backups/           automatic backups
//! ```
//!
//! A new database is made aside and renamed into place, so `hull.db` is whole or absent. One that is absent or empty
//! while its log or backups are there is damage, and never silently replaced by an empty one.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use crate::{Result, Revision, StoreError};

/// The schema written and read by this version.
pub(super) const SCHEMA: u64 = 1;
/// "HULL", in the file's header, tells our databases from others'.
const APPLICATION: i64 = 0x4855_4c4c;

const CREATE: &str = "
    -- One row: the newest revision, the newest forgotten one, the newest lease's id, the bytes of keys and values in change.
    CREATE TABLE state (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        revision INTEGER NOT NULL, compacted INTEGER NOT NULL, granted INTEGER NOT NULL, history INTEGER NOT NULL
    ) STRICT;
    INSERT INTO state VALUES (1, 0, 0, 0, 0);
    -- What is true now.
    CREATE TABLE entry (
        key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL,
        created INTEGER NOT NULL, modified INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER,
        sum INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX entry_by_lease ON entry (lease) WHERE lease IS NOT NULL;
    -- How it came to be, after state.compacted. A deletion has no value.
    CREATE TABLE change (
        revision INTEGER NOT NULL, key TEXT NOT NULL, value BLOB,
        created INTEGER, version INTEGER, lease INTEGER, sum INTEGER NOT NULL,
        PRIMARY KEY (revision, key)
    ) STRICT;
    -- Time to live in milliseconds. Deadlines are the process's own.
    CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL) STRICT;
";

/// The database's file.
pub(super) fn database(dir: &Path) -> PathBuf {
    dir.join("hull.db")
}

/// A file beside `path` with a suffix to its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes the data directory, readable by its owner only.
pub(super) fn make_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| io(dir, "make", &e))
}

/// Makes an empty file that only its owner reads, replacing what is there. SQLite gives its log the same mode.
pub(super) fn make_private(path: &Path) -> Result<()> {
    // The journal of an earlier attempt that crashed would be rolled back into the new file.
    remove(&beside(path, "-journal"))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).map(drop).map_err(|e| io(path, "make", &e))
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(path, "remove", &e)),
        _ => Ok(()),
    }
}

/// Makes a file's content, then its name, durable.
pub(super) fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|e| io(path, "sync", &e))
}

/// Renames durably within one directory.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| io(from, "rename", &e))?;
    to.parent().map_or(Ok(()), sync)
}

/// Opens the database of `dir` for writing, after making it where there is none, and checks it.
pub(super) fn open(dir: &Path) -> Result<Connection> {
    let path = database(dir);
    let found = fs::metadata(&path).map(|m| m.len());
    match found {
        Ok(0) => return Err(corrupt(&path, "it is empty")),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => create(dir, &path)?,
        Err(e) => return Err(io(&path, "open", &e)),
    }
    let conn = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    mend_length(&conn, &path)?;
    check(&conn, &path)?;
    set_up_writer(&conn).map_err(|e| explain(&path, &e))?;
    Ok(conn)
}

fn create(dir: &Path, path: &Path) -> Result<()> {
    if beside(path, "-wal").exists() || !super::backup::list(dir)?.is_empty() {
        return Err(corrupt(path, "it is missing, though its log or its backups are there"));
    }
    let new = beside(path, ".new");
    make_private(&new)?;
    let conn = connect(&new, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let fill = || {
        conn.pragma_update(None, "application_id", APPLICATION)?;
        conn.pragma_update(None, "user_version", SCHEMA as i64)?;
        conn.execute_batch(CREATE)
    };
    fill().map_err(|e| explain(&new, &e))?;
    drop(conn);
    sync(&new)?;
    rename(&new, path)
}

/// A crash while the log is copied into the database may cut its last page short. The log still has it: copy again.
fn mend_length(conn: &Connection, path: &Path) -> Result<()> {
    if is_whole_pages(conn, path)? {
        return Ok(());
    }
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).map_err(|e| explain(path, &e))
}

/// SQLite reads zeros where the last page is cut short, and notices only where it looks.
fn is_whole_pages(conn: &Connection, path: &Path) -> Result<bool> {
    let page: i64 = conn.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(|e| explain(path, &e))?;
    let bytes = fs::metadata(path).map_err(|e| io(path, "inspect", &e))?.len();
    Ok(bytes % u64(page) == 0)
}

fn set_up_writer(conn: &Connection) -> rusqlite::Result<()> {
    // With FULL, a commit returns after its fsync; with the log, that is one fsync a commit.
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    // After a burst, the log's file shrinks again.
    conn.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)
}

/// Opens one file as it is.
pub(super) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    // One connection is used by one thread at a time, which Rust sees to.
    let conn =
        Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(|e| explain(path, &e))?;
    // Only a checkpoint's or a recovery's short locks are ever waited for.
    conn.busy_timeout(Duration::from_secs(10)).map_err(|e| explain(path, &e))?;
    Ok(conn)
}

/// Checks that a file is a whole database of ours, and answers its newest revision.
pub(super) fn check(conn: &Connection, path: &Path) -> Result<Revision> {
    let explained = |e: rusqlite::Error| explain(path, &e);
    let pragma = |name| conn.pragma_query_value::<i64, _>(None, name, |row| row.get(0)).map_err(explained);
    if !is_whole_pages(conn, path)? {
        return Err(corrupt(path, "it ends within a page"));
    }
    if pragma("application_id")? != APPLICATION {
        return Err(corrupt(path, "it is not a database of Hull's"));
    }
    let found = pragma("user_version")?.unsigned_abs();
    if found > SCHEMA {
        return Err(StoreError::Newer { path: path.display().to_string(), found, known: SCHEMA });
    }
    let verdict: String = conn.query_row("PRAGMA quick_check(1)", (), |row| row.get(0)).map_err(explained)?;
    if verdict != "ok" {
        return Err(corrupt(path, &verdict));
    }
    let newest = "SELECT revision, (SELECT coalesce(max(revision), 0) FROM change) FROM state";
    let (revision, changed) = match conn.query_row(newest, (), |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
    {
        Ok((revision, changed)) => (revision, changed),
        Err(rusqlite::Error::QueryReturnedNoRows) => return Err(corrupt(path, "its state is missing")),
        Err(e) => return Err(explained(e)),
    };
    if changed > revision {
        return Err(corrupt(path, &format!("its history runs to revision {changed}, its state to {revision}")));
    }
    Ok(Revision(u64(revision)))
}

/// What an error of SQLite's means to us.
pub(super) fn explain(path: &Path, error: &rusqlite::Error) -> StoreError {
    let extended = error.sqlite_error().map(|e| e.extended_code);
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => corrupt(path, &error.to_string()),
        // The log's index is sized by writing zeros, which fails with an error of its own on a full disk.
        Some(ErrorCode::DiskFull) => StoreError::Full(path.display().to_string()),
        Some(ErrorCode::SystemIoFailure) if extended == Some(ffi::SQLITE_IOERR_SHMSIZE) => {
            StoreError::Full(path.display().to_string())
        }
        _ => StoreError::Engine(format!("{}: {error}", path.display())),
    }
}

pub(super) fn corrupt(path: &Path, why: &str) -> StoreError {
    StoreError::Corrupt { path: path.display().to_string(), why: why.to_owned() }
}

pub(super) fn io(path: &Path, act: &str, error: &std::io::Error) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::StorageFull => StoreError::Full(path.display().to_string()),
        _ => StoreError::Engine(format!("cannot {act} {}: {error}", path.display())),
    }
}

/// SQLite's integers are signed; ours count up from 0 and never get near the sign.
pub(super) fn i64(n: u64) -> i64 {
    n as i64
}

/// The way back of [`i64`].
pub(super) fn u64(n: i64) -> u64 {
    n.unsigned_abs()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// No test here can cut the power; what survives a cut hangs on these.
    #[test]
    fn commits_are_synced_and_files_private() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        make_dir(&dir).unwrap();
        let conn = open(&dir).unwrap();
        let synchronous: i64 = conn.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        let journal: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!((synchronous, &*journal), (2, "wal"), "FULL, with a log");

        conn.execute("UPDATE state SET granted = 1", ()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        for suffix in ["", "-wal", "-shm"] {
            assert_eq!(mode(&beside(&database(&dir), suffix)), 0o600, "hull.db{suffix}");
        }
    }

    #[test]
    fn what_a_crash_left_of_a_first_start_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("hull.db.new"), "half a database").unwrap();
        fs::write(dir.path().join("hull.db.new-journal"), "half a journal").unwrap();
        let conn = open(dir.path()).unwrap();
        assert_eq!(check(&conn, &database(dir.path())).unwrap(), Revision(0));
    }
}
