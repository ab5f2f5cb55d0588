//! The embedded engine: the contract, and what it adds: group commit, restarts, backups, and the disk's troubles.
#![allow(clippy::unwrap_used)]

use std::{path::Path, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::join_all};
use hull_store::{
    Compare, ManualClock, Outcome, Revision, Store, StoreError, Txn,
    conformance::{self, PATIENCE, Subject},
    embedded::{EmbeddedStore, Options, list_backups, restore, verify_backup},
};

const TTL: Duration = Duration::from_secs(10);

fn quiet() -> Options {
    Options { backup_every: None, ..Options::default() }
}

fn open(dir: &Path) -> Arc<EmbeddedStore> {
    EmbeddedStore::open(dir, quiet()).unwrap()
}

async fn put(store: &dyn Store, key: &str, value: impl Into<bytes::Bytes>) -> Revision {
    match store.txn(Txn::new().put(key, value)).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(_) => unreachable!("there is no condition"),
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}

async fn subject_with(options: Options) -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::default();
    let options = Options { clock: Arc::new(clock.clone()), ..options };
    let store = EmbeddedStore::open(dir.path(), options).unwrap();
    Subject {
        store,
        pass: Box::new(move |time| {
            clock.advance(time);
            std::future::ready(()).boxed()
        }),
        keep: Box::new(dir),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    conformance::run(|| subject_with(quiet())).await;
}

#[tokio::test(flavor = "current_thread")]
async fn conforms_on_one_thread_and_while_backups_are_made() {
    let busy = Options { backup_every: Some(Duration::from_millis(20)), keep_backups: 2, ..Options::default() };
    conformance::run(|| subject_with(busy.clone())).await;
}

#[tokio::test]
async fn transactions_that_wait_together_share_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let txns = (0..500).map(|i| store.txn(Txn::new().put(format!("k/{i}"), "v")));
    let outcomes = join_all(txns).await;
    let mut revisions: Vec<_> = outcomes.into_iter().map(|o| o.unwrap()).collect();
    revisions.dedup();
    assert_eq!(revisions.len(), 500, "each has a revision of its own");
    let stats = store.stats();
    assert_eq!(stats.requests, 500);
    assert!(stats.commits < 100, "500 transactions took {} commits", stats.commits);
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let start = put(&*store, "a", "1").await;
    put(&*store, "a", "2").await;
    let last = put(&*store, "b", "").await;
    let before = store.list("", None, 10).await.unwrap();
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.list("", None, 10).await.unwrap(), before);
    let replay: Vec<_> = store.watch("", start).await.unwrap().take(2).collect().await;
    assert_eq!(replay.last().unwrap().as_ref().unwrap().revision, last, "history is there too");
    assert!(put(&*store, "c", "3").await > last);
}

#[tokio::test]
async fn after_a_restart_leases_get_their_whole_time_anew() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::default();
    let options = || Options { clock: Arc::new(clock.clone()), ..quiet() };
    let store = EmbeddedStore::open(dir.path(), options()).unwrap();
    let lease = store.grant(TTL).await.unwrap();
    store.txn(Txn::new().put_leased("node/1", "v", lease)).await.unwrap();
    drop(store);

    clock.advance(TTL * 100);
    let store = EmbeddedStore::open(dir.path(), options()).unwrap();
    assert!(store.get("node/1").await.unwrap().is_some(), "nobody could renew it while the store was away");
    clock.advance(TTL / 2);
    store.keep_alive(lease).await.unwrap();
    let mut watch = store.watch("node/", store.revision().await.unwrap()).await.unwrap();
    clock.advance(TTL);
    within(watch.next()).await.unwrap().unwrap();
    assert_eq!(store.get("node/1").await.unwrap(), None);
    assert_ne!(store.grant(Duration::MAX).await.unwrap(), lease, "ids are not used again");
}

#[tokio::test]
async fn a_directory_belongs_to_one_store_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let Err(StoreError::Locked { path, holder }) = EmbeddedStore::open(dir.path(), quiet()) else {
        panic!("it is open already")
    };
    assert!(path.ends_with("LOCK"));
    assert_eq!(holder, std::process::id().to_string());
    assert!(matches!(restore(dir.path(), "any"), Err(StoreError::Locked { .. })));

    let mut watch = store.watch("", Revision(0)).await.unwrap();
    store.close();
    assert!(matches!(within(watch.next()).await, Some(Err(StoreError::Closed))));
    assert!(matches!(store.get("k").await, Err(StoreError::Closed)));
    assert!(matches!(store.txn(Txn::new()).await, Err(StoreError::Closed)));
    put(&*open(dir.path()), "k", "v").await;
}

