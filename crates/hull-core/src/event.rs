//! History: events are made here and written in the transaction that makes them true.

use hull_types::{
    event::{Event, ResourceRef},
    id::ProjectId,
    vm::Vm,
};
use uuid::Uuid;

use crate::call::Call;

/// An event about any resource. `action` is noun, dot, verb; `message` one sentence.
pub fn about(
    call: &mut Call<'_>,
    project: Option<ProjectId>,
    (kind, id, name): (&str, Uuid, &str),
    action: &str,
    message: impl Into<String>,
) -> Event {
    Event {
        id: call.id(),
        project,
        at: call.now,
        actor: call.actor.clone(),
        resource: ResourceRef { kind: kind.to_owned(), id, name: name.to_owned() },
        action: action.to_owned(),
        message: message.into(),
    }
}

/// An event about a VM.
pub fn vm(call: &mut Call<'_>, vm: &Vm, action: &str, message: impl Into<String>) -> Event {
    about(call, Some(vm.meta.project), ("vm", vm.id.0, vm.meta.name.as_str()), action, message)
}
