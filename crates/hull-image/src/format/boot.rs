//! Kernels that QEMU starts without firmware or boot loader: Linux bzImage (`HdrS`), ELF with Xen's PVH note,
//! multiboot 1.

use hull_types::error::{Error, Result};

use super::{has, le16, le32, le64, take};
use crate::{files::ReadAt, limits::Limits};

const MULTIBOOT: u32 = 0x1bad_b002;
/// The flag by which a kernel that is no ELF says where it wants to be loaded.
const LOAD_ADDRESSES: u32 = 1 << 16;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PVH_ENTRY: u32 = 18;
const PT_NOTE: u32 = 4;
const MAX_NOTES: u64 = 64 << 10;
/// Kernels have a handful of program headers.
const MAX_SEGMENTS: u16 = 64;
/// No kernel is this large; guests' memory would be spent on it.
const MAX_KERNEL: u64 = 512 << 20;

pub(super) fn require_bootable<R: ReadAt + ?Sized>(image: &R, head: &[u8]) -> Result<()> {
    if image.size() > MAX_KERNEL.min(Limits::default().virtual_size.0) {
        return Err(Error::invalid("the kernel is larger than 512 MiB"));
    }
    let bootable = has(head, 0x202, b"HdrS") || multiboot_flags(head).is_some() || has_pvh_note(image, head)?;
    if bootable {
        return Ok(());
    }
    Err(Error::invalid(
        "the ELF file is no kernel that can be started directly: it has neither a PVH note nor a multiboot header",
    ))
}

/// A multiboot kernel that is no ELF must carry its own load addresses.
pub(super) fn is_flat_multiboot(head: &[u8]) -> bool {
    multiboot_flags(head).is_some_and(|flags| flags & LOAD_ADDRESSES != 0)
}

/// Multiboot's header lies, aligned to 4, in the first 8,192 bytes; magic, flags and checksum add up to zero.
fn multiboot_flags(head: &[u8]) -> Option<u32> {
    let area = &head[..head.len().min(8192)];
    let headers = area.windows(12).step_by(4);
    let mut sound =
        headers.filter(|h| le32(h, 0) == MULTIBOOT && MULTIBOOT.wrapping_add(le32(h, 4)).wrapping_add(le32(h, 8)) == 0);
    sound.next().map(|h| le32(h, 4))
}

fn has_pvh_note<R: ReadAt + ?Sized>(image: &R, head: &[u8]) -> Result<bool> {
    let wide = match head.get(4) {
        Some(1) => false,
        Some(2) => true,
        _ => return Ok(false),
    };
    let (table, stride, count) = if wide {
        (le64(head, 32), le16(head, 54), le16(head, 56))
    } else {
        (u64::from(le32(head, 28)), le16(head, 42), le16(head, 44))
    };
    let shortest = if wide { 56 } else { 32 };
    if usize::from(stride) < shortest || count > MAX_SEGMENTS {
        return Ok(false);
    }
    for entry in take(image, table, usize::from(stride) * usize::from(count))?.chunks_exact(usize::from(stride)) {
        let (offset, len) = if wide {
            (le64(entry, 8), le64(entry, 32))
        } else {
            (u64::from(le32(entry, 4)), u64::from(le32(entry, 16)))
        };
        if le32(entry, 0) == PT_NOTE && len <= MAX_NOTES && notes_have_pvh(&take(image, offset, len as usize)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Notes: name length, data length, type, then name and data, each padded to 4 bytes.
fn notes_have_pvh(mut notes: &[u8]) -> bool {
    while notes.len() >= 12 {
        let (name, data) = (le32(notes, 0) as usize, le32(notes, 4) as usize);
        if le32(notes, 8) == PVH_ENTRY && has(notes, 12, b"Xen\0") {
            return true;
        }
        let len = 12usize.saturating_add(name.next_multiple_of(4)).saturating_add(data.next_multiple_of(4));
        notes = notes.get(len..).unwrap_or(&[]);
    }
    false
}
