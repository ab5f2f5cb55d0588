//! Never twice, never stuck, nothing leaked, history complete: by many seeds.
//!
//! Each run is a process of its own, because a seed must fix everything: `HashMap`'s keys and tokio's `select!` draw from
//! the system's randomness, of which this binary has its own kind (`seeded`), and from a counter of runtimes made in
//! the process. `HULL_SIM_SEED=<seed> cargo nextest run -p hull-sim promises` plays one run again.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod seeded;

use std::{collections::BTreeMap, ops::Range, process::Command};

use hull_sim::{
    run::{Plan, Verdict, run},
    steps::Focus,
};

const NODES: usize = 3;
const STEPS: usize = 80;
/// The seeds of runs that are about migrations most of all.
const MIGRATING: Range<u64> = 5_000..10_000;

/// What runs must have come to see, or they would show nothing.
const SEEN: &[&str] = &[
    "vm.create",
    "vm.delete",
    "vm.gone",
    "vm.place",
    "vm.exit",
    "vm.start",
    "vm.stop",
    "vm.reboot",
    "vm.pause",
    "vm.resume",
    "vm.suspend",
    "vm.resize",
    "vm.rebuild",
    "vm.rescue",
    "vm.migrate",
    "vm.move",
    "vm.unrescue",
    "vm.lock",
    "vm.unlock",
    "vm.update",
    "vm.state running",
    "vm.state paused",
    "vm.state stopped",
    "vm.state suspended",
    "vm.state failed",
    "vm.attach-nic",
    "vm.detach-nic",
    "network.create",
    "network.delete",
    "subnet.create",
    "subnet.delete",
    "port.create",
    "port.delete",
    "router.create",
    "router.add-subnet",
    "router.remove-subnet",
    "router.set-gateway",
    "router.gateway",
    "router.delete",
    "floating-ip.create",
    "floating-ip.assign",
    "floating-ip.delete",
    "security-group.create",
    "security-group.delete",
    "image.create",
    "image.delete",
    "image.gone",
];

/// What runs about migrations must have come to see.
const MOVED: &[&str] = &["vm.migrate", "vm.move", "vm.migrate-cancelled", "vm.migrate-failed"];

/// The seed asked for, in the child or by whoever plays a run again.
fn seed_asked() -> Option<u64> {
    std::env::var("HULL_SIM_SEED").ok()?.parse().ok()
}

fn play(seed: u64) -> Verdict {
    let focus = if MIGRATING.contains(&seed) { Focus::Migrations } else { Focus::Everything };
    seeded::play(seed, move || run(Plan { seed, nodes: NODES, steps: STEPS, focus }))
}

/// The body of a child: one run. Prints what it saw for its parent.
#[test]
#[ignore = "the others run it, each time in a process of its own"]
fn one_run() {
    let seed = seed_asked().expect("HULL_SIM_SEED says which run");
    let verdict = play(seed);
    assert!(
        verdict.broken.is_empty(),
        "seed {seed} broke promises; play it again with HULL_SIM_SEED={seed}\n{}\n--- what was done:\n{}",
        verdict.broken.join("\n"),
        verdict.journal.join("\n"),
    );
    println!("\nrevisions {}", verdict.revisions);
    for (kind, times) in verdict.history {
        println!("saw {times} {kind}");
    }
    for line in verdict.journal {
        println!("did {line}");
    }
}

/// A run in a process of its own; what it printed.
fn child(seed: u64) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "one_run", "--ignored", "--nocapture"]).env("HULL_SIM_SEED", seed.to_string());
    let output = command.output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    said.into_owned()
}

fn promises_hold(seeds: Range<u64>, must_see: &[&str]) {
    if let Some(seed) = seed_asked() {
        return drop(child(seed));
    }
    let mut seen = BTreeMap::<String, u64>::new();
    for said in seeds.map(child) {
        for (times, kind) in said.lines().filter_map(|line| line.strip_prefix("saw ")?.split_once(' ')) {
            *seen.entry(kind.to_owned()).or_default() += times.parse::<u64>().unwrap();
        }
    }
    let unseen: Vec<_> = must_see.iter().filter(|kind| !seen.contains_key(**kind)).collect();
    assert!(unseen.is_empty(), "no run came to {unseen:?}; seen: {seen:?}");
}

#[test]
fn promises_hold_whatever_happens_1() {
    promises_hold(0..60, SEEN);
}

#[test]
fn promises_hold_whatever_happens_2() {
    promises_hold(1000..1060, SEEN);
}

#[test]
fn promises_hold_on_the_way() {
    promises_hold(MIGRATING.start..MIGRATING.start + 60, MOVED);
}

#[test]
fn a_seed_is_one_run() {
    let said = |seed| child(seed).lines().filter(|line| !line.starts_with("test ")).collect::<Vec<_>>().join("\n");
    let lines = |text: String| text.split("finished in").next().unwrap().to_owned();
    for seed in 2000..2003 {
        assert_eq!(lines(said(seed)), lines(said(seed)), "seed {seed}");
    }
}
