//! The root file system: written by `mke2fs -d` straight into the disk's file, then made reproducible.
//!
//! `mke2fs` takes contents, owners and modes from the tree, but also each file's change time, which no program can set.
//! So the inodes are visited afterwards: what was touched while building gets the recipe's date, everything else keeps
//! its package's, and change, access and creation times follow the modification time. Layout after the kernel's
//! `Documentation/filesystems/ext4`.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use hull_types::error::Result;
use uuid::Uuid;

use super::run::tool;
use crate::files::io_error;

/// Where in a file a file system lies, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Which times are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Files modified since then were made by the build.
    pub(super) build_began: i64,
    /// What those get instead.
    pub(super) source_date: i64,
}

/// Writes `tree` as an ext4 file system.
pub(super) async fn write(image: &Path, place: Place, tree: &Path, id: Uuid, times: Times) -> Result<()> {
    let extended = format!("offset={},hash_seed={id},assume_storage_prezeroed=1", place.offset);
    let (id, blocks) = (id.to_string(), (place.size / 4096).to_string());
    let mut args: Vec<&std::ffi::OsStr> =
        ["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "1", "-L", "root", "-U"]
            .map(std::ffi::OsStr::new)
            .to_vec();
    // What GRUB 2.06 cannot read is left out.
    for word in [&id, "-O", "^metadata_csum_seed,^orphan_file", "-E", &extended, "-d"] {
        args.push(word.as_ref());
    }
    args.extend([tree.as_os_str(), image.as_os_str(), blocks.as_ref()]);
    tool("mke2fs", times.source_date, args).await?;
    let path = image.to_owned();
    crate::store::blocking(move || {
        let file = File::options().read(true).write(true).open(&path).map_err(|e| io_error("open", &path, &e))?;
        settle_times(&file, place, times).map_err(|e| io_error("settle the times in", &path, &e))
    })
    .await
}

struct Geometry {
    inodes: u32,
    inodes_per_group: u32,
    inode_size: u32,
    block: u64,
    descriptor: u64,
    seed: u32,
}

fn settle_times(file: &File, place: Place, times: Times) -> io::Result<()> {
    let geometry = geometry(file, place)?;
    let groups = geometry.inodes.div_ceil(geometry.inodes_per_group);
    for group in 0..groups {
        let mut descriptor = [0; 64];
        file.read_exact_at(&mut descriptor, place.offset + 4096 + u64::from(group) * geometry.descriptor)?;
        let table = u64::from(le32(&descriptor, 8)) | u64::from(le32(&descriptor, 0x28)) << 32;
        let unused = u32::from(le16(&descriptor, 0x1c)) | u32::from(le16(&descriptor, 0x32)) << 16;
        let used = geometry.inodes_per_group.saturating_sub(unused);
        let mut inodes = vec![0; used as usize * geometry.inode_size as usize];
        let at = place.offset + table * geometry.block;
        file.read_exact_at(&mut inodes, at)?;
        for (index, inode) in (0..used).zip(inodes.chunks_exact_mut(geometry.inode_size as usize)) {
            settle_inode(inode, group * geometry.inodes_per_group + index + 1, &geometry, times);
        }
        file.write_all_at(&inodes, at)?;
    }
    Ok(())
}

fn geometry(file: &File, place: Place) -> io::Result<Geometry> {
    let mut sb = [0; 1024];
    file.read_exact_at(&mut sb, place.offset + 1024)?;
    let geometry = Geometry {
        inodes: le32(&sb, 0),
        inodes_per_group: le32(&sb, 0x28),
        inode_size: u32::from(le16(&sb, 0x58)),
        block: 1024 << le32(&sb, 0x18),
        descriptor: u64::from(le16(&sb, 0xfe)),
        seed: crc32c(!0, &sb[0x68..0x78]),
    };
    let expected = le16(&sb, 0x38) == 0xef53 && geometry.block == 4096 && geometry.descriptor == 64;
    if expected && geometry.inode_size == 256 && geometry.inodes_per_group > 0 {
        Ok(geometry)
    } else {
        Err(io::Error::other("mke2fs made a file system of an unexpected kind"))
    }
}

/// Seconds of access, change, modification; nanoseconds of change, modification, access, creation; creation.
const ATIME: usize = 0x08;
const CTIME: usize = 0x0c;
const MTIME: usize = 0x10;
const CTIME_EXTRA: usize = 0x84;
const CRTIME: usize = 0x90;
const CHECKSUM_LOW: usize = 0x7c;
const CHECKSUM_HIGH: usize = 0x82;
const GENERATION: usize = 0x64;
/// How many bytes beyond the classic 128 an inode uses.
const EXTRA_LENGTH: usize = 0x80;

fn settle_inode(inode: &mut [u8], number: u32, geometry: &Geometry, times: Times) {
    if inode.iter().all(|b| *b == 0) {
        return;
    }
    let modified = i64::from(le32(inode, MTIME));
    let modified = if modified >= times.build_began { times.source_date } else { modified };
    let seconds = (modified as u32).to_le_bytes();
    for at in [ATIME, CTIME, MTIME] {
        inode[at..at + 4].copy_from_slice(&seconds);
    }
    // Reserved inodes are short; what lies beyond their length is not theirs to have times or checksums in.
    let extra = usize::from(le16(inode, EXTRA_LENGTH));
    if extra >= CRTIME + 8 - EXTRA_LENGTH {
        inode[CTIME_EXTRA..CRTIME].fill(0);
        inode[CRTIME..CRTIME + 4].copy_from_slice(&seconds);
        inode[CRTIME + 4..CRTIME + 8].fill(0);
    }
    let wide = extra >= CHECKSUM_HIGH + 2 - EXTRA_LENGTH;
    inode[CHECKSUM_LOW..CHECKSUM_LOW + 2].fill(0);
    if wide {
        inode[CHECKSUM_HIGH..CHECKSUM_HIGH + 2].fill(0);
    }
    let seed = crc32c(geometry.seed, &number.to_le_bytes());
    let seed = crc32c(seed, &inode[GENERATION..GENERATION + 4]);
    let [a, b, c, d] = crc32c(seed, inode).to_le_bytes();
    inode[CHECKSUM_LOW..CHECKSUM_LOW + 2].copy_from_slice(&[a, b]);
    if wide {
        inode[CHECKSUM_HIGH..CHECKSUM_HIGH + 2].copy_from_slice(&[c, d]);
    }
}

/// CRC-32C as ext4 uses it: not inverted at the end, so that calls chain.
fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    bytes.iter().fold(seed, |crc, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

fn le16(buf: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([buf[at], buf[at + 1]])
}

fn le32(buf: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([buf[at], buf[at + 1], buf[at + 2], buf[at + 3]])
}