#[tokio::test]
async fn old_history_is_forgotten_by_itself_and_a_slow_watcher_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), Options { keep_revisions: 100, ..quiet() }).unwrap();
    let mut slow = store.watch("", Revision(0)).await.unwrap();
    join_all((0..1000).map(|i| store.txn(Txn::new().put("k", format!("{i}"))))).await;
    // What the feed still holds is delivered; a new watcher, or one after a restart, needs the database.
    assert!(matches!(store.watch("", Revision(0)).await, Err(StoreError::Compacted(r)) if r >= Revision(800)));
    assert_eq!(within(slow.next()).await.unwrap().unwrap().revision, Revision(1));
    let recent = Revision(store.revision().await.unwrap().0 - 100);
    drop(store);
    let store = open(dir.path());
    let seen: Vec<_> = within(store.watch("", recent).await.unwrap().take(100).collect()).await;
    assert!(seen.iter().all(Result::is_ok), "the newest hundred are kept");
}

#[tokio::test]
async fn history_is_bounded_in_bytes_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), Options { keep_bytes: 1024 * 1024, ..quiet() }).unwrap();
    for _ in 0..200 {
        put(&*store, "k", vec![1; 64 * 1024]).await;
    }
    store.close();
    let size = std::fs::metadata(dir.path().join("hull.db")).unwrap().len();
    assert!(size < 4 * 1024 * 1024, "{size} bytes for one key and a mebibyte of history");
    let store = open(dir.path());
    assert!(store.watch("", Revision(198)).await.is_ok(), "the newest history is kept");
}

/// The feed holds 4 MiB; what a slow watcher missed beyond that comes from the database.
#[tokio::test]
async fn a_slow_watcher_is_served_from_history() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let slow = store.watch("big/", Revision(0)).await.unwrap();
    for i in 0..600 {
        let noise = Txn::new().put(format!("big/{i}"), vec![1; 16 * 1024]).put("noise", "v");
        store.txn(noise).await.unwrap();
    }
    let seen: Vec<_> = within(slow.take(600).collect()).await;
    let revisions: Vec<u64> = seen.into_iter().map(|b| b.unwrap().revision.0).collect();
    assert_eq!(revisions, (1..=600).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_store_refuses_writes_and_works_again_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let small = Options { max_bytes: Some(2 * 1024 * 1024), ..quiet() };
    let store = EmbeddedStore::open(dir.path(), small).unwrap();
    let mut kept = Vec::new();
    let full = loop {
        let key = format!("k/{}", kept.len());
        match store.txn(Txn::new().put(key.as_str(), vec![7; 100 * 1024])).await {
            Ok(_) => kept.push(key),
            Err(e) => break e,
        }
    };
    assert!(matches!(full, StoreError::Full(_)), "{full}");
    assert!(kept.len() > 10, "history gave way before values: {}", kept.len());
    assert!(store.get(&format!("k/{}", kept.len())).await.unwrap().is_none(), "the refused one left nothing");
    // In one group, what fits is done though its neighbours do not fit.
    let large = (0..3).map(|i| store.txn(Txn::new().put(format!("large/{i}"), vec![7; 1024 * 1024])));
    let delete = store.txn(kept.iter().fold(Txn::new(), |txn, key| txn.delete(key.as_str())));
    let (large, deleted) = futures::join!(join_all(large), delete);
    assert!(large.iter().any(|r| matches!(r, Err(StoreError::Full(_)))));
    assert!(matches!(deleted, Ok(Outcome::Committed(_))));
    put(&*store, "after", vec![7; 100 * 1024]).await;
    drop(store);
    assert!(open(dir.path()).get("after").await.unwrap().is_some());
}

