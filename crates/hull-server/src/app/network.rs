//! Networks, and what the nouns on them have in common: their owner, their network, what is taken of it.

use std::collections::{BTreeMap, BTreeSet};

use hull_core::{
    change::Write,
    ipam::NetworkUse,
    network::{Others, Powers},
    owner::Owner,
    policy::Place,
    subnet::On,
};
use hull_types::{
    error::{Error, Result},
    id::{NetworkId, ProjectId},
    network::{Network, Subnet},
    project::Project,
    token::Role,
    wire::{
        Revised,
        network::{NetworkCreate, NetworkUpdate},
    },
};

use super::{
    App,
    ctx::{Ctx, by_text, missing},
    flavor::{answer, revised},
    list::Listing,
    project::usage,
};
use crate::state::{
    keys::Kind,
    table::{Doc, Noun, Table},
    view::State,
};

/// How networks are listed.
pub const LISTING: Listing<Network, Revised<Network>> = Listing {
    kinds: &[Kind::Network],
    table: |state| &state.networks,
    shared: Some(|_, network| visible(network)),
    view: |_, doc, _| revised(doc),
};

/// Whether other projects see a network: they may use it, or lead out by it.
pub(crate) fn visible(network: &Network) -> bool {
    network.shared || network.external
}

/// A network of the project's, or one that other projects see. A name of the project's own comes first.
pub(crate) fn find<'a>(ctx: &Ctx, state: &'a State, text: &str) -> Result<&'a Doc<Network>> {
    let project = ctx.seen_project(state)?;
    let seen = |network: &&Doc<Network>| {
        visible(network) && (network.meta.name.as_str() == text || network.id.to_string() == text)
    };
    by_text(&state.networks, Some(project.id), text)
        .filter(|network| ctx.caller.sees(network.meta.project) || visible(network))
        .or_else(|| state.networks.iter().find(seen))
        .ok_or_else(|| missing::<Network>(text, Some(project)))
}

/// A network that the caller may change: one of a project they belong to.
pub(crate) fn own<'a>(ctx: &Ctx, state: &'a State, text: &str) -> Result<&'a Doc<Network>> {
    let network = find(ctx, state, text)?;
    // A network that other projects see is no secret.
    ctx.allowed(Place::Project(network.meta.project), || {
        let name = &network.meta.name;
        Error::forbidden(format!("network {name} is another project's; you may use it, not change it"))
    })?;
    Ok(network)
}

/// Something of this project's, by name or id.
pub(crate) fn of_project<'a, T: Noun>(table: &'a Table<T>, project: &Project, text: &str) -> Result<&'a Doc<T>> {
    by_text(table, Some(project.id), text)
        .filter(|doc| doc.project() == Some(project.id))
        .ok_or_else(|| missing::<T>(text, Some(project)))
}

/// A project with what it holds.
pub(crate) fn owner(state: &State, project: ProjectId) -> Result<Owner<'_>> {
    let found = state.projects.get(project).ok_or_else(|| Error::internal("a resource's project is gone"))?;
    Ok(Owner { project: found, usage: usage(state, project) })
}

/// What the caller may do with a project's networks beyond its members.
pub(crate) fn powers(ctx: &Ctx, project: ProjectId) -> Powers {
    let owner = ctx.caller.grants.in_project(project).is_some_and(|role| role >= Role::Admin);
    Powers { system: ctx.caller.system(Role::Admin).is_ok(), owner }
}

/// The projects that may begin to refer to a network.
pub(crate) fn users(state: &State, network: &Network) -> Vec<ProjectId> {
    if visible(network) {
        return state.projects.iter().map(|project| project.id).collect();
    }
    vec![network.meta.project]
}

/// What is taken of a network without ports.
static UNUSED: NetworkUse =
    NetworkUse { addresses: BTreeSet::new(), macs: BTreeSet::new(), hostnames: BTreeMap::new() };

/// A network with its subnets and what is taken of it, for decisions.
pub(crate) struct Held<'a> {
    pub(crate) network: &'a Network,
    pub(crate) subnets: Vec<&'a Subnet>,
    used: &'a NetworkUse,
}

impl<'a> Held<'a> {
    pub(crate) fn new(state: &'a State, network: &'a Network) -> Self {
        let subnets = state.subnets_of(network).map(|subnet| &*subnet.value).collect();
        Self { network, subnets, used: state.network_use(network.id).unwrap_or(&UNUSED) }
    }

    pub(crate) fn by_id(state: &'a State, id: NetworkId) -> Result<Self> {
        let network = state.networks.get(id).ok_or_else(|| Error::internal("a network that is referred to is gone"))?;
        Ok(Self::new(state, network))
    }

    pub(crate) fn on(&self) -> On<'_> {
        On { network: self.network, subnets: &self.subnets, used: self.used }
    }
}

fn others(state: &State, network: &Network) -> Others {
    let strangers = state
        .ports_of(network.id)
        .filter(|port| port.meta.project != network.meta.project && port.router_gateway.is_none());
    Others {
        ports: strangers.count(),
        routers: state.routers_out_by(network.id).count(),
        floating_ips: state.floating_ips.iter().filter(|floating| floating.network == network.id).count(),
    }
}

fn put(write: &Write) -> Option<&Network> {
    match write {
        Write::PutNetwork(network) => Some(network),
        _ => None,
    }
}

impl App {
    /// One network.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn network(&self, ctx: &Ctx, text: &str) -> Result<Revised<Network>> {
        self.cache.read(|state| find(ctx, state, text).map(revised))
    }

    /// Makes a network.
    ///
    /// # Errors
    /// `Forbidden`; the decision's.
    pub async fn create_network(&self, ctx: &Ctx, request: &NetworkCreate) -> Result<Revised<Network>> {
        let project = self.cache.read(|state| ctx.project(state).map(|project| project.id))?;
        let _turn = self.turn(project).await;
        let done = self
            .change(ctx, |state, call| {
                let owner = owner(state, project)?;
                answer(hull_core::network::create(request, &owner, powers(ctx, project), call)?, None, put)
            })
            .await?;
        Ok(done.revised())
    }

    /// Changes a network.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; the decision's.
    pub async fn update_network(&self, ctx: &Ctx, text: &str, wanted: &NetworkUpdate) -> Result<Revised<Network>> {
        let done = self
            .change(ctx, |state, call| {
                let network = own(ctx, state, text)?;
                ctx.matches(network.revision)?;
                let powers = powers(ctx, network.meta.project);
                let changes = hull_core::network::update(network, wanted, others(state, network), powers, call)?;
                answer(changes, Some(network), put)
            })
            .await?;
        self.network(ctx, &done.answer.object.id.to_string())
    }

    /// Deletes a network that nothing is on, with its subnets.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; `Conflict` while it is used.
    pub async fn delete_network(&self, ctx: &Ctx, text: &str) -> Result<()> {
        self.change(ctx, |state, call| {
            let network = own(ctx, state, text)?;
            ctx.matches(network.revision)?;
            let going = hull_core::network::Going {
                network,
                subnets: &Held::new(state, network).subnets,
                ports: state.ports_of(network.id).count(),
                others: others(state, network),
                users: &users(state, network),
            };
            let owner = owner(state, network.meta.project)?;
            Ok((hull_core::network::delete(&going, &owner, powers(ctx, network.meta.project), call)?, ()))
        })
        .await
        .map(|done| done.answer)
    }

    /// The id of a network that a listing is filtered by.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn network_id(&self, ctx: &Ctx, text: &str) -> Result<NetworkId> {
        self.cache.read(|state| find(ctx, state, text).map(|network| network.id))
    }
}
