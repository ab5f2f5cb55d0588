//! Creating VMs: the checked request becomes every document and claim of one transaction, for one VM or a thousand.
//!
//! The server resolves names to documents; this module checks how they go together and refuses what could never run.
//! Either all VMs of a call come to be or none: there is no half-created VM anywhere in Hull.

use std::collections::BTreeSet;

use hull_types::{
    error::{Error, Result},
    flavor::{Flavor, Resources},
    id::VmId,
    image::{DirectBoot, Image, ImageContent, ImageKind, ImagePhase},
    keypair::{Keypair, PublicKey},
    meta::Meta,
    name::Name,
    port::Port,
    project::{Project, Usage},
    units::Bytes,
    vm::{Boot, Firmware, FlavorRef, ImageRef, PowerIntent, PowerTarget, Profile, RebootIntent, RebootKind, Vm},
    wire::VmCreate,
};

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Expect, Named, Write},
    check, event, hostname,
    owner::Owner,
    placement::{self, Candidate},
    port::{self, Taken, Wish},
    quota,
};

/// The most VMs one call makes.
pub const COUNT_MAX: u32 = 1000;
/// The most NICs of a VM.
pub const NICS_MAX: usize = 8;
/// The most public keys of a VM.
pub const KEYS_MAX: usize = 64;
/// Seconds a guest has to shut down where the caller does not say.
pub const GRACE_SECONDS: u32 = 60;

/// A kernel as the caller named it, resolved.
#[derive(Clone, Copy)]
pub struct Kernel<'a> {
    /// The kernel's image.
    pub kernel: &'a Image,
    /// The initial RAM disk's image.
    pub initrd: Option<&'a Image>,
    /// The command line.
    pub cmdline: &'a str,
}

/// A NIC as the caller asked for it, resolved.
#[derive(Clone, Debug)]
pub enum Nic<'a> {
    /// A port that is made with the VM and goes with it.
    Make(Wish<'a>),
    /// A port that is there already.
    Take(&'a Port),
}

/// The request with everything it names.
pub struct Create<'a> {
    /// What was asked. Its names are resolved below.
    pub request: &'a VmCreate,
    /// The owner.
    pub project: &'a Project,
    /// What the owner holds.
    pub usage: Usage,
    /// The root disk's image.
    pub image: Option<&'a Image>,
    /// The kernel named in the request.
    pub kernel: Option<Kernel<'a>>,
    /// The flavor.
    pub flavor: Option<&'a Flavor>,
    /// The keypairs.
    pub keypairs: &'a [&'a Keypair],
    /// The NICs, in order.
    pub nics: &'a [Nic<'a>],
    /// All nodes, to refuse what none could ever hold.
    pub nodes: &'a [Candidate],
}

/// Decides. Expects the project, its usage, the image, the kernel's images and the networks to be as read, so that what
/// was checked is what is committed.
pub fn create(plan: &Create<'_>, call: &mut Call<'_>) -> Result<Changes> {
    let request = plan.request;
    check_texts(request)?;
    let boot = boot(plan)?;
    let size = size(plan)?;
    placement::ceiling(&size, plan.nodes)?;
    let keys = keys(plan)?;
    if plan.nics.len() > NICS_MAX {
        return Err(
            Error::invalid(format!("a VM has at most {NICS_MAX} NICs, {} were asked", plan.nics.len())).at("/nics")
        );
    }
    check_count(plan)?;
    distinct(plan.nics)?;
    let owner = Owner { project: plan.project, usage: plan.usage };
    let each = quota::of_vm(&size, made(plan.nics));
    let more = (0..request.count).fold(Usage::default(), |sum, _| quota::add(sum, each));
    let usage = quota::take(&plan.project.quota, plan.usage, more)?;

    let mut changes = expectations(plan).and(Write::PutUsage { project: plan.project.id, usage });
    let mut taken = Taken::default();
    let mut hostnames = BTreeSet::new();
    for number in 1..=request.count {
        let id: VmId = call.id();
        let (name, wanted) = names(request, number, id)?;
        let hostname = hostname::free(wanted, |label| hostnames.contains(label) || has_hostname(plan.nics, label));
        let ports = plan
            .nics
            .iter()
            .enumerate()
            .map(|(at, nic)| {
                port(nic, id, &hostname, &owner, &mut taken, call).map_err(|error| match &error.field {
                    Some(field) => error.clone().at(format!("/nics/{at}{field}")),
                    None => error,
                })
            })
            .collect::<Result<Vec<Port>>>()?;
        let vm = Vm {
            id,
            meta: Meta {
                description: request.description.clone(),
                metadata: request.metadata.clone(),
                ..Meta::new(plan.project.id, name, call.now)
            },
            hostname,
            flavor: plan.flavor.map(|flavor| FlavorRef { id: flavor.id, name: flavor.name.clone() }),
            resources: size,
            profile: request.profile,
            boot: boot.clone(),
            ssh_keys: keys.clone(),
            user_data: request.user_data.clone(),
            ports: ports.iter().map(|port| port.id).collect(),
            restart: request.restart,
            power: PowerIntent {
                target: if request.start { PowerTarget::Running } else { PowerTarget::Stopped },
                seq: 1,
                grace_seconds: GRACE_SECONDS,
                at: call.now,
            },
            reboot: RebootIntent { seq: 0, kind: RebootKind::Soft },
            disk_generation: 1,
            rescue: None,
            locked: false,
            deleted_at: None,
        };
        changes.push(Write::Claim(name_claim(&vm)));
        let made: Vec<&Port> = ports.iter().collect();
        port::hostname_claims(id, &made).for_each(|claim| changes.push(Write::Claim(claim)));
        for (nic, port) in plan.nics.iter().zip(ports) {
            write_port(&mut changes, nic, port);
        }
        hostnames.insert(vm.hostname.clone());
        changes = changes.event(event::vm(call, &vm, "vm.create", told(&vm)));
        changes.push(Write::PutVm(Box::new(vm)));
    }
    Ok(changes)
}

