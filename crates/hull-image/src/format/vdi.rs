//! VirtualBox's VDI 1.1. Differencing images (which need a parent) are refused.

use hull_types::error::{Error, Result};

use super::{Format, Inspected, Kind, le32, le64, require_virtual_size, take, truncated};
use crate::{files::ReadAt, limits::Limits};

const DYNAMIC: u32 = 1;
const FIXED: u32 = 2;
/// QEMU takes no other block size.
const BLOCK: u32 = 1 << 20;

pub(super) fn inspect<R: ReadAt + ?Sized>(image: &R, limits: &Limits) -> Result<Inspected> {
    let header = take(image, 0, 512)?;
    let version = le32(&header, 0x44);
    if version != 0x0001_0001 {
        return Err(Error::invalid(format!("its version is {}.{}; 1.1 is known", version >> 16, version & 0xffff)));
    }
    if !matches!(le32(&header, 0x4c), DYNAMIC | FIXED) || header[0x1b8..0x1c8] != [0; 16] {
        return Err(Error::invalid("it is a difference to a parent disk; clone it to a whole disk first"));
    }
    let size = le64(&header, 0x170);
    require_virtual_size(size, limits)?;
    let (block, blocks, allocated) = (le32(&header, 0x178), le32(&header, 0x180), le32(&header, 0x184));
    if block != BLOCK || u64::from(blocks) < size.div_ceil(u64::from(BLOCK)) || allocated > blocks {
        return Err(Error::invalid(format!(
            "its tables do not fit its disk: {blocks} blocks of {block} bytes, {allocated} used"
        )));
    }
    let (map, data) = (u64::from(le32(&header, 0x154)), u64::from(le32(&header, 0x158)));
    let needed = (map + u64::from(blocks) * 4).max(data + u64::from(allocated) * u64::from(BLOCK));
    if needed > image.size() {
        return Err(truncated());
    }
    Ok(Inspected { format: Format::Vdi, kind: Kind::Disk, virtual_size: size, clean: false })
}
