//! Hashing of passwords: Argon2id with the parameters that OWASP recommends (19 MiB, two passes, one lane). It is slow on purpose, so it
//! runs on threads for blocking work, few at a time: a flood of log-ins costs those who log in, not the rest of the API.

use std::sync::OnceLock;

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version, password_hash::SaltString,
};
use hull_types::{
    error::{Error, Result},
    sensitive::Sensitive,
};
use tokio::sync::Semaphore;

use crate::env::Env;

/// Hashes under way at once: each needs 19 MiB and a core.
const AT_ONCE: usize = 2;
/// Those that wait for their turn; more are refused.
const WAITING: usize = 64;

/// Hashes and compares passwords.
#[derive(Debug)]
pub struct Hasher {
    turns: Semaphore,
    places: Semaphore,
    nobody: OnceLock<Sensitive>,
}

impl Default for Hasher {
    fn default() -> Self {
        Self { turns: Semaphore::new(AT_ONCE), places: Semaphore::new(WAITING), nobody: OnceLock::new() }
    }
}

impl Hasher {
    /// The hash of a password, with a salt of its own, as a PHC string.
    ///
    /// # Errors
    /// `Unavailable` where too many wait.
    pub async fn hash(&self, env: &Env, password: &Sensitive) -> Result<Sensitive> {
        let (salt, password) = (env.random::<16>(), password.clone());
        self.run(move || hash(&salt, &password)).await?
    }

    /// Whether a password is the one of this hash. Without a hash (there is no such user, or they have no password) the same work is done
    /// for nothing, so that the time it takes does not tell who exists.
    ///
    /// # Errors
    /// `Unavailable` where too many wait.
    pub async fn matches(&self, password: &Sensitive, phc: Option<&Sensitive>) -> Result<bool> {
        let nobody = match self.nobody.get() {
            Some(nobody) => nobody.clone(),
            None => {
                let made = self.run(|| hash(&[0; 16], &Sensitive::new("nobody"))).await??;
                self.nobody.get_or_init(|| made).clone()
            }
        };
        let (known, phc, password) = (phc.is_some(), phc.cloned().unwrap_or(nobody), password.clone());
        let same = self
            .run(move || {
                let phc = PasswordHash::new(phc.expose())
                    .map_err(|e| Error::internal(format!("a stored password hash cannot be read: {e}")))?;
                Ok::<_, Error>(Argon2::default().verify_password(password.expose().as_bytes(), &phc).is_ok())
            })
            .await??;
        Ok(known && same)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let busy = || Error::unavailable("too many people log in at this moment; try again in a few seconds").after(3);
        let _place = self.places.try_acquire().map_err(|_| busy())?;
        let _turn = self.turns.acquire().await.map_err(|_| busy())?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::internal(format!("a password could not be hashed: {e}")))
    }
}

fn hash(salt: &[u8], password: &Sensitive) -> Result<Sensitive> {
    let bad = |e: argon2::password_hash::Error| Error::internal(format!("a password could not be hashed: {e}"));
    let params = Params::new(19 << 10, 2, 1, None).map_err(|e| bad(e.into()))?;
    let salt = SaltString::encode_b64(salt).map_err(bad)?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password(password.expose().as_bytes(), &salt).map(|hash| hash.to_string().into()).map_err(bad)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_by_its_hash_alone() {
        let (hasher, env) = (Hasher::default(), Env::system());
        let password = Sensitive::new("correct horse");
        let (one, two) = (hasher.hash(&env, &password).await.unwrap(), hasher.hash(&env, &password).await.unwrap());
        assert!(one.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", one.expose());
        assert_ne!(one, two, "each has its own salt");
        assert!(hasher.matches(&password, Some(&one)).await.unwrap());
        assert!(!hasher.matches(&Sensitive::new("wrong"), Some(&one)).await.unwrap());
        assert!(!hasher.matches(&Sensitive::new("nobody"), None).await.unwrap(), "nobody has no password");
    }
}
