//! Whether the caller of a stream that goes on may still have it: a console, a watch. An ordinary call is over before anyone
//! could take a right away; a stream is asked for again, in effect, as long as it lasts.
//!
//! ```text
//!   the state changed, or time went by ─> the bearer's text again: who, with which roles ─> policy ─> the look at what it is of
//!        ^                                                                                  │ all as before
//!        └──────────────── at most once a second ───────────────────────────────────────────┘      otherwise: why it ends
//! ```

use std::{sync::Arc, time::Duration};

use hull_core::policy::{Place, Verdict};
use hull_types::error::{Error, ErrorKind, Result};

use super::{App, ctx::Ctx};

/// Between two looks, whatever changes meanwhile.
const AT_MOST: Duration = Duration::from_secs(1);
/// Tokens expire without a change.
const AT_LEAST: Duration = Duration::from_secs(15);

impl App {
    /// Waits until a call's caller may no longer have made it, and says why: their credential is over, their role is
    /// taken, or `look` refuses them. Root on this machine stays.
    pub async fn until_revoked(self: Arc<Self>, ctx: Ctx, look: impl Fn(&Self, &Ctx) -> Result<()>) -> Error {
        let mut wake = self.cache.subscribe();
        loop {
            wake.borrow_and_update();
            match self.again(&ctx).and_then(|ctx| look(&self, &ctx)) {
                Err(error) if is_refusal(error.kind) => {
                    return Error { detail: format!("this stream is no longer yours: {}", error.detail), ..error };
                }
                _ => {}
            }
            tokio::time::sleep(AT_MOST).await;
            // Where nothing changes any more, the server is ending, and its streams with it.
            _ = tokio::time::timeout(AT_LEAST, wake.changed()).await;
        }
    }

    /// The same call with the rights of this moment.
    fn again(&self, ctx: &Ctx) -> Result<Ctx> {
        let Some(bearer) = &ctx.caller.bearer else { return Ok(ctx.clone()) };
        let caller = self.bearer(bearer.expose())?;
        match caller.may(ctx.who(), Place::Somewhere) {
            Verdict::Allow => Ok(Ctx { caller, ..ctx.clone() }),
            Verdict::Hide => Err(Error::not_found("there is nothing here for you any more")),
            Verdict::Refuse(why) => Err(Error::forbidden(why)),
        }
    }
}

/// Other errors (a node away, a VM on no node) tell nothing of the caller's rights.
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unauthenticated | ErrorKind::Forbidden | ErrorKind::NotFound)
}
