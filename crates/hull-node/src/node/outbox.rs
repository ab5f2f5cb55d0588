//! What waits to be sent to the server: whom it concerns, not what it says. What is sent is the newest, however long the
//! link was down; only replies are kept as they are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hull_types::{
    id::VmId,
    link::{FromNode, PROTOCOL},
    node::NodeStatus,
    vm::VmStatus,
};

#[derive(Default)]
pub(super) struct Outbox {
    pub(super) hello: bool,
    pub(super) status: bool,
    pub(super) replies: VecDeque<FromNode>,
    pub(super) vms: BTreeSet<VmId>,
}

impl Outbox {
    /// Of a new link: the greeting, then every VM.
    pub(super) fn greeting(vms: impl Iterator<Item = VmId>) -> Self {
        Self { hello: true, vms: vms.collect(), ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.hello && !self.status && self.replies.is_empty() && self.vms.is_empty()
    }

    /// The next message; none where a VM it was about is gone.
    pub(super) fn next(&mut self, node: &NodeStatus, vms: &BTreeMap<VmId, VmStatus>) -> Option<FromNode> {
        if std::mem::take(&mut self.hello) {
            let status = Box::new(node.clone());
            return Some(FromNode::Hello { protocol: PROTOCOL, node: node.node, status });
        }
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        if let Some(vm) = self.vms.pop_first() {
            return vms.get(&vm).map(|status| FromNode::Vm(Box::new(status.clone())));
        }
        self.status = false;
        Some(FromNode::Status(Box::new(node.clone())))
    }
}
