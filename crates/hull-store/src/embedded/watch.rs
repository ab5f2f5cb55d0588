//! Watches: a cursor that reads the feed in memory, and older history from the database where the feed no longer has it.
//!
//! ```text
//!            feed has it                     feed: nothing new
//!   cursor ───────────────► deliver  cursor ───────────────────► wait for the bell
//!      ▲                       │        ▲                              │
//!      └───────────────────────┘        └──────────────────────────────┘
//!            feed starts later                   compacted
//!   cursor ───────────────────► replay a chapter ─────────► end with an error
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use tokio::sync::watch;

use super::reader::{self, Readers};
use crate::{
    Revision, StoreError, Watch,
    feed::{Feed, Next},
};

/// How many revisions are replayed from the database at once.
const CHAPTER: u64 = 256;

/// What watches read, shared with the writer that fills it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) feed: Mutex<Feed>,
    pub(super) readers: Arc<Readers>,
    /// Rings after each commit; its sender goes with the writer.
    pub(super) bell: watch::Receiver<()>,
}

impl Source {
    fn next(&self, cursor: &mut Revision, prefix: &str) -> Next {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner).next(cursor, prefix)
    }
}

/// The stream of a watcher at `cursor`.
pub(super) fn follow(source: Arc<Source>, prefix: String, mut cursor: Revision) -> Watch {
    let mut bell = source.bell.clone();
    async_stream::try_stream! {
        loop {
            // Marked before the look, so that a commit right after it rings again.
            bell.mark_unchanged();
            match source.next(&mut cursor, &prefix) {
                Next::Batches(batches) => for batch in batches { yield batch; },
                Next::Quiet => bell.changed().await.map_err(|_| StoreError::Closed)?,
                Next::Behind(_) => {
                    let (prefix, after) = (prefix.clone(), cursor);
                    let read = source.readers.read(move |conn| reader::history(conn, &prefix, after, CHAPTER));
                    let chapter = read.await?;
                    for batch in chapter.batches { yield batch; }
                    cursor = chapter.upto;
                }
            }
        }
    }
    .boxed()
}
