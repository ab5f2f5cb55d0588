//! A machine's whole life by the command line, from its image to nothing left of it. Needs root and QEMU.

#![allow(clippy::unwrap_used)]

mod kit;

use std::{
    io::{Read, Write},
    process::Stdio,
};

use hull_testkit::guest::READY;
use kit::{Hull, Running, control_groups, number, processes, text, traces};

#[test]
fn a_machine_is_made_used_and_leaves_nothing() {
    let hull = Hull::with_tiny();
    let key = hull.key();
    let public = key.with_extension("pub");

    let vm = hull.create("one", &["--ssh-key", public.to_str().unwrap()]);
    let id = text(&vm, "/id").to_owned();
    hull.until_said("one", READY, 1);
    assert_eq!(hull.ssh("one", &key, "hostname; cat /proc/sys/kernel/random/boot_id").lines().next(), Some("one"));
    assert!(banner(&hull).starts_with("SSH-2.0-"), "{}", banner(&hull));

    its_screen_is_seen_and_used(&hull);

    let list = hull.ok(&["vm", "list"]);
    assert!(list.contains("one") && list.contains("running"), "{list}");
    let explained = hull.ok(&["explain", "vm", "one"]);
    assert!(explained.contains("running"), "{explained}");
    assert_eq!(hull.history(&id)[0].0, "vm.create");

    halts_and_goes_on(&hull, &key);
    is_saved_to_disk_and_goes_on(&hull, &key);

    let pid = number(&hull.vm("one"), "/status/vmm/pid");
    assert_eq!(processes(&id), [u32::try_from(pid).unwrap()]);
    assert!(!control_groups(&id).is_empty() && !hull.namespaces().is_empty());
    assert!(!traces(&hull.data().join("node"), &id).is_empty());

    is_locked_against_deletion(&hull);
    hull.ok(&["vm", "delete", "two", "--wait", "--timeout", "180"]);
    assert!(hull.refused(3, &["vm", "show", "two"]).contains("two"));
    assert_eq!(processes(&id), [0; 0]);
    assert_eq!(control_groups(&id), [] as [std::path::PathBuf; 0]);
    assert_eq!(traces(&hull.data(), &id), [] as [std::path::PathBuf; 0]);
    let gone = || Some(hull.namespaces()).filter(Vec::is_empty).ok_or_else(|| hull.namespaces());
    hull_testkit::eventually_blocking("no namespace", kit::DEADLINE, gone).unwrap();
    assert_eq!(hull.history(&id).last().unwrap().0, "vm.gone");
}

/// What sshd says first, through `hull vm tcp`.
fn banner(hull: &Hull) -> String {
    let mut tcp = hull.command(&["vm", "tcp", "one", "22"]);
    let mut tcp = tcp.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 8];
    tcp.stdout.take().unwrap().read_exact(&mut said).unwrap();
    let mut stdin = tcp.stdin.take().unwrap();
    stdin.write_all(b"SSH-2.0-nobody\r\n").unwrap();
    drop(stdin);
    tcp.kill().unwrap();
    tcp.wait().unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

