//! Security groups and their rules.

use hull_core::{change::Write, security_group::Asked};
use hull_types::{
    error::{Error, Result},
    id::SecurityRuleId,
    name::Name,
    project::Project,
    security_group::{Remote, SecurityGroup},
    wire::{
        Revised,
        network::{RemoteRequest, SecurityGroupCreate, SecurityGroupUpdate, SecurityRuleCreate},
    },
};

use super::{
    App,
    ctx::Ctx,
    flavor::{answer, revised},
    list::Listing,
    network::{of_project, owner},
};
use crate::state::{keys::Kind, view::State};

/// How security groups are listed.
pub const LISTING: Listing<SecurityGroup, Revised<SecurityGroup>> = Listing {
    kinds: &[Kind::SecurityGroup],
    table: |state| &state.groups,
    shared: None,
    view: |_, doc, _| revised(doc),
};

/// The groups a port of this project shall be in: those named, or the project's `default`.
pub(crate) fn named<'a>(
    state: &'a State,
    project: &Project,
    names: Option<&[String]>,
) -> Result<Vec<&'a SecurityGroup>> {
    let Some(names) = names else {
        let default = state.groups.named(Some(project.id), hull_core::network::DEFAULT);
        return Ok(default.map(|group| &*group.value).into_iter().collect());
    };
    let found = names.iter().enumerate().map(|(at, text)| {
        let group = of_project(&state.groups, project, text).map(|group| &*group.value);
        group.map_err(|error| error.at(format!("/security_groups/{at}")))
    });
    found.collect()
}

fn asked<'a>(state: &State, project: &Project, request: &'a SecurityRuleCreate) -> Result<Asked<'a>> {
    let remote = match &request.remote {
        None => None,
        Some(RemoteRequest::Net(net)) => Some(Remote::Net(*net)),
        Some(RemoteRequest::Group(text)) => {
            let group = of_project(&state.groups, project, text).map_err(|error| error.at("/remote/group"))?;
            Some(Remote::Group(group.id))
        }
    };
    Ok(Asked { request, remote })
}

fn put(write: &Write) -> Option<&SecurityGroup> {
    match write {
        Write::PutSecurityGroup(group) => Some(group),
        _ => None,
    }
}

impl App {
    /// One security group.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn security_group(&self, ctx: &Ctx, text: &str) -> Result<Revised<SecurityGroup>> {
        self.cache.read(|state| ctx.find(&state.groups, text, state).map(revised))
    }

    /// Makes a group, with rules.
    ///
    /// # Errors
    /// `Forbidden`; the decision's.
    pub async fn create_security_group(
        &self,
        ctx: &Ctx,
        request: &SecurityGroupCreate,
    ) -> Result<Revised<SecurityGroup>> {
        let project = self.cache.read(|state| ctx.project(state).map(|project| project.id))?;
        let _turn = self.turn(project).await;
        let done = self
            .change(ctx, |state, call| {
                let owner = owner(state, project)?;
                let rules = request.rules.iter().enumerate().map(|(at, rule)| {
                    let asked = asked(state, owner.project, rule);
                    asked.map_err(|error| {
                        let field = error.field.clone().unwrap_or_default();
                        error.at(format!("/rules/{at}{field}"))
                    })
                });
                let rules = rules.collect::<Result<Vec<Asked<'_>>>>()?;
                answer(hull_core::security_group::create(request, &rules, &owner, call)?, None, put)
            })
            .await?;
        Ok(done.revised())
    }

    /// Changes a group's texts or kind.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; the decision's.
    pub async fn update_security_group(
        &self,
        ctx: &Ctx,
        text: &str,
        wanted: &SecurityGroupUpdate,
    ) -> Result<Revised<SecurityGroup>> {
        let done = self
            .change(ctx, |state, call| {
                let group = ctx.find(&state.groups, text, state)?;
                ctx.matches(group.revision)?;
                let (ports, owner) = (state.ports_in(group.id).count(), owner(state, group.meta.project)?);
                answer(hull_core::security_group::update(group, wanted, ports, &owner, call)?, Some(group), put)
            })
            .await?;
        self.security_group(ctx, &done.answer.object.id.to_string())
    }

    /// Adds a rule to a group.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; the decision's.
    pub async fn add_security_rule(
        &self,
        ctx: &Ctx,
        text: &str,
        request: &SecurityRuleCreate,
    ) -> Result<Revised<SecurityGroup>> {
        let done = self
            .change(ctx, |state, call| {
                let group = ctx.find(&state.groups, text, state)?;
                ctx.matches(group.revision)?;
                let owner = owner(state, group.meta.project)?;
                let asked = asked(state, owner.project, request)?;
                let (changes, _) = hull_core::security_group::add_rule(group, asked, &owner, call)?;
                answer(changes, Some(group), put)
            })
            .await?;
        Ok(done.revised())
    }

    /// Removes a rule from a group.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`.
    pub async fn remove_security_rule(&self, ctx: &Ctx, text: &str, rule: &str) -> Result<()> {
        let id: SecurityRuleId = rule.parse().map_err(|_| {
            let shown: String = rule.chars().take(80).collect();
            Error::not_found(format!("{shown:?} is no rule's id; `hull security-group show {text}` shows them"))
        })?;
        self.change(ctx, |state, call| {
            let group = ctx.find(&state.groups, text, state)?;
            ctx.matches(group.revision)?;
            Ok((hull_core::security_group::remove_rule(group, id, call)?, ()))
        })
        .await
        .map(|done| done.answer)
    }

    /// Deletes a group that nothing refers to.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; `Conflict` while it is used.
    pub async fn delete_security_group(&self, ctx: &Ctx, text: &str) -> Result<()> {
        self.change(ctx, |state, call| {
            let group = ctx.find(&state.groups, text, state)?;
            ctx.matches(group.revision)?;
            let (ports, owner) = (state.ports_in(group.id).count(), owner(state, group.meta.project)?);
            let naming = state.groups_naming(group.id).filter(|by| *by != group.id);
            let named_by: Vec<&Name> =
                naming.filter_map(|by| state.groups.get(by)).map(|by| &by.value.meta.name).collect();
            Ok((hull_core::security_group::delete(group, ports, &named_by, &owner, call)?, ()))
        })
        .await
        .map(|done| done.answer)
    }
}
