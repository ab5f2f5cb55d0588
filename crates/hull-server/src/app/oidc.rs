//! Logging in by the word of an identity provider (OpenID Connect).
//!
//! ```text
//!   CLI ──browser or device flow──> provider ──ID token──> CLI ──> POST /v1/auth/oidc ──> signature, claims ──> user ──> signed token
//! ```
//!
//! Hull never sees the provider's passwords and holds no secret of it: clients are public ones with PKCE (RFC 8252). It is set up by
//! `oidc.yaml` in the data directory; the provider's keys are fetched when first needed, and again when a token names one that is not known.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hull_core::oidc::{Person, Rules};
use hull_store::Compare;
use hull_types::{
    error::{Error, ErrorKind, Result},
    id::{SessionId, UserId},
    session::EndedSession,
    wire::{OidcLogin, OidcMethod, Session, UserCreate},
};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use reqwest::{Certificate, Client, redirect::Policy};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokio::{sync::Semaphore, time::Instant};
use url::{Host, Url};
use uuid::Uuid;

use super::{
    App,
    ctx::{Caller, Ctx},
    token::digest,
};
use crate::state::{keys::Kind, repo::Plan};

/// How long the provider may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most it may answer.
const ANSWER_MAX: usize = 1 << 20;
/// Keys older than this are fetched again when next needed,
const FRESH: Duration = Duration::from_secs(3600);
/// and for a token with an unknown key no oftener than this.
const PAUSE: Duration = Duration::from_secs(10);

/// `oidc.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// The provider: `https://…`, exactly as its tokens say it.
    pub issuer: String,
    /// Hull's id there: a public client that may use loopback redirects.
    pub client_id: String,
    /// The claim with the user's name.
    #[serde(default = "user_claim")]
    pub user_claim: String,
    /// The claim with their groups. Each is a user group of the same name here, if there is one.
    #[serde(default = "groups_claim")]
    pub groups_claim: String,
    /// What clients ask for beside `openid`.
    #[serde(default = "scopes")]
    pub scopes: Vec<String>,
    /// Signature algorithms that are believed.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<Algorithm>,
    /// A further CA for the provider's own TLS: a PEM file.
    #[serde(default)]
    pub ca_file: Option<std::path::PathBuf>,
}

fn user_claim() -> String {
    "preferred_username".to_owned()
}

fn groups_claim() -> String {
    "groups".to_owned()
}

fn scopes() -> Vec<String> {
    ["profile", "email"].map(str::to_owned).into()
}

fn algorithms() -> Vec<Algorithm> {
    vec![Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA]
}

/// An identity provider.
pub struct Provider {
    config: OidcConfig,
    http: Client,
    keys: Mutex<Option<Keys>>,
    fetching: Semaphore,
}

#[derive(Clone)]
struct Keys {
    set: Arc<JwkSet>,
    at: Instant,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: Url,
}

