//! Hyper-V's VHDX, after Microsoft's *MS-VHDX*: region table, metadata table, and in it the disk's size and
//! whether a parent is needed. Differencing disks are refused.

use hull_types::error::{Error, Result};

use super::{Format, Inspected, Kind, le16, le32, le64, require_virtual_size, take, truncated};
use crate::{files::ReadAt, limits::Limits};

/// The two copies of the region table.
const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
/// GUIDs as their bytes lie in the file.
const METADATA_REGION: [u8; 16] =
    [0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e];
const FILE_PARAMETERS: [u8; 16] =
    [0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b];
const VIRTUAL_DISK_SIZE: [u8; 16] =
    [0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8];
const PARENT_LOCATOR: [u8; 16] =
    [0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c];
const HAS_PARENT: u32 = 1 << 1;
/// Both tables hold at most 2,047 entries of 32 bytes.
const MAX_ENTRIES: usize = 2047;

pub(super) fn inspect<R: ReadAt + ?Sized>(image: &R, limits: &Limits) -> Result<Inspected> {
    // QEMU reads the first valid copy; both must be harmless, so that it does not matter which.
    let mut size = None;
    for table in REGION_TABLES {
        for metadata in metadata_regions(image, table)? {
            size = Some(metadata_size(image, metadata)?);
        }
    }
    let size = size.ok_or_else(|| Error::invalid("it has no metadata: it is damaged"))?;
    require_virtual_size(size, limits)?;
    Ok(Inspected { format: Format::Vhdx, kind: Kind::Disk, virtual_size: size, clean: false })
}

fn metadata_regions<R: ReadAt + ?Sized>(image: &R, table: u64) -> Result<Vec<u64>> {
    let header = take(image, table, 16)?;
    if &header[..4] != b"regi" {
        return Ok(Vec::new());
    }
    let count = entries(le32(&header, 8))?;
    let entries = take(image, table + 16, count * 32)?;
    let mut found = Vec::new();
    for entry in entries.chunks_exact(32) {
        let (at, len) = (le64(entry, 16), u64::from(le32(entry, 24)));
        if at.checked_add(len).is_none_or(|end| end > image.size()) {
            return Err(truncated());
        }
        if entry[..16] == METADATA_REGION {
            found.push(at);
        }
    }
    Ok(found)
}

fn metadata_size<R: ReadAt + ?Sized>(image: &R, region: u64) -> Result<u64> {
    let header = take(image, region, 32)?;
    if &header[..8] != b"metadata" {
        return Err(Error::invalid("its metadata is damaged"));
    }
    let count = entries(u32::from(le16(&header, 10)))?;
    let table = take(image, region + 32, count * 32)?;
    let mut size = None;
    for entry in table.chunks_exact(32) {
        let id: [u8; 16] = super::bytes(entry, 0);
        let at = region.saturating_add(u64::from(le32(entry, 16)));
        if id == PARENT_LOCATOR || (id == FILE_PARAMETERS && le32(&take(image, at, 8)?, 4) & HAS_PARENT != 0) {
            return Err(Error::invalid("it is a difference to a parent disk; merge it first"));
        }
        if id == VIRTUAL_DISK_SIZE {
            size = Some(le64(&take(image, at, 8)?, 0));
        }
    }
    size.ok_or_else(|| Error::invalid("its metadata does not tell the disk's size"))
}

fn entries(claimed: u32) -> Result<usize> {
    match claimed as usize {
        n if n <= MAX_ENTRIES => Ok(n),
        n => Err(Error::invalid(format!("its table claims {n} entries; {MAX_ENTRIES} is the most"))),
    }
}
