//! The store in memory, for the simulator and for tests.
//!
//! Deterministic: no thread, no task and no wall clock of its own. Every call's future is ready at its first poll, time is
//! tokio's (which tests pause), ids count up. Expired leases are swept at the start of every call; a watcher that waits
//! sleeps until the next lease would expire, so that it sees the deletion on time though nobody calls.
//!
//! [`MemoryStore::fail_next`] and [`MemoryStore::cut_watches`] stand in for what goes wrong with a store across a network.

mod state;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::watch;

use self::state::State;
use crate::{
    Clock, Entry, LeaseId, Monotonic, Outcome, Page, Result, Revision, Store, StoreError, Txn, Watch, feed::Next, rules,
};

/// How many revisions of history are kept, unless [`MemoryStore::keeping`] says otherwise.
const KEEP: usize = 100_000;

/// What goes wrong with a transaction, and when.
#[derive(Debug)]
pub enum Fault {
    /// The error comes instead of the transaction.
    Before(StoreError),
    /// The transaction runs to its outcome, whatever it is; the error comes instead of the answer.
    After(StoreError),
}

/// A store that lives as long as its value.
#[derive(Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    clock: Monotonic,
    /// Sent whenever a watcher may have something to see.
    bell: watch::Sender<()>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    faults: VecDeque<Fault>,
    /// Watches opened before the newest cut end.
    cuts: u64,
    closed: bool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::keeping(KEEP)
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that compacts itself to the newest `revisions`.
    pub fn keeping(revisions: usize) -> Self {
        let inner = Inner { state: State::new(revisions), faults: VecDeque::new(), cuts: 0, closed: false };
        let (bell, _) = watch::channel(());
        Self { shared: Arc::new(Shared { inner: Mutex::new(inner), clock: Monotonic::default(), bell }) }
    }

    /// Lets the next transaction that has no fault yet meet this one. Faults queue up.
    pub fn fail_next(&self, fault: Fault) {
        self.shared.lock().faults.push_back(fault);
    }

    /// Ends every open watch with [`StoreError::Engine`], as a server that restarts does.
    pub fn cut_watches(&self) {
        self.shared.lock().cuts += 1;
        self.shared.bell.send_replace(());
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.bell.send_replace(());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in another caller leaves the state whole: it changes only after all checks.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act` on the state as of now, and wakes watchers if it or the time that passed changed anything.
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let before = inner.state.revision();
        inner.state.expire(self.clock.now());
        let answer = act(&mut inner);
        if inner.state.revision() != before {
            self.bell.send_replace(());
        }
        answer
    }

    fn txn(&self, txn: Txn) -> Result<Outcome> {
        self.with(|inner| match inner.faults.pop_front() {
            None => inner.state.txn(txn),
            Some(Fault::Before(error)) => Err(error),
            Some(Fault::After(error)) => inner.state.txn(txn).and(Err(error)),
        })
    }

    /// What a watcher opened after `cuts` cuts has to see, and when to look again at the latest.
    fn poll(&self, cuts: u64, cursor: &mut Revision, prefix: &str) -> Result<(Next, Option<Duration>)> {
        self.with(|inner| {
            if inner.closed {
                return Err(StoreError::Closed);
            }
            if inner.cuts != cuts {
                return Err(StoreError::Engine("the watch was cut".to_owned()));
            }
            let next = inner.state.feed.next(cursor, prefix);
            Ok((next, inner.state.next_expiry().map(|at| at.saturating_sub(self.clock.now()))))
        })
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn revision(&self) -> Result<Revision> {
        Ok(self.shared.with(|inner| inner.state.revision()))
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        Ok(self.shared.with(|inner| inner.state.get(key)))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        Ok(self.shared.with(|inner| inner.state.list(prefix, after, limit)))
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome> {
        rules::check(&txn)?;
        self.shared.txn(txn)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        let (floor, cuts) = self.shared.with(|inner| (inner.state.feed.floor(), inner.cuts));
        if after < floor {
            return Err(StoreError::Compacted(floor));
        }
        Ok(follow(Arc::clone(&self.shared), prefix.to_owned(), after, cuts))
    }

    async fn compact(&self, upto: Revision) -> Result<()> {
        self.shared.with(|inner| {
            rules::check_compaction(upto, inner.state.revision())?;
            inner.state.feed.forget(upto);
            Ok(())
        })
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        let now = self.shared.clock.now();
        let id = self.shared.with(|inner| inner.state.grant(ttl, now));
        // A waiting watcher must learn of the new deadline.
        self.shared.bell.send_replace(());
        Ok(id)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        let now = self.shared.clock.now();
        self.shared.with(|inner| inner.state.keep_alive(lease, now))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.shared.with(|inner| inner.state.revoke(lease))
    }
}

/// The stream of a watcher at `cursor`.
fn follow(shared: Arc<Shared>, prefix: String, mut cursor: Revision, cuts: u64) -> Watch {
    let mut bell = shared.bell.subscribe();
    async_stream::try_stream! {
        loop {
            // Marked before the look, so that a change right after it rings again.
            bell.mark_unchanged();
            let (next, wait) = shared.poll(cuts, &mut cursor, &prefix)?;
            match next {
                Next::Batches(batches) => for batch in batches { yield batch; },
                Next::Behind(floor) => Err(StoreError::Compacted(floor))?,
                Next::Quiet => ring_or_expiry(&mut bell, wait).await,
            }
        }
    }
    .boxed()
}

/// Waits until something changed or a lease may have expired.
async fn ring_or_expiry(bell: &mut watch::Receiver<()>, wait: Option<Duration>) {
    // The sender lives in `Shared`, which the watcher holds: no error comes from here.
    match wait {
        Some(wait) => drop(tokio::time::timeout(wait, bell.changed()).await),
        None => drop(bell.changed().await),
    }
}
