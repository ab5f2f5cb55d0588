//! Kernels that are not Linux, loaded directly.

use std::collections::BTreeSet;

use hull_node::hypervisor::{Hypervisor, KernelSpec, VmmSpec};
use hull_testkit::{
    eventually,
    unikernel::{GREETING, Unikernel},
};
use hull_types::{error::ErrorKind, vm::Profile};

use crate::bench::{Bench, DEADLINE, wait_console};

fn with_kernel(bench: &Bench, profile: Profile, kernel: &std::path::Path) -> VmmSpec {
    let kernel = KernelSpec { kernel: kernel.to_owned(), initrd: None, cmdline: "console=ttyS0,115200".into() };
    VmmSpec { kernel: Some(kernel), profile, ..bench.empty() }
}

#[tokio::test]
async fn a_unikernel_boots_by_pvh_and_by_multiboot_on_both_profiles() {
    let unikernel = Unikernel::get().unwrap();
    for kernel in [&unikernel.pvh, &unikernel.multiboot] {
        for profile in [Profile::Micro, Profile::Pc] {
            let bench = Bench::new();
            let vmm = bench.start(with_kernel(&bench, profile, kernel)).await;
            wait_console(&*vmm, GREETING).await;
            vmm.quit().await.unwrap();
        }
    }
}

#[tokio::test]
async fn memtest_boots_as_a_linux_on_a_pc() {
    let bench = Bench::new();
    let vmm = bench.start(with_kernel(&bench, Profile::Pc, std::path::Path::new("/boot/memtest86+x64.bin"))).await;
    wait_console(&*vmm, "Memtest86").await;
    vmm.quit().await.unwrap();
}

#[tokio::test]
async fn invaders_boot_by_multiboot_and_are_seen_on_a_pcs_screen() {
    let bench = Bench::new();
    let vmm = bench.start(with_kernel(&bench, Profile::Pc, std::path::Path::new("/boot/invaders.exec"))).await;
    // The game speaks to the screen only: cyan invaders, a magenta ship. The firmware before it writes in grey.
    let (cyan, magenta) = ([0, 168, 168], [168, 0, 168]);
    let seen = || async {
        let colours = colours(&vmm.screenshot().await.unwrap());
        if colours.contains(&cyan) && colours.contains(&magenta) { Ok(()) } else { Err(colours) }
    };
    eventually("invaders and a ship", DEADLINE, seen).await.unwrap();
    vmm.quit().await.unwrap();
}

/// All colours of a picture (8 bits each of red, green and blue).
fn colours(picture: &[u8]) -> BTreeSet<[u8; 3]> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(picture)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((frame.color_type, frame.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    pixels[..frame.buffer_size()].as_chunks::<3>().0.iter().copied().collect()
}

#[tokio::test]
async fn a_micro_without_a_kernel_is_refused() {
    let bench = Bench::new();
    let spec = VmmSpec { profile: Profile::Micro, ..bench.empty() };
    let error = bench.hypervisor.start(spec).await.map(drop).unwrap_err();
    assert_eq!((error.kind, error.field.as_deref()), (ErrorKind::Invalid, Some("/boot/kernel")));
    assert!(bench.uid().is_none());
}