impl Provider {
    /// Reads the configuration; none where there is no file.
    ///
    /// # Errors
    /// `Invalid`, saying what is wrong in the file.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let bad = |why: String| Error::invalid(format!("{}: {why}", path.display()));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(bad(format!("cannot be read: {e}"))),
        };
        let config: OidcConfig = serde_norway::from_str(&text).map_err(|e| bad(e.to_string()))?;
        Self::new(config).map(Some).map_err(|e| bad(e.detail))
    }

    /// A provider, asked when first needed.
    ///
    /// # Errors
    /// `Invalid` for an issuer that is not to be trusted, or symmetric algorithms.
    pub fn new(config: OidcConfig) -> Result<Self> {
        let issuer = Url::parse(&config.issuer);
        let issuer = issuer.map_err(|e| Error::invalid(format!("issuer {:?}: {e}", config.issuer)))?;
        secure(&issuer)?;
        let symmetric = |it: &&Algorithm| matches!(it, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
        if let Some(it) = config.algorithms.iter().find(symmetric) {
            return Err(Error::invalid(format!(
                "{it:?} signs with a shared secret, which Hull does not keep; remove it"
            )));
        }
        if config.algorithms.is_empty() || config.client_id.is_empty() {
            return Err(Error::invalid("a client id and at least one algorithm are needed"));
        }
        // Whoever installs a provider first wins, and it is the same one everywhere.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut roots = Vec::new();
        if let Some(file) = &config.ca_file {
            let bad = |e: &dyn std::fmt::Display| Error::invalid(format!("{}: {e}", file.display()));
            let pem = std::fs::read(file).map_err(|e| bad(&e))?;
            roots = Certificate::from_pem_bundle(&pem).map_err(|e| bad(&e))?;
        }
        let http = Client::builder()
            .redirect(Policy::none())
            .timeout(PATIENCE)
            .user_agent(concat!("hull/", env!("CARGO_PKG_VERSION")))
            .tls_certs_merge(roots)
            .build()
            .map_err(|e| Error::internal(format!("cannot make an HTTP client: {e}")))?;
        Ok(Self { config, http, keys: Mutex::default(), fetching: Semaphore::new(1) })
    }

    /// What clients need to know.
    pub fn method(&self) -> OidcMethod {
        let OidcConfig { issuer, client_id, scopes, .. } = self.config.clone();
        OidcMethod { issuer, client_id, scopes }
    }

    /// Who a token is about.
    async fn person(&self, token: &str, nonce: Option<&str>, now: hull_types::Timestamp) -> Result<Person> {
        let claims = self.claims(token).await?;
        let OidcConfig { issuer, client_id, user_claim, groups_claim, .. } = &self.config;
        hull_core::oidc::judge(&claims, &Rules { issuer, client_id, user_claim, groups_claim }, nonce, now)
    }

    /// What a token says, its signature checked.
    async fn claims(&self, token: &str) -> Result<Map<String, Value>> {
        let refuse =
            |why: &str| Error::unauthenticated(format!("the identity provider's token is not accepted: {why}"));
        if token.len() > 64 << 10 {
            return Err(refuse("it is too long"));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| refuse("it is no signed token"))?;
        if !self.config.algorithms.contains(&header.alg) {
            return Err(refuse(&format!("it is signed by {:?}, which is not among those allowed", header.alg)));
        }
        let (mut rules, kid) = (Validation::new(header.alg), header.kid.as_deref());
        // The library knows the machine's clock only; these are judged in `hull_core::oidc`.
        (rules.validate_exp, rules.validate_aud) = (false, false);
        rules.required_spec_claims.clear();
        for jwk in self.keys(kid).await?.keys.iter().filter(|jwk| fits(jwk, kid)) {
            let Ok(key) = DecodingKey::from_jwk(jwk) else { continue };
            if let Ok(data) = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &rules) {
                return Ok(data.claims);
            }
        }
        Err(refuse("no key of the provider's has signed it"))
    }

    /// The provider's keys: those known, unless they are old or lack the one wanted.
    async fn keys(&self, kid: Option<&str>) -> Result<Arc<JwkSet>> {
        if let Some(set) = self.known(kid) {
            return Ok(set);
        }
        // One asks, the others wait for what it learns.
        let _turn = self.fetching.acquire().await.map_err(|e| Error::internal(e.to_string()))?;
        if let Some(set) = self.known(kid) {
            return Ok(set);
        }
        let set = Arc::new(self.fetch().await?);
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Some(Keys { set: set.clone(), at: Instant::now() });
        Ok(set)
    }

    fn known(&self, kid: Option<&str>) -> Option<Arc<JwkSet>> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let age = keys.at.elapsed();
        let has = keys.set.keys.iter().any(|jwk| fits(jwk, kid));
        (age < PAUSE || (has && age < FRESH)).then_some(keys.set)
    }

    async fn fetch(&self) -> Result<JwkSet> {
        let issuer = &self.config.issuer;
        let place = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let place = Url::parse(&place).map_err(|e| Error::internal(format!("{place}: {e}")))?;
        let found: Discovery = self.get(&place).await?;
        if found.issuer != *issuer {
            return Err(Error::unavailable(format!(
                "the identity provider calls itself {:?} and not {issuer:?}; put that into oidc.yaml if it is right",
                found.issuer
            )));
        }
        secure(&found.jwks_uri)?;
        self.get(&found.jwks_uri).await
    }

    async fn get<T: DeserializeOwned>(&self, url: &Url) -> Result<T> {
        let bad = |why: String| Error::unavailable(format!("the identity provider does not answer at {url}: {why}"));
        let mut answer = self.http.get(url.clone()).send().await.map_err(|e| bad(e.to_string()))?;
        if !answer.status().is_success() {
            return Err(bad(answer.status().to_string()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| bad(e.to_string()))? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_MAX {
                return Err(bad("the answer does not end".to_owned()));
            }
        }
        serde_json::from_slice(&body).map_err(|e| bad(e.to_string()))
    }
}

/// Whether a token with this key id may be signed by this key.
fn fits(jwk: &Jwk, kid: Option<&str>) -> bool {
    let signs = jwk.common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature);
    signs && kid.is_none_or(|kid| jwk.common.key_id.as_deref() == Some(kid))
}

