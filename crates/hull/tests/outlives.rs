//! Machines outlive Hull, and Hull outlives machines' ends. Needs root and QEMU.

#![allow(clippy::unwrap_used)]

mod kit;

use hull_testkit::{KillOnDrop, guest::READY};
use kit::{Hull, Running, number, processes, text};

/// A ping of the VM from its network's gateway on the host, five times a second until interrupted.
fn ping(hull: &Hull, address: &str) -> Running {
    let [namespace] = hull.namespaces().try_into().unwrap();
    let mut ping = std::process::Command::new("nsenter");
    // 2 s: an emulated guest on a loaded machine may be slow, which is not lost.
    ping.arg(format!("--net=/run/netns/{namespace}")).args(["ping", "-i", "0.2", "-W", "2", address]);
    Running::start(ping)
}

/// Sent and received, by ping's own last words.
fn counted(said: &str) -> (u64, u64) {
    let line = said.lines().find(|line| line.contains("packets transmitted")).unwrap_or_else(|| panic!("{said}"));
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    (numbers[0], numbers[1])
}

#[test]
fn a_killed_hull_loses_no_packet_no_line_and_no_machine() {
    let hull = Hull::with_tiny();
    let key = hull.key();
    let vm = hull.create("one", &["--ssh-key", key.with_extension("pub").to_str().unwrap()]);
    hull.until_said("one", READY, 1);
    // One line each half second on the console, before, while and after Hull is dead.
    let typing = hull.types("one", "\ni=0; while true; do i=$((i+1)); echo HULL-TEST-$i.; usleep 500000; done &\n");
    hull.until_said("one", "HULL-TEST-2.", 1);
    drop(typing);
    let ping = ping(&hull, text(&vm, "/addresses/0/address"));

    hull.kill();
    let pid = number(&vm, "/status/vmm/pid");
    assert_eq!(processes(text(&vm, "/id")), [u32::try_from(pid).unwrap()], "QEMU runs on without Hull");
    let refusal = hull.refused(6, &["vm", "list"]);
    assert!(refusal.contains("hull up"), "{refusal}");
    // The log file is QEMU's own: it grows without Hull.
    let file = kit::traces(&hull.data().join("node"), "console.log").remove(0);
    let grows = |lines: usize| {
        let log = std::fs::read_to_string(&file).unwrap();
        let seen = log.matches("HULL-TEST-").count();
        if seen >= lines { Ok(seen) } else { Err(seen) }
    };
    let seen = grows(0).unwrap();
    hull_testkit::eventually_blocking("the console goes on", kit::DEADLINE, || grows(seen + 4)).unwrap();

    hull.up();
    let again = hull.until("one", "running again", |view| view["state"] == "running" && view["settled"] == true);
    assert_eq!(number(&again, "/status/vmm/pid"), pid, "the same process is taken over");
    assert_eq!(again["status"]["vmm"]["started_at"], vm["status"]["vmm"]["started_at"]);
    hull_testkit::eventually_blocking("the console goes on", kit::DEADLINE, || grows(seen + 8)).unwrap();
    let log = hull.console("one");
    // The line that was typed is there too, with `$i` for the number.
    let last = log.matches("HULL-TEST-").count() - 1;
    let missing: Vec<usize> = (1..last).filter(|line| !log.contains(&format!("HULL-TEST-{line}."))).collect();
    assert_eq!(missing, [0; 0], "the console has a gap");
    assert_eq!(log.matches(READY).count(), 1);
    let (sent, received) = counted(&ping.interrupt());
    assert!(sent >= 20 && received + 1 >= sent, "{received} of {sent}: only the one under way at the end may miss");
    hull.ssh("one", &key, "true");
}

#[test]
fn a_killed_machine_is_started_again_and_says_why() {
    let hull = Hull::with_tiny();
    let vm = hull.create("one", &["--restart", "on-failure"]);
    hull.until_said("one", READY, 1);
    let (id, pid) = (text(&vm, "/id"), number(&vm, "/status/vmm/pid"));

    KillOnDrop::new(u32::try_from(pid).unwrap()).unwrap().kill().unwrap();

    let again = hull.until("one", "started again", |view| {
        view["state"] == "running" && view["status"]["vmm"]["pid"].as_u64().is_some_and(|new| new != pid)
    });
    assert!(text(&again, "/status/last_exit/detail").contains("killed by signal 9"), "{again:#}");
    assert_eq!(number(&again, "/status/restarts"), 1);
    hull.until_said("one", READY, 2);
    let history = hull.history(id);
    assert!(history.iter().any(|(_, message)| message.contains("restart 1 follows")), "{history:#?}");
    let explained = hull.ok(&["explain", "vm", "one"]);
    assert!(explained.contains("killed by signal 9"), "{explained}");

    // Another policy, another end: it rests, and says that it does.
    hull.ok(&["vm", "update", "one", "--restart", "never"]);
    hull.until("one", "told", |view| view["status"]["observed_revision"] == view["revision"]);
    let pid = number(&hull.vm("one"), "/status/vmm/pid");
    KillOnDrop::new(u32::try_from(pid).unwrap()).unwrap().kill().unwrap();
    let rests = hull.until("one", "at rest", |view| view["settled"] == true && view["status"]["vmm"].is_null());
    assert_eq!(text(&rests, "/reason/code"), "hypervisor-died", "{rests:#}");
    assert!(text(&rests, "/reason/message").contains("its restart policy (never) leaves it off"), "{rests:#}");
    assert_eq!(hull.json(&["vm", "start", "one", "--wait"])["state"], "running");
}
