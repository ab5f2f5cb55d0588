//! Images: the record's life. Bytes are the importer's; this module says what the record may become.
//!
//! ```text
//!   create ──► Queued ──begin──► Importing ──ready──► Ready ──delete──► Deleting ──purge──► (gone)
//!                 │                  │  ▲                                  │  └─ restored, where a VM was made meanwhile
//!                 │                  │  └ progress                         │
//!                 └──── failed ──────┴────► Failed ──── delete ────────────┘
//! ```
//!
//! Deletion has two steps because "no VM uses it" is a statement about all VMs, which no single comparison can guard:
//! `delete` marks the record (so that a VM being created against the unmarked record fails its transaction), and `purge`,
//! looking at the VMs as of that mark or later, removes it or, where a VM slipped in before the mark, restores it.

use hull_types::{
    Timestamp,
    error::{Error, Result},
    event::Event,
    id::ImageId,
    image::{DirectBoot, Image, ImageContent, ImageKind, ImagePhase, ImageProgress, Visibility},
    meta::Meta,
    project::{Project, QuotaKind, Usage},
    reason::{Reason, ReasonCode},
    units::Bytes,
    vm::Vm,
    wire::{ImageCreate, ImageUpdate},
};

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Named, Write},
    check, event, quota,
    vm::create::{Kernel, content},
};

/// Decides on a new record. `direct` is the request's kernel and initrd, resolved; `publisher` whether the caller may
/// show an image to every project.
pub fn create(
    project: &Project,
    usage: Usage,
    request: &ImageCreate,
    direct: Option<Kernel<'_>>,
    publisher: bool,
    call: &mut Call<'_>,
) -> Result<Changes> {
    check::description(&request.description)?;
    check::metadata(&request.metadata)?;
    may_show(request.visibility, publisher)?;
    source_url(request.source_url.as_deref())?;
    bounds(request)?;
    let direct_boot = direct.map(|direct| direct_boot(request.kind, direct)).transpose()?;
    let changes = quota::charge(Changes::none(), project, usage, Usage::one(QuotaKind::Images))?;
    let image = Image {
        id: call.id(),
        meta: Meta {
            description: request.description.clone(),
            metadata: request.metadata.clone(),
            ..Meta::new(project.id, request.name.clone(), call.now)
        },
        kind: request.kind,
        visibility: request.visibility,
        hidden: false,
        min_disk: request.min_disk,
        min_memory: request.min_memory,
        direct_boot,
        phase: ImagePhase::Queued,
        reason: None,
        progress: None,
        content: None,
        source_url: request.source_url.clone(),
        ready_at: None,
    };
    let event = told(&image, "image.create", "created", call);
    let mut changes = changes.and(Write::Claim(claim(&image)));
    for needed in direct.iter().flat_map(|d| std::iter::once(d.kernel).chain(d.initrd)) {
        changes = changes.unchanged(Doc::Image(needed.id));
    }
    Ok(changes.and(Write::PutImage(Box::new(image))).event(event))
}

fn may_show(visibility: Visibility, publisher: bool) -> Result<()> {
    match visibility {
        Visibility::Public if !publisher => {
            let detail = "only a system administrator may show an image to every project; leave it private, or ask one";
            Err(Error::forbidden(detail).at("/visibility"))
        }
        Visibility::Public | Visibility::Private => Ok(()),
    }
}

fn source_url(url: Option<&str>) -> Result<()> {
    let Some(url) = url else { return Ok(()) };
    let plain = url.len() <= 2048 && !url.chars().any(|c| c.is_control() || c.is_whitespace());
    if plain && (url.starts_with("https://") || url.starts_with("http://")) {
        return Ok(());
    }
    Err(Error::invalid("a source is an http:// or https:// URL of at most 2,048 characters").at("/source_url"))
}

fn bounds(request: &ImageCreate) -> Result<()> {
    if request.min_disk > check::DISK_MAX {
        return Err(Error::invalid(format!("min_disk is at most {}", check::DISK_MAX)).at("/min_disk"));
    }
    if request.min_memory > check::MEMORY_MAX {
        return Err(Error::invalid(format!("min_memory is at most {}", check::MEMORY_MAX)).at("/min_memory"));
    }
    Ok(())
}

