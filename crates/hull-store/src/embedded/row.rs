//! Rows as they are kept, each with a checksum of its own: SQLite notices damage to its trees, not to what they hold.

use bytes::Bytes;
use rusqlite::{Connection, Row, ffi};

use super::schema::{i64, u64};
use crate::{Change, Entry, Key, LeaseId, Revision};

/// The columns that [`entry`] reads.
pub(super) const ENTRY: &str = "key, value, created, modified, version, lease, sum";
/// The columns that [`change`] reads.
pub(super) const CHANGE: &str = "key, value, created, revision, version, lease, sum";

/// A put's checksum.
pub(super) fn sum(entry: &Entry) -> u32 {
    let lease = entry.lease.map_or(0, |id| id.0);
    let mut hash = crc32fast::Hasher::new();
    for number in [entry.created.0, entry.modified.0, entry.version, lease] {
        hash.update(&number.to_le_bytes());
    }
    // The length keeps key and value apart.
    hash.update(&(entry.key.len() as u64).to_le_bytes());
    hash.update(entry.key.as_bytes());
    hash.update(&entry.value);
    hash.finalize()
}

/// A deletion's checksum.
pub(super) fn deletion_sum(revision: Revision, key: &str) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&revision.0.to_le_bytes());
    hash.update(key.as_bytes());
    hash.finalize()
}

/// Reads a row of [`ENTRY`].
pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let entry = Entry {
        key: key(row)?,
        value: Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?),
        created: Revision(u64(row.get(2)?)),
        modified: Revision(u64(row.get(3)?)),
        version: u64(row.get(4)?),
        lease: row.get::<_, Option<i64>>(5)?.map(|id| LeaseId(u64(id))),
    };
    check(row, sum(&entry), &entry.key)?;
    Ok(entry)
}

/// Reads a row of [`CHANGE`].
pub(super) fn change(row: &Row<'_>) -> rusqlite::Result<(Revision, Change)> {
    if row.get_ref(1)?.as_blob_or_null()?.is_some() {
        let entry = entry(row)?;
        return Ok((entry.modified, Change::Put(entry)));
    }
    let (revision, key) = (Revision(u64(row.get(3)?)), key(row)?);
    check(row, deletion_sum(revision, &key), &key)?;
    Ok((revision, Change::Delete(key)))
}

/// Reads every entry and every change, for their checksums.
pub(super) fn check_all(conn: &Connection) -> rusqlite::Result<()> {
    let mut entries = conn.prepare(&format!("SELECT {ENTRY} FROM entry"))?;
    entries.query_map((), entry)?.try_for_each(|entry| entry.map(drop))?;
    let mut changes = conn.prepare(&format!("SELECT {CHANGE} FROM change"))?;
    changes.query_map((), change)?.try_for_each(|change| change.map(drop))
}

fn key(row: &Row<'_>) -> rusqlite::Result<Key> {
    Ok(row.get_ref(0)?.as_str()?.into())
}

/// Compares with the last column; a difference is damage like any that SQLite finds itself.
fn check(row: &Row<'_>, sum: u32, key: &str) -> rusqlite::Result<()> {
    if row.get::<_, i64>(6)? == i64(sum.into()) {
        return Ok(());
    }
    let why = format!("the checksum of {key:?} does not match");
    Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(why)))
}
