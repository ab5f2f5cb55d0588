//! What an image is, told from its first bytes and its header. Pure parsing of hostile bytes.
//!
//! Every parser follows the same order: magic, then each number against its limit, then anything that would make
//! qemu-img open *another* file (refused), and only then a size is believed. No parser allocates more than a fixed bound.

mod boot;
mod ova;
mod qcow2;
#[cfg(test)]
mod tests;
mod vdi;
mod vhdx;
mod vmdk;

use std::{fmt, str::FromStr};

use hull_types::error::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::{files::ReadAt, limits::Limits};

pub(crate) use ova::{Member, find_disk};

/// A disk format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The disk's bytes as they are; also kernels and initrds.
    Raw,
    /// QEMU's own.
    Qcow2,
    /// VMware's, as one file (monolithicSparse or streamOptimized).
    Vmdk,
    /// Hyper-V's.
    Vhdx,
    /// VirtualBox's.
    Vdi,
    /// A tar of an OVF description and its disk.
    Ova,
}

impl Format {
    /// The name, which is also qemu-img's where it knows the format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Ova => "ova",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Raw, Self::Qcow2, Self::Vmdk, Self::Vhdx, Self::Vdi, Self::Ova];
        all.into_iter().find(|f| f.name() == text).ok_or_else(|| {
            Error::invalid(format!("{text:?} is not an image format: use raw, qcow2, vmdk, vhdx, vdi or ova"))
        })
    }
}

/// What an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A disk to boot from or to attach.
    Disk,
    /// A CD or DVD.
    Iso,
    /// A kernel that QEMU can start directly: Linux bzImage, ELF with a PVH note, or multiboot.
    Kernel,
    /// An initial file system for a Linux kernel.
    Initrd,
}

/// Compression around an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// gzip.
    Gz,
    /// xz.
    Xz,
    /// Zstandard.
    Zst,
}

/// What the header says, once nothing about it is dangerous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The format found.
    pub format: Format,
    /// What it is for.
    pub kind: Kind,
    /// The disk's size as the guest sees it; for kernels and initrds the file's, in bytes.
    pub virtual_size: u64,
    /// It may be stored as it is; otherwise it must be rewritten first.
    pub clean: bool,
}

/// How much of an image's beginning tells what it is: ISO 9660's mark ends at 32,774, btrfs' at 65,608.
pub(crate) const HEAD: usize = 68 << 10;

/// What a magic number tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Magic {
    Container(Format),
    Kernel,
    Initrd,
    Iso,
    RawDisk,
    /// Known, and of no use here; says why and what to do.
    Refused(&'static str),
    Unknown,
}

pub(crate) fn compression(head: &[u8]) -> Option<Compression> {
    match head {
        [0x1f, 0x8b, 0x08, ..] => Some(Compression::Gz),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zst),
        _ => None,
    }
}

/// Whether these bytes begin a cpio archive as the kernel's initrd loader takes it.
pub(crate) fn is_cpio(head: &[u8]) -> bool {
    head.starts_with(b"070701") || head.starts_with(b"070702")
}

