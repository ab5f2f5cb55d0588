//! A store that can be told to fail.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use hull_store::{Entry, LeaseId, Outcome, Page, Result, Revision, Store, StoreError, Txn, Watch, memory::MemoryStore};

/// Fails transactions that touch keys of a prefix.
#[derive(Default)]
pub(crate) struct Stubborn {
    store: MemoryStore,
    refused: Mutex<Option<String>>,
}

impl Stubborn {
    pub(crate) fn refuse(&self, prefix: &str) {
        self.set(Some(prefix.to_owned()));
    }

    pub(crate) fn allow(&self) {
        self.set(None);
    }

    fn set(&self, prefix: Option<String>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = prefix;
    }
}

#[async_trait]
impl Store for Stubborn {
    async fn revision(&self) -> Result<Revision> {
        self.store.revision().await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        self.store.list(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match refused {
            Some(prefix) if txn.ops.iter().any(|op| op.key().starts_with(&prefix)) => {
                Err(StoreError::Engine("the disk is gone".into()))
            }
            _ => self.store.txn(txn).await,
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        self.store.watch(prefix, after).await
    }

    async fn compact(&self, upto: Revision) -> Result<()> {
        self.store.compact(upto).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.store.revoke(lease).await
    }
}
