//! What is kept for a while only: history, migrations that are over, the audit, replays, join tokens.
//!
//! Age is told by the wall clock, which may be set: nothing goes by its age while the clock is doubted
//! ([`hull_core::retention`]), and a replay from the future is dated anew, lest it stay until then.

use std::time::Duration;

use hull_types::{Timestamp, error::Result};
use serde::{Deserialize, Serialize};

use crate::{
    app::{
        App,
        ctx::since,
        replay::{self, Replay},
    },
    state::{
        keys::{self, Kind},
        repo::{Committed, Plan, store_error},
    },
};

/// A round each.
pub const PERIOD: Duration = Duration::from_secs(600);
/// Events and migrations that are over are kept so long,
const EVENT_AGE: Duration = Duration::from_secs(90 * 24 * 3600);
/// and events at most so many.
const EVENTS: usize = 100_000;
/// Keys let go in one transaction.
const BATCH: usize = 100;
/// A replay dated so far in the future was written before the clock was set back.
const SKEW: Duration = Duration::from_secs(3600);
/// Store revisions kept for watchers that fell behind.
const HISTORY: u64 = 10_000;

/// When it was last looked, and since when the clock is doubted.
#[derive(Debug, Serialize, Deserialize)]
struct Looked {
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    doubted: Option<Timestamp>,
}

/// One round.
///
/// # Errors
/// The store's.
pub async fn round(app: &App) -> Result<()> {
    let now = app.env.now();
    let believed = believe(app, now).await?;
    let mut old = app.cache.read(|state| {
        let many = state.events.len().saturating_sub(EVENTS);
        let events = state.events.iter().enumerate();
        let aged = |at| believed && since(now, at) > EVENT_AGE;
        let events = events.take_while(|(place, event)| *place < many || aged(event.at));
        let joins = state.joins.iter().filter(|join| believed && join.expires_at < now);
        let joins = joins.map(|join| Kind::Join.key(join.id.0));
        let over = state.migrations.iter().filter(|it| it.phase.is_over() && aged(it.ended_at.unwrap_or(it.began_at)));
        let over = over.map(|migration| Kind::Migration.key(migration.id.0));
        events.map(|(_, event)| Kind::Event.key(event.id.0)).chain(joins).chain(over).collect::<Vec<String>>()
    });
    if believed {
        old.extend(old_replays(app, now).await?);
    }
    for keys in old.chunks(BATCH) {
        let mut plan = Plan::default();
        keys.iter().for_each(|key| plan.delete(key.as_str()));
        commit(app, plan).await?;
    }
    if believed {
        app.forget_audit(now).await?;
    }
    let newest = app.cache.now();
    app.store.compact(hull_store::Revision(newest.saturating_sub(HISTORY))).await.map_err(store_error)
}

/// Looks at the clock: whether ages are to be believed.
async fn believe(app: &App, now: Timestamp) -> Result<bool> {
    let before = hull_store::json::get_json::<Looked>(app.store.as_ref(), keys::LOOKED).await.map_err(store_error)?;
    let before = before.map(|found| hull_core::retention::Looked { at: found.value.at, doubted: found.value.doubted });
    let hull_core::retention::Looked { at, doubted } = hull_core::retention::look(before, now);
    if doubted == Some(now) {
        let before = before.map(|before| before.at.to_string()).unwrap_or_default();
        tracing::warn!(%now, before, "the clock took a step of days or years: nothing goes by its age for a day; set the clock right if it is wrong");
    }
    let mut plan = Plan::default();
    plan.put(keys::LOOKED.to_owned(), &Looked { at, doubted })?;
    commit(app, plan).await?;
    Ok(doubted.is_none())
}

/// Commits what concerns nobody else.
async fn commit(app: &App, plan: Plan) -> Result<()> {
    if let Committed::At(revision) = plan.commit(&app.store).await? {
        app.cache.reached(revision).await;
    }
    Ok(())
}

/// The keys of replays that are old. Those from the future are dated anew.
async fn old_replays(app: &App, now: Timestamp) -> Result<Vec<String>> {
    let mut old = Vec::new();
    let mut after = None::<hull_store::Key>;
    loop {
        let page = app.store.list(keys::REPLAYS, after.as_deref(), 1_000).await.map_err(store_error)?;
        for entry in &page.entries {
            match hull_store::json::parse::<Replay>(entry) {
                Ok(replay) if since(replay.value.at, now) > SKEW => {
                    let mut plan = Plan::default();
                    plan.put(entry.key.to_string(), &replay.value.dated(now, replay.modified.0))?;
                    commit(app, plan).await?;
                }
                Ok(replay) if since(now, replay.value.at) < replay::KEPT => {}
                // What cannot be read can answer nobody.
                Ok(_) | Err(_) => old.push(entry.key.to_string()),
            }
        }
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more {
            return Ok(old);
        }
    }
}