fn has(head: &[u8], at: usize, magic: &[u8]) -> bool {
    head.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

fn magic(head: &[u8]) -> Magic {
    let table: [(usize, &[u8], Magic); 22] = [
        (0, b"QFI\xfb", Magic::Container(Format::Qcow2)),
        (0, b"KDMV", Magic::Container(Format::Vmdk)),
        (0, b"vhdxfile", Magic::Container(Format::Vhdx)),
        (0x40, b"\x7f\x10\xda\xbe", Magic::Container(Format::Vdi)),
        (257, b"ustar", Magic::Container(Format::Ova)),
        (0, b"COWD", Magic::Refused("a VMware ESX 3 COWD disk; convert it to a streamOptimized VMDK first")),
        (0, b"# Disk DescriptorFile", Magic::Refused(DESCRIPTOR)),
        (0, b"conectix", Magic::Refused("a VHD (Virtual PC) disk; convert it to VHDX first")),
        (0, b"QED\0", Magic::Refused("a QED disk; convert it to qcow2 first")),
        (0, b"LUKS\xba\xbe", Magic::Refused("encrypted (LUKS); nothing here has its key: decrypt it first")),
        (0, b"BZh", Magic::Refused("compressed with bzip2; use gzip, xz or zstd")),
        (0, b"\x04\x22\x4d\x18", Magic::Refused("compressed with lz4; use gzip, xz or zstd")),
        (0, b"PK\x03\x04", Magic::Refused("a zip archive; unpack it and import the disk in it")),
        (0, b"7z\xbc\xaf\x27\x1c", Magic::Refused("a 7z archive; unpack it and import the disk in it")),
        (0, b"\x7fELF", Magic::Kernel),
        (0x202, b"HdrS", Magic::Kernel),
        (32769, b"CD001", Magic::Iso),
        (512, b"EFI PART", Magic::RawDisk),
        (0x1fe, b"\x55\xaa", Magic::RawDisk),
        (0, b"XFSB", Magic::RawDisk),
        (1080, b"\x53\xef", Magic::RawDisk),
        (65600, b"_BHRfS_M", Magic::RawDisk),
    ];
    if is_cpio(head) || has(head, 0, b"\x02\x21\x4c\x18") {
        return Magic::Initrd; // cpio, or the kernel's own legacy lz4 frame, which nothing else uses
    }
    if compression(head).is_some_and(|kind| crate::unpack::hides_initrd(kind, head)) {
        return Magic::Initrd;
    }
    let found = table.into_iter().find(|(at, bytes, _)| has(head, *at, bytes)).map(|(_, _, magic)| magic);
    found.unwrap_or_else(|| if boot::is_flat_multiboot(head) { Magic::Kernel } else { Magic::Unknown })
}

const DESCRIPTOR: &str =
    "a VMDK descriptor, which only names other files; export the machine as an OVA or a streamOptimized VMDK";

/// Tells what an image is and whether it is safe to use.
///
/// # Errors
/// `Invalid` with the reason it is refused: unknown, not what was declared, naming other files, beyond the limits,
/// truncated.
pub(crate) fn inspect<R: ReadAt + ?Sized>(
    image: &R,
    declared: (Option<Format>, Option<Kind>),
    limits: &Limits,
) -> Result<Inspected> {
    let head = image.read_some(0, HEAD).map_err(|e| Error::internal(format!("cannot read the staged image: {e}")))?;
    if head.is_empty() {
        return Err(Error::invalid("the image is empty"));
    }
    let found = identify(&head, declared)?;
    require_as_declared(&found, declared)?;
    match found {
        Found::Raw(kind) => raw(image, &head, kind, limits),
        Found::Container(format) => {
            let inspected = match format {
                Format::Qcow2 => qcow2::inspect(image, limits),
                Format::Vmdk => vmdk::inspect(image, limits),
                Format::Vhdx => vhdx::inspect(image, limits),
                Format::Vdi => vdi::inspect(image, limits),
                Format::Ova => Ok(Inspected { format, kind: Kind::Disk, virtual_size: 0, clean: false }),
                Format::Raw => raw(image, &head, Kind::Disk, limits),
            };
            inspected.map_err(|e| Error { detail: format!("refused {format} image: {}", e.detail), ..e })
        }
    }
}

enum Found {
    Raw(Kind),
    Container(Format),
}

fn identify(head: &[u8], declared: (Option<Format>, Option<Kind>)) -> Result<Found> {
    match magic(head) {
        Magic::Container(format) => Ok(Found::Container(format)),
        Magic::Kernel => Ok(Found::Raw(Kind::Kernel)),
        Magic::Initrd => Ok(Found::Raw(Kind::Initrd)),
        Magic::Iso => Ok(Found::Raw(Kind::Iso)),
        Magic::RawDisk => Ok(Found::Raw(Kind::Disk)),
        Magic::Refused(what) => Err(Error::invalid(format!("the image is {what}"))),
        Magic::Unknown if is_text(head) => Err(Error::invalid(format!(
            "the image is text, not a disk; it begins {:?} (an error page instead of the download?)",
            String::from_utf8_lossy(&head[..head.len().min(60)])
        ))),
        Magic::Unknown => match declared {
            (Some(Format::Raw), kind) => Ok(Found::Raw(kind.unwrap_or(Kind::Disk))),
            (None, Some(kind @ (Kind::Disk | Kind::Initrd))) => Ok(Found::Raw(kind)),
            _ => Err(Error::invalid(
                "the image has no known format, partition table or file system; \
                 if it is a raw disk all the same, say so with the format `raw`",
            )),
        },
    }
}

fn require_as_declared(found: &Found, declared: (Option<Format>, Option<Kind>)) -> Result<()> {
    let (format, kind) = match found {
        Found::Raw(kind) => (Format::Raw, *kind),
        Found::Container(format) => (*format, Kind::Disk),
    };
    if let Some(said) = declared.0.filter(|said| *said != format) {
        return Err(Error::invalid(format!(
            "the image was declared {said} and is {format}; declare {format}, or nothing, to let it be detected"
        )));
    }
    // A CD is attached or booted as a disk would be: declaring it a disk is no mistake.
    let same = |said: Kind| said == kind || (said == Kind::Disk && kind == Kind::Iso);
    match declared.1.filter(|said| !same(*said)) {
        Some(said) => {
            Err(Error::invalid(format!("the image was declared a {said:?} and is a {kind:?}").to_lowercase()))
        }
        None => Ok(()),
    }
}

fn raw<R: ReadAt + ?Sized>(image: &R, head: &[u8], kind: Kind, limits: &Limits) -> Result<Inspected> {
    let size = image.size();
    require_virtual_size(size, limits)?;
    match kind {
        Kind::Kernel => boot::require_bootable(image, head)?,
        Kind::Disk | Kind::Iso if !size.is_multiple_of(512) => {
            return Err(Error::invalid(format!(
                "the raw disk is {size} bytes long, not a whole number of 512-byte sectors: it is truncated or no disk"
            )));
        }
        Kind::Disk | Kind::Iso | Kind::Initrd => {}
    }
    Ok(Inspected { format: Format::Raw, kind, virtual_size: size, clean: true })
}

/// Text has no NUL and no control bytes but white space; disks begin with neither for long.
fn is_text(head: &[u8]) -> bool {
    let sample = &head[..head.len().min(4096)];
    sample.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..=0xff))
        && sample.iter().filter(|b| b.is_ascii()).count() * 2 > sample.len()
}

