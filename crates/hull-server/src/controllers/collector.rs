//! Lets go what was deleted.

use std::collections::HashSet;

use hull_core::vm::delete::{Due, due, purge};
use hull_types::{
    digest::Digest,
    error::Result,
    id::{ImageId, VmId},
    image::ImagePhase,
};

use crate::{
    app::{
        App,
        ctx::{Caller, Ctx},
        node,
        vm::deleting,
    },
    state::view::State,
};

/// One round over everything whose deletion was asked for.
pub async fn round(app: &App) -> Result<()> {
    let now = app.env.now();
    let (vms, images) = app.cache.read(|state| {
        let vms: Vec<VmId> = state.deleted().filter(|&vm| why(state, vm, now).is_some()).collect();
        let images = state.images.iter().filter(|image| image.phase == ImagePhase::Deleting);
        (vms, images.map(|image| image.id).collect::<Vec<ImageId>>())
    });
    for vm in vms {
        purge_vm(app, vm).await?;
    }
    for image in images {
        purge_image(app, image).await?;
    }
    Ok(())
}

/// Why a VM's record may go now; none where it may not.
fn why(state: &State, id: VmId, now: hull_types::Timestamp) -> Option<String> {
    let vm = state.vms.get(id)?;
    let placement = state.placement(id).map(|placement| &*placement.value);
    let status = state.status(id).map(|status| &*status.value);
    let node = placement.and_then(|placement| placement.node).and_then(|node| node::seen(state, node));
    match due(vm, placement, status, node, now) {
        Due::Now(why) => Some(why),
        Due::NotDeleted | Due::At(_) | Due::WhenGone => None,
    }
}

async fn purge_vm(app: &App, id: VmId) -> Result<()> {
    app.change(&Ctx::of(Caller::SERVER), |state, call| {
        let changes = match (state.vms.get(id), why(state, id, call.now)) {
            (Some(vm), Some(why)) => deleting(state, vm, |plan| purge(plan, &why, call)),
            _ => hull_core::change::Changes::none(),
        };
        Ok((changes, ()))
    })
    .await
    .map(|done| done.answer)
}

/// Removes a record, then its bytes where no other record names them.
async fn purge_image(app: &App, id: ImageId) -> Result<()> {
    let digest =
        app.cache.read(|state| state.images.get(id).and_then(|image| image.content.as_ref().map(|c| c.digest)));
    app.purge_image(id).await?;
    let (Some(digest), Ok(images)) = (digest, app.image_store()) else { return Ok(()) };
    let named = app.cache.read(|state| named(state).contains(&digest));
    if named { Ok(()) } else { images.delete(&digest).await }
}

/// The bytes that some image or VM names.
fn named(state: &State) -> HashSet<Digest> {
    let images = state.images.iter().flat_map(|image| {
        let boot = image.direct_boot.as_ref();
        let own = image.content.as_ref().map(|content| content.digest);
        [own, boot.map(|boot| boot.kernel), boot.and_then(|boot| boot.initrd)].into_iter().flatten()
    });
    images.chain(state.contents_used()).collect()
}
