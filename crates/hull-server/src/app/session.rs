//! Logging in and being known afterwards.
//!
//! ```text
//!   name + password ──┐
//!   app credential ───┼──> signed token ──each call──> user, groups, roles as they are now ──> Caller
//!   identity provider ┘        │ renew, logout
//! ```
//!
//! | a bearer's text | is |
//! |---|---|
//! | `hull_…` | an API token: one role in one scope |
//! | `hullapp_…` | an application credential |
//! | `ey….….…` | a signed token |

use std::{net::IpAddr, sync::Arc};

use hull_core::policy::Grants;
use hull_types::{
    Timestamp,
    app_credential::AppCredential,
    error::{Error, ErrorKind, Result},
    event::Actor,
    id::UserId,
    sensitive::Sensitive,
    session::{Claims, EndedSession, SigningKey},
    token::Scope,
    user::User,
    wire::{AuthMethods, Grant, Login, Session, WhoAmI},
};

use super::{
    App,
    app_credential::PREFIX,
    ctx::{Caller, Ctx, FreshEnv, by_text},
    signing,
    token::{digest, works},
};
use crate::state::{keys::Kind, people::People, repo::Plan, view::State};

impl App {
    /// Who bears this text.
    ///
    /// # Errors
    /// `Unauthenticated`.
    pub(crate) fn bearer(&self, text: &str) -> Result<Caller> {
        let caller = self.borne(text)?;
        Ok(Caller { bearer: Some(Arc::new(Sensitive::new(text))), ..caller })
    }

    fn borne(&self, text: &str) -> Result<Caller> {
        let now = self.env.now();
        if signing::looks_signed(text) {
            return self.cache.read(|state| {
                let claims = signing::verify(text, |kid| state.people.keys.get(kid).map(|key| &*key.value));
                let over =
                    || Error::unauthenticated("the session is over or its token unknown; log in with `hull login`");
                signed(&state.people, claims.ok_or_else(over)?, now).ok_or_else(over)
            });
        }
        // The lookup is by the secret's SHA-256, so its timing tells nothing of the secret.
        let wanted = digest(text);
        self.cache
            .read(|state| {
                if text.starts_with(PREFIX) {
                    let credential = state.people.credential_by_secret(&wanted)?;
                    return program(&state.people, credential, now);
                }
                let token = state.token_by_secret(&wanted)?;
                let alive = works(token.created_at, token.expires_at, now);
                let grants = Grants::of(token.role, token.scope);
                alive.then(|| Caller::new(Actor::Token { token: token.id }, grants))
            })
            .ok_or_else(|| {
                Error::unauthenticated(
                    "the token is unknown or has expired (or the server's clock is before it was made); `hull login` gives a new one, or an admin with `hull token create`",
                )
            })
    }

    /// How one can log in.
    pub fn auth_methods(&self) -> AuthMethods {
        AuthMethods { password: true, oidc: self.oidc.get().map(super::oidc::Provider::method) }
    }

    /// Logs a user in by their password.
    ///
    /// # Errors
    /// `Unauthenticated`, the same for an unknown user, a wrong password and a user who is disabled; `TooManyRequests`; `NotFound` for
    /// the scope asked for.
    pub async fn login(&self, request: &Login, from: Option<IpAddr>) -> Result<Session> {
        if request.user.len() > 1024 || request.password.expose().len() > hull_core::user::PASSWORD_MAX {
            return Err(Error::invalid("nobody has so long a name or password"));
        }
        self.guard.admit(&request.user, from, self.env.now())?;
        let (user, phc) = self.cache.read(|state| {
            let user = state.people.users.named(None, &request.user);
            (user.map(|user| user.id), user.and_then(|user| state.people.phc(user.id).cloned()))
        });
        let known = self.passwords.matches(&request.password, phc.as_ref()).await?;
        let now = self.env.now();
        let enabled =
            |id: &UserId| self.cache.read(|state| state.people.users.get(*id).is_some_and(|user| user.enabled));
        let Some(user) = user.filter(|_| known).filter(enabled) else {
            self.guard.failed(&request.user, now);
            tracing::info!(source = ?from, "a log-in failed");
            return Err(Error::unauthenticated("there is no such user, or the password is another; try again"));
        };
        self.guard.forgive(&request.user);
        self.begin(user, (request.project.as_deref(), request.system)).await
    }

