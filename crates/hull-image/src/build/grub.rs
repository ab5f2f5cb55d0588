//! GRUB for BIOS and UEFI, made by `grub-mkimage` and put in place by hand, so that nothing is mounted.
//!
//! Both are told the root file system's UUID and read `/boot/grub/grub.cfg` there. On BIOS three pieces find each other
//! by sector numbers: `boot.img` in the MBR loads the first sector of `core.img`, which loads the rest of it
//! (offsets after GRUB's `include/grub/i386/pc/boot.h` and `kernel.h`).

use std::path::{Path, PathBuf};

use hull_types::error::{Error, Result};
use uuid::Uuid;

use super::{gpt::SECTOR, run::tool};
use crate::files::io_error;

/// In `boot.img`: the 64-bit sector of `core.img`.
const KERNEL_SECTOR: usize = 0x5c;
/// In `boot.img`: a jump that is replaced by two NOPs on hard disks, so that the BIOS' drive number is believed.
const DRIVE_CHECK: usize = 0x66;
/// In `core.img`'s first sector: where the rest begins, a 64-bit sector at the end of the sector.
const REST: usize = SECTOR as usize - 12;
/// What the MBR may hold before its partition table.
const BOOT_CODE: usize = 440;

const COMMON: &[&str] =
    &["normal", "configfile", "search_fs_uuid", "part_gpt", "ext2", "linux", "echo", "test", "serial", "terminal"];

pub(super) fn platform_dir(platform: &str) -> PathBuf {
    Path::new("/usr/lib/grub").join(platform)
}

/// BIOS GRUB: boot code for the MBR, and the image for the bios-boot partition beginning at `sector`.
pub(super) async fn bios(dir: &Path, root: Uuid, sector: u64, date: i64) -> Result<(Vec<u8>, Vec<u8>)> {
    let core = dir.join("core.img");
    mkimage(dir, "i386-pc", &["biosdisk"], root, &core, date).await?;
    let template = platform_dir("i386-pc").join("boot.img");
    let read = |path: &Path| std::fs::read(path).map_err(|e| io_error("read", path, &e));
    let (mut boot, mut core) = (read(&template)?, read(&core)?);
    if boot.len() < SECTOR as usize || core.len() < SECTOR as usize {
        return Err(Error::internal("GRUB's images are shorter than a sector; reinstall grub-pc-bin"));
    }
    boot[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&sector.to_le_bytes());
    boot[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    boot.truncate(BOOT_CODE);
    core[REST..REST + 8].copy_from_slice(&(sector + 1).to_le_bytes());
    Ok((boot, core))
}

/// UEFI GRUB, to be started as `EFI/BOOT/BOOTX64.EFI`.
pub(super) async fn uefi(dir: &Path, root: Uuid, date: i64) -> Result<PathBuf> {
    let out = dir.join("BOOTX64.EFI");
    mkimage(dir, "x86_64-efi", &["efi_gop", "efi_uga"], root, &out, date).await?;
    Ok(out)
}

async fn mkimage(dir: &Path, platform: &str, modules: &[&str], root: Uuid, out: &Path, date: i64) -> Result<()> {
    let early = dir.join("early.cfg");
    let script = format!("search.fs_uuid {root} root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n");
    std::fs::write(&early, script).map_err(|e| io_error("write", &early, &e))?;
    let mut args: Vec<&std::ffi::OsStr> = vec!["-O".as_ref(), platform.as_ref(), "-o".as_ref(), out.as_os_str()];
    args.extend(["-p", "/boot/grub", "-c"].map(std::ffi::OsStr::new));
    args.push(early.as_os_str());
    args.extend(modules.iter().chain(COMMON).map(std::ffi::OsStr::new));
    tool("grub-mkimage", date, args).await
}

/// The menu, which has one entry and does not wait.
pub(super) fn config(cmdline: &str) -> String {
    format!(
        "# The kernel is whatever /vmlinuz points to; edit the line below to change its options.\n\
         set timeout=0\n\
         menuentry 'Linux' {{\n\
         \tlinux /vmlinuz {cmdline}\n\
         \tinitrd /initrd.img\n\
         }}\n"
    )
}
