//! Application credentials: each user's own.

use hull_core::policy::Place;
use hull_types::{
    app_credential::AppCredential,
    error::{Error, Result},
    wire::{AppCredentialCreate, Secret},
};

use super::{
    App,
    ctx::{Ctx, missing},
    list::Listing,
    token::{digest, later, no_replay},
};
use crate::state::{keys::Kind, table::Doc, view::State};

/// What a credential's secret begins with.
pub(crate) const PREFIX: &str = "hullapp_";

/// How credentials are listed.
pub const LISTING: Listing<AppCredential, AppCredential> = Listing {
    kinds: &[Kind::AppCredential],
    table: |state| &state.people.credentials,
    shared: None,
    view: |_, doc, _| AppCredential::clone(&doc.value),
};

/// One of the caller's, by name or id; any by id for who sees the whole cloud.
fn find<'a>(ctx: &Ctx, state: &'a State, text: &str) -> Result<&'a Doc<AppCredential>> {
    let missing = || missing::<AppCredential>(text, None);
    let found = match uuid::Uuid::parse_str(text) {
        Ok(id) => state.people.credentials.get(id),
        Err(_) => ctx
            .caller
            .user()
            .and_then(|user| state.people.credentials_of(user).find(|credential| credential.name.as_str() == text)),
    };
    let found = found.ok_or_else(missing)?;
    ctx.allowed(Place::User(found.user), missing)?;
    Ok(found)
}

impl App {
    /// One credential, without its secret.
    ///
    /// # Errors
    /// `NotFound` but for its owner and system readers.
    pub fn app_credential(&self, ctx: &Ctx, text: &str) -> Result<AppCredential> {
        self.cache.read(|state| find(ctx, state, text).map(|doc| AppCredential::clone(&doc.value)))
    }

    /// Makes a credential for the caller in the call's project; answers its secret, once.
    ///
    /// # Errors
    /// `Conflict` for callers who are no users; `Forbidden` for more than they have; `NotFound` for the project; `AlreadyExists`.
    pub async fn create_app_credential(&self, ctx: &Ctx, request: &AppCredentialCreate) -> Result<Secret> {
        no_replay(ctx)?;
        let user = ctx.caller.user().ok_or_else(|| {
            Error::conflict("application credentials act for a user, and you are none; log in as one with `hull login`")
        })?;
        let secret = format!("{PREFIX}{}", self.secret());
        let days = request.expires_in_days;
        let expires_at = days.map(|days| later(self.env.now(), i64::from(days) * 24)).transpose()?;
        self.change(ctx, |state, call| {
            let project = ctx.project(state)?;
            let owner = state.people.users.get(user).ok_or_else(|| Error::unauthenticated("there is no such user"))?;
            let present: Vec<&AppCredential> = state.people.credentials_of(user).map(|it| &*it.value).collect();
            let owner = (&*owner.value, &ctx.caller.grants, &present[..]);
            let kept = (digest(&secret), expires_at);
            Ok((hull_core::app_credential::create(request, owner, project, kept, call)?, ()))
        })
        .await?;
        Ok(Secret { secret: secret.into(), expires_at })
    }

    /// Deletes a credential; it stops working at once.
    ///
    /// # Errors
    /// `NotFound` but for its owner and system admins.
    pub async fn delete_app_credential(&self, ctx: &Ctx, text: &str) -> Result<()> {
        self.change(ctx, |state, call| {
            let credential = find(ctx, state, text)?;
            Ok((hull_core::app_credential::delete(credential, call), ()))
        })
        .await
        .map(|done| done.answer)
    }
}
