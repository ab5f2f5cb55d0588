//! Acts on a VM: what the user's document becomes, or why not and what to do instead.
//!
//! Power acts are wishes ([`PowerIntent`] with a new `seq`); acts that happen once (reboot, rebuild) are counters. The
//! node catches up with both, so an act is decided here in full and never waited for. A wish that is fulfilled already
//! changes nothing, so every act can be repeated safely.
//!
//! ```text
//!             start                         pause
//!   Stopped ─────────► Running ◄─────────────────────► Paused
//!   Failed     ◄─────          ─────────► Suspended       │
//!             stop    ▲        suspend         │          │
//!                     └────────────────────────┴──────────┘ resume
//! ```
//!
//! `stop` is possible from everywhere (from Suspended it throws the saved memory away). `start` is refused where memory
//! would be lost by it: `resume` is the word there.

use hull_types::{
    error::{Error, ErrorKind, Result},
    flavor::{Flavor, Resources},
    image::Image,
    name::Name,
    project::{Project, Usage},
    units::Bytes,
    vm::{FlavorRef, PowerIntent, PowerTarget, Profile, RebootKind, Rescue, Vm, VmState},
    wire::VmAction,
};

use super::{
    create::{self, GRACE_SECONDS},
    nic,
    state::Standing,
};
use crate::{
    call::Call,
    change::{Changes, Doc, Write},
    check, event,
    placement::{self, Candidate, Room},
    quota,
};

/// The longest grace a stop may give, in seconds.
pub const GRACE_MAX: u32 = 3600;

/// The act with everything it names.
pub struct Acting<'a> {
    /// The VM.
    pub vm: &'a Vm,
    /// What people see of it.
    pub standing: &'a Standing,
    /// What was asked.
    pub action: &'a VmAction,
    /// Its owner.
    pub project: &'a Project,
    /// What the owner holds.
    pub usage: Usage,
    /// Resizing: the flavor named.
    pub flavor: Option<&'a Flavor>,
    /// Rebuilding, rescuing: the image named, or the VM's own.
    pub image: Option<&'a Image>,
    /// Plugging, unplugging: the NIC.
    pub nic: Option<nic::Plug<'a>>,
    /// All nodes, to refuse what none could ever hold.
    pub nodes: &'a [Candidate],
    /// The node it is placed on.
    pub node: Option<&'a Candidate>,
}

/// Decides.
pub fn act(plan: &Acting<'_>, call: &mut Call<'_>) -> Result<Changes> {
    let (vm, standing) = (plan.vm, plan.standing);
    match plan.action {
        VmAction::Lock => return lock(vm, true, call),
        VmAction::Unlock => return lock(vm, false, call),
        _ => super::changeable(vm, verb(plan.action))?,
    }
    match plan.action {
        VmAction::Start => start(vm, standing, call),
        VmAction::Stop { grace_seconds } => stop(vm, standing, grace_seconds.unwrap_or(GRACE_SECONDS), call),
        VmAction::Reboot { kind } => reboot(vm, standing, *kind, call),
        VmAction::Pause => pause(vm, standing, call),
        VmAction::Resume => resume(vm, standing, call),
        VmAction::Suspend => suspend(vm, standing, call),
        VmAction::Resize { vcpus, memory, disk, .. } => resize(plan, *vcpus, *memory, *disk, call),
        VmAction::Rebuild { .. } => rebuild(plan, call),
        VmAction::Rescue { .. } => rescue(plan, call),
        VmAction::Unrescue => Ok(unrescue(vm, call)),
        VmAction::AttachNic { .. } | VmAction::DetachNic { .. } => nic::act(plan, call),
        VmAction::Lock | VmAction::Unlock => Ok(Changes::none()),
    }
}

/// The act as sentences and events spell it.
pub fn verb(action: &VmAction) -> &'static str {
    match action {
        VmAction::Start => "start",
        VmAction::Stop { .. } => "stop",
        VmAction::Reboot { .. } => "reboot",
        VmAction::Pause => "pause",
        VmAction::Resume => "resume",
        VmAction::Suspend => "suspend",
        VmAction::AttachNic { .. } => "attach-nic",
        VmAction::DetachNic { .. } => "detach-nic",
        VmAction::Resize { .. } => "resize",
        VmAction::Rebuild { .. } => "rebuild",
        VmAction::Rescue { .. } => "rescue",
        VmAction::Unrescue => "unrescue",
        VmAction::Lock => "lock",
        VmAction::Unlock => "unlock",
    }
}

/// The changed document and its event.
pub(super) fn changed(
    vm: &Vm,
    act: &str,
    message: impl Into<String>,
    call: &mut Call<'_>,
    change: impl FnOnce(&mut Vm),
) -> Changes {
    let mut after = vm.clone();
    change(&mut after);
    after.meta.updated_at = call.now;
    let event = event::vm(call, &after, &format!("vm.{act}"), message);
    Changes::none().unchanged(Doc::Vm(vm.id)).and(Write::PutVm(Box::new(after))).event(event)
}

