//! Who calls: the bearer of a token, or root on this machine by the unix socket.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use hull_types::{
    digest::Digest,
    error::{Error, ErrorKind, Result},
    id::TokenId,
};
use sha2::Digest as _;
use tokio::time::Instant;

use super::{extract::parameter, problem::Refusal};
use crate::{
    app::{App, ctx::Caller, token::works},
    tls::Peer,
};

/// Calls a second that one token may make in the long run, and at once.
const RATE: f64 = 1_000.0;
const BURST: f64 = 5_000.0;

/// Authenticates, counts against the token's rate, and waits for the newest state where `?consistent=true` asks for it.
pub(crate) async fn authenticate(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let caller = match gate.admit(&request) {
        Ok(caller) => caller,
        Err(error) => return Refusal(error).into_response(),
    };
    request.extensions_mut().insert(caller);
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
    buckets: Mutex<HashMap<TokenId, Bucket>>,
}

impl Gate {
    pub(crate) fn new(app: Arc<App>) -> Arc<Self> {
        Arc::new(Self { app, buckets: Mutex::default() })
    }

    fn admit(&self, request: &Request) -> Result<Caller> {
        if request.extensions().get::<Peer>() == Some(&Peer::LocalRoot) {
            return Ok(Caller::LOCAL_ROOT);
        }
        let secret = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(|| Error::unauthenticated("this needs a token: send `Authorization: Bearer <token>`"))?;
        let caller = self.bearer(secret.trim())?;
        if let Some(token) = caller.token() {
            self.count(token)?;
        }
        Ok(caller)
    }

    /// The caller a secret stands for. The lookup is by the secret's SHA-256, so its timing tells nothing of the secret.
    fn bearer(&self, secret: &str) -> Result<Caller> {
        let digest = Digest(sha2::Sha256::digest(secret).into());
        let now = self.app.env().now();
        self.app
            .cache()
            .read(|state| {
                let token = state.token_by_secret(&digest)?;
                works(token.created_at, token.expires_at, now).then(|| Caller::bearer(token))
            })
            .ok_or_else(|| {
                Error::unauthenticated(
                    "the token is unknown or has expired (or the server's clock is before it was made); an admin makes a new one with `hull token create`",
                )
            })
    }

    fn count(&self, token: TokenId) -> Result<()> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(token).or_insert_with(|| Bucket { left: BURST, at: Instant::now() });
        if bucket.take(Instant::now()) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::TooManyRequests, "this token calls too often; wait a second, then go on more slowly"))
    }
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
