//! What plugs into a machine, and what can be done with it while it runs.

use std::{
    io::{Read, Write},
    path::Path,
    process::Command,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use hull_node::hypervisor::{BackingSpec, DiskSpec, Hypervisor, RunState};
use hull_testkit::eventually;
use hull_types::{
    error::ErrorKind,
    flavor::Resources,
    units::Bytes,
    vm::{Firmware, Profile},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bench::{Bench, DEADLINE, processes_of, read_until, wait_console, wait_state};

fn qemu_img(arguments: &[&str]) {
    assert!(Command::new("qemu-img").args(arguments).output().unwrap().status.success(), "{arguments:?}");
}

/// An overlay on a raw file that says `base` at its beginning.
fn overlay(dir: &Path) -> DiskSpec {
    let (base, top) = (dir.join("base.raw"), dir.join("top.qcow2"));
    std::fs::write(&base, [b"base-content".as_slice(), &vec![0; 1 << 20]].concat()).unwrap();
    // Its header names a file that is not there: what counts is the specification.
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-u", "-b", "/nowhere", top.to_str().unwrap(), "64M"]);
    let backing = vec![BackingSpec { path: base, qcow2: false }];
    DiskSpec { id: "root".into(), path: top, qcow2: true, backing, read_only: false, boot_index: Some(0) }
}

pub(crate) async fn shell(vmm: &dyn hull_node::hypervisor::Vmm, command: &str, until: &str) -> String {
    let mut console = vmm.console().await.unwrap();
    console.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    read_until(&mut *console, until).await
}

#[tokio::test]
async fn disks_are_overlays_that_persist_and_grow_online() {
    let bench = Bench::new();
    let disk = overlay(&bench.dir);
    let seed = bench.dir.join("seed.raw");
    std::fs::write(&seed, vec![7; 1 << 16]).unwrap();
    let seed =
        DiskSpec { id: "seed".into(), path: seed, qcow2: false, backing: vec![], read_only: true, boot_index: None };
    for profile in [Profile::Pc, Profile::Micro] {
        let mut spec = bench.guest(profile, "hull.net=off");
        spec.disks = vec![disk.clone(), seed.clone()];
        let vmm = bench.start_ready(spec).await;
        shell(&*vmm, "head -c 12 /dev/vda; cat /sys/block/vd?/serial /sys/block/vdb/ro", "1\r\n").await;
        wait_console(&*vmm, "base-content").await;
        vmm.grow_disk("root", Bytes::mib(128)).await.unwrap();
        shell(&*vmm, "sleep 1; echo sectors=$(cat /sys/block/vda/size)", "sectors=262144").await;
        shell(&*vmm, "echo kept | dd of=/dev/vda bs=512 seek=10 conv=fsync && echo written", "\nwritten").await;
        vmm.quit().await.unwrap();
        bench.hypervisor.clear(bench.vm, &bench.dir).await.unwrap();
        qemu_img(&[
            "rebase",
            "-u",
            "-F",
            "raw",
            "-b",
            bench.dir.join("base.raw").to_str().unwrap(),
            disk.path.to_str().unwrap(),
        ]);
        let raw = bench.dir.join("out.raw");
        qemu_img(&["convert", "-O", "raw", disk.path.to_str().unwrap(), raw.to_str().unwrap()]);
        let mut bytes = vec![0; 6000];
        std::fs::File::open(&raw).unwrap().read_exact(&mut bytes).unwrap();
        assert_eq!((&bytes[..12], &bytes[5120..5124]), (b"base-content".as_slice(), b"kept".as_slice()));
        std::fs::remove_file(&disk.path).unwrap();
        overlay(&bench.dir);
    }
}

#[tokio::test]
async fn a_pc_grows_while_it_runs_and_is_restored_at_its_size() {
    let bench = Bench::new();
    let vmm = bench.start_ready(bench.guest(Profile::Pc, "hull.net=off")).await;
    let size = |vcpus, mib| Resources { vcpus, memory: Bytes::mib(mib), disk: Bytes::ZERO };
    let resized = vmm.resize(size(2, 512)).await.unwrap();
    assert_eq!((resized.now, resized.pending), (Some(size(2, 512)), vec![]));
    shell(&*vmm, "while [ $(nproc) != 2 ]; do usleep 100000; done; echo two-''cpus", "two-cpus").await;
    let memory = "while [ $(awk '/MemTotal/{print $2}' /proc/meminfo) -lt 400000 ]; do usleep 100000; done";
    shell(&*vmm, &format!("{memory}; echo more-''memory; word=remembered"), "more-memory").await;
    let shrunk = vmm.resize(size(1, 512)).await.unwrap();
    assert!(shrunk.now == Some(size(2, 512)) && shrunk.pending.len() == 1, "{shrunk:?}");

    let saved = bench.dir.join("memory");
    vmm.save(&saved).await.unwrap();
    assert_eq!(*vmm.state().borrow(), RunState::Paused);
    vmm.quit().await.unwrap();
    bench.hypervisor.clear(bench.vm, &bench.dir).await.unwrap();

    let mut spec = bench.guest(Profile::Pc, "hull.net=off");
    spec.restore = Some(saved);
    spec.paused = true;
    let restored = bench.start(spec).await;
    assert_eq!(restored.refresh().await.unwrap(), RunState::Paused);
    restored.resume().await.unwrap();
    shell(&*restored, "echo $(nproc)-$word", "2-remembered").await;
    restored.quit().await.unwrap();
}

#[tokio::test]
async fn a_micro_is_saved_and_restored() {
    let bench = Bench::new();
    let vmm = bench.start_ready(bench.guest(Profile::Micro, "hull.net=off")).await;
    shell(&*vmm, "word=remembered; echo rea''dy", "ready").await;
    let saved = bench.dir.join("memory");
    vmm.save(&saved).await.unwrap();
    vmm.quit().await.unwrap();
    let mut spec = bench.guest(Profile::Micro, "hull.net=off");
    spec.restore = Some(saved.clone());
    // The directory still tells of the ended process: a start clears it.
    let restored = bench.start(spec).await;
    shell(&*restored, "echo it-is-$word", "it-is-remembered").await;
    restored.quit().await.unwrap();

    std::fs::write(&saved, "no machine").unwrap();
    let mut spec = bench.guest(Profile::Micro, "hull.net=off");
    spec.restore = Some(saved);
    let error = bench.hypervisor.start(spec).await.map(drop).unwrap_err();
    assert!(error.detail.contains("cannot restore"), "{error:?}");
    assert!(bench.uid().is_none());
}

#[tokio::test]
async fn a_screen_is_seen_as_png_and_over_vnc() {
    let bench = Bench::new();
    let vmm = bench.start(bench.empty()).await;
    let picture = vmm.screenshot().await.unwrap();
    let decoder = png::Decoder::new(std::io::Cursor::new(picture)).read_info().unwrap();
    assert!(decoder.info().width >= 640 && decoder.info().height >= 400);
    // Two viewers at once.
    for _ in 0..2 {
        let mut hello = [0; 12];
        vmm.vnc().await.unwrap().read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"RFB 003.008\n");
    }
    vmm.quit().await.unwrap();
}

#[tokio::test]
async fn the_guest_agent_runs_programs_and_freezes() {
    let bench = Bench::new();
    let vmm = bench.start(bench.guest_with_agent()).await;
    eventually("the agent's answer", DEADLINE, || vmm.agent_ping()).await.unwrap();
    let argv = ["/bin/sh", "-c", "cat; echo wrong >&2; exit 3"].map(String::from).to_vec();
    let result = vmm.agent_exec(argv, b"input".to_vec(), DEADLINE).await.unwrap();
    assert_eq!(result.exit_code, Some(3));
    assert_eq!(BASE64_STANDARD.decode(result.stdout).unwrap(), b"input");
    assert_eq!(BASE64_STANDARD.decode(result.stderr).unwrap(), b"wrong\n");
    let slow = ["/bin/sleep", "1000"].map(String::from).to_vec();
    let error = vmm.agent_exec(slow, vec![], Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Timeout);
    vmm.quiesce(Duration::from_secs(60)).await.unwrap();
    vmm.thaw().await.unwrap();
    vmm.quit().await.unwrap();
}

#[tokio::test]
async fn without_an_agent_the_error_says_what_to_install() {
    let bench = Bench::new();
    let vmm = bench.start(bench.empty()).await;
    let error = vmm.agent_ping().await.unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && error.detail.contains("qemu-guest-agent"), "{error:?}");
    vmm.quit().await.unwrap();
}

