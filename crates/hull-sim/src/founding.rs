//! What a run begins with beyond what the server makes at its first start: an image that is ready, without bytes, and a
//! tenant's networks.

use std::sync::Arc;

use hull_core::{
    call::{Call, Fresh},
    change::Changes,
};
use hull_server::{
    app::App,
    env::Env,
    state::{
        repo::{Committed, Plan},
        view::State,
    },
};
use hull_store::Store;
use hull_types::{
    error::{Error, Result},
    event::Actor,
    id::ImageId,
    image::ImageContent,
    name::Name,
};
use uuid::Uuid;

use crate::cloud::Cloud;

/// The image VMs are made of at first.
pub async fn found(cloud: &Cloud) -> Result<()> {
    let app = cloud.app().ok_or_else(|| Error::unavailable("the server is not up"))?;
    let name = Name::new("debian-12").map_err(|why| Error::internal(why.to_string()))?;
    crate::steps::make_image(app, cloud.store.clone(), name).await?;
    crate::networking::found(app).await
}

/// The import controller's part, without bytes.
pub async fn fill_image(app: &App, store: Arc<dyn Store>, id: ImageId, content: ImageContent) -> Result<()> {
    commit(app, store, |state, call| {
        let image = state.images.get(id).ok_or_else(|| Error::not_found("the image is gone"))?;
        Ok(hull_core::image::ready(image, content.clone(), call))
    })
    .await
}

/// Commits a decision made on the server's own state.
async fn commit(
    app: &App,
    store: Arc<dyn Store>,
    decide: impl Fn(&State, &mut Call<'_>) -> Result<Changes>,
) -> Result<()> {
    for _ in 0..20 {
        let plan = app.cache().read(|state| {
            let mut fresh = FreshOf(app.env());
            let mut call = Call { now: app.env().now(), actor: Actor::Server, fresh: &mut fresh };
            Plan::new(decide(state, &mut call)?, state)
        })?;
        match plan.commit(&store).await? {
            Committed::At(revision) => {
                app.cache().reached(revision).await;
                return Ok(());
            }
            Committed::Stale => app.catch_up().await?,
        }
    }
    Err(Error::conflict("it keeps being changed"))
}

struct FreshOf<'a>(&'a Env);

impl Fresh for FreshOf<'_> {
    fn uuid(&mut self) -> Uuid {
        self.0.id()
    }

    fn mac_bytes(&mut self) -> [u8; 3] {
        self.0.random()
    }
}
