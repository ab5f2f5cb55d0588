//! Roles given to users and groups. A project's admins give those on their project, the system's admins all.

use hull_core::{
    change::{Changes, Write},
    policy::Place,
    role_assignment::{Receiver, keep_an_admin},
};
use hull_types::{
    error::{Error, Result},
    name::Name,
    role_assignment::RoleAssignment,
    token::{Role, Scope},
    wire::{Revised, RoleAssignmentCreate, RoleAssignmentUpdate, RoleAssignmentView},
};

use super::{
    App,
    ctx::{Ctx, missing},
    list::Listing,
    user, user_group,
};
use crate::state::{keys::Kind, table::Doc, view::State};

/// How roles are listed.
pub const LISTING: Listing<RoleAssignment, Revised<RoleAssignmentView>> = Listing {
    kinds: &[Kind::RoleAssignment],
    table: |state| &state.people.assignments,
    shared: None,
    view: |state, doc, _| Revised { object: view(state, &doc.value), revision: doc.revision },
};

fn view(state: &State, given: &RoleAssignment) -> RoleAssignmentView {
    let project_name = match given.scope {
        Scope::System => None,
        Scope::Project(id) => state.projects.get(id).map(|project| project.name.to_string()),
    };
    let subject_name = state.people.subject_name(given.subject).map(|name| name.to_string()).unwrap_or_default();
    RoleAssignmentView { assignment: given.clone(), subject_name, project_name }
}

fn place(scope: Scope) -> Place {
    match scope {
        Scope::System => Place::System,
        Scope::Project(project) => Place::Project(project),
    }
}

fn find<'a>(ctx: &Ctx, state: &'a State, text: &str) -> Result<&'a Doc<RoleAssignment>> {
    // Roles have no names, so only ids name them.
    let missing = || missing::<RoleAssignment>(text, None);
    let id = uuid::Uuid::parse_str(text).map_err(|_| missing())?;
    let found = state.people.assignments.get(id).ok_or_else(missing)?;
    let seen = match found.scope {
        Scope::System => ctx.caller.is_system(),
        Scope::Project(project) => ctx.caller.sees(project),
    };
    if !seen {
        return Err(missing());
    }
    ctx.allowed(place(found.scope), missing)?;
    Ok(found)
}

fn name(state: &State, given: &RoleAssignment) -> Result<Name> {
    state.people.subject_name(given.subject).ok_or_else(|| Error::internal("a role's subject is gone"))
}

fn receiver<'a>(state: &'a State, request: &RoleAssignmentCreate) -> Result<Receiver<'a>> {
    match (&request.user, &request.user_group) {
        (Some(text), None) => Ok(Receiver::User(user::by_name(state, text).map_err(|e| e.at("/user"))?)),
        (None, Some(text)) => {
            Ok(Receiver::UserGroup(user_group::by_name(state, text).map_err(|e| e.at("/user_group"))?))
        }
        _ => Err(Error::invalid("name one user, or one user group, to give the role to")),
    }
}

fn put(changes: &Changes) -> Option<&RoleAssignment> {
    changes.writes.iter().find_map(|write| match write {
        Write::PutRoleAssignment(given) => Some(given.as_ref()),
        _ => None,
    })
}

impl App {
    /// Whether a caller's listing shows this role: on their project, or on the system for who sees it.
    pub fn lists_role(ctx: &Ctx, all: bool, state: &State, given: &RoleAssignment) -> bool {
        if all {
            return ctx.caller.is_system();
        }
        match given.scope {
            Scope::System => false,
            Scope::Project(project) => ctx.project(state).is_ok_and(|own| own.id == project),
        }
    }

    /// One role assignment.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn role_assignment(&self, ctx: &Ctx, text: &str) -> Result<Revised<RoleAssignmentView>> {
        self.cache.read(|state| {
            find(ctx, state, text).map(|doc| Revised { object: view(state, &doc.value), revision: doc.revision })
        })
    }

    /// Gives a role on the call's project, or on the system.
    ///
    /// # Errors
    /// `Forbidden` but for admins of that scope; `NotFound`; `AlreadyExists` where the subject has another role there.
    pub async fn create_role_assignment(
        &self,
        ctx: &Ctx,
        request: &RoleAssignmentCreate,
    ) -> Result<Revised<RoleAssignmentView>> {
        let done = self
            .change(ctx, |state, call| {
                let project = if request.system {
                    ctx.on_system()?;
                    None
                } else {
                    Some(ctx.project(state)?)
                };
                let to = receiver(state, request)?;
                let scope = project.map_or(Scope::System, |project| Scope::Project(project.id));
                let present = state.people.assigned(to.subject()).find(|it| it.scope == scope);
                let project = project.map(|project| &*project.value);
                let role = request.role;
                let changes =
                    hull_core::role_assignment::create(role, to, project, present.map(|it| &*it.value), call)?;
                let given = put(&changes).or(present.map(|it| &*it.value)).cloned();
                let given = given.ok_or_else(|| Error::internal("the new role was not decided"))?;
                let revision = present.map_or(0, |it| it.revision);
                Ok((changes, Revised { object: view(state, &given), revision }))
            })
            .await?;
        Ok(done.revised())
    }

    /// Changes a role.
    ///
    /// # Errors
    /// `Forbidden` but for admins of its scope; `NotFound`; `PreconditionFailed`; `Conflict` for the system's last admin.
    pub async fn update_role_assignment(
        &self,
        ctx: &Ctx,
        text: &str,
        wanted: &RoleAssignmentUpdate,
    ) -> Result<Revised<RoleAssignmentView>> {
        let done = self
            .change(ctx, |state, call| {
                let given = find(ctx, state, text)?;
                ctx.matches(given.revision)?;
                let lowered = wanted.role < Role::Admin;
                let witness =
                    keep_an_admin(&state.people.administrators(), |one| lowered && one.assignment.id == given.id)?;
                let name = name(state, given)?;
                let changes = hull_core::role_assignment::update(given, &name, wanted.role, witness, call);
                let new = put(&changes).unwrap_or(given).clone();
                Ok((changes, Revised { object: view(state, &new), revision: given.revision }))
            })
            .await?;
        Ok(done.revised())
    }

    /// Takes a role away.
    ///
    /// # Errors
    /// `Forbidden` but for admins of its scope; `NotFound`; `PreconditionFailed`; `Conflict` for the system's last admin.
    pub async fn delete_role_assignment(&self, ctx: &Ctx, text: &str) -> Result<()> {
        self.change(ctx, |state, call| {
            let given = find(ctx, state, text)?;
            ctx.matches(given.revision)?;
            let witness = keep_an_admin(&state.people.administrators(), |one| one.assignment.id == given.id)?;
            Ok((hull_core::role_assignment::delete(given, &name(state, given)?, witness, call)?, ()))
        })
        .await
        .map(|done| done.answer)
    }
}
