//! Assembling disks from a small tree, without packages.
#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use super::*;

const RECIPE: &str = "name: small\nsuite: none\nsize: 64MiB\nkernel: linux\n";
const SOURCE_DATE: i64 = 1_704_067_200;

fn tree(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("boot")).unwrap();
    for name in names {
        fs::write(tree.join(name), name.repeat(1000)).unwrap();
    }
    symlink("boot/vmlinuz-1", tree.join("vmlinuz")).unwrap();
    symlink("boot/initrd.img-1", tree.join("initrd.img")).unwrap();
    dir
}

async fn assembled(names: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let recipe = Recipe::parse(RECIPE).unwrap();
    let dir = tree(names);
    let tree = dir.path().join("tree");
    let times = ext4::Times { build_began: SOURCE_DATE, source_date: SOURCE_DATE };
    boot_files(&recipe, &tree).unwrap();
    let disk = disk::write(&recipe, &tree, dir.path(), times).await.unwrap();
    (dir, disk)
}

fn said(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).env("PATH", run::PATH).output().unwrap();
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {text}");
    text
}

/// The root file system by itself, for tools that take no offset.
fn root_of(disk: &Path) -> PathBuf {
    let root = disk.with_file_name("root.ext4");
    fs::write(&root, &fs::read(disk).unwrap()[18 << 20..63 << 20]).unwrap();
    root
}

#[tokio::test]
async fn the_same_tree_gives_the_same_disk_whenever_and_in_whatever_order_it_was_made() {
    let names = ["boot/vmlinuz-1", "boot/initrd.img-1", "a", "b", "c"];
    let reversed: Vec<&str> = names.into_iter().rev().collect();
    let (_one, first) = assembled(&names).await;
    let (_two, second) = assembled(&reversed).await;
    let (first, second) = (fs::read(first).unwrap(), fs::read(second).unwrap());
    let differ = first.iter().zip(&second).position(|(a, b)| a != b);
    assert_eq!((first.len(), differ), (second.len(), None));
}

#[tokio::test]
async fn the_file_system_is_sound_and_dated_and_holds_the_menu() {
    let (_dir, disk) = assembled(&["boot/vmlinuz-1", "boot/initrd.img-1", "a"]).await;
    let root = root_of(&disk);
    let root = root.to_str().unwrap();
    said("e2fsck", &["-f", "-n", root]);
    let stat = said("debugfs", &["-R", "stat /a", root]);
    for time in ["ctime", "atime", "mtime", "crtime"] {
        let line = stat.lines().find(|l| l.trim_start().starts_with(time)).unwrap();
        assert!(line.contains(&format!("0x{SOURCE_DATE:x}:00000000")), "{line}");
    }
    let menu = said("debugfs", &["-R", "cat /boot/grub/grub.cfg", root]);
    let id = Recipe::parse(RECIPE).unwrap().uuid("root");
    assert!(menu.contains(&format!("linux /vmlinuz root=UUID={id} ro")), "{menu}");
}

#[tokio::test]
async fn the_partition_table_satisfies_others_and_has_root_last() {
    let (_dir, disk) = assembled(&["boot/vmlinuz-1", "boot/initrd.img-1"]).await;
    let disk = disk.to_str().unwrap();
    assert!(said("sfdisk", &["--verify", disk]).contains("No errors detected"));
    let dump = said("sfdisk", &["--dump", disk]);
    let root = dump.lines().find(|l| l.contains("name=\"root\"")).unwrap();
    assert!(root.contains("disk.raw1 ") && root.contains("start=       36864, size=       92160"), "{root}");
    let loader = said("mdir", &["-b", "-i", &format!("{disk}@@2M"), "::/EFI/BOOT"]);
    assert!(loader.contains("BOOTX64.EFI"), "{loader}");
}

#[test]
fn missing_tools_are_named_by_their_packages() {
    assert_eq!(run::require_tools(), Ok(()), "the tests' own machine has them all");
}
