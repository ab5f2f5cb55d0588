//! The scheduler's part of a VM: where it shall be.

use hull_types::{
    id::NodeId,
    name::Name,
    reason::Reason,
    vm::{Placement, Vm},
};

use crate::{
    call::Call,
    change::{Changes, Doc, Write},
    event,
};

/// Whether the scheduler has work with this VM.
pub fn wants_node(vm: &Vm, placement: Option<&Placement>) -> bool {
    vm.deleted_at.is_none() && placement.is_none_or(|placement| placement.node.is_none())
}

/// Writes the scheduler's answer: a node, as a new generation, or why none. Nothing changes where the answer is the same.
pub fn place(
    vm: &Vm,
    placement: Option<&Placement>,
    answer: Result<(NodeId, &Name), Reason>,
    call: &mut Call<'_>,
) -> Changes {
    if !wants_node(vm, placement) {
        return Changes::none();
    }
    let generation = placement.map_or(0, |placement| placement.generation);
    let changes = Changes::none().unchanged(Doc::Vm(vm.id)).unchanged(Doc::Placement(vm.id));
    let decided = |node, generation, reason| {
        Write::PutPlacement(Box::new(Placement {
            vm: vm.id,
            node,
            generation,
            reason,
            moving: None,
            decided_at: call.now,
        }))
    };
    match answer {
        Ok((node, name)) => {
            let put = decided(Some(node), generation + 1, None);
            let told = event::vm(call, vm, "vm.place", format!("placed on node {name}"));
            changes.unchanged(Doc::Node(node)).and(put).event(told)
        }
        Err(mut reason) => {
            if let Some(before) = placement.and_then(|placement| placement.reason.as_ref()) {
                if before.message == reason.message {
                    return Changes::none();
                }
                if before.code == reason.code {
                    reason.since = before.since;
                }
            }
            // Only the first refusal is history; later ones differ in numbers.
            let first = placement.is_none_or(|placement| placement.reason.is_none());
            let told = first.then(|| reason.message.clone());
            let changes = changes.and(decided(None, generation, Some(reason)));
            match told {
                Some(message) => {
                    let event = event::vm(call, vm, "vm.unplaced", message);
                    changes.event(event)
                }
                None => changes,
            }
        }
    }
}
