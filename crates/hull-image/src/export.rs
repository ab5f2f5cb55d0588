//! Giving stored images out, in the format asked for.

use std::{
    fs::File,
    io::{self, Seek, Write},
    pin::Pin,
    task::{Context, Poll},
};

use hull_types::{
    digest::Digest,
    error::{Error, Result},
};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::SyncIoBridge;

use crate::{
    Compression, Format, ImageStore, Progress,
    convert::{self, Conversion},
    files::{io_error, require_space},
    format,
    store::blocking,
};

/// Between the compressing thread and the reader.
const PIPE: usize = 1 << 20;

/// How an image should be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Export {
    /// The disk format; not [`Format::Ova`].
    pub format: Format,
    /// Compression around it.
    pub compression: Option<Compression>,
}

/// An image on its way out.
pub struct ExportStream {
    reader: Pin<Box<dyn AsyncRead + Send>>,
    /// How many bytes will come, where known (not with compression).
    pub size: Option<u64>,
}

impl std::fmt::Debug for ExportStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportStream").field("size", &self.size).finish_non_exhaustive()
    }
}

impl AsyncRead for ExportStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.reader.as_mut().poll_read(cx, buf)
    }
}

impl ImageStore {
    /// Opens a stored image in a format of choice. Its own format costs nothing; others are converted to a staging file
    /// first, which goes when the stream is dropped.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for kernels and initrds in a disk format and for OVA, or what the conversion says.
    pub async fn export(&self, digest: &Digest, wanted: Export, progress: &Progress) -> Result<ExportStream> {
        let blob = self.open_blob(digest).await?;
        let file = self.in_format(blob, wanted.format, progress).await?;
        let size = file.metadata().map_err(|e| Error::internal(format!("cannot read the exported image: {e}")))?.len();
        Ok(match wanted.compression {
            None => ExportStream { reader: Box::pin(tokio::fs::File::from_std(file)), size: Some(size) },
            Some(kind) => ExportStream { reader: Box::pin(compressed(file, kind)), size: None },
        })
    }

    async fn in_format(&self, blob: File, wanted: Format, progress: &Progress) -> Result<File> {
        let limits = self.limits().clone();
        // A stored blob that does not begin like a qcow2 is raw: the import saw to that.
        let (blob, stored) = blocking(move || {
            let stored = match format::inspect(&blob, (Some(Format::Qcow2), None), &limits) {
                Ok(stored) => stored,
                Err(_) => format::inspect(&blob, (Some(Format::Raw), None), &limits)?,
            };
            Ok((blob, stored))
        })
        .await?;
        if stored.format == wanted {
            return Ok(blob);
        }
        if !matches!(stored.kind, format::Kind::Disk | format::Kind::Iso) || wanted == Format::Ova {
            let kind = format!("{:?}", stored.kind).to_lowercase();
            return Err(Error::invalid(format!(
                "a {kind} cannot be exported as {wanted}; export it as {}",
                stored.format
            )));
        }
        let _turn = self.conversions().acquire().await.map_err(|e| Error::internal(e.to_string()))?;
        let store = self.clone();
        let used = blob.metadata().map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
        let output = blocking(move || {
            require_space(&store.staging(), used, store.limits().keep_free)?;
            store.stage()
        })
        .await?;
        let conversion =
            Conversion { from: stored.format, to: wanted, virtual_size: stored.virtual_size, compress: false };
        convert::run(&blob, &output.file, &conversion, self.limits(), progress).await?;
        let path = output.path;
        blocking(move || {
            // Opened anew, because qemu-img may have replaced nothing but moved the shared position; unlinked by the drop.
            let file = File::open(&path).map_err(|e| io_error("open", &path, &e))?;
            Ok(file)
        })
        .await
    }
}

fn compressed(file: File, kind: Compression) -> impl AsyncRead + Send {
    let (near, far) = tokio::io::duplex(PIPE);
    let bridge = SyncIoBridge::new(near);
    // Ends by itself: a reader that goes away makes the next write fail.
    tokio::task::spawn_blocking(move || {
        if let Err(error) = compress(file, kind, bridge)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            tracing::warn!(%error, "an export stopped early");
        }
    });
    far
}

fn compress(mut file: File, kind: Compression, out: impl Write) -> io::Result<()> {
    file.rewind()?;
    match kind {
        Compression::Gz => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
            io::copy(&mut file, &mut encoder)?;
            encoder.finish()?.flush()
        }
        Compression::Zst => {
            let mut encoder = zstd::stream::write::Encoder::new(out, 3)?;
            io::copy(&mut file, &mut encoder)?;
            encoder.finish()?.flush()
        }
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(out, 3);
            io::copy(&mut file, &mut encoder)?;
            encoder.finish()?.flush()
        }
    }
}
