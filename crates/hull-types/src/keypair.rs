//! SSH public keys people put into their VMs.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{id::KeypairId, meta::Meta};

/// A public key in OpenSSH's one-line form (`ssh-ed25519 AAAA… comment`), RFC 4253 section 6.6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct PublicKey(String);

/// Why a public key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// It is a private key.
    #[error("this is a private key; give the public one (the file that ends in .pub) and keep this one secret")]
    Private,
    /// Not one line of the known form.
    #[error("not an OpenSSH public key: expected one line like `ssh-ed25519 AAAA… comment`")]
    Malformed,
    /// The type is none we know.
    #[error("{0:?} is not a known SSH key type")]
    UnknownType(String),
}

const TYPES: &[&str] = &[
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

impl PublicKey {
    /// The whole line.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key's bytes, of which fingerprints are made.
    pub fn blob(&self) -> Vec<u8> {
        self.0.split(' ').nth(1).and_then(|blob| STANDARD.decode(blob).ok()).unwrap_or_default()
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let line = text.trim();
        if line.contains("PRIVATE KEY") {
            return Err(PublicKeyError::Private);
        }
        if line.len() > 16_384 || line.chars().any(char::is_control) {
            return Err(PublicKeyError::Malformed);
        }
        let mut words = line.split_ascii_whitespace();
        let (Some(kind), Some(blob)) = (words.next(), words.next()) else { return Err(PublicKeyError::Malformed) };
        if !TYPES.contains(&kind) {
            return Err(PublicKeyError::UnknownType(kind.chars().take(40).collect()));
        }
        let bytes = STANDARD.decode(blob).map_err(|_| PublicKeyError::Malformed)?;
        let named = bytes.get(4..4 + kind.len()).is_some_and(|name| name == kind.as_bytes());
        if !named {
            return Err(PublicKeyError::Malformed);
        }
        let comment = words.collect::<Vec<_>>().join(" ");
        Ok(Self(if comment.is_empty() { format!("{kind} {blob}") } else { format!("{kind} {blob} {comment}") }))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = PublicKeyError;
    fn try_from(text: String) -> Result<Self, PublicKeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A keypair record; only the public half is ever here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Keypair {
    /// Its id.
    pub id: KeypairId,
    /// Owner, name, times.
    #[serde(flatten)]
    pub meta: Meta,
    /// The public key.
    pub public_key: PublicKey,
    /// `SHA256:<base64>`, as `ssh-keygen -l` prints it.
    pub fingerprint: String,
}
