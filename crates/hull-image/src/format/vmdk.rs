//! VMDK in one file: hosted sparse extents (`monolithicSparse`) and `streamOptimized`, after VMware's
//! *Virtual Disk Format 5.0*.
//!
//! The danger is the descriptor: a text in which extents and parents are named by path. qemu-img follows those names
//! when the header's capacity is zero, so a zero capacity is refused, as is any descriptor naming more than itself.

use hull_types::error::{Error, Result};

use super::{Format, Inspected, Kind, le16, le32, le64, require_virtual_size, take};
use crate::{files::ReadAt, limits::Limits};

const SECTOR: u64 = 512;
/// Descriptors of one extent are some hundred bytes; QEMU itself writes 20 sectors.
const MAX_DESCRIPTOR: u64 = 64 << 10;
const GD_AT_END: u64 = u64::MAX;

pub(super) fn inspect<R: ReadAt + ?Sized>(image: &R, limits: &Limits) -> Result<Inspected> {
    let first = sparse_header(image, 0)?;
    // With its grain directory "at the end", a stream's true header is its footer, 1,024 bytes before the end.
    let header = if first.grain_directory == GD_AT_END {
        let at = image.size().checked_sub(1024).ok_or_else(super::truncated)?;
        sparse_header(image, at).map_err(|_| super::truncated())?
    } else {
        sparse_header(image, 0)?
    };
    let size = header.capacity.checked_mul(SECTOR).ok_or_else(|| Error::invalid("its capacity is absurd"))?;
    require_virtual_size(size, limits)?;
    if header.grain_directory == GD_AT_END || header.grain_directory.saturating_mul(SECTOR) >= image.size() {
        return Err(super::truncated());
    }
    for sparse in [&first, &header] {
        descriptor(image, sparse)?;
    }
    Ok(Inspected { format: Format::Vmdk, kind: Kind::Disk, virtual_size: size, clean: false })
}

struct Sparse {
    capacity: u64,
    descriptor_sector: u64,
    descriptor_sectors: u64,
    grain_directory: u64,
}

fn sparse_header<R: ReadAt + ?Sized>(image: &R, at: u64) -> Result<Sparse> {
    let buf = take(image, at, 79)?;
    if &buf[..4] != b"KDMV" {
        return Err(Error::invalid("its header is damaged"));
    }
    let version = le32(&buf, 4);
    let (grain, entries) = (le64(&buf, 20), le32(&buf, 44));
    if !(1..=3).contains(&version) {
        return Err(Error::invalid(format!("its version is {version}; 1 to 3 are known")));
    }
    if !grain.is_power_of_two() || !(8..=128 << 10).contains(&grain) || entries == 0 || entries > 512 {
        return Err(Error::invalid(format!("its tables are absurd: grains of {grain} sectors, {entries} in a table")));
    }
    if le16(&buf, 77) > 1 {
        return Err(Error::invalid("its compression is unknown"));
    }
    let capacity = le64(&buf, 12);
    if capacity == 0 {
        return Err(Error::invalid("it has no capacity of its own and so names other files"));
    }
    Ok(Sparse {
        capacity,
        descriptor_sector: le64(&buf, 28),
        descriptor_sectors: le64(&buf, 36),
        grain_directory: le64(&buf, 56),
    })
}

fn descriptor<R: ReadAt + ?Sized>(image: &R, header: &Sparse) -> Result<()> {
    if header.descriptor_sector == 0 {
        return Ok(());
    }
    let len = header.descriptor_sectors.saturating_mul(SECTOR);
    if len > MAX_DESCRIPTOR {
        return Err(Error::invalid(format!("its descriptor claims {len} bytes; {MAX_DESCRIPTOR} is the most")));
    }
    let text = take(image, header.descriptor_sector.saturating_mul(SECTOR), len as usize)?;
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    require_self_contained(&String::from_utf8_lossy(&text[..end]))
}

/// One extent, sparse, and no parent.
pub(super) fn require_self_contained(descriptor: &str) -> Result<()> {
    let mut extents = 0;
    for line in descriptor.lines().map(str::trim) {
        let lower = line.to_ascii_lowercase();
        if let Some(parent) = lower.strip_prefix("parentcid=") {
            if parent.trim() != "ffffffff" {
                return Err(Error::invalid("it is a snapshot of a parent disk; export the whole disk instead"));
            }
        } else if lower.starts_with("parentfilenamehint") {
            return Err(Error::invalid("it names a parent file; export the whole disk instead"));
        } else if let Some(kind) = lower.strip_prefix("createtype=") {
            let kind = kind.trim().trim_matches('"');
            if !matches!(kind, "monolithicsparse" | "streamoptimized") {
                return Err(Error::invalid(format!(
                    "its type is {kind}, whose data is in other files; export it as streamOptimized"
                )));
            }
        } else if ["rw ", "rdonly ", "noaccess "].iter().any(|access| lower.starts_with(access)) {
            extents += 1;
            if lower.split_whitespace().nth(2) != Some("sparse") {
                return Err(Error::invalid("it has an extent in another file; export it as streamOptimized"));
            }
        }
    }
    if extents > 1 {
        return Err(Error::invalid(format!("it is split into {extents} files; export it as streamOptimized")));
    }
    Ok(())
}
