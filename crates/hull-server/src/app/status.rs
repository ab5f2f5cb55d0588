//! What runs here, in one answer.

use std::collections::BTreeMap;

use hull_types::wire::ServerStatus;

use super::{App, ctx::Ctx, vm};
use crate::state::view::State;

impl App {
    /// The server's status. VMs are counted in the whole cloud for system scope, in the token's project otherwise.
    pub fn status(&self, ctx: &Ctx) -> ServerStatus {
        self.cache.read_at(|state, revision| {
            let ready = state.nodes.iter().filter(|node| state.answers(node.id)).count();
            ServerStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started_at: self.started_at,
                revision,
                nodes_ready: ready as u64,
                nodes: state.nodes.len() as u64,
                vms: self.count(state, |project| ctx.caller.sees(project)),
            }
        })
    }

    /// VMs by state.
    pub(crate) fn count(&self, state: &State, of: impl Fn(hull_types::id::ProjectId) -> bool) -> BTreeMap<String, u64> {
        let now = self.env.now();
        let mut vms = BTreeMap::new();
        for doc in state.vms.iter().filter(|vm| of(vm.meta.project)) {
            let shown = vm::stands(state, doc, now).state;
            *vms.entry(word(&shown)).or_default() += 1;
        }
        vms
    }
}

/// A unit variant as it is written on the wire.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
