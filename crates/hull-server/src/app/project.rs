//! Projects: made and removed by system admins.

use hull_core::change::Write;
use hull_types::{
    error::{Error, Result},
    id::ProjectId,
    project::{Project, Usage},
    security_group::SecurityGroup,
    token::{Role, Scope},
    wire::{ProjectCreate, ProjectView},
};

use super::{
    App,
    ctx::{Ctx, by_text, missing},
    list::Listing,
};
use crate::state::{keys::Kind, table::Doc, view::State};

/// How projects are listed.
pub const LISTING: Listing<Project, ProjectView> = Listing {
    kinds: &[Kind::Project, Kind::Usage],
    table: |state| &state.projects,
    shared: None,
    view: |state, doc, _| view(state, doc),
};

/// What a project holds.
pub(crate) fn usage(state: &State, project: ProjectId) -> Usage {
    state.usage(project).map(|usage| *usage.value).unwrap_or_default()
}

fn view(state: &State, project: &Doc<Project>) -> ProjectView {
    ProjectView { project: Project::clone(&project.value), usage: usage(state, project.id) }
}

fn find<'a>(ctx: &Ctx, state: &'a State, text: &str) -> Result<&'a Doc<Project>> {
    by_text(&state.projects, None, text)
        .filter(|project| ctx.caller.sees(project.id))
        .ok_or_else(|| missing::<Project>(text, None))
}

impl App {
    /// One project.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn project(&self, ctx: &Ctx, text: &str) -> Result<ProjectView> {
        self.cache.read(|state| find(ctx, state, text).map(|project| view(state, project)))
    }

    /// Whether a caller's listing shows this project.
    pub fn lists_project(scope: Scope, project: &Project) -> bool {
        scope == Scope::System || scope == Scope::Project(project.id)
    }

    /// Makes a project with its default security group.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; the decision's.
    pub async fn create_project(&self, ctx: &Ctx, request: &ProjectCreate) -> Result<ProjectView> {
        ctx.caller.system(Role::Admin)?;
        let done = self
            .change(ctx, |_, call| {
                let changes = hull_core::project::create(request, call)?;
                let project = changes.writes.iter().find_map(|write| match write {
                    Write::PutProject(project) => Some(Project::clone(project)),
                    _ => None,
                });
                let project = project.ok_or_else(|| Error::internal("the new project was not decided"))?;
                Ok((changes, ProjectView { project, usage: Usage::default() }))
            })
            .await?;
        Ok(done.answer)
    }

    /// Deletes an empty project.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`; `Conflict` while it holds something.
    pub async fn delete_project(&self, ctx: &Ctx, text: &str) -> Result<()> {
        ctx.caller.system(Role::Admin)?;
        self.change(ctx, |state, call| {
            let project = find(ctx, state, text)?;
            ctx.matches(project.revision)?;
            let groups: Vec<SecurityGroup> =
                state.groups.after(Some(project.id), None).map(|group| SecurityGroup::clone(&group.value)).collect();
            let networks = state.networks.after(Some(project.id), None).count();
            let held = usage(state, project.id);
            Ok((hull_core::project::delete(project, held, &groups, networks, call)?, ()))
        })
        .await
        .map(|done| done.answer)
    }
}
