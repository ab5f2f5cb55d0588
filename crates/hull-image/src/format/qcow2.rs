//! qcow2, after `docs/interop/qcow2.txt` of QEMU.
//!
//! What is refused is what could reach another file (backing file, external data file), what nobody here can read
//! (encryption, unknown incompatible features, images marked corrupt) and tables that do not fit the file.
//! What is merely untidy (internal snapshots, bitmaps, a dirty mark) is rewritten by qemu-img instead of stored.

use hull_types::error::{Error, Result};

use super::{Format, Inspected, Kind, be32, be64, require_virtual_size, take, truncated};
use crate::{files::ReadAt, limits::Limits};

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// QEMU's own limits (`QCOW_MAX_L1_SIZE`, `QCOW_MAX_REFTABLE_SIZE`), in bytes.
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFTABLE_BYTES: u64 = 8 << 20;
/// Bits of an L1 or standard L2 entry that are an offset in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;

struct Header {
    cluster_bits: u32,
    size: u64,
    l1_entries: u32,
    l1_offset: u64,
    reftable_offset: u64,
    reftable_clusters: u32,
    snapshots: u32,
    incompatible: u64,
    autoclear: u64,
    length: u32,
}

impl Header {
    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn l2_entry_bytes(&self) -> u64 {
        if self.incompatible & EXTENDED_L2 == 0 { 8 } else { 16 }
    }
}

pub(super) fn inspect<R: ReadAt + ?Sized>(image: &R, limits: &Limits) -> Result<Inspected> {
    let header = header(image)?;
    require_virtual_size(header.size, limits)?;
    extensions(image, &header)?;
    tables(image, &header)?;
    let clean = header.snapshots == 0 && header.incompatible & DIRTY == 0 && header.autoclear == 0;
    Ok(Inspected { format: Format::Qcow2, kind: Kind::Disk, virtual_size: header.size, clean })
}

fn header<R: ReadAt + ?Sized>(image: &R) -> Result<Header> {
    let buf = take(image, 0, 72)?;
    let version = be32(&buf, 4);
    if !matches!(version, 2 | 3) {
        return Err(Error::invalid(format!("its version is {version}; 2 and 3 are known")));
    }
    if be64(&buf, 8) != 0 {
        return Err(Error::invalid("it has a backing file; flatten it first with `qemu-img convert`"));
    }
    if be32(&buf, 32) != 0 {
        return Err(Error::invalid("it is encrypted; decrypt it first with `qemu-img convert`"));
    }
    let cluster_bits = be32(&buf, 20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(Error::invalid(format!("its clusters are 2^{cluster_bits} bytes; 2^9 to 2^21 are allowed")));
    }
    let mut header = Header {
        cluster_bits,
        size: be64(&buf, 24),
        l1_entries: be32(&buf, 36),
        l1_offset: be64(&buf, 40),
        reftable_offset: be64(&buf, 48),
        reftable_clusters: be32(&buf, 56),
        snapshots: be32(&buf, 60),
        incompatible: 0,
        autoclear: 0,
        length: 72,
    };
    if version == 3 {
        let more = take(image, 72, 32)?;
        header.incompatible = be64(&more, 0);
        header.autoclear = be64(&more, 16);
        header.length = be32(&more, 28);
        let refcount_order = be32(&more, 24);
        if refcount_order > 6 {
            return Err(Error::invalid(format!(
                "its reference counts are 2^{refcount_order} bits wide; 64 is the most"
            )));
        }
        if header.length < 104 || u64::from(header.length) > header.cluster() {
            return Err(Error::invalid(format!("its header claims {} bytes", header.length)));
        }
    }
    features(header.incompatible)?;
    Ok(header)
}

fn features(incompatible: u64) -> Result<()> {
    if incompatible & DATA_FILE != 0 {
        return Err(Error::invalid("it keeps its data in another file; merge it first with `qemu-img convert`"));
    }
    if incompatible & CORRUPT != 0 {
        return Err(Error::invalid("it is marked corrupt; repair it first with `qemu-img check -r all`"));
    }
    match incompatible & !(DIRTY | COMPRESSION_TYPE | EXTENDED_L2) {
        0 => Ok(()),
        unknown => Err(Error::invalid(format!("it needs features unknown here (bits {unknown:#x})"))),
    }
}

