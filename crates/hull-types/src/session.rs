//! Sessions: what logging in gives is a short-lived signed token (a JWT, RFC 7519). It names the user, not their rights: those are
//! looked up at each call, so that what is taken away is gone at once.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    id::{AppCredentialId, SessionId, SigningKeyId, UserId},
    sensitive::Sensitive,
    token::Scope,
};

/// What a signed token says. Times are seconds since 1970, as RFC 7519 has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Always [`Claims::ISSUER`].
    pub iss: String,
    /// The user.
    pub sub: UserId,
    /// This token's id.
    pub jti: SessionId,
    /// When it was signed.
    pub iat: i64,
    /// When it stops working.
    pub exp: i64,
    /// When the user proved who they are; stays through renewals.
    pub auth_time: i64,
    /// The user's session epoch then.
    pub epoch: u64,
    /// Where it works, if not everywhere the user has a role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// The application credential it was made from; it gives no more than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cred: Option<AppCredentialId>,
}

impl Claims {
    /// Who signs.
    pub const ISSUER: &'static str = "hull";
}

/// A key that signs tokens, as the store keeps it: Ed25519.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// The key's id: the `kid` of tokens.
    pub id: SigningKeyId,
    /// The private key, PKCS#8 in base64.
    pub private: Sensitive,
    /// The public key, 32 bytes in base64.
    pub public: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A signed token that was given back before its time. Kept until it would have expired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedSession {
    /// The token's id.
    pub id: SessionId,
    /// When it would have expired.
    pub expires_at: Timestamp,
}

impl EndedSession {
    /// Its id, untyped.
    pub fn uuid(&self) -> Uuid {
        self.id.0
    }
}
