//! Projects: made, limited and removed by system admins.

use hull_core::{
    change::{Changes, Doc as Is, Write},
    policy::Place,
    quota,
};
use hull_types::{
    error::{Error, Result},
    id::ProjectId,
    project::{Project, Usage},
    security_group::SecurityGroup,
    token::Scope,
    wire::{ProjectCreate, ProjectUpdate, ProjectView},
};

use super::{
    App,
    ctx::{Caller, Ctx, by_text, missing},
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
    viewed(Project::clone(&project.value), usage(state, project.id))
}

fn viewed(project: Project, usage: Usage) -> ProjectView {
    ProjectView { above: quota::above(&project.quota, &usage), project, usage }
}

/// What a project holds, counted anew from its resources.
fn counted(state: &State, project: ProjectId) -> Usage {
    let own = Some(project);
    let vms = state.vms.after(own, None).map(|vm| quota::of_vm(&vm.resources, 0));
    let networks = state.networks.after(own, None).map(|network| quota::of_network(network));
    let groups = state.groups.after(own, None).map(|group| quota::of_group(group));
    let sum = vms.chain(networks).chain(groups).fold(Usage::default(), quota::add);
    let many = |n: usize| n as u64;
    Usage {
        // A router's own ends are the server's, and count for no quota.
        ports: many(state.ports.after(own, None).filter(|port| port.router_gateway.is_none()).count()),
        routers: many(state.routers.after(own, None).count()),
        floating_ips: many(state.floating_ips.after(own, None).count()),
        images: many(state.images.after(own, None).count()),
        keypairs: many(state.keypairs.after(own, None).count()),
        ..sum
    }
}

fn find<'a>(ctx: &Ctx, state: &'a State, text: &str) -> Result<&'a Doc<Project>> {
    let missing = || missing::<Project>(text, None);
    let project = by_text(&state.projects, None, text).ok_or_else(missing)?;
    ctx.allowed(Place::Project(project.id), missing)?;
    ctx.saw(text, project);
    Ok(project)
}

fn put(changes: &Changes) -> Option<Project> {
    changes.writes.iter().find_map(|write| match write {
        Write::PutProject(project) => Some(Project::clone(project)),
        _ => None,
    })
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
                let project = put(&changes).ok_or_else(|| Error::internal("the new project was not decided"))?;
                let usage = changes.writes.iter().find_map(|write| match write {
                    Write::PutUsage { usage, .. } => Some(*usage),
                    _ => None,
                });
                let view = viewed(project, usage.unwrap_or_default());
                Ok((changes, view))
            })
            .await?;
        Ok(done.answer)
    }

    /// Changes a project's name, description or quota. The answer says what it holds more of than it may.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`; `PreconditionFailed`; the decision's.
    pub async fn update_project(&self, ctx: &Ctx, text: &str, wanted: &ProjectUpdate) -> Result<ProjectView> {
        ctx.on_system()?;
        let done = self
            .change(ctx, |state, call| {
                let project = find(ctx, state, text)?;
                ctx.matches(project.revision)?;
                let held = usage(state, project.id);
                let changes = hull_core::project::update(project, held, wanted, call)?;
                let after = put(&changes).unwrap_or_else(|| Project::clone(&project.value));
                Ok((changes, viewed(after, held)))
            })
            .await?;
        Ok(done.answer)
    }

    /// Counts what every project holds and mends what is said of it: a version before this one did not count all that
    /// is counted now. For the start, while nothing else changes anything.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn recount(&self) -> Result<()> {
        let wrong: Vec<ProjectId> = self.cache.read(|state| {
            let wrong = state.projects.iter().filter(|it| usage(state, it.id) != counted(state, it.id));
            wrong.map(|project| project.id).collect()
        });
        for project in wrong {
            tracing::info!(%project, "what the project holds is counted anew");
            self.change(&Ctx::of(Caller::SERVER), |state, _| {
                let usage = counted(state, project);
                let held = Changes::none().unchanged(Is::Project(project)).unchanged(Is::Usage(project));
                Ok((held.and(Write::PutUsage { project, usage }), ()))
            })
            .await?;
        }
        Ok(())
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
            let held = usage(state, project.id);
            let mut changes = hull_core::project::delete(project, held, &groups, call)?;
            let here = Scope::Project(project.id);
            let roles: Vec<_> =
                state.people.assignments.iter().filter(|it| it.scope == here).map(|it| &*it.value).collect();
            let credentials = state.people.credentials.iter().filter(|it| it.project == project.id);
            let credentials: Vec<_> = credentials.map(|it| &*it.value).collect();
            let tokens = state.tokens.iter().filter(|it| it.scope == here).map(|it| it.id).collect::<Vec<_>>();
            hull_core::role_assignment::remove_project(&mut changes, &roles, &credentials, &tokens);
            Ok((changes, ()))
        })
        .await
        .map(|done| done.answer)
    }
}
