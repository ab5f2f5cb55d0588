//! Why a VM is as it is.

use std::time::Duration;

use hull_core::vm::explain::{Around, explain};
use hull_types::{
    error::Result,
    event::Event,
    link::{NodeCall, NodeReply},
    name::Name,
    port::Port,
    wire::Explanation,
};

use super::{App, ctx::Ctx, vm};

/// How long the node has to add what it knows.
const NODE_ANSWERS: Duration = Duration::from_secs(3);
/// The newest events told.
const EVENTS: usize = 20;

impl App {
    /// Explains a VM: from the documents, and from its node where it answers soon.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn explain_vm(&self, ctx: &Ctx, text: &str) -> Result<Explanation> {
        let id = self.cache.read(|state| ctx.find(&state.vms, text, state).map(|vm| vm.id))?;
        let node_says = match self.node_of(ctx, text) {
            Ok((node, vm)) => match self.hub.call(node, NodeCall::Explain { vm }, NODE_ANSWERS).await {
                Ok(NodeReply::Text { lines }) => lines,
                Ok(_) => vec!["its node answered something else".to_owned()],
                Err(error) => vec![error.detail],
            },
            Err(_) => Vec::new(),
        };
        let now = self.env.now();
        self.cache.read(|state| {
            let found = ctx.find(&state.vms, &id.to_string(), state)?;
            let ports: Vec<(Port, Name)> = found
                .ports
                .iter()
                .filter_map(|&port| state.ports.get(port))
                .filter_map(|port| {
                    Some((Port::clone(&port.value), state.networks.get(port.network)?.meta.name.clone()))
                })
                .collect();
            let events = state.events.after(Some(found.meta.project), None).filter(|event| event.resource.id == id.0);
            let mut events: Vec<Event> = events.map(|event| Event::clone(&event.value)).collect();
            events.drain(..events.len().saturating_sub(EVENTS));
            let migration = state.migration_of(id).and_then(|migration| {
                let to = state.nodes.get(migration.to)?;
                Some((&*migration.value, &to.value.name))
            });
            let around = Around { ports: &ports, migration, events: &events, node_says: &node_says };
            Ok(vm::look(state, found, now, |seen| explain(seen, &around)))
        })
    }
}