/// The claim of a VM's name.
pub fn name_claim(vm: &Vm) -> Claim {
    Claim::Name { kind: Named::Vm, project: Some(vm.meta.project), name: vm.meta.name.clone(), id: vm.id.0 }
}

fn told(vm: &Vm) -> String {
    let Resources { vcpus, memory, disk } = vm.resources;
    let from = vm.boot.image.as_ref().map(|image| format!(" from image {}", image.name)).unwrap_or_default();
    format!("created{from} with {vcpus} vCPUs, {memory} of memory and {disk} of disk")
}

fn check_texts(request: &VmCreate) -> Result<()> {
    if request.count == 0 || request.count > COUNT_MAX {
        return Err(Error::invalid(format!("one call makes 1 to {COUNT_MAX} VMs, not {}", request.count)).at("/count"));
    }
    check::description(&request.description)?;
    check::metadata(&request.metadata)?;
    request.user_data.as_deref().map_or(Ok(()), check::user_data)
}

/// Wanted addresses and MACs go to one VM only.
fn check_count(plan: &Create<'_>) -> Result<()> {
    let fixed = plan.nics.iter().any(|nic| match nic {
        Nic::Make(wish) => !wish.addresses.is_empty() || wish.mac.is_some(),
        Nic::Take(_) => true,
    });
    if plan.request.count > 1 && fixed {
        let detail =
            "an address, a MAC or a port can be given for one VM only; leave them out, or create the VMs one by one";
        return Err(Error::invalid(detail).at("/nics"));
    }
    Ok(())
}

fn expectations(plan: &Create<'_>) -> Changes {
    let mut changes = Changes::none().unchanged(Doc::Project(plan.project.id)).unchanged(Doc::Usage(plan.project.id));
    let kernels = plan.kernel.iter().flat_map(|kernel| std::iter::once(kernel.kernel).chain(kernel.initrd));
    for image in plan.image.into_iter().chain(kernels) {
        changes = changes.unchanged(Doc::Image(image.id));
    }
    for nic in plan.nics {
        if let Nic::Make(wish) = nic {
            port::expect(&mut changes, wish);
        }
    }
    changes
}

/// The bytes of an image that is ready, of the kind wanted; or what to do about it.
pub(crate) fn content<'a>(image: &'a Image, kind: ImageKind, field: &str) -> Result<&'a ImageContent> {
    let name = &image.meta.name;
    let refuse = |detail: String| Err(Error::conflict(detail).at(field));
    if image.kind != kind {
        let said = |kind| match kind {
            ImageKind::Disk => "a disk",
            ImageKind::Kernel => "a kernel",
            ImageKind::Initrd => "an initrd",
        };
        let detail = format!("image {name} is {}, {} is needed here; name another image", said(image.kind), said(kind));
        return Err(Error::invalid(detail).at(field));
    }
    match (image.phase, &image.content) {
        (ImagePhase::Ready, Some(content)) => Ok(content),
        (ImagePhase::Ready, None) => Err(Error::internal(format!("image {name} is ready but has no content"))),
        (ImagePhase::Queued, _) => {
            refuse(format!("image {name} has no bytes yet; upload them, or delete the image and import it again"))
        }
        (ImagePhase::Importing, _) => {
            refuse(format!("image {name} is still being imported; try again when it is ready"))
        }
        (ImagePhase::Failed, _) => refuse(format!(
            "image {name} is not usable, its import failed{}; delete it and import it again",
            image.reason.as_ref().map(|reason| format!(" ({})", reason.message)).unwrap_or_default()
        )),
        (ImagePhase::Deleting, _) => refuse(format!("image {name} is being deleted; name another image")),
    }
}

