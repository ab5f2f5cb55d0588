//! Documents of one noun in memory, ordered by id (and so by creation), found by name, walked by project.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use hull_types::{
    app_credential::AppCredential,
    event::Event,
    flavor::Flavor,
    id::ProjectId,
    image::Image,
    keypair::Keypair,
    migration::Migration,
    name::Name,
    network::{Network, Subnet},
    node::Node,
    port::Port,
    project::Project,
    role_assignment::RoleAssignment,
    router::{FloatingIp, Router},
    security_group::SecurityGroup,
    session::{EndedSession, SigningKey},
    token::{JoinToken, Token},
    user::User,
    user_group::UserGroup,
    vm::Vm,
};
use uuid::Uuid;

/// A document with the revision that last changed it.
#[derive(Debug)]
pub struct Doc<T> {
    /// The document.
    pub value: Arc<T>,
    /// The revision.
    pub revision: u64,
}

impl<T> Clone for Doc<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), revision: self.revision }
    }
}

impl<T> std::ops::Deref for Doc<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// What a table needs to know of a document.
pub trait Noun {
    /// How people call it.
    const NOUN: &'static str;
    /// Its id.
    fn uuid(&self) -> Uuid;
    /// Its owner; none for the cloud's own.
    fn project(&self) -> Option<ProjectId>;
    /// Its name, where it can be found by it.
    fn name(&self) -> Option<&Name>;
}

macro_rules! nouns {
    ($($type:ty, $noun:literal, |$it:ident| $project:expr, $name:expr;)*) => {$(
        impl Noun for $type {
            const NOUN: &'static str = $noun;
            fn uuid(&self) -> Uuid {
                self.id.0
            }
            fn project(&self) -> Option<ProjectId> {
                let $it = self;
                let _ = $it;
                $project
            }
            fn name(&self) -> Option<&Name> {
                let $it = self;
                let _ = $it;
                $name
            }
        }
    )*};
}

nouns! {
    Project, "project", |it| None, Some(&it.name);
    Flavor, "flavor", |it| None, Some(&it.name);
    Keypair, "keypair", |it| Some(it.meta.project), Some(&it.meta.name);
    Image, "image", |it| Some(it.meta.project), Some(&it.meta.name);
    Network, "network", |it| Some(it.meta.project), Some(&it.meta.name);
    Subnet, "subnet", |it| Some(it.meta.project), Some(&it.meta.name);
    Router, "router", |it| Some(it.meta.project), Some(&it.meta.name);
    FloatingIp, "floating IP", |it| Some(it.meta.project), Some(&it.meta.name);
    SecurityGroup, "security group", |it| Some(it.meta.project), Some(&it.meta.name);
    Port, "port", |it| Some(it.meta.project), Some(&it.meta.name);
    Vm, "VM", |it| Some(it.meta.project), Some(&it.meta.name);
    Migration, "migration", |_it| None, None;
    Node, "node", |it| None, Some(&it.name);
    Token, "token", |it| None, Some(&it.name);
    JoinToken, "join token", |_it| None, None;
    Event, "event", |it| it.project, None;
    User, "user", |it| None, Some(&it.name);
    UserGroup, "user group", |it| None, Some(&it.name);
    RoleAssignment, "role assignment", |_it| None, None;
    AppCredential, "application credential", |_it| None, None;
    SigningKey, "signing key", |_it| None, None;
    EndedSession, "ended session", |_it| None, None;
}

/// The documents of one noun.
#[derive(Debug)]
pub struct Table<T> {
    docs: BTreeMap<Uuid, Doc<T>>,
    by_project: BTreeSet<(ProjectId, Uuid)>,
    by_name: HashMap<(Option<ProjectId>, Name), Uuid>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { docs: BTreeMap::new(), by_project: BTreeSet::new(), by_name: HashMap::new() }
    }
}

impl<T: Noun> Table<T> {
    /// By id.
    pub fn get(&self, id: impl Into<Uuid>) -> Option<&Doc<T>> {
        self.docs.get(&id.into())
    }

    /// By exact name within an owner.
    pub fn named(&self, project: Option<ProjectId>, name: &str) -> Option<&Doc<T>> {
        // A text that is no name names nothing.
        let name = Name::new(name).ok()?;
        self.get(*self.by_name.get(&(project, name))?)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.docs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.docs.is_empty()
    }

    /// Whether its documents have owners.
    pub fn is_owned(&self) -> bool {
        !self.by_project.is_empty()
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Doc<T>> {
        self.docs.values()
    }

    /// Those after `after`, by id; of one project or of all.
    pub fn after(&self, project: Option<ProjectId>, after: Option<Uuid>) -> Box<dyn Iterator<Item = &Doc<T>> + '_> {
        let Some(project) = project else {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            return Box::new(self.docs.range((from, Bound::Unbounded)).map(|(_, doc)| doc));
        };
        let from = match after {
            Some(after) => Bound::Excluded((project, after)),
            None => Bound::Included((project, Uuid::nil())),
        };
        let upto = Bound::Included((project, Uuid::max()));
        Box::new(self.by_project.range((from, upto)).filter_map(|(_, id)| self.docs.get(id)))
    }

    pub(super) fn put(&mut self, value: Arc<T>, revision: u64) -> Option<Doc<T>> {
        let id = value.uuid();
        let old = self.remove(id);
        if let Some(project) = value.project() {
            self.by_project.insert((project, id));
        }
        if let Some(name) = value.name() {
            self.by_name.insert((value.project(), name.clone()), id);
        }
        self.docs.insert(id, Doc { value, revision });
        old
    }

    pub(super) fn remove(&mut self, id: Uuid) -> Option<Doc<T>> {
        let old = self.docs.remove(&id)?;
        if let Some(project) = old.project() {
            self.by_project.remove(&(project, id));
        }
        if let Some(name) = old.name() {
            let key = (old.project(), name.clone());
            // Another document may have taken the name in the same transaction.
            if self.by_name.get(&key) == Some(&id) {
                self.by_name.remove(&key);
            }
        }
        Some(old)
    }
}
