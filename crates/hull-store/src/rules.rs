//! What every engine must decide alike, as pure functions: which transactions are well formed, which condition fails
//! first, what a put makes of a key's history, where a prefix ends.

use std::collections::HashSet;

use bytes::Bytes;

use crate::{Compare, Entry, Key, LeaseId, Op, Result, Revision, StoreError, Txn};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// The most bytes of values in one transaction, and so the largest value. A thousand VMs made by one call are one
/// transaction; etcd must be started with `--max-request-bytes` above this.
pub const MAX_VALUE: usize = 8 << 20;
/// The most conditions, and the most changes, in one transaction; etcd's `--max-txn-ops` must be as high.
pub const MAX_OPS: usize = 10_000;

/// Refuses a transaction that breaks the rules, before any engine looks at it.
pub(crate) fn check(txn: &Txn) -> Result<()> {
    if txn.compares.len() > MAX_OPS || txn.ops.len() > MAX_OPS {
        return Err(malformed(format!(
            "{} conditions and {} changes; at most {MAX_OPS} of each fit in one transaction",
            txn.compares.len(),
            txn.ops.len()
        )));
    }
    for compare in &txn.compares {
        check_key(compare.key())?;
    }
    let mut seen = HashSet::with_capacity(txn.ops.len());
    let mut bytes = 0;
    for op in &txn.ops {
        check_key(op.key())?;
        if !seen.insert(op.key()) {
            return Err(malformed(format!("key {:?} is changed twice", op.key())));
        }
        if let Op::Put { value, .. } = op {
            bytes += value.len();
        }
    }
    if bytes > MAX_VALUE {
        return Err(malformed(format!("{bytes} bytes of values; at most {MAX_VALUE} fit in one transaction")));
    }
    Ok(())
}

/// Refuses an unusable key.
pub(crate) fn check_key(key: &str) -> Result<()> {
    let why = match key {
        "" => "a key is empty".to_owned(),
        _ if key.len() > MAX_KEY => format!("a key of {} bytes; at most {MAX_KEY}", key.len()),
        _ if key.starts_with('/') => format!("key {key:?} starts with a slash"),
        _ if key.contains('\0') => format!("key {key:?} holds a NUL"),
        _ => return Ok(()),
    };
    Err(malformed(why))
}

/// The place of the first condition that fails, given how to look up when a key was last changed.
pub(crate) fn first_conflict<E>(
    compares: &[Compare],
    mut modified: impl FnMut(&str) -> Result<Option<Revision>, E>,
) -> Result<Option<usize>, E> {
    for (place, compare) in compares.iter().enumerate() {
        let now = modified(compare.key())?;
        let holds = match compare {
            Compare::Exists(_) => now.is_some(),
            Compare::Absent(_) => now.is_none(),
            Compare::Modified(_, wanted) => now == Some(*wanted),
        };
        if !holds {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// What a put makes of a key, given when it was created and its version, if it was there.
pub(crate) fn put(
    old: Option<(Revision, u64)>,
    key: Key,
    value: Bytes,
    lease: Option<LeaseId>,
    modified: Revision,
) -> Entry {
    let (created, version) = old.map_or((modified, 1), |(created, version)| (created, version + 1));
    Entry { key, value, created, modified, version, lease }
}

/// The first string after all those that start with `prefix`; `None` if there is none.
///
/// Bytewise order of UTF-8 is the order of code points, so the last character that has a successor gets it.
pub(crate) fn prefix_end(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        // A range of chars steps over the surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// A compaction beyond the present is a caller's mistake.
pub(crate) fn check_compaction(upto: Revision, newest: Revision) -> Result<()> {
    if upto > newest {
        return Err(malformed(format!("cannot compact up to revision {}: the newest is {}", upto.0, newest.0)));
    }
    Ok(())
}

fn malformed(why: String) -> StoreError {
    StoreError::Malformed(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_sibling() {
        assert_eq!(prefix_end("vm/").as_deref(), Some("vm0"));
        assert_eq!(prefix_end("a\u{d7ff}").as_deref(), Some("a\u{e000}"), "surrogates are no characters");
        assert_eq!(prefix_end("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(prefix_end("\u{10ffff}"), None);
        assert_eq!(prefix_end(""), None);
    }
}
