//! Ports that users make.

use hull_core::{
    change::Write,
    port::{Readdressing, Wish},
};
use hull_types::{
    error::Result,
    id::PortId,
    network::Subnet,
    port::Port,
    project::Project,
    router::FloatingIp,
    wire::{
        Revised,
        network::{PortCreate, PortUpdate},
    },
};

use super::{
    App,
    ctx::{Ctx, missing},
    flavor::{answer, revised},
    list::Listing,
    network::{self, Held, owner, powers},
    security_group,
};
use crate::state::{keys::Kind, view::State};

/// How ports are listed.
pub const LISTING: Listing<Port, Revised<Port>> =
    Listing { kinds: &[Kind::Port], table: |state| &state.ports, shared: None, view: |_, doc, _| revised(doc) };

/// The floating IPs that lead to a port.
pub(crate) fn floating_ips(state: &State, port: PortId) -> Vec<&FloatingIp> {
    state.floating_ips_of(port).map(|floating| &*floating.value).collect()
}

/// Subnets of a network, as a request names them.
pub(crate) fn subnets_named<'a>(held: &Held<'a>, project: &Project, names: &[String]) -> Result<Vec<&'a Subnet>> {
    let find = |text: &String| {
        let named = |subnet: &&&Subnet| subnet.meta.name.as_str() == text || subnet.id.to_string() == *text;
        held.subnets.iter().find(named).copied()
    };
    let found = names.iter().enumerate().map(|(at, text)| {
        find(text).ok_or_else(|| missing::<Subnet>(text, Some(project)).at(format!("/subnets/{at}")))
    });
    found.collect()
}

fn put(write: &Write) -> Option<&Port> {
    match write {
        Write::PutPort(port) => Some(port),
        _ => None,
    }
}

impl App {
    /// One port.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn port(&self, ctx: &Ctx, text: &str) -> Result<Revised<Port>> {
        self.cache.read(|state| ctx.find(&state.ports, text, state).map(revised))
    }

    /// Makes a port without a VM.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound` for what the request names; the decision's.
    pub async fn create_port(&self, ctx: &Ctx, request: &PortCreate) -> Result<Revised<Port>> {
        let project = self.cache.read(|state| ctx.project(state).map(|project| project.id))?;
        let _turn = self.turn(project).await;
        let done = self
            .change(ctx, |state, call| {
                let owner = owner(state, project)?;
                let network = network::find(ctx, state, &request.network).map_err(|error| error.at("/network"))?;
                let held = Held::new(state, network);
                let wish = Wish {
                    on: held.on(),
                    addresses: &request.addresses,
                    from: &subnets_named(&held, owner.project, &request.subnets)?,
                    mac: request.mac,
                    groups: &security_group::named(state, owner.project, request.security_groups.as_deref())?,
                };
                let powers = powers(ctx, network.meta.project);
                answer(hull_core::port::create(request, &wish, &owner, powers, call)?, None, put)
            })
            .await?;
        Ok(done.revised())
    }

    /// Changes a port.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; the decision's.
    pub async fn update_port(&self, ctx: &Ctx, text: &str, wanted: &PortUpdate) -> Result<Revised<Port>> {
        let done = self
            .change(ctx, |state, call| {
                let port = ctx.find(&state.ports, text, state)?;
                ctx.matches(port.revision)?;
                let (held, owner) = (Held::by_id(state, port.network)?, owner(state, port.meta.project)?);
                let names = wanted.security_groups.as_deref();
                let groups = names.map(|names| security_group::named(state, owner.project, Some(names))).transpose()?;
                let on = Readdressing { port, on: held.on(), floating_ips: &floating_ips(state, port.id) };
                let powers = powers(ctx, held.network.meta.project);
                let changes = hull_core::port::update(&on, wanted, groups.as_deref(), &owner, powers, call)?;
                answer(changes, Some(port), put)
            })
            .await?;
        self.port(ctx, &done.answer.object.id.to_string())
    }

    /// Deletes a port that no VM has.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; `Conflict` while a VM has it.
    pub async fn delete_port(&self, ctx: &Ctx, text: &str) -> Result<()> {
        self.change(ctx, |state, call| {
            let port = ctx.find(&state.ports, text, state)?;
            ctx.matches(port.revision)?;
            let owner = owner(state, port.meta.project)?;
            Ok((hull_core::port::delete(port, &floating_ips(state, port.id), &owner, call)?, ()))
        })
        .await
        .map(|done| done.answer)
    }
}
