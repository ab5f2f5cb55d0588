//! Images: records by `hull_core::image`, bytes by `hull_image`.
//!
//! Bytes come in by upload (the caller waits) or from the record's URL (the import controller fetches). Both go through
//! `bring_in`: begin, receive with progress, ready or failed. A server that stops meanwhile leaves the record in
//! `importing`; the import controller begins again with what has a URL and fails the rest.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hull_core::{call::Call, change::Changes, change::Write, policy::Place, vm::create::Kernel};
use hull_image::{Export, ExportStream, Format, ImageStore, ImportOptions, Imported, Kind as Held, Progress, Source};
use hull_types::{
    digest::Digest,
    error::{Error, Result},
    id::ImageId,
    image::{Image, ImageContent, ImageFormat, ImageKind, ImagePhase, ImageProgress},
    token::Role,
    units::Bytes,
    vm::Vm,
    wire::{DirectBootRequest, ImageCreate, ImageUpdate, Revised},
};
use serde::{Deserialize, Serialize};

use super::{
    App,
    ctx::{Caller, Ctx, by_text, missing},
    flavor::{answer, revised},
    list::Listing,
    project::usage,
    vm,
};
use crate::state::{keys::Kind, repo::Plan, table::Doc, view::State};

/// How often an import's progress is written.
const PROGRESS: Duration = Duration::from_secs(1);

/// How images are listed.
pub const LISTING: Listing<Image, Revised<Image>> = Listing {
    kinds: &[Kind::Image],
    table: |state| &state.images,
    shared: Some(|_, image| image.visibility == hull_types::image::Visibility::Public),
    view: |_, doc, _| revised(doc),
};

/// What the caller said of bytes that have not come yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    /// SHA-256 of the bytes as they come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Digest>,
    /// Whether the URL may lead to addresses that are not public: it was an operator who gave it.
    #[serde(default)]
    pub operator: bool,
}

/// An image of the project's, or a public one. A name of the project's own comes first.
pub(crate) fn find<'a>(ctx: &Ctx, state: &'a State, text: &str) -> Result<&'a Doc<Image>> {
    let project = ctx.project(state)?;
    let public = |image: &&Doc<Image>| {
        let named = image.meta.name.as_str() == text || image.id.to_string() == text;
        named && image.visibility == hull_types::image::Visibility::Public
    };
    by_text(&state.images, Some(project.id), text)
        .filter(|image| ctx.caller.sees(image.meta.project))
        .or_else(|| state.images.iter().find(public))
        .inspect(|image| ctx.saw(text, image))
        .ok_or_else(|| missing::<Image>(text, Some(project)))
}

/// An image the caller may change: one of a project they belong to.
fn own<'a>(ctx: &Ctx, state: &'a State, text: &str) -> Result<&'a Doc<Image>> {
    let image = find(ctx, state, text)?;
    // A public image of another project's is no secret.
    ctx.allowed(Place::Project(image.meta.project), || {
        let name = &image.meta.name;
        Error::forbidden(format!("image {name} belongs to another project; you may use it, not change it"))
    })?;
    ctx.matches(image.revision)?;
    Ok(image)
}

fn direct<'a>(ctx: &Ctx, state: &'a State, wanted: Option<&'a DirectBootRequest>) -> Result<Option<Kernel<'a>>> {
    wanted.map(|wanted| vm::kernel(ctx, state, wanted, "/direct_boot")).transpose()
}

fn put(changes: Changes, before: Option<&Doc<Image>>) -> Result<(Changes, Revised<Image>)> {
    answer(changes, before, |write| match write {
        Write::PutImage(image) => Some(image.as_ref()),
        _ => None,
    })
}

fn users<'a>(state: &'a State, image: &Image) -> Vec<&'a Vm> {
    // Counted first: looking through all VMs is for images that are used.
    if image.content.as_ref().is_none_or(|content| state.users_of(&content.digest) == 0) {
        return Vec::new();
    }
    state.vms.iter().map(|vm| &*vm.value).filter(|vm| hull_core::image::used_by(image, vm)).collect()
}

/// The images that boot with this one as their kernel or initrd.
fn booted<'a>(state: &'a State, image: &Image) -> Vec<&'a Image> {
    let Some(content) = &image.content else { return Vec::new() };
    let boots = |other: &&Image| {
        let boot = other.direct_boot.as_ref();
        other.id != image.id && boot.is_some_and(|b| b.kernel == content.digest || b.initrd == Some(content.digest))
    };
    state.images.iter().map(|doc| &*doc.value).filter(boots).collect()
}

