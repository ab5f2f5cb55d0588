//! Kernels that are not Linux boot directly, by both protocols, on both machine profiles.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use hull_testkit::Unikernel;
use hull_testkit::qemu::{BOOT_DEADLINE, Qemu};
use hull_testkit::unikernel::{EXIT_CODE, GREETING};

const DEBUG_EXIT: &str = "isa-debug-exit,iobase=0x501,iosize=2";

fn says_its_line(machine: &str, kernel: &Path) {
    let args = ["-M", machine, "-m", "64", "-device", DEBUG_EXIT, "-kernel", kernel.to_str().unwrap()];
    let mut qemu = Qemu::start(args).unwrap();
    qemu.wait_for(GREETING, BOOT_DEADLINE).unwrap();
    assert_eq!(qemu.wait_for_exit(BOOT_DEADLINE).unwrap().code(), Some(EXIT_CODE), "{machine}");
}

#[test]
fn our_unikernel_boots_by_multiboot_and_by_pvh_on_every_machine() {
    let unikernel = Unikernel::get().unwrap();
    for machine in ["q35", "microvm,acpi=on", "microvm,acpi=off"] {
        says_its_line(machine, &unikernel.multiboot);
        says_its_line(machine, &unikernel.pvh);
    }
}

#[test]
fn memtest_boots_as_a_linux_kernel_would_on_q35() {
    let args = ["-M", "q35", "-m", "128", "-kernel", "/boot/memtest86+x64.bin", "-append", "console=ttyS0,115200"];
    Qemu::start(args).unwrap().wait_for("Memtest86+", BOOT_DEADLINE).unwrap();
}
