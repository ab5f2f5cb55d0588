//! The in-memory engine: the contract, and what the simulator adds to it.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use hull_store::{
    Outcome, Revision, Store, StoreError, Txn,
    conformance::{self, Subject},
    memory::{Fault, MemoryStore},
};

async fn subject() -> Subject {
    Subject {
        store: Arc::new(MemoryStore::new()),
        pass: Box::new(|time| tokio::time::sleep(time).boxed()),
        keep: Box::new(()),
    }
}

#[tokio::test(start_paused = true)]
async fn conforms_on_one_thread_with_time_paused() {
    conformance::run(subject).await;
}

#[tokio::test(start_paused = true)]
async fn agrees_with_the_model_on_many_seeds() {
    for seed in 0..100 {
        conformance::random_operations(&subject().await, seed).await;
    }
}

#[tokio::test]
async fn every_call_is_ready_at_once() {
    let store = MemoryStore::new();
    let outcome = store.txn(Txn::new().put("k", "v")).now_or_never().unwrap().unwrap();
    assert_eq!(outcome, Outcome::Committed(Revision(1)));
    assert!(store.get("k").now_or_never().unwrap().unwrap().is_some());
    assert_eq!(store.list("", None, 1).now_or_never().unwrap().unwrap().entries.len(), 1);
    let mut watch = store.watch("", Revision(0)).now_or_never().unwrap().unwrap();
    assert_eq!(watch.next().now_or_never().unwrap().unwrap().unwrap().revision, Revision(1));
    assert!(watch.next().now_or_never().is_none(), "nothing more has happened");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_watcher_sees_expiry_though_nobody_calls() {
    let store = MemoryStore::new();
    let lease = store.grant(Duration::from_secs(9)).await.unwrap();
    store.txn(Txn::new().put_leased("k", "v", lease)).await.unwrap();
    let start = tokio::time::Instant::now();
    let batch = store.watch("", Revision(1)).await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(batch.revision, Revision(2));
    assert_eq!(start.elapsed().as_secs(), 9, "at the deadline, not later");
}

#[tokio::test]
async fn faults_come_before_or_after_the_commit_in_order() {
    let store = MemoryStore::new();
    let lost = || StoreError::Engine("the connection broke".to_owned());
    store.fail_next(Fault::Before(lost()));
    store.fail_next(Fault::After(lost()));
    assert!(matches!(store.txn(Txn::new().put("a", "v")).await, Err(StoreError::Engine(_))));
    assert_eq!(store.get("a").await.unwrap(), None);
    assert!(matches!(store.txn(Txn::new().put("b", "v")).await, Err(StoreError::Engine(_))));
    assert!(store.get("b").await.unwrap().is_some(), "it happened, though the answer was lost");
    assert!(store.txn(Txn::new().put("c", "v")).await.is_ok());
}

#[tokio::test]
async fn a_cut_ends_open_watches_only() {
    let store = MemoryStore::new();
    let mut open = store.watch("", Revision(0)).await.unwrap();
    store.cut_watches();
    assert!(matches!(open.next().await, Some(Err(StoreError::Engine(_)))));
    assert!(open.next().await.is_none());
    store.txn(Txn::new().put("k", "v")).await.unwrap();
    assert!(store.watch("", Revision(0)).await.unwrap().next().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_watcher_behind_the_kept_history_must_list_again() {
    let store = MemoryStore::keeping(10);
    let mut slow = store.watch("", Revision(0)).await.unwrap();
    for i in 0..20 {
        store.txn(Txn::new().put("k", format!("{i}"))).await.unwrap();
    }
    assert!(matches!(slow.next().await, Some(Err(StoreError::Compacted(Revision(10))))));
    assert!(matches!(store.watch("", Revision(9)).await, Err(StoreError::Compacted(Revision(10)))));
}

#[tokio::test]
async fn watches_end_when_the_store_goes() {
    let store = MemoryStore::new();
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    drop(store);
    assert!(matches!(watch.next().await, Some(Err(StoreError::Closed))));
}
