//! Random operations against a model too plain to be wrong: every state the store ever had, kept whole.

use std::collections::BTreeMap;

use super::{Subject, random::Random, until};
use crate::{Batch, Change, Compare, Entry, Op, Outcome, Revision, Txn};

const KEYS: [&str; 9] = ["a", "a/1", "a/2", "a/2/x", "a/3", "b/1", "b/2", "b/10", "c"];
const PREFIXES: [&str; 6] = ["", "a", "a/", "a/2", "b/1", "z"];

#[derive(Default)]
struct Model {
    now: BTreeMap<String, Entry>,
    log: Vec<Batch>,
    revision: Revision,
    compacted: Revision,
}

impl Model {
    fn txn(&mut self, txn: &Txn) -> Outcome {
        let fails = |compare: &Compare| {
            let entry = self.now.get(&**compare.key());
            match compare {
                Compare::Exists(_) => entry.is_none(),
                Compare::Absent(_) => entry.is_some(),
                Compare::Modified(_, revision) => entry.is_none_or(|e| e.modified != *revision),
            }
        };
        if let Some(place) = txn.compares.iter().position(fails) {
            return Outcome::Conflict(place);
        }
        let revision = Revision(self.revision.0 + 1);
        let mut changes: Vec<Change> = txn.ops.iter().filter_map(|op| self.apply(op, revision)).collect();
        if !changes.is_empty() {
            changes.sort_by(|a, b| a.key().cmp(b.key()));
            self.log.push(Batch { revision, changes });
            self.revision = revision;
        }
        Outcome::Committed(self.revision)
    }

    fn apply(&mut self, op: &Op, revision: Revision) -> Option<Change> {
        match op {
            Op::Put { key, value, lease } => {
                let old = self.now.get(&**key);
                let entry = Entry {
                    key: key.clone(),
                    value: value.clone(),
                    created: old.map_or(revision, |e| e.created),
                    modified: revision,
                    version: old.map_or(0, |e| e.version) + 1,
                    lease: *lease,
                };
                self.now.insert(key.to_string(), entry.clone());
                Some(Change::Put(entry))
            }
            Op::Delete(key) => self.now.remove(&**key).map(|_| Change::Delete(key.clone())),
        }
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Vec<Entry> {
        let wanted = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        self.now.values().filter(|e| wanted(&e.key)).cloned().collect()
    }

    /// What a watch must deliver.
    fn batches(&self, prefix: &str, after: Revision) -> Vec<Batch> {
        let under = |b: &Batch| {
            let changes: Vec<_> = b.changes.iter().filter(|c| c.key().starts_with(prefix)).cloned().collect();
            (!changes.is_empty()).then_some(Batch { revision: b.revision, changes })
        };
        self.log.iter().filter(|b| b.revision > after).filter_map(under).collect()
    }
}

fn random_txn(random: &mut Random, model: &Model, turn: usize) -> Txn {
    let mut txn = Txn::new();
    for _ in 0..random.below(3) {
        let key = *random.pick(&KEYS);
        txn = txn.when(match random.below(6) {
            0 => Compare::Absent(key.into()),
            1 => Compare::Exists(key.into()),
            2 => Compare::Modified(key.into(), Revision(random.below(model.revision.0 as usize + 2) as u64)),
            // Mostly what holds, lest nothing ever commits.
            _ => model.now.get(key).map_or(Compare::Absent(key.into()), |e| Compare::Modified(key.into(), e.modified)),
        });
    }
    let mut keys = KEYS.to_vec();
    for _ in 0..random.below(5) {
        let key = keys.swap_remove(random.below(keys.len()));
        txn = if random.below(3) == 0 { txn.delete(key) } else { txn.put(key, format!("{turn}")) };
    }
    txn
}

pub(super) async fn random_operations_agree_with_the_model(s: &Subject) {
    random_operations(s, 1).await;
}

/// Runs 600 operations drawn from `seed` on an empty store and on the model, and compares every answer.
///
/// # Panics
/// Where they differ.
pub async fn random_operations(s: &Subject, seed: u64) {
    let mut random = Random(seed);
    let mut model = Model::default();
    for turn in 0..600 {
        let at = format!("seed {seed}, turn {turn}");
        match random.below(10) {
            0..6 => {
                let txn = random_txn(&mut random, &model, turn);
                let expected = model.txn(&txn);
                assert_eq!(s.store.txn(txn.clone()).await.unwrap(), expected, "{at}: {txn:?}");
            }
            6 => {
                let key = *random.pick(&KEYS);
                assert_eq!(s.store.get(key).await.unwrap().as_ref(), model.now.get(key), "{at}: get {key}");
            }
            7..9 => check_list(s, &mut random, &model, &at).await,
            _ if turn % 7 == 0 => {
                model.compacted = Revision(random.below(model.revision.0 as usize + 1) as u64).max(model.compacted);
                s.store.compact(model.compacted).await.unwrap();
            }
            _ => check_watch(s, &mut random, &model, &at).await,
        }
    }
    assert!(model.log.len() > 100, "the run did something");
}

async fn check_list(s: &Subject, random: &mut Random, model: &Model, at: &str) {
    let (prefix, limit) = (*random.pick(&PREFIXES), random.below(6));
    let after = (random.below(2) == 0).then(|| *random.pick(&KEYS));
    let page = s.store.list(prefix, after, limit).await.unwrap();
    let mut expected = model.list(prefix, after);
    assert_eq!(page.more, expected.len() > limit, "{at}: more of {prefix:?} after {after:?}, {limit}");
    expected.truncate(limit);
    assert_eq!(page.entries, expected, "{at}: list {prefix:?} after {after:?}, {limit}");
    assert_eq!(page.revision, model.revision);
}

async fn check_watch(s: &Subject, random: &mut Random, model: &Model, at: &str) {
    let span = (model.revision.0 - model.compacted.0) as usize;
    let after = Revision(model.compacted.0 + random.below(span + 1) as u64);
    let prefix = *random.pick(&PREFIXES);
    let expected = model.batches(prefix, after);
    let Some(last) = expected.last() else { return };
    let seen = until(&mut s.watch(prefix, after).await, last.revision).await;
    assert_eq!(seen, expected, "{at}: watch {prefix:?} after {after:?}");
}
