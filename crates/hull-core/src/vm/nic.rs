//! Plugging NICs into a VM and unplugging them. The documents change at once; the node follows: a running `pc` machine
//! at once, a `micro` machine at its next start.

use hull_types::{
    error::{Error, Result},
    name::Name,
    port::Port,
    router::FloatingIp,
    vm::{Profile, Vm, VmState},
};

use super::{
    action::{Acting, changed, not_suspended},
    create::{NICS_MAX, Nic, port, write_port},
};
use crate::{
    call::Call,
    change::{Changes, Claim, Named, Write},
    hostname::free,
    owner::Owner,
    port::{self as ports, Taken},
};

/// A NIC that comes or goes.
#[derive(Clone, Debug)]
pub enum Plug<'a> {
    /// It comes.
    In {
        /// It.
        nic: Nic<'a>,
        /// The ports that the VM has.
        present: &'a [&'a Port],
    },
    /// It goes.
    Out {
        /// Its port.
        port: &'a Port,
        /// The floating IPs that lead to it.
        floating_ips: &'a [&'a FloatingIp],
        /// The ports that the VM has, this one among them.
        present: &'a [&'a Port],
    },
}

/// Decides.
pub(super) fn act(plan: &Acting<'_>, call: &mut Call<'_>) -> Result<Changes> {
    let owner = Owner { project: plan.project, usage: plan.usage };
    match &plan.nic {
        Some(Plug::In { nic, present }) => attach(plan, nic, present, &owner, call),
        Some(Plug::Out { port, floating_ips, present }) => detach(plan, port, floating_ips, present, &owner, call),
        None => Err(Error::internal("a NIC was to be plugged or unplugged, and none was found")),
    }
}

fn attach(
    plan: &Acting<'_>,
    nic: &Nic<'_>,
    present: &[&Port],
    owner: &Owner<'_>,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let vm = plan.vm;
    not_suspended(vm, "attach-nic", plan.standing)?;
    if vm.ports.len() >= NICS_MAX {
        let detail = format!("{} has {NICS_MAX} NICs, the most there can be; unplug one first", vm.meta.name);
        return Err(Error::conflict(detail));
    }
    let (hostname, shared) = hostname(vm, nic, present);
    let made = port(nic, vm.id, &hostname, owner, &mut Taken::default(), call).map_err(|error| match &error.field {
        Some(field) => error.clone().at(format!("/nic{field}")),
        None => error,
    })?;
    let mut changes = match nic {
        Nic::Make(wish) => {
            let mut changes = owner.take(Named::Port)?;
            ports::expect(&mut changes, wish);
            changes
        }
        Nic::Take(_) => owner.pass(),
    };
    if !shared {
        ports::hostname_claims(vm.id, &[&made]).for_each(|claim| changes.push(Write::Claim(claim)));
    }
    let id = made.id;
    let message = format!("NIC {} plugged in{}", said(&made), when(plan));
    write_port(&mut changes, nic, made);
    Ok(joined(changes, changed(vm, "attach-nic", message, call, |vm| vm.ports.push(id))))
}

fn detach(
    plan: &Acting<'_>,
    port: &Port,
    floating_ips: &[&FloatingIp],
    present: &[&Port],
    owner: &Owner<'_>,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let vm: &Vm = plan.vm;
    let name: &Name = &vm.meta.name;
    not_suspended(vm, "detach-nic", plan.standing)?;
    if !vm.ports.contains(&port.id) {
        let detail = format!("port {} is not {name}'s; `hull port list --vm {name}` shows its ports", port.meta.name);
        return Err(Error::not_found(detail).at("/port"));
    }
    let mut changes;
    if port.goes_with_vm {
        changes = owner.give(Named::Port);
        ports::remove(&mut changes, port, floating_ips, call);
        let left: Vec<&Port> = present.iter().filter(|other| other.id != port.id).copied().collect();
        let kept: Vec<Claim> = ports::hostname_claims(vm.id, &left).collect();
        let had = ports::hostname_claims(vm.id, &[port]);
        had.filter(|claim| !kept.contains(claim)).for_each(|claim| changes.push(Write::Release(claim)));
    } else {
        changes = owner.pass();
        ports::let_go(&mut changes, port, call);
    }
    let message = format!("NIC {} unplugged{}", said(port), when(plan));
    Ok(joined(changes, changed(vm, "detach-nic", message, call, |vm| vm.ports.retain(|id| *id != port.id))))
}

/// The host name of a NIC that is made, and whether another NIC of the VM's on its network has it already.
fn hostname(vm: &Vm, nic: &Nic<'_>, present: &[&Port]) -> (String, bool) {
    let Nic::Make(wish) = nic else { return (vm.hostname.clone(), true) };
    let sibling = present.iter().find(|port| port.goes_with_vm && port.network == wish.on.network.id);
    match sibling {
        Some(sibling) => (sibling.hostname.clone(), true),
        None => (free(vm.hostname.clone(), |label| wish.on.used.hostnames.contains_key(label)), false),
    }
}

/// Two parts of one transaction.
fn joined(mut first: Changes, second: Changes) -> Changes {
    second.expect.into_iter().for_each(|expect| first.expect(expect));
    first.writes.extend(second.writes);
    first
}

fn said(port: &Port) -> String {
    let addresses: Vec<String> = port.ips().map(|address| address.to_string()).collect();
    if addresses.is_empty() { port.mac.to_string() } else { format!("{} ({})", port.mac, addresses.join(", ")) }
}

fn when(plan: &Acting<'_>) -> &'static str {
    let off = matches!(plan.standing.state, VmState::Stopped | VmState::Scheduling | VmState::Failed);
    match plan.vm.profile {
        Profile::Micro if !off => "; a micro machine has no hotplug, it takes effect at its next start",
        Profile::Micro | Profile::Pc => "",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "nic_tests.rs"]
mod tests;
