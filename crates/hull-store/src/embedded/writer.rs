//! The one thread that writes, and commits in groups.
//!
//! It takes all requests that wait, evaluates them one after the other inside one SQLite transaction, commits with one
//! fsync, shows the changes to watchers, then answers. While it commits, the next group gathers. Each Hull transaction
//! keeps its own revision, and none sees less than those before it.
//!
//! A refusal (a conflict, no such lease) is an answer like any other and touches nothing. An error of the disk's takes the
//! whole group back; if the disk is full, each member is tried again alone, since a small one or a delete may still fit,
//! and history is given up before a transaction is.

use std::{
    path::PathBuf,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::{
    lease::Leases,
    row,
    schema::{explain, i64, u64},
    watch::Source,
};
use crate::{Batch, Change, Clock, Entry, Key, LeaseId, Op, Outcome, Result, Revision, Txn, rules};

/// The most requests in one commit.
const GROUP: usize = 256;
/// History is forgotten this many revisions at a time, rather than a little with each commit.
const SLACK: u64 = 256;
/// How soon an expiry that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What can be asked of the writer.
#[derive(Debug)]
pub(super) enum Act {
    Txn(Txn),
    Compact(Revision),
    Grant(Duration),
    KeepAlive(LeaseId),
    Revoke(LeaseId),
    /// Revokes a lease if its time is still up.
    Expire(LeaseId),
}

/// What it answers.
#[derive(Debug)]
pub(super) enum Answer {
    Outcome(Outcome),
    Granted(LeaseId),
    Done,
}

/// An act with the way back to who asked; nobody asks for an expiry.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) act: Act,
    pub(super) reply: Option<oneshot::Sender<Result<Answer>>>,
    /// Bounds how many wait; given back with the answer.
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

/// How much was done, for metrics.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) commits: AtomicU64,
    pub(super) requests: AtomicU64,
}

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    pub(super) revisions: u64,
    pub(super) bytes: u64,
}

/// The writer's thread's own.
pub(super) struct Writer {
    pub(super) conn: Connection,
    pub(super) path: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) source: Arc<Source>,
    pub(super) bell: watch::Sender<()>,
    pub(super) counters: Arc<Counters>,
    pub(super) keep: Keep,
    pub(super) state: State,
}

/// What a commit changes beside the tables.
#[derive(Clone, Debug)]
pub(super) struct State {
    revision: Revision,
    compacted: Revision,
    granted: u64,
    /// Bytes of keys and values in history.
    history: u64,
    leases: Arc<Leases>,
}

/// A group on its way: the state to be, and what watchers will see.
struct Group<'a> {
    conn: &'a Connection,
    now: Duration,
    state: State,
    batches: Vec<Batch>,
}

impl State {
    /// The state as the database has it; every lease lives anew from `now`.
    pub(super) fn load(conn: &Connection, now: Duration) -> rusqlite::Result<Self> {
        let mut leases = Leases::default();
        let mut query = conn.prepare("SELECT id, ttl FROM lease")?;
        let mut rows = query.query(())?;
        while let Some(row) = rows.next()? {
            leases.insert(LeaseId(u64(row.get(0)?)), Duration::from_millis(u64(row.get(1)?)), now);
        }
        conn.query_row("SELECT revision, compacted, granted, history FROM state", (), |row| {
            Ok(Self {
                revision: Revision(u64(row.get(0)?)),
                compacted: Revision(u64(row.get(1)?)),
                granted: u64(row.get(2)?),
                history: u64(row.get(3)?),
                leases: Arc::new(leases),
            })
        })
    }

    /// The newest revision.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }
}

impl Writer {
    /// Serves until all who could ask are gone.
    pub(super) fn run(mut self, queue: &Receiver<Request>) {
        while let Some(requests) = self.gather(queue) {
            self.serve(requests);
        }
    }

