//! Gives routers their ends on external networks, one on each node that holds the router.
//!
//! What is decided is decided in [`hull_core::router::gateways`]. A round looks at all routers that lead out, or have an
//! end left; it is spared where nothing they depend on has changed since the last round that went through.

use std::sync::atomic::{AtomicU64, Ordering};

use hull_core::{change::Changes, router};
use hull_types::{
    error::{Error, Result},
    id::{NodeId, RouterId},
    name::Name,
};

use crate::{
    app::{
        App,
        ctx::{Caller, Ctx},
        network::{Held, owner},
        router::gateways,
    },
    hub::desired::nodes_of_router,
    state::{keys::Kind, view::State},
};

/// The controller. It remembers only up to where it need not look again.
#[derive(Debug, Default)]
pub struct Gateways {
    /// One after the revision of the last round; 0 before the first.
    next: AtomicU64,
}

impl Gateways {
    /// One round over all routers. One that fails keeps no other from its ends.
    ///
    /// # Errors
    /// The last failure; all is looked at again in the next round.
    pub async fn round(&self, app: &App) -> Result<()> {
        let now = app.cache.now();
        if !self.concerned(app) {
            return Ok(());
        }
        let routers: Vec<RouterId> = app.cache.read(|state| {
            let leads = state.routers.iter().filter(|router| {
                router.gateway.is_some()
                    || router.reason.is_some()
                    || state.gateway_ports_of(router.id).next().is_some()
            });
            leads.map(|router| router.id).collect()
        });
        let mut end = Ok(());
        for router in routers {
            let ctx = Ctx::of(Caller::SERVER);
            let done = app.change(&ctx, |state, call| Ok((decide(state, router, call)?, ()))).await;
            if let Err(error) = done {
                end = Err(Error { detail: format!("the ends of router {router}: {}", error.detail), ..error });
            }
        }
        if end.is_ok() {
            self.next.store(now + 1, Ordering::Relaxed);
        }
        end
    }

    /// Whether something that ends depend on may have changed.
    fn concerned(&self, app: &App) -> bool {
        let Some(seen) = self.next.load(Ordering::Relaxed).checked_sub(1) else { return true };
        let Ok((changed, _)) = app.cache.since(seen) else { return true };
        changed.iter().any(|change| {
            matches!(
                change.kind,
                Kind::Router
                    | Kind::Network
                    | Kind::Subnet
                    | Kind::Port
                    | Kind::FloatingIp
                    | Kind::Placement
                    | Kind::Vm
                    | Kind::Node
            )
        })
    }
}

fn decide(state: &State, id: RouterId, call: &mut hull_core::call::Call<'_>) -> Result<Changes> {
    let Some(router) = state.routers.get(id) else { return Ok(Changes::none()) };
    let held = router.gateway.map(|gateway| Held::by_id(state, gateway.network)).transpose()?;
    let nodes = nodes_of_router(state, router);
    let nodes: Vec<(NodeId, &Name)> =
        nodes.iter().filter_map(|&id| Some((id, &state.nodes.get(id)?.value.name))).collect();
    let plan = router::Gateways {
        router,
        out: held.as_ref().map(Held::on),
        present: &gateways(state, router.id),
        nodes: &nodes,
    };
    router::gateways(&plan, &owner(state, router.meta.project)?, call)
}
