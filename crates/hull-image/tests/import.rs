//! Importing: what is taken, how it is kept, and what is refused with nothing left behind.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    io::Write,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use common::{Lab, lab, lab_with, qemu_img, raw_disk, run, utf8};
use hull_image::{Compression, Export, Format, ImageStore, ImportOptions, Kind, Limits, Progress, Source, Step};
use hull_types::{error::ErrorKind, units::Bytes};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;

fn declared(format: Format) -> ImportOptions {
    ImportOptions { format: Some(format), ..ImportOptions::default() }
}

fn sha256(bytes: &[u8]) -> hull_types::digest::Digest {
    hull_types::digest::Digest(Sha256::digest(bytes).into())
}

/// A disk of this format made by qemu-img from [`raw_disk`].
fn disk_as(lab: &Lab, format: &str, options: &[&str]) -> PathBuf {
    let raw = lab.write("source.raw", &raw_disk(4));
    let path = lab.path(&format!("disk.{format}"));
    let mut args = vec!["convert", "-f", "raw", "-O", format];
    args.extend(options);
    args.extend([utf8(&raw), utf8(&path)]);
    qemu_img(&args);
    path
}

async fn exported(store: &ImageStore, digest: &hull_types::digest::Digest, format: Format) -> Vec<u8> {
    let wanted = Export { format, compression: None };
    let mut bytes = Vec::new();
    store.export(digest, wanted, &Progress::silent()).await.unwrap().read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn a_raw_disk_is_kept_as_it_is_under_its_own_digest() {
    let lab = lab().await;
    let disk = raw_disk(4);
    let imported = lab.import(&lab.write("disk.raw", &disk)).await.unwrap();
    assert_eq!(imported.digest, sha256(&disk));
    assert_eq!(imported.source_digest, imported.digest);
    assert_eq!((imported.format, imported.kind), (Format::Raw, Kind::Disk));
    assert_eq!(imported.virtual_size, Bytes::mib(4));
    assert_eq!(fs::read(lab.store.path(&imported.digest)).unwrap(), disk);
    lab.store.verify(&imported.digest).await.unwrap();
}

#[tokio::test]
async fn holes_stay_holes() {
    let lab = lab().await;
    let path = lab.path("sparse.raw");
    let file = fs::File::create(&path).unwrap();
    file.set_len(256 << 20).unwrap();
    file.write_all_at(&[0x55, 0xaa], 510).unwrap();
    file.write_all_at(b"the middle", 100 << 20).unwrap();
    let imported = lab.import(&path).await.unwrap();
    let stored = fs::metadata(lab.store.path(&imported.digest)).unwrap();
    assert_eq!(stored.len(), 256 << 20);
    assert!(stored.blocks() * 512 < 1 << 20, "{} blocks", stored.blocks());
    lab.store.verify(&imported.digest).await.unwrap();

    let stream = Source::stream(tokio::fs::File::open(&path).await.unwrap());
    let streamed = lab.store.import(stream, &ImportOptions::default()).await.unwrap();
    assert_eq!(streamed.digest, imported.digest, "a stream of the same bytes is the same image");
}

#[tokio::test]
async fn a_disk_that_reaches_the_platter_piece_by_piece_arrives_whole() {
    let lab = lab().await;
    // More than is brought to the disk at once, with holes in it that no piece's border knows of.
    let mut disk = raw_disk(80);
    for (index, block) in disk.chunks_exact_mut(10_000).enumerate().filter(|(index, _)| index % 7 != 0) {
        block.fill(u8::try_from(index % 255).unwrap() + 1);
    }
    let path = lab.write("disk.raw", &disk);
    for source in [Source::File(path.clone()), Source::stream(tokio::fs::File::open(&path).await.unwrap())] {
        let imported = lab.store.import(source, &declared(Format::Raw)).await.unwrap();
        assert_eq!(imported.digest, sha256(&disk));
        lab.store.verify(&imported.digest).await.unwrap();
        lab.store.delete(&imported.digest).await.unwrap();
    }
}

#[tokio::test]
async fn kernels_of_debian_that_are_no_linux_are_kernels() {
    let lab = lab().await;
    for kernel in ["/boot/memtest86+x64.bin", "/boot/invaders.exec"] {
        let imported = lab.import(Path::new(kernel)).await.unwrap();
        assert_eq!((imported.kind, imported.format), (Kind::Kernel, Format::Raw), "{kernel}");
    }
}

#[tokio::test]
async fn a_clean_qcow2_is_kept_and_every_other_format_becomes_one() {
    for (name, options, format) in [
        ("qcow2", &[][..], Format::Qcow2),
        ("qcow2", &["-c", "-o", "compression_type=zstd"], Format::Qcow2),
        ("qcow2", &["-o", "compat=0.10"], Format::Qcow2),
        ("qcow2", &["-o", "extended_l2=on,cluster_size=64k"], Format::Qcow2),
        ("vmdk", &[], Format::Vmdk),
        ("vmdk", &["-o", "subformat=streamOptimized"], Format::Vmdk),
        ("vhdx", &[], Format::Vhdx),
        ("vdi", &[], Format::Vdi),
        ("vdi", &["-o", "static=on"], Format::Vdi),
    ] {
        let lab = lab().await;
        let path = disk_as(&lab, name, options);
        let imported = lab.import(&path).await.unwrap_or_else(|e| panic!("{name} {options:?}: {e}"));
        assert_eq!((imported.source_format, imported.format), (format, Format::Qcow2), "{name} {options:?}");
        assert_eq!(imported.digest == imported.source_digest, format == Format::Qcow2, "{name} {options:?}");
        assert_eq!(imported.virtual_size, Bytes::mib(4));
        assert_eq!(exported(&lab.store, &imported.digest, Format::Raw).await, raw_disk(4), "{name} {options:?}");
        lab.store.verify(&imported.digest).await.unwrap();
        assert_eq!(lab.contents().len(), 1);
    }
}

#[tokio::test]
async fn a_qcow2_with_snapshots_or_bitmaps_is_rewritten_to_what_it_shows_now() {
    let lab = lab().await;
    let path = disk_as(&lab, "qcow2", &[]);
    qemu_img(&["snapshot", "-c", "old", utf8(&path)]);
    let imported = lab.import(&path).await.unwrap();
    assert_ne!(imported.digest, imported.source_digest);
    assert_eq!(exported(&lab.store, &imported.digest, Format::Raw).await, raw_disk(4));
}

#[tokio::test]
async fn compression_is_taken_off_and_the_checksum_is_that_of_the_compressed_bytes() {
    let disk = raw_disk(4);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&disk).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
    xz.write_all(&disk).unwrap();
    let zst = zstd::encode_all(&disk[..], 3).unwrap();
    for (name, bytes) in [("gz", gz.finish().unwrap()), ("xz", xz.finish().unwrap()), ("zst", zst)] {
        let lab = lab().await;
        let options = ImportOptions { sha256: Some(sha256(&bytes)), ..ImportOptions::default() };
        let path = lab.write(name, &bytes);
        let imported = lab.store.import(Source::File(path), &options).await.unwrap();
        assert_eq!((imported.digest, imported.source_digest), (sha256(&disk), sha256(&bytes)), "{name}");

        let cut = lab.write("cut", &bytes[..bytes.len() - 9]);
        lab.store.delete(&imported.digest).await.unwrap();
        let error = lab.refused(&cut, &ImportOptions::default()).await;
        assert!(error.detail.contains(&format!("{name} compression is damaged or cut off")), "{error}");
    }
}

