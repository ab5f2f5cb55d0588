//! Who calls, for which project, under which conditions; and whether they may.

use std::sync::Arc;

use hull_core::policy::{self, Act, Asker, Grants, Place, Verdict, Who};
use hull_types::{
    Timestamp,
    error::{Error, Result},
    event::{Actor, ResourceRef},
    id::{ProjectId, UserId},
    project::Project,
    sensitive::Sensitive,
    session::Claims,
    token::Role,
};
use uuid::Uuid;

use super::trail::Trail;
use crate::state::{
    table::{Doc, Noun, Table},
    view::State,
};

/// Who calls, and what they may do at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// As history names them.
    pub actor: Actor,
    /// Their roles, looked up for this call.
    pub grants: Grants,
    /// Whether they must choose another password before anything else.
    pub must_change_password: bool,
    /// What their signed token says, where they came with one.
    pub session: Option<Arc<Claims>>,
    /// The text they bear, by which a stream asks again who they are; none over the local socket.
    pub bearer: Option<Arc<Sensitive>>,
}

impl Caller {
    /// Root on this machine.
    pub const LOCAL_ROOT: Self = Self::admin(Actor::LocalRoot);
    /// A controller of the server's.
    pub const SERVER: Self = Self::admin(Actor::Server);

    const fn admin(actor: Actor) -> Self {
        Self { actor, grants: Grants::system(Role::Admin), must_change_password: false, session: None, bearer: None }
    }

    /// Someone with these roles.
    pub fn new(actor: Actor, grants: Grants) -> Self {
        Self { actor, grants, must_change_password: false, session: None, bearer: None }
    }

    /// What their calls are counted and remembered by; none over the local socket.
    pub fn principal(&self) -> Option<Uuid> {
        match self.actor {
            Actor::Token { token } => Some(token.0),
            Actor::User { user } => Some(user.0),
            Actor::AppCredential { credential, .. } => Some(credential.0),
            Actor::LocalRoot | Actor::Server | Actor::Node { .. } => None,
        }
    }

    /// The user, where it is themself and not a program that acts for them.
    pub fn user(&self) -> Option<UserId> {
        match self.actor {
            Actor::User { user } => Some(user),
            Actor::Token { .. }
            | Actor::AppCredential { .. }
            | Actor::LocalRoot
            | Actor::Server
            | Actor::Node { .. } => None,
        }
    }

    /// Whether they see the whole cloud.
    pub fn is_system(&self) -> bool {
        self.grants.system.is_some()
    }

    /// Whether they see what this project owns.
    pub fn sees(&self, project: ProjectId) -> bool {
        self.grants.in_project(project).is_some()
    }

    /// What the policy says of an act of theirs.
    pub fn may(&self, who: Who, place: Place) -> Verdict {
        policy::decide(Asker { user: self.user(), grants: &self.grants }, who, place)
    }

    /// Refuses who has less than this role in the whole cloud.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn system(&self, role: Role) -> Result<()> {
        match self.may(Who::System(role), Place::System) {
            Verdict::Allow => Ok(()),
            Verdict::Hide => Err(Error::forbidden("this concerns the whole cloud; ask a system admin")),
            Verdict::Refuse(why) => Err(Error::forbidden(why)),
        }
    }
}

/// A call's idempotency key, with what was asked under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayKey {
    /// The caller's key.
    pub key: String,
    /// Names the request: SHA-256 of method, path and body.
    pub fingerprint: hull_types::digest::Digest,
}

/// The circumstances of one call.
#[derive(Clone, Debug)]
pub struct Ctx {
    /// Who.
    pub caller: Caller,
    /// The operation; none for what the server does by itself, which only a system admin may.
    pub act: Option<Act>,
    /// `?project=`: a name or id.
    pub project: Option<String>,
    /// `If-Match`: the revision the caller has read.
    pub if_match: Option<u64>,
    /// `Idempotency-Key`.
    pub replay: Option<ReplayKey>,
    /// What the audit will tell of it; none for what the server does by itself.
    pub trail: Option<Trail>,
}

impl Ctx {
    /// A call without conditions.
    pub fn of(caller: Caller) -> Self {
        Self { caller, act: None, project: None, if_match: None, replay: None, trail: None }
    }

    /// Names the project.
    #[must_use]
    pub fn in_project(mut self, project: impl Into<String>) -> Self {
        self.project = Some(project.into());
        self
    }

    /// Who may do what this call does.
    pub fn who(&self) -> Who {
        self.act.map_or(Who::System(Role::Admin), Act::who)
    }

    /// Refuses a call that may not act here. `hidden` makes the refusal for what the caller must not know of.
    ///
    /// # Errors
    /// `Forbidden`, or what `hidden` says.
    pub fn allowed(&self, place: Place, hidden: impl FnOnce() -> Error) -> Result<()> {
        match self.caller.may(self.who(), place) {
            Verdict::Allow => Ok(()),
            Verdict::Hide => Err(hidden()),
            Verdict::Refuse(why) => Err(Error::forbidden(why)),
        }
    }

