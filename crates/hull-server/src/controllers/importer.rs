//! Fetches images from their URLs.
//!
//! The documents say what to do: `queued` with a URL is to be fetched; `importing` that nobody in this process works on was
//! left behind by a server that stopped, and is begun again where it has a URL, failed where its bytes came by an upload.

use std::sync::Arc;

use hull_image::Source;
use hull_types::{
    error::{Error, Result},
    id::ImageId,
    image::{Image, ImagePhase},
};
use tokio::sync::Semaphore;

use crate::app::{
    App,
    ctx::{Caller, Ctx},
};

/// Fetches at once.
const FETCHES: usize = 2;

/// The importer. It remembers nothing but what it is doing.
pub struct Importer {
    app: Arc<App>,
    places: Arc<Semaphore>,
}

/// What an image needs.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Fetch(String),
    Fail,
}

impl Importer {
    /// An importer that is doing nothing.
    pub fn new(app: Arc<App>) -> Self {
        Self { app, places: Arc::new(Semaphore::new(FETCHES)) }
    }

    /// Begins what is to be done and not under way.
    ///
    /// # Errors
    /// The store's.
    pub async fn round(&self) -> Result<()> {
        if self.app.image_store().is_err() {
            return Ok(());
        }
        let needs: Vec<(ImageId, Need)> = self
            .app
            .cache
            .read(|state| state.images.iter().filter_map(|image| Some((image.id, need(image)?))).collect());
        for (id, need) in needs {
            match need {
                Need::Fail => self.fail(id).await?,
                Need::Fetch(url) => self.fetch(id, &url).await?,
            }
        }
        Ok(())
    }

    async fn fail(&self, id: ImageId) -> Result<()> {
        let Some(_receiving) = self.app.receive_image(id) else { return Ok(()) };
        let why = "the upload broke off; delete the image and upload it again";
        self.app.step(&Ctx::of(Caller::SERVER), id, |image, call| Ok(hull_core::image::failed(image, why, call))).await
    }

    async fn fetch(&self, id: ImageId, url: &str) -> Result<()> {
        let Ok(place) = self.places.clone().try_acquire_owned() else { return Ok(()) };
        let Some(receiving) = self.app.receive_image(id) else { return Ok(()) };
        let ctx = Ctx::of(Caller::SERVER);
        let url = match url.parse() {
            Ok(url) => url,
            Err(error) => {
                let error = Error::invalid(format!("{url:?} is not a URL: {error}"));
                return self
                    .app
                    .step(&ctx, id, |image, call| Ok(hull_core::image::failed(image, &error.detail, call)))
                    .await;
            }
        };
        let app = self.app.clone();
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = app.bring_in(&ctx, receiving, Source::Url(url)).await {
                tracing::info!(image = %id, %error, "an image was not fetched");
            }
        });
        Ok(())
    }
}

fn need(image: &Image) -> Option<Need> {
    match (image.phase, &image.source_url) {
        (ImagePhase::Queued | ImagePhase::Importing, Some(url)) => Some(Need::Fetch(url.clone())),
        (ImagePhase::Importing, None) => Some(Need::Fail),
        _ => None,
    }
}
