//! Projects: made and removed by system admins.

use hull_core::{change::Write, policy::Place};
use hull_types::{
    error::{Error, Result},
    id::ProjectId,
    project::{Project, Usage},
    security_group::SecurityGroup,
    token::Scope,
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
    let missing = || missing::<Project>(text, None);
    let project = by_text(&state.projects, None, text).ok_or_else(missing)?;
    ctx.allowed(Place::Project(project.id), missing)?;
    Ok(project)
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
    pub fn lists_project(ctx: &Ctx, project: &Project) -> bool {
        ctx.caller.sees(project.id)
    }

    /// Makes a project with its default security group.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; the decision's.
    pub async fn create_project(&self, ctx: &Ctx, request: &ProjectCreate) -> Result<ProjectView> {
        ctx.on_system()?;
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

    /// Deletes an empty project, with what people were given in it.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`; `Conflict` while it holds something.
    pub async fn delete_project(&self, ctx: &Ctx, text: &str) -> Result<()> {
        ctx.on_system()?;
        self.change(ctx, |state, call| {
            let project = find(ctx, state, text)?;
            ctx.matches(project.revision)?;
            let groups: Vec<SecurityGroup> =
                state.groups.after(Some(project.id), None).map(|group| SecurityGroup::clone(&group.value)).collect();
            let uncounted = hull_core::project::Uncounted {
                networks: state.networks.after(Some(project.id), None).count(),
                routers: state.routers.after(Some(project.id), None).count(),
                floating_ips: state.floating_ips.after(Some(project.id), None).count(),
            };
            let held = usage(state, project.id);
            let mut changes = hull_core::project::delete(project, held, &groups, uncounted, call)?;
            let here = Scope::Project(project.id);
            let roles: Vec<_> =
                state.people.assignments.iter().filter(|it| it.scope == here).map(|it| &*it.value).collect();
            let credentials = state.people.credentials.iter().filter(|it| it.project == project.id);
            let credentials: Vec<_> = credentials.map(|it| &*it.value).collect();
            hull_core::role_assignment::remove_project(&mut changes, &roles, &credentials);
            Ok((changes, ()))
        })
        .await
        .map(|done| done.answer)
    }
}
