//! Watches: no gap, no duplicate, in order, from any revision that history still holds.

use std::{collections::BTreeMap, sync::Arc};

use super::{Subject, commit, keys, next, until};
use crate::{Change, Result, Revision, Store, StoreError, Txn, Watch};

pub(super) async fn history_then_present_without_gap_or_duplicate(s: &Subject) {
    const BEFORE: usize = 40;
    const WRITERS: usize = 4;
    const EACH: usize = 50;
    for i in 0..BEFORE {
        s.commit(Txn::new().put(format!("k/{i}"), "v")).await;
    }
    let start = s.store.revision().await.unwrap();
    let middle = Revision(start.0 - BEFORE as u64 / 2);
    // Watches are opened before, while and after four writers write.
    let mut watches = vec![s.watch("k/", middle).await];
    let writers: Vec<_> = (0..WRITERS).map(|w| tokio::spawn(write(Arc::clone(&s.store), w, EACH))).collect();
    watches.push(s.watch("k/", middle).await);
    for writer in writers {
        writer.await.unwrap();
    }
    watches.push(s.watch("k/", middle).await);

    let end = s.store.revision().await.unwrap();
    assert_eq!(end.0 - start.0, (WRITERS * EACH) as u64);
    for mut watch in watches {
        let seen: Vec<u64> = until(&mut watch, end).await.iter().map(|b| b.revision.0).collect();
        assert_eq!(seen, (middle.0 + 1..=end.0).collect::<Vec<_>>(), "every revision once, in order");
    }
}

async fn write(store: Arc<dyn Store>, writer: usize, count: usize) {
    for i in 0..count {
        commit(&*store, Txn::new().put(format!("k/{writer}-{i}"), "v")).await;
    }
}

pub(super) async fn a_batch_is_one_transaction_in_key_order(s: &Subject) {
    let start = s.commit(Txn::new().put("k/b", "old").put("k/c", "old")).await;
    let mut live = s.watch("k/", start).await;
    let revision = s.commit(Txn::new().put("k/d", "new").delete("k/c").put("k/a", "new").delete("k/none")).await;
    let mut late = s.watch("k/", start).await;
    for watch in [&mut live, &mut late] {
        let batch = next(watch).await.unwrap();
        assert_eq!(batch.revision, revision);
        assert_eq!(keys(&batch), ["k/a", "-k/c", "k/d"], "absent keys are not deleted");
        let Change::Put(entry) = &batch.changes[0] else { panic!("k/a was put") };
        assert_eq!(Some(entry), s.store.get("k/a").await.unwrap().as_ref(), "watch and get agree");
    }
    // The next change is the next batch: the one above came once.
    let after = s.commit(Txn::new().delete("k/a")).await;
    for watch in [&mut live, &mut late] {
        assert_eq!(next(watch).await.unwrap().revision, after);
    }
}

pub(super) async fn only_the_prefix_is_seen(s: &Subject) {
    let start = s.store.revision().await.unwrap();
    let mut live = s.watch("a/", start).await;
    s.commit(Txn::new().put("b/1", "v")).await;
    s.commit(Txn::new().put("a/1", "v").put("b/2", "v").put("a", "v").put("a0", "v")).await;
    let last = s.commit(Txn::new().put("a/2", "v")).await;
    let mut late = s.watch("a/", start).await;
    for watch in [&mut live, &mut late] {
        let seen: Vec<_> = until(watch, last).await.iter().map(keys).collect();
        assert_eq!(seen, [["a/1"], ["a/2"]]);
    }
}

pub(super) async fn watching_from_the_future_skips_until_then(s: &Subject) {
    let now = s.store.revision().await.unwrap();
    let mut watch = s.watch("", Revision(now.0 + 2)).await;
    for key in ["1", "2", "3"] {
        s.commit(Txn::new().put(key, "v")).await;
    }
    assert_eq!(keys(&next(&mut watch).await.unwrap()), ["3"]);
}

pub(super) async fn compacted_history_is_refused_and_the_rest_replayed(s: &Subject) {
    let start = s.store.revision().await.unwrap();
    for i in 0..20 {
        s.commit(Txn::new().put(format!("k/{i}"), "v")).await;
    }
    let end = s.store.revision().await.unwrap();
    let cut = Revision(start.0 + 10);
    s.store.compact(cut).await.unwrap();
    s.store.compact(Revision(start.0 + 5)).await.unwrap();

    let Err(StoreError::Compacted(revision)) = first(s.store.watch("k/", Revision(cut.0 - 1)).await).await else {
        panic!("history before {cut:?} is gone")
    };
    assert!(revision >= cut, "the error says from where on history is held");
    let mut rest = s.watch("k/", cut).await;
    assert_eq!(until(&mut rest, end).await.len() as u64, end.0 - cut.0);
    assert_eq!(s.store.list("k/", None, 100).await.unwrap().entries.len(), 20, "values stay");
    assert_eq!(s.store.revision().await.unwrap(), end, "compaction is no change");

    assert!(s.store.compact(Revision(end.0 + 1)).await.is_err(), "what has not happened cannot be forgotten");
    s.store.compact(end).await.unwrap();
    let mut after = s.watch("k/", end).await;
    let revision = s.commit(Txn::new().delete("k/0")).await;
    assert_eq!(next(&mut after).await.unwrap().revision, revision);
}

/// A watch's first item, or the error it was refused with.
async fn first(watch: Result<Watch>) -> Result<crate::Batch> {
    next(&mut watch?).await
}

/// The way every cache is kept: list, then follow from the list's revision.
pub(super) async fn a_list_and_its_watch_make_a_true_copy(s: &Subject) {
    let churn = tokio::spawn(churn(Arc::clone(&s.store)));
    let page = s.store.list("k/", None, usize::MAX).await.unwrap();
    let mut copy: BTreeMap<_, _> = page.entries.into_iter().map(|e| (e.key.clone(), e)).collect();
    let mut watch = s.watch("k/", page.revision).await;
    let end = churn.await.unwrap();
    let mut seen = page.revision;
    while seen < end {
        let batch = next(&mut watch).await.unwrap();
        seen = batch.revision;
        for change in batch.changes {
            match change {
                Change::Put(entry) => drop(copy.insert(entry.key.clone(), entry)),
                Change::Delete(key) => assert!(copy.remove(&key).is_some(), "{key} was deleted, but never seen"),
            }
        }
    }
    let now = s.store.list("k/", None, usize::MAX).await.unwrap();
    assert_eq!(copy.into_values().collect::<Vec<_>>(), now.entries);
}

async fn churn(store: Arc<dyn Store>) -> Revision {
    let mut last = Revision(0);
    for i in 0..100_usize {
        let txn = Txn::new().put(format!("k/{}", i % 10), format!("{i}")).delete(format!("k/{}", (i * 7 + 3) % 10));
        // A key both put and deleted would be malformed.
        let txn = if i % 10 == (i * 7 + 3) % 10 { Txn::new().delete(format!("k/{}", i % 10)) } else { txn };
        last = commit(&*store, txn.put("k/last", "v")).await;
        tokio::task::yield_now().await;
    }
    last
}
