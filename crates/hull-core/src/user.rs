//! Users: made, changed and removed by system admins; each may change their own password.
//!
//! Whoever is the last user with the role admin on the system stays so: see [`crate::role_assignment::keep_an_admin`].

use std::collections::BTreeSet;

use hull_types::{
    app_credential::AppCredential,
    error::{Error, Result},
    event::Event,
    id::UserId,
    role_assignment::RoleAssignment,
    sensitive::Sensitive,
    user::{ExternalIdentity, User, UserPassword},
    user_group::UserGroup,
    wire::{UserCreate, UserUpdate},
};

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Expect, Named, Write},
    event,
};

/// The shortest password, in characters (NIST SP 800-63B section 3.1.1.2, with a word more than its least).
pub const PASSWORD_MIN: usize = 10;
/// The longest, in bytes.
pub const PASSWORD_MAX: usize = 1024;
/// The longest e-mail address (RFC 5321 section 4.5.3.1) and name for display, in characters.
const EMAIL_MAX: usize = 254;
const DISPLAY_MAX: usize = 255;

/// Whether a password can be one.
///
/// # Errors
/// `Invalid`.
pub fn password(text: &Sensitive, user: &str) -> Result<()> {
    let refuse = |detail: String| Err(Error::invalid(detail).at("/password"));
    let text = text.expose();
    if text.chars().count() < PASSWORD_MIN {
        return refuse(format!("a password has at least {PASSWORD_MIN} characters; choose a longer one"));
    }
    if text.len() > PASSWORD_MAX {
        return refuse(format!("a password has at most {PASSWORD_MAX} bytes; choose a shorter one"));
    }
    let mut characters = text.chars();
    let first = characters.next();
    if characters.all(|c| Some(c) == first) || text.eq_ignore_ascii_case(user) {
        return refuse("this password is the first that anyone would guess; choose another".to_owned());
    }
    Ok(())
}

/// Decides on a new user. `phc` is the hash of the password, where one was given.
pub fn create(request: &UserCreate, phc: Option<Sensitive>, call: &mut Call<'_>) -> Result<Changes> {
    let email = request.email.clone().filter(|email| !email.is_empty());
    check_texts(email.as_deref(), &request.display_name)?;
    let user = User {
        id: call.id(),
        name: request.name.clone(),
        email,
        display_name: request.display_name.clone(),
        enabled: request.enabled,
        must_change_password: request.must_change_password,
        external: None,
        external_groups: BTreeSet::new(),
        session_epoch: 0,
        created_at: call.now,
        updated_at: call.now,
    };
    Ok(born(user, phc, "created", call))
}

/// Decides on a user who came from an identity provider for the first time.
pub fn provision(
    mut request: UserCreate,
    external: ExternalIdentity,
    groups: &BTreeSet<String>,
    call: &mut Call<'_>,
) -> (Changes, UserId) {
    // What the provider says of them is no reason to turn them away.
    if check_texts(request.email.as_deref(), &request.display_name).is_err() {
        (request.email, request.display_name) = (None, String::new());
    }
    let told = format!("came from {}", external.issuer);
    let user = User {
        id: call.id(),
        name: request.name,
        email: request.email.filter(|email| !email.is_empty()),
        display_name: request.display_name,
        enabled: true,
        must_change_password: false,
        external: Some(external),
        external_groups: groups.clone(),
        session_epoch: 0,
        created_at: call.now,
        updated_at: call.now,
    };
    let id = user.id;
    (born(user, None, &told, call), id)
}

/// Keeps the groups their provider says a user is in.
pub fn regroup(user: &User, groups: &BTreeSet<String>, call: &mut Call<'_>) -> Changes {
    if user.external_groups == *groups {
        return Changes::none();
    }
    let new = User { external_groups: groups.clone(), updated_at: call.now, ..user.clone() };
    let event = tell(&new, "user.update", "their identity provider says that they are in other groups", call);
    Changes::none().unchanged(Doc::User(user.id)).and(Write::PutUser(Box::new(new))).event(event)
}

fn born(user: User, phc: Option<Sensitive>, told: &str, call: &mut Call<'_>) -> Changes {
    let event = tell(&user, "user.create", told, call);
    let mut changes = Changes::none().and(Write::Claim(claim(&user)));
    if let Some(phc) = phc {
        changes.push(Write::PutUserPassword(Box::new(UserPassword { user: user.id, phc })));
    }
    changes.and(Write::PutUser(Box::new(user))).event(event)
}

