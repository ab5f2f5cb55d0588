//! Role assignments: given by admins, for what they administrate. There is always a user who administrates the system, once there was
//! one: the last cannot be removed, disabled or lowered. (Root of the server's host can always act, by the local socket.)

use hull_types::{
    app_credential::AppCredential,
    error::{Error, Result},
    event::Event,
    id::TokenId,
    name::Name,
    project::Project,
    role_assignment::{RoleAssignment, Subject},
    token::{Role, Scope},
    user::User,
    user_group::UserGroup,
};

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Expect, Named, Write},
    event, policy, user, user_group,
};

/// Who is given a role.
#[derive(Clone, Copy, Debug)]
pub enum Receiver<'a> {
    /// A user.
    User(&'a User),
    /// A group.
    UserGroup(&'a UserGroup),
}

impl Receiver<'_> {
    /// By id.
    pub fn subject(&self) -> Subject {
        match self {
            Self::User(user) => Subject::User(user.id),
            Self::UserGroup(group) => Subject::UserGroup(group.id),
        }
    }

    /// By name.
    pub fn name(&self) -> &Name {
        match self {
            Self::User(user) => &user.name,
            Self::UserGroup(group) => &group.name,
        }
    }

    fn touch(&self, changes: &mut Changes) {
        match self {
            Self::User(user) => user::touch(user, changes),
            Self::UserGroup(group) => user_group::touch(group, changes),
        }
    }
}

/// Decides on giving a role: on a project, or on the system. `present` is what the receiver has there.
pub fn create(
    role: Role,
    to: Receiver<'_>,
    project: Option<&Project>,
    present: Option<&RoleAssignment>,
    call: &mut Call<'_>,
) -> Result<Changes> {
    if let Some(present) = present {
        if present.role == role {
            return Ok(Changes::none());
        }
        return Err(Error::already_exists(format!(
            "{} has the role {} there already; change it with `hull role update {} {}`, or revoke it first",
            to.name(),
            policy::word(present.role),
            present.id,
            policy::word(role)
        )));
    }
    let scope = project.map_or(Scope::System, |project| Scope::Project(project.id));
    let given = RoleAssignment { id: call.id(), subject: to.subject(), role, scope, created_at: call.now };
    let event = tell(&given, to.name(), "role-assignment.create", "granted", call);
    let mut changes = Changes::none().and(Write::Claim(claim(&given)?));
    to.touch(&mut changes);
    if let Some(project) = project {
        changes.expect(Expect::Unchanged(Doc::Project(project.id)));
        changes.push(Write::PutProject(Box::new(project.clone())));
    }
    Ok(changes.and(Write::PutRoleAssignment(Box::new(given))).event(event))
}

/// Decides on another role for the same subject in the same scope. `witness` says who stays a system admin.
pub fn update(given: &RoleAssignment, name: &Name, role: Role, witness: Vec<Doc>, call: &mut Call<'_>) -> Changes {
    if given.role == role {
        return Changes::none();
    }
    let new = RoleAssignment { role, ..given.clone() };
    let event = tell(&new, name, "role-assignment.update", "changed", call);
    let mut changes = Changes::none()
        .unchanged(Doc::RoleAssignment(given.id))
        .and(Write::PutRoleAssignment(Box::new(new)))
        .event(event);
    witness.into_iter().for_each(|doc| changes.expect(Expect::Unchanged(doc)));
    changes
}

/// Takes a role away. `witness` says who stays a system admin.
pub fn delete(given: &RoleAssignment, name: &Name, witness: Vec<Doc>, call: &mut Call<'_>) -> Result<Changes> {
    let event = tell(given, name, "role-assignment.delete", "revoked", call);
    let mut changes = Changes::none()
        .unchanged(Doc::RoleAssignment(given.id))
        .and(Write::DeleteRoleAssignment(given.id))
        .and(Write::Release(claim(given)?))
        .event(event);
    witness.into_iter().for_each(|doc| changes.expect(Expect::Unchanged(doc)));
    Ok(changes)
}

/// Takes away all these roles, whose subject or project goes.
pub fn remove_all(changes: &mut Changes, assignments: &[&RoleAssignment]) {
    for &given in assignments {
        changes.push(Write::DeleteRoleAssignment(given.id));
        // An id's text is always a name.
        if let Ok(claim) = claim(given) {
            changes.push(Write::Release(claim));
        }
    }
}

/// What people and programs were given in a project goes with it.
pub fn remove_project(
    changes: &mut Changes,
    assignments: &[&RoleAssignment],
    credentials: &[&AppCredential],
    tokens: &[TokenId],
) {
    remove_all(changes, assignments);
    tokens.iter().for_each(|token| changes.push(Write::DeleteToken(*token)));
    credentials.iter().for_each(|credential| changes.push(Write::DeleteAppCredential(credential.id)));
}

