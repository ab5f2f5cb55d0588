//! Subnets of networks. They are the network's owner's, and seen by all who see the network.

use hull_core::change::Write;
use hull_types::{
    error::Result,
    network::Subnet,
    wire::{
        Revised,
        network::{SubnetCreate, SubnetUpdate},
    },
};

use super::{
    App,
    ctx::Ctx,
    flavor::{answer, revised},
    list::Listing,
    network::{self, Held, owner, powers},
};
use crate::state::{keys::Kind, table::Doc, view::State};

/// How subnets are listed.
pub const LISTING: Listing<Subnet, Revised<Subnet>> = Listing {
    kinds: &[Kind::Subnet],
    table: |state| &state.subnets,
    shared: Some(|state, subnet| state.networks.get(subnet.network).is_some_and(|network| network::visible(network))),
    view: |_, doc, _| revised(doc),
};

/// A subnet of the project's, or by its id one of a network that the project sees.
pub(crate) fn find<'a>(ctx: &Ctx, state: &'a State, text: &str) -> Result<&'a Doc<Subnet>> {
    let refusal = match ctx.find(&state.subnets, text, state) {
        Ok(found) => return Ok(found),
        Err(refusal) => refusal,
    };
    let by_id = uuid::Uuid::parse_str(text).ok().and_then(|id| state.subnets.get(id));
    by_id.filter(|subnet| network::find(ctx, state, &subnet.network.to_string()).is_ok()).ok_or(refusal)
}

fn put(write: &Write) -> Option<&Subnet> {
    match write {
        Write::PutSubnet(subnet) => Some(subnet),
        _ => None,
    }
}

impl App {
    /// One subnet.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn subnet(&self, ctx: &Ctx, text: &str) -> Result<Revised<Subnet>> {
        self.cache.read(|state| find(ctx, state, text).map(revised))
    }

    /// Makes a subnet.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound` for its network; the decision's.
    pub async fn create_subnet(&self, ctx: &Ctx, request: &SubnetCreate) -> Result<Revised<Subnet>> {
        let done = self
            .change(ctx, |state, call| {
                let network = network::own(ctx, state, &request.network).map_err(|error| error.at("/network"))?;
                let project = network.meta.project;
                let (held, owner) = (Held::new(state, network), owner(state, project)?);
                answer(hull_core::subnet::create(request, held.on(), &owner, powers(ctx, project), call)?, None, put)
            })
            .await?;
        Ok(done.revised())
    }

    /// Changes a subnet.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; the decision's.
    pub async fn update_subnet(&self, ctx: &Ctx, text: &str, wanted: &SubnetUpdate) -> Result<Revised<Subnet>> {
        let done = self
            .change(ctx, |state, call| {
                let subnet = ctx.find(&state.subnets, text, state)?;
                ctx.matches(subnet.revision)?;
                let project = subnet.meta.project;
                let (held, owner) = (Held::by_id(state, subnet.network)?, owner(state, project)?);
                let powers = powers(ctx, project);
                let changes = hull_core::subnet::update(subnet, wanted, held.on(), &owner, powers, call)?;
                answer(changes, Some(subnet), put)
            })
            .await?;
        self.subnet(ctx, &done.answer.object.id.to_string())
    }

    /// Deletes a subnet no address of which is in use.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; `Conflict` while it is used.
    pub async fn delete_subnet(&self, ctx: &Ctx, text: &str) -> Result<()> {
        self.change(ctx, |state, call| {
            let subnet = ctx.find(&state.subnets, text, state)?;
            ctx.matches(subnet.revision)?;
            let project = subnet.meta.project;
            let (held, owner) = (Held::by_id(state, subnet.network)?, owner(state, project)?);
            let users = network::users(state, held.network);
            let powers = powers(ctx, project);
            Ok((hull_core::subnet::delete(subnet, held.on(), &owner, &users, powers, call)?, ()))
        })
        .await
        .map(|done| done.answer)
    }
}