impl App {
    /// One image.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn image(&self, ctx: &Ctx, text: &str) -> Result<Revised<Image>> {
        self.cache.read(|state| find(ctx, state, text).map(revised))
    }

    /// Makes a record; its bytes follow.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound` for kernels it names; the decision's.
    pub async fn create_image(&self, ctx: &Ctx, request: &ImageCreate) -> Result<Revised<Image>> {
        let project = self.cache.read(|state| ctx.project(state).map(|project| project.id))?;
        let _turn = self.turn(project).await;
        let publisher = ctx.caller.system(Role::Admin).is_ok();
        let promise = Promise { format: request.format, checksum: request.checksum, operator: publisher };
        let done = self
            .plan(ctx, |state, call| {
                let project = ctx.project(state)?;
                let direct = direct(ctx, state, request.direct_boot.as_ref())?;
                let held = usage(state, project.id);
                let changes = hull_core::image::create(project, held, request, direct, publisher, call)?;
                let (changes, made) = put(changes, None)?;
                let mut plan = Plan::new(changes, state)?;
                if promise != Promise::default() {
                    plan.put(Kind::Promise.key(made.object.id.0), &promise)?;
                }
                Ok((plan, made))
            })
            .await?;
        Ok(done.revised())
    }

    /// Changes a record.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; the decision's.
    pub async fn update_image(&self, ctx: &Ctx, text: &str, wanted: &ImageUpdate) -> Result<Revised<Image>> {
        let publisher = ctx.caller.system(Role::Admin).is_ok();
        let done = self
            .change(ctx, |state, call| {
                let image = own(ctx, state, text)?;
                let direct = direct(ctx, state, wanted.direct_boot.as_ref())?;
                put(hull_core::image::update(image, wanted, direct, publisher, call)?, Some(image))
            })
            .await?;
        Ok(done.revised())
    }

    /// Asks for an image's deletion; refused while a VM or an image needs it. The collector removes record and bytes.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `PreconditionFailed`; `Conflict` naming who uses it.
    pub async fn delete_image(&self, ctx: &Ctx, text: &str) -> Result<()> {
        self.change(ctx, |state, call| {
            let image = own(ctx, state, text)?;
            let changes = hull_core::image::delete(image, &users(state, image), &booted(state, image), call)?;
            Ok((changes, ()))
        })
        .await
        .map(|done| done.answer)
    }

    /// Removes the record of an image whose deletion was asked for, or restores it where a VM uses it after all.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn purge_image(&self, id: ImageId) -> Result<()> {
        self.plan(&Ctx::of(Caller::SERVER), |state, call| {
            let Some(image) = state.images.get(id) else { return Ok((Plan::default(), ())) };
            let held = usage(state, image.meta.project);
            let changes = hull_core::image::purge(image, &users(state, image), held, call);
            let mut plan = Plan::new(changes, state)?;
            if state.promise(id).is_some() {
                plan.delete(Kind::Promise.key(id.0));
            }
            Ok((plan, ()))
        })
        .await
        .map(|done| done.answer)
    }

    /// Takes an image's bytes from its owner; returns once it is ready.
    ///
    /// # Errors
    /// `Forbidden`; `NotFound`; `Conflict` where it has bytes or is getting some; what the import finds.
    pub async fn upload_image(&self, ctx: &Ctx, text: &str, source: Source) -> Result<Revised<Image>> {
        let id = self.cache.read(|state| own(ctx, state, text).map(|image| image.id))?;
        let receiving =
            self.receive_image(id).ok_or_else(|| Error::conflict("its bytes are coming in already; wait"))?;
        let under_way = |under_way| ctx.trail.iter().for_each(|trail| trail.under_way(under_way));
        under_way(true);
        self.bring_in(ctx, receiving, source).await?;
        under_way(false);
        self.cache.read(|state| state.images.get(id).map(revised).ok_or_else(|| missing::<Image>(text, None)))
    }

    /// Gives an image's bytes out.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` where it is not ready; the conversion's.
    pub async fn export_image(&self, ctx: &Ctx, text: &str, format: Option<ImageFormat>) -> Result<ExportStream> {
        let content = self.cache.read(|state| {
            let image = find(ctx, state, text)?;
            image.content.clone().ok_or_else(|| {
                Error::conflict(format!("image {} has no bytes yet; wait until it is ready", image.meta.name))
            })
        })?;
        let wanted = Export { format: held_format(format.unwrap_or(content.format)), compression: None };
        self.image_store()?.export(&content.digest, wanted, &Progress::silent()).await
    }

    /// Begins to receive an image's bytes; none where someone does already.
    pub(crate) fn receive_image(&self, id: ImageId) -> Option<Receiving> {
        let mut all = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id).then(|| Receiving { all: self.receiving.clone(), id })
    }

    /// Receives an image's bytes and makes it ready, or failed with the reason.
    ///
    /// # Errors
    /// The import's refusal, after it was written to the record.
    pub(crate) async fn bring_in(&self, ctx: &Ctx, receiving: Receiving, source: Source) -> Result<()> {
        let id = receiving.id;
        let images = self.image_store()?.clone();
        self.step(ctx, id, |image, call| match (image.phase, &image.source_url) {
            // A fetch that a server which stopped had begun: it goes on from the start.
            (ImagePhase::Importing, Some(_)) => Ok(Changes::none()),
            _ => hull_core::image::begin(image, call),
        })
        .await?;
        let received = self.receive(ctx, id, &images, source).await;
        match received {
            Ok(content) => {
                self.step(ctx, id, |image, call| Ok(hull_core::image::ready(image, content.clone(), call))).await
            }
            Err(error) => {
                self.step(ctx, id, |image, call| Ok(hull_core::image::failed(image, &error.detail, call))).await?;
                Err(error)
            }
        }
    }

    async fn receive(&self, ctx: &Ctx, id: ImageId, images: &ImageStore, source: Source) -> Result<ImageContent> {
        let (done, total) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let options = self.options(id, &done, &total);
        // Beside the import and not within it: a commit takes as long as the disk that is being written to is busy, and
        // meanwhile bytes go on coming in.
        tokio::select! {
            imported = images.import(source, &options) => imported.map(|imported| content(&imported)),
            () = self.tell_progress(ctx, id, &done, &total) => Err(Error::internal("progress has no end")),
        }
    }

    /// Writes down how far an import is, now and then, for ever.
    async fn tell_progress(&self, ctx: &Ctx, id: ImageId, done: &AtomicU64, total: &AtomicU64) {
        let mut tick = tokio::time::interval(PROGRESS);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = 0;
        loop {
            tick.tick().await;
            let now = done.load(Ordering::Relaxed);
            if now == last {
                continue;
            }
            last = now;
            let total = Some(total.load(Ordering::Relaxed)).filter(|&total| total > 0).map(Bytes);
            let progress = ImageProgress { done: Bytes(now), total };
            // Told to watchers only; a lost one is followed by the next.
            _ = self.step(ctx, id, |image, call| Ok(hull_core::image::progress(image, progress.clone(), call))).await;
        }
    }

    fn options(&self, id: ImageId, done: &Arc<AtomicU64>, total: &Arc<AtomicU64>) -> ImportOptions {
        let (kind, promise) = self.cache.read(|state| {
            let kind = state.images.get(id).map(|image| image.kind).unwrap_or_default();
            (kind, state.promise(id).cloned().unwrap_or_default())
        });
        let (done, total) = (done.clone(), total.clone());
        ImportOptions {
            sha256: promise.checksum,
            format: promise.format.map(held_format),
            kind: Some(held_kind(kind)),
            allow_private: promise.operator,
            extra_roots: Vec::new(),
            progress: Progress::new(move |step| {
                done.store(step.done, Ordering::Relaxed);
                total.store(step.total.unwrap_or_default(), Ordering::Relaxed);
            }),
        }
    }

    /// One step of a record's life. A record that is gone has no more steps.
    pub(crate) async fn step(
        &self,
        ctx: &Ctx,
        id: ImageId,
        decide: impl Fn(&Image, &mut Call<'_>) -> Result<Changes>,
    ) -> Result<()> {
        let plain = Ctx { replay: None, if_match: None, ..ctx.clone() };
        self.change(&plain, |state, call| {
            let changes = match state.images.get(id) {
                Some(image) => decide(image, call)?,
                None => Changes::none(),
            };
            Ok((changes, ()))
        })
        .await
        .map(|done| done.answer)
    }

    pub(crate) fn image_store(&self) -> Result<&Arc<ImageStore>> {
        self.images.as_ref().ok_or_else(|| Error::unavailable("this server keeps no image bytes"))
    }
}