    /// Waits for a request or an expiry, and takes all that wait. `None` when nobody can ask any more.
    fn gather(&self, queue: &Receiver<Request>) -> Option<Vec<Request>> {
        let first = match self.state.leases.next_deadline() {
            None => Some(queue.recv().ok()?),
            Some(deadline) => {
                let nap = self.clock.nap(deadline.saturating_sub(self.clock.now()));
                match queue.recv_timeout(nap) {
                    Ok(request) => Some(request),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            }
        };
        let due = self.state.leases.due(self.clock.now()).into_iter();
        let expiries = due.map(|id| Request { act: Act::Expire(id), reply: None, _permit: None });
        // Expiries come last: a renewal that waited while a slow disk held us up is in time.
        Some(first.into_iter().chain(queue.try_iter().take(GROUP)).chain(expiries).collect())
    }

    /// Commits a group and answers it.
    fn serve(&mut self, requests: Vec<Request>) {
        if requests.is_empty() {
            return;
        }
        match self.commit(&requests) {
            Ok(answers) => requests.into_iter().zip(answers).for_each(|(request, answer)| self.answer(request, answer)),
            Err(e) if is_full(&e) && requests.len() > 1 => {
                requests.into_iter().for_each(|request| self.serve(vec![request]));
            }
            // Even a delete needs a little room, which must not be wanting because of old history.
            Err(e) if is_full(&e) && self.make_room() => self.serve(requests),
            Err(e) => {
                tracing::error!(database = %self.path.display(), error = %e, "a commit failed");
                requests.into_iter().for_each(|request| self.answer(request, Err(explain(&self.path, &e))));
            }
        }
    }

    /// Forgets all history. Whether there was any.
    fn make_room(&mut self) -> bool {
        let newest = self.state.revision;
        if self.state.compacted == newest {
            return false;
        }
        tracing::warn!(database = %self.path.display(), "the disk is full; forgetting history to make room");
        self.commit(&[Request { act: Act::Compact(newest), reply: None, _permit: None }]).is_ok()
    }

    fn answer(&mut self, request: Request, answer: Result<Answer>) {
        match (request.reply, request.act) {
            // Who no longer waits has no use for the answer.
            (Some(reply), _) => drop(reply.send(answer)),
            (None, Act::Expire(id)) if answer.is_err() => {
                Arc::make_mut(&mut self.state.leases).put_off(id, self.clock.now() + RETRY);
            }
            (None, _) => {}
        }
    }

    /// All requests in one transaction of SQLite's. On success watchers have been shown what changed.
    fn commit(&mut self, requests: &[Request]) -> rusqlite::Result<Vec<Result<Answer>>> {
        // Rolls back where dropped early.
        let transaction = self.conn.unchecked_transaction()?;
        let mut group =
            Group { conn: &self.conn, now: self.clock.now(), state: self.state.clone(), batches: Vec::new() };
        let answers = requests.iter().map(|request| group.perform(&request.act)).collect::<rusqlite::Result<_>>()?;
        group.compact_by_itself(self.keep)?;
        group.save(&self.state)?;
        let Group { state, batches, .. } = group;
        transaction.commit()?;

        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        self.counters.requests.fetch_add(requests.len() as u64, Ordering::Relaxed);
        self.state = state;
        self.show(batches);
        Ok(answers)
    }

    fn show(&self, batches: Vec<Batch>) {
        if batches.is_empty() {
            return;
        }
        let mut feed = self.source.feed.lock().unwrap_or_else(PoisonError::into_inner);
        batches.into_iter().for_each(|batch| feed.push(batch));
        drop(feed);
        self.bell.send_replace(());
    }
}

impl Group<'_> {
    /// Inner errors are answers, after which nothing was written; outer ones end the group.
    fn perform(&mut self, act: &Act) -> rusqlite::Result<Result<Answer>> {
        match act {
            Act::Txn(txn) => Ok(self.txn(txn)?.map(Answer::Outcome)),
            Act::Compact(upto) => match rules::check_compaction(*upto, self.state.revision) {
                Ok(()) => self.compact(*upto).map(|()| Ok(Answer::Done)),
                Err(e) => Ok(Err(e)),
            },
            Act::Grant(ttl) => self.grant(*ttl).map(|id| Ok(Answer::Granted(id))),
            Act::KeepAlive(id) => Ok(self.renew(*id).map(|()| Answer::Done)),
            Act::Revoke(id) => match self.state.leases.check(*id) {
                Ok(()) => self.revoke(*id).map(|()| Ok(Answer::Done)),
                Err(e) => Ok(Err(e)),
            },
            Act::Expire(id) if self.state.leases.is_due(*id, self.now) => self.revoke(*id).map(|()| Ok(Answer::Done)),
            Act::Expire(_) => Ok(Ok(Answer::Done)),
        }
    }