/// Keys that come unencrypted are anyone's, unless they come from this very host.
fn secure(url: &Url) -> Result<()> {
    let loopback = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if loopback => Ok(()),
        _ => Err(Error::invalid(format!(
            "{url} is not an https:// address; an identity provider is believed over TLS only"
        ))),
    }
}

impl App {
    /// Says by which provider people may log in; the first word counts.
    pub fn set_oidc(&self, provider: Provider) {
        // A server has one for its whole life.
        _ = self.oidc.set(provider);
    }

    /// Logs in who a provider's ID token is about; they become a user here when they come first.
    ///
    /// # Errors
    /// `Unsupported` without a provider; `Unauthenticated` for a token that is not accepted or was used before; `Unavailable` where the
    /// provider does not answer; `TooManyRequests`.
    pub async fn login_oidc(&self, request: &OidcLogin, from: Option<std::net::IpAddr>) -> Result<Session> {
        let provider = self.oidc.get().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "this server knows no identity provider; log in with a password")
        })?;
        self.guard.admit_address(from, self.env.now())?;
        let now = self.env.now();
        let person = provider.person(request.id_token.expose(), request.nonce.as_deref(), now).await?;
        let user = self.provision(&person).await?;
        self.use_once(request.id_token.expose(), &person).await?;
        self.begin(user, (request.project.as_deref(), request.system)).await
    }

    /// An ID token that someone else has seen serves them nothing any more.
    async fn use_once(&self, token: &str, person: &Person) -> Result<()> {
        let mut name = [0; 16];
        name.copy_from_slice(&digest(token).0[..16]);
        let id = SessionId(Uuid::from_bytes(name));
        // As long as it could be shown again: its own time, and the clocks' difference.
        let expires_at = person.expires_at.checked_add(jiff::SignedDuration::from_mins(2)).unwrap_or(person.expires_at);
        self.plan(&Ctx::of(Caller::SERVER), |_, _| {
            let mut plan = Plan::default();
            let key = Kind::EndedSession.key(id.0);
            let used = Error::unauthenticated("this log-in at the identity provider was used already; log in again");
            plan.when(Compare::Absent(key.clone().into()), Some(used));
            plan.put(key, &EndedSession { id, expires_at })?;
            Ok((plan, ()))
        })
        .await
        .map(|done| done.answer)
    }

    /// The user who is this person, made now where there is none. A user of the same name is somebody else.
    async fn provision(&self, person: &Person) -> Result<UserId> {
        let mut names = person.names.iter();
        loop {
            let outcome = self
                .change(&Ctx::of(Caller::SERVER), |state, call| {
                    if let Some(user) = state.people.by_identity(&person.identity) {
                        if !user.enabled {
                            return Err(Error::unauthenticated("this user is disabled; ask a system admin"));
                        }
                        return Ok((hull_core::user::regroup(user, &person.groups, call), user.id));
                    }
                    let free = |name: &&hull_types::name::Name| state.people.users.named(None, name.as_str()).is_none();
                    let name = names.clone().find(free).ok_or_else(|| {
                        Error::conflict("every name you could have here is somebody else's; ask a system admin")
                    })?;
                    let request = UserCreate {
                        name: name.clone(),
                        email: person.email.clone(),
                        display_name: person.display_name.clone(),
                        enabled: true,
                        password: None,
                        must_change_password: false,
                    };
                    Ok(hull_core::user::provision(request, person.identity.clone(), &person.groups, call))
                })
                .await;
            match outcome {
                // Taken in this very moment, perhaps by the same person: look again.
                Err(error) if error.kind == ErrorKind::AlreadyExists && names.next().is_some() => {}
                outcome => return outcome.map(|done| done.answer),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(issuer: &str, more: &str) -> Result<Provider> {
        let config = format!("issuer: {issuer}\nclient_id: hull\n{more}");
        Provider::new(serde_norway::from_str(&config).unwrap())
    }

    #[test]
    fn providers_are_believed_over_tls_only() {
        assert!(config("https://id.example", "").is_ok());
        assert!(config("http://127.0.0.1:3000", "").is_ok());
        assert!(config("http://[::1]:3000", "").is_ok());
        for issuer in ["http://id.example", "http://127.0.0.1.evil.example", "ftp://id.example", "file:///etc"] {
            assert!(config(issuer, "").is_err(), "{issuer}");
        }
    }

    #[test]
    fn shared_secrets_sign_nothing() {
        assert!(config("https://id.example", "algorithms: [HS256]").is_err());
        assert!(config("https://id.example", "algorithms: []").is_err());
        assert!(config("https://id.example", "algorithms: [ES384]").is_ok());
    }
}