    /// Begins a session of a user who has proved elsewhere who they are.
    ///
    /// # Errors
    /// `Unauthenticated` where there is no such user.
    pub async fn begin_session(&self, user: UserId) -> Result<Session> {
        self.begin(user, (None, false)).await
    }

    /// Begins a session, limited to a project or to the system where that is asked.
    pub(super) async fn begin(&self, user: UserId, limit: (Option<&str>, bool)) -> Result<Session> {
        let claims = self.cache.read(|state| {
            let scope = scope(state, user, limit)?;
            let user = state.people.users.get(user).ok_or_else(|| Error::unauthenticated("there is no such user"))?;
            Ok::<_, Error>(self.called(|call| hull_core::session::begin(user, scope, None, call)))
        })?;
        self.session(&claims).await
    }

    /// Another token for who has one: a signed one, or an application credential.
    ///
    /// # Errors
    /// `Conflict` for callers who have neither; `Unauthenticated` where the log-in is too long ago.
    pub async fn renew(&self, ctx: &Ctx) -> Result<Session> {
        let claims = match (&ctx.caller.session, &ctx.caller.actor) {
            (Some(claims), _) => self.called(|call| hull_core::session::renew(claims, call))?,
            (None, Actor::AppCredential { user, credential }) => self.cache.read(|state| {
                let gone = || Error::unauthenticated("the application credential is gone");
                let user = state.people.users.get(*user).ok_or_else(gone)?;
                let credential = state.people.credentials.get(*credential).ok_or_else(gone)?;
                Ok::<_, Error>(self.called(|call| hull_core::session::begin(user, None, Some(credential), call)))
            })?,
            (None, _) => {
                return Err(Error::conflict(
                    "only signed tokens are renewed, and application credentials turned into them; API tokens last as long as they were made for",
                ));
            }
        };
        self.session(&claims).await
    }

    /// Ends the session of the caller's token, at once.
    ///
    /// # Errors
    /// `Conflict` for callers without one.
    pub async fn logout(&self, ctx: &Ctx) -> Result<()> {
        let claims = ctx.caller.session.as_ref().ok_or_else(|| {
            Error::conflict("only signed tokens are logged out; revoke an API token with `hull token delete`")
        })?;
        let expires_at = moment(claims.exp)?;
        self.plan(ctx, |_, _| {
            let ended = EndedSession { id: claims.jti, expires_at };
            let mut plan = Plan::default();
            plan.put(Kind::EndedSession.key(ended.id.0), &ended)?;
            Ok((plan, ()))
        })
        .await
        .map(|done| done.answer)
    }

    /// Who the caller is.
    pub fn whoami(&self, ctx: &Ctx) -> WhoAmI {
        let caller = &ctx.caller;
        let user = match caller.actor {
            Actor::User { user } | Actor::AppCredential { user, .. } => Some(user),
            Actor::Token { .. } | Actor::LocalRoot | Actor::Server | Actor::Node { .. } => None,
        };
        let name =
            user.and_then(|id| self.cache.read(|state| state.people.users.get(id).map(|user| user.name.to_string())));
        let roles = caller.grants.list();
        let only = match roles[..] {
            [only] => Some(only),
            _ => None,
        };
        let (role, scope) = only.map(|Grant { role, scope }| (role, scope)).unzip();
        WhoAmI { actor: caller.actor.clone(), name, role, scope, roles }
    }

    async fn session(&self, claims: &Claims) -> Result<Session> {
        let key = self.signing_key().await?;
        let must_change_password =
            self.cache.read(|state| state.people.users.get(claims.sub).is_some_and(|user| user.must_change_password));
        Ok(Session {
            token: signing::sign(claims, &key)?.into(),
            expires_at: moment(claims.exp)?,
            renewable_until: moment(hull_core::session::renewable_until(claims))?,
            must_change_password,
        })
    }