    fn txn(&mut self, txn: &Txn) -> rusqlite::Result<Result<Outcome>> {
        let modified = |key: &str| self.life(key).map(|life| life.map(|life| life.modified));
        if let Some(place) = rules::first_conflict(&txn.compares, modified)? {
            return Ok(Ok(Outcome::Conflict(place)));
        }
        for op in &txn.ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && let Err(e) = self.state.leases.check(*lease)
            {
                return Ok(Err(e));
            }
        }
        Ok(Ok(Outcome::Committed(self.apply(txn.ops.iter().cloned())?)))
    }

    /// Applies changes that passed every check, as one revision if they change anything.
    fn apply(&mut self, ops: impl Iterator<Item = Op>) -> rusqlite::Result<Revision> {
        let revision = Revision(self.state.revision.0 + 1);
        let mut changes = Vec::new();
        for op in ops {
            changes.extend(self.change(op, revision)?);
        }
        if !changes.is_empty() {
            changes.sort_by(|a, b| a.key().cmp(b.key()));
            self.state.revision = revision;
            self.state.history += changes.iter().map(bytes).sum::<u64>();
            self.batches.push(Batch { revision, changes });
        }
        Ok(self.state.revision)
    }

    fn change(&self, op: Op, revision: Revision) -> rusqlite::Result<Option<Change>> {
        let old = self.life(op.key())?;
        match op {
            Op::Put { key, value, lease } => {
                let entry = rules::put(old.map(|life| (life.created, life.version)), key, value, lease, revision);
                self.write(&entry)?;
                Ok(Some(Change::Put(entry)))
            }
            Op::Delete(_) if old.is_none() => Ok(None),
            Op::Delete(key) => {
                self.execute("DELETE FROM entry WHERE key = ?1", params![&*key])?;
                self.execute(
                    "INSERT INTO change (revision, key, sum) VALUES (?1, ?2, ?3)",
                    params![i64(revision.0), &*key, row::deletion_sum(revision, &key)],
                )?;
                Ok(Some(Change::Delete(key)))
            }
        }
    }

    fn write(&self, entry: &Entry) -> rusqlite::Result<()> {
        let lease = entry.lease.map(|id| i64(id.0));
        let (created, modified, version) = (i64(entry.created.0), i64(entry.modified.0), i64(entry.version));
        let sum = row::sum(entry);
        self.execute(
            "INSERT INTO entry (key, value, created, modified, version, lease, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value, created = excluded.created,
             modified = excluded.modified, version = excluded.version, lease = excluded.lease,
             sum = excluded.sum",
            params![&*entry.key, &*entry.value, created, modified, version, lease, sum],
        )?;
        self.execute(
            "INSERT INTO change (revision, key, value, created, version, lease, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![modified, &*entry.key, &*entry.value, created, version, lease, sum],
        )
    }

    fn life(&self, key: &str) -> rusqlite::Result<Option<Life>> {
        let mut query = self.conn.prepare_cached("SELECT created, modified, version FROM entry WHERE key = ?1")?;
        let life = query.query_row([key], |row| {
            Ok(Life {
                created: Revision(u64(row.get(0)?)),
                modified: Revision(u64(row.get(1)?)),
                version: u64(row.get(2)?),
            })
        });
        life.optional()
    }

    fn grant(&mut self, ttl: Duration) -> rusqlite::Result<LeaseId> {
        self.state.granted += 1;
        let id = LeaseId(self.state.granted);
        let millis = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        self.execute("INSERT INTO lease (id, ttl) VALUES (?1, ?2)", params![i64(id.0), millis])?;
        Arc::make_mut(&mut self.state.leases).insert(id, ttl, self.now);
        Ok(id)
    }

    fn renew(&mut self, id: LeaseId) -> Result<()> {
        Arc::make_mut(&mut self.state.leases).renew(id, self.now)
    }

    fn revoke(&mut self, id: LeaseId) -> rusqlite::Result<()> {
        let conn = self.conn;
        let mut query = conn.prepare_cached("SELECT key FROM entry WHERE lease = ?1")?;
        let keys = query.query_map([i64(id.0)], |row| Ok(Key::from(row.get_ref(0)?.as_str()?)))?;
        let keys = keys.collect::<rusqlite::Result<Vec<_>>>()?;
        self.apply(keys.into_iter().map(Op::Delete))?;
        self.execute("DELETE FROM lease WHERE id = ?1", params![i64(id.0)])?;
        Arc::make_mut(&mut self.state.leases).remove(id);
        Ok(())
    }

    fn compact_by_itself(&mut self, keep: Keep) -> rusqlite::Result<()> {
        let State { revision, compacted, history, .. } = self.state;
        let oldest = revision.0.saturating_sub(keep.revisions);
        if oldest > compacted.0 + SLACK.min(keep.revisions) {
            self.compact(Revision(oldest))
        } else if history > keep.bytes {
            // A quarter at a time: the next commit goes on if that was not enough.
            self.compact(Revision(compacted.0 + (revision.0 - compacted.0).div_ceil(4)))
        } else {
            Ok(())
        }
    }

    fn compact(&mut self, upto: Revision) -> rusqlite::Result<()> {
        if upto <= self.state.compacted {
            return Ok(());
        }
        let sql = "SELECT coalesce(sum(octet_length(key) + coalesce(octet_length(value), 0)), 0)
                   FROM change WHERE revision <= ?1";
        let freed = self.conn.prepare_cached(sql)?.query_row([i64(upto.0)], |row| row.get(0))?;
        self.execute("DELETE FROM change WHERE revision <= ?1", params![i64(upto.0)])?;
        self.state.history = self.state.history.saturating_sub(u64(freed));
        self.state.compacted = upto;
        Ok(())
    }

    /// Writes the state's row if it differs from `before`.
    fn save(&self, before: &State) -> rusqlite::Result<()> {
        let row = |s: &State| [s.revision.0, s.compacted.0, s.granted, s.history].map(i64);
        if row(&self.state) == row(before) {
            return Ok(());
        }
        let sql = "UPDATE state SET revision = ?1, compacted = ?2, granted = ?3, history = ?4";
        self.execute(sql, row(&self.state))
    }

    fn execute(&self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<()> {
        self.conn.prepare_cached(sql)?.execute(params).map(drop)
    }
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// What a key's entry says of its past.
struct Life {
    created: Revision,
    modified: Revision,
    version: u64,
}

/// What a change adds to history.
fn bytes(change: &Change) -> u64 {
    let value = match change {
        Change::Put(entry) => entry.value.len(),
        Change::Delete(_) => 0,
    };
    (change.key().len() + value) as u64
}
