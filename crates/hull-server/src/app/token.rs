//! Credentials: API tokens and join tokens. A secret is shown once; the store keeps its SHA-256.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hull_core::{
    node::{Joining, admit},
    policy::{Place, Verdict},
};
use hull_store::{Compare, Revision};
use hull_types::{
    Timestamp,
    digest::Digest,
    error::{Error, Result},
    id::{NodeId, TokenId},
    name::Name,
    token::{JoinToken, Role, Scope, Token},
    wire::{JoinTokenCreate, Secret, TokenCreate},
};
use sha2::Digest as _;

use super::{App, ctx::Ctx, list::Listing, trail::Trail};
use crate::state::{keys::Kind, repo::Plan, table::Doc};

/// What an API token's secret begins with.
pub(crate) const PREFIX: &str = "hull_";

/// How long a join token works, in hours.
pub const JOIN_HOURS: i64 = 24;

/// How tokens are listed.
pub const LISTING: Listing<Token, Token> = Listing {
    kinds: &[Kind::Token],
    table: |state| &state.tokens,
    shared: None,
    view: |_, doc, _| Token::clone(&doc.value),
};

/// The name a secret is kept under.
pub(crate) fn digest(secret: &str) -> Digest {
    Digest(sha2::Sha256::digest(secret).into())
}

impl App {
    /// 256 random bits as text.
    pub(crate) fn secret(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.env.random::<32>())
    }

    /// Makes a token for the call's project, or for the whole cloud.
    ///
    /// # Errors
    /// `Forbidden` for who would give more than they have.
    pub async fn create_token(&self, ctx: &Ctx, request: &TokenCreate) -> Result<Secret> {
        no_replay(ctx)?;
        let secret = format!("{PREFIX}{}", self.secret());
        let now = self.env.now();
        let expires_at = request.expires_in_days.map(|days| later(now, i64::from(days) * 24)).transpose()?;
        let done = self
            .plan(ctx, |state, call| {
                let scope = if request.system {
                    ctx.on_system()?;
                    Scope::System
                } else {
                    Scope::Project(ctx.project(state)?.id)
                };
                let token = Token {
                    id: call.id(),
                    name: request.name.clone(),
                    secret_digest: digest(&secret),
                    role: request.role,
                    scope,
                    created_at: call.now,
                    expires_at,
                };
                let mut plan = Plan::default();
                plan.put(Kind::Token.key(token.id.0), &token)?;
                let message = format!("made for {}", request.name);
                let event = hull_core::event::about(
                    call,
                    None,
                    ("token", token.id.0, token.name.as_str()),
                    "token.create",
                    message,
                );
                plan.put(Kind::Event.key(event.id.0), &event)?;
                Ok((plan, ()))
            })
            .await;
        done.map(|_| Secret { secret: secret.into(), expires_at })
    }

    /// Whether a caller's listing shows this token.
    pub fn lists_token(ctx: &Ctx, token: &Token) -> bool {
        let place = match token.scope {
            Scope::System => Place::System,
            Scope::Project(project) => Place::Project(project),
        };
        ctx.caller.may(ctx.who(), place) == Verdict::Allow
    }

    /// One token.
    ///
    /// # Errors
    /// `Forbidden` but for admins; `NotFound`.
    pub fn token(&self, ctx: &Ctx, text: &str) -> Result<Token> {
        self.cache.read(|state| Ok(Token::clone(&find(ctx, state, text)?.value)))
    }

    /// Revokes a token, at once.
    ///
    /// # Errors
    /// `Forbidden` but for admins; `NotFound`.
    pub async fn delete_token(&self, ctx: &Ctx, text: &str) -> Result<()> {
        self.plan(ctx, |state, call| {
            let token = find(ctx, state, text)?;
            let mut plan = Plan::default();
            plan.delete(Kind::Token.key(token.id.0));
            let about = ("token", token.id.0, token.name.as_str());
            let event = hull_core::event::about(call, None, about, "token.delete", "revoked");
            plan.put(Kind::Event.key(event.id.0), &event)?;
            Ok((plan, ()))
        })
        .await
        .map(|done| done.answer)
    }

    /// Makes a token by which a host may join, for [`JOIN_HOURS`]: `hull-join:<server>:<CA fingerprint>:<secret>`.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `Unavailable` where this server listens to its own host only.
    pub async fn create_join_token(&self, ctx: &Ctx, request: &JoinTokenCreate) -> Result<Secret> {
        ctx.on_system()?;
        no_replay(ctx)?;
        let door = self.door.get().ok_or_else(|| {
            Error::unavailable("this server does not listen on the network; start it with --listen <address>")
        })?;
        let secret = self.secret();
        let expires_at = later(self.env.now(), JOIN_HOURS)?;
        self.plan(ctx, |_, call| {
            let join = JoinToken {
                id: call.id(),
                secret_digest: digest(&secret),
                reusable: request.reusable,
                name: request.name.clone(),
                created_at: call.now,
                expires_at,
            };
            let mut plan = Plan::default();
            plan.put(Kind::Join.key(join.id.0), &join)?;
            Ok((plan, ()))
        })
        .await?;
        let text = format!("hull-join:{}:{}:{secret}", door.address, door.fingerprint);
        Ok(Secret { secret: text.into(), expires_at: Some(expires_at) })
    }

    /// A host joins under this name by a token's secret; `proves` is the node whose certificate it showed. A token that is
    /// not reusable goes in the same transaction, so that no two hosts join with it.
    ///
    /// # Errors
    /// `Unauthenticated` for a secret that does not work (any more); the decision's; the store's.
    pub async fn join_by_token(
        &self,
        secret: &str,
        name: &Name,
        proves: Option<NodeId>,
        trail: Option<Trail>,
    ) -> Result<NodeId> {
        let wanted = digest(secret);
        let ctx = Ctx { trail, ..Ctx::of(super::ctx::Caller::SERVER) };
        let done = self
            .plan(&ctx, |state, call| {
                let works = |join: &&Doc<JoinToken>| {
                    join.secret_digest == wanted && works(join.created_at, Some(join.expires_at), call.now)
                };
                let token = state.joins.iter().find(works).ok_or_else(|| {
                    Error::unauthenticated(
                        "the join token is unknown, was used, or has expired; make a new one with `hull node join-token`",
                    )
                })?;
                let there = state.nodes.named(None, name.as_str()).map(|node| &*node.value);
                let (id, changes) = admit(&Joining { token, name, there, proves }, call)?;
                let mut plan = Plan::new(changes, state)?;
                let key = Kind::Join.key(token.id.0);
                plan.when(Compare::Modified(key.clone().into(), Revision(token.revision)), None);
                if !token.reusable {
                    plan.delete(key);
                }
                Ok((plan, id))
            })
            .await?;
        Ok(done.answer)
    }

    /// Makes the first system admin's token where there is no token at all; answers its secret then.
    ///
    /// # Errors
    /// The store's.
    pub async fn first_token(&self, name: &Name) -> Result<Option<String>> {
        if self.cache.read(|state| !state.tokens.is_empty()) {
            return Ok(None);
        }
        let ctx = Ctx::of(super::ctx::Caller::SERVER);
        let request = TokenCreate { name: name.clone(), role: Role::Admin, system: true, expires_in_days: None };
        self.create_token(&ctx, &request).await.map(|made| Some(made.secret.expose().to_owned()))
    }
}

