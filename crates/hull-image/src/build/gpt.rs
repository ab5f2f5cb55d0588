//! The GUID partition table, after the UEFI specification 2.10, chapter 5. Pure bytes.

use uuid::{Uuid, uuid};

pub(super) const SECTOR: u64 = 512;
/// 128 entries of 128 bytes.
const ENTRIES: usize = 128;
const ENTRY: usize = 128;
const TABLE_SECTORS: u64 = (ENTRIES * ENTRY) as u64 / SECTOR;

pub(super) const BIOS_BOOT: Uuid = uuid!("21686148-6449-6e6f-744e-656564454649");
pub(super) const EFI_SYSTEM: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
pub(super) const LINUX_ROOT_X86_64: Uuid = uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709");

/// A partition, in sectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partition<'a> {
    /// From 1; the kernel's number.
    pub(super) number: usize,
    pub(super) kind: Uuid,
    pub(super) id: Uuid,
    pub(super) first: u64,
    pub(super) sectors: u64,
    pub(super) name: &'a str,
}

/// A table for a disk of `sectors`: what to write where, in bytes.
pub(super) fn table(disk: Uuid, sectors: u64, partitions: &[Partition<'_>]) -> [(u64, Vec<u8>); 3] {
    let mut entries = vec![0; ENTRIES * ENTRY];
    for partition in partitions {
        entry(&mut entries[(partition.number - 1) * ENTRY..][..ENTRY], partition);
    }
    let (first, last) = (1, sectors - 1);
    let mut front = protective_mbr(sectors);
    front.extend(header(disk, sectors, first, last, 2, &entries));
    front.extend(&entries);
    let back_table = last - TABLE_SECTORS;
    let back = header(disk, sectors, last, first, back_table, &entries);
    [(0, front), (back_table * SECTOR, entries), (last * SECTOR, back)]
}

/// One MBR entry of type `ee` over the whole disk. Marked bootable, because some BIOSes want one that is.
fn protective_mbr(sectors: u64) -> Vec<u8> {
    let mut mbr = vec![0; SECTOR as usize];
    let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    mbr[446..454].copy_from_slice(&[0x80, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    mbr[454..458].copy_from_slice(&1u32.to_le_bytes());
    mbr[458..462].copy_from_slice(&size.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

fn entry(out: &mut [u8], partition: &Partition<'_>) {
    out[..16].copy_from_slice(&partition.kind.to_bytes_le());
    out[16..32].copy_from_slice(&partition.id.to_bytes_le());
    out[32..40].copy_from_slice(&partition.first.to_le_bytes());
    out[40..48].copy_from_slice(&(partition.first + partition.sectors - 1).to_le_bytes());
    for (place, unit) in out[56..].chunks_exact_mut(2).zip(partition.name.encode_utf16()) {
        place.copy_from_slice(&unit.to_le_bytes());
    }
}

fn header(disk: Uuid, sectors: u64, at: u64, other: u64, table: u64, entries: &[u8]) -> Vec<u8> {
    let mut out = b"EFI PART\0\0\x01\0".to_vec();
    out.extend(92u32.to_le_bytes());
    out.extend([0; 8]); // checksum, filled in below, and reserved
    for lba in [at, other, 2 + TABLE_SECTORS, sectors - 2 - TABLE_SECTORS] {
        out.extend(lba.to_le_bytes());
    }
    out.extend(disk.to_bytes_le());
    out.extend(table.to_le_bytes());
    for number in [ENTRIES as u32, ENTRY as u32, crc32(entries)] {
        out.extend(number.to_le_bytes());
    }
    let checksum = crc32(&out);
    out[16..20].copy_from_slice(&checksum.to_le_bytes());
    out.resize(SECTOR as usize, 0);
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