/// One way in which an enabled user is admin of the system.
#[derive(Clone, Copy, Debug)]
pub struct Administrator<'a> {
    /// The user.
    pub user: &'a User,
    /// The role.
    pub assignment: &'a RoleAssignment,
    /// The group that was given it, where it was not the user.
    pub group: Option<&'a UserGroup>,
}

/// What must stay as it is so that the system keeps an admin when those for whom `gone` is true are none any more.
///
/// # Errors
/// `Conflict` where they are the last.
pub fn keep_an_admin(all: &[Administrator<'_>], gone: impl Fn(&Administrator<'_>) -> bool) -> Result<Vec<Doc>> {
    if !all.iter().any(&gone) {
        return Ok(Vec::new());
    }
    let stays = all.iter().find(|one| !gone(one)).ok_or_else(|| {
        Error::conflict(
            "this would leave the system without an enabled user who is its admin; make another one first with `hull role grant admin --system --user NAME`",
        )
    })?;
    let group = stays.group.map(|group| Doc::UserGroup(group.id));
    Ok([Doc::User(stays.user.id), Doc::RoleAssignment(stays.assignment.id)].into_iter().chain(group).collect())
}

/// One role for each subject in each scope.
fn claim(given: &RoleAssignment) -> Result<Claim> {
    let subject = match given.subject {
        Subject::User(id) => format!("user {id}"),
        Subject::UserGroup(id) => format!("user-group {id}"),
    };
    let name = match given.scope {
        Scope::System => format!("{subject} on the system"),
        Scope::Project(project) => format!("{subject} on {project}"),
    };
    let name = Name::new(&name).map_err(|e| Error::internal(format!("a role's place has no name: {e}")))?;
    Ok(Claim::Name { kind: Named::RoleAssignment, project: None, name, id: given.id.0 })
}

fn tell(given: &RoleAssignment, name: &Name, action: &str, verb: &str, call: &mut Call<'_>) -> Event {
    let (project, place) = match given.scope {
        Scope::System => (None, "the system"),
        Scope::Project(project) => (Some(project), "the project"),
    };
    let message = format!("role {} on {place} {verb} for {name}", policy::word(given.role));
    event::about(call, project, ("role-assignment", given.id.0, name.as_str()), action, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_types::error::ErrorKind;

    use super::*;
    use crate::testing::{Seeded, call, project};

    fn put(changes: &Changes) -> RoleAssignment {
        let put = |w: &Write| if let Write::PutRoleAssignment(it) = w { Some((**it).clone()) } else { None };
        changes.writes.iter().find_map(put).unwrap()
    }

    #[test]
    fn a_subject_has_one_role_in_a_scope() {
        let (mut fresh, ann) = (Seeded::new(1), user::tests::ann());
        let to = Receiver::User(&ann);
        let first = put(&create(Role::Member, to, Some(&project()), None, &mut call(&mut fresh)).unwrap());
        let again = create(Role::Member, to, Some(&project()), Some(&first), &mut call(&mut fresh)).unwrap();
        assert!(again.is_empty(), "what is so already changes nothing");
        let other = create(Role::Admin, to, Some(&project()), Some(&first), &mut call(&mut fresh)).unwrap_err();
        assert_eq!(other.kind, ErrorKind::AlreadyExists);
        assert!(other.detail.contains("hull role update"), "{other}");
    }

    #[test]
    fn a_role_is_not_given_to_who_is_being_deleted() {
        let (mut fresh, ann) = (Seeded::new(1), user::tests::ann());
        let given = create(Role::Reader, Receiver::User(&ann), Some(&project()), None, &mut call(&mut fresh)).unwrap();
        for doc in [Doc::User(ann.id), Doc::Project(project().id)] {
            assert!(given.expect.contains(&Expect::Unchanged(doc)));
        }
        assert!(given.writes.contains(&Write::PutUser(Box::new(ann))), "so that its deletion is decided again");
    }

    #[test]
    fn the_last_admin_of_the_system_stays() {
        let (mut fresh, ann) = (Seeded::new(1), user::tests::ann());
        let bob = User { id: hull_types::id::UserId(uuid::Uuid::from_u128(0xb)), ..ann.clone() };
        let role = |user: &User, fresh: &mut Seeded| {
            put(&create(Role::Admin, Receiver::User(user), None, None, &mut call(fresh)).unwrap())
        };
        let (of_ann, of_bob) = (role(&ann, &mut fresh), role(&bob, &mut fresh));
        let a = Administrator { user: &ann, assignment: &of_ann, group: None };
        let b = Administrator { user: &bob, assignment: &of_bob, group: None };
        let anns = |one: &Administrator<'_>| one.user.id == ann.id;
        assert_eq!(keep_an_admin(&[a], anns).unwrap_err().kind, ErrorKind::Conflict);
        let witness = keep_an_admin(&[a, b], anns).unwrap();
        assert_eq!(witness, [Doc::User(bob.id), Doc::RoleAssignment(of_bob.id)], "and bob must still be one then");
        assert_eq!(keep_an_admin(&[b], anns), Ok(vec![]), "who is no admin may go");
    }
}