    async fn signing_key(&self) -> Result<SigningKey> {
        let now = self.env.now();
        let present = self.cache.read(|state| {
            let keys = state.people.keys.iter().map(|key| &*key.value);
            hull_core::session::signer(keys, now).cloned()
        });
        match present {
            Some(key) => Ok(key),
            None => self.new_signing_key().await,
        }
    }

    /// Makes a key to sign with from now on.
    pub(crate) async fn new_signing_key(&self) -> Result<SigningKey> {
        let seed = self.env.random::<32>();
        let key = signing::key(self.env.id(), &seed, self.env.now())?;
        self.plan(&Ctx::of(Caller::SERVER), |_, _| {
            let mut plan = Plan::default();
            plan.put(Kind::SigningKey.key(key.id.0), &key)?;
            Ok((plan, ()))
        })
        .await?;
        Ok(key)
    }

    fn called<T>(&self, decide: impl FnOnce(&mut hull_core::call::Call<'_>) -> T) -> T {
        let mut fresh = FreshEnv(&self.env);
        decide(&mut hull_core::call::Call { now: self.env.now(), actor: Actor::Server, fresh: &mut fresh })
    }
}

/// The bearer of a signed token, with the rights of this moment.
fn signed(people: &People, claims: Claims, now: Timestamp) -> Option<Caller> {
    let user = people.users.get(claims.sub)?;
    let over = !hull_core::session::alive(&claims, now)
        || claims.epoch != user.session_epoch
        || people.ended.get(claims.jti).is_some();
    if over || !user.enabled {
        return None;
    }
    let mut caller = match claims.cred {
        Some(credential) => program(people, people.credentials.get(credential)?, now)?,
        None => person(people, user),
    };
    if let Some(limit) = claims.scope {
        caller.grants = caller.grants.within(limit);
    }
    caller.session = Some(Arc::new(claims));
    Some(caller)
}

fn person(people: &People, user: &User) -> Caller {
    let must_change_password = user.must_change_password;
    Caller { must_change_password, ..Caller::new(Actor::User { user: user.id }, people.grants(user)) }
}

/// The program that bears an application credential: never more than its owner may at this moment.
fn program(people: &People, credential: &AppCredential, now: Timestamp) -> Option<Caller> {
    let user = people.users.get(credential.user)?;
    if !user.enabled || !works(credential.created_at, credential.expires_at, now) {
        return None;
    }
    let grants = people.grants(user).within(Scope::Project(credential.project)).at_most(credential.role);
    let actor = Actor::AppCredential { user: user.id, credential: credential.id };
    let must_change_password = user.must_change_password;
    Some(Caller { must_change_password, ..Caller::new(actor, grants) })
}

/// The scope a log-in asks to be limited to: one where the user has a role.
fn scope(state: &State, user: UserId, limit: (Option<&str>, bool)) -> Result<Option<Scope>> {
    let grants = state.people.users.get(user).map(|user| state.people.grants(user)).unwrap_or_default();
    match limit {
        (None, false) => Ok(None),
        (None, true) if grants.system.is_some() => Ok(Some(Scope::System)),
        (None, true) => Err(Error::forbidden("you have no role on the system; log in without asking for it")),
        (Some(_), true) => Err(Error::invalid("a token is limited to a project or to the system, not to both")),
        (Some(text), false) => {
            let project = by_text(&state.projects, None, text).filter(|it| grants.in_project(it.id).is_some());
            let missing = || Error::new(ErrorKind::NotFound, format!("you have no role in a project {text:?}"));
            Ok(Some(Scope::Project(project.ok_or_else(|| missing().at("/project"))?.id)))
        }
    }
}

fn moment(seconds: i64) -> Result<Timestamp> {
    Timestamp::from_second(seconds).map_err(|e| Error::internal(format!("a token's time is none: {e}")))
}
