//! The tiny guest itself boots on both machine profiles and does what the other tests lean on.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hull_testkit::guest::READY;
use hull_testkit::qemu::{BOOT_DEADLINE, Qemu};
use hull_testkit::{TinyGuest, eventually_blocking, free_port, short_dir};

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

#[test]
fn its_disk_boots_by_bios() {
    let disk = TinyGuest::get().unwrap().disk("hull.mode=poweroff").unwrap();
    let drive = format!("if=virtio,format=raw,snapshot=on,file={}", path(&disk));
    let mut qemu = Qemu::start(["-M", "q35", "-m", "256", "-drive", &drive]).unwrap();
    qemu.wait_for(READY, BOOT_DEADLINE).unwrap();
    assert!(qemu.wait_for_exit(BOOT_DEADLINE).unwrap().success());
}

#[test]
fn its_disk_boots_by_uefi() {
    let disk = TinyGuest::get().unwrap().disk("hull.mode=poweroff").unwrap();
    let drive = format!("if=virtio,format=raw,snapshot=on,file={}", path(&disk));
    let firmware = "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
    let variables = "if=pflash,format=raw,snapshot=on,file=/usr/share/OVMF/OVMF_VARS_4M.fd";
    let args = ["-M", "q35", "-m", "256", "-drive", firmware, "-drive", variables, "-drive", &drive];
    let mut qemu = Qemu::start(args).unwrap();
    qemu.wait_for(READY, BOOT_DEADLINE).unwrap();
    assert!(qemu.wait_for_exit(BOOT_DEADLINE).unwrap().success());
}

/// Says one thing to a QEMU socket that speaks lines of JSON, and returns the first answer that `wanted` accepts.
fn ask(socket: &mut BufReader<UnixStream>, line: &str, wanted: &str) -> String {
    socket.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
    loop {
        let mut answer = String::new();
        assert_ne!(socket.read_line(&mut answer).unwrap(), 0, "the socket closed before saying {wanted}");
        if answer.contains(wanted) {
            return answer;
        }
    }
}

fn connect(path: &Path) -> BufReader<UnixStream> {
    let stream = eventually_blocking("a socket of QEMU", BOOT_DEADLINE, || UnixStream::connect(path)).unwrap();
    stream.set_read_timeout(Some(BOOT_DEADLINE)).unwrap();
    BufReader::new(stream)
}

