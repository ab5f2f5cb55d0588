//! Floating IPs.

use std::net::IpAddr;

use hull_core::{change::Write, floating_ip::Target};
use hull_types::{
    error::{Error, Result},
    id::NetworkId,
    name::Name,
    network::Subnet,
    port::Port,
    project::Project,
    router::{FloatingIp, Router},
    wire::{
        Revised,
        network::{FloatingIpCreate, FloatingIpTargetRequest, FloatingIpUpdate},
    },
};

use super::{
    App,
    ctx::Ctx,
    flavor::{answer, revised},
    list::Listing,
    network::{self, Held, of_project, owner},
    port::floating_ips,
};
use crate::state::{keys::Kind, table::Doc, view::State};

/// How floating IPs are listed.
pub const LISTING: Listing<FloatingIp, Revised<FloatingIp>> = Listing {
    kinds: &[Kind::FloatingIp],
    table: |state| &state.floating_ips,
    shared: None,
    view: |_, doc, _| revised(doc),
};

/// A floating IP by name, id or address.
fn find<'a>(ctx: &Ctx, state: &'a State, text: &str) -> Result<&'a Doc<FloatingIp>> {
    let refusal = match ctx.find(&state.floating_ips, text, state) {
        Ok(found) => return Ok(found),
        Err(refusal) => refusal,
    };
    let Ok(address) = text.parse::<IpAddr>() else { return Err(refusal) };
    let project = ctx.project(state)?;
    let mut own = state.floating_ips.after(Some(project.id), None);
    own.find(|floating| floating.address == address).ok_or(refusal)
}

/// What a request wants a floating IP to lead to, found.
struct Found<'a> {
    port: &'a Port,
    fixed: Option<IpAddr>,
    subnets: Vec<&'a Subnet>,
    routers: Vec<&'a Router>,
    present: Vec<&'a FloatingIp>,
}

impl<'a> Found<'a> {
    fn new(state: &'a State, project: &Project, external: NetworkId, wanted: &FloatingIpTargetRequest) -> Result<Self> {
        let port = match (&wanted.port, &wanted.vm) {
            (Some(text), None) => &*of_project(&state.ports, project, text).map_err(|e| e.at("/target/port"))?.value,
            (None, Some(text)) => port_of_vm(state, project, external, text)?,
            _ => return Err(Error::invalid("name a port or a VM, one of the two").at("/target")),
        };
        let subnets = Held::by_id(state, port.network)?.subnets;
        let on = subnets.iter().filter_map(|subnet| state.routers.get(subnet.router?));
        let routers = on.map(|router| &*router.value).collect();
        Ok(Self { port, fixed: wanted.fixed, subnets, routers, present: floating_ips(state, port.id) })
    }

    fn target(&self) -> Target<'_> {
        Target {
            port: self.port,
            fixed: self.fixed,
            subnets: &self.subnets,
            routers: &self.routers,
            present: &self.present,
        }
    }
}

/// The port of a VM that an external network reaches, or its first.
fn port_of_vm<'a>(state: &'a State, project: &Project, external: NetworkId, text: &str) -> Result<&'a Port> {
    let vm = of_project(&state.vms, project, text).map_err(|error| error.at("/target/vm"))?;
    let ports: Vec<&Port> = vm.ports.iter().filter_map(|&id| state.ports.get(id)).map(|port| &*port.value).collect();
    let reached = |port: &&&Port| {
        port.addresses.iter().any(|fixed| {
            let router = state.subnets.get(fixed.subnet).and_then(|subnet| state.routers.get(subnet.router?));
            router.and_then(|router| router.gateway).is_some_and(|gateway| gateway.network == external)
        })
    };
    let found = ports.iter().find(reached).or(ports.first()).copied();
    found.ok_or_else(|| {
        Error::conflict(format!("VM {} has no NIC to lead to; plug one in", vm.meta.name)).at("/target/vm")
    })
}

fn network_name(state: &State, network: NetworkId) -> Result<&Name> {
    Held::by_id(state, network).map(|held| &held.network.meta.name)
}

fn put(write: &Write) -> Option<&FloatingIp> {
    match write {
        Write::PutFloatingIp(floating) => Some(floating),
        _ => None,
    }
}

impl App {
    /// One floating IP.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn floating_ip(&self, ctx: &Ctx, text: &str) -> Result<Revised<FloatingIp>> {
        self.cache.read(|state| find(ctx, state, text).map(revised))
    }

    /// Takes an address of an external network.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound` for what the request names; the decision's.
    pub async fn create_floating_ip(&self, ctx: &Ctx, request: &FloatingIpCreate) -> Result<Revised<FloatingIp>> {
        let project = self.cache.read(|state| ctx.project(state).map(|project| project.id))?;
        let _turn = self.turn(project).await;
        let done = self
            .change(ctx, |state, call| {
                let owner = owner(state, project)?;
                let network = network::find(ctx, state, &request.network).map_err(|error| error.at("/network"))?;
                let held = Held::new(state, network);
                let wanted = request.target.as_ref();
                let found = wanted.map(|wanted| Found::new(state, owner.project, network.id, wanted)).transpose()?;
                let target = found.as_ref().map(Found::target);
                answer(hull_core::floating_ip::create(request, held.on(), target, &owner, call)?, None, put)
            })
            .await?;
        Ok(done.revised())
    }

    /// Changes a floating IP, or where it leads.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; the decision's.
    pub async fn update_floating_ip(
        &self,
        ctx: &Ctx,
        text: &str,
        wanted: &FloatingIpUpdate,
    ) -> Result<Revised<FloatingIp>> {
        let done = self
            .change(ctx, |state, call| {
                let floating = find(ctx, state, text)?;
                ctx.matches(floating.revision)?;
                let (owner, network) = (owner(state, floating.meta.project)?, floating.network);
                let new = wanted.target.as_ref().and_then(Option::as_ref);
                let found = new.map(|new| Found::new(state, owner.project, network, new)).transpose()?;
                let target = wanted.target.as_ref().map(|_| found.as_ref().map(Found::target));
                let name = network_name(state, network)?;
                let changes = hull_core::floating_ip::update(floating, wanted, target, name, &owner, call)?;
                answer(changes, Some(floating), put)
            })
            .await?;
        self.floating_ip(ctx, &done.answer.object.id.to_string())
    }

    /// Gives the address back.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`.
    pub async fn delete_floating_ip(&self, ctx: &Ctx, text: &str) -> Result<()> {
        self.change(ctx, |state, call| {
            let floating = find(ctx, state, text)?;
            ctx.matches(floating.revision)?;
            let owner = owner(state, floating.meta.project)?;
            Ok((hull_core::floating_ip::delete(floating, &owner, call), ()))
        })
        .await
        .map(|done| done.answer)
    }
}
