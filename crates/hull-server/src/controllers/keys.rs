//! The keys that sign tokens: a new one each day once there is one, and none longer than a token of it can live.

use std::time::Duration;

use hull_types::error::Result;

use crate::{
    app::{
        App,
        ctx::{Caller, Ctx},
    },
    state::{keys::Kind, repo::Plan},
};

/// A round each.
pub const PERIOD: Duration = Duration::from_secs(600);
/// Keys of the store let go in one transaction.
const BATCH: usize = 100;

/// One round.
pub async fn round(app: &App) -> Result<()> {
    let now = app.env.now();
    let (due, old) = app.cache.read(|state| {
        let people = &state.people;
        let keys = || people.keys.iter().map(|key| &*key.value);
        let spent = keys().filter(|key| hull_core::session::spent(key, now)).map(|key| Kind::SigningKey.key(key.id.0));
        let ended = people.ended.iter().filter(|ended| hull_core::session::forgotten(ended, now));
        let ended = ended.map(|ended| Kind::EndedSession.key(ended.id.0));
        // The first key is made by the first log-in: a cloud without users needs none.
        let due = !people.keys.is_empty() && hull_core::session::due(keys(), now);
        (due, spent.chain(ended).collect::<Vec<String>>())
    });
    if due {
        app.new_signing_key().await?;
    }
    for keys in old.chunks(BATCH) {
        app.plan(&Ctx::of(Caller::SERVER), |_, _| {
            let mut plan = Plan::default();
            keys.iter().for_each(|key| plan.delete(key.as_str()));
            Ok((plan, ()))
        })
        .await?;
    }
    Ok(())
}
