//! Placement in a cloud of 10,000 nodes that hold 100,000 VMs: the pure function, on one core.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use hull_core::placement::{Candidate, Room, place};
use hull_types::{Timestamp, flavor::Resources, id::NodeId, name::Name, units::Bytes};
use uuid::Uuid;

use crate::{
    Effort,
    table::{Row, Samples, number},
};

const NODES: u32 = 10_000;
const VMS: u64 = 100_000;

pub(crate) fn rows(effort: Effort) -> Vec<Row> {
    let size = Resources { vcpus: 2, memory: Bytes::gib(4), disk: Bytes::gib(20) };
    let mut nodes: Vec<Candidate> = (0..NODES).filter_map(node).collect();
    let mut each = Samples::default();
    let mut spent = Duration::ZERO;
    for _ in 0..effort.runs(20_000, 5_000) {
        let begin = Instant::now();
        let chosen = place(black_box(&size), black_box(&nodes), Timestamp::UNIX_EPOCH);
        let took = begin.elapsed();
        spent += took;
        each.took(took);
        // The node holds it from now on, so that no two decisions are alike.
        if let Some(node) = nodes.iter_mut().find(|node| Ok(node.id) == chosen) {
            node.free = node.free.minus(Room::of(&size));
        }
    }
    let rate = each_per_second(&each, spent);
    let measured = format!("{}; {}/s", each.percentiles("ms"), number(rate));
    vec![Row::new("placement, 10,000 nodes, 100,000 VMs", "≤ 1 ms p99, ≥ 5,000/s", measured)]
}

fn each_per_second(each: &Samples, spent: Duration) -> f64 {
    each.len() as f64 / spent.as_secs_f64()
}

/// A host of 64 CPUs and 512 GiB that holds its share of the VMs, unevenly.
fn node(number: u32) -> Option<Candidate> {
    let held = (u64::from(number) * 7919) % (2 * VMS / u64::from(NODES) + 1);
    let capacity = Room { vcpus: 512, memory: Bytes::gib(512), disk: Bytes::gib(40_000) };
    let used = Room { vcpus: 2 * held, memory: Bytes::gib(4 * held), disk: Bytes::gib(20 * held) };
    Some(Candidate {
        id: NodeId(Uuid::from_u128(u128::from(number))),
        name: format!("n{number}").parse::<Name>().ok()?,
        maintenance: false,
        silent_since: None,
        capacity: Some(capacity),
        free: capacity.minus(used),
    })
}
