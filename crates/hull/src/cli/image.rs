//! `hull image`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use futures::StreamExt;
use hull_types::{
    digest::Digest,
    error::{Error, Result},
    image::{Image, ImageFormat, ImageKind, ImagePhase, Visibility},
    name::Name,
    units::Bytes,
    wire::{DirectBootRequest, ImageCreate, ImageUpdate},
};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::{Session, pair};
use crate::{
    output::{self, Show, word},
    progress,
};

mod build;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List images
    #[command(visible_alias = "ls")]
    List,
    /// Show an image
    Show {
        /// Name or id
        image: String,
    },
    /// Build an image from Debian's packages (as root) and register it
    Build(build::Build),
    /// Import an image from a file, an HTTP(S) URL or standard input
    Import(Box<Import>),
    /// Write an image to a file
    Export {
        /// Name or id
        image: String,
        /// The file; `-` for standard output
        file: PathBuf,
        /// The format
        #[arg(long, value_enum, default_value_t = Format::Qcow2)]
        format: Format,
    },
    /// Change an image's name, description, labels or direct boot
    Update {
        /// Name or id
        image: String,
        /// New name
        #[arg(long)]
        name: Option<Name>,
        /// New description
        #[arg(long)]
        description: Option<String>,
        /// A label, key=value; given ones replace all
        #[arg(long, value_parser = pair)]
        metadata: Option<Vec<(String, String)>>,
    },
    /// Let every project use an image
    Share {
        /// Name or id
        image: String,
    },
    /// Keep an image to its own project
    Unshare {
        /// Name or id
        image: String,
    },
    /// Leave an image out of listings
    Hide {
        /// Name or id
        image: String,
    },
    /// List it again
    Unhide {
        /// Name or id
        image: String,
    },
    /// Delete images no VM uses
    #[command(visible_alias = "rm")]
    Delete {
        /// Names or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// A file, `http(s)://…`, or `-` for standard input
    source: String,
    /// Its name
    #[arg(long)]
    name: Name,
    /// The format; found out where absent
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What it holds
    #[arg(long, value_enum, default_value_t = Kind::Disk)]
    kind: Kind,
    /// SHA-256 the source must have
    #[arg(long)]
    checksum: Option<Digest>,
    /// Free text
    #[arg(long, default_value = "")]
    description: String,
    /// A label, key=value (repeatable)
    #[arg(long, value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// The least disk a VM made of it needs
    #[arg(long, default_value = "0")]
    min_disk: Bytes,
    /// The least memory a VM made of it needs
    #[arg(long, default_value = "0")]
    min_memory: Bytes,
    /// Let every project use it
    #[arg(long)]
    public: bool,
    /// Kernel image for direct boot
    #[arg(long)]
    kernel: Option<String>,
    /// Initial RAM disk for direct boot
    #[arg(long, requires = "kernel")]
    initrd: Option<String>,
    /// The kernel's command line
    #[arg(long, requires = "kernel", default_value = "")]
    cmdline: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Format {
    /// Bytes as the disk has them
    Raw,
    /// QEMU's
    Qcow2,
    /// VMware's
    Vmdk,
    /// Hyper-V's
    Vhdx,
    /// VirtualBox's
    Vdi,
    /// A tar with an OVF and its disk (import only)
    Ova,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// A bootable disk
    Disk,
    /// A kernel for direct boot
    Kernel,
    /// An initial RAM disk
    Initrd,
}

impl From<Format> for ImageFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Raw => Self::Raw,
            Format::Qcow2 => Self::Qcow2,
            Format::Vmdk => Self::Vmdk,
            Format::Vhdx => Self::Vhdx,
            Format::Vdi => Self::Vdi,
            Format::Ova => Self::Ova,
        }
    }
}

impl Show for Image {
    const COLUMNS: &'static [&'static str] = &["name", "kind", "phase", "size", "virtual", "visibility", "age", "id"];

    fn row(&self) -> Vec<String> {
        let content = self.content.as_ref();
        vec![
            self.meta.name.to_string(),
            word(&self.kind),
            word(&self.phase),
            content.map_or_else(|| "-".into(), |content| content.size.to_string()),
            content.map_or_else(|| "-".into(), |content| content.virtual_size.to_string()),
            word(&self.visibility),
            output::ago(self.meta.created_at),
            self.id.to_string(),
        ]
    }

    fn page(&self) -> Vec<(&'static str, String)> {
        let mut page: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        page.push(("reason", self.reason.as_ref().map(|reason| reason.message.clone()).unwrap_or_default()));
        if let Some(content) = &self.content {
            page.push(("digest", content.digest.to_string()));
            page.push(("format", word(&content.format)));
        }
        if let Some(boot) = &self.direct_boot {
            page.push(("kernel", format!("{} {}", boot.kernel, boot.cmdline)));
        }
        page.push(("source", self.source_url.clone().unwrap_or_default()));
        page.retain(|(_, value)| !value.is_empty());
        page
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let images = session.client.images();
        match self {
            Self::List => output::list(&session.client.nouns("images").list::<Image>(&[]).await?, session.format),
            Self::Show { image } => output::one(&images.show(&image).await?, session.format),
            Self::Build(build) => build.run(session).await?,
            Self::Import(import) => output::one(&import.run(session).await?, session.format),
            Self::Export { image, file, format } => export(session, &image, &file, format.into()).await?,
            Self::Update { image, name, description, metadata } => {
                let metadata = metadata.map(|pairs| pairs.into_iter().collect());
                session.change(&image, ImageUpdate { name, description, metadata, ..ImageUpdate::default() }).await?;
            }
            Self::Share { image } => {
                session
                    .change(&image, ImageUpdate { visibility: Some(Visibility::Public), ..ImageUpdate::default() })
                    .await?
            }
            Self::Unshare { image } => {
                session
                    .change(&image, ImageUpdate { visibility: Some(Visibility::Private), ..ImageUpdate::default() })
                    .await?
            }
            Self::Hide { image } => {
                session.change(&image, ImageUpdate { hidden: Some(true), ..ImageUpdate::default() }).await?
            }
            Self::Unhide { image } => {
                session.change(&image, ImageUpdate { hidden: Some(false), ..ImageUpdate::default() }).await?
            }
            Self::Delete { images: names } => {
                for name in names {
                    session.client.nouns("images").delete(&name).await?;
                }
            }
        }
        Ok(0)
    }
}

