//! Never twice, never stuck, nothing leaked, history complete: by many seeds.
#![allow(clippy::unwrap_used)]

use hull_sim::run::{Plan, run};

/// Seeds that once broke a promise.
const REGRESSIONS: &[u64] = &[];

fn check(plan: Plan) -> usize {
    let verdict = run(plan);
    assert!(
        verdict.broken.is_empty(),
        "seed {} broke promises; play it again with HULL_SIM_SEED={}\n{}\n--- what was done:\n{}",
        plan.seed,
        plan.seed,
        verdict.broken.join("\n"),
        verdict.journal.join("\n"),
    );
    verdict.created
}

fn seeds(from: u64, count: u64) -> Vec<u64> {
    match std::env::var("HULL_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (from..from + count).collect(),
    }
}

fn many(from: u64, count: u64) {
    let created: usize = seeds(from, count).into_iter().map(|seed| check(Plan { seed, nodes: 3, steps: 60 })).sum();
    assert!(created > 0, "runs that create nothing show nothing");
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
        check(Plan { seed, nodes: 3, steps: 60 });
    }
}