fn direct_boot(kind: ImageKind, direct: Kernel<'_>) -> Result<DirectBoot> {
    if kind != ImageKind::Disk {
        return Err(Error::invalid("only a disk image names a kernel to boot it with; leave it out").at("/direct_boot"));
    }
    check::cmdline(direct.cmdline).map_err(|error| error.at("/direct_boot/cmdline"))?;
    let kernel = content(direct.kernel, ImageKind::Kernel, "/direct_boot/kernel")?.digest;
    let initrd = direct.initrd.map(|image| content(image, ImageKind::Initrd, "/direct_boot/initrd")).transpose()?;
    Ok(DirectBoot { kernel, initrd: initrd.map(|content| content.digest), cmdline: direct.cmdline.to_owned() })
}

/// Decides on changes by the owner. `direct` is the request's kernel and initrd, resolved.
pub fn update(
    image: &Image,
    wanted: &ImageUpdate,
    direct: Option<Kernel<'_>>,
    publisher: bool,
    call: &mut Call<'_>,
) -> Result<Changes> {
    if image.phase == ImagePhase::Deleting {
        return Err(Error::conflict(format!("image {} is being deleted", image.meta.name)));
    }
    wanted.description.as_deref().map_or(Ok(()), check::description)?;
    wanted.metadata.as_ref().map_or(Ok(()), check::metadata)?;
    wanted.visibility.map_or(Ok(()), |visibility| may_show(visibility, publisher))?;
    let mut after = image.clone();
    let ImageUpdate { name, description, metadata, visibility, hidden, direct_boot: _ } = wanted.clone();
    after.meta.name = name.unwrap_or(after.meta.name);
    after.meta.description = description.unwrap_or(after.meta.description);
    after.meta.metadata = metadata.unwrap_or(after.meta.metadata);
    after.visibility = visibility.unwrap_or(after.visibility);
    after.hidden = hidden.unwrap_or(after.hidden);
    if let Some(direct) = direct {
        after.direct_boot = Some(direct_boot(image.kind, direct)?);
    }
    if after == *image {
        return Ok(Changes::none());
    }
    after.meta.updated_at = call.now;
    let mut changes = Changes::none().unchanged(Doc::Image(image.id));
    if after.meta.name != image.meta.name {
        changes.push(Write::Release(claim(image)));
        changes.push(Write::Claim(claim(&after)));
    }
    let event = told(&after, "image.update", "changed", call);
    Ok(changes.and(Write::PutImage(Box::new(after))).event(event))
}

/// Bytes begin to come in: by upload, or fetched.
pub fn begin(image: &Image, call: &mut Call<'_>) -> Result<Changes> {
    let name = &image.meta.name;
    match image.phase {
        ImagePhase::Queued => Ok(put(image, call, |image, _| {
            image.phase = ImagePhase::Importing;
            image.progress = Some(ImageProgress { done: Bytes::ZERO, total: None });
        })),
        ImagePhase::Importing => Err(Error::conflict(format!("image {name} is being imported already; wait for it"))),
        ImagePhase::Ready => {
            let detail = format!("image {name} has its bytes, and they never change; create another image");
            Err(Error::conflict(detail))
        }
        ImagePhase::Failed => {
            Err(Error::conflict(format!("image {name}'s import failed; delete the image and create it again")))
        }
        ImagePhase::Deleting => Err(Error::conflict(format!("image {name} is being deleted"))),
    }
}

/// The import came further. Nothing happens where it is no longer under way.
pub fn progress(image: &Image, progress: ImageProgress, call: &mut Call<'_>) -> Changes {
    match image.phase {
        ImagePhase::Importing => put(image, call, |image, _| image.progress = Some(progress)),
        ImagePhase::Queued | ImagePhase::Ready | ImagePhase::Failed | ImagePhase::Deleting => Changes::none(),
    }
}

/// The bytes are here. Nothing happens where the image was deleted meanwhile.
pub fn ready(image: &Image, content: ImageContent, call: &mut Call<'_>) -> Changes {
    match image.phase {
        ImagePhase::Queued | ImagePhase::Importing => {
            let told = told(image, "image.ready", &format!("imported {} as {}", content.size, content.digest), call);
            let changes = put(image, call, |image, now| {
                image.phase = ImagePhase::Ready;
                image.reason = None;
                image.progress = None;
                image.content = Some(content);
                image.ready_at = Some(now);
            });
            changes.event(told)
        }
        ImagePhase::Ready | ImagePhase::Failed | ImagePhase::Deleting => Changes::none(),
    }
}