fn require_virtual_size(size: u64, limits: &Limits) -> Result<()> {
    if size == 0 {
        return Err(Error::invalid("its disk has no size"));
    }
    if size > limits.virtual_size.0 {
        return Err(Error::invalid(format!(
            "its disk is {}, more than the {} allowed",
            hull_types::units::Bytes(size),
            limits.virtual_size
        )));
    }
    Ok(())
}

/// Reads exactly `len` bytes (a bound of the parser's own) or says that the image is cut off.
fn take<R: ReadAt + ?Sized>(image: &R, offset: u64, len: usize) -> Result<Vec<u8>> {
    // Asked before anything is allocated: `len` may follow from the image's own words.
    if offset.checked_add(len as u64).is_none_or(|end| end > image.size()) {
        return Err(truncated());
    }
    let mut buf = vec![0; len];
    match image.read_exact_at(&mut buf, offset) {
        Ok(true) => Ok(buf),
        Ok(false) => Err(truncated()),
        Err(e) => Err(Error::internal(format!("cannot read the staged image: {e}"))),
    }
}

fn truncated() -> Error {
    Error::invalid("it is truncated: its tables reach past its end; get it again and give its checksum")
}

fn bytes<const N: usize>(buf: &[u8], at: usize) -> [u8; N] {
    buf.get(at..at + N).and_then(|s| s.try_into().ok()).unwrap_or([0; N])
}

fn be32(buf: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes(buf, at))
}

fn be64(buf: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes(buf, at))
}

fn le16(buf: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(buf, at))
}

fn le32(buf: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(buf, at))
}

fn le64(buf: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(buf, at))
}
