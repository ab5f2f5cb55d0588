//! Nodes: joining, looking at, taking out of service, removing.

use hull_core::{
    change::Write,
    node::Holds,
    placement::{Candidate, Room},
    vm::state::NodeSeen,
};
use hull_types::{
    Timestamp,
    error::{Error, Result},
    flavor::Resources,
    id::{NodeId, VmId},
    name::Name,
    node::{Node, NodeStatus},
    vm::Vm,
    wire::{NodeUpdate, NodeView, Revised},
};

use super::{
    App,
    ctx::{Ctx, by_text, missing},
    list::Listing,
};
use crate::state::{keys::Kind, table::Doc, view::State};

/// How nodes are listed.
pub const LISTING: Listing<Node, Revised<NodeView>> = Listing {
    kinds: &[Kind::Node, Kind::NodeStatus, Kind::NodeLease],
    table: |state| &state.nodes,
    shared: None,
    view: |state, doc, _| view(state, doc),
};

/// Since when a node does not answer; none while it does.
pub(crate) fn silent_since(state: &State, node: &Node) -> Option<Timestamp> {
    if state.answers(node.id) {
        return None;
    }
    Some(state.node_status(node.id).map_or(node.joined_at, |status| status.at))
}

/// A node, as VMs on it see it.
pub(crate) fn seen<'a>(state: &'a State, node: NodeId) -> Option<NodeSeen<'a>> {
    let node = state.nodes.get(node)?;
    Some(NodeSeen { name: &node.value.name, silent_since: silent_since(state, node) })
}

/// Every node, as placement sees it.
pub(crate) fn candidates(state: &State) -> Vec<Candidate> {
    let nodes = state.nodes.iter();
    nodes.map(|node| candidate(state, node)).collect()
}

fn candidate(state: &State, node: &Node) -> Candidate {
    let status = state.node_status(node.id).map(|status| &*status.value);
    Candidate::new(node, status, silent_since(state, node), state.load(node.id).room)
}

fn view(state: &State, node: &Doc<Node>) -> Revised<NodeView> {
    let load = state.load(node.id);
    let Room { vcpus, memory, disk } = load.room;
    let vcpus = u16::try_from(vcpus).unwrap_or(u16::MAX);
    let object = NodeView {
        node: Node::clone(&node.value),
        ready: state.answers(node.id),
        status: state.node_status(node.id).map(|status| NodeStatus::clone(&status.value)),
        allocated: Resources { vcpus, memory, disk },
        vms: load.vms,
    };
    Revised { object, revision: node.revision }
}

pub(crate) fn find<'a>(state: &'a State, text: &str) -> Result<&'a Doc<Node>> {
    by_text(&state.nodes, None, text).ok_or_else(|| missing::<Node>(text, None))
}

impl App {
    /// One node.
    ///
    /// # Errors
    /// `Forbidden` outside of system scope; `NotFound`.
    pub fn node(&self, ctx: &Ctx, text: &str) -> Result<Revised<NodeView>> {
        ctx.on_system()?;
        self.cache.read(|state| find(state, text).map(|node| view(state, node)))
    }

    /// The node of this name, joined now if there is none yet: for the node in this very process, which needs no token. It
    /// keeps its id over restarts, and with it its VMs.
    ///
    /// # Errors
    /// The decision's and the store's.
    pub async fn join_node(&self, ctx: &Ctx, name: &Name) -> Result<NodeId> {
        let done = self
            .change(ctx, |state, call| {
                if let Some(node) = state.nodes.named(None, name.as_str()) {
                    return Ok((hull_core::change::Changes::none(), node.id));
                }
                let changes = hull_core::node::join(name.clone(), call);
                let id = changes.writes.iter().find_map(|write| match write {
                    Write::PutNode(node) => Some(node.id),
                    _ => None,
                });
                let id = id.ok_or_else(|| Error::internal("a joining node was not decided"))?;
                Ok((changes, id))
            })
            .await?;
        Ok(done.answer)
    }

    /// Takes a node out of service, or in again.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`; `PreconditionFailed`.
    pub async fn update_node(&self, ctx: &Ctx, text: &str, wanted: &NodeUpdate) -> Result<Revised<NodeView>> {
        ctx.on_system()?;
        self.change(ctx, |state, call| {
            let node = find(state, text)?;
            ctx.matches(node.revision)?;
            Ok((hull_core::node::update(node, wanted, call), ()))
        })
        .await?;
        self.node(ctx, text)
    }

    /// Removes a node that holds nothing.
    ///
    /// # Errors
    /// `Forbidden` but for system admins; `NotFound`; `Conflict` while VMs are on it.
    pub async fn delete_node(&self, ctx: &Ctx, text: &str) -> Result<()> {
        ctx.on_system()?;
        // No VM is given to it meanwhile.
        let _turn = self.placing.lock().await;
        self.change(ctx, |state, call| {
            let node = find(state, text)?;
            ctx.matches(node.revision)?;
            let vm = |id: VmId| state.vms.get(id).map(|vm| &*vm.value);
            let placed: Vec<&Vm> = state.vms_on(node.id).filter_map(vm).collect();
            let coming: Vec<&Vm> = state.vms_coming(node.id).filter_map(vm).collect();
            let holds = Holds { placed: &placed, coming: &coming };
            Ok((hull_core::node::delete(node, state.answers(node.id), holds, call)?, ()))
        })
        .await
        .map(|done| done.answer)
    }
}