    /// Refuses a call that may not act on the whole cloud.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn on_system(&self) -> Result<()> {
        self.allowed(Place::System, || Error::forbidden("this concerns the whole cloud; ask a system admin"))
    }

    /// The project the call is about (the one named, the caller's only one, or `default`), for what the call does.
    ///
    /// # Errors
    /// `NotFound` where there is none, or none the caller sees; `Forbidden` where their role there is too weak.
    pub fn project<'a>(&self, state: &'a State) -> Result<&'a Doc<Project>> {
        let project = self.seen_project(state)?;
        if let Who::Project(_) = self.who() {
            self.allowed(Place::Project(project.id), || self.no_project())?;
        }
        Ok(project)
    }

    /// The project the call is about, whatever the caller's role there.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn seen_project<'a>(&self, state: &'a State) -> Result<&'a Doc<Project>> {
        let found = match (&self.project, self.caller.grants.home()) {
            (Some(text), _) => by_text(&state.projects, None, text),
            (None, Some(own)) => state.projects.get(own),
            (None, None) => state.projects.named(None, "default"),
        };
        found.filter(|project| self.caller.sees(project.id)).ok_or_else(|| self.no_project())
    }

    fn no_project(&self) -> Error {
        let text = self.project.as_deref().unwrap_or("default");
        Error::not_found(format!(
            "there is no project {text:?}; `hull project list` shows those you may use, `--project` names one"
        ))
        .at("?project")
    }

    /// A resource of the call's project, by name or id, for what the call does. Ids are found in every project the caller sees.
    ///
    /// # Errors
    /// `NotFound`; `Forbidden` where the caller's role in the resource's project is too weak.
    pub fn find<'a, T: Noun>(&self, table: &'a Table<T>, text: &str, state: &State) -> Result<&'a Doc<T>> {
        // The resource may lie in another project than the call's; the role in that one is what counts.
        let project = self.seen_project(state)?;
        let found = by_text(table, Some(project.id), text).ok_or_else(|| missing::<T>(text, Some(project)))?;
        if let Some(owner) = found.project() {
            self.allowed(Place::Project(owner), || missing::<T>(text, Some(project)))?;
        }
        self.saw(text, found);
        Ok(found)
    }

    /// The call looked at this resource by this text.
    pub(crate) fn saw<T: Noun>(&self, text: &str, doc: &Doc<T>) {
        if let Some(trail) = &self.trail {
            trail.saw(text, doc.project(), || ResourceRef {
                kind: T::NOUN.to_ascii_lowercase().replace(' ', "-"),
                id: doc.uuid(),
                name: doc.name().map(ToString::to_string).unwrap_or_default(),
            });
        }
    }

    /// Refuses where the caller has read an older revision.
    ///
    /// # Errors
    /// `PreconditionFailed`.
    pub fn matches(&self, revision: u64) -> Result<()> {
        match self.if_match {
            Some(wanted) if wanted != revision => Err(Error::new(
                hull_types::error::ErrorKind::PreconditionFailed,
                format!("it was changed since you read it (revision {revision}, yours is {wanted}); read it again"),
            )),
            _ => Ok(()),
        }
    }
}

/// By id, or by exact name in this owner's.
pub fn by_text<'a, T: Noun>(table: &'a Table<T>, project: Option<ProjectId>, text: &str) -> Option<&'a Doc<T>> {
    match Uuid::parse_str(text) {
        Ok(id) => table.get(id),
        Err(_) => table.named(project, text),
    }
}

/// The refusal for a name or id that names nothing the caller sees.
pub fn missing<T: Noun>(text: &str, project: Option<&Project>) -> Error {
    let noun = T::NOUN;
    let command = noun.to_ascii_lowercase().replace(' ', "-");
    // Someone's whole clipboard does not belong into an error.
    let shown: String = text.chars().take(80).collect();
    let place = project.map(|project| format!(" in project {:?}", project.name)).unwrap_or_default();
    Error::not_found(format!("there is no {noun} {shown:?}{place}; `hull {command} list` shows those there are"))
}

/// Fresh ids and MAC bytes for decisions, from the environment.
pub(crate) struct FreshEnv<'a>(pub(crate) &'a crate::env::Env);

impl hull_core::call::Fresh for FreshEnv<'_> {
    fn uuid(&mut self) -> Uuid {
        self.0.id()
    }

    fn mac_bytes(&mut self) -> [u8; 3] {
        self.0.random()
    }
}

/// A page of a listing, asked for.
#[derive(Clone, Copy, Debug)]
pub struct PageOf {
    /// At most so many.
    pub limit: usize,
    /// Those after this id.
    pub after: Option<Uuid>,
}

/// When a lease or a report is too old to trust.
pub(crate) fn since(now: Timestamp, at: Timestamp) -> std::time::Duration {
    now.duration_since(at).try_into().unwrap_or_default()
}
