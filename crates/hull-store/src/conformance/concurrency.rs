//! Many clients at once.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::future::join_all;

use super::{
    Subject, commit,
    linearizable::{Call, Seen, is_linearizable},
    random::Random,
};
use crate::{Compare, Outcome, Revision, Store, Txn};

async fn join<T: 'static>(tasks: impl IntoIterator<Item = tokio::task::JoinHandle<T>>) -> Vec<T> {
    join_all(tasks).await.into_iter().map(|task| task.unwrap()).collect()
}

pub(super) async fn no_update_is_lost(s: &Subject) {
    const CLIENTS: u64 = 8;
    const EACH: u64 = 25;
    s.commit(Txn::new().put("counter", "0")).await;
    join((0..CLIENTS).map(|_| tokio::spawn(count(Arc::clone(&s.store), EACH)))).await;
    let entry = s.store.get("counter").await.unwrap().unwrap();
    assert_eq!(&*entry.value, (CLIENTS * EACH).to_string().as_bytes());
    assert_eq!(entry.version, CLIENTS * EACH + 1);
}

async fn count(store: Arc<dyn Store>, times: u64) {
    let mut done = 0;
    while done < times {
        let entry = store.get("counter").await.unwrap().unwrap();
        let value: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
        let unchanged = Compare::Modified("counter".into(), entry.modified);
        let outcome = store.txn(Txn::new().when(unchanged).put("counter", (value + 1).to_string())).await.unwrap();
        done += u64::from(matches!(outcome, Outcome::Committed(_)));
        tokio::task::yield_now().await;
    }
}

pub(super) async fn one_creator_wins(s: &Subject) {
    let attempts = (0..32).map(|i| {
        let store = Arc::clone(&s.store);
        let txn = Txn::new().when(Compare::Absent("name/web1".into())).put("name/web1", format!("{i}"));
        tokio::spawn(async move { store.txn(txn).await.unwrap() })
    });
    let won = join(attempts).await.iter().filter(|o| matches!(o, Outcome::Committed(_))).count();
    assert_eq!(won, 1);
}

pub(super) async fn concurrent_histories_are_linearizable(s: &Subject) {
    for round in 0..20 {
        let key = format!("register/{round}");
        commit(&*s.store, Txn::new().put(key.as_str(), "0")).await;
        let clock = Arc::new(AtomicU64::new(0));
        let clients = (0..5).map(|id| {
            let client = Client { store: Arc::clone(&s.store), key: key.clone(), clock: Arc::clone(&clock), id };
            tokio::spawn(client.run(Random(round * 5 + id)))
        });
        let history: Vec<Call> = join(clients).await.into_iter().flatten().collect();
        assert!(is_linearizable(&history, 0), "round {round} has no order that explains it: {history:#?}");
    }
}

/// One of several that use a register at once and note what they see.
struct Client {
    store: Arc<dyn Store>,
    key: String,
    clock: Arc<AtomicU64>,
    id: u64,
}

impl Client {
    async fn run(self, mut random: Random) -> Vec<Call> {
        let mut calls = Vec::new();
        // The value last read and its revision. Values are unique, so "unchanged since" means "still holds that value".
        let mut known = None;
        for turn in 0..10 {
            let fresh = 1 + self.id * 100 + turn;
            let begun = self.tick();
            let seen = match (random.below(4), known) {
                (0, _) => self.write(fresh).await,
                (1, Some((value, modified))) => self.swap(value, modified, fresh).await,
                _ => {
                    let (value, modified) = self.read().await;
                    known = Some((value, modified));
                    Seen::Read(value)
                }
            };
            calls.push(Call { begun, ended: self.tick(), seen });
            tokio::task::yield_now().await;
        }
        calls
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    async fn read(&self) -> (u64, Revision) {
        let entry = self.store.get(&self.key).await.unwrap().unwrap();
        (std::str::from_utf8(&entry.value).unwrap().parse().unwrap(), entry.modified)
    }

    async fn write(&self, value: u64) -> Seen {
        commit(&*self.store, Txn::new().put(self.key.as_str(), value.to_string())).await;
        Seen::Wrote(value)
    }

    async fn swap(&self, old: u64, modified: Revision, new: u64) -> Seen {
        let unchanged = Compare::Modified(self.key.as_str().into(), modified);
        let txn = Txn::new().when(unchanged).put(self.key.as_str(), new.to_string());
        match self.store.txn(txn).await.unwrap() {
            Outcome::Committed(_) => Seen::Swapped(old, new),
            Outcome::Conflict(_) => Seen::Refused(old),
        }
    }
}
