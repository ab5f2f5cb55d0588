//! The memory engine's state: plain maps, changed by plain functions.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use crate::{
    Batch, Change, Entry, Key, LeaseId, Op, Outcome, Page, Result, Revision, StoreError, Txn, feed::Feed, rules,
};

/// Everything the memory engine remembers.
#[derive(Debug)]
pub(super) struct State {
    entries: BTreeMap<Key, Entry>,
    revision: Revision,
    leases: BTreeMap<LeaseId, Lease>,
    granted: u64,
    /// All history there is.
    pub(super) feed: Feed,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Duration,
    keys: BTreeSet<Key>,
}

impl State {
    pub(super) fn new(keep: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            revision: Revision(0),
            leases: BTreeMap::new(),
            granted: 0,
            feed: Feed::new(Revision(0), keep, usize::MAX),
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.entries.get(key).cloned()
    }

    pub(super) fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Page {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut found = self.entries.range::<str, _>((start, Bound::Unbounded)).map(|(_, entry)| entry);
        let mut next = || found.next().filter(|entry| entry.key.starts_with(prefix));
        let entries = std::iter::from_fn(&mut next).take(limit).cloned().collect();
        Page { entries, more: next().is_some(), revision: self.revision }
    }

    pub(super) fn txn(&mut self, txn: Txn) -> Result<Outcome> {
        let modified = |key: &str| Ok::<_, StoreError>(self.entries.get(key).map(|entry| entry.modified));
        if let Some(place) = rules::first_conflict(&txn.compares, modified)? {
            return Ok(Outcome::Conflict(place));
        }
        for op in &txn.ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.contains_key(lease)
            {
                return Err(StoreError::NoLease(*lease));
            }
        }
        Ok(Outcome::Committed(self.commit(txn.ops)))
    }

    /// Applies changes that passed every check, as one revision if they change anything.
    fn commit(&mut self, mut ops: Vec<Op>) -> Revision {
        ops.sort_by(|a, b| a.key().cmp(b.key()));
        let revision = Revision(self.revision.0 + 1);
        let changes: Vec<Change> = ops.into_iter().filter_map(|op| self.apply(op, revision)).collect();
        if !changes.is_empty() {
            self.revision = revision;
            self.feed.push(Batch { revision, changes });
        }
        self.revision
    }

    fn apply(&mut self, op: Op, revision: Revision) -> Option<Change> {
        let old = self.entries.remove(op.key());
        if let Some(lease) = old.as_ref().and_then(|entry| self.leases.get_mut(&entry.lease?)) {
            lease.keys.remove(op.key());
        }
        match op {
            Op::Put { key, value, lease } => {
                if let Some(lease) = lease.and_then(|id| self.leases.get_mut(&id)) {
                    lease.keys.insert(key.clone());
                }
                let entry = rules::put(old.map(|e| (e.created, e.version)), key.clone(), value, lease, revision);
                self.entries.insert(key, entry.clone());
                Some(Change::Put(entry))
            }
            Op::Delete(key) => old.map(|_| Change::Delete(key)),
        }
    }

    pub(super) fn grant(&mut self, ttl: Duration, now: Duration) -> LeaseId {
        self.granted += 1;
        let id = LeaseId(self.granted);
        self.leases.insert(id, Lease { ttl, deadline: now.saturating_add(ttl), keys: BTreeSet::new() });
        id
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Duration) -> Result<()> {
        let lease = self.leases.get_mut(&id).ok_or(StoreError::NoLease(id))?;
        lease.deadline = now.saturating_add(lease.ttl);
        Ok(())
    }

    pub(super) fn revoke(&mut self, id: LeaseId) -> Result<()> {
        let lease = self.leases.remove(&id).ok_or(StoreError::NoLease(id))?;
        self.commit(lease.keys.into_iter().map(Op::Delete).collect());
        Ok(())
    }

    /// When the first lease expires.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        self.leases.values().map(|lease| lease.deadline).min()
    }

    /// Ends the leases whose time is up, in the order of their deadlines, each as a revision of its own.
    pub(super) fn expire(&mut self, now: Duration) {
        let due = self.leases.iter().filter(|(_, lease)| lease.deadline <= now);
        let mut due: Vec<_> = due.map(|(id, lease)| (lease.deadline, *id)).collect();
        due.sort_unstable();
        for (_, id) in due {
            // Only a lease that is there was collected above.
            let _ = self.revoke(id);
        }
    }
}
