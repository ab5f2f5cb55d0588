//! Leases. Times to live are long enough for engines that count in whole seconds.

use std::time::Duration;

use super::{Subject, keys, next};
use crate::{Change, LeaseId, StoreError, Txn};

const TTL: Duration = Duration::from_secs(10);

pub(super) async fn an_expired_lease_takes_its_keys(s: &Subject) {
    let lease = s.store.grant(TTL).await.unwrap();
    let start = s.commit(Txn::new().put_leased("node/2", "b", lease).put_leased("node/1", "a", lease)).await;
    s.commit(Txn::new().put("node/3", "stays")).await;
    assert_eq!(s.store.get("node/1").await.unwrap().unwrap().lease, Some(lease));
    let mut watch = s.watch("node/", start).await;
    assert_eq!(keys(&next(&mut watch).await.unwrap()), ["node/3"]);

    (s.pass)(TTL * 2).await;
    let batch = next(&mut watch).await.unwrap();
    assert_eq!(keys(&batch), ["-node/1", "-node/2"], "expiry is one ordinary transaction");
    assert!(batch.changes.iter().all(|c| matches!(c, Change::Delete(_))));
    assert_eq!(s.store.get("node/1").await.unwrap(), None);
    assert!(s.store.revision().await.unwrap() >= batch.revision);
    assert!(s.store.get("node/3").await.unwrap().is_some());

    let late = s.store.txn(Txn::new().put_leased("node/4", "v", lease)).await;
    assert!(matches!(late, Err(StoreError::NoLease(id)) if id == lease), "a dead lease holds nothing");
    assert!(matches!(s.store.keep_alive(lease).await, Err(StoreError::NoLease(_))));
}

pub(super) async fn a_lease_lives_while_kept_alive(s: &Subject) {
    let kept = s.store.grant(TTL).await.unwrap();
    let left = s.store.grant(TTL).await.unwrap();
    assert_ne!(kept, left);
    let start = s.commit(Txn::new().put_leased("kept", "v", kept).put_leased("left", "v", left)).await;
    let mut watch = s.watch("", start).await;
    for _ in 0..6 {
        (s.pass)(TTL / 2).await;
        s.store.keep_alive(kept).await.unwrap();
    }
    assert_eq!(keys(&next(&mut watch).await.unwrap()), ["-left"]);
    assert!(s.store.get("kept").await.unwrap().is_some());
    (s.pass)(TTL * 2).await;
    assert_eq!(keys(&next(&mut watch).await.unwrap()), ["-kept"]);
}

pub(super) async fn a_lease_may_be_as_good_as_eternal(s: &Subject) {
    // About etcd's longest.
    let lease = s.store.grant(Duration::from_secs(8_000_000_000)).await.unwrap();
    s.commit(Txn::new().put_leased("k", "v", lease)).await;
    (s.pass)(TTL * 2).await;
    s.store.keep_alive(lease).await.unwrap();
    assert!(s.store.get("k").await.unwrap().is_some());
}

pub(super) async fn revoking_deletes_at_once(s: &Subject) {
    let lease = s.store.grant(TTL).await.unwrap();
    let start = s.commit(Txn::new().put_leased("a", "v", lease).put("b", "v")).await;
    s.store.revoke(lease).await.unwrap();
    assert_eq!(s.store.get("a").await.unwrap(), None);
    assert!(s.store.get("b").await.unwrap().is_some());
    assert_eq!(keys(&next(&mut s.watch("", start).await).await.unwrap()), ["-a"]);
    assert!(matches!(s.store.revoke(lease).await, Err(StoreError::NoLease(_))));

    let before = s.store.revision().await.unwrap();
    let empty = s.store.grant(TTL).await.unwrap();
    s.store.revoke(empty).await.unwrap();
    assert_eq!(s.store.revision().await.unwrap(), before, "a lease without keys leaves no trace in history");
}

pub(super) async fn a_put_moves_a_key_between_leases(s: &Subject) {
    let (one, two) = (s.store.grant(TTL).await.unwrap(), s.store.grant(TTL).await.unwrap());
    s.commit(Txn::new().put_leased("moved", "v", one).put_leased("freed", "v", one)).await;
    s.commit(Txn::new().put_leased("moved", "v", two).put("freed", "v")).await;
    s.store.revoke(one).await.unwrap();
    assert_eq!(s.store.get("moved").await.unwrap().unwrap().lease, Some(two));
    assert_eq!(s.store.get("freed").await.unwrap().unwrap().lease, None);

    s.commit(Txn::new().delete("moved")).await;
    s.commit(Txn::new().put("moved", "again")).await;
    s.store.revoke(two).await.unwrap();
    assert!(s.store.get("moved").await.unwrap().is_some(), "a deleted key has left its lease");
}

pub(super) async fn unknown_leases_are_named(s: &Subject) {
    let unknown = LeaseId(123_456_789);
    let names_it = |e: StoreError| matches!(e, StoreError::NoLease(id) if id == unknown);
    assert!(names_it(s.store.keep_alive(unknown).await.unwrap_err()));
    assert!(names_it(s.store.revoke(unknown).await.unwrap_err()));
    assert!(names_it(s.store.txn(Txn::new().put_leased("k", "v", unknown)).await.unwrap_err()));
}