/// A new wish for power.
fn wish(vm: &Vm, target: PowerTarget, grace_seconds: u32, call: &Call<'_>) -> PowerIntent {
    PowerIntent { target, seq: vm.power.seq + 1, grace_seconds, at: call.now }
}

fn power(vm: &Vm, act: &str, message: &str, target: PowerTarget, call: &mut Call<'_>) -> Changes {
    let power = wish(vm, target, GRACE_SECONDS, call);
    changed(vm, act, message, call, |vm| vm.power = power)
}

/// `cannot pause web1: it is stopped; start it first`
fn refuse(vm: &Vm, act: &str, standing: &Standing) -> Error {
    let name = &vm.meta.name;
    let (is, then) = match standing.state {
        VmState::Scheduling => ("has no node yet", "wait until it runs"),
        VmState::Preparing | VmState::Starting => ("is still starting", "wait until it runs"),
        VmState::Running => ("is running", "stop it first"),
        VmState::Paused => ("is paused", "resume it first"),
        VmState::Stopping => ("is stopping", "wait until it is off"),
        VmState::Stopped => ("is stopped", "start it first"),
        VmState::Suspending => ("is being suspended", "wait, then resume it"),
        VmState::Suspended => ("is suspended", "resume it first, or stop it to throw the saved memory away"),
        VmState::Rebuilding => ("is being rebuilt", "wait until it runs"),
        VmState::Migrating => ("is on its way to another node", "wait until it is there, or cancel the migration"),
        VmState::Failed => ("has failed", "start it first"),
        VmState::Deleting => ("is being deleted", "create another"),
        VmState::Unknown => ("is in an unknown state, its node does not answer", "wait until the node answers"),
    };
    Error::conflict(format!("cannot {act} {name}: it {is}; {then}"))
}

fn start(vm: &Vm, standing: &Standing, call: &mut Call<'_>) -> Result<Changes> {
    match standing.state {
        VmState::Paused | VmState::Suspended | VmState::Suspending => Err(refuse(vm, "start", standing)),
        // It may be halted with its memory saved.
        VmState::Migrating if matches!(vm.power.target, PowerTarget::Paused | PowerTarget::Suspended) => {
            Err(refuse(vm, "start", standing))
        }
        VmState::Scheduling
        | VmState::Preparing
        | VmState::Starting
        | VmState::Running
        | VmState::Rebuilding
        | VmState::Migrating
            if vm.power.target == PowerTarget::Running =>
        {
            Ok(Changes::none())
        }
        _ => Ok(power(vm, "start", "start was asked for", PowerTarget::Running, call)),
    }
}

fn stop(vm: &Vm, standing: &Standing, grace: u32, call: &mut Call<'_>) -> Result<Changes> {
    if grace > GRACE_MAX {
        let detail = format!("a guest gets at most {GRACE_MAX} seconds to shut down, not {grace}");
        return Err(Error::invalid(detail).at("/grace_seconds"));
    }
    // A shorter grace is a new wish (stop, then stop by force); asking the same again must not begin it anew.
    if vm.power.target == PowerTarget::Stopped
        && (standing.state == VmState::Stopped || grace >= vm.power.grace_seconds)
    {
        return Ok(Changes::none());
    }
    let message = if grace == 0 { "stop by force was asked for" } else { "stop was asked for" };
    let power = wish(vm, PowerTarget::Stopped, grace, call);
    Ok(changed(vm, "stop", message, call, |vm| vm.power = power))
}

fn reboot(vm: &Vm, standing: &Standing, kind: RebootKind, call: &mut Call<'_>) -> Result<Changes> {
    let runs = vm.power.target == PowerTarget::Running && matches!(standing.state, VmState::Running | VmState::Unknown);
    if !runs {
        return Err(refuse(vm, "reboot", standing));
    }
    let message = match kind {
        RebootKind::Soft => "reboot was asked for",
        RebootKind::Hard => "reset was asked for",
    };
    Ok(changed(vm, "reboot", message, call, |vm| {
        vm.reboot.seq += 1;
        vm.reboot.kind = kind;
    }))
}

fn pause(vm: &Vm, standing: &Standing, call: &mut Call<'_>) -> Result<Changes> {
    match standing.state {
        VmState::Paused if vm.power.target == PowerTarget::Paused => Ok(Changes::none()),
        VmState::Running | VmState::Paused | VmState::Unknown if vm.power.target != PowerTarget::Suspended => {
            Ok(power(vm, "pause", "pause was asked for", PowerTarget::Paused, call))
        }
        _ => Err(refuse(vm, "pause", standing)),
    }
}

