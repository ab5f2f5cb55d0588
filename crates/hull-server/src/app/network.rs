//! Networks, security groups and ports, to look at. They are made by Hull itself so far.

use hull_types::{error::Result, network::Network, port::Port, security_group::SecurityGroup, wire::Revised};

use super::{
    App,
    ctx::{Ctx, missing},
    flavor::revised,
    list::Listing,
};
use crate::state::{keys::Kind, table::Doc, view::State};

/// How networks are listed.
pub const NETWORKS: Listing<Network, Revised<Network>> = Listing {
    kinds: &[Kind::Network],
    table: |state| &state.networks,
    shared: Some(|network| network.shared),
    view: |_, doc, _| revised(doc),
};

/// How security groups are listed.
pub const GROUPS: Listing<SecurityGroup, Revised<SecurityGroup>> = Listing {
    kinds: &[Kind::SecurityGroup],
    table: |state| &state.groups,
    shared: None,
    view: |_, doc, _| revised(doc),
};

/// How ports are listed.
pub const PORTS: Listing<Port, Revised<Port>> =
    Listing { kinds: &[Kind::Port], table: |state| &state.ports, shared: None, view: |_, doc, _| revised(doc) };

/// A network of the project's, or one that all projects share.
pub(crate) fn find<'a>(ctx: &Ctx, state: &'a State, text: &str) -> Result<&'a Doc<Network>> {
    let project = ctx.project(state)?;
    if let Ok(found) = ctx.find(&state.networks, text, state) {
        return Ok(found);
    }
    let named = |network: &&Doc<Network>| network.meta.name.as_str() == text || network.id.to_string() == text;
    let shared = state.networks.iter().filter(|network| network.shared);
    shared.into_iter().find(named).ok_or_else(|| missing::<Network>(text, Some(project)))
}

impl App {
    /// One network.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn network(&self, ctx: &Ctx, text: &str) -> Result<Revised<Network>> {
        self.cache.read(|state| find(ctx, state, text).map(revised))
    }

    /// One security group.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn security_group(&self, ctx: &Ctx, text: &str) -> Result<Revised<SecurityGroup>> {
        self.cache.read(|state| ctx.find(&state.groups, text, state).map(revised))
    }

    /// One port.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn port(&self, ctx: &Ctx, text: &str) -> Result<Revised<Port>> {
        self.cache.read(|state| ctx.find(&state.ports, text, state).map(revised))
    }
}