#[tokio::test]
async fn what_is_exported_comes_back_as_the_same_disk() {
    let lab = lab().await;
    let imported = lab.import(&lab.write("disk.raw", &raw_disk(4))).await.unwrap();
    for format in [Format::Raw, Format::Qcow2, Format::Vmdk, Format::Vhdx, Format::Vdi] {
        for compression in [None, Some(Compression::Gz), Some(Compression::Zst)] {
            let mut bytes = Vec::new();
            let wanted = Export { format, compression };
            let mut stream = lab.store.export(&imported.digest, wanted, &Progress::silent()).await.unwrap();
            stream.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(stream.size.is_some(), compression.is_none());
            let other = common::lab().await;
            let again = other.import(&other.write("again", &bytes)).await.unwrap();
            assert_eq!(again.source_format, format);
            assert_eq!(exported(&other.store, &again.digest, Format::Raw).await, raw_disk(4), "{wanted:?}");
        }
    }
    assert_eq!(lab.contents().len(), 1, "exports leave nothing in staging");
}

#[tokio::test]
async fn what_would_open_another_file_is_refused() {
    let lab = lab().await;
    let base = disk_as(&lab, "qcow2", &[]);
    let overlay = lab.path("overlay.qcow2");
    qemu_img(&["create", "-f", "qcow2", "-b", utf8(&base), "-F", "qcow2", utf8(&overlay)]);
    let external = lab.path("external.qcow2");
    let data = format!("data_file={}", utf8(&lab.path("data")));
    qemu_img(&["create", "-f", "qcow2", "-o", &data, utf8(&external), "4M"]);
    let flat = lab.path("flat.vmdk");
    qemu_img(&["create", "-f", "vmdk", "-o", "subformat=monolithicFlat", utf8(&flat), "4M"]);
    let child = lab.path("child.vmdk");
    let parent = disk_as(&lab, "vmdk", &[]);
    qemu_img(&["create", "-f", "vmdk", "-b", utf8(&parent), "-F", "vmdk", utf8(&child)]);
    for (path, reason) in [
        (&overlay, "backing file"),
        (&external, "another file"),
        (&flat, "only names other files"),
        (&child, "snapshot of a parent"),
    ] {
        let error = lab.refused(path, &ImportOptions::default()).await;
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.detail.contains(reason), "{}: {error}", path.display());
    }
}