impl Session {
    async fn change(&self, image: &str, update: ImageUpdate) -> Result<()> {
        output::one(&self.client.images().update(image, &update).await?, self.format);
        Ok(())
    }
}

impl Import {
    async fn run(self, session: &Session) -> Result<Image> {
        let url =
            ["http://", "https://"].iter().any(|scheme| self.source.starts_with(scheme)).then(|| self.source.clone());
        let (initrd, cmdline) = (self.initrd, self.cmdline);
        let body = ImageCreate {
            name: self.name,
            description: self.description,
            metadata: self.metadata.into_iter().collect(),
            kind: match self.kind {
                Kind::Disk => ImageKind::Disk,
                Kind::Kernel => ImageKind::Kernel,
                Kind::Initrd => ImageKind::Initrd,
            },
            format: self.format.map(Into::into),
            checksum: self.checksum,
            source_url: url.clone(),
            visibility: if self.public { Visibility::Public } else { Visibility::Private },
            min_disk: self.min_disk,
            min_memory: self.min_memory,
            direct_boot: self.kernel.map(|kernel| DirectBootRequest { kernel, initrd, cmdline }),
        };
        if url.is_some() {
            let image = session.client.images().create(&body).await?;
            return fetched(session, image).await;
        }
        upload(session, &body, &PathBuf::from(self.source)).await
    }
}

/// Makes the record and uploads the file's bytes. What cannot be uploaded leaves no record behind.
pub(crate) async fn upload(session: &Session, body: &ImageCreate, file: &std::path::Path) -> Result<Image> {
    let refuse = |e: std::io::Error| Error::invalid(format!("{} cannot be read: {e}", file.display()));
    let (reader, total): (Box<dyn tokio::io::AsyncRead + Send + Unpin>, _) = if file.as_os_str() == "-" {
        (Box::new(tokio::io::stdin()), None)
    } else {
        let file = tokio::fs::File::open(file).await.map_err(refuse)?;
        let length = file.metadata().await.map_err(refuse)?.len();
        (Box::new(file), Some(length))
    };
    let image = session.client.images().create(body).await?;
    let id = image.id.to_string();
    let bar = progress::bytes(&format!("uploading {}", body.name), total);
    let counted = bar.clone();
    let stream = ReaderStream::with_capacity(reader, 1 << 20).inspect(move |chunk| {
        counted.inc(chunk.as_ref().map_or(0, |chunk| chunk.len() as u64));
    });
    let uploaded = session.client.images().upload(&id, stream).await;
    bar.finish_and_clear();
    if uploaded.is_err() {
        // The refusal is what people need to see; a record that cannot be removed shows as failed.
        let _ = session.client.nouns("images").delete(&id).await;
    }
    uploaded
}

/// Waits until the server has fetched the bytes.
async fn fetched(session: &Session, mut image: Image) -> Result<Image> {
    let id = image.id.to_string();
    let bar = progress::bytes(&format!("fetching {}", image.meta.name), Some(0));
    while matches!(image.phase, ImagePhase::Queued | ImagePhase::Importing) {
        if let Some(at) = &image.progress {
            bar.set_length(at.total.map_or(at.done.0, |total| total.0));
            bar.set_position(at.done.0);
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        image = session.client.images().show(&id).await?;
    }
    bar.finish_and_clear();
    match image.phase {
        ImagePhase::Ready => Ok(image),
        _ => {
            let why = image.reason.map(|reason| reason.message).unwrap_or_default();
            Err(Error::invalid(format!("{} could not be imported: {why}", image.meta.name)))
        }
    }
}

/// Downloads into a file that bears its name only when it is whole.
async fn export(session: &Session, image: &str, file: &std::path::Path, format: ImageFormat) -> Result<()> {
    let (total, mut stream) = session.client.images().download(image, format).await?;
    let bar = progress::bytes(&format!("exporting {image}"), total);
    let refuse = |e: std::io::Error| Error::invalid(format!("{} cannot be written: {e}", file.display()));
    let partial = file.with_extension("partial");
    let mut out: Box<dyn tokio::io::AsyncWrite + Send + Unpin> = if file.as_os_str() == "-" {
        Box::new(tokio::io::stdout())
    } else {
        Box::new(tokio::fs::File::create(&partial).await.map_err(refuse)?)
    };
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        out.write_all(&chunk).await.map_err(refuse)?;
        bar.inc(chunk.len() as u64);
    }
    out.flush().await.map_err(refuse)?;
    bar.finish_and_clear();
    if file.as_os_str() != "-" {
        tokio::fs::rename(&partial, file).await.map_err(refuse)?;
        output::note(format!("wrote {} ({})", file.display(), progress::amount(bar.position())));
    }
    Ok(())
}