/// The import failed, and why. Nothing happens where the image was deleted meanwhile.
pub fn failed(image: &Image, why: &str, call: &mut Call<'_>) -> Changes {
    match image.phase {
        ImagePhase::Queued | ImagePhase::Importing => {
            let told = told(image, "image.failed", why, call);
            let reason = Reason::new(ReasonCode::ImageUnavailable, why, call.now);
            let changes = put(image, call, |image, _| {
                image.phase = ImagePhase::Failed;
                image.reason = Some(reason);
                image.progress = None;
            });
            changes.event(told)
        }
        ImagePhase::Ready | ImagePhase::Failed | ImagePhase::Deleting => Changes::none(),
    }
}

fn put(image: &Image, call: &Call<'_>, change: impl FnOnce(&mut Image, Timestamp)) -> Changes {
    let mut after = image.clone();
    change(&mut after, call.now);
    Changes::none().unchanged(Doc::Image(image.id)).and(Write::PutImage(Box::new(after)))
}

/// Whether this VM boots from the image, or from its bytes as a kernel.
pub fn used_by(image: &Image, vm: &Vm) -> bool {
    let by_id = |id: ImageId| id == image.id;
    let root = vm.boot.image.as_ref().is_some_and(|used| by_id(used.id));
    let rescue = vm.rescue.as_ref().is_some_and(|rescue| by_id(rescue.image.id));
    let digest = image.content.as_ref().map(|content| content.digest);
    let direct = digest.is_some_and(|digest| {
        let boots = |kernel: &DirectBoot| kernel.kernel == digest || kernel.initrd == Some(digest);
        image.kind != ImageKind::Disk && vm.boot.kernel.as_ref().is_some_and(boots)
    });
    root || rescue || direct
}

/// Decides on a user's wish to delete. `users` are the VMs it is [`used_by`], `booted` the images that boot with it as
/// their kernel. Asking again changes nothing.
pub fn delete(image: &Image, users: &[&Vm], booted: &[&Image], call: &mut Call<'_>) -> Result<Changes> {
    if image.phase == ImagePhase::Deleting {
        return Ok(Changes::none());
    }
    let name = &image.meta.name;
    // Another project's VMs are not this caller's to see.
    let own = |project| project == image.meta.project;
    let mut named: Vec<&str> = users.iter().filter(|vm| own(vm.meta.project)).map(|vm| vm.meta.name.as_str()).collect();
    named.extend(booted.iter().filter(|other| own(other.meta.project)).map(|other| other.meta.name.as_str()));
    let count = users.len() + booted.len();
    if count > 0 {
        let shown = named.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        let others = count - named.len().min(5);
        let list = match (shown.is_empty(), others) {
            (true, others) => format!("{others} VMs of other projects"),
            (false, 0) => shown,
            (false, others) => format!("{shown} and {others} more"),
        };
        return Err(Error::conflict(format!("image {name} is used by {list}; delete them first, or hide the image")));
    }
    let told = told(image, "image.delete", "deletion was asked for", call);
    let changes = put(image, call, |image, _| {
        image.phase = ImagePhase::Deleting;
        image.progress = None;
    });
    Ok(changes.event(told))
}

/// Removes a marked record, looking at the VMs as of its mark or later; restores it where one uses it after all.
pub fn purge(image: &Image, users: &[&Vm], usage: Usage, call: &mut Call<'_>) -> Changes {
    if image.phase != ImagePhase::Deleting {
        return Changes::none();
    }
    if let (Some(user), Some(_)) = (users.first(), &image.content) {
        let message = format!("kept: VM {} was made of it meanwhile", user.meta.name);
        let told = told(image, "image.kept", &message, call);
        return put(image, call, |image, _| image.phase = ImagePhase::Ready).event(told);
    }
    let project = image.meta.project;
    let told = told(image, "image.gone", "gone", call);
    let changes = Changes::none().unchanged(Doc::Image(image.id));
    quota::refund(changes, project, usage, Usage::one(QuotaKind::Images))
        .and(Write::DeleteImage(image.id))
        .and(Write::Release(claim(image)))
        .event(told)
}

fn claim(image: &Image) -> Claim {
    let Meta { project, name, .. } = &image.meta;
    Claim::Name { kind: Named::Image, project: Some(*project), name: name.clone(), id: image.id.0 }
}

fn told(image: &Image, action: &str, message: &str, call: &mut Call<'_>) -> Event {
    event::about(call, Some(image.meta.project), ("image", image.id.0, image.meta.name.as_str()), action, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "image_tests.rs"]
mod tests;
