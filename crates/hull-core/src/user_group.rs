//! User groups.

use std::collections::BTreeSet;

use hull_types::{
    error::Result,
    event::Event,
    id::UserId,
    role_assignment::RoleAssignment,
    user::User,
    user_group::UserGroup,
    wire::{UserGroupCreate, UserGroupUpdate},
};

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Expect, Named, Write},
    check, event, user,
};

/// Decides on a new group of these users.
pub fn create(request: &UserGroupCreate, members: &[&User], call: &mut Call<'_>) -> Result<Changes> {
    check::description(&request.description)?;
    let group = UserGroup {
        id: call.id(),
        name: request.name.clone(),
        description: request.description.clone(),
        members: members.iter().map(|user| user.id).collect(),
        created_at: call.now,
        updated_at: call.now,
    };
    let event = tell(&group, "user-group.create", "created", call);
    let mut changes =
        Changes::none().and(Write::Claim(claim(&group))).and(Write::PutUserGroup(Box::new(group))).event(event);
    take_in(members, &mut changes);
    Ok(changes)
}

/// Decides on a change. `witness` says who stays a system admin, where members leave.
pub fn update(
    group: &UserGroup,
    wanted: &UserGroupUpdate,
    add: &[&User],
    remove: &BTreeSet<UserId>,
    witness: Vec<Doc>,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let mut new = group.clone();
    if let Some(name) = &wanted.name {
        new.name = name.clone();
    }
    if let Some(description) = &wanted.description {
        check::description(description)?;
        new.description = description.clone();
    }
    new.members.retain(|member| !remove.contains(member));
    new.members.extend(add.iter().map(|user| user.id));
    if new == *group {
        return Ok(Changes::none());
    }
    new.updated_at = call.now;
    let members = new.members.len();
    let event = tell(&new, "user-group.update", &format!("changed; it has {members} members"), call);
    let mut changes = Changes::none().unchanged(Doc::UserGroup(group.id));
    if new.name != group.name {
        changes = changes.and(Write::Claim(claim(&new))).and(Write::Release(claim(group)));
    }
    changes = changes.and(Write::PutUserGroup(Box::new(new))).event(event);
    take_in(add, &mut changes);
    witness.into_iter().for_each(|doc| changes.expect(Expect::Unchanged(doc)));
    Ok(changes)
}

/// Deletes a group with the roles it was given.
pub fn delete(group: &UserGroup, assignments: &[&RoleAssignment], witness: Vec<Doc>, call: &mut Call<'_>) -> Changes {
    let event = tell(group, "user-group.delete", "deleted", call);
    let mut changes = Changes::none()
        .unchanged(Doc::UserGroup(group.id))
        .and(Write::DeleteUserGroup(group.id))
        .and(Write::Release(claim(group)));
    crate::role_assignment::remove_all(&mut changes, assignments);
    witness.into_iter().for_each(|doc| changes.expect(Expect::Unchanged(doc)));
    changes.event(event)
}

/// Writes a group again as it is, so that nothing that hangs on it can be made while it is deleted.
pub(crate) fn touch(group: &UserGroup, changes: &mut Changes) {
    changes.expect(Expect::Unchanged(Doc::UserGroup(group.id)));
    changes.push(Write::PutUserGroup(Box::new(group.clone())));
}

/// A user who is being deleted must not become a member.
fn take_in(users: &[&User], changes: &mut Changes) {
    let unique: BTreeSet<UserId> = users.iter().map(|user| user.id).collect();
    for id in unique {
        if let Some(one) = users.iter().find(|user| user.id == id) {
            user::touch(one, changes);
        }
    }
}

fn claim(group: &UserGroup) -> Claim {
    Claim::Name { kind: Named::UserGroup, project: None, name: group.name.clone(), id: group.id.0 }
}

fn tell(group: &UserGroup, action: &str, message: &str, call: &mut Call<'_>) -> Event {
    event::about(call, None, ("user-group", group.id.0, group.name.as_str()), action, message)
}
