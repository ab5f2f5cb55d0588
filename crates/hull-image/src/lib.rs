//! Images: what a machine's disk, kernel or initrd is made from.
//!
//! An image is a stranger's bytes. It enters through one door, [`ImageStore::import`], and is kept under the SHA-256 of
//! what was kept, so that whoever holds the digest can check what they got:
//!
//! ```text
//!  file | stdin | URL                                             <dir>/blobs/sha256/<hex>
//!        |                                                               ^
//!        v                                                               | fsync, rename
//!  receive: hash, unpack gz/xz/zst, count, keep holes -> staging file -> publish
//!                                                          |    ^
//!                        inspect: our own header parsers <-+    |
//!                          raw, clean qcow2, kernel, initrd ----+  (as they are)
//!                          vmdk, vhdx, vdi, other qcow2 --------+  (through a confined qemu-img)
//! ```
//!
//! Three rules carry the safety:
//! * the format is decided by our parsers from magic numbers; qemu-img never probes, and is told the format;
//! * no image may name another file: backing files, external data, extents and parents are refused before qemu-img runs;
//! * everything counted by the image itself (tables, sizes, ratios) has a limit before memory or disk is spent on it.
//!
//! What is stored is either a clean qcow2 or bytes that do not begin like one, so a blob's format follows from the blob.
//! [`build`] makes new images from a distribution's packages; [`ImageStore::export`] gives stored ones out in other formats.

pub mod build;
mod convert;
mod export;
mod fetch;
mod files;
mod format;
mod import;
mod limits;
mod progress;
mod receive;
mod store;
mod unpack;

pub use export::{Export, ExportStream};
pub use format::{Compression, Format, Inspected, Kind};
pub use import::{ImportOptions, Imported, Pieces, Source};
pub use limits::Limits;
pub use progress::{Phase, Progress, Step};
pub use store::ImageStore;
