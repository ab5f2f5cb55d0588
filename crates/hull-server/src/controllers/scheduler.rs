//! Gives VMs their nodes.

use hull_core::{placement, vm::place};
use hull_types::{error::Result, id::VmId};

use crate::{
    app::{
        App,
        ctx::{Caller, Ctx},
        node,
    },
    state::view::State,
};

/// Places every VM that wants a node. One transaction each, so that one VM's trouble is its own; each sees the room that
/// the ones before have taken.
pub async fn round(app: &App) -> Result<()> {
    let waiting: Vec<VmId> = app.cache.read(|state| state.unplaced().filter(|&vm| wants(state, vm)).collect());
    if waiting.is_empty() {
        return Ok(());
    }
    let _turn = app.placing.lock().await;
    for vm in waiting {
        place(app, vm).await?;
    }
    Ok(())
}

fn wants(state: &State, vm: VmId) -> bool {
    let placement = state.placement(vm).map(|placement| &*placement.value);
    state.vms.get(vm).is_some_and(|vm| place::wants_node(vm, placement))
}

async fn place(app: &App, id: VmId) -> Result<()> {
    app.change(&Ctx::of(Caller::SERVER), |state, call| {
        let Some(vm) = state.vms.get(id).filter(|_| wants(state, id)) else {
            return Ok((hull_core::change::Changes::none(), ()));
        };
        let placement = state.placement(id).map(|placement| &*placement.value);
        let nodes = node::candidates(state);
        let answer = placement::place(&vm.resources, &nodes, call.now).and_then(|id| {
            // The answer is one of the candidates.
            let name = nodes.iter().find(|node| node.id == id).map(|node| (id, &node.name));
            name.ok_or_else(|| no_such_node(call.now))
        });
        Ok((place::place(vm, placement, answer, call), ()))
    })
    .await
    .map(|done| done.answer)
}

fn no_such_node(now: hull_types::Timestamp) -> hull_types::reason::Reason {
    let message = "the node that was chosen is gone; another is being chosen";
    hull_types::reason::Reason::new(hull_types::reason::ReasonCode::AwaitingPlacement, message, now)
}
