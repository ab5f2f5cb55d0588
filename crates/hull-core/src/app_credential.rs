//! Application credentials: made by users for programs that act for them.

use hull_types::{
    Timestamp,
    app_credential::AppCredential,
    digest::Digest,
    error::{Error, Result},
    event::Event,
    project::Project,
    user::User,
    wire::AppCredentialCreate,
};

use crate::{
    call::Call,
    change::{Changes, Doc, Expect, Write},
    event,
    policy::{self, Grants},
};

/// How many a user may have.
pub const MOST: usize = 100;

/// Decides on a new credential of this user's, who has these roles and so many credentials.
pub fn create(
    request: &AppCredentialCreate,
    (user, grants, present): (&User, &Grants, &[&AppCredential]),
    project: &Project,
    (secret_digest, expires_at): (Digest, Option<Timestamp>),
    call: &mut Call<'_>,
) -> Result<Changes> {
    let has = grants.in_project(project.id);
    if has.is_none_or(|has| has < request.role) {
        let has = has.map_or("none", policy::word);
        return Err(Error::forbidden(format!(
            "a credential gives no more than its owner has, and the role of {} in project {} is {has}; ask for less",
            user.name, project.name
        ))
        .at("/role"));
    }
    if present.len() >= MOST {
        return Err(Error::quota_exceeded(format!(
            "a user has at most {MOST} application credentials; delete one that is not used any more"
        )));
    }
    if present.iter().any(|one| one.name == request.name) {
        return Err(Error::already_exists(format!(
            "you already have an application credential named {:?}; choose another name, or delete that one first",
            request.name
        ))
        .at("/name"));
    }
    let made = AppCredential {
        id: call.id(),
        user: user.id,
        name: request.name.clone(),
        secret_digest,
        project: project.id,
        role: request.role,
        created_at: call.now,
        expires_at,
    };
    let event = tell(&made, "app-credential.create", &format!("made by {}", user.name), call);
    let mut changes = Changes::none();
    // Neither may go, nor the user make another of this name, while this is decided.
    crate::user::touch(user, &mut changes);
    changes.expect(Expect::Unchanged(Doc::Project(project.id)));
    changes.push(Write::PutProject(Box::new(project.clone())));
    Ok(changes.and(Write::PutAppCredential(Box::new(made))).event(event))
}

/// Deletes a credential; it stops working at once.
pub fn delete(credential: &AppCredential, call: &mut Call<'_>) -> Changes {
    let event = tell(credential, "app-credential.delete", "deleted", call);
    Changes::none()
        .unchanged(Doc::AppCredential(credential.id))
        .and(Write::DeleteAppCredential(credential.id))
        .event(event)
}

fn tell(credential: &AppCredential, action: &str, message: &str, call: &mut Call<'_>) -> Event {
    let about = ("app-credential", credential.id.0, credential.name.as_str());
    event::about(call, Some(credential.project), about, action, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_types::{
        error::ErrorKind,
        token::{Role, Scope},
    };

    use super::*;
    use crate::testing::{Seeded, call, name, project};

    #[test]
    fn nobody_gives_more_than_they_have() {
        let (mut fresh, ann) = (Seeded::new(1), crate::user::tests::ann());
        let grants = Grants::of(Role::Member, Scope::Project(project().id));
        let mut ask = |role| {
            let request = AppCredentialCreate { name: name("ci"), role, expires_in_days: None };
            let owner = (&ann, &grants, &[][..]);
            create(&request, owner, &project(), (Digest([0; 32]), None), &mut call(&mut fresh))
        };
        assert!(ask(Role::Member).is_ok() && ask(Role::Reader).is_ok());
        assert_eq!(ask(Role::Admin).unwrap_err().kind, ErrorKind::Forbidden);
    }
}
