//! The only place that remembers: a revisioned key-value store, small enough that etcd and one SQLite file are both it.
//!
//! The model is etcd's. Every committed transaction advances one global [`Revision`]; every key remembers the revision
//! that created it, the one that last changed it, and how often it was changed. A [`Store::watch`] replays every change
//! after a revision, in order, without gaps, or says that the history was compacted and the watcher must list again.
//!
//! Engines: [`embedded`] (SQLite, WAL, full durability, group commit) and [`memory`] (the simulator's). Both pass
//! [`conformance`]; so will etcd's.

mod clock;
pub mod conformance;
pub mod embedded;
mod feed;
pub mod json;
pub mod memory;
mod rules;

pub use clock::{Clock, ManualClock, Monotonic};
pub use rules::{MAX_KEY, MAX_OPS, MAX_VALUE};

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use hull_types::error::ErrorKind;

/// A point in the store's history. Revision 0 is the empty store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// Keys are UTF-8 paths without a leading slash, `vm/0192…`. Ordered bytewise.
pub type Key = Arc<str>;

/// A lease's id. Keys put under a lease vanish when it expires or is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A key with its value and history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub created: Revision,
    /// The revision that last changed it.
    pub modified: Revision,
    /// How often it was put since it was created, from 1.
    pub version: u64,
    /// The lease it hangs on.
    pub lease: Option<LeaseId>,
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries, in key order.
    pub entries: Vec<Entry>,
    /// Whether there are more after the last.
    pub more: bool,
    /// The store's revision as the page was read.
    pub revision: Revision,
}

/// A condition on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key is there.
    Exists(Key),
    /// The key is not there.
    Absent(Key),
    /// The key is there and was last changed at exactly this revision.
    Modified(Key, Revision),
}

impl Compare {
    /// The key it looks at.
    pub fn key(&self) -> &Key {
        match self {
            Self::Exists(key) | Self::Absent(key) | Self::Modified(key, _) => key,
        }
    }
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets the value. `None` as lease detaches the key from any.
    Put {
        /// The key.
        key: Key,
        /// The new value.
        value: Bytes,
        /// The lease the key hangs on from now.
        lease: Option<LeaseId>,
    },
    /// Removes the key; nothing happens where it is absent.
    Delete(Key),
}

impl Op {
    /// The key it changes.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// Changes that happen together, or not at all, if all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// The changes, at most one a key.
    pub ops: Vec<Op>,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds a put without a lease.
    #[must_use]
    pub fn put(mut self, key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Adds a put under a lease.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<Key>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) });
        self
    }

    /// Adds a delete.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Key>) -> Self {
        self.ops.push(Op::Delete(key.into()));
        self
    }
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable; its changes carry this revision. A transaction that changes nothing (no changes, or only
    /// deletes of absent keys) makes no revision and answers the newest.
    Committed(Revision),
    /// A condition did not hold; nothing changed. The first that failed, by its place in [`Txn::compares`].
    Conflict(usize),
}

/// One change, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key was put.
    Put(Entry),
    /// A key was deleted, or its lease ended.
    Delete(Key),
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete(key) => key,
        }
    }
}

/// All changes of one transaction under the watched prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The transaction's revision.
    pub revision: Revision,
    /// Its changes, in key order.
    pub changes: Vec<Change>,
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// History before this revision is gone: list again, then watch from the list's revision.
    #[error("the history before revision {0:?} was compacted; list again")]
    Compacted(Revision),
    /// The transaction breaks the store's rules (a key twice, empty or oversized key or value).
    #[error("the transaction is malformed: {0}")]
    Malformed(String),
    /// No such lease, or it has expired.
    #[error("lease {0:?} is unknown or has expired")]
    NoLease(LeaseId),
    /// Another process holds the data directory.
    #[error("{path} is in use by another Hull (process {holder}); stop it first, or name another data directory")]
    Locked {
        /// The locked file.
        path: String,
        /// Its holder's process id, or `?`.
        holder: String,
    },
    /// The database is damaged.
    #[error("{path} is damaged: {why}; restore the newest backup with `hull store restore`")]
    Corrupt {
        /// The file.
        path: String,
        /// What the check found.
        why: String,
    },
    /// The disk is full.
    #[error("the disk that holds {0} is full; free some space, nothing acknowledged is lost")]
    Full(String),
    /// A value is not the document its reader expects.
    #[error("{key} does not hold the document expected there: {why}")]
    Document {
        /// The key.
        key: String,
        /// What the parser found.
        why: String,
    },
    /// The data was written by a newer Hull.
    #[error(
        "{path} was written by a newer Hull (schema {found}; this one reads up to {known}); run that version or newer"
    )]
    Newer {
        /// The file.
        path: String,
        /// Its schema.
        found: u64,
        /// The newest schema known here.
        known: u64,
    },
    /// Anything else of the engine's. A transaction that ends so may or may not have happened.
    #[error("the store failed: {0}")]
    Engine(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl From<StoreError> for hull_types::error::Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Compacted(_) | StoreError::Closed => ErrorKind::Unavailable,
            StoreError::NoLease(_) | StoreError::Locked { .. } => ErrorKind::Conflict,
            StoreError::Full(_) => ErrorKind::InsufficientResources,
            StoreError::Newer { .. } => ErrorKind::Unsupported,
            StoreError::Malformed(_)
            | StoreError::Corrupt { .. }
            | StoreError::Document { .. }
            | StoreError::Engine(_) => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

/// What stores answer.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A stream of batches in order; ends after the first error.
pub type Watch = BoxStream<'static, Result<Batch>>;

/// The store. Cheap to share; every call may be made from any task.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest committed revision, linearizably.
    async fn revision(&self) -> Result<Revision>;

    /// One key.
    async fn get(&self, key: &str) -> Result<Option<Entry>>;

    /// Keys that start with `prefix`, after `after` (exclusive; a whole key) where given, at most `limit`.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page>;

    /// Commits all of `txn` or nothing; returns once the outcome is durable.
    ///
    /// Dropping the future does not take the transaction back. After [`StoreError::Engine`] or [`StoreError::Closed`]
    /// it may have happened; after any other error it has not.
    async fn txn(&self, txn: Txn) -> Result<Outcome>;

    /// Every batch that touches `prefix` with a revision above `after`, from history and then as they happen.
    /// Fails, here or in the stream, with [`StoreError::Compacted`] where that history is gone or the watcher falls
    /// too far behind.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch>;

    /// Forgets history up to and including `upto`. Current values stay. Again, or further back, is no error;
    /// beyond the newest revision is.
    async fn compact(&self, upto: Revision) -> Result<()>;

    /// Makes a lease that expires `ttl` after the last [`Store::keep_alive`].
    async fn grant(&self, ttl: Duration) -> Result<LeaseId>;

    /// Renews a lease.
    async fn keep_alive(&self, lease: LeaseId) -> Result<()>;

    /// Ends a lease now and deletes its keys.
    async fn revoke(&self, lease: LeaseId) -> Result<()>;
}
