//! `hull image build`: builds here, from packages, then registers the image with the server.
//!
//! The disk's own kernel and initial RAM disk are registered beside it, so that `micro` machines can boot the same system directly.

use std::path::PathBuf;

use clap::Args;
use hull_image::{
    Phase, Progress, Step,
    build::{self, BuiltImage, Recipe},
};
use hull_types::{
    error::{Error, ErrorKind, Result},
    image::{Image, ImageFormat, ImageKind, Visibility},
    name::Name,
    units::Bytes,
    wire::{DirectBootRequest, ImageCreate},
};

use super::upload;
use crate::{cli::Session, output, progress};

#[derive(Debug, Args)]
pub(crate) struct Build {
    /// A built-in recipe (`debian-12`) or a recipe's file
    recipe: String,
    /// The image's name; the recipe's where absent
    #[arg(long)]
    name: Option<Name>,
    /// Keep the built files in this directory, and use them again instead of building where they are there
    #[arg(long)]
    out: Option<PathBuf>,
    /// Let every project use it
    #[arg(long)]
    public: bool,
}

impl Build {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let recipe = if Recipe::BUILT_IN.contains(&self.recipe.as_str()) {
            Recipe::built_in(&self.recipe)?
        } else {
            Recipe::load(self.recipe.as_ref())?
        };
        let name = self.name.clone().map_or_else(|| recipe.name.parse(), Ok);
        let name: Name = name.map_err(|e| Error::invalid(format!("the recipe's name: {e}")))?;
        // Asked before minutes of work.
        if absent(session, &name).await? {
            let (built, _keep) = self.built(&recipe).await?;
            output::one(&self.register(session, &name, &built).await?, session.format);
            return Ok(());
        }
        Err(Error::already_exists(format!("there is an image named {name}; delete it first, or give another --name")))
    }

    /// The built files: found where they were kept, or built now.
    async fn built(&self, recipe: &Recipe) -> Result<(BuiltImage, Option<tempfile::TempDir>)> {
        let (out, temporary) = match &self.out {
            Some(out) => (out.clone(), None),
            None => {
                let dir = tempfile::Builder::new().prefix("hull-build-").tempdir_in("/var/tmp").map_err(|e| {
                    Error::invalid(format!("/var/tmp cannot be written: {e}; name a directory with --out"))
                })?;
                (dir.path().to_owned(), Some(dir))
            }
        };
        if let Some(kept) = build::kept(recipe, &out) {
            output::note(format!("using what was built in {}", out.display()));
            return Ok((kept, temporary));
        }
        let bar = progress::spinner(&format!("building {}", recipe.name));
        let told = bar.clone();
        let tell = Progress::new(move |step: Step| told.set_message(format!("{}{}", phase(step.phase), amount(&step))));
        let built = build::build(recipe, &out, &tell).await;
        bar.finish_and_clear();
        Ok((built?, temporary))
    }

    async fn register(&self, session: &Session, name: &Name, built: &BuiltImage) -> Result<Image> {
        let part = |suffix: &str| -> Result<Name> {
            format!("{name}-{suffix}")
                .parse()
                .map_err(|e| Error::invalid(format!("the image's name with -{suffix}: {e}")))
        };
        let mut direct_boot = None;
        if let Some(kernel) = &built.kernel {
            let kernel = self.part(session, part("kernel")?, ImageKind::Kernel, kernel).await?;
            let initrd = match &built.initrd {
                Some(initrd) => Some(self.part(session, part("initrd")?, ImageKind::Initrd, initrd).await?),
                None => None,
            };
            direct_boot = Some(DirectBootRequest {
                kernel: kernel.id.to_string(),
                initrd: initrd.map(|initrd| initrd.id.to_string()),
                cmdline: built.cmdline.clone(),
            });
        }
        let body = ImageCreate { direct_boot, ..self.body(name.clone(), ImageKind::Disk, ImageFormat::Qcow2) };
        upload(session, &body, &built.disk).await
    }

    /// Registers a kernel or an initial RAM disk; one left from an earlier build is replaced if nothing uses it.
    async fn part(&self, session: &Session, name: Name, kind: ImageKind, file: &std::path::Path) -> Result<Image> {
        if !absent(session, &name).await? {
            session.client.nouns("images").delete(name.as_str()).await?;
        }
        upload(session, &self.body(name, kind, ImageFormat::Raw), file).await
    }

    fn body(&self, name: Name, kind: ImageKind, format: ImageFormat) -> ImageCreate {
        ImageCreate {
            name,
            description: format!("built from the recipe {}", self.recipe),
            metadata: std::collections::BTreeMap::new(),
            kind,
            format: Some(format),
            checksum: None,
            source_url: None,
            visibility: if self.public { Visibility::Public } else { Visibility::Private },
            min_disk: Bytes::ZERO,
            min_memory: Bytes::ZERO,
            direct_boot: None,
        }
    }
}

/// Whether there is no image of this name.
async fn absent(session: &Session, name: &Name) -> Result<bool> {
    match session.client.images().show(name.as_str()).await {
        Err(error) if error.kind == ErrorKind::NotFound => Ok(true),
        shown => shown.map(|_| false),
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Receiving => "receiving",
        Phase::Converting => "converting",
        Phase::Hashing => "hashing",
        Phase::Packages => "installing packages",
        Phase::Assembling => "writing the disk",
    }
}

fn amount(step: &Step) -> String {
    step.total.map(|total| format!(" ({} of {total})", step.done)).unwrap_or_default()
}