fn its_screen_is_seen_and_used(hull: &Hull) {
    let picture = hull.file("screen.png");
    hull.ok(&["vm", "screenshot", "one", "--file", picture.to_str().unwrap()]);
    assert_eq!(std::fs::read(picture).unwrap()[..4], *b"\x89PNG");

    let mut door = Running::start(hull.command(&["vm", "vnc", "one"]));
    let address = door.line();
    let port = address.strip_prefix("vnc://127.0.0.1:").unwrap_or_else(|| panic!("no viewer's address: {address}"));
    // A viewer's first words: protocol, no password, shared. The answer to all of it is the screen's size.
    let line = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; head -c 12 <&3; printf 'RFB 003.008\\n\\x01\\x01' >&3; head -c 10 <&3 | od -An -tu1"
    );
    let viewer = |line: &str| {
        let seen = hull.program("timeout").args(["60", "bash", "-c", line]).output().unwrap();
        String::from_utf8_lossy(&seen.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for _ in 0..2 {
        let seen = viewer(&line);
        // One way of authentication, none (1); accepted (0 0 0 0); then width and height.
        let size = seen.strip_prefix("RFB 003.008 1 1 0 0 0 0 ").unwrap_or_else(|| panic!("no VNC server: {seen}"));
        let size: Vec<u32> = size.split(' ').map(|byte| byte.parse().unwrap()).collect();
        assert!(size[0] * 256 + size[1] >= 640 && size[2] * 256 + size[3] >= 400, "{size:?}");
    }
    door.interrupt();
    assert!(hull.refused(3, &["vm", "vnc", "nobody"]).contains("nobody"));
}

fn halts_and_goes_on(hull: &Hull, key: &std::path::Path) {
    assert_eq!(hull.json(&["vm", "pause", "one", "--wait"])["state"], "paused");
    assert_eq!(hull.json(&["vm", "resume", "one", "--wait"])["state"], "running");
    hull.ssh("one", key, "true");
}

fn is_saved_to_disk_and_goes_on(hull: &Hull, key: &std::path::Path) {
    let boot = |hull: &Hull| hull.ssh("one", key, "cat /proc/sys/kernel/random/boot_id");
    let uptime = |hull: &Hull| hull.ssh("one", key, "cut -d. -f1 /proc/uptime").trim().parse::<u64>().unwrap();
    let (same, before) = (boot(hull), uptime(hull));
    assert_eq!(hull.json(&["vm", "suspend", "one", "--wait"])["state"], "suspended");
    assert_eq!(processes(text(&hull.vm("one"), "/id")), [0; 0], "a suspended machine has no process");
    assert_eq!(hull.json(&["vm", "resume", "one", "--wait"])["state"], "running");
    assert_eq!(boot(hull), same, "it is the same boot");
    assert!(uptime(hull) >= before);
}

fn is_locked_against_deletion(hull: &Hull) {
    hull.ok(&["vm", "update", "one", "--name", "two"]);
    hull.ok(&["vm", "lock", "two"]);
    let refusal = hull.refused(4, &["vm", "delete", "two"]);
    assert!(refusal.contains("locked") && refusal.contains("unlock"), "{refusal}");
    hull.ok(&["vm", "unlock", "two"]);
}

#[test]
fn a_machine_is_restarted_resized_and_made_anew() {
    let hull = Hull::with_tiny();
    let key = hull.key();
    let public = key.with_extension("pub");
    hull.create("one", &["--ssh-key", public.to_str().unwrap()]);
    hull.until_said("one", READY, 1);

    let before = hull.ssh("one", &key, "cat /proc/sys/kernel/random/boot_id");
    assert_eq!(hull.json(&["vm", "reboot", "one", "--hard", "--wait"])["state"], "running");
    hull.until_said("one", READY, 2);
    assert_ne!(hull.ssh("one", &key, "cat /proc/sys/kernel/random/boot_id"), before);

    // Memory and disk grow while it runs, or wait for a restart and say so.
    hull.ok(&["vm", "resize", "one", "--memory", "512MiB", "--disk", "2GiB", "--wait"]);
    let view = hull.until("one", "resized", |view| view["settled"] == true);
    let grown = hull.ssh("one", &key, "cat /sys/block/vda/size").trim().parse::<u64>().unwrap() * 512 == 2 << 30;
    let pending = view["status"]["pending"].to_string();
    assert!(grown || pending.contains("disk"), "{view:#}");
    let seen =
        |hull: &Hull| hull.ssh("one", &key, "awk '/MemTotal/{print $2}' /proc/meminfo").trim().parse::<u64>().unwrap();
    assert!(seen(&hull) > 400_000 || pending.contains("memory"), "{view:#}");

    // The power button is heard; a start finds everything as large as asked.
    assert_eq!(hull.json(&["vm", "stop", "one", "--wait"])["state"], "stopped");
    assert!(hull.console("one").contains("HULL-GUEST-BUTTON"), "the log of a machine that is off can be read");
    assert_eq!(hull.json(&["vm", "start", "one", "--wait"])["state"], "running");
    assert!(hull.console("one").contains("HULL-GUEST-BUTTON"));
    assert!(seen(&hull) > 400_000);
    assert_eq!(hull.ssh("one", &key, "cat /sys/block/vda/size").trim(), "4194304");
    assert_eq!(hull.vm("one")["status"]["pending"].as_array().map_or(0, Vec::len), 0);

    // What was written on its disk is there in rescue, and gone after a rebuild.
    hull.ssh("one", &key, "printf kept | dd of=/dev/vda bs=1M seek=1500 conv=notrunc; sync");
    assert_eq!(hull.json(&["vm", "rescue", "one", "--wait"])["state"], "running");
    let found = "for disk in /dev/vd?; do dd if=$disk bs=1M skip=1500 count=1 2>/dev/null | head -c 4; done";
    assert_eq!(hull.ssh("one", &key, found), "kept");
    assert_eq!(hull.vm("one")["status"]["rescue"], true);
    assert_eq!(hull.json(&["vm", "unrescue", "one", "--wait"])["state"], "running");
    assert_eq!(hull.ssh("one", &key, found), "kept");
    assert_eq!(hull.vm("one")["status"]["rescue"], false);
    assert_eq!(hull.json(&["vm", "rebuild", "one", "--wait"])["state"], "running");
    assert_eq!(hull.ssh("one", &key, found).trim_matches('\0'), "");
}
