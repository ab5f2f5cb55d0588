//! The store in one SQLite file: durable, with nothing to install or run beside Hull.
//!
//! ```text
//!  txn, lease, compact ──► queue ──► writer thread ──► hull.db ◄── readers ◄── get, list
//!                                       │ after commit    ▲
//!                                       ▼                 └── older history ──┐
//!                                     feed (memory) ──────────────────────► watches
//! ```
//!
//! `schema` keeps the file, `row` the checksums in it, `writer` commits in groups, `reader` reads snapshots, `watch` follows history,
//! `lease` knows the deadlines, `backup` copies the file and brings it back, `lock` keeps others out.

mod backup;
mod lease;
mod lock;
mod reader;
mod row;
mod schema;
mod watch;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

pub use self::backup::Backup;
use self::{
    backup::Schedule,
    lock::Lock,
    reader::Readers,
    watch::Source,
    writer::{Act, Answer, Counters, Keep, Request, State, Writer},
};
use crate::{
    Clock, Entry, LeaseId, Monotonic, Outcome, Page, Result, Revision, Store, StoreError, Txn, Watch, feed::Feed, rules,
};

/// The most requests that wait for the writer; more wait to wait.
const QUEUE: usize = 1024;
/// The newest history kept in memory for watchers.
const FEED_BATCHES: usize = 4096;
/// And its size.
const FEED_BYTES: usize = 4 * 1024 * 1024;

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// How many revisions of history are kept for watchers. Older ones are forgotten as new ones come.
    pub keep_revisions: u64,
    /// The most bytes of keys and values that history may hold, whatever the revisions.
    pub keep_bytes: u64,
    /// The most the database may grow to, in bytes. Beyond it writes fail with [`StoreError::Full`].
    pub max_bytes: Option<u64>,
    /// How often a backup is made by itself, if something changed. `None`: never.
    pub backup_every: Option<Duration>,
    /// How many automatic backups are kept.
    pub keep_backups: usize,
    /// What leases go by.
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keep_revisions: 10_000,
            keep_bytes: 128 * 1024 * 1024,
            max_bytes: None,
            backup_every: Some(Duration::from_secs(3600)),
            keep_backups: 5,
            clock: Arc::new(Monotonic::default()),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keep_revisions, keep_bytes, max_bytes, backup_every, keep_backups, clock: _ } = self;
        f.debug_struct("Options")
            .field("keep_revisions", keep_revisions)
            .field("keep_bytes", keep_bytes)
            .field("max_bytes", max_bytes)
            .field("backup_every", backup_every)
            .field("keep_backups", keep_backups)
            .finish_non_exhaustive()
    }
}

/// What the writer has done since the store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Requests answered.
    pub requests: u64,
    /// Commits they shared.
    pub commits: u64,
}

/// A store in a data directory. Closed when dropped.
pub struct EmbeddedStore {
    dir: PathBuf,
    source: Arc<Source>,
    turns: Arc<Semaphore>,
    counters: Arc<Counters>,
    live: Mutex<Option<Live>>,
}

/// What a closed store no longer has. Fields go in this order; the lock last.
struct Live {
    queue: mpsc::Sender<Request>,
    writer: JoinHandle<()>,
    keeper: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
    lock: Lock,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, making both if they are not there.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another process has it open, [`StoreError::Corrupt`] where the file is damaged,
    /// [`StoreError::Newer`] where a newer Hull wrote it, [`StoreError::Full`] and [`StoreError::Engine`] for the disk's.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Arc<Self>> {
        let dir = dir.as_ref().to_owned();
        schema::make_dir(&dir)?;
        let lock = Lock::take(&dir)?;
        let path = schema::database(&dir);
        let conn = schema::open(&dir)?;
        let prepare = || {
            if let Some(bytes) = options.max_bytes {
                let page: i64 = conn.pragma_query_value(None, "page_size", |row| row.get(0))?;
                conn.pragma_update(None, "max_page_count", schema::i64(bytes) / page)?;
            }
            State::load(&conn, options.clock.now())
        };
        let state = prepare().map_err(|e| schema::explain(&path, &e))?;