#[tokio::test]
async fn uefi_keeps_its_variables_and_has_secure_boot_and_a_tpm() {
    let bench = Bench::new();
    for (secure_boot, own) in [(false, "efi-vars.fd"), (true, "efi-vars-secure.fd")] {
        let mut spec = bench.empty();
        (spec.firmware, spec.secure_boot, spec.tpm) = (Firmware::Uefi, secure_boot, secure_boot);
        let vmm = bench.start(spec).await;
        let variables = bench.dir.join(own);
        let fresh = std::fs::read(&variables).unwrap();
        // OVMF writes its first variables as soon as it runs.
        let written = || async { (std::fs::read(&variables).unwrap() != fresh).then_some(()).ok_or("as it was") };
        eventually("the firmware's first variable", DEADLINE, written).await.unwrap();
        let uid = bench.uid().unwrap();
        assert_eq!(processes_of(uid).len(), if secure_boot { 2 } else { 1 }, "QEMU, and swtpm beside it");
        vmm.quit().await.unwrap();
        bench.hypervisor.clear(bench.vm, &bench.dir).await.unwrap();
        assert!(processes_of(uid).is_empty(), "swtpm goes with it");
    }
    assert!(bench.dir.join("tpm").exists(), "the TPM's state stays with the VM");
}