#[tokio::test]
async fn a_backup_is_made_while_writes_go_on_and_restores_to_its_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let before = put(&*store, "name", "before").await;
    join_all((0..200).map(|i| store.txn(Txn::new().put(format!("k/{i}"), vec![1; 4096])))).await;
    let copy = dir.path().join("copy.db");
    let writes =
        join_all((0..200).map(|i| store.txn(Txn::new().put(format!("m/{i}"), "v").put(format!("n/{i}"), "v"))));
    let (held, _) = futures::join!(store.backup(&copy), writes);
    let held = held.unwrap();
    assert_eq!(verify_backup(&copy).unwrap(), held);
    put(&*store, "name", "after").await;
    let end = store.revision().await.unwrap();
    drop(store);

    let revision = restore(dir.path(), &copy).unwrap();
    assert!(revision > end, "no revision names two states");
    assert!(dir.path().join("hull.db.replaced").exists(), "what was there is set aside");
    let store = open(dir.path());
    let entry = store.get("name").await.unwrap().unwrap();
    assert_eq!((&*entry.value, entry.modified), (&b"before"[..], before));
    let (m, n) = (store.list("m/", None, 999).await.unwrap(), store.list("n/", None, 999).await.unwrap());
    assert_eq!(m.entries.len(), n.entries.len(), "a transaction is in the backup whole or not at all");
    assert!(matches!(store.watch("", end).await, Err(StoreError::Compacted(_))), "watchers must list again");
    let unchanged = Compare::Modified("name".into(), before);
    assert!(matches!(store.txn(Txn::new().when(unchanged).put("name", "new")).await, Ok(Outcome::Committed(_))));
}

#[tokio::test]
async fn a_damaged_database_is_named_and_the_automatic_backup_restores_it() {
    let dir = tempfile::tempdir().unwrap();
    let often = Options { backup_every: Some(Duration::from_millis(10)), keep_backups: 3, ..Options::default() };
    let store = EmbeddedStore::open(dir.path(), often).unwrap();
    for i in 0..5 {
        let revision = put(&*store, &format!("vm/{i}"), vec![i; 10_000]).await;
        let backed_up = async {
            while store.backups().unwrap().first().is_none_or(|b| b.revision < revision) {
                tokio::task::yield_now().await;
            }
        };
        within(backed_up).await;
    }
    drop(store);
    let backups = list_backups(dir.path()).unwrap();
    assert!(backups.len() <= 3, "old ones go");
    assert!(backups.is_sorted_by(|a, b| a.number > b.number));

    let path = dir.path().join("hull.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[4096..middle].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let error = EmbeddedStore::open(dir.path(), quiet()).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { path, .. } if path.ends_with("hull.db")), "{error}");
    assert!(error.to_string().contains("hull store restore"), "it says what to do: {error}");

    std::fs::remove_file(&path).unwrap();
    let error = EmbeddedStore::open(dir.path(), quiet()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "a missing one is not replaced by an empty one: {error}");

    restore(dir.path(), &backups[0].path).unwrap();
    let found = open(dir.path()).list("vm/", None, 10).await.unwrap().entries;
    assert_eq!(found.len(), 5, "the newest backup held all");
}

#[tokio::test]
async fn a_changed_byte_in_a_value_is_found_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&*store, "vm/1", "a document that is long enough to be found in the file").await;
    let other = put(&*store, "vm/2", "another").await;
    store.compact(other).await.unwrap();
    drop(store);
    let path = dir.path().join("hull.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let places: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(b"long enough")).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at] ^= 1);
    std::fs::write(&path, bytes).unwrap();

    let store = open(dir.path());
    let error = store.get("vm/1").await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }) && error.to_string().contains("vm/1"), "{error}");
    assert!(matches!(store.list("vm/", None, 10).await, Err(StoreError::Corrupt { .. })));
    assert!(store.get("vm/2").await.unwrap().is_some());
    let copy = dir.path().join("copy.db");
    assert!(matches!(store.backup(&copy).await, Err(StoreError::Corrupt { .. })), "damage is not backed up");
    assert!(!copy.exists());
}

#[tokio::test]
async fn files_of_others_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    put(&*open(dir.path()), "k", "v").await;
    let path = dir.path().join("hull.db");
    let pragma = |name: &str, value: i64| {
        rusqlite::Connection::open(&path).unwrap().pragma_update(None, name, value).unwrap();
    };
    pragma("user_version", 7);
    let error = EmbeddedStore::open(dir.path(), quiet()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 7, known: 1, .. }), "{error}");
    pragma("user_version", 1);
    pragma("application_id", 7);
    let error = EmbeddedStore::open(dir.path(), quiet()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    std::fs::write(&path, "a letter to my landlord, rather long, but no database".repeat(100)).unwrap();
    let error = EmbeddedStore::open(dir.path(), quiet()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    let error = restore(dir.path(), &path).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "a bad backup restores nothing: {error}");
}
