//! What is kept for a while only: history, replays, join tokens.

use std::time::Duration;

use hull_types::{Timestamp, error::Result};

use crate::{
    app::{
        App,
        ctx::{Caller, Ctx, since},
        replay::{self, Replay},
    },
    state::{
        keys::{self, Kind},
        repo::{Plan, store_error},
    },
};

/// A round each.
pub const PERIOD: Duration = Duration::from_secs(600);
/// Events are kept so long,
const EVENT_AGE: Duration = Duration::from_secs(90 * 24 * 3600);
/// and at most so many.
const EVENTS: usize = 100_000;
/// Keys let go in one transaction.
const BATCH: usize = 100;
/// Store revisions kept for watchers that fell behind.
const HISTORY: u64 = 10_000;

/// One round.
pub async fn round(app: &App) -> Result<()> {
    let now = app.env.now();
    let mut old = app.cache.read(|state| {
        let many = state.events.len().saturating_sub(EVENTS);
        let events = state.events.iter().enumerate();
        let events = events.take_while(|(place, event)| *place < many || since(now, event.at) > EVENT_AGE);
        let joins = state.joins.iter().filter(|join| join.expires_at < now);
        let joins = joins.map(|join| Kind::Join.key(join.id.0));
        events.map(|(_, event)| Kind::Event.key(event.id.0)).chain(joins).collect::<Vec<String>>()
    });
    old.extend(old_replays(app, now).await?);
    for keys in old.chunks(BATCH) {
        app.plan(&Ctx::of(Caller::SERVER), |_, _| {
            let mut plan = Plan::default();
            keys.iter().for_each(|key| plan.delete(key.as_str()));
            Ok((plan, ()))
        })
        .await?;
    }
    let newest = app.cache.now();
    app.store.compact(hull_store::Revision(newest.saturating_sub(HISTORY))).await.map_err(store_error)
}

async fn old_replays(app: &App, now: Timestamp) -> Result<Vec<String>> {
    let mut old = Vec::new();
    let mut after = None::<hull_store::Key>;
    loop {
        let page = app.store.list(keys::REPLAYS, after.as_deref(), 1_000).await.map_err(store_error)?;
        for entry in &page.entries {
            // What cannot be read can answer nobody.
            let age = hull_store::json::parse::<Replay>(entry).map(|replay| since(now, replay.value.at));
            if age.is_ok_and(|age| age < replay::KEPT) {
                continue;
            }
            old.push(entry.key.to_string());
        }
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more {
            return Ok(old);
        }
    }
}
