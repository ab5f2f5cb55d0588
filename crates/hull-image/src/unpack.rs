//! Taking off the compression around an image, with bounded memory.

use std::io::{self, Read};

use crate::format::{self, Compression};

/// A compressed stream may ask for this much memory and no more; what `xz -9` and `zstd --long=27` need fits.
const DECODER_MEMORY: u64 = 192 << 20;
const ZSTD_WINDOW_LOG: u32 = 27;

/// A compressed initrd stays as it is: the kernel unpacks it, and a machine's memory need not hold it twice.
pub(crate) fn hides_initrd(kind: Compression, head: &[u8]) -> bool {
    let mut first = [0; 6];
    let inner: io::Result<Box<dyn Read>> = decoder(kind, head);
    inner.and_then(|mut r| r.read_exact(&mut first)).is_ok() && format::is_cpio(&first)
}

/// A reader of what is inside.
///
/// # Errors
/// The library cannot be set up; damaged data shows when reading.
pub(crate) fn decoder<'a>(kind: Compression, source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match kind {
        Compression::Gz => Box::new(flate2::read::MultiGzDecoder::new(source)),
        Compression::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(DECODER_MEMORY, liblzma::stream::CONCATENATED)?;
            Box::new(liblzma::read::XzDecoder::new_stream(source, stream))
        }
        Compression::Zst => {
            let mut decoder = zstd::stream::read::Decoder::new(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}
