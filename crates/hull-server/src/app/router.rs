//! Routers.

use hull_core::{
    change::Write,
    router::{Joined, Out, Tied},
};
use hull_types::{
    error::Result,
    id::{RouterId, SubnetId},
    network::Subnet,
    port::Port,
    project::Project,
    router::{FloatingIp, Router},
    wire::{
        Revised,
        network::{RouterCreate, RouterGatewayRequest, RouterUpdate},
    },
};

use super::{
    App,
    ctx::Ctx,
    flavor::{answer, revised},
    list::Listing,
    network::{self, Held, of_project, owner},
};
use crate::state::{keys::Kind, table::Doc, view::State};

/// How routers are listed.
pub const LISTING: Listing<Router, Revised<Router>> =
    Listing { kinds: &[Kind::Router], table: |state| &state.routers, shared: None, view: |_, doc, _| revised(doc) };

fn joined<'a>(state: &'a State, subnet: &'a Subnet) -> Result<Joined<'a>> {
    Ok(Joined { subnet, network: Held::by_id(state, subnet.network)?.network })
}

/// A way out as a request names it.
fn out<'a>(ctx: &Ctx, state: &'a State, wanted: &RouterGatewayRequest) -> Result<(Held<'a>, bool)> {
    let network = network::find(ctx, state, &wanted.network).map_err(|error| error.at("/gateway/network"))?;
    Ok((Held::new(state, network), wanted.snat))
}

fn lead<'a>(found: &'a (Held<'_>, bool)) -> Out<'a> {
    Out { network: found.0.network, subnets: &found.0.subnets, snat: found.1 }
}

/// The ends of a router on its external network.
pub(crate) fn gateways(state: &State, router: RouterId) -> Vec<&Port> {
    state.gateway_ports_of(router).map(|port| &*port.value).collect()
}

/// How many floating IPs lead through a router, or by it to one subnet.
fn through(state: &State, router: &Router, subnet: Option<SubnetId>) -> usize {
    let to = |floating: &Doc<FloatingIp>| {
        let Some(target) = floating.target.filter(|target| target.router == router.id) else { return false };
        let port = state.ports.get(target.port);
        let from = port.and_then(|port| port.addresses.iter().find(|fixed| fixed.address == target.fixed));
        subnet.is_none_or(|subnet| from.is_some_and(|fixed| fixed.subnet == subnet))
    };
    state.floating_ips.after(Some(router.meta.project), None).filter(|floating| to(floating)).count()
}

/// Looks at a router with all it is tied to.
fn tied<T>(
    state: &State,
    router: &Router,
    subnet: Option<SubnetId>,
    look: impl FnOnce(&Tied<'_>) -> Result<T>,
) -> Result<T> {
    let subnets = router.subnets.iter().filter_map(|&id| state.subnets.get(id));
    let joins = subnets.map(|subnet| joined(state, &subnet.value)).collect::<Result<Vec<_>>>()?;
    let held = router
        .gateway
        .map(|gateway| Ok::<_, hull_types::error::Error>((Held::by_id(state, gateway.network)?, gateway.snat)));
    let held = held.transpose()?;
    look(&Tied {
        router,
        joins: &joins,
        out: held.as_ref().map(lead),
        gateways: &gateways(state, router.id),
        through: through(state, router, subnet),
    })
}

fn subnet_of<'a>(state: &'a State, project: &Project, text: &str, field: &str) -> Result<&'a Doc<Subnet>> {
    of_project(&state.subnets, project, text).map_err(|error| error.at(field))
}

fn put(write: &Write) -> Option<&Router> {
    match write {
        Write::PutRouter(router) => Some(router),
        _ => None,
    }
}

impl App {
    /// One router.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn router(&self, ctx: &Ctx, text: &str) -> Result<Revised<Router>> {
        self.cache.read(|state| ctx.find(&state.routers, text, state).map(revised))
    }

    /// Makes a router.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound` for what the request names; the decision's.
    pub async fn create_router(&self, ctx: &Ctx, request: &RouterCreate) -> Result<Revised<Router>> {
        let project = self.cache.read(|state| ctx.project(state).map(|project| project.id))?;
        let _turn = self.turn(project).await;
        let done = self
            .change(ctx, |state, call| {
                let owner = owner(state, project)?;
                let joins = request.subnets.iter().enumerate().map(|(at, text)| {
                    let subnet = subnet_of(state, owner.project, text, &format!("/subnets/{at}"))?;
                    joined(state, &subnet.value)
                });
                let joins = joins.collect::<Result<Vec<_>>>()?;
                let found = request.gateway.as_ref().map(|wanted| out(ctx, state, wanted)).transpose()?;
                let changes = hull_core::router::create(request, &joins, found.as_ref().map(lead), &owner, call)?;
                answer(changes, None, put)
            })
            .await?;
        Ok(done.revised())
    }

    /// Changes a router.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; the decision's.
    pub async fn update_router(&self, ctx: &Ctx, text: &str, wanted: &RouterUpdate) -> Result<Revised<Router>> {
        let done = self
            .change(ctx, |state, call| {
                let router = ctx.find(&state.routers, text, state)?;
                ctx.matches(router.revision)?;
                let owner = owner(state, router.meta.project)?;
                let new = wanted.gateway.as_ref().and_then(Option::as_ref);
                let found = new.map(|new| out(ctx, state, new)).transpose()?;
                let new = wanted.gateway.as_ref().map(|_| found.as_ref().map(lead));
                let changes =
                    tied(state, router, None, |tied| hull_core::router::update(tied, wanted, new, &owner, call))?;
                answer(changes, Some(router), put)
            })
            .await?;
        self.router(ctx, &done.answer.object.id.to_string())
    }

    /// Joins a subnet to a router.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; the decision's.
    pub async fn add_router_subnet(&self, ctx: &Ctx, text: &str, subnet: &str) -> Result<Revised<Router>> {
        let done = self
            .change(ctx, |state, call| {
                let router = ctx.find(&state.routers, text, state)?;
                ctx.matches(router.revision)?;
                let owner = owner(state, router.meta.project)?;
                let subnet = subnet_of(state, owner.project, subnet, "/subnet")?;
                let joins = joined(state, &subnet.value)?;
                let changes = tied(state, router, None, |tied| hull_core::router::add_subnet(tied, joins, call))?;
                answer(changes, Some(router), put)
            })
            .await?;
        self.router(ctx, &done.answer.object.id.to_string())
    }

    /// Takes a subnet from a router.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; `Conflict` while floating IPs lead to it.
    pub async fn remove_router_subnet(&self, ctx: &Ctx, text: &str, subnet: &str) -> Result<()> {
        self.change(ctx, |state, call| {
            let router = ctx.find(&state.routers, text, state)?;
            ctx.matches(router.revision)?;
            let owner = owner(state, router.meta.project)?;
            let subnet = of_project(&state.subnets, owner.project, subnet)?;
            let changes =
                tied(state, router, Some(subnet.id), |tied| hull_core::router::remove_subnet(tied, subnet, call))?;
            Ok((changes, ()))
        })
        .await
        .map(|done| done.answer)
    }

    /// Deletes a router that joins nothing.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; `Conflict` while it joins subnets.
    pub async fn delete_router(&self, ctx: &Ctx, text: &str) -> Result<()> {
        self.change(ctx, |state, call| {
            let router = ctx.find(&state.routers, text, state)?;
            ctx.matches(router.revision)?;
            let owner = owner(state, router.meta.project)?;
            Ok((hull_core::router::delete(router, &gateways(state, router.id), &owner, call)?, ()))
        })
        .await
        .map(|done| done.answer)
    }
}
