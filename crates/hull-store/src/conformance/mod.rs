//! What a store is, as one suite that every engine runs unchanged.
//!
//! An engine's test calls [`run`] with a way to make an empty store and to let time pass. Each check gets a fresh one.
//! Nothing here sleeps to wait: a check awaits the thing itself, and gives up after [`PATIENCE`].
//!
//! ```text
//! basics      revisions, versions, conditions, atomicity, deletes, limits
//! pages       prefixes and keyset pages, also while keys come and go
//! watching    no gap, no duplicate, order, compaction
//! leases      expiry, keep-alive, revocation
//! concurrency counters by compare-and-swap, a linearizability checker over concurrent histories
//! model       random operations against a plain model
//! ```
// This is a test suite: a failed unwrap is a failed check, and the panic names its place.
#![allow(clippy::unwrap_used)]

mod basics;
mod concurrency;
mod leases;
mod linearizable;
mod model;
mod pages;
mod random;
mod watching;

use std::{any::Any, future::Future, sync::Arc, time::Duration};

pub use model::random_operations;

use futures::{FutureExt, StreamExt, future::BoxFuture};

use crate::{Batch, Change, Outcome, Result, Revision, Store, StoreError, Txn, Watch};

/// How long a check waits for what must happen, on a machine however busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An empty store under test.
pub struct Subject {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Lets this much of the time that leases go by pass.
    pub pass: Box<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>,
    /// What must live as long as the store: its directory, its server.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// Runs every check, each on a store that `make` makes.
///
/// # Panics
/// Where the engine breaks the contract; the panic's place is the assertion.
pub async fn run<F, Fut>(make: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Subject>,
{
    macro_rules! checks {
        ($($module:ident :: $check:ident),* $(,)?) => {$(
            tracing::info!(check = concat!(stringify!($module), "::", stringify!($check)), "conformance");
            let subject = make().await;
            $module::$check(&subject).boxed_local().await;
        )*};
    }
    checks! {
        basics::a_fresh_store_is_empty,
        basics::entries_remember_their_history,
        basics::conditions_are_checked_in_order,
        basics::a_transaction_happens_whole_or_not_at_all,
        basics::what_changes_nothing_makes_no_revision,
        basics::malformed_transactions_are_refused,
        basics::the_largest_transactions_fit,
        pages::prefixes_are_exact,
        pages::pages_join_without_gap_or_overlap,
        pages::pages_stay_whole_while_keys_come_and_go,
        watching::history_then_present_without_gap_or_duplicate,
        watching::a_batch_is_one_transaction_in_key_order,
        watching::only_the_prefix_is_seen,
        watching::watching_from_the_future_skips_until_then,
        watching::compacted_history_is_refused_and_the_rest_replayed,
        watching::a_list_and_its_watch_make_a_true_copy,
        leases::an_expired_lease_takes_its_keys,
        leases::a_lease_lives_while_kept_alive,
        leases::a_lease_may_be_as_good_as_eternal,
        leases::revoking_deletes_at_once,
        leases::a_put_moves_a_key_between_leases,
        leases::unknown_leases_are_named,
        concurrency::no_update_is_lost,
        concurrency::one_creator_wins,
        concurrency::concurrent_histories_are_linearizable,
        model::random_operations_agree_with_the_model,
    }
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").finish_non_exhaustive()
    }
}

impl Subject {
    /// Commits, or fails the check.
    async fn commit(&self, txn: Txn) -> Revision {
        commit(&*self.store, txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Watch {
        self.store.watch(prefix, after).await.unwrap()
    }
}

async fn commit(store: &dyn Store, txn: Txn) -> Revision {
    match store.txn(txn).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(place) => panic!("condition {place} failed, though it holds"),
    }
}

/// The watch's next item.
async fn next(watch: &mut Watch) -> Result<Batch> {
    let item = tokio::time::timeout(PATIENCE, watch.next()).await;
    item.expect("the watch delivers in time").expect("the watch goes on")
}

/// Batches up to and including revision `upto`.
async fn until(watch: &mut Watch, upto: Revision) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    while batches.last().is_none_or(|b| b.revision < upto) {
        batches.push(next(watch).await.unwrap());
    }
    assert_eq!(batches.last().unwrap().revision, upto, "the watch stepped over revision {upto:?}");
    batches
}

/// A batch's keys, deleted ones with a minus before them.
fn keys(batch: &Batch) -> Vec<String> {
    let name = |change: &Change| match change {
        Change::Put(entry) => entry.key.to_string(),
        Change::Delete(key) => format!("-{key}"),
    };
    batch.changes.iter().map(name).collect()
}

fn is_malformed<T>(result: &Result<T>) -> bool {
    matches!(result, Err(StoreError::Malformed(_)))
}
