//! NICs that come and go while a machine runs.
//!
//! ```text
//!   attach:  seat written down ─► getfd (tap) ─► netdev_add ─► device_add
//!   detach:  device_del ─► the guest lets go (DEVICE_DELETED) ─► netdev_del ─► seat forgotten
//!                              └─ not in time: an error; it may still let go later
//! ```
//!
//! The record names a seat before QEMU has the NIC and until QEMU has it no more. So whatever was interrupted where, and
//! a guest that let go late, is put right by one rule ([`settle`]): a seat without a device is cleared away.

use std::time::Duration;

use hull_types::{
    error::{Error, Result},
    id::PortId,
    vm::Profile,
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{
    cmdline::{netdev, nic_device, nic_name},
    resize::remember,
    shape::NicSeat,
    vmm::Shared,
};
use crate::hypervisor::{NicSpec, Plugged, PluggedNic, qmp::QmpError};

/// How long a guest has to let go of a NIC before the step counts as failed; a Linux that is up takes less than a second.
const LET_GO_WITHIN: Duration = Duration::from_secs(8);
/// How often it is looked at meanwhile, beside QEMU's events.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The NICs the machine has.
pub(super) async fn held(machine: &Shared) -> Result<Vec<PluggedNic>> {
    Ok(settle(machine).await?.iter().map(NicSeat::nic).collect())
}

/// Brings the record and QEMU together: a seat whose device is not there is cleared away with its host side.
pub(super) async fn settle(machine: &Shared) -> Result<Vec<NicSeat>> {
    let Some(seats) = machine.record().shape.nics else {
        return Err(Error::unsupported("it was started by an earlier Hull: its NICs change at its next start"));
    };
    if seats.is_empty() {
        return Ok(seats);
    }
    let devices = devices(machine).await?;
    let (here, gone): (Vec<_>, Vec<_>) = seats.into_iter().partition(|seat| devices.contains(&nic_name(seat.port)));
    for seat in &gone {
        // It closes the tap, and the tap goes.
        let removed = machine.qmp.run("netdev_del", json!({"id": netdev(seat.port)})).await;
        removed.map(drop).or_else(unless_missing).map_err(|error| machine.explain(error))?;
    }
    if !gone.is_empty() {
        remember(machine, |shape| shape.nics = Some(here.clone()))?;
    }
    Ok(here)
}

/// Names of the devices that were given one.
async fn devices(machine: &Shared) -> Result<Vec<String>> {
    let listed = machine.qmp.run("qom-list", json!({"path": "/machine/peripheral"})).await;
    let listed = listed.map_err(|error| machine.explain(error))?;
    let name = |entry: &Value| entry.get("name").and_then(Value::as_str).map(str::to_owned);
    Ok(listed.as_array().into_iter().flatten().filter_map(name).collect())
}

/// That something is not there is no failure of its removal.
fn unless_missing(error: QmpError) -> Result<(), QmpError> {
    match &error {
        QmpError::Refused { class, .. } if class == "DeviceNotFound" => Ok(()),
        _ => Err(error),
    }
}

/// Plugs a NIC in.
pub(super) async fn attach(machine: &Shared, nic: NicSpec) -> Result<Plugged> {
    let here = settle(machine).await?;
    match here.iter().find(|seat| seat.port == nic.port) {
        Some(seat) if seat.mac == nic.mac => return Ok(Plugged::Now),
        Some(seat) => {
            let mac = seat.mac;
            return Err(Error::conflict(format!("port {} still has a NIC with MAC {mac}: unplug it first", nic.port)));
        }
        None => {}
    }
    let slot = match (machine.profile(), machine.record().shape.free_slot()) {
        (Profile::Pc, Some(slot)) => slot,
        (Profile::Pc, None) => {
            return Ok(later(nic.port, "takes effect", "there is no free slot; unplugging another NIC frees one"));
        }
        (Profile::Micro, _) => return Ok(later(nic.port, "takes effect", "a micro takes no devices while it runs")),
    };
    let seat = NicSeat { port: nic.port, mac: nic.mac, mtu: nic.mtu, slot };
    remember(machine, |shape| shape.nics.get_or_insert_default().push(seat))?;
    if let Err(error) = plug(machine, &seat, nic).await {
        // What is left half done is cleared away now, or with the next look.
        if let Err(left) = settle(machine).await {
            tracing::warn!(vm = %machine.vm, error = %left, "a NIC that could not be plugged in is not cleared away yet");
        }
        return Err(machine.explain(error));
    }
    Ok(Plugged::Now)
}

async fn plug(machine: &Shared, seat: &NicSeat, nic: NicSpec) -> Result<(), QmpError> {
    let (qmp, tap) = (&machine.qmp, format!("tap-{}", seat.port));
    qmp.run_with_fd("getfd", json!({"fdname": tap}), nic.tap).await?;
    let host_side = json!({"type": "tap", "id": netdev(seat.port), "fd": tap, "vhost": false});
    if let Err(error) = qmp.run("netdev_add", host_side).await {
        // QEMU may have taken the descriptor or not; if it still holds it, nobody else could open the tap.
        let _ = qmp.run("closefd", json!({"fdname": tap})).await;
        return Err(error);
    }
    qmp.run("device_add", nic_device(machine.profile(), seat)).await.map(drop)
}

fn later(port: PortId, what: &str, why: &str) -> Plugged {
    Plugged::AtNextStart(format!("the NIC of port {port} {what} at the next start: {why}"))
}

/// Unplugs a port's NIC.
pub(super) async fn detach(machine: &Shared, port: PortId) -> Result<Plugged> {
    if !settle(machine).await?.iter().any(|seat| seat.port == port) {
        return Ok(Plugged::Now);
    }
    if machine.profile() == Profile::Micro {
        return Ok(later(port, "goes", "a micro lets go of no device while it runs"));
    }
    let mut notices = machine.qmp.subscribe();
    let name = nic_name(port);
    match machine.qmp.run("device_del", json!({"id": name})).await.map(drop).or_else(unless_missing) {
        // The guest was asked before and has not answered yet.
        Err(QmpError::Refused { desc, .. }) if desc.contains("in the process of unplug") => {}
        asked => asked.map_err(|error| machine.explain(error))?,
    }
    let end = Instant::now() + LET_GO_WITHIN;
    while devices(machine).await?.contains(&name) {
        if Instant::now() >= end {
            return Err(Error::timeout(format!(
                "the guest does not let go of the NIC of port {port} (it may be booting, or cannot unplug); it is asked \
                 again, and the NIC goes at the next start at the latest"
            )));
        }
        // Whatever QEMU says is a reason to look; that it says nothing, too.
        let _ = timeout(LOOK_EVERY, notices.recv()).await;
    }
    settle(machine).await?;
    Ok(Plugged::Now)
}
