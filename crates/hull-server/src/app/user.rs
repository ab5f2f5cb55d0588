//! Users.

use hull_core::{
    change::Write,
    policy::{Place, Who},
    role_assignment::keep_an_admin,
    user::Belongings,
};
use hull_types::{
    error::{Error, Result},
    role_assignment::Subject,
    token::Role,
    user::User,
    wire::{Revised, UserCreate, UserPasswordSet, UserUpdate},
};

use super::{
    App,
    ctx::{Ctx, by_text, missing},
    flavor::{answer, revised},
    list::Listing,
    token::no_replay,
};
use crate::state::{keys::Kind, table::Doc, view::State};

/// How users are listed.
pub const LISTING: Listing<User, Revised<User>> =
    Listing { kinds: &[Kind::User], table: |state| &state.people.users, shared: None, view: |_, doc, _| revised(doc) };

/// A user by name or id, for who may know of users at all.
pub(crate) fn by_name<'a>(state: &'a State, text: &str) -> Result<&'a Doc<User>> {
    by_text(&state.people.users, None, text).ok_or_else(|| missing::<User>(text, None))
}

/// A user for what the call does to them.
fn find<'a>(ctx: &Ctx, state: &'a State, text: &str) -> Result<&'a Doc<User>> {
    let missing = || missing::<User>(text, None);
    let user = by_text(&state.people.users, None, text);
    let Some(user) = user else {
        // Who may not know of users learns nothing from names that are none.
        ctx.allowed(Place::System, missing)?;
        return Err(missing());
    };
    ctx.allowed(Place::User(user.id), missing)?;
    Ok(user)
}

fn put(write: &Write) -> Option<&User> {
    match write {
        Write::PutUser(user) => Some(user.as_ref()),
        _ => None,
    }
}

impl App {
    /// One user.
    ///
    /// # Errors
    /// `NotFound` but for the user themself and system readers.
    pub fn user(&self, ctx: &Ctx, text: &str) -> Result<Revised<User>> {
        self.cache.read(|state| find(ctx, state, text).map(revised))
    }

    /// Makes a user.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; the decision's.
    pub async fn create_user(&self, ctx: &Ctx, request: &UserCreate) -> Result<Revised<User>> {
        ctx.on_system()?;
        let phc = match &request.password {
            Some(password) => {
                no_replay(ctx)?;
                hull_core::user::password(password, request.name.as_str())?;
                Some(self.passwords.hash(&self.env, password).await?)
            }
            None => None,
        };
        let done =
            self.change(ctx, |_, call| answer(hull_core::user::create(request, phc.clone(), call)?, None, put)).await?;
        Ok(done.revised())
    }

    /// Changes a user.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`; `PreconditionFailed`; the decision's.
    pub async fn update_user(&self, ctx: &Ctx, text: &str, wanted: &UserUpdate) -> Result<Revised<User>> {
        ctx.on_system()?;
        let done = self
            .change(ctx, |state, call| {
                let user = find(ctx, state, text)?;
                ctx.matches(user.revision)?;
                let witness = match wanted.enabled {
                    Some(false) => keep_an_admin(&state.people.administrators(), |one| one.user.id == user.id)?,
                    _ => Vec::new(),
                };
                answer(hull_core::user::update(user, wanted, witness, call)?, Some(user), put)
            })
            .await?;
        Ok(done.revised())
    }

    /// Deletes a user with their roles, credentials and memberships.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`; `PreconditionFailed`; `Conflict` for the last admin of the system.
    pub async fn delete_user(&self, ctx: &Ctx, text: &str) -> Result<()> {
        ctx.on_system()?;
        self.change(ctx, |state, call| {
            let user = find(ctx, state, text)?;
            ctx.matches(user.revision)?;
            let people = &state.people;
            let witness = keep_an_admin(&people.administrators(), |one| one.user.id == user.id)?;
            let with = Belongings {
                assignments: people.assigned(Subject::User(user.id)).map(|it| &*it.value).collect(),
                credentials: people.credentials_of(user.id).map(|it| &*it.value).collect(),
                groups: people.groups_of(user.id).map(|it| &*it.value).collect(),
            };
            Ok((hull_core::user::delete(user, &with, witness, call), ()))
        })
        .await
        .map(|done| done.answer)
    }

    /// Sets a user's password; their sessions end. Users who change their own must know the present one.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden` for others' passwords but for system admins; `Invalid`; `TooManyRequests`; `Conflict` for users who log in
    /// elsewhere.
    pub async fn set_user_password(&self, ctx: &Ctx, text: &str, request: &UserPasswordSet) -> Result<()> {
        no_replay(ctx)?;
        let user = self.cache.read(|state| find(ctx, state, text).map(|user| User::clone(&user.value)))?;
        if ctx.caller.user() == Some(user.id) {
            let now = self.env.now();
            self.guard.admit(user.name.as_str(), None, now)?;
            let phc = self.cache.read(|state| state.people.phc(user.id).cloned());
            let current = request.current.clone().unwrap_or_default();
            if !self.passwords.matches(&current, phc.as_ref()).await? {
                self.guard.failed(user.name.as_str(), now);
                let detail = "the present password is another; give it to set a new one";
                return Err(Error::forbidden(detail).at("/current"));
            }
            if request.must_change {
                return Err(Error::invalid("this is for who sets another's password; leave it out").at("/must_change"));
            }
            if request.current.as_ref() == Some(&request.password) {
                return Err(Error::invalid("the new password is the present one; choose another").at("/password"));
            }
        }
        hull_core::user::password(&request.password, user.name.as_str())?;
        let phc = self.passwords.hash(&self.env, &request.password).await?;
        self.change(ctx, |state, call| {
            let user = find(ctx, state, text)?;
            Ok((hull_core::user::set_password(user, phc.clone(), request.must_change, call)?, ()))
        })
        .await?;
        self.guard.forgive(user.name.as_str());
        Ok(())
    }

    /// Ends every session of a user's.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden` for others but for system admins.
    pub async fn revoke_sessions(&self, ctx: &Ctx, text: &str) -> Result<()> {
        self.change(ctx, |state, call| {
            let user = find(ctx, state, text)?;
            Ok((hull_core::user::revoke_sessions(user, call), ()))
        })
        .await
        .map(|done| done.answer)
    }

    /// Forgets the log-ins that failed under a user's name.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`.
    pub fn unlock_user(&self, ctx: &Ctx, text: &str) -> Result<()> {
        ctx.on_system()?;
        let name = self.cache.read(|state| find(ctx, state, text).map(|user| user.name.clone()))?;
        self.guard.forgive(name.as_str());
        Ok(())
    }

    /// Whether a caller's listing shows what belongs to this user.
    pub(crate) fn shows_own(ctx: &Ctx, owner: hull_types::id::UserId) -> bool {
        use hull_core::policy::Verdict;
        ctx.caller.may(Who::Own(Role::Reader), Place::User(owner)) == Verdict::Allow
    }
}
