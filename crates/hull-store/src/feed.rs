//! The newest part of history in memory, from which watchers read.
//!
//! A watcher is only a cursor into the feed: nobody buffers for it, so a slow one costs nothing. One that falls behind
//! the oldest batch held is told so, and its engine replays older history to it or ends it.

use std::{collections::VecDeque, sync::Arc};

use crate::{Batch, Change, Revision};

/// The most batches a watcher takes out at once, so that the feed's lock is held briefly.
const TAKE: usize = 64;

/// Batches in order of revision, without gaps, bounded by count and bytes.
#[derive(Debug)]
pub(crate) struct Feed {
    batches: VecDeque<Arc<Batch>>,
    /// The newest revision that is no longer held, or never was.
    floor: Revision,
    bytes: usize,
    max_batches: usize,
    max_bytes: usize,
}

/// What the feed has for a cursor.
#[derive(Debug)]
pub(crate) enum Next {
    /// Batches to deliver; the cursor moved behind them. Not empty.
    Batches(Vec<Batch>),
    /// Nothing new; the cursor moved to the newest revision.
    Quiet,
    /// The cursor is older than what is held, which begins after this revision; it did not move.
    Behind(Revision),
}

impl Feed {
    /// An empty feed of a store whose newest revision is `floor`.
    pub(crate) fn new(floor: Revision, max_batches: usize, max_bytes: usize) -> Self {
        Self { batches: VecDeque::new(), floor, bytes: 0, max_batches, max_bytes }
    }

    /// Adds the newest batch and drops the oldest where a bound is passed.
    pub(crate) fn push(&mut self, batch: Batch) {
        self.bytes += weight(&batch);
        self.batches.push_back(Arc::new(batch));
        while self.batches.len() > self.max_batches || (self.bytes > self.max_bytes && self.batches.len() > 1) {
            self.drop_oldest();
        }
    }

    /// Drops everything up to and including `upto`.
    pub(crate) fn forget(&mut self, upto: Revision) {
        while self.batches.front().is_some_and(|b| b.revision <= upto) {
            self.drop_oldest();
        }
        self.floor = self.floor.max(upto);
    }

    /// The newest revision not held.
    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    /// Moves `cursor` on, past the batches that touch `prefix` and are returned.
    pub(crate) fn next(&self, cursor: &mut Revision, prefix: &str) -> Next {
        if *cursor < self.floor {
            return Next::Behind(self.floor);
        }
        let start = self.batches.partition_point(|b| b.revision <= *cursor);
        let mut taken = Vec::new();
        for batch in self.batches.range(start..) {
            *cursor = batch.revision;
            taken.extend(under(batch, prefix));
            if taken.len() == TAKE {
                break;
            }
        }
        if taken.is_empty() { Next::Quiet } else { Next::Batches(taken) }
    }

    fn drop_oldest(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            self.bytes -= weight(&batch);
            self.floor = batch.revision;
        }
    }
}

/// The part of a batch under a prefix, if any.
fn under(batch: &Batch, prefix: &str) -> Option<Batch> {
    let changes: Vec<Change> = batch.changes.iter().filter(|c| c.key().starts_with(prefix)).cloned().collect();
    (!changes.is_empty()).then_some(Batch { revision: batch.revision, changes })
}

fn weight(batch: &Batch) -> usize {
    let change = |c: &Change| match c {
        Change::Put(entry) => 128 + entry.key.len() + entry.value.len(),
        Change::Delete(key) => 64 + key.len(),
    };
    64 + batch.changes.iter().map(change).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(revision: u64, key: &str) -> Batch {
        Batch { revision: Revision(revision), changes: vec![Change::Delete(key.into())] }
    }

    #[test]
    fn a_cursor_sees_its_prefix_once_and_learns_that_it_is_behind() {
        let mut feed = Feed::new(Revision(10), 3, usize::MAX);
        for (revision, key) in [(11, "a/1"), (12, "b/1"), (13, "a/2")] {
            feed.push(batch(revision, key));
        }
        let mut cursor = Revision(10);
        let Next::Batches(seen) = feed.next(&mut cursor, "a/") else { panic!("two batches are due") };
        assert_eq!(seen, [batch(11, "a/1"), batch(13, "a/2")]);
        assert_eq!(cursor, Revision(13));
        assert!(matches!(feed.next(&mut cursor, "a/"), Next::Quiet));

        feed.push(batch(14, "a/3"));
        let mut late = Revision(10);
        assert!(
            matches!(feed.next(&mut late, "a/"), Next::Behind(Revision(11))),
            "revision 11 was dropped for the bound of 3"
        );
        assert_eq!(late, Revision(10));
    }

    #[test]
    fn one_batch_is_kept_however_large() {
        let mut feed = Feed::new(Revision(0), 8, 1);
        feed.push(batch(1, "a"));
        feed.push(batch(2, "b"));
        assert_eq!(feed.floor(), Revision(1));
        assert!(matches!(feed.next(&mut Revision(1), ""), Next::Batches(_)));
    }
}
