//! Whose a thing is, and the turnstile that keeps references whole.
//!
//! A port refers to its network, a floating IP to a port, a rule to another group. That nothing is deleted while
//! something begins to refer to it cannot be seen from the two documents alone: the new reference is a document the
//! deletion has not read. So **whoever begins to refer to something writes its own project's usage, and whoever removes
//! something expects the usage of all who may refer to it to be as read**. Of two that cross one is decided again, on
//! what the other has left. Usage is written by everything that takes from a quota anyway.

use hull_types::{
    error::Result,
    id::ProjectId,
    project::{Project, Usage},
};

use crate::{
    change::{Changes, Doc, Named, Write},
    quota,
};

/// A project with what it holds.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The project.
    pub project: &'a Project,
    /// What it holds.
    pub usage: Usage,
}

impl Owner<'_> {
    /// Its id.
    pub fn id(&self) -> ProjectId {
        self.project.id
    }

    /// Takes one of a kind from the quota, and passes the turnstile.
    pub(crate) fn take(&self, kind: Named) -> Result<Changes> {
        let usage = quota::take(&self.project.quota, self.usage, quota::one(kind))?;
        Ok(self.put(usage).unchanged(Doc::Project(self.id())))
    }

    /// Gives one back.
    pub(crate) fn give(&self, kind: Named) -> Changes {
        self.put(quota::subtract(self.usage, quota::one(kind)))
    }

    /// Gives back what several things counted.
    pub(crate) fn give_all(&self, held: Usage) -> Changes {
        self.put(quota::subtract(self.usage, held))
    }

    /// Passes the turnstile without taking anything.
    pub(crate) fn pass(&self) -> Changes {
        self.put(self.usage)
    }

    fn put(&self, usage: Usage) -> Changes {
        let project = self.id();
        Changes::none().unchanged(Doc::Usage(project)).and(Write::PutUsage { project, usage })
    }
}

impl Changes {
    /// Nobody of these has begun to refer to what goes.
    #[must_use]
    pub(crate) fn unreferred(mut self, users: &[ProjectId]) -> Self {
        for &project in users {
            self = self.unchanged(Doc::Usage(project));
        }
        self
    }
}
