//! Parsers against strangers' bytes: real images from qemu-img, changed at random.
#![allow(clippy::unwrap_used)]

use std::{io, process::Command, sync::OnceLock};

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

/// No parser may ask for more at once: the largest table allowed is a qcow2 L1 of 32 MiB.
const MOST: usize = 32 << 20;

struct Watched(Vec<u8>);

impl ReadAt for Watched {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        assert!(buf.len() <= MOST, "a parser asked for {} bytes at once", buf.len());
        self.0[..].read_exact_at(buf, offset)
    }
}

/// One small image of each kind.
fn originals() -> &'static [(Format, Vec<u8>)] {
    static IMAGES: OnceLock<Vec<(Format, Vec<u8>)>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let cases: [(Format, &[&str]); 6] = [
            (Format::Qcow2, &[]),
            (Format::Qcow2, &["-o", "extended_l2=on,cluster_size=16k"]),
            (Format::Vmdk, &[]),
            (Format::Vmdk, &["-o", "subformat=streamOptimized"]),
            (Format::Vdi, &[]),
            (Format::Vhdx, &["-o", "block_size=1M"]),
        ];
        let raw = dir.path().join("raw");
        std::fs::write(&raw, vec![5; 128 << 10]).unwrap();
        let make = |(format, options): (Format, &[&str])| {
            let path = dir.path().join("image");
            let mut command = Command::new("qemu-img");
            command.args(["convert", "-f", "raw", "-O", format.name()]).args(options).arg(&raw).arg(&path);
            assert!(command.status().unwrap().success());
            (format, std::fs::read(&path).unwrap())
        };
        cases.into_iter().map(make).collect()
    })
}

/// Offsets worth changing: those in sectors that hold anything.
fn interesting(image: &[u8]) -> Vec<usize> {
    let sectors = image.chunks(512).enumerate().filter(|(_, s)| s.iter().any(|b| !matches!(b, 0 | 5)));
    sectors.flat_map(|(n, s)| n * 512..n * 512 + s.len()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn changed_headers_neither_panic_nor_make_a_parser_greedy(
        which in any::<Index>(),
        changes in vec((any::<Index>(), prop_oneof![Just(0xff), Just(0x80), Just(0), any::<u8>()]), 1..12),
        keep in prop_oneof![3 => Just(None), 1 => any::<Index>().prop_map(Some)],
    ) {
        let (_, image) = which.get(originals());
        let places = interesting(image);
        let mut image = image.clone();
        for (place, byte) in changes {
            image[*place.get(&places)] = byte;
        }
        if let Some(keep) = keep {
            image.truncate(keep.index(image.len()));
        }
        let limits = Limits::default();
        if let Ok(found) = inspect(&Watched(image), (None, None), &limits) {
            prop_assert!(found.virtual_size > 0 && found.virtual_size <= limits.virtual_size.0);
        }
    }

    #[test]
    fn noise_behind_any_magic_is_refused_or_harmless(
        which in 0..8usize,
        noise in vec(any::<u8>(), 0..70_000),
    ) {
        let magics: [(usize, &[u8]); 8] = [
            (0, b"QFI\xfb\0\0\0\x03"), (0, b"KDMV\x01\0\0\0"), (0, b"vhdxfile"), (0x40, b"\x7f\x10\xda\xbe\x01\0\x01\0"),
            (257, b"ustar"), (0, b"\x7fELF\x02"), (0, b"\x28\xb5\x2f\xfd"), (0, b"\x1f\x8b\x08"),
        ];
        let (at, magic) = magics[which];
        let mut image = noise;
        image.resize(image.len().max(at + magic.len()), 0);
        image[at..at + magic.len()].copy_from_slice(magic);
        let _ = inspect(&Watched(image), (None, None), &Limits::default());
    }

    #[test]
    fn descriptions_and_descriptors_of_any_text_are_survived(text in "\\PC*") {
        let _ = ova::hrefs(&text);
        let _ = vmdk::require_self_contained(&text);
    }
}

#[test]
fn the_originals_are_what_they_are() {
    for (format, image) in originals() {
        let found = inspect(&image[..], (None, None), &Limits::default()).unwrap();
        assert_eq!((found.format, found.virtual_size), (*format, 128 << 10));
        assert_eq!(found.clean, *format == Format::Qcow2);
    }
}

fn patched(format: Format, at: usize, bytes: &[u8]) -> String {
    let (_, image) = originals().iter().find(|(f, _)| *f == format).unwrap();
    let mut image = image.clone();
    image[at..at + bytes.len()].copy_from_slice(bytes);
    inspect(&image[..], (None, None), &Limits::default()).expect_err("should be refused").detail
}

#[test]
fn each_dangerous_field_of_a_qcow2_is_refused_by_name() {
    for (at, bytes, reason) in [
        (4, &[0, 0, 0, 9][..], "its version is 9"),
        (8, &[0, 0, 0, 0, 0, 0, 1, 0], "backing file"),
        (20, &[0, 0, 0, 40], "clusters are 2^40"),
        (24, &[0x7f; 8], "more than the 16 TiB allowed"),
        (32, &[0, 0, 0, 2], "encrypted"),
        (36, &[0xff; 4], "tables are absurd"),
        (56, &[0xff; 4], "tables are absurd"),
        (40, &[0, 0, 0, 0, 0x7f, 0, 0, 0], "truncated"),
        (79, &[4], "in another file"),
        (79, &[2], "marked corrupt"),
        (72, &[0x80], "features unknown here"),
        (99, &[9], "reference counts"),
    ] {
        let refusal = patched(Format::Qcow2, at, bytes);
        assert!(refusal.contains(reason), "at {at}: {refusal}");
    }
}

#[test]
fn other_formats_that_need_a_parent_or_another_file_are_refused() {
    for (format, at, bytes, reason) in [
        (Format::Vdi, 0x4c, &[4][..], "difference to a parent"),
        (Format::Vdi, 0x1b8, &[1], "difference to a parent"),
        (Format::Vdi, 0x180, &[0xff; 4], "truncated"),
        (Format::Vmdk, 12, &[0; 8], "names other files"),
        (Format::Vmdk, 20, &[0xff; 8], "tables are absurd"),
        (Format::Vmdk, 36, &[0xff, 0xff], "its descriptor claims"),
    ] {
        let refusal = patched(format, at, bytes);
        assert!(refusal.contains(reason), "{format} at {at}: {refusal}");
    }
    let vhdx = &originals().last().unwrap().1;
    let parameters: &[u8] = &[0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d];
    let entry = vhdx.windows(8).position(|w| w == parameters).unwrap();
    let region = entry / 512 * 512;
    let flags = region + le32(vhdx, entry + 16) as usize + 4;
    assert!(patched(Format::Vhdx, flags, &[2]).contains("difference to a parent"));
}

#[test]
fn descriptors_may_name_only_themselves() {
    let sound = "createType=\"streamOptimized\"\nparentCID=ffffffff\nRW 8192 SPARSE \"x.vmdk\"\n";
    assert_eq!(vmdk::require_self_contained(sound), Ok(()));
    for (from, to) in [
        ("SPARSE", "FLAT"),
        ("streamOptimized", "twoGbMaxExtentSparse"),
        ("ffffffff", "12345678"),
        ("parentCID", "parentFileNameHint=\"/etc/shadow\"\nparentCID"),
        ("RW 8192", "RW 1 SPARSE \"/etc/shadow\"\nRW 8192"),
    ] {
        assert!(vmdk::require_self_contained(&sound.replace(from, to)).is_err(), "{to}");
    }
}
