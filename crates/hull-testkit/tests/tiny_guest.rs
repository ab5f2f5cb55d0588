//! The tiny guest itself boots on both machine profiles and does what the other tests lean on.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use hull_testkit::TinyGuest;
use hull_testkit::guest::READY;
use hull_testkit::qemu::{BOOT_DEADLINE, Qemu};

fn boot(machine: &[&str], guest: &TinyGuest, cmdline: &str) -> Qemu {
    let (kernel, initrd) = (path(&guest.kernel), path(&guest.initrd));
    let mut args = machine.to_vec();
    args.extend(["-m", "256", "-kernel", kernel, "-initrd", initrd, "-append", cmdline, "-no-reboot"]);
    Qemu::start(args).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

const PC: &[&str] = &["-M", "q35", "-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"];
const MICRO: &[&str] =
    &["-M", "microvm,acpi=on,rtc=on,isa-serial=on", "-netdev", "user,id=n0", "-device", "virtio-net-device,netdev=n0"];

#[test]
fn on_q35_it_takes_an_address_and_gives_a_shell_on_the_serial_line() {
    let guest = TinyGuest::get().unwrap();
    let mut qemu = boot(PC, &guest, &TinyGuest::pc_cmdline());
    let console = qemu.wait_for(&format!("{READY} ip=10.0.2.15 cpus=1"), BOOT_DEADLINE).unwrap();
    assert!(console.contains("HULL-GUEST-DHCP eth0 ip=10.0.2.15"), "{console}");
    qemu.type_line("modprobe dummy && lsmod | grep -q dummy && echo module-$((40 + 2))").unwrap();
    qemu.wait_for("module-42", BOOT_DEADLINE).unwrap();
}

#[test]
fn on_microvm_it_takes_an_address_too_and_powers_off() {
    let guest = TinyGuest::get().unwrap();
    let cmdline = format!("{} hull.mode=poweroff", TinyGuest::micro_cmdline());
    let mut qemu = boot(MICRO, &guest, &cmdline);
    qemu.wait_for(&format!("{READY} ip=10.0.2.15"), BOOT_DEADLINE).unwrap();
    assert!(qemu.wait_for_exit(BOOT_DEADLINE).unwrap().success());
}

#[test]
fn it_ends_qemu_with_the_code_it_was_told() {
    let guest = TinyGuest::get().unwrap();
    let machine = ["-M", "q35", "-device", "isa-debug-exit,iobase=0x501,iosize=2"];
    let mut qemu = boot(&machine, &guest, &format!("{} hull.exit=3", TinyGuest::pc_cmdline()));
    assert_eq!(qemu.wait_for_exit(BOOT_DEADLINE).unwrap().code(), Some(2 * 3 + 1));
}

#[test]
fn a_panic_is_told_to_qemu() {
    let guest = TinyGuest::get().unwrap();
    let machine = ["-M", "q35", "-device", "pvpanic-pci", "-action", "panic=exit-failure"];
    let mut qemu = boot(&machine, &guest, "console=ttyS0 panic=0 hull.mode=panic");
    assert!(!qemu.wait_for_exit(Duration::from_secs(120)).unwrap().success());
}