/// A reference to a ready disk image.
pub(crate) fn image_ref(image: &Image, field: &str) -> Result<ImageRef> {
    let digest = content(image, ImageKind::Disk, field)?.digest;
    Ok(ImageRef { id: image.id, name: image.meta.name.clone(), digest })
}

fn boot(plan: &Create<'_>) -> Result<Boot> {
    let request = plan.request;
    let image = plan.image.map(|image| image_ref(image, "/image")).transpose()?;
    let kernel = match plan.kernel {
        Some(Kernel { kernel, initrd, cmdline }) => {
            check::cmdline(cmdline)?;
            let kernel = content(kernel, ImageKind::Kernel, "/kernel/kernel")?.digest;
            let initrd = initrd.map(|i| content(i, ImageKind::Initrd, "/kernel/initrd")).transpose()?;
            Some(DirectBoot { kernel, initrd: initrd.map(|c| c.digest), cmdline: cmdline.to_owned() })
        }
        None if request.profile == Profile::Micro => plan.image.and_then(|image| image.direct_boot.clone()),
        None => None,
    };
    let boot = Boot { image, kernel, firmware: request.firmware, secure_boot: request.secure_boot, tpm: request.tpm };
    match contradiction(request.profile, &boot) {
        None => Ok(boot),
        Some((detail, field)) => Err(Error::invalid(detail).at(field)),
    }
}

/// What cannot go together, with the field at fault.
fn contradiction(profile: Profile, boot: &Boot) -> Option<(&'static str, &'static str)> {
    let uefi = boot.firmware == Firmware::Uefi;
    match profile {
        Profile::Micro if boot.kernel.is_none() => {
            Some(("a micro VM boots a kernel directly: give a kernel, or an image that names its own", "/kernel"))
        }
        Profile::Micro if uefi => Some(("a micro VM has no UEFI; use the pc profile", "/firmware")),
        Profile::Micro if boot.tpm => Some(("a micro VM has no TPM; use the pc profile", "/tpm")),
        Profile::Micro if boot.secure_boot => {
            Some(("a micro VM has no secure boot; use the pc profile", "/secure_boot"))
        }
        Profile::Micro => None,
        Profile::Pc if boot.secure_boot && !uefi => {
            Some(("secure boot needs UEFI; give firmware uefi", "/secure_boot"))
        }
        Profile::Pc if boot.secure_boot && boot.kernel.is_some() => {
            Some(("a directly loaded kernel goes around secure boot; leave out one of them", "/secure_boot"))
        }
        Profile::Pc if boot.image.is_none() && boot.kernel.is_none() => {
            Some(("nothing to boot: give an image, a kernel, or both", "/image"))
        }
        Profile::Pc => None,
    }
}

fn size(plan: &Create<'_>) -> Result<Resources> {
    let mut size = match (plan.flavor, plan.request.resources) {
        (Some(flavor), given) => {
            let disk = given.map_or(Bytes::ZERO, |given| given.disk).max(flavor.resources.disk);
            Resources { disk, ..flavor.resources }
        }
        (None, Some(given)) => given,
        (None, None) => return Err(Error::invalid("give a flavor, or resources").at("/flavor")),
    };
    let wanted_disk = plan.request.resources.is_some_and(|given| given.disk > Bytes::ZERO);
    match plan.image {
        Some(image) => size.disk = disk_for(image, size)?,
        None if wanted_disk => {
            let detail = "a VM without an image has no root disk; name an image, or give no disk size";
            return Err(Error::invalid(detail).at("/resources/disk"));
        }
        None => size.disk = Bytes::ZERO,
    }
    check::resources(&size).map_err(|error| {
        let field = error.field.clone().unwrap_or_default();
        error.at(format!("/resources{field}"))
    })?;
    Ok(size)
}