/// The bytes of one image are coming in, for as long as this lives.
pub(crate) struct Receiving {
    all: Arc<Mutex<HashSet<ImageId>>>,
    pub(crate) id: ImageId,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

fn content(imported: &Imported) -> ImageContent {
    ImageContent {
        digest: imported.digest,
        format: match imported.format {
            Format::Raw => ImageFormat::Raw,
            Format::Qcow2 => ImageFormat::Qcow2,
            Format::Vmdk => ImageFormat::Vmdk,
            Format::Vhdx => ImageFormat::Vhdx,
            Format::Vdi => ImageFormat::Vdi,
            Format::Ova => ImageFormat::Ova,
        },
        size: imported.size,
        virtual_size: imported.virtual_size,
        source_digest: imported.source_digest,
    }
}

fn held_format(format: ImageFormat) -> Format {
    match format {
        ImageFormat::Raw => Format::Raw,
        ImageFormat::Qcow2 => Format::Qcow2,
        ImageFormat::Vmdk => Format::Vmdk,
        ImageFormat::Vhdx => Format::Vhdx,
        ImageFormat::Vdi => Format::Vdi,
        ImageFormat::Ova => Format::Ova,
    }
}

fn held_kind(kind: ImageKind) -> Held {
    match kind {
        ImageKind::Disk => Held::Disk,
        ImageKind::Kernel => Held::Kernel,
        ImageKind::Initrd => Held::Initrd,
    }
}
