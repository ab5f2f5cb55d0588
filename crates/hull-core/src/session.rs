//! Signed tokens and the keys that sign them: how long each lasts.
//!
//! ```text
//!   key     made ──signs── NEW_KEY ──(late rotation)── SIGNS ──verifies── SIGNS + TTL, gone
//!   token   log-in ──TTL──> renewed ──TTL──> …  at most RENEWABLE after the log-in
//! ```

use std::time::Duration;

use hull_types::{
    Timestamp,
    app_credential::AppCredential,
    error::{Error, Result},
    session::{Claims, EndedSession, SigningKey},
    token::Scope,
    user::User,
};

use crate::call::Call;

/// How long a token works.
pub const TTL: Duration = Duration::from_secs(3600);
/// How long after the log-in a token can be renewed.
pub const RENEWABLE: Duration = Duration::from_secs(12 * 3600);
/// A key is followed by another after so long,
pub const NEW_KEY: Duration = Duration::from_secs(24 * 3600);
/// and signs nothing after so long, whatever became of the other.
pub const SIGNS: Duration = Duration::from_secs(48 * 3600);

/// How far ahead of the clock something may be dated and still be believed. More is from before the clock was set back.
const SKEW: i64 = 3600;

/// The key to sign with now; none where one must be made.
pub fn signer<'a>(keys: impl Iterator<Item = &'a SigningKey>, now: Timestamp) -> Option<&'a SigningKey> {
    keys.filter(|key| believed(key.created_at.as_second(), now) && age(key, now) < SIGNS)
        .max_by_key(|key| (key.created_at, key.id))
}

/// Whether another key is due.
pub fn due<'a>(keys: impl Iterator<Item = &'a SigningKey>, now: Timestamp) -> bool {
    signer(keys, now).is_none_or(|key| age(key, now) >= NEW_KEY)
}

/// Whether no token that this key signed can be alive.
pub fn spent(key: &SigningKey, now: Timestamp) -> bool {
    age(key, now) >= SIGNS + TTL
}

/// Whether something that ended early may be forgotten: no key is left that could have signed it, so that a clock set back does not bring it
/// to life again.
pub fn forgotten(ended: &EndedSession, now: Timestamp) -> bool {
    let after: Duration = now.duration_since(ended.expires_at).try_into().unwrap_or(Duration::ZERO);
    after > SIGNS + TTL
}

fn believed(at: i64, now: Timestamp) -> bool {
    at.saturating_sub(SKEW) <= now.as_second()
}

fn age(key: &SigningKey, now: Timestamp) -> Duration {
    // A clock that was set back makes a key young.
    now.duration_since(key.created_at).try_into().unwrap_or(Duration::ZERO)
}

/// What a user's token says after they proved who they are.
pub fn begin(user: &User, scope: Option<Scope>, credential: Option<&AppCredential>, call: &mut Call<'_>) -> Claims {
    let now = call.now.as_second();
    let ends = credential.and_then(|credential| credential.expires_at).map_or(i64::MAX, Timestamp::as_second);
    Claims {
        iss: Claims::ISSUER.to_owned(),
        sub: user.id,
        jti: call.id(),
        iat: now,
        exp: (now + seconds(TTL)).min(ends),
        auth_time: now,
        epoch: user.session_epoch,
        scope: scope.or(credential.map(|credential| Scope::Project(credential.project))),
        cred: credential.map(|credential| credential.id),
    }
}

/// The token that follows this one.
///
/// # Errors
/// `Unauthenticated` where the log-in is too long ago.
pub fn renew(claims: &Claims, call: &mut Call<'_>) -> Result<Claims> {
    let now = call.now.as_second();
    let last = renewable_until(claims);
    if now >= last {
        return Err(Error::unauthenticated("you logged in too long ago for this token to be renewed; log in again"));
    }
    Ok(Claims { jti: call.id(), iat: now, exp: (now + seconds(TTL)).min(last), ..claims.clone() })
}

/// Until when a token can be renewed, in seconds since 1970.
pub fn renewable_until(claims: &Claims) -> i64 {
    claims.auth_time.saturating_add(seconds(RENEWABLE))
}

/// Whether a token works now, by its own words.
pub fn alive(claims: &Claims, now: Timestamp) -> bool {
    claims.iss == Claims::ISSUER && now.as_second() < claims.exp && believed(claims.iat, now)
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_types::{id::SigningKeyId, sensitive::Sensitive};
    use uuid::Uuid;

    use super::*;
    use crate::testing::{NOW, Seeded, call};

    fn key(id: u128, hours: i64) -> SigningKey {
        let created_at = NOW.checked_add(jiff::SignedDuration::from_hours(hours)).unwrap();
        SigningKey {
            id: SigningKeyId(Uuid::from_u128(id)),
            private: Sensitive::default(),
            public: String::new(),
            created_at,
        }
    }

    fn later(hours: i64) -> Timestamp {
        NOW.checked_add(jiff::SignedDuration::from_hours(hours)).unwrap()
    }

    #[test]
    fn the_newest_key_signs_and_old_ones_verify_until_their_last_token_expired() {
        let keys = [key(1, 0), key(2, 24)];
        assert_eq!(signer(keys.iter(), later(25)).unwrap().id, keys[1].id);
        assert!(!due(keys.iter(), later(25)) && due(keys.iter(), later(48)));
        assert!(!spent(&keys[0], later(48)) && spent(&keys[0], later(49)));
        assert!(signer(keys.iter(), later(72)).is_none(), "a key too old signs nothing");
        assert!(due([].iter(), NOW));
    }

    #[test]
    fn after_a_clock_was_set_back_nothing_from_the_future_signs_or_lives() {
        let (keys, mut fresh) = ([key(1, 0)], Seeded::new(1));
        assert!(due(keys.iter(), later(-1000)), "another key signs from now");
        assert!(!spent(&keys[0], later(-1000)));
        let token = begin(&crate::user::tests::ann(), None, None, &mut call(&mut fresh));
        assert!(alive(&token, later(-1)) && !alive(&token, later(-2)), "or it would live for a thousand hours");
    }

    #[test]
    fn renewals_end() {
        let mut fresh = Seeded::new(1);
        let user = crate::user::tests::ann();
        let first = begin(&user, None, None, &mut call(&mut fresh));
        assert!(alive(&first, NOW) && !alive(&first, later(1)));
        let second = renew(&first, &mut Call { now: later(11), ..call(&mut fresh) }).unwrap();
        assert_eq!((second.auth_time, second.sub), (first.auth_time, first.sub));
        assert_ne!(second.jti, first.jti);
        assert!(second.exp <= renewable_until(&first));
        assert!(renew(&second, &mut Call { now: later(12), ..call(&mut fresh) }).is_err());
    }
}