/// Decides on a change. `witness` says who stays a system admin, where the user is disabled.
pub fn update(user: &User, wanted: &UserUpdate, witness: Vec<Doc>, call: &mut Call<'_>) -> Result<Changes> {
    let mut new = user.clone();
    if let Some(name) = &wanted.name {
        new.name = name.clone();
    }
    if let Some(email) = &wanted.email {
        new.email = Some(email.clone()).filter(|email| !email.is_empty());
    }
    if let Some(display_name) = &wanted.display_name {
        new.display_name = display_name.clone();
    }
    if let Some(must_change) = wanted.must_change_password {
        if must_change && user.external.is_some() {
            return Err(external(user).at("/must_change_password"));
        }
        new.must_change_password = must_change;
    }
    if let Some(enabled) = wanted.enabled {
        new.enabled = enabled;
    }
    check_texts(new.email.as_deref(), &new.display_name)?;
    if new == *user {
        return Ok(Changes::none());
    }
    let mut told = "changed";
    if user.enabled && !new.enabled {
        new.session_epoch += 1;
        told = "disabled";
    }
    new.updated_at = call.now;
    let event = tell(&new, "user.update", told, call);
    let mut changes = Changes::none().unchanged(Doc::User(user.id));
    if new.name != user.name {
        changes = changes.and(Write::Claim(claim(&new))).and(Write::Release(claim(user)));
    }
    changes = changes.and(Write::PutUser(Box::new(new))).event(event);
    witness.into_iter().for_each(|doc| changes.expect(Expect::Unchanged(doc)));
    Ok(changes)
}

/// Sets a password; every session ends.
pub fn set_password(user: &User, phc: Sensitive, must_change: bool, call: &mut Call<'_>) -> Result<Changes> {
    if user.external.is_some() {
        return Err(external(user));
    }
    let new = User {
        must_change_password: must_change,
        session_epoch: user.session_epoch + 1,
        updated_at: call.now,
        ..user.clone()
    };
    let event = tell(&new, "user.set-password", "the password was changed", call);
    Ok(Changes::none()
        .unchanged(Doc::User(user.id))
        .and(Write::PutUserPassword(Box::new(UserPassword { user: user.id, phc })))
        .and(Write::PutUser(Box::new(new)))
        .event(event))
}

/// Ends every session.
pub fn revoke_sessions(user: &User, call: &mut Call<'_>) -> Changes {
    let new = User { session_epoch: user.session_epoch + 1, updated_at: call.now, ..user.clone() };
    let event = tell(&new, "user.revoke-sessions", "every session was ended", call);
    Changes::none().unchanged(Doc::User(user.id)).and(Write::PutUser(Box::new(new))).event(event)
}

/// What goes with a user.
#[derive(Clone, Debug, Default)]
pub struct Belongings<'a> {
    /// The roles they were given themselves.
    pub assignments: Vec<&'a RoleAssignment>,
    /// Their application credentials.
    pub credentials: Vec<&'a AppCredential>,
    /// The groups they are in.
    pub groups: Vec<&'a UserGroup>,
}

/// Deletes a user, with roles, credentials and memberships.
pub fn delete(user: &User, with: &Belongings<'_>, witness: Vec<Doc>, call: &mut Call<'_>) -> Changes {
    let event = tell(user, "user.delete", "deleted", call);
    let mut changes = Changes::none()
        .unchanged(Doc::User(user.id))
        .and(Write::DeleteUser(user.id))
        .and(Write::DeleteUserPassword(user.id))
        .and(Write::Release(claim(user)));
    crate::role_assignment::remove_all(&mut changes, &with.assignments);
    with.credentials.iter().for_each(|credential| changes.push(Write::DeleteAppCredential(credential.id)));
    for &group in &with.groups {
        let mut group = group.clone();
        group.members.remove(&user.id);
        changes.expect(Expect::Unchanged(Doc::UserGroup(group.id)));
        changes.push(Write::PutUserGroup(Box::new(group)));
    }
    witness.into_iter().for_each(|doc| changes.expect(Expect::Unchanged(doc)));
    changes.event(event)
}

/// Writes a user again as they are, so that nothing that hangs on them can be made while they are deleted.
pub(crate) fn touch(user: &User, changes: &mut Changes) {
    changes.expect(Expect::Unchanged(Doc::User(user.id)));
    changes.push(Write::PutUser(Box::new(user.clone())));
}

