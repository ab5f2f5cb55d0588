//! Makes a running machine larger: CPUs by `device_add` on the places QEMU offers, memory by one DIMM a step.

use std::sync::PoisonError;

use hull_types::{
    error::{Error, Result},
    flavor::Resources,
    vm::Accel,
};
use serde_json::{Value, json};

use super::{cgroup::Limits, cmdline, record::write_durably, shape::Shape, translations, vmm::Shared};
use crate::hypervisor::Resized;

/// Brings the machine as near to `to` as it can be while it runs.
pub(super) async fn resize(machine: &Shared, to: Resources) -> Result<Resized> {
    let record = machine.record();
    let mut growth = record.shape.grow_to(to);
    let (vcpus, memory) = (to.vcpus.max(record.shape.now().vcpus), to.memory.max(record.shape.now().memory));
    // Room first: a guest that uses its new memory must not meet the old limit.
    let limits = Limits::new(vcpus, record.shape.max_vcpus, memory, record.accel);
    machine.cgroups.apply(machine.vm, limits)?;
    if !growth.cores.is_empty() {
        growth.pending.extend(plug_cpus(machine, &growth.cores).await?);
    }
    if let Some(size) = growth.dimm {
        let index = machine.record().shape.dimms.len();
        let backend = format!("dimm{index}-ram");
        ask(machine, "object-add", cmdline::memory_object(&backend, size)).await?;
        let dimm = json!({"driver": "pc-dimm", "id": format!("dimm{index}"), "memdev": backend});
        if let Err(error) = ask(machine, "device_add", dimm).await {
            // Without its DIMM the memory would be held for nothing, and its name taken.
            ask(machine, "object-del", json!({"id": backend})).await?;
            return Err(error);
        }
        remember(machine, |shape| shape.dimms.push(size))?;
    }
    Ok(Resized { now: Some(machine.record().shape.now()), pending: growth.pending })
}

/// Plugs in these cores; what had to be left is said.
async fn plug_cpus(machine: &Shared, cores: &[u16]) -> Result<Option<String>> {
    let places = ask(machine, "query-hotpluggable-cpus", Value::Null).await?;
    let places = places.as_array().map(Vec::as_slice).unwrap_or_default();
    for core in cores {
        if machine.record().accel == Accel::Tcg && !translations::make_place(machine).await? {
            let now = machine.record().shape.now().vcpus;
            return Ok(Some(format!(
                "CPUs above {now} take effect at the next start (its emulator has no room for one now)"
            )));
        }
        let free = |place: &&Value| {
            place.get("qom-path").is_none()
                && place.pointer("/props/core-id").and_then(Value::as_u64) == Some(u64::from(*core))
        };
        let place = places
            .iter()
            .find(free)
            .ok_or_else(|| Error::internal(format!("QEMU offers no place for CPU {core} of {:?}", machine.vm)))?;
        let mut device = place.get("props").cloned().unwrap_or_else(|| json!({}));
        device["driver"] = place.get("type").cloned().unwrap_or_default();
        device["id"] = json!(format!("cpu{core}"));
        ask(machine, "device_add", device).await?;
        remember(machine, |shape| shape.plugged_cpus.push(*core))?;
    }
    Ok(None)
}

async fn ask(machine: &Shared, command: &str, arguments: Value) -> Result<Value> {
    machine.qmp.run(command, arguments).await.map_err(|error| machine.explain(error))
}

/// Changes the recorded shape, durably.
pub(super) fn remember(machine: &Shared, change: impl FnOnce(&mut Shape)) -> Result<()> {
    let record = {
        let mut record = machine.record.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut record.shape);
        record.clone()
    };
    write_durably(&machine.files.record(), &record)
        .map_err(|error| Error::internal(format!("cannot write down the new size of {:?}: {error}", machine.vm)))
}
