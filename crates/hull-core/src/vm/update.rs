//! Changing a VM's name, texts and restart policy.

use hull_types::{error::Result, vm::Vm, wire::VmUpdate};

use super::create::name_claim;
use crate::{
    call::Call,
    change::{Changes, Doc, Write},
    check, event,
};

/// Decides. The host name inside stays as it is; fields not given stay.
pub fn update(vm: &Vm, wanted: &VmUpdate, call: &mut Call<'_>) -> Result<Changes> {
    super::changeable(vm, "change")?;
    wanted.description.as_deref().map_or(Ok(()), check::description)?;
    wanted.metadata.as_ref().map_or(Ok(()), check::metadata)?;
    let mut after = vm.clone();
    let VmUpdate { name, description, metadata, restart } = wanted.clone();
    after.meta.name = name.unwrap_or(after.meta.name);
    after.meta.description = description.unwrap_or(after.meta.description);
    after.meta.metadata = metadata.unwrap_or(after.meta.metadata);
    after.restart = restart.unwrap_or(after.restart);
    if after == *vm {
        return Ok(Changes::none());
    }
    after.meta.updated_at = call.now;
    let mut changes = Changes::none().unchanged(Doc::Vm(vm.id));
    let mut told = "changed".to_owned();
    if after.meta.name != vm.meta.name {
        told = format!("renamed from {}", vm.meta.name);
        changes.push(Write::Release(name_claim(vm)));
        changes.push(Write::Claim(name_claim(&after)));
    }
    let event = event::vm(call, &after, "vm.update", told);
    Ok(changes.and(Write::PutVm(Box::new(after))).event(event))
}