#[tokio::test]
async fn what_is_not_what_it_should_be_is_refused_with_the_reason() {
    let lab = lab().await;
    let qcow2 = disk_as(&lab, "qcow2", &[]);
    let bytes = fs::read(&qcow2).unwrap();
    let mut encrypted = bytes.clone();
    encrypted[35] = 2;
    let luks = lab.write("luks.qcow2", &encrypted);
    let truncated = lab.write("truncated.qcow2", &bytes[..bytes.len() / 2]);
    let text = lab.write("page.html", b"<html><body>404: no such disk</body></html>\n");
    let odd = lab.write("odd.raw", &raw_disk(2)[..1000]);
    let empty = lab.write("empty", b"");
    let noise = lab.write("noise", &[7; 4096]);
    let elf = lab.write("program", &fs::read("/bin/true").unwrap());
    for (path, options, reason) in [
        (&qcow2, declared(Format::Raw), "was declared raw and is qcow2"),
        (&odd, declared(Format::Qcow2), "was declared qcow2 and is raw"),
        (&luks, ImportOptions::default(), "encrypted"),
        (&truncated, ImportOptions::default(), "truncated"),
        (&text, ImportOptions::default(), "is text, not a disk"),
        (&text, declared(Format::Raw), "is text, not a disk"),
        (&odd, ImportOptions::default(), "not a whole number of 512-byte sectors"),
        (&empty, ImportOptions::default(), "empty"),
        (&noise, ImportOptions::default(), "no known format"),
        (&elf, ImportOptions::default(), "neither a PVH note nor a multiboot header"),
        (&PathBuf::from("/dev/zero"), ImportOptions::default(), "not a regular file"),
    ] {
        let error = lab.refused(path, &options).await;
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.detail.contains(reason), "{}: {error}", path.display());
    }
    let wrong = ImportOptions { sha256: Some(sha256(b"other")), ..ImportOptions::default() };
    let error = lab.refused(&qcow2, &wrong).await;
    assert!(error.detail.contains("checksum is wrong") && error.detail.contains(&sha256(&bytes).hex()), "{error}");
    let missing = lab.refused(Path::new("/no/such/disk"), &ImportOptions::default()).await;
    assert_eq!(missing.kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn an_unknown_disk_is_taken_where_its_owner_says_it_is_raw() {
    let lab = lab().await;
    let path = lab.write("noise", &[7; 4096]);
    let imported = lab.store.import(Source::File(path), &declared(Format::Raw)).await.unwrap();
    assert_eq!((imported.format, imported.kind), (Format::Raw, Kind::Disk));
}

#[tokio::test]
async fn bombs_and_giants_are_refused_by_ratio_and_by_size() {
    let lab = lab_with(Limits { keep_free: Bytes::mib(1), virtual_size: Bytes::gib(8), ..Limits::default() }).await;
    let ones = lab.path("ones.zst");
    let mut encoder = zstd::stream::write::Encoder::new(fs::File::create(&ones).unwrap(), 1).unwrap();
    (0..200).for_each(|_| encoder.write_all(&[1; 1 << 20]).unwrap());
    encoder.finish().unwrap();
    let zeros = lab.path("zeros.zst");
    let mut encoder = zstd::stream::write::Encoder::new(fs::File::create(&zeros).unwrap(), 1).unwrap();
    (0..2000).for_each(|_| encoder.write_all(&[0; 1 << 20]).unwrap());
    encoder.finish().unwrap();
    for path in [&ones, &zeros] {
        let error = lab.refused(path, &ImportOptions::default()).await;
        assert_eq!(error.kind, ErrorKind::TooLarge);
        assert!(error.detail.contains("decompression bomb"), "{error}");
    }
    let giant = lab.path("giant.qcow2");
    qemu_img(&["create", "-f", "qcow2", utf8(&giant), "9G"]);
    let error = lab.refused(&giant, &ImportOptions::default()).await;
    assert!(error.detail.contains("9 GiB, more than the 8 GiB allowed"), "{error}");
}

#[tokio::test]
async fn an_appliance_gives_its_one_disk_and_nothing_else() {
    let lab = lab().await;
    let disk = disk_as(&lab, "vmdk", &["-o", "subformat=streamOptimized"]);
    let dir = lab.path("ova");
    fs::create_dir(&dir).unwrap();
    let ovf = r#"<Envelope><References><File ovf:id="f1" ovf:href="disk.vmdk"/></References></Envelope>"#;
    fs::write(dir.join("vm.ovf"), ovf).unwrap();
    fs::copy(&disk, dir.join("disk.vmdk")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", dir.join("evil.vmdk")).unwrap();
    fs::write(dir.join("two.ovf"), ovf.replace("<File", r#"<File ovf:href="b.vmdk"/><File"#)).unwrap();
    let tar = |name: &str, args: &[&str]| {
        let path = lab.path(name);
        let mut words = vec!["-C", utf8(&dir), "--format=ustar", "-cf", utf8(&path)];
        words.extend(args);
        run("tar", &words);
        path.clone()
    };
    for (path, reason) in [
        (tar("link.ova", &["vm.ovf", "evil.vmdk", "disk.vmdk"]), "not a plain file"),
        (tar("path.ova", &["--transform=s,disk,../disk,", "-P", "vm.ovf", "disk.vmdk"]), "is a path"),
        (tar("two.ova", &["two.ovf", "disk.vmdk"]), "has 2 disks"),
        (tar("none.ova", &["vm.ovf"]), "not in the archive"),
        (tar("plain.tar", &["disk.vmdk"]), "no .ovf description"),
    ] {
        let error = lab.refused(&path, &ImportOptions::default()).await;
        assert!(error.detail.contains(reason), "{}: {error}", path.display());
    }
    let whole = tar("vm.ova", &["vm.ovf", "disk.vmdk"]);
    let bytes = fs::read(&whole).unwrap();
    let error = lab.refused(&lab.write("cut.ova", &bytes[..bytes.len() / 2]), &ImportOptions::default()).await;
    assert!(error.detail.contains("truncated"), "{error}");

    let imported = lab.import(&whole).await.unwrap();
    assert_eq!((imported.source_format, imported.format), (Format::Ova, Format::Qcow2));
    assert_eq!(exported(&lab.store, &imported.digest, Format::Raw).await, raw_disk(4));
}

#[tokio::test]
async fn kernels_and_initrds_are_told_by_their_magic() {
    let lab = lab().await;
    let mut linux = vec![0; 4096];
    linux[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    linux[0x202..0x206].copy_from_slice(b"HdrS");
    let mut multiboot = b"\x7fELF".to_vec();
    multiboot.resize(64, 0);
    for word in [0x1bad_b002u32, 0, 0u32.wrapping_sub(0x1bad_b002)] {
        multiboot.extend(word.to_le_bytes());
    }
    let cpio = b"070701rest of an archive".to_vec();
    let packed = zstd::encode_all(&cpio[..], 3).unwrap();
    for (name, bytes, kind) in [
        ("linux", linux, Kind::Kernel),
        ("multiboot", multiboot, Kind::Kernel),
        ("cpio", cpio, Kind::Initrd),
        ("cpio.zst", packed, Kind::Initrd),
    ] {
        let imported = lab.import(&lab.write(name, &bytes)).await.unwrap();
        assert_eq!((imported.kind, imported.format), (kind, Format::Raw), "{name}");
        assert_eq!(fs::read(lab.store.path(&imported.digest)).unwrap(), bytes, "{name} is kept as it came");
        assert_eq!(exported(&lab.store, &imported.digest, Format::Raw).await, bytes, "{name}");
        let wrong = ImportOptions { kind: Some(Kind::Disk), ..ImportOptions::default() };
        let error = lab.store.import(Source::File(lab.path(name)), &wrong).await.unwrap_err();
        assert!(error.detail.contains("was declared a disk"), "{error}");
    }
}

#[tokio::test]
async fn a_store_forgets_what_killed_writers_left_but_not_what_others_write() {
    let lab = lab().await;
    let staging = lab.path("store/staging");
    fs::write(staging.join("abandoned"), b"half an image").unwrap();
    let busy = fs::File::create(staging.join("busy")).unwrap();
    busy.lock().unwrap();
    ImageStore::open(lab.path("store"), Limits::default()).await.unwrap();
    assert_eq!(lab.contents(), [staging.join("busy")]);
}

#[tokio::test]
async fn an_import_given_up_leaves_nothing() {
    let lab = lab().await;
    let (mut writer, reader) = tokio::io::duplex(64 << 10);
    let store = lab.store.clone();
    let import = tokio::spawn(async move { store.import(Source::stream(reader), &ImportOptions::default()).await });
    tokio::io::AsyncWriteExt::write_all(&mut writer, &raw_disk(2)[..1 << 20]).await.unwrap();
    import.abort();
    assert!(import.await.unwrap_err().is_cancelled());
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while !lab.contents().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", lab.contents());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_silent_source_is_given_up_with_the_time_it_had() {
    let limits = Limits { idle: std::time::Duration::from_millis(50), keep_free: Bytes::mib(1), ..Limits::default() };
    let lab = lab_with(limits).await;
    let (_writer, reader) = tokio::io::duplex(16);
    let error = lab.store.import(Source::stream(reader), &ImportOptions::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Timeout);
    assert_eq!(lab.contents(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn progress_runs_from_nothing_to_the_whole() {
    let lab = lab().await;
    let steps: Arc<Mutex<Vec<Step>>> = Arc::default();
    let seen = Arc::clone(&steps);
    let progress = Progress::new(move |step| seen.lock().unwrap().push(step));
    let options = ImportOptions { progress, ..ImportOptions::default() };
    let path = disk_as(&lab, "vmdk", &[]);
    let length = fs::metadata(&path).unwrap().len();
    lab.store.import(Source::File(path), &options).await.unwrap();
    let steps = steps.lock().unwrap();
    let received: Vec<_> = steps.iter().filter(|s| s.phase == hull_image::Phase::Receiving).collect();
    assert_eq!(received.last().unwrap().done, length);
    assert_eq!(received.last().unwrap().total, Some(length));
    assert!(steps.windows(2).all(|w| w[0].phase != w[1].phase || w[0].done <= w[1].done), "{steps:?}");
    assert!(steps.iter().any(|s| s.phase == hull_image::Phase::Converting && Some(s.done) == s.total));
}

#[tokio::test]
async fn a_blob_travels_between_stores_under_its_digest() {
    let (here, there) = (lab().await, lab().await);
    let imported = here.import(&here.write("disk.raw", &raw_disk(2))).await.unwrap();
    let blob = || tokio::fs::File::from_std(fs::File::open(here.store.path(&imported.digest)).unwrap());
    let error = there.store.put(&sha256(b"other"), blob(), Progress::silent()).await.unwrap_err();
    assert!(error.detail.contains("asked for image"), "{error}");
    there.store.put(&imported.digest, blob(), Progress::silent()).await.unwrap();
    assert_eq!(there.store.list().await.unwrap(), [imported.digest]);
    there.store.delete(&imported.digest).await.unwrap();
    there.store.delete(&imported.digest).await.unwrap();
    assert_eq!(there.store.open_blob(&imported.digest).await.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn damage_on_the_disk_is_noticed() {
    let lab = lab().await;
    let imported = lab.import(&lab.write("disk.raw", &raw_disk(2))).await.unwrap();
    let path = lab.store.path(&imported.digest);
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"x", 1 << 20).unwrap();
    let error = lab.store.verify(&imported.digest).await.unwrap_err();
    assert!(error.detail.contains("is damaged"), "{error}");
}

/// Run by [`a_full_disk_leaves_nothing_behind`] where a small file system is mounted.
#[tokio::test]
#[ignore = "needs a mount of its own"]
async fn on_a_small_file_system() {
    let small = PathBuf::from(std::env::var_os("HULL_TEST_SMALL_FS").unwrap());
    let keep_free = Bytes::mib(1);
    let store = ImageStore::open(small.join("store"), Limits { keep_free, ..Limits::default() }).await.unwrap();
    let disk: Vec<u8> = (0..24 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let left =
        || ["staging", "blobs/sha256"].iter().map(|d| fs::read_dir(small.join("store").join(d)).unwrap().count()).sum();

    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &disk).unwrap();
    let known = store.import(Source::File(file.path().to_owned()), &declared(Format::Raw)).await.unwrap_err();
    assert_eq!((known.kind, left()), (ErrorKind::InsufficientResources, 0));
    for part in ["store/staging", "need 24 MiB and 1 MiB kept free", "free"] {
        assert!(known.detail.contains(part), "{known}");
    }
    let stream = Source::stream(std::io::Cursor::new(disk));
    let surprised = store.import(stream, &declared(Format::Raw)).await.unwrap_err();
    assert_eq!((surprised.kind, left()), (ErrorKind::InsufficientResources, 0), "{surprised}");
    assert!(surprised.detail.contains("is full"), "{surprised}");
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=16m none {0} && HULL_TEST_SMALL_FS={0} {1} --ignored --exact on_a_small_file_system",
        utf8(dir.path()),
        utf8(&this)
    );
    run("unshare", &["--mount", "--", "sh", "-c", &script]);
}
