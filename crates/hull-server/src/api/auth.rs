//! Who calls, and whether they may do this at all. The bearer of a token, or root on this machine by the unix socket.
//!
//! What the router matched is an operation of `hull_core::policy`. One without a row there is refused to everyone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use hull_core::policy::{Act, Place, Verdict, Who};
use hull_types::error::{Error, ErrorKind, Result};
use tokio::time::Instant;
use uuid::Uuid;

use super::{extract::parameter, problem::Refusal, trail};
use crate::{
    app::{App, ctx::Caller},
    tls::Peer,
};

/// Calls a second that one caller may make in the long run, and at once.
const RATE: f64 = 1_000.0;
const BURST: f64 = 5_000.0;

/// Authenticates, counts against the caller's rate, asks the policy, and waits for the newest state where `?consistent=true` asks for it.
pub(crate) async fn authenticate(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    match gate.admit(&request) {
        Ok((act, caller)) => {
            request.extensions_mut().insert(act);
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
        }
        Err(error) => return Refusal(error).into_response(),
    }
    let consistent = request.uri().query().and_then(|query| parameter(query, "consistent"));
    if consistent.as_deref() == Some("true")
        && let Err(error) = gate.app.catch_up().await
    {
        return Refusal(error).into_response();
    }
    next.run(request).await
}

/// Lets callers in.
pub(crate) struct Gate {
    app: Arc<App>,
    buckets: Mutex<HashMap<Uuid, Bucket>>,
}

impl Gate {
    pub(crate) fn new(app: Arc<App>) -> Arc<Self> {
        Arc::new(Self { app, buckets: Mutex::default() })
    }

    /// What is wanted, and who wants it: nobody in particular where everyone may.
    fn admit(&self, request: &Request) -> Result<(Act, Option<Caller>)> {
        let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let act = Act::of(request.method().as_str(), path);
        if let Some(act) = act.filter(|act| act.who() == Who::Everyone) {
            return Ok((act, None));
        }
        let caller = self.caller(request)?;
        trail::known(&self.app, request, &caller);
        let act = act.ok_or_else(|| without_row(request, path))?;
        if caller.must_change_password && !act.before_new_password() {
            return Err(Error::forbidden(
                "you must choose another password first: `hull user set-password` does it, or PUT /v1/users/{you}/password",
            ));
        }
        match caller.may(act.who(), Place::Somewhere) {
            Verdict::Allow => Ok((act, Some(caller))),
            Verdict::Hide => Err(Error::not_found("there is nothing here for you")),
            Verdict::Refuse(why) => Err(Error::forbidden(why)),
        }
    }

    fn caller(&self, request: &Request) -> Result<Caller> {
        if request.extensions().get::<Peer>() == Some(&Peer::LocalRoot) {
            return Ok(Caller::LOCAL_ROOT);
        }
        let secret = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(|| {
                Error::unauthenticated("this needs a token: `hull login`, or send `Authorization: Bearer <token>`")
            })?;
        let caller = self.app.bearer(secret.trim())?;
        if let Some(principal) = caller.principal() {
            self.count(principal)?;
        }
        Ok(caller)
    }

    fn count(&self, principal: Uuid) -> Result<()> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(principal).or_insert_with(|| Bucket { left: BURST, at: Instant::now() });
        if bucket.take(Instant::now()) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::TooManyRequests, "you call too often; wait a second, then go on more slowly"))
    }
}

/// A method that no operation of this path has, or (a defect that a test finds) an operation without a row.
fn without_row(request: &Request, path: &str) -> Error {
    let method = request.method();
    if Act::ALL.iter().any(|act| act.path() == path) {
        return Error::invalid(format!("{path:?} does not take {method}; `/v1/openapi.json` lists what it takes"));
    }
    Error::forbidden(format!("no rule says who may {method} {path}, so nobody may; please report this"))
}

/// A token bucket.
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * RATE).min(BURST);
        self.at = now;
        let some = self.left >= 1.0;
        if some {
            self.left -= 1.0;
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_lets_a_burst_through_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket { left: BURST, at: start };
        assert_eq!((0..10_000).filter(|_| bucket.take(start)).count(), 5_000);
        assert_eq!((0..10_000).filter(|_| bucket.take(start + Duration::from_secs(1))).count(), 1_000);
    }
}
