//! Never twice, never stuck, nothing leaked, history complete: by many seeds.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use hull_sim::run::{Plan, run};

/// Seeds that once broke a promise.
const REGRESSIONS: &[u64] = &[];

fn check(plan: Plan) -> BTreeMap<String, usize> {
    let verdict = run(plan);
    assert!(
        verdict.broken.is_empty(),
        "seed {} broke promises; play it again with HULL_SIM_SEED={}\n{}\n--- what was done:\n{}",
        plan.seed,
        plan.seed,
        verdict.broken.join("\n"),
        verdict.journal.join("\n"),
    );
    verdict.history
}

fn seeds(from: u64, count: u64) -> Vec<u64> {
    match std::env::var("HULL_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (from..from + count).collect(),
    }
}

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
    "vm.unrescue",
    "vm.lock",
    "vm.unlock",
    "vm.update",
    "vm.state running",
    "vm.state paused",
    "vm.state stopped",
    "vm.state suspended",
    "vm.state failed",
    "image.create",
    "image.delete",
    "image.gone",
];

fn many(from: u64, count: u64) {
    let seeds = seeds(from, count);
    let mut seen = BTreeMap::<String, usize>::new();
    for &seed in &seeds {
        for (kind, times) in check(Plan { seed, nodes: 3, steps: 80 }) {
            *seen.entry(kind).or_default() += times;
        }
    }
    let unseen: Vec<_> = SEEN.iter().filter(|kind| !seen.contains_key(**kind)).collect();
    assert!(seeds.len() == 1 || unseen.is_empty(), "no run came to {unseen:?}; seen: {seen:?}");
    eprintln!("{} runs: {seen:?}", seeds.len());
}

#[test]
fn promises_hold_whatever_happens_1() {
    many(0, 50);
}

#[test]
fn promises_hold_whatever_happens_2() {
    many(1000, 50);
}

#[test]
fn seeds_that_once_broke_a_promise_hold() {
    for &seed in REGRESSIONS {
        check(Plan { seed, nodes: 3, steps: 80 });
    }
}

#[test]
fn a_seed_is_one_run() {
    let plan = Plan { seed: 7, nodes: 3, steps: 60 };
    let (one, other) = (run(plan), run(plan));
    assert_eq!(one.journal, other.journal);
    assert_eq!((one.revisions, one.history), (other.revisions, other.history));
}