fn resume(vm: &Vm, standing: &Standing, call: &mut Call<'_>) -> Result<Changes> {
    match standing.state {
        _ if vm.power.target == PowerTarget::Running && standing.state == VmState::Running => Ok(Changes::none()),
        VmState::Running | VmState::Paused | VmState::Suspended | VmState::Suspending | VmState::Unknown
            if vm.power.target != PowerTarget::Stopped =>
        {
            Ok(power(vm, "resume", "resume was asked for", PowerTarget::Running, call))
        }
        // Asked before the first resume was done.
        VmState::Preparing | VmState::Starting if vm.power.target == PowerTarget::Running => Ok(Changes::none()),
        _ => Err(refuse(vm, "resume", standing)),
    }
}

fn suspend(vm: &Vm, standing: &Standing, call: &mut Call<'_>) -> Result<Changes> {
    not_in_rescue(vm, "suspend")?;
    match standing.state {
        VmState::Suspended | VmState::Suspending if vm.power.target == PowerTarget::Suspended => Ok(Changes::none()),
        VmState::Running | VmState::Paused => {
            Ok(power(vm, "suspend", "suspension to disk was asked for", PowerTarget::Suspended, call))
        }
        _ => Err(refuse(vm, "suspend", standing)),
    }
}

fn not_in_rescue(vm: &Vm, act: &str) -> Result<()> {
    if vm.rescue.is_none() {
        return Ok(());
    }
    let name = &vm.meta.name;
    Err(Error::conflict(format!(
        "cannot {act} {name}: it is in rescue mode; leave it first (`hull vm unrescue {name}`)"
    )))
}

/// Saved memory fits only the machine it was saved from.
pub(super) fn not_suspended(vm: &Vm, act: &str, standing: &Standing) -> Result<()> {
    let saved = matches!(standing.state, VmState::Suspended | VmState::Suspending);
    if saved || vm.power.target == PowerTarget::Suspended { Err(refuse_suspended(vm, act)) } else { Ok(()) }
}

fn refuse_suspended(vm: &Vm, act: &str) -> Error {
    let name = &vm.meta.name;
    Error::conflict(format!(
        "cannot {act} {name}: its memory is saved to disk; resume it first, or stop it to throw the saved memory away"
    ))
}

fn resize(
    plan: &Acting<'_>,
    vcpus: Option<u16>,
    memory: Option<Bytes>,
    disk: Option<Bytes>,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let vm = plan.vm;
    not_in_rescue(vm, "resize")?;
    not_suspended(vm, "resize", plan.standing)?;
    let before = vm.resources;
    // A flavor's smaller disk leaves the present one: disks only grow.
    let named = plan.flavor.map_or(before, |flavor| Resources {
        disk: if vm.boot.image.is_some() { flavor.resources.disk.max(before.disk) } else { before.disk },
        ..flavor.resources
    });
    let size = Resources {
        vcpus: vcpus.unwrap_or(named.vcpus),
        memory: memory.unwrap_or(named.memory),
        disk: disk.unwrap_or(named.disk),
    };
    check_resize(plan, size)?;
    let flavor = match plan.flavor {
        Some(flavor) => Some(FlavorRef { id: flavor.id, name: flavor.name.clone() }),
        None if (size.vcpus, size.memory) == (before.vcpus, before.memory) => vm.flavor.clone(),
        None => None,
    };
    if size == before && flavor == vm.flavor {
        return Ok(Changes::none());
    }
    let ports = vm.ports.len() as u64;
    let (had, has) = (quota::of_vm(&before, ports), quota::of_vm(&size, ports));
    let (shrunk, grown) = (quota::subtract(had, has), quota::subtract(has, had));
    let usage = quota::take(&plan.project.quota, quota::subtract(plan.usage, shrunk), grown)?;
    let message = format!("resized to {} vCPUs, {} of memory, {} of disk", size.vcpus, size.memory, size.disk);
    let changes = changed(vm, "resize", message, call, |vm| {
        vm.resources = size;
        vm.flavor = flavor;
    });
    let project = plan.project.id;
    Ok(changes.unchanged(Doc::Project(project)).unchanged(Doc::Usage(project)).and(Write::PutUsage { project, usage }))
}