/// Header extensions: type, length, data padded to 8 bytes, all within the first cluster.
fn extensions<R: ReadAt + ?Sized>(image: &R, header: &Header) -> Result<()> {
    const BACKING_FORMAT: u32 = 0xe279_2aca;
    const EXTERNAL_DATA: u32 = 0x4441_5441;
    const ENCRYPTION: u32 = 0x0537_be77;
    let mut at = u64::from(header.length);
    while at + 8 <= header.cluster() {
        let Ok(entry) = take(image, at, 8) else { return Ok(()) };
        let (kind, len) = (be32(&entry, 0), u64::from(be32(&entry, 4)));
        match kind {
            0 => return Ok(()),
            BACKING_FORMAT => return Err(Error::invalid("it names a backing file's format; flatten it first")),
            EXTERNAL_DATA => return Err(Error::invalid("it names an external data file; merge it first")),
            ENCRYPTION => return Err(Error::invalid("it carries an encryption header; decrypt it first")),
            _ => at += 8 + len.next_multiple_of(8),
        }
    }
    Ok(())
}

fn tables<R: ReadAt + ?Sized>(image: &R, header: &Header) -> Result<()> {
    let file = image.size();
    let l1_bytes = u64::from(header.l1_entries) * 8;
    let reftable_bytes = u64::from(header.reftable_clusters) << header.cluster_bits;
    if l1_bytes > MAX_L1_BYTES || reftable_bytes > MAX_REFTABLE_BYTES || reftable_bytes == 0 {
        return Err(Error::invalid(format!(
            "its tables are absurd: L1 of {l1_bytes} bytes (at most {MAX_L1_BYTES}), \
             reference counts of {reftable_bytes} (at most {MAX_REFTABLE_BYTES})"
        )));
    }
    let covered = (header.cluster() / header.l2_entry_bytes()) << header.cluster_bits;
    if u64::from(header.l1_entries) < header.size.div_ceil(covered) {
        return Err(Error::invalid("its L1 table is too small for its disk"));
    }
    if !header.l1_offset.is_multiple_of(header.cluster()) || !header.reftable_offset.is_multiple_of(header.cluster()) {
        return Err(Error::invalid("its tables are not aligned to its clusters"));
    }
    let fits = |offset: u64, len: u64| offset != 0 && offset.checked_add(len).is_some_and(|end| end <= file);
    if (l1_bytes > 0 && !fits(header.l1_offset, l1_bytes)) || !fits(header.reftable_offset, reftable_bytes) {
        return Err(truncated());
    }
    clusters(image, header)
}

/// Walks L1 and L2 and checks that each cluster begins within the file: a download cut off is refused here rather
/// than read as zeros by a guest. Each L2 table may be used once, so the work is bounded by the file's own length.
fn clusters<R: ReadAt + ?Sized>(image: &R, header: &Header) -> Result<()> {
    let file = image.size();
    let (cluster, stride) = (header.cluster(), header.l2_entry_bytes() as usize);
    // A compressed cluster's entry has its offset in the low 62 - (cluster_bits - 8) bits.
    let compressed_mask = (1 << (62 - (header.cluster_bits - 8))) - 1;
    let l1 = take(image, header.l1_offset, header.l1_entries as usize * 8)?;
    let mut tables: Vec<u64> = l1.chunks_exact(8).map(|e| be64(e, 0) & OFFSET).filter(|at| *at != 0).collect();
    tables.sort_unstable();
    if tables.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::invalid("two parts of its disk share one table: it is corrupt"));
    }
    for table in tables {
        if !table.is_multiple_of(cluster) {
            return Err(Error::invalid("its tables are not aligned to its clusters"));
        }
        for entry in take(image, table, header.cluster() as usize)?.chunks_exact(stride) {
            let entry = be64(entry, 0);
            let mask = if entry & COMPRESSED == 0 { OFFSET } else { compressed_mask };
            if entry & mask >= file {
                return Err(truncated());
            }
        }
    }
    Ok(())
}
