//! Idempotency keys: a call made again under its key is answered as it was the first time, and changes nothing.
//!
//! The answer is stored in the very transaction of the change, so there is no moment in which the change is made but its
//! key forgotten. The same key with another request is refused.

use hull_store::Compare;
use hull_types::{
    Timestamp,
    digest::Digest,
    error::{Error, Result},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{App, Done, ctx::Ctx};
use crate::state::{keys, repo::Plan};

/// How long a key is remembered.
pub const KEPT: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// An answered call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Replay {
    fingerprint: Digest,
    answer: Value,
    pub(crate) at: Timestamp,
    /// The answered call's revision, where this was written anew since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
}

impl Replay {
    /// The same answer, dated anew; `modified` is when it was last written.
    pub(crate) fn dated(self, at: Timestamp, modified: u64) -> Self {
        Self { at, revision: self.revision.or(Some(modified)), ..self }
    }
}

impl App {
    /// The answer given to this call before, if it was.
    pub(super) async fn replayed<T: DeserializeOwned>(&self, ctx: &Ctx) -> Result<Option<Done<T>>> {
        let Some(wanted) = &ctx.replay else { return Ok(None) };
        let key = keys::replay(ctx.caller.principal(), &wanted.key);
        let found = hull_store::json::get_json::<Replay>(self.store.as_ref(), &key)
            .await
            .map_err(crate::state::repo::store_error)?;
        let Some(found) = found else { return Ok(None) };
        if found.value.fingerprint != wanted.fingerprint {
            return Err(Error::conflict(
                "this Idempotency-Key was used for another request; make a new key for each request",
            ));
        }
        let answer = serde_json::from_value(found.value.answer)
            .map_err(|e| Error::internal(format!("the answer stored for this key cannot be read: {e}")))?;
        if let Some(trail) = &ctx.trail {
            trail.replayed();
        }
        Ok(Some(Done { answer, revision: found.value.revision.unwrap_or(found.modified.0) }))
    }

    /// Stores the answer with the change.
    pub(super) fn remember<T: Serialize>(&self, ctx: &Ctx, plan: &mut Plan, answer: &T) -> Result<()> {
        let Some(replay) = &ctx.replay else { return Ok(()) };
        let answer =
            serde_json::to_value(answer).map_err(|e| Error::internal(format!("the answer has no JSON form: {e}")))?;
        let key = keys::replay(ctx.caller.principal(), &replay.key);
        plan.when(Compare::Absent(key.clone().into()), None);
        plan.put(key, &Replay { fingerprint: replay.fingerprint, answer, at: self.env.now(), revision: None })
    }
}