fn check_resize(plan: &Acting<'_>, size: Resources) -> Result<()> {
    let (vm, before) = (plan.vm, plan.vm.resources);
    let name = &vm.meta.name;
    check::resources(&size)?;
    if size.disk < before.disk {
        let detail =
            format!("a disk only grows: {name}'s has {}, {} was asked; leave the disk out", before.disk, size.disk);
        return Err(Error::invalid(detail).at("/disk"));
    }
    if vm.boot.image.is_none() && size.disk > Bytes::ZERO {
        return Err(Error::invalid(format!("{name} has no root disk to grow; leave the disk out")).at("/disk"));
    }
    if let Some(image) = plan.image.filter(|image| size.memory < image.min_memory) {
        let detail = format!(
            "image {} needs at least {} of memory, {} was asked",
            image.meta.name, image.min_memory, size.memory
        );
        return Err(Error::invalid(detail).at("/memory"));
    }
    placement::ceiling(&size, plan.nodes)?;
    let more = Room::of(&size).minus(Room::of(&before));
    let Some(node) = plan.node else { return Ok(()) };
    let lack = |what: &str, free: String, more: String| {
        Error::new(
            ErrorKind::InsufficientResources,
            format!(
                "cannot resize {name}: node {} has {free} of {what} left, {more} more is needed; ask for less",
                node.name
            ),
        )
    };
    if more.memory > node.free.memory {
        return Err(lack("memory", node.free.memory.to_string(), more.memory.to_string()));
    }
    if more.vcpus > node.free.vcpus {
        return Err(lack("vCPUs", node.free.vcpus.to_string(), more.vcpus.to_string()));
    }
    if more.disk > node.free.disk {
        return Err(lack("disk", node.free.disk.to_string(), more.disk.to_string()));
    }
    Ok(())
}

fn image_of<'a>(plan: &Acting<'a>, act: &str) -> Result<&'a Image> {
    let name: &Name = &plan.vm.meta.name;
    plan.image.ok_or_else(|| Error::invalid(format!("cannot {act} {name}: it has no image; name one")).at("/image"))
}

fn rebuild(plan: &Acting<'_>, call: &mut Call<'_>) -> Result<Changes> {
    let vm = plan.vm;
    not_in_rescue(vm, "rebuild")?;
    not_suspended(vm, "rebuild", plan.standing)?;
    if vm.boot.image.is_none() {
        let detail = format!("cannot rebuild {}: it has no root disk, it boots a kernel only", vm.meta.name);
        return Err(Error::invalid(detail));
    }
    let image = image_of(plan, "rebuild")?;
    let reference = create::image_ref(image, "/image")?;
    create::disk_for(image, vm.resources)?;
    let direct = image.direct_boot.clone().filter(|_| vm.profile == Profile::Micro);
    let changes = changed(vm, "rebuild", format!("rebuild from image {} was asked for", reference.name), call, |vm| {
        vm.disk_generation += 1;
        vm.boot.image = Some(reference);
        vm.boot.kernel = direct.or(vm.boot.kernel.take());
    });
    Ok(changes.unchanged(Doc::Image(image.id)))
}

fn rescue(plan: &Acting<'_>, call: &mut Call<'_>) -> Result<Changes> {
    let vm = plan.vm;
    let name = &vm.meta.name;
    if vm.rescue.is_some() {
        return Err(Error::conflict(format!(
            "{name} is in rescue mode already; leave it first (`hull vm unrescue {name}`)"
        )));
    }
    not_suspended(vm, "rescue", plan.standing)?;
    if plan.standing.state == VmState::Migrating {
        // Its memory is saved, and fits its own system only.
        return Err(refuse(vm, "rescue", plan.standing));
    }
    if vm.profile == Profile::Micro || vm.boot.kernel.is_some() {
        let detail =
            format!("cannot rescue {name}: it boots a kernel directly, not a disk; stop it and read its disk instead");
        return Err(Error::new(ErrorKind::Unsupported, detail));
    }
    let image = image_of(plan, "rescue")?;
    let reference = create::image_ref(image, "/image")?;
    let power = wish(vm, PowerTarget::Running, GRACE_SECONDS, call);
    let changes = changed(vm, "rescue", format!("rescue with image {} was asked for", reference.name), call, |vm| {
        vm.rescue = Some(Rescue { image: reference });
        vm.power = power;
    });
    Ok(changes.unchanged(Doc::Image(image.id)))
}

fn unrescue(vm: &Vm, call: &mut Call<'_>) -> Changes {
    if vm.rescue.is_none() {
        return Changes::none();
    }
    let power = wish(vm, PowerTarget::Running, GRACE_SECONDS, call);
    changed(vm, "unrescue", "the end of rescue was asked for", call, |vm| {
        vm.rescue = None;
        vm.power = power;
    })
}

fn lock(vm: &Vm, locked: bool, call: &mut Call<'_>) -> Result<Changes> {
    let act = if locked { "lock" } else { "unlock" };
    if vm.deleted_at.is_some() {
        return Err(Error::conflict(format!("cannot {act} {}: it is being deleted", vm.meta.name)));
    }
    if vm.locked == locked {
        return Ok(Changes::none());
    }
    Ok(changed(vm, act, format!("{act}ed"), call, |vm| vm.locked = locked))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "action_tests.rs"]
mod tests;
