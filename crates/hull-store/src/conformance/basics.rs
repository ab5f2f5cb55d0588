//! Revisions, versions, conditions, atomicity, deletes, limits.

use super::{Subject, is_malformed};
use crate::{Compare, LeaseId, MAX_KEY, MAX_OPS, MAX_VALUE, Outcome, Revision, StoreError, Txn};

pub(super) async fn a_fresh_store_is_empty(s: &Subject) {
    assert_eq!(s.store.get("vm/1").await.unwrap(), None);
    let page = s.store.list("", None, 10).await.unwrap();
    assert!(page.entries.is_empty() && !page.more);
    assert_eq!(page.revision, s.store.revision().await.unwrap());
}

pub(super) async fn entries_remember_their_history(s: &Subject) {
    let created = s.commit(Txn::new().put("vm/1", "a")).await;
    let other = s.commit(Txn::new().put("vm/2", "x")).await;
    let modified = s.commit(Txn::new().put("vm/1", "b")).await;
    assert!(created < other && other < modified, "revisions rise with every transaction");
    assert_eq!(s.store.revision().await.unwrap(), modified);

    let entry = s.store.get("vm/1").await.unwrap().unwrap();
    assert_eq!((&*entry.key, &*entry.value, entry.lease), ("vm/1", &b"b"[..], None));
    assert_eq!((entry.created, entry.modified, entry.version), (created, modified, 2));

    s.commit(Txn::new().delete("vm/1")).await;
    assert_eq!(s.store.get("vm/1").await.unwrap(), None);
    let again = s.commit(Txn::new().put("vm/1", "c")).await;
    let entry = s.store.get("vm/1").await.unwrap().unwrap();
    assert_eq!((entry.created, entry.modified, entry.version), (again, again, 1), "a new life begins at version 1");
}

pub(super) async fn conditions_are_checked_in_order(s: &Subject) {
    let first = s.commit(Txn::new().put("k", "1")).await;
    let second = s.commit(Txn::new().put("k", "2")).await;
    let exists = |key: &str| Compare::Exists(key.into());
    let absent = |key: &str| Compare::Absent(key.into());
    let modified = |key: &str, revision| Compare::Modified(key.into(), revision);

    for holds in [exists("k"), absent("none"), modified("k", second)] {
        assert!(matches!(s.store.txn(Txn::new().when(holds)).await.unwrap(), Outcome::Committed(_)));
    }
    let failing = [
        exists("none"),
        absent("k"),
        modified("k", first),
        modified("k", Revision(second.0 + 1)),
        modified("none", second),
        modified("none", Revision(0)),
    ];
    for fails in failing {
        let txn = Txn::new().when(exists("k")).when(fails.clone()).when(absent("k")).put("k", "3");
        assert_eq!(s.store.txn(txn).await.unwrap(), Outcome::Conflict(1), "{fails:?} is the first that fails");
    }
    assert_eq!(s.store.get("k").await.unwrap().unwrap().modified, second, "a conflict changes nothing");
    assert_eq!(s.store.revision().await.unwrap(), second, "a conflict makes no revision");
}

pub(super) async fn a_transaction_happens_whole_or_not_at_all(s: &Subject) {
    s.commit(Txn::new().put("old", "x")).await;
    let txn = Txn::new().when(Compare::Absent("vm/1".into())).put("vm/1", "v").put("port/1", "p").delete("old");
    let revision = s.commit(txn.clone()).await;
    for key in ["vm/1", "port/1"] {
        let entry = s.store.get(key).await.unwrap().unwrap();
        assert_eq!(entry.modified, revision, "one transaction is one revision");
    }
    assert_eq!(s.store.get("old").await.unwrap(), None);

    assert_eq!(s.store.txn(txn).await.unwrap(), Outcome::Conflict(0));
    let unleased = Txn::new().put("vm/2", "v").put_leased("node/1", "n", LeaseId(987_654_321)).delete("vm/1");
    assert!(matches!(s.store.txn(unleased).await, Err(StoreError::NoLease(_))));
    assert_eq!(s.store.get("vm/2").await.unwrap(), None);
    assert!(s.store.get("vm/1").await.unwrap().is_some());
    assert_eq!(s.store.revision().await.unwrap(), revision);

    let doubtful = Txn::new().when(Compare::Exists("none".into())).put_leased("n", "n", LeaseId(987_654_321));
    assert_eq!(s.store.txn(doubtful).await.unwrap(), Outcome::Conflict(0), "conditions come before leases");
}

pub(super) async fn what_changes_nothing_makes_no_revision(s: &Subject) {
    let revision = s.commit(Txn::new().put("k", "v")).await;
    assert_eq!(s.commit(Txn::new()).await, revision);
    assert_eq!(s.commit(Txn::new().delete("none")).await, revision);
    assert_eq!(s.store.revision().await.unwrap(), revision);
    let same = s.commit(Txn::new().put("k", "v")).await;
    assert!(same > revision, "putting the same value again is a change");
}

pub(super) async fn malformed_transactions_are_refused(s: &Subject) {
    let long = "k".repeat(MAX_KEY + 1);
    let many = |n| (0..n).fold(Txn::new(), |txn, i| txn.put(format!("k{i}"), "v"));
    let guarded = (0..=MAX_OPS).fold(Txn::new(), |txn, i| txn.when(Compare::Absent(format!("k{i}").into())));
    let refused = [
        ("a key twice", Txn::new().put("a", "1").put("a", "2")),
        ("a key put and deleted", Txn::new().put("a", "1").delete("a")),
        ("an empty key", Txn::new().put("", "1")),
        ("an empty condition", Txn::new().when(Compare::Absent("".into())).put("a", "1")),
        ("a leading slash", Txn::new().put("/a", "1")),
        ("a NUL", Txn::new().put("a\0b", "1")),
        ("a long key", Txn::new().delete(long.as_str())),
        ("a long condition", Txn::new().when(Compare::Exists(long.as_str().into()))),
        ("a large value", Txn::new().put("a", vec![0; MAX_VALUE + 1])),
        ("large values", Txn::new().put("a", vec![0; MAX_VALUE]).put("b", "1")),
        ("many changes", many(MAX_OPS + 1)),
        ("many conditions", guarded),
    ];
    for (what, txn) in refused {
        assert!(is_malformed(&s.store.txn(txn).await), "{what} must be refused");
    }
    assert_eq!(s.store.get("a").await.unwrap(), None);
}

pub(super) async fn the_largest_transactions_fit(s: &Subject) {
    let key = "k".repeat(MAX_KEY);
    // A little room, for engines that count a request's framing.
    let value = vec![7; MAX_VALUE - 4096];
    s.commit(Txn::new().put(key.as_str(), value.clone())).await;
    assert_eq!(s.store.get(&key).await.unwrap().unwrap().value, value);

    let full = (0..MAX_OPS).fold(Txn::new(), |txn, i| {
        txn.when(Compare::Absent(format!("n/{i}").into())).put(format!("n/{i}"), vec![0, 255, 10])
    });
    s.commit(full).await;
    let page = s.store.list("n/", None, MAX_OPS + 1).await.unwrap();
    assert_eq!(page.entries.len(), MAX_OPS);
    assert!(page.entries.iter().all(|e| *e.value == [0, 255, 10]), "values are bytes, not text");
    s.commit(Txn::new().put("empty", "")).await;
    assert_eq!(s.store.get("empty").await.unwrap().unwrap().value.len(), 0);
}
