//! Kernels that are not Linux, to show that direct boot asks for no particular one.
//!
//! [`Unikernel`] is our own: forty lines of assembly (`guest/unikernel.s`) that say [`GREETING`] on the first serial
//! line and halt; where the machine has `isa-debug-exit` at 0x501, QEMU ends with code [`EXIT_CODE`].
//!
//! ## What boots where (QEMU 7.2, TCG)
//!
//! | kernel | q35, pc | microvm `acpi=on` and `off` | microvm with `-bios qboot.rom` |
//! |---|---|---|---|
//! | ours, multiboot | yes | yes | yes |
//! | ours, PVH note | yes | yes | yes |
//! | `/boot/invaders.exec` (multiboot, draws in VGA text memory) | yes | yes, unseen: no display | not tried |
//! | `/boot/memtest86+x64.bin` (bzImage) | yes, on serial with `-append console=ttyS0,115200` | **no output** | no output |
//!
//! QEMU looks for a multiboot header first, then for the PVH note. The command lines that were seen working:
//!
//! ```text
//! qemu-system-x86_64 -nodefaults -display none -accel tcg -m 64 -serial stdio -M microvm -kernel pvh.elf
//! qemu-system-x86_64 -nodefaults -display none -accel tcg -m 64 -serial stdio -M microvm -kernel multiboot.elf
//! qemu-system-x86_64 -nodefaults -display none -accel tcg -m 64 -monitor stdio -M microvm -kernel /boot/invaders.exec
//! qemu-system-x86_64 -nodefaults -display none -accel tcg -m 128 -serial stdio -M q35 \
//!     -kernel /boot/memtest86+x64.bin -append console=ttyS0,115200      # prints "Memtest86+ v6.10"
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guest::cache_dir;
use crate::guest::packages::run;

/// What our unikernel says.
pub const GREETING: &str = "HULL UNIKERNEL OK";

/// How QEMU ends when the machine has `isa-debug-exit,iobase=0x501,iosize=2`.
pub const EXIT_CODE: i32 = 2 * 16 + 1;

/// Our unikernel in its two forms, both 32-bit ELF.
#[derive(Clone, Debug)]
pub struct Unikernel {
    /// Entered by the multiboot protocol.
    pub multiboot: PathBuf,
    /// Entered by the PVH protocol.
    pub pvh: PathBuf,
}

impl Unikernel {
    /// Assembles both forms (a few milliseconds; needs binutils) into the test kit's cache.
    ///
    /// # Errors
    /// When `as` or `ld` is missing.
    pub fn get() -> anyhow::Result<Self> {
        let cache = cache_dir()?;
        Ok(Self { multiboot: assemble("MULTIBOOT", &cache)?, pvh: assemble("PVH", &cache)? })
    }
}

fn assemble(protocol: &str, cache: &Path) -> anyhow::Result<PathBuf> {
    let work = tempfile::tempdir_in(cache)?;
    let [source, script, object, linked] =
        ["unikernel.s", "unikernel.ld", "unikernel.o", "unikernel"].map(|name| work.path().join(name));
    std::fs::write(&source, include_str!("../guest/unikernel.s"))?;
    std::fs::write(&script, include_str!("../guest/unikernel.ld"))?;
    run(Command::new("as").args(["--32", "--defsym", &format!("{protocol}=1"), "-o"]).arg(&object).arg(&source))?;
    run(Command::new("ld").args(["-m", "elf_i386", "-T"]).arg(&script).arg("-o").arg(&linked).arg(&object))?;
    let kernel = cache.join(format!("unikernel-{}", protocol.to_lowercase()));
    std::fs::rename(&linked, &kernel)?; // whole or not at all, for tests that run beside this one
    Ok(kernel)
}
