//! Users, groups, roles and credentials in memory, with the indexes that each call needs: whose secret is this, what may this user do.

use std::collections::{BTreeSet, HashMap};

use hull_core::{
    policy::Grants,
    role_assignment::{Administrator, Receiver},
};
use hull_store::{Change, StoreError};
use hull_types::{
    app_credential::AppCredential,
    digest::Digest,
    id::{UserGroupId, UserId},
    name::Name,
    role_assignment::{RoleAssignment, Subject},
    sensitive::Sensitive,
    session::{EndedSession, SigningKey},
    token::{Role, Scope},
    user::{ExternalIdentity, User, UserPassword},
    user_group::UserGroup,
};
use uuid::Uuid;

use super::{
    keys::Kind,
    table::{Doc, Table},
    view::{side, table},
};

/// Who there is, and what they may do.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "the fields are the nouns")]
pub struct People {
    pub users: Table<User>,
    pub groups: Table<UserGroup>,
    pub assignments: Table<RoleAssignment>,
    pub credentials: Table<AppCredential>,
    pub keys: Table<SigningKey>,
    pub ended: Table<EndedSession>,
    passwords: HashMap<Uuid, Doc<UserPassword>>,
    by_subject: HashMap<Subject, BTreeSet<Uuid>>,
    by_member: HashMap<UserId, BTreeSet<UserGroupId>>,
    by_owner: HashMap<UserId, BTreeSet<Uuid>>,
    secrets: HashMap<Digest, Uuid>,
    external: HashMap<ExternalIdentity, UserId>,
}

impl People {
    /// The hash of a user's password, where they have one.
    pub fn phc(&self, user: UserId) -> Option<&Sensitive> {
        self.passwords.get(&user.0).map(|password| &password.value.phc)
    }

    /// The roles of a subject itself.
    pub fn assigned(&self, subject: Subject) -> impl Iterator<Item = &Doc<RoleAssignment>> + '_ {
        self.by_subject.get(&subject).into_iter().flatten().filter_map(|&id| self.assignments.get(id))
    }

    /// The groups a user is in.
    pub fn groups_of(&self, user: UserId) -> impl Iterator<Item = &Doc<UserGroup>> + '_ {
        self.by_member.get(&user).into_iter().flatten().filter_map(|&id| self.groups.get(id))
    }

    /// The application credentials of a user.
    pub fn credentials_of(&self, user: UserId) -> impl Iterator<Item = &Doc<AppCredential>> + '_ {
        self.by_owner.get(&user).into_iter().flatten().filter_map(|&id| self.credentials.get(id))
    }

    /// All that a user may do now: their own roles and those of their groups. Nothing where they are disabled.
    pub fn grants(&self, user: &User) -> Grants {
        let mut grants = Grants::default();
        if !user.enabled {
            return grants;
        }
        let told = user.external_groups.iter().filter_map(|name| self.groups.named(None, name));
        let groups = self.groups_of(user.id).chain(told).map(|group| Subject::UserGroup(group.id));
        for subject in std::iter::once(Subject::User(user.id)).chain(groups) {
            self.assigned(subject).for_each(|given| grants.add(given.role, given.scope));
        }
        grants
    }

    /// Every way in which an enabled user is admin of the system.
    pub fn administrators(&self) -> Vec<Administrator<'_>> {
        let admins = self.assignments.iter().filter(|it| it.role == Role::Admin && it.scope == Scope::System);
        let mut all = Vec::new();
        for assignment in admins {
            let (users, group): (Vec<UserId>, _) = match assignment.subject {
                Subject::User(user) => (vec![user], None),
                Subject::UserGroup(id) => match self.groups.get(id) {
                    Some(group) => {
                        let told = self.users.iter().filter(|user| user.external_groups.contains(group.name.as_str()));
                        let members = group.members.iter().copied().chain(told.map(|user| user.id));
                        (members.collect(), Some(&*group.value))
                    }
                    None => continue,
                },
            };
            let users = users.into_iter().filter_map(|id| self.users.get(id)).filter(|user| user.enabled);
            all.extend(users.map(|user| Administrator { user, assignment, group }));
        }
        all
    }

    /// Who a role was given to; none where they have gone.
    pub fn receiver(&self, subject: Subject) -> Option<Receiver<'_>> {
        match subject {
            Subject::User(id) => self.users.get(id).map(|user| Receiver::User(user)),
            Subject::UserGroup(id) => self.groups.get(id).map(|group| Receiver::UserGroup(group)),
        }
    }

    /// The name of who a role was given to.
    pub fn subject_name(&self, subject: Subject) -> Option<Name> {
        self.receiver(subject).map(|receiver| receiver.name().clone())
    }

    /// The application credential whose secret has this digest.
    pub fn credential_by_secret(&self, digest: &Digest) -> Option<&Doc<AppCredential>> {
        self.credentials.get(*self.secrets.get(digest)?)
    }

    /// The user who is this one at an identity provider.
    pub fn by_identity(&self, identity: &ExternalIdentity) -> Option<&Doc<User>> {
        self.users.get(*self.external.get(identity)?)
    }

    pub(super) fn apply(&mut self, kind: Kind, change: &Change, id: Uuid) -> Result<(), StoreError> {
        match kind {
            Kind::User => {
                if let Some(old) = self.users.get(id).and_then(|user| user.external.clone()) {
                    self.external.remove(&old);
                }
                table(&mut self.users, change, id)?;
                if let Some(new) = self.users.get(id).and_then(|user| user.external.clone()) {
                    self.external.insert(new, UserId(id));
                }
            }
            Kind::UserPassword => side(&mut self.passwords, change, id)?,
            Kind::UserGroup => {
                let old = self.groups.get(id).map(|group| group.members.clone()).unwrap_or_default();
                table(&mut self.groups, change, id)?;
                old.iter().for_each(|member| forget(&mut self.by_member, member, &UserGroupId(id)));
                for &member in self.groups.get(id).map(|group| &group.members).into_iter().flatten() {
                    self.by_member.entry(member).or_default().insert(UserGroupId(id));
                }
            }
            Kind::RoleAssignment => {
                let old = self.assignments.get(id).map(|given| given.subject);
                table(&mut self.assignments, change, id)?;
                old.iter().for_each(|subject| forget(&mut self.by_subject, subject, &id));
                if let Some(new) = self.assignments.get(id) {
                    self.by_subject.entry(new.subject).or_default().insert(id);
                }
            }
            Kind::AppCredential => {
                if let Some((owner, digest)) = self.credentials.get(id).map(|old| (old.user, old.secret_digest)) {
                    forget(&mut self.by_owner, &owner, &id);
                    self.secrets.remove(&digest);
                }
                table(&mut self.credentials, change, id)?;
                if let Some(new) = self.credentials.get(id) {
                    self.by_owner.entry(new.user).or_default().insert(id);
                    self.secrets.insert(new.secret_digest, id);
                }
            }
            Kind::SigningKey => _ = table(&mut self.keys, change, id)?,
            Kind::EndedSession => _ = table(&mut self.ended, change, id)?,
            // The caller sends those above.
            _ => {}
        }
        Ok(())
    }
}

fn forget<K: std::hash::Hash + Eq, V: Ord>(index: &mut HashMap<K, BTreeSet<V>>, key: &K, member: &V) {
    if let Some(members) = index.get_mut(key) {
        members.remove(member);
        if members.is_empty() {
            index.remove(key);
        }
    }
}
