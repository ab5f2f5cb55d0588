//! The store as one life of the server reaches it: calls take time, and none comes back once that life is over, so a
//! server may die before a commit, or after it and before it learns of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use hull_store::{Entry, LeaseId, Outcome, Page, Result, Revision, Store, Txn, Watch, memory::MemoryStore};

use crate::{fate::Fate, fuse::Fuse};

/// The longest a commit takes to reach the disk.
const COMMIT: Duration = Duration::from_millis(40);

/// A store that can be taken away.
pub struct LifeStore {
    store: Arc<MemoryStore>,
    fate: Arc<Fate>,
    fuse: Arc<Fuse>,
    open: AtomicBool,
}

impl LifeStore {
    /// This store, for a life that begins, and ends at the latest when the fuse burns through.
    pub fn new(store: Arc<MemoryStore>, fate: Arc<Fate>, fuse: Arc<Fuse>) -> Self {
        Self { store, fate, fuse, open: AtomicBool::new(true) }
    }

    /// That life is over.
    pub fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    async fn alive(&self) {
        if self.fuse.burns() {
            self.close();
        }
        if !self.open.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Store for LifeStore {
    async fn revision(&self) -> Result<Revision> {
        self.alive().await;
        self.store.revision().await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.alive().await;
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        self.alive().await;
        self.store.list(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome> {
        self.alive().await;
        self.fate.takes(COMMIT).await;
        self.alive().await;
        let outcome = self.store.txn(txn).await;
        self.fate.takes(COMMIT).await;
        self.alive().await;
        outcome
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        self.alive().await;
        self.store.watch(prefix, after).await
    }

    async fn compact(&self, upto: Revision) -> Result<()> {
        self.alive().await;
        // The simulation reads all history itself, every revision of it.
        let _ = upto;
        Ok(())
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.alive().await;
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.alive().await;
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.alive().await;
        self.store.revoke(lease).await
    }
}
