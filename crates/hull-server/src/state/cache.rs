//! The store's documents in memory, fed by one watch.
//!
//! ```text
//!   list all at revision R ─> State ─> watch from R ─> apply each batch, tell those who wait
//!            ^                                            │
//!            └──────── history compacted, or an error ────┘
//! ```
//!
//! Reads come from here; they are of one revision and never block the store. Who has committed something waits until
//! its revision has arrived ([`Cache::reached`]) and so reads its own writes. Watchers of a noun follow a bounded log of
//! what changed, by revision; who falls behind it lists again.

use std::{
    collections::VecDeque,
    sync::{Arc, RwLock},
    time::Duration,
};

use futures::StreamExt;
use hull_store::{Batch, Change, Revision, Store, StoreError};
use tokio::sync::watch;

use super::{
    keys::Kind,
    view::{Changed, State},
};

/// Changes remembered for watchers.
const LOG: usize = 16_384;
/// Documents read at once while listing.
const PAGE: usize = 1_000;
/// The pause before a broken watch is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The documents, shared.
pub struct Cache {
    held: RwLock<Held>,
    revision: watch::Sender<u64>,
}

#[derive(Default)]
struct Held {
    state: State,
    log: VecDeque<Changed>,
    /// The log holds every change after this revision.
    floor: u64,
    revision: u64,
}

/// The log no longer reaches back that far: list again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind;

impl Cache {
    /// Reads everything the store holds.
    ///
    /// # Errors
    /// The store's.
    pub async fn load(store: &Arc<dyn Store>) -> Result<Arc<Self>, StoreError> {
        let (state, revision) = list(store).await?;
        let held = Held { state, log: VecDeque::new(), floor: revision, revision };
        Ok(Arc::new(Self { held: RwLock::new(held), revision: watch::Sender::new(revision) }))
    }

    /// Follows the store for ever; run it as a task.
    pub async fn follow(self: Arc<Self>, store: Arc<dyn Store>) {
        loop {
            let outcome = self.follow_watch(&store).await;
            match outcome {
                Err(StoreError::Closed) => return,
                Err(error) => tracing::warn!(%error, "the watch ended; listing again"),
                Ok(()) => tracing::warn!("the watch ended; listing again"),
            }
            tokio::time::sleep(RETRY).await;
            match list(&store).await {
                Ok((state, revision)) => self.replace(state, revision),
                Err(StoreError::Closed) => return,
                Err(error) => tracing::warn!(%error, "the store could not be listed"),
            }
        }
    }

    async fn follow_watch(&self, store: &Arc<dyn Store>) -> Result<(), StoreError> {
        let mut batches = store.watch("", Revision(self.now())).await?;
        while let Some(batch) = batches.next().await {
            self.take(&batch?);
        }
        Ok(())
    }

    fn take(&self, batch: &Batch) {
        {
            let mut held = self.write();
            for change in &batch.changes {
                match held.state.apply(change, batch.revision.0) {
                    Ok(changed) => held.log.extend(changed),
                    Err(error) => tracing::error!(%error, "a document cannot be read; the older one is kept"),
                }
            }
            held.revision = batch.revision.0;
            while held.log.len() > LOG {
                // A revision's changes leave together, or a watcher at that revision would miss some.
                let Some(oldest) = held.log.front().map(|changed| changed.revision) else { break };
                while held.log.front().is_some_and(|changed| changed.revision == oldest) {
                    held.log.pop_front();
                }
                held.floor = oldest;
            }
        }
        self.revision.send_replace(batch.revision.0);
    }

    fn replace(&self, state: State, revision: u64) {
        {
            let mut held = self.write();
            *held = Held { state, log: VecDeque::new(), floor: revision, revision };
        }
        self.revision.send_replace(revision);
    }