/// The disk a VM of this image gets: as wanted, or as large as the image needs where nothing was said.
pub(crate) fn disk_for(image: &Image, size: Resources) -> Result<Bytes> {
    let name = &image.meta.name;
    let virtual_size = image.content.as_ref().map_or(Bytes::ZERO, |content| content.virtual_size);
    let least = image.min_disk.max(virtual_size);
    if size.memory < image.min_memory {
        let detail = format!(
            "image {name} needs at least {} of memory, {} was given; choose a larger flavor",
            image.min_memory, size.memory
        );
        return Err(Error::invalid(detail).at("/resources/memory"));
    }
    if size.disk == Bytes::ZERO {
        return Ok(Bytes(least.0.next_multiple_of(1 << 20).max(1 << 20)));
    }
    if size.disk < least {
        let detail = format!(
            "image {name} needs a disk of at least {least}, {} was given; choose a larger flavor, or give a disk size",
            size.disk
        );
        return Err(Error::invalid(detail).at("/resources/disk"));
    }
    Ok(size.disk)
}

fn keys(plan: &Create<'_>) -> Result<Vec<PublicKey>> {
    let mut keys: Vec<PublicKey> = Vec::new();
    for key in plan.keypairs.iter().map(|pair| &pair.public_key).chain(&plan.request.ssh_keys) {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    if keys.len() > KEYS_MAX {
        return Err(
            Error::invalid(format!("a VM has at most {KEYS_MAX} keys, {} were given", keys.len())).at("/ssh_keys")
        );
    }
    Ok(keys)
}

/// The name and host name of the `number`th VM.
fn names(request: &VmCreate, number: u32, id: VmId) -> Result<(Name, String)> {
    let fallback = || format!("vm-{}", &id.0.simple().to_string()[20..]);
    if request.count == 1 {
        return Ok((request.name.clone(), request.name.to_hostname(&fallback())));
    }
    let suffix = format!("-{number}");
    let name = Name::new(&format!("{}{suffix}", request.name)).map_err(|why| {
        Error::invalid(format!("the names of {} VMs would be too long: {why}; shorten the name", request.count))
            .at("/name")
    })?;
    // A host name has at most 63 characters, and its number must not be cut off.
    let mut hostname = request.name.to_hostname("vm");
    hostname.truncate(63 - suffix.len());
    Ok((name, format!("{}{suffix}", hostname.trim_end_matches('-'))))
}

/// Whether a host name is another's on one of the networks that NICs are made on.
fn has_hostname(nics: &[Nic<'_>], label: &str) -> bool {
    nics.iter().any(|nic| match nic {
        Nic::Make(wish) => wish.on.used.hostnames.contains_key(label),
        Nic::Take(_) => false,
    })
}

/// The port of a NIC: made, or taken as it is.
pub(crate) fn port(
    nic: &Nic<'_>,
    vm: VmId,
    hostname: &str,
    owner: &Owner<'_>,
    taken: &mut Taken,
    call: &mut Call<'_>,
) -> Result<Port> {
    match nic {
        Nic::Take(present) => port::take(present, vm, owner, call),
        Nic::Make(wish) => {
            let id = call.id();
            let meta = Meta::new(owner.id(), port::name_with_vm(id)?, call.now);
            let made = port::make(wish, id, meta, taken, call)?;
            Ok(Port { vm: Some(vm), goes_with_vm: true, hostname: hostname.to_owned(), ..made })
        }
    }
}

/// Writes a NIC's port, on condition of what it was decided on.
pub(crate) fn write_port(changes: &mut Changes, nic: &Nic<'_>, port: Port) {
    match nic {
        Nic::Take(_) => changes.expect(Expect::Unchanged(Doc::Port(port.id))),
        Nic::Make(_) => port::claims(&port).for_each(|claim| changes.push(Write::Claim(claim))),
    }
    changes.push(Write::PutPort(Box::new(port)));
}

/// How many of these are made, and so counted.
pub(crate) fn made(nics: &[Nic<'_>]) -> u64 {
    nics.iter().filter(|nic| matches!(nic, Nic::Make(_))).count() as u64
}

/// A port is one NIC's.
fn distinct(nics: &[Nic<'_>]) -> Result<()> {
    let mut seen = Vec::new();
    for (at, nic) in nics.iter().enumerate() {
        if let Nic::Take(port) = nic {
            if seen.contains(&port.id) {
                let detail = format!("port {} is named for two NICs; name it for one", port.meta.name);
                return Err(Error::invalid(detail).at(format!("/nics/{at}/port")));
            }
            seen.push(port.id);
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "create_tests.rs"]
mod tests;