#[tokio::test]
async fn a_flood_on_the_console_is_trimmed_while_the_guest_goes_on_printing() {
    let bench = Bench::new();
    let vmm = bench.start_ready(bench.guest(Profile::Pc, "hull.net=off")).await;
    let log = bench.dir.join("console.log");
    // An emulated serial line takes minutes for as much: it comes from here, by the same door.
    let mut flood = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    flood.write_all(&vec![b'x'; 4 << 20]).unwrap();
    wait_trimmed(&log).await;
    shell(&*vmm, "echo still-$((1+1))-here", "still-2-here").await;
    wait_console(&*vmm, "still-2-here").await;
    assert!(std::fs::metadata(&log).unwrap().len() > 4 << 20, "only its blocks went");
    vmm.quit().await.unwrap();
}

async fn wait_trimmed(log: &Path) {
    use std::os::unix::fs::MetadataExt;
    let blocks =
        || async { Some(std::fs::metadata(log).unwrap().blocks()).filter(|n| n * 512 <= 3 << 20).ok_or("too large") };
    eventually("a trimmed log", DEADLINE, blocks).await.unwrap();
}

#[tokio::test]
async fn a_reset_boots_again() {
    let bench = Bench::new();
    let vmm = bench.start_ready(bench.guest(Profile::Pc, "hull.net=off")).await;
    vmm.reset().await.unwrap();
    let boots = || async {
        let log = wait_console(&*vmm, "HULL-GUEST-READY").await;
        Some(log.matches("HULL-GUEST-READY").count()).filter(|boots| *boots == 2).ok_or("up once")
    };
    eventually("a second boot", DEADLINE, boots).await.unwrap();
    wait_state(&*vmm, |state| *state == RunState::Running).await;
    vmm.quit().await.unwrap();
}
