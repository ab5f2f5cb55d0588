//! The audit: written with the change it tells, read by admins, forgotten after a while.
//!
//! Records are not in the cache. They lie in the store under their project, and an index over all of them sorts by time.

use std::sync::{Arc, Mutex, PoisonError};

use futures::Stream;
use hull_core::audit::Coalescer;
use hull_store::Txn;
use hull_types::{
    Timestamp,
    audit::{Audit, Outcome},
    error::{Error, Result},
    id::ProjectId,
    token::Role,
    wire::List,
};
use uuid::Uuid;

use super::{
    App,
    ctx::{Ctx, since},
    list::Whose,
    trail::{Trail, refused},
};
use crate::state::{
    keys,
    repo::{Plan, store_error},
};

/// How often counts that grew are written.
pub const FLUSH: std::time::Duration = std::time::Duration::from_secs(10);
/// Records read from the store at once.
const CHUNK: usize = 200;
/// Records looked at for one page; a page that finds less ends early and says where to go on.
const LOOKED_AT: usize = 5_000;
/// Records deleted in one transaction, and at most in one round.
const BATCH: usize = 500;
const ROUND: usize = 20_000;
/// How far ids and times may be apart: clocks get set.
const SLACK: i64 = 60;

/// How a call ended, as the API sees it.
pub enum Ending<'a> {
    /// It was answered.
    Done,
    /// It was refused with this status.
    Refused(u16, Option<&'a Error>),
    /// Its caller hung up.
    BrokenOff,
}

/// What keeps records of refused calls few.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<Coalescer>);

