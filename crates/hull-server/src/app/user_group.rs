//! Groups of users; for who sees the whole cloud.

use std::collections::BTreeSet;

use hull_core::{change::Write, role_assignment::keep_an_admin};
use hull_types::{
    error::Result,
    id::UserId,
    role_assignment::{RoleAssignment, Subject},
    user::User,
    user_group::UserGroup,
    wire::{Revised, UserGroupCreate, UserGroupUpdate},
};

use super::{
    App,
    ctx::{Ctx, by_text, missing},
    flavor::{answer, revised},
    list::Listing,
    user,
};
use crate::state::{keys::Kind, table::Doc, view::State};

/// How groups are listed.
pub const LISTING: Listing<UserGroup, Revised<UserGroup>> = Listing {
    kinds: &[Kind::UserGroup],
    table: |state| &state.people.groups,
    shared: None,
    view: |_, doc, _| revised(doc),
};

/// A group by name or id.
pub(crate) fn by_name<'a>(state: &'a State, text: &str) -> Result<&'a Doc<UserGroup>> {
    by_text(&state.people.groups, None, text).ok_or_else(|| missing::<UserGroup>(text, None))
}

fn users<'a>(state: &'a State, texts: &[String], field: &str) -> Result<Vec<&'a User>> {
    let each = texts.iter().enumerate();
    each.map(|(at, text)| {
        user::by_name(state, text).map(|user| &*user.value).map_err(|e| e.at(format!("/{field}/{at}")))
    })
    .collect()
}

fn put(write: &Write) -> Option<&UserGroup> {
    match write {
        Write::PutUserGroup(group) => Some(group.as_ref()),
        _ => None,
    }
}

impl App {
    /// One group.
    ///
    /// # Errors
    /// `Forbidden` but for system readers; `NotFound`.
    pub fn user_group(&self, ctx: &Ctx, text: &str) -> Result<Revised<UserGroup>> {
        ctx.on_system()?;
        self.cache.read(|state| by_name(state, text).map(revised))
    }

    /// Makes a group.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound` for its members; the decision's.
    pub async fn create_user_group(&self, ctx: &Ctx, request: &UserGroupCreate) -> Result<Revised<UserGroup>> {
        ctx.on_system()?;
        let done = self
            .change(ctx, |state, call| {
                let members = users(state, &request.members, "members")?;
                answer(hull_core::user_group::create(request, &members, call)?, None, put)
            })
            .await?;
        Ok(done.revised())
    }

    /// Changes a group's texts and members.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`; `PreconditionFailed`; `Conflict` where the system would lose its last admin.
    pub async fn update_user_group(
        &self,
        ctx: &Ctx,
        text: &str,
        wanted: &UserGroupUpdate,
    ) -> Result<Revised<UserGroup>> {
        ctx.on_system()?;
        let done = self
            .change(ctx, |state, call| {
                let group = by_name(state, text)?;
                ctx.matches(group.revision)?;
                let add = users(state, &wanted.add, "add")?;
                let kept: BTreeSet<UserId> = add.iter().map(|user| user.id).collect();
                let remove = users(state, &wanted.remove, "remove")?.into_iter().map(|user| user.id);
                let remove: BTreeSet<UserId> = remove.filter(|id| !kept.contains(id)).collect();
                let witness = keep_an_admin(&state.people.administrators(), |one| {
                    one.group.is_some_and(|it| it.id == group.id) && remove.contains(&one.user.id)
                })?;
                answer(hull_core::user_group::update(group, wanted, &add, &remove, witness, call)?, Some(group), put)
            })
            .await?;
        Ok(done.revised())
    }

    /// Deletes a group with the roles it was given.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`; `PreconditionFailed`; `Conflict` where the system would lose its last admin.
    pub async fn delete_user_group(&self, ctx: &Ctx, text: &str) -> Result<()> {
        ctx.on_system()?;
        self.change(ctx, |state, call| {
            let group = by_name(state, text)?;
            ctx.matches(group.revision)?;
            let witness =
                keep_an_admin(&state.people.administrators(), |one| one.group.is_some_and(|it| it.id == group.id))?;
            let roles: Vec<&RoleAssignment> =
                state.people.assigned(Subject::UserGroup(group.id)).map(|it| &*it.value).collect();
            Ok((hull_core::user_group::delete(group, &roles, witness, call), ()))
        })
        .await
        .map(|done| done.answer)
    }
}