    /// Looks at the documents, all of one revision. Keep it short: writers wait meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.read_at(|state, _| look(state))
    }

    /// As [`Cache::read`], with the revision looked at.
    pub fn read_at<T>(&self, look: impl FnOnce(&State, u64) -> T) -> T {
        let held = self.held.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        look(&held.state, held.revision)
    }

    /// The newest revision taken over.
    pub fn now(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Wakes on every new revision.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Waits until this revision has arrived.
    pub async fn reached(&self, revision: u64) {
        // The sender lives as long as `self`.
        _ = self.subscribe().wait_for(|&now| now >= revision).await;
    }

    /// What changed after a revision, and the revision this reaches to.
    ///
    /// # Errors
    /// [`Behind`] where the log does not reach back so far.
    pub fn since(&self, after: u64) -> Result<(Vec<Changed>, u64), Behind> {
        let held = self.held.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        if after < held.floor {
            return Err(Behind);
        }
        let first = held.log.partition_point(|changed| changed.revision <= after);
        Ok((held.log.range(first..).copied().collect(), held.revision))
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Held> {
        // A panic while applying leaves at worst one document behind; serving goes on.
        self.held.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Lists the documents, kind by kind: audit records, by far the most of what a store holds, are not among them. Pages are
/// of different revisions, so the first page's revision is where the watch begins: what changed since is applied again,
/// which does no harm.
async fn list(store: &Arc<dyn Store>) -> Result<(State, u64), StoreError> {
    let mut state = State::default();
    let mut first = None;
    for kind in Kind::ALL {
        let prefix = format!("{}/", kind.prefix());
        let mut after = None::<hull_store::Key>;
        loop {
            let page = store.list(&prefix, after.as_deref(), PAGE).await?;
            let revision = *first.get_or_insert(page.revision.0);
            after = page.entries.last().map(|entry| entry.key.clone());
            for entry in page.entries {
                let change = Change::Put(entry);
                if let Err(error) = state.apply(&change, revision) {
                    tracing::error!(%error, "a document cannot be read and is left out");
                }
            }
            if !page.more {
                break;
            }
        }
    }
    Ok((state, first.unwrap_or_default()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_store::{Entry, memory::MemoryStore};
    use hull_types::{flavor::Flavor, flavor::Resources, name::Name, units};

    use super::*;

    fn put(revision: u64) -> Batch {
        let id = uuid::Uuid::from_u128(u128::from(revision));
        let flavor = Flavor {
            id: id.into(),
            name: Name::new(&format!("f{revision}")).unwrap(),
            description: String::new(),
            resources: Resources { vcpus: 1, memory: units::Bytes::gib(1), disk: units::Bytes::ZERO },
            created_at: hull_types::Timestamp::UNIX_EPOCH,
        };
        let (modified, value) = (Revision(revision), serde_json::to_vec(&flavor).unwrap().into());
        let entry =
            Entry { key: Kind::Flavor.key(id).into(), value, created: modified, modified, version: 1, lease: None };
        Batch { revision: modified, changes: vec![Change::Put(entry)] }
    }

    #[tokio::test]
    async fn who_falls_too_far_behind_is_told_to_list_again() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let cache = Cache::load(&store).await.unwrap();
        let newest = LOG as u64 + 10;
        (1..=newest).for_each(|revision| cache.take(&put(revision)));
        assert_eq!(cache.now(), newest);
        assert_eq!(cache.since(9), Err(Behind));
        let (changed, upto) = cache.since(10).unwrap();
        assert_eq!((changed.len(), changed[0].revision, upto), (LOG, 11, newest));
        assert_eq!(cache.read(|state| state.flavors.len()), LOG + 10);
        assert!(cache.read(|state| state.flavors.named(None, "f3").is_some()));
    }

    #[tokio::test]
    async fn a_document_that_cannot_be_read_leaves_the_older_one() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let cache = Cache::load(&store).await.unwrap();
        cache.take(&put(1));
        let mut broken = put(1);
        let Change::Put(entry) = &mut broken.changes[0] else { unreachable!("it is a put") };
        entry.value = bytes::Bytes::from_static(b"{");
        broken.revision = Revision(2);
        cache.take(&broken);
        assert_eq!(cache.now(), 2);
        assert!(cache.read(|state| state.flavors.named(None, "f1").is_some()));
    }
}
