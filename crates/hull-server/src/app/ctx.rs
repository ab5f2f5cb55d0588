//! Who calls, for which project, under which conditions; and whether they may.

use hull_types::{
    Timestamp,
    error::{Error, Result},
    event::Actor,
    id::{ProjectId, TokenId},
    project::Project,
    token::{Role, Scope},
};
use uuid::Uuid;

use crate::state::{
    table::{Doc, Noun, Table},
    view::State,
};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// As history names them.
    pub actor: Actor,
    /// What they may do.
    pub role: Role,
    /// Where.
    pub scope: Scope,
}

impl Caller {
    /// Root on this machine.
    pub const LOCAL_ROOT: Self = Self { actor: Actor::LocalRoot, role: Role::Admin, scope: Scope::System };
    /// A controller of the server's.
    pub const SERVER: Self = Self { actor: Actor::Server, role: Role::Admin, scope: Scope::System };

    /// The bearer of this token.
    pub fn bearer(token: &hull_types::token::Token) -> Self {
        Self { actor: Actor::Token { token: token.id }, role: token.role, scope: token.scope }
    }

    /// Their token; none over the local socket.
    pub fn token(&self) -> Option<TokenId> {
        match self.actor {
            Actor::Token { token } => Some(token),
            Actor::LocalRoot | Actor::Server | Actor::Node { .. } => None,
        }
    }

    /// Whether their scope is the whole cloud.
    pub fn is_system(&self) -> bool {
        self.scope == Scope::System
    }

    /// Whether they see what this project owns.
    pub fn sees(&self, project: ProjectId) -> bool {
        match self.scope {
            Scope::System => true,
            Scope::Project(own) => own == project,
        }
    }

    /// Refuses who has less than this role.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn at_least(&self, role: Role) -> Result<()> {
        if self.role >= role {
            return Ok(());
        }
        let (has, needs) = (word(self.role), word(role));
        Err(Error::forbidden(format!("this needs the role {needs}; the token's role is {has}. Use another token")))
    }

    /// Refuses who has less than this role in the whole cloud.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn system(&self, role: Role) -> Result<()> {
        if !self.is_system() {
            return Err(Error::forbidden("this concerns the whole cloud; it needs a token of system scope"));
        }
        self.at_least(role)
    }
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Reader => "reader",
        Role::Member => "member",
        Role::Admin => "admin",
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
    /// `?project=`: a name or id.
    pub project: Option<String>,
    /// `If-Match`: the revision the caller has read.
    pub if_match: Option<u64>,
    /// `Idempotency-Key`.
    pub replay: Option<ReplayKey>,
}

impl Ctx {
    /// A call without conditions.
    pub fn of(caller: Caller) -> Self {
        Self { caller, project: None, if_match: None, replay: None }
    }

    /// Names the project.
    #[must_use]
    pub fn in_project(mut self, project: impl Into<String>) -> Self {
        self.project = Some(project.into());
        self
    }

    /// The project the call is about: the one named, the token's own, or `default`.
    ///
    /// # Errors
    /// `NotFound` where there is none, or none the caller sees.
    pub fn project<'a>(&self, state: &'a State) -> Result<&'a Doc<Project>> {
        let found = match (&self.project, self.caller.scope) {
            (Some(text), _) => by_text(&state.projects, None, text),
            (None, Scope::Project(own)) => state.projects.get(own),
            (None, Scope::System) => state.projects.named(None, "default"),
        };
        found.filter(|project| self.caller.sees(project.id)).ok_or_else(|| {
            let text = self.project.as_deref().unwrap_or("default");
            Error::not_found(format!("there is no project {text:?}; `hull project list` shows those you may use"))
                .at("?project")
        })
    }

    /// The project, for a change that needs this role.
    ///
    /// # Errors
    /// As [`Ctx::project`], and `Forbidden`.
    pub fn project_for<'a>(&self, role: Role, state: &'a State) -> Result<&'a Doc<Project>> {
        self.caller.at_least(role)?;
        self.project(state)
    }

    /// A resource of the call's project, by name or id. Ids are found in every project the caller sees.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn find<'a, T: Noun>(&self, table: &'a Table<T>, text: &str, state: &State) -> Result<&'a Doc<T>> {
        let project = self.project(state)?;
        by_text(table, Some(project.id), text)
            .filter(|doc| doc.project().is_none_or(|owner| self.caller.sees(owner)))
            .ok_or_else(|| missing::<T>(text, Some(project)))
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
