//! Leases' deadlines, which only the process knows: after a restart every lease gets a whole new time to live, since
//! nobody could renew it while the store was away.

use std::{collections::BTreeMap, time::Duration};

use crate::{LeaseId, Result, StoreError};

/// All leases. Cheap enough to copy that a group of transactions works on a copy and drops it where it fails.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases(BTreeMap<LeaseId, Lease>);

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Duration,
    deadline: Duration,
}

impl Leases {
    pub(super) fn insert(&mut self, id: LeaseId, ttl: Duration, now: Duration) {
        self.0.insert(id, Lease { ttl, deadline: now.saturating_add(ttl) });
    }

    pub(super) fn check(&self, id: LeaseId) -> Result<()> {
        if self.0.contains_key(&id) { Ok(()) } else { Err(StoreError::NoLease(id)) }
    }

    pub(super) fn is_due(&self, id: LeaseId, now: Duration) -> bool {
        self.0.get(&id).is_some_and(|lease| lease.deadline <= now)
    }

    pub(super) fn renew(&mut self, id: LeaseId, now: Duration) -> Result<()> {
        let lease = self.0.get_mut(&id).ok_or(StoreError::NoLease(id))?;
        lease.deadline = now.saturating_add(lease.ttl);
        Ok(())
    }

    /// Puts off an expiry that could not be carried out, so that it is tried again at `deadline`.
    pub(super) fn put_off(&mut self, id: LeaseId, deadline: Duration) {
        if let Some(lease) = self.0.get_mut(&id) {
            lease.deadline = deadline;
        }
    }

    pub(super) fn remove(&mut self, id: LeaseId) {
        self.0.remove(&id);
    }

    /// When the first lease expires.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.0.values().map(|lease| lease.deadline).min()
    }

    /// Leases whose time is up, in the order of their deadlines.
    pub(super) fn due(&self, now: Duration) -> Vec<LeaseId> {
        let due = self.0.iter().filter(|(_, lease)| lease.deadline <= now);
        let mut due: Vec<_> = due.map(|(id, lease)| (lease.deadline, *id)).collect();
        due.sort_unstable();
        due.into_iter().map(|(_, id)| id).collect()
    }
}