impl Refusals {
    fn with<T>(&self, act: impl FnOnce(&mut Coalescer) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which records are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// Whose: an id, of an actor or a credential, or a kind of actor.
    pub actor: Option<String>,
    /// What: an operation (`vms.create`), or all of a noun (`vms`).
    pub action: Option<String>,
    /// On what: an id or a name.
    pub resource: Option<String>,
    /// How it ended.
    pub outcome: Option<String>,
}

impl Wanted {
    fn keeps(&self, record: &Audit) -> bool {
        let actor = |text: &String| {
            let credential =
                record.authenticated_by.as_ref().is_some_and(|credential| credential.id.to_string() == *text);
            credential || serde_json::to_value(&record.actor).is_ok_and(|actor| has(&actor, text))
        };
        let action = |text: &String| {
            let rest = record.origin.operation.strip_prefix(text.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let resource =
            |text: &String| record.targets.iter().any(|target| target.name == *text || target.id.to_string() == *text);
        self.since.is_none_or(|since| record.at >= since)
            && self.until.is_none_or(|until| record.at <= until)
            && self.actor.as_ref().is_none_or(actor)
            && self.action.as_ref().is_none_or(action)
            && self.resource.as_ref().is_none_or(resource)
            && self.outcome.as_ref().is_none_or(|word| record.outcome.word() == word)
    }

    /// Whether no later record can be wanted.
    fn is_past(&self, record: &Audit) -> bool {
        self.until.is_some_and(|until| record.at.as_second() > until.as_second().saturating_add(SLACK))
    }

    /// The id to begin after.
    fn after(&self, after: Option<Uuid>) -> Option<Uuid> {
        let since = self.since.map(|since| {
            let millis = since.as_millisecond().saturating_sub(SLACK * 1_000);
            Uuid::from_u128(u128::from(u64::try_from(millis).unwrap_or(0)) << 80)
        });
        after.max(since)
    }
}

/// Whether a value is this text or holds it.
fn has(value: &serde_json::Value, text: &str) -> bool {
    match value {
        serde_json::Value::String(own) => own == text,
        serde_json::Value::Object(fields) => fields.values().any(|value| has(value, text)),
        serde_json::Value::Array(items) => items.iter().any(|value| has(value, text)),
        _ => false,
    }
}

impl App {
    /// Puts a call's record into the transaction of its change; none where the call has one, or is not a caller's.
    pub(super) fn audited(&self, ctx: &Ctx, plan: &mut Plan) -> Result<Option<Audit>> {
        let Some(trail) = ctx.trail.as_ref().filter(|trail| trail.record().is_none()) else { return Ok(None) };
        let record = trail.tell(&plan.events(), Outcome::Ok, (self.env.id(), self.env.now()));
        plan.put(keys::audit(record.project, record.id.0), &record)?;
        plan.put(keys::audit_at(record.id.0), &record.project)?;
        Ok(Some(record))
    }

    /// Writes how a call ended, where its record does not say so yet.
    pub async fn conclude(&self, trail: &Trail, ending: Ending<'_>) {
        let outcome = match ending {
            Ending::Done => trail.done(),
            Ending::Refused(status, error) => refused(status, error),
            Ending::BrokenOff => Outcome::BrokenOff,
        };
        let record = match (trail.record(), outcome) {
            // A change of several steps (an upload), of which a later one failed or was not reached.
            (Some(record), outcome @ Outcome::Refused { .. }) => Some(Audit { outcome, ..record }),
            (Some(record), outcome @ Outcome::BrokenOff) if trail.is_under_way() => Some(Audit { outcome, ..record }),
            (Some(_), _) => None,
            (None, outcome) => self.new_record(trail, outcome),
        };
        if let Some(record) = record {
            self.write_records(vec![record]).await;
        }
    }

    fn new_record(&self, trail: &Trail, outcome: Outcome) -> Option<Audit> {
        let record = trail.tell(&[], outcome, (self.env.id(), self.env.now()));
        let few = match record.outcome {
            Outcome::Ok => false,
            Outcome::Replayed | Outcome::Refused { .. } => true,
            Outcome::BrokenOff => record.actor.is_none(),
        };
        if few { self.refusals.with(|refusals| refusals.admit(record)) } else { Some(record) }
    }

    /// Writes the counts that have grown.
    pub async fn flush_audit(&self) {
        let now = self.env.now();
        let grown = self.refusals.with(|refusals| refusals.due(now));
        for records in grown.chunks(BATCH) {
            self.write_records(records.to_vec()).await;
        }
    }

    /// Records that cannot be written are told to the log, since the call itself is over; refusals are tried again.
    async fn write_records(&self, records: Vec<Audit>) {
        let txn = records.iter().try_fold(Txn::new(), |txn, record| {
            txn.put_json(keys::audit(record.project, record.id.0), record)?
                .put_json(keys::audit_at(record.id.0), &record.project)
        });
        let written = match txn {
            Ok(txn) => self.store.txn(txn).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            self.refusals.with(|refusals| records.iter().for_each(|record| refusals.unwritten(record.id)));
            let records = serde_json::to_string(&records).unwrap_or_default();
            tracing::error!(%error, %records, "audit records could not be written");
        }
    }

    /// Whose records the call reads: its project's, or, for system admins who name none, all.
    ///
    /// # Errors
    /// `Forbidden` but for admins; `NotFound`.
    pub fn audit_of(&self, ctx: &Ctx, all: bool) -> Result<Whose> {
        if all || (ctx.project.is_none() && ctx.caller.is_system()) {
            ctx.caller.system(Role::Admin)?;
            return Ok(Whose::All);
        }
        self.cache.read(|state| ctx.project(state).map(|project| Whose::Project(project.id)))
    }

    /// A page of records, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn audit(&self, whose: Whose, wanted: &Wanted, after: Option<Uuid>, limit: usize) -> Result<List<Audit>> {
        let mut after = wanted.after(after);
        let (mut items, mut looked_at) = (Vec::new(), 0);
        loop {
            let chunk = self.records(whose, after, CHUNK).await?;
            for (id, record) in chunk.records {
                looked_at += 1;
                after = Some(id);
                let Some(record) = record else { continue };
                if wanted.is_past(&record) {
                    return Ok(List { items, next: None, revision: chunk.revision });
                }
                if wanted.keeps(&record) {
                    items.push(record);
                }
                if items.len() == limit {
                    return Ok(List { items, next: Some(id.to_string()), revision: chunk.revision });
                }
            }
            if !chunk.more || looked_at >= LOOKED_AT {
                let next = after.filter(|_| chunk.more).map(|id| id.to_string());
                return Ok(List { items, next, revision: chunk.revision });
            }
        }
    }

    /// All records wanted, oldest first, as they are read.
    pub fn audit_stream(
        self: Arc<Self>,
        whose: Whose,
        wanted: Wanted,
        after: Option<Uuid>,
    ) -> impl Stream<Item = Result<Audit>> + Send {
        async_stream::try_stream! {
            let mut after = wanted.after(after);
            loop {
                let chunk = self.records(whose, after, CHUNK).await?;
                let Some((last, _)) = chunk.records.last() else { return };
                after = Some(*last);
                for record in chunk.records.into_iter().filter_map(|(_, record)| record) {
                    if wanted.is_past(&record) {
                        return;
                    }
                    if wanted.keeps(&record) {
                        yield record;
                    }
                }
                if !chunk.more {
                    return;
                }
            }
        }
    }

    async fn records(&self, whose: Whose, after: Option<Uuid>, limit: usize) -> Result<Chunk> {
        let prefix = match whose {
            Whose::Project(project) => keys::audits(Some(project)),
            Whose::All => keys::AUDIT_AT.to_owned(),
            Whose::Nobody => return Ok(Chunk { records: Vec::new(), more: false, revision: self.cache.now() }),
        };
        let begin = after.map(|after| format!("{prefix}{after}"));
        let page = self.store.list(&prefix, begin.as_deref(), limit).await.map_err(store_error)?;
        let mut records = Vec::with_capacity(page.entries.len());
        for entry in &page.entries {
            let Some(id) = entry.key.rsplit('/').next().and_then(|id| Uuid::parse_str(id).ok()) else { continue };
            let record = match whose {
                Whose::Project(_) | Whose::Nobody => read(entry),
                Whose::All => self.record_at(entry, id).await?,
            };
            records.push((id, record));
        }
        Ok(Chunk { records, more: page.more, revision: page.revision.0 })
    }

    async fn record_at(&self, index: &hull_store::Entry, id: Uuid) -> Result<Option<Audit>> {
        let project = serde_json::from_slice::<Option<ProjectId>>(&index.value).unwrap_or_default();
        let entry = self.store.get(&keys::audit(project, id)).await.map_err(store_error)?;
        Ok(entry.as_ref().and_then(read))
    }

    /// Deletes records that are too old, so many a round that nothing else waits for it.
    pub(crate) async fn forget_audit(&self, now: Timestamp) -> Result<()> {
        let kept = std::time::Duration::from_secs(u64::from(self.settings.audit_days) * 24 * 3_600);
        for _ in 0..ROUND / BATCH {
            let page = self.store.list(keys::AUDIT_AT, None, BATCH).await.map_err(store_error)?;
            let old = page.entries.iter().filter_map(|entry| {
                let id = Uuid::parse_str(entry.key.strip_prefix(keys::AUDIT_AT)?).ok()?;
                (since(now, written(id)?) > kept).then_some((entry, id))
            });
            let mut plan = Txn::new();
            for (entry, id) in old {
                let project = serde_json::from_slice::<Option<ProjectId>>(&entry.value).unwrap_or_default();
                plan = plan.delete(keys::audit(project, id)).delete(entry.key.clone());
            }
            let all = plan.ops.len() == 2 * page.entries.len();
            if !plan.ops.is_empty() {
                self.store.txn(plan).await.map_err(store_error)?;
            }
            if !all || !page.more {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// When a record was made, as its id tells.
fn written(id: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanos).ok()?).ok()
}

/// One that cannot be read is left out and told to the log.
fn read(entry: &hull_store::Entry) -> Option<Audit> {
    match hull_store::json::parse::<Audit>(entry) {
        Ok(record) => Some(record.value),
        Err(error) => {
            tracing::error!(%error, "an audit record cannot be read and is left out");
            None
        }
    }
}

struct Chunk {
    records: Vec<(Uuid, Option<Audit>)>,
    more: bool,
    revision: u64,
}