#[test]
fn it_powers_off_when_the_button_is_pressed_unless_told_to_hang() {
    for (knob, line) in [("", "HULL-GUEST-BUTTON\r"), ("hull.mode=hang-on-poweroff", "HULL-GUEST-BUTTON ignored")] {
        let sockets = short_dir().unwrap();
        let qmp = sockets.path().join("qmp");
        let chardev = format!("unix:{},server=on,wait=off", path(&qmp));
        let machine = ["-M", "q35", "-qmp", &chardev];
        let guest = TinyGuest::get().unwrap();
        let mut qemu = boot(&machine, &guest, &format!("{} {knob}", TinyGuest::pc_cmdline()));
        qemu.wait_for(READY, BOOT_DEADLINE).unwrap();
        let mut monitor = connect(&qmp);
        ask(&mut monitor, r#"{"execute":"qmp_capabilities"}"#, "return");
        ask(&mut monitor, r#"{"execute":"system_powerdown"}"#, "return");
        qemu.wait_for(line, BOOT_DEADLINE).unwrap();
        if knob.is_empty() {
            assert!(qemu.wait_for_exit(BOOT_DEADLINE).unwrap().success());
        }
    }
}

#[test]
fn with_the_agent_it_answers_a_ping_on_the_agents_port() {
    let sockets = short_dir().unwrap();
    let agent = sockets.path().join("qga");
    let chardev = format!("socket,id=qga,path={},server=on,wait=off", path(&agent));
    let port = "virtserialport,chardev=qga,name=org.qemu.guest_agent.0";
    let machine = ["-M", "q35", "-device", "virtio-serial", "-chardev", &chardev, "-device", port];
    let guest = TinyGuest::with_agent().unwrap();
    let qemu = boot(&machine, &guest, &format!("{} hull.net=off", TinyGuest::pc_cmdline()));
    qemu.wait_for(READY, BOOT_DEADLINE).unwrap();
    let answer = ask(&mut connect(&agent), r#"{"execute":"guest-ping"}"#, "return");
    assert!(answer.contains("{}"), "{answer}");
}

fn must(program: &str, args: &[&str]) {
    assert!(Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
}

/// A NoCloud disk with this meta data and user data.
fn seed_disk(work: &Path, meta_data: &str, user_data: &str) -> PathBuf {
    let [meta, user, seed] = ["meta-data", "user-data", "seed.img"].map(|name| work.join(name));
    std::fs::write(&meta, meta_data).unwrap();
    std::fs::write(&user, user_data).unwrap();
    must("mkfs.vfat", &["-n", "CIDATA", "-C", path(&seed), "1024"]);
    must("mcopy", &["-i", path(&seed), path(&meta), path(&user), "::"]);
    seed
}

#[test]
fn it_takes_name_keys_and_user_data_from_a_seed_disk_and_lets_the_key_log_in() {
    let work = short_dir().unwrap();
    let key = work.path().join("key");
    must("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", path(&key)]);
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let meta = format!("local-hostname: seeded\npublic-keys:\n  - {public}");
    let seed = seed_disk(work.path(), &meta, "#!/bin/sh\necho user-data-$((40 + 2))\n");

    let port = free_port().unwrap();
    let drive = format!("if=virtio,format=raw,readonly=on,file={}", path(&seed));
    let net = format!("user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:22");
    let machine = ["-M", "q35", "-drive", &drive, "-netdev", &net, "-device", "virtio-net-pci,netdev=n0"];
    let guest = TinyGuest::get().unwrap();
    let qemu = boot(&machine, &guest, &TinyGuest::pc_cmdline());
    let console = qemu.wait_for(READY, BOOT_DEADLINE).unwrap();
    assert!(console.contains("source=nocloud host=seeded keys=1"), "{console}");
    assert!(console.contains("user-data-42"), "{console}");

    let login = || {
        let output = Command::new("ssh")
            .args(["-i", path(&key), "-p", &port.to_string(), "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"])
            .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "debian@127.0.0.1"])
            .arg("sudo hostname")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() { Ok(said) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    };
    assert_eq!(eventually_blocking("ssh", BOOT_DEADLINE, login).unwrap(), "seeded");
}

#[test]
fn a_card_that_is_plugged_in_anew_takes_an_address_again() {
    let sockets = short_dir().unwrap();
    let qmp = sockets.path().join("qmp");
    let chardev = format!("unix:{},server=on,wait=off", path(&qmp));
    let card = "virtio-net-pci,id=card,netdev=n0,bus=rp0";
    let machine = ["-M", "q35", "-qmp", &chardev, "-device", "pcie-root-port,id=rp0", "-netdev", "user,id=n0"];
    let machine: Vec<&str> = machine.into_iter().chain(["-device", card]).collect();
    let guest = TinyGuest::get().unwrap();
    let qemu = boot(&machine, &guest, &TinyGuest::pc_cmdline());
    qemu.wait_for(READY, BOOT_DEADLINE).unwrap();
    let mut monitor = connect(&qmp);
    ask(&mut monitor, r#"{"execute":"qmp_capabilities"}"#, "return");
    ask(&mut monitor, r#"{"execute":"device_del","arguments":{"id":"card"}}"#, r#""device": "card""#);
    let add =
        r#"{"execute":"device_add","arguments":{"driver":"virtio-net-pci","id":"card","netdev":"n0","bus":"rp0"}}"#;
    ask(&mut monitor, add, "return");
    qemu.wait_for_times("HULL-GUEST-DHCP eth0 ip=10.0.2.15", 2, BOOT_DEADLINE).unwrap();
}
