//! What is known of a call for its audit record, gathered as the call goes through the layers.
//!
//! ```text
//!   api/trail.rs   opens it with the origin ─> who calls ─> what the call looks at ─> App::plan: the record, committed
//!        └───────────────── as the answer goes out: a record of its own, where none was committed <──────┘
//! ```

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hull_types::{
    audit::{Audit, CredentialRef, Origin, Outcome},
    error::{Error, ErrorKind},
    event::{Actor, Event, ResourceRef},
    id::ProjectId,
};

use super::ctx::Caller;

/// A call's trail; clones are of one call.
#[derive(Clone, Debug)]
pub struct Trail(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    origin: Origin,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    actor: Option<Actor>,
    credential: Option<CredentialRef>,
    project: Option<ProjectId>,
    subject: Option<(ResourceRef, Option<ProjectId>)>,
    record: Option<Audit>,
    replayed: bool,
    under_way: bool,
}

impl Trail {
    /// The trail of a call that comes in.
    pub fn new(origin: Origin) -> Self {
        Self(Arc::new(Inner { origin, said: Mutex::default() }))
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller's address, as a trusted proxy tells it where there is one; none over the local socket.
    pub fn address(&self) -> Option<IpAddr> {
        self.0.origin.address
    }

    /// Who calls, and the project that is theirs in this call.
    pub fn known(&self, caller: &Caller, project: Option<ProjectId>) {
        let mut said = self.said();
        said.actor = Some(caller.actor.clone());
        said.credential = credential(caller);
        said.project = project;
    }

    /// The call looked at a resource by this text. The first that its path names is what the call is about.
    pub fn saw(&self, text: &str, project: Option<ProjectId>, resource: impl FnOnce() -> ResourceRef) {
        let mut said = self.said();
        if said.subject.is_none() && self.0.origin.path.split('/').any(|segment| decoded(segment) == text) {
            said.subject = Some((resource(), project));
        }
    }

    /// The call was answered as one before it.
    pub(super) fn replayed(&self) {
        self.said().replayed = true;
    }

    /// A change of several transactions, of which the first carries the record, is under way, or whole.
    pub(super) fn under_way(&self, under_way: bool) {
        self.said().under_way = under_way;
    }

    /// Whether a change of several transactions has only begun.
    pub(super) fn is_under_way(&self) -> bool {
        self.said().under_way
    }

    /// A record of this call is in the store.
    pub(super) fn recorded(&self, record: Audit) {
        self.said().record = Some(record);
    }

    /// The record in the store, if one is.
    pub(super) fn record(&self) -> Option<Audit> {
        self.said().record.clone()
    }

    /// What the call came to, where nothing went wrong.
    pub(super) fn done(&self) -> Outcome {
        if self.said().replayed { Outcome::Replayed } else { Outcome::Ok }
    }

    /// The record, for what these events tell.
    pub(super) fn tell(&self, events: &[Event], outcome: Outcome, fresh: (uuid::Uuid, hull_types::Timestamp)) -> Audit {
        let said = self.said();
        let mut targets: Vec<ResourceRef> = Vec::new();
        for event in events {
            // Events of one resource come one after another.
            if targets.last() != Some(&event.resource) {
                targets.push(event.resource.clone());
            }
        }
        let mut project = events.iter().find_map(|event| event.project);
        if targets.is_empty() {
            let subject = said.subject.clone();
            project = project.or(subject.as_ref().and_then(|(_, project)| *project));
            targets.extend(subject.map(|(resource, _)| resource));
        }
        Audit {
            v: Audit::V,
            id: fresh.0.into(),
            at: fresh.1,
            project: project.or(said.project),
            actor: said.actor.clone().or_else(|| events.first().map(|event| event.actor.clone())),
            authenticated_by: said.credential.clone(),
            origin: self.0.origin.clone(),
            targets,
            outcome,
            count: 1,
            last_at: None,
        }
    }
}

/// What the caller proved who they are with.
fn credential(caller: &Caller) -> Option<CredentialRef> {
    let of = |kind: &str, id| Some(CredentialRef { kind: kind.to_owned(), id });
    match (&caller.actor, &caller.session) {
        (Actor::Token { token }, _) => of("token", token.0),
        (Actor::AppCredential { credential, .. }, _) => of("app-credential", credential.0),
        (Actor::User { .. }, Some(claims)) => of("session", claims.jti.0),
        (Actor::User { .. } | Actor::LocalRoot | Actor::Server | Actor::Node { .. }, _) => None,
    }
}

fn decoded(segment: &str) -> String {
    // A path's `+` is a plus; form decoding would make it a space.
    let plus = segment.replace('+', "%2B");
    url::form_urlencoded::parse(plus.as_bytes()).next().map(|(text, _)| text.into_owned()).unwrap_or_default()
}

/// A refusal, as a record keeps it. What was wrong with a body is told without the body: a password may be in it.
pub(super) fn refused(status: u16, error: Option<&Error>) -> Outcome {
    let Some(error) = error else {
        return Outcome::Refused { status, error: ErrorKind::Internal, detail: None, field: None };
    };
    let detail = match error.kind {
        // These quote what was sent, or what a guest or a defect said.
        ErrorKind::Invalid | ErrorKind::Internal => None,
        ErrorKind::Unauthenticated
        | ErrorKind::Forbidden
        | ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::Conflict
        | ErrorKind::PreconditionFailed
        | ErrorKind::QuotaExceeded
        | ErrorKind::TooLarge
        | ErrorKind::TooManyRequests
        | ErrorKind::Unavailable
        | ErrorKind::Timeout
        | ErrorKind::InsufficientResources
        | ErrorKind::Unsupported => Some(error.detail.chars().take(hull_types::audit::DETAIL_MAX).collect()),
    };
    let field = error.field.as_ref().map(|field| field.chars().take(hull_types::audit::AGENT_MAX).collect());
    Outcome::Refused { status, error: error.kind, detail, field }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_segments_are_names() {
        assert_eq!(decoded("a%20b+c"), "a b+c");
        assert_eq!(decoded(""), "");
    }

    #[test]
    fn what_is_wrong_with_a_body_is_told_without_it() {
        let error =
            Error::invalid("the body cannot be read at /password: invalid type: integer `12345`").at("/password");
        let Outcome::Refused { detail, field, .. } = refused(400, Some(&error)) else { unreachable!("it is refused") };
        assert_eq!((detail, field.as_deref()), (None, Some("/password")));
    }
}
