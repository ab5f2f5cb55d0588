//! The disk: partition table, boot loaders and root file system in one sparse file. No loop device, no mount.
//!
//! ```text
//! sector 0        2,048        4,096         36,864                          end
//!   MBR  GPT     | BIOS boot  | ESP         | root (ext4)              | GPT |
//!   boot.img     | core.img   | BOOTX64.EFI | /vmlinuz, /boot/grub/…   | copy|
//! ```
//!
//! Root is partition 1 and lies last, so it can grow with the disk; the others have Debian's numbers 14 and 15.
//! Without a kernel there is neither boot loader, and the root file system is the whole disk.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use hull_types::error::{Error, Result};

use super::{
    Recipe,
    ext4::{self, Place, Times},
    gpt::{self, Partition, SECTOR},
    grub,
    run::tool,
};
use crate::files::io_error;

const MIB: u64 = (1 << 20) / SECTOR;
const BIOS_BOOT: u64 = MIB;
const ESP: u64 = 2 * MIB;
const ROOT: u64 = 18 * MIB;
/// The copy of the table at the end, rounded up to keep everything aligned.
const TAIL: u64 = MIB;

/// Writes the raw disk to `work/disk.raw`.
pub(super) async fn write(recipe: &Recipe, tree: &Path, work: &Path, times: Times) -> Result<PathBuf> {
    let image = work.join("disk.raw");
    let sectors = recipe.size.0.0 / (1 << 20) * MIB;
    let fail = |e: std::io::Error| io_error("write", &image, &e);
    let file = File::create_new(&image).map_err(fail)?;
    file.set_len(sectors * SECTOR).map_err(fail)?;
    let root_id = recipe.uuid("root");
    if recipe.kernel == super::Kernel::None {
        let whole = Place { offset: 0, size: sectors * SECTOR };
        ext4::write(&image, whole, tree, root_id, times).await?;
        return Ok(image);
    }
    let root = Place { offset: ROOT * SECTOR, size: (sectors - ROOT - TAIL) * SECTOR };
    ext4::write(&image, root, tree, root_id, times).await?;
    let date = times.source_date;
    let esp = esp(recipe, work, date).await?;
    let (boot, core) = grub::bios(work, root_id, BIOS_BOOT, date).await?;
    if core.len() as u64 > (ESP - BIOS_BOOT) * SECTOR {
        return Err(Error::internal(format!("GRUB's core image of {} bytes does not fit its partition", core.len())));
    }
    for (at, bytes) in gpt::table(recipe.uuid("disk"), sectors, &partitions(recipe, sectors)) {
        file.write_all_at(&bytes, at).map_err(fail)?;
    }
    for (at, bytes) in [(0, boot), (BIOS_BOOT * SECTOR, core), (ESP * SECTOR, esp)] {
        file.write_all_at(&bytes, at).map_err(fail)?;
    }
    Ok(image)
}

fn partitions(recipe: &Recipe, sectors: u64) -> [Partition<'static>; 3] {
    let part = |number, kind, name: &'static str, first, end: u64| Partition {
        number,
        kind,
        id: recipe.uuid(&format!("partition-{number}")),
        first,
        sectors: end - first,
        name,
    };
    [
        part(1, gpt::LINUX_ROOT_X86_64, "root", ROOT, sectors - TAIL),
        part(14, gpt::BIOS_BOOT, "bios-boot", BIOS_BOOT, ESP),
        part(15, gpt::EFI_SYSTEM, "esp", ESP, ROOT),
    ]
}

/// The EFI system partition, with nothing but GRUB in it.
async fn esp(recipe: &Recipe, work: &Path, date: i64) -> Result<Vec<u8>> {
    let loader = grub::uefi(work, recipe.uuid("root"), date).await?;
    crate::build::tree::date(&loader, date)?;
    let image = work.join("esp.fat");
    let fail = |e: std::io::Error| io_error("write", &image, &e);
    File::create(&image).and_then(|f| f.set_len((ROOT - ESP) * SECTOR)).map_err(fail)?;
    let serial = format!("{:08x}", recipe.uuid("esp").as_fields().0);
    let fat: [&std::ffi::OsStr; 8] =
        ["-F", "16", "-n", "ESP", "--invariant", "-i", &serial, "-s"].map(std::ffi::OsStr::new);
    tool("mkfs.vfat", date, fat.into_iter().chain(["4".as_ref(), image.as_os_str()])).await?;
    for dir in ["::/EFI", "::/EFI/BOOT"] {
        tool("mmd", date, ["-i".as_ref(), image.as_os_str(), dir.as_ref()]).await?;
    }
    let target = "::/EFI/BOOT/BOOTX64.EFI";
    tool("mcopy", date, ["-m".as_ref(), "-i".as_ref(), image.as_os_str(), loader.as_os_str(), target.as_ref()]).await?;
    std::fs::read(&image).map_err(|e| io_error("read", &image, &e))
}