        let readers = Arc::new(Readers::new(path.clone()));
        let (bell, ear) = tokio::sync::watch::channel(());
        let feed = Mutex::new(Feed::new(state.revision(), FEED_BATCHES, FEED_BYTES));
        let source = Arc::new(Source { feed, readers: Arc::clone(&readers), bell: ear });
        let counters = Arc::new(Counters::default());
        let writer = Writer {
            conn,
            path,
            clock: options.clock,
            source: Arc::clone(&source),
            bell,
            counters: Arc::clone(&counters),
            keep: Keep { revisions: options.keep_revisions, bytes: options.keep_bytes },
            state,
        };
        let (queue, requests) = mpsc::channel();
        let writer = spawn("hull-store", move || writer.run(&requests))?;
        let schedule = options.backup_every.map(|every| Schedule { every, keep: options.keep_backups });
        let keeper = schedule.map(|schedule| spawn_keeper(dir.clone(), schedule, readers)).transpose()?;
        let live = Mutex::new(Some(Live { queue, writer, keeper, lock }));
        Ok(Arc::new(Self { dir, source, turns: Arc::new(Semaphore::new(QUEUE)), counters, live }))
    }

    /// Makes a backup in a single file, while the store works, and answers the revision it holds. A file of that name is
    /// replaced, at once and only by a whole backup.
    ///
    /// # Errors
    /// [`StoreError::Full`] and [`StoreError::Engine`] for the target's disk.
    pub async fn backup(&self, to: impl Into<PathBuf>) -> Result<Revision> {
        let to = to.into();
        self.source.readers.read(move |conn| Ok(backup::write(conn, &to, || true)?)).await
    }

    /// The automatic backups, newest first.
    ///
    /// # Errors
    /// [`StoreError::Engine`] where the directory cannot be read.
    pub fn backups(&self) -> Result<Vec<Backup>> {
        backup::list(&self.dir)
    }

    /// What the writer has done.
    pub fn stats(&self) -> Stats {
        Stats {
            requests: self.counters.requests.load(Ordering::Relaxed),
            commits: self.counters.commits.load(Ordering::Relaxed),
        }
    }

    /// Finishes what is under way, and lets others open the directory. Later calls fail with [`StoreError::Closed`];
    /// watches end with it. Blocks for the commits that wait already.
    pub fn close(&self) {
        let Some(Live { queue, writer, keeper, lock }) = self.live().take() else { return };
        drop(queue);
        let keeper = keeper.map(|(stop, thread)| {
            drop(stop);
            thread
        });
        for thread in [Some(writer), keeper].into_iter().flatten() {
            // A panic was reported by its thread; the database is whole whatever happened.
            let _ = thread.join();
        }
        self.source.readers.close();
        drop(lock);
    }

    fn live(&self) -> MutexGuard<'_, Option<Live>> {
        // Only taken and read in one step: no panic leaves it half changed.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, act: Act) -> Result<Answer> {
        let permit = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let request = Request { act, reply: Some(reply), _permit: Some(permit) };
        let queue = self.live().as_ref().map(|live| live.queue.clone()).ok_or(StoreError::Closed)?;
        queue.send(request).map_err(|_| StoreError::Closed)?;
        drop(queue);
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|e| StoreError::Engine(format!("cannot start the thread {name}: {e}")))
}

fn spawn_keeper(dir: PathBuf, schedule: Schedule, readers: Arc<Readers>) -> Result<(mpsc::Sender<()>, JoinHandle<()>)> {
    let (stop, stopped) = mpsc::channel();
    let run = move || backup::keep_backing_up(&dir, schedule, &readers, &stopped);
    Ok((stop, spawn("hull-backup", run)?))
}

/// The automatic backups in a data directory, newest first. The store may be open or damaged.
///
/// # Errors
/// [`StoreError::Engine`] where the directory cannot be read.
pub fn list_backups(dir: impl AsRef<Path>) -> Result<Vec<Backup>> {
    backup::list(dir.as_ref())
}

/// Checks that a backup is whole, and answers the revision it holds.
///
/// # Errors
/// [`StoreError::Corrupt`], [`StoreError::Newer`], or [`StoreError::Engine`] where it cannot be read.
pub fn verify_backup(path: impl AsRef<Path>) -> Result<Revision> {
    backup::verify(path.as_ref())
}

/// Puts a backup in the place of a data directory's database, and answers the revision the store starts at.
///
/// The backup is checked first; the database that was there is kept beside as `hull.db.replaced`. Revisions leap ahead of
/// any the lost history may have had, and no history is kept, so every watcher and cache must list again.
///
/// # Errors
/// [`StoreError::Locked`] while the store is open; [`StoreError::Corrupt`] and [`StoreError::Newer`] of the backup;
/// [`StoreError::Full`] and [`StoreError::Engine`] for the disk's. The database is untouched by all of these, but for a
/// disk that fails between two renames; then a second restore ends the work.
pub fn restore(dir: impl AsRef<Path>, backup: impl AsRef<Path>) -> Result<Revision> {
    backup::restore(dir.as_ref(), backup.as_ref())
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn revision(&self) -> Result<Revision> {
        self.source.readers.read(|conn| Ok(reader::bounds(conn)?.0)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let key = key.to_owned();
        self.source.readers.read(move |conn| Ok(reader::get(conn, &key)?)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.source.readers.read(move |conn| Ok(reader::list(conn, &prefix, after.as_deref(), limit)?)).await
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome> {
        rules::check(&txn)?;
        match self.ask(Act::Txn(txn)).await? {
            Answer::Outcome(outcome) => Ok(outcome),
            other => Err(odd(&other)),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        let (_, compacted) = self.source.readers.read(|conn| Ok(reader::bounds(conn)?)).await?;
        if after < compacted {
            return Err(StoreError::Compacted(compacted));
        }
        Ok(watch::follow(Arc::clone(&self.source), prefix.to_owned(), after))
    }

    async fn compact(&self, upto: Revision) -> Result<()> {
        self.ask(Act::Compact(upto)).await.map(drop)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        match self.ask(Act::Grant(ttl)).await? {
            Answer::Granted(id) => Ok(id),
            other => Err(odd(&other)),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.ask(Act::KeepAlive(lease)).await.map(drop)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.ask(Act::Revoke(lease)).await.map(drop)
    }
}

/// The writer's answers fit their acts; a misfit would be a defect of ours.
fn odd(answer: &Answer) -> StoreError {
    StoreError::Engine(format!("a defect: the writer answered {answer:?}"))
}
