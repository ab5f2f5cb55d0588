//! The tiny guest as a disk that boots by itself, through BIOS or UEFI: an MBR, GRUB's core in the gap behind it
//! and one FAT partition that holds kernel, initial file system and `EFI/BOOT/BOOTX64.EFI`.
//!
//! ```text
//!  sector 0            1 … 2047                 2048 …
//!  boot.img + table    core.img (biosdisk,fat)  FAT: vmlinuz initrd.cpio EFI/BOOT/BOOTX64.EFI
//! ```
//!
//! GRUB's own installer wants a mounted file system; the few bytes it would patch are written here instead
//! (offsets from GRUB 2.06, include/grub/i386/pc/boot.h).

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use super::TinyGuest;
use super::packages::run;

const SECTOR: u64 = 512;
const PARTITION_START: u64 = 2048;
const PARTITION_SECTORS: u64 = 61 * 2048;
/// Partition type 0xEF: UEFI firmware looks into it, and BIOS does not care.
const EFI_SYSTEM: u8 = 0xEF;

/// `GRUB_BOOT_MACHINE_BOOT_DRIVE` and the jump over the floppy probe that follows it.
const BOOT_DRIVE_CHECK: usize = 0x66;
/// `GRUB_BOOT_MACHINE_KERNEL_SECTOR` in boot.img.
const KERNEL_SECTOR: usize = 0x5C;
/// The only entry of the block list at the end of core.img's first sector: start, then length in sectors.
const BLOCK_LIST: usize = 512 - 12;

pub(super) fn build(guest: &TinyGuest, cmdline: &str, work: &Path, disk: &Path) -> anyhow::Result<()> {
    let config = work.join("grub.cfg");
    std::fs::write(
        &config,
        format!(
            "search.file /hull-tiny-guest root\nlinux ($root)/vmlinuz {cmdline}\ninitrd ($root)/initrd.cpio\nboot\n"
        ),
    )?;
    let [core, efi, fat] = ["core.img", "bootx64.efi", "fat.img"].map(|name| work.join(name));
    grub_mkimage("i386-pc", &["biosdisk", "part_msdos", "fat", "linux", "search_fs_file", "echo"], &config, &core)?;
    grub_mkimage("x86_64-efi", &["part_msdos", "fat", "linux", "search_fs_file", "echo"], &config, &efi)?;
    make_fat(guest, &efi, work, &fat)?;

    let image = OpenOptions::new().create(true).truncate(true).write(true).open(disk)?;
    image.set_len((PARTITION_START + PARTITION_SECTORS) * SECTOR)?;
    let core = patched_core(std::fs::read(&core)?)?;
    image.write_all_at(&boot_sector(&std::fs::read("/usr/lib/grub/i386-pc/boot.img")?)?, 0)?;
    image.write_all_at(&core, SECTOR)?;
    image.write_all_at(&std::fs::read(&fat)?, PARTITION_START * SECTOR)?;
    Ok(())
}

fn grub_mkimage(target: &str, modules: &[&str], config: &Path, into: &Path) -> anyhow::Result<()> {
    run(Command::new("grub-mkimage")
        .args(["-O", target, "-p", "/", "-c"])
        .arg(config)
        .arg("-o")
        .arg(into)
        .args(modules))
    .context("run scripts/deps.sh test")?;
    Ok(())
}

fn make_fat(guest: &TinyGuest, efi: &Path, work: &Path, fat: &Path) -> anyhow::Result<()> {
    let marker = work.join("hull-tiny-guest");
    std::fs::write(&marker, "")?;
    let kib = (PARTITION_SECTORS * SECTOR / 1024).to_string();
    run(Command::new("mkfs.vfat").args(["-F", "32", "-n", "TINY", "-C"]).arg(fat).arg(&kib))?;
    run(Command::new("mmd").arg("-i").arg(fat).args(["::EFI", "::EFI/BOOT"]))?;
    let files = [(&guest.kernel, "vmlinuz"), (&guest.initrd, "initrd.cpio"), (&marker, "hull-tiny-guest")];
    for (file, name) in files {
        run(Command::new("mcopy").arg("-i").arg(fat).arg(file).arg(format!("::{name}")))?;
    }
    run(Command::new("mcopy").arg("-i").arg(fat).arg(efi).arg("::EFI/BOOT/BOOTX64.EFI"))?;
    Ok(())
}

/// boot.img told to load core.img from sector 1, with the partition table behind it.
fn boot_sector(boot: &[u8]) -> anyhow::Result<Vec<u8>> {
    ensure!(boot.len() == SECTOR as usize, "GRUB's boot.img is not one sector");
    let mut sector = boot.to_vec();
    sector[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&1_u64.to_le_bytes());
    sector[BOOT_DRIVE_CHECK..BOOT_DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]); // hard disk: trust the BIOS's drive
    sector[440..].fill(0); // GRUB's floppy code lies where the partition table belongs
    let entry = &mut sector[446..462];
    entry[0] = 0x80; // active
    entry[4] = EFI_SYSTEM;
    entry[8..12].copy_from_slice(&(PARTITION_START as u32).to_le_bytes());
    entry[12..16].copy_from_slice(&(PARTITION_SECTORS as u32).to_le_bytes());
    sector[510..512].copy_from_slice(&[0x55, 0xAA]);
    Ok(sector)
}

/// core.img told where its own rest lies: from sector 2 on.
fn patched_core(mut core: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let sectors = (core.len() as u64).div_ceil(SECTOR);
    ensure!(sectors < PARTITION_START, "GRUB's core does not fit before the first partition");
    core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&2_u64.to_le_bytes());
    core[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&u16::try_from(sectors - 1)?.to_le_bytes());
    Ok(core)
}
