//! Virtual machines: every decision about them.
//!
//! ```text
//!   create ──► placed ──► (action | update)* ──► delete ──► purge
//!      │          ▲                                │          ▲
//!      │      place (scheduler)                    └──────────┘ once its node says it is gone, or at once where no node
//!      │                                                        ever had it
//!      └─ all or none: Vm, ports, addresses, names, usage, history
//! ```
//!
//! What people see of all this is computed in [`state`], and nowhere else.

pub mod action;
pub mod create;
pub mod delete;
pub mod explain;
pub mod nic;
pub mod place;
pub mod report;
pub mod state;
pub mod update;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use hull_types::{
    error::{Error, Result},
    vm::Vm,
};

/// Refuses changes of a VM that goes away or is locked. `act` is the verb for the sentence.
pub(crate) fn changeable(vm: &Vm, act: &str) -> Result<()> {
    let name = &vm.meta.name;
    if vm.deleted_at.is_some() {
        return Err(Error::conflict(format!("cannot {act} {name}: it is being deleted")));
    }
    if vm.locked {
        let detail = format!("cannot {act} {name}: it is locked; unlock it first (`hull vm unlock {name}`)");
        return Err(Error::conflict(detail));
    }
    Ok(())
}