fn find<'a>(
    ctx: &Ctx,
    state: &'a crate::state::view::State,
    text: &str,
) -> Result<&'a crate::state::table::Doc<Token>> {
    // Tokens' names need not be unique, so only ids name them.
    let token = text.parse::<TokenId>().ok().and_then(|id| state.tokens.get(id));
    token.filter(|token| App::lists_token(ctx, token)).ok_or_else(|| super::ctx::missing::<Token>(text, None))
}

pub(crate) fn no_replay(ctx: &Ctx) -> Result<()> {
    match ctx.replay {
        // A stored answer would keep the secret, which is to be seen once and kept nowhere.
        Some(_) => {
            Err(Error::invalid("secrets are not made under an Idempotency-Key; leave it out").at("Idempotency-Key"))
        }
        None => Ok(()),
    }
}

/// How much earlier than a token was made the clock may say it is, in seconds, before it is not believed.
const SKEW: i64 = 3600;

/// Whether a credential that was made then works now. One that expires does not work before it was made either: a clock set
/// back by years shall not lengthen its life by years.
pub(crate) fn works(created_at: Timestamp, expires_at: Option<Timestamp>, now: Timestamp) -> bool {
    expires_at.is_none_or(|until| now < until && created_at.as_second() - SKEW <= now.as_second())
}

pub(crate) fn later(now: Timestamp, hours: i64) -> Result<Timestamp> {
    now.checked_add(jiff::SignedDuration::from_hours(hours)).map_err(|_| Error::invalid("that expiry is too far away"))
}
