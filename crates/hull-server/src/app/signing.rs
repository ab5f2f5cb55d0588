//! Signed tokens: JSON Web Tokens (RFC 7519) signed with Ed25519 (`EdDSA`, RFC 8037). Times are judged by the server's own clock, not by
//! the library's.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::STANDARD};
use hull_types::{
    Timestamp,
    error::{Error, Result},
    id::SigningKeyId,
    session::{Claims, SigningKey},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};

/// Whether a bearer's text has the form of a signed token.
pub(crate) fn looks_signed(text: &str) -> bool {
    text.len() < 4096 && text.starts_with("ey") && text.bytes().filter(|&b| b == b'.').count() == 2
}

/// A new key of 32 random bytes.
pub(crate) fn key(id: SigningKeyId, seed: &[u8; 32], now: Timestamp) -> Result<SigningKey> {
    let bad = |e: &dyn std::fmt::Display| Error::internal(format!("a key to sign tokens could not be made: {e}"));
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|e| bad(&e))?;
    let private = pair.to_pkcs8().map_err(|e| bad(&e))?;
    Ok(SigningKey {
        id,
        private: STANDARD.encode(private.as_ref()).into(),
        public: STANDARD.encode(pair.public_key().as_ref()),
        created_at: now,
    })
}

/// Signs.
pub(crate) fn sign(claims: &Claims, key: &SigningKey) -> Result<String> {
    let bad = |why: String| Error::internal(format!("a token could not be signed: {why}"));
    let private = STANDARD.decode(key.private.expose()).map_err(|e| bad(e.to_string()))?;
    let header = Header { kid: Some(key.id.to_string()), ..Header::new(Algorithm::EdDSA) };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_ed_der(&private)).map_err(|e| bad(e.to_string()))
}

/// What a token says, where one of these keys signed it; none for whatever else it may be.
pub(crate) fn verify<'a>(token: &str, key: impl FnOnce(SigningKeyId) -> Option<&'a SigningKey>) -> Option<Claims> {
    let header = jsonwebtoken::decode_header(token).ok()?;
    let key = key(header.kid?.parse().ok()?)?;
    let public = STANDARD.decode(&key.public).ok()?;
    let mut rules = Validation::new(Algorithm::EdDSA);
    rules.validate_exp = false;
    rules.required_spec_claims.clear();
    rules.set_issuer(&[Claims::ISSUER]);
    jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_ed_der(&public), &rules).ok().map(|data| data.claims)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn claims() -> Claims {
        Claims {
            iss: Claims::ISSUER.to_owned(),
            sub: Uuid::from_u128(1).into(),
            jti: Uuid::from_u128(2).into(),
            iat: 0,
            exp: 1,
            auth_time: 0,
            epoch: 0,
            scope: None,
            cred: None,
        }
    }

    #[test]
    fn only_what_our_key_signed_is_believed() {
        let now = Timestamp::UNIX_EPOCH;
        let ours = key(Uuid::from_u128(7).into(), &[7; 32], now).unwrap();
        let theirs = SigningKey { id: ours.id, ..key(Uuid::from_u128(8).into(), &[8; 32], now).unwrap() };
        let token = sign(&claims(), &ours).unwrap();
        assert!(looks_signed(&token));
        let found = |id| (id == ours.id).then_some(&ours);
        assert_eq!(verify(&token, found), Some(claims()));
        assert_eq!(verify(&sign(&claims(), &theirs).unwrap(), found), None, "another key");
        assert_eq!(verify(&token, |_| None), None, "a key that is gone");
        let [head, body, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
        let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let other = url.encode(serde_json::to_vec(&Claims { exp: i64::MAX, ..claims() }).unwrap());
        assert_eq!(verify(&format!("{head}.{other}.{signature}"), found), None, "another text");
        let none = url.encode(format!(r#"{{"alg":"none","kid":"{}"}}"#, ours.id));
        assert_eq!(verify(&format!("{none}.{body}."), found), None, "no signature");
        let hs = url.encode(format!(r#"{{"alg":"HS256","kid":"{}"}}"#, ours.id));
        assert_eq!(verify(&format!("{hs}.{body}.{signature}"), found), None, "another algorithm");
        let foreign = Claims { iss: "elsewhere".to_owned(), ..claims() };
        assert_eq!(verify(&sign(&foreign, &ours).unwrap(), found), None, "another issuer");
        assert_eq!(verify("x.y.z", found), None);
    }
}