fn external(user: &User) -> Error {
    let issuer = user.external.as_ref().map_or("elsewhere", |external| external.issuer.as_str());
    Error::conflict(format!("user {} logs in at {issuer} and has no password here; change it there", user.name))
}

fn check_texts(email: Option<&str>, display_name: &str) -> Result<()> {
    if let Some(email) = email {
        let (local, host) = email.rsplit_once('@').unwrap_or_default();
        let bad = |c: char| c.is_control() || c.is_whitespace() || c == '<' || c == '>';
        if local.is_empty() || host.is_empty() || email.chars().any(bad) || email.chars().count() > EMAIL_MAX {
            return Err(
                Error::invalid("this is no e-mail address; expected something like ann@example.org").at("/email")
            );
        }
    }
    if display_name.chars().any(char::is_control) || display_name.chars().count() > DISPLAY_MAX {
        let detail = format!("a name for display is one line of at most {DISPLAY_MAX} characters; shorten it");
        return Err(Error::invalid(detail).at("/display_name"));
    }
    Ok(())
}

fn claim(user: &User) -> Claim {
    Claim::Name { kind: Named::User, project: None, name: user.name.clone(), id: user.id.0 }
}

fn tell(user: &User, action: &str, message: &str, call: &mut Call<'_>) -> Event {
    event::about(call, None, ("user", user.id.0, user.name.as_str()), action, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use hull_types::{error::ErrorKind, id::UserId};
    use uuid::Uuid;

    use super::*;
    use crate::testing::{NOW, Seeded, call, name};

    pub(crate) fn ann() -> User {
        User {
            id: UserId(Uuid::from_u128(0xa)),
            name: name("ann"),
            email: None,
            display_name: String::new(),
            enabled: true,
            must_change_password: false,
            external: None,
            external_groups: BTreeSet::new(),
            session_epoch: 3,
            created_at: NOW,
            updated_at: NOW,
        }
    }

    fn put(changes: &Changes) -> &User {
        changes.writes.iter().find_map(|w| if let Write::PutUser(u) = w { Some(&**u) } else { None }).unwrap()
    }

    #[test]
    fn a_new_password_and_being_disabled_end_sessions() {
        let mut fresh = Seeded::new(1);
        let set = set_password(&ann(), Sensitive::new("phc"), false, &mut call(&mut fresh)).unwrap();
        assert_eq!(put(&set).session_epoch, 4);
        let off = UserUpdate { enabled: Some(false), ..UserUpdate::default() };
        assert_eq!(put(&update(&ann(), &off, vec![], &mut call(&mut fresh)).unwrap()).session_epoch, 4);
        let mail = UserUpdate { email: Some("ann@example.org".into()), ..UserUpdate::default() };
        assert_eq!(put(&update(&ann(), &mail, vec![], &mut call(&mut fresh)).unwrap()).session_epoch, 3);
    }

    #[test]
    fn passwords_that_all_would_guess_are_refused() {
        let judge = |text: &str| password(&Sensitive::new(text), "ann-of-acme");
        for bad in ["", "short", "aaaaaaaaaaaa", "Ann-of-Acme", &"x1".repeat(600)] {
            assert_eq!(judge(bad).unwrap_err().field.as_deref(), Some("/password"), "{bad}");
        }
        assert_eq!(judge("correct horse battery"), Ok(()));
        assert_eq!(judge("пароль-подлиннее"), Ok(()));
    }

    #[test]
    fn who_comes_from_elsewhere_has_no_password_here() {
        let external = Some(ExternalIdentity { issuer: "https://id.example".into(), subject: "1".into() });
        let user = User { external, ..ann() };
        let mut fresh = Seeded::new(1);
        let error = set_password(&user, Sensitive::new("x"), false, &mut call(&mut fresh)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict);
        assert!(error.detail.contains("https://id.example"), "{error}");
    }

    #[test]
    fn bad_addresses_and_names_are_refused() {
        for email in ["ann", "@b", "a@", "a b@c", "a@b\n", &format!("{}@b", "a".repeat(300))] {
            assert_eq!(check_texts(Some(email), "").unwrap_err().field.as_deref(), Some("/email"), "{email:?}");
        }
        assert!(check_texts(Some("ann@example.org"), "Ann of Acme").is_ok());
        assert!(check_texts(None, "two\nlines").is_err());
    }
}
