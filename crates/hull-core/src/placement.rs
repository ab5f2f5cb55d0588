//! Placement: which node a VM goes to, or the sentence that says why none.
//!
//! One pass over plain structs the scheduler keeps up to date, no allocation unless nothing fits: 10,000 nodes take well
//! under a millisecond. Memory is never promised twice; CPUs and thin disks are, within bounds.
//!
//! Each node is judged by the first thing against it, in this order: maintenance, silence, memory, vCPUs, disk. Of the
//! nodes that fit, the one with the largest share of memory free afterwards wins (spreading), then the one with the
//! larger share of vCPUs, then the older node; so the answer depends on nothing but the views.

use std::cmp::Reverse;

use hull_types::{
    Timestamp,
    error::{Error, Result},
    flavor::Resources,
    id::NodeId,
    name::Name,
    node::{Node, NodeStatus},
    reason::{Reason, ReasonCode},
    units::Bytes,
};

/// vCPUs promised for each logical CPU. Guests idle most of the time; cgroup weights share what is there.
pub const VCPUS_PER_CPU: u64 = 8;

/// Bytes of virtual disk promised for each byte of the file system. Disks are thin; a node warns before it is full.
pub const DISK_OVERCOMMIT: u64 = 4;

/// A node with less free than this takes no new VMs: the ones it has need it.
pub const DISK_FLOOR: Bytes = Bytes::gib(1);

/// Room for VMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// vCPUs.
    pub vcpus: u64,
    /// Memory.
    pub memory: Bytes,
    /// Virtual disk.
    pub disk: Bytes,
}

impl Room {
    /// What a VM of this size takes.
    pub fn of(size: &Resources) -> Self {
        Self { vcpus: u64::from(size.vcpus), memory: size.memory, disk: size.disk }
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            memory: self.memory.saturating_add(other.memory),
            disk: self.disk.saturating_add(other.disk),
        }
    }

    /// The rest, at least nothing.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(other.vcpus),
            memory: self.memory.saturating_sub(other.memory),
            disk: self.disk.saturating_sub(other.disk),
        }
    }

    fn lacks(self, need: Self) -> Option<Lack> {
        match () {
            () if self.memory < need.memory => Some(Lack::Memory),
            () if self.vcpus < need.vcpus => Some(Lack::Vcpus),
            () if self.disk < need.disk => Some(Lack::Disk),
            () => None,
        }
    }
}

/// A node as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// An operator took it out.
    pub maintenance: bool,
    /// Since when it does not answer; none while it does.
    pub silent_since: Option<Timestamp>,
    /// What it could hold were it empty; none until it has ever reported.
    pub capacity: Option<Room>,
    /// What it can hold now.
    pub free: Room,
}

impl Candidate {
    /// The view of a node that holds VMs of `allocated` in sum.
    pub fn new(node: &Node, status: Option<&NodeStatus>, silent_since: Option<Timestamp>, allocated: Room) -> Self {
        let capacity = status.map(|status| Room {
            vcpus: u64::from(status.facts.cpus) * VCPUS_PER_CPU,
            memory: status.facts.memory.saturating_sub(status.facts.memory_reserved),
            disk: Bytes(status.facts.disk.0.saturating_mul(DISK_OVERCOMMIT)),
        });
        let mut free = capacity.unwrap_or_default().minus(allocated);
        if status.is_some_and(|status| status.disk_free < DISK_FLOOR) {
            free.disk = Bytes::ZERO;
        }
        Self { id: node.id, name: node.name.clone(), maintenance: node.maintenance, silent_since, capacity, free }
    }
}

/// What stands against a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lack {
    Maintenance,
    Silent,
    Memory,
    Vcpus,
    Disk,
}

fn judge(node: &Candidate, need: Room) -> Option<Lack> {
    if node.maintenance {
        Some(Lack::Maintenance)
    } else if node.silent_since.is_some() || node.capacity.is_none() {
        Some(Lack::Silent)
    } else {
        node.free.lacks(need)
    }
}

/// The node for a VM of this size, or why there is none. `now` dates the reason.
pub fn place(size: &Resources, nodes: &[Candidate], now: Timestamp) -> std::result::Result<NodeId, Reason> {
    let need = Room::of(size);
    let best = nodes.iter().filter(|node| judge(node, need).is_none()).max_by_key(|node| {
        let capacity = node.capacity.unwrap_or_default();
        let share = |left: u64, of: u64| (u128::from(left) << 16) / u128::from(of.max(1));
        (
            share(node.free.memory.0 - need.memory.0, capacity.memory.0),
            share(node.free.vcpus - need.vcpus, capacity.vcpus),
            Reverse(node.id),
        )
    });
    best.map(|node| node.id).ok_or_else(|| no_fit(need, nodes, now))
}

/// Refuses at the door what no node could hold even were it empty. Where no node is known yet nothing is refused: one
/// may join.
pub fn ceiling(size: &Resources, nodes: &[Candidate]) -> Result<()> {
    let need = Room::of(size);
    let mut known = nodes.iter().filter_map(|node| Some((node, node.capacity?))).peekable();
    if known.peek().is_none() || known.clone().any(|(_, capacity)| capacity.lacks(need).is_none()) {
        return Ok(());
    }
    let Some((largest, room)) = known.max_by_key(|(_, room)| (room.memory, room.vcpus, room.disk)) else {
        return Ok(());
    };
    let detail = format!(
        "no node could ever hold it: it needs {}; the largest node, {}, has {} in all; ask for less, or add a larger node",
        amounts(need),
        largest.name,
        amounts(room),
    );
    Err(Error::new(hull_types::error::ErrorKind::InsufficientResources, detail).at("/resources"))
}

fn amounts(room: Room) -> String {
    format!("{} of memory, {} vCPUs and {} of disk", room.memory, room.vcpus, room.disk)
}

/// `0 of 12 nodes fit: 8 lack memory (need 4 GiB, most free 2.1 GiB on n7), 3 in maintenance, 1 does not answer since 12:03`
fn no_fit(need: Room, nodes: &[Candidate], now: Timestamp) -> Reason {
    if nodes.is_empty() {
        let message = "no node has joined yet; start one with `hull node` and a join token";
        return Reason::new(ReasonCode::NoNodes, message, now);
    }
    let lacking = |lack: Lack| nodes.iter().filter(move |node| judge(node, need) == Some(lack));
    let most = |lack: Lack, amount: fn(&Room) -> u64, show: fn(u64) -> String, what: &str, need: u64| {
        let count = lacking(lack).count();
        let top = lacking(lack).max_by_key(|node| (amount(&node.free), Reverse(node.id)))?;
        let verb = if count == 1 { "lacks" } else { "lack" };
        let free = show(amount(&top.free));
        Some(format!("{count} {verb} {what} (need {}, most free {free} on {})", show(need), top.name))
    };
    let bytes = |n: u64| Bytes(n).to_string();
    let count = |n: u64| n.to_string();
    let maintenance = lacking(Lack::Maintenance).count();
    let silent = lacking(Lack::Silent).count();
    let parts: Vec<String> = [
        most(Lack::Memory, |room| room.memory.0, bytes, "memory", need.memory.0),
        most(Lack::Vcpus, |room| room.vcpus, count, "vCPUs", need.vcpus),
        most(Lack::Disk, |room| room.disk.0, bytes, "disk", need.disk.0),
        (maintenance > 0).then(|| format!("{maintenance} in maintenance")),
        (silent > 0).then(|| {
            let verb = if silent == 1 { "does not answer" } else { "do not answer" };
            let since = lacking(Lack::Silent).filter_map(|node| node.silent_since).min();
            format!("{silent} {verb}{}", since.map(|at| format!(" since {}", clock(at, now))).unwrap_or_default())
        }),
    ]
    .into_iter()
    .flatten()
    .collect();
    let noun = if nodes.len() == 1 { "node fits" } else { "nodes fit" };
    let message = format!("0 of {} {noun}: {}", nodes.len(), parts.join(", "));
    Reason::new(ReasonCode::NoNodeFits, message, now)
}

/// The time of day (UTC) where it was today, with the date where it was not.
pub fn clock(at: Timestamp, now: Timestamp) -> String {
    let day = |t: Timestamp| t.as_second().div_euclid(86_400);
    let form = if day(at) == day(now) { "%H:%M UTC" } else { "%Y-%m-%d %H:%M UTC" };
    at.strftime(form).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{self, NOW};

    fn node(n: u8, memory: u64, vcpus: u64, disk: u64) -> Candidate {
        let free = Room { vcpus, memory: Bytes::mib(memory), disk: Bytes::gib(disk) };
        let capacity = Some(Room { vcpus: 64, memory: Bytes::gib(16), disk: Bytes::gib(400) });
        let id = NodeId(uuid::Uuid::from_u128(u128::from(n)));
        let name = Name::new(&format!("n{n}")).unwrap();
        Candidate { id, name, maintenance: false, silent_since: None, capacity, free }
    }

    fn size(vcpus: u16, memory: u64, disk: u64) -> Resources {
        Resources { vcpus, memory: Bytes::mib(memory), disk: Bytes::gib(disk) }
    }

    #[test]
    fn the_sentence_counts_what_stands_against_each_node() {
        let mut nodes: Vec<_> = (0..8).map(|n| node(n, 1100 + u64::from(n) * 150, 8, 100)).collect();
        nodes.extend((8..11).map(|n| Candidate { maintenance: true, ..node(n, 16_000, 8, 100) }));
        let since = testing::at(-600);
        nodes.push(Candidate { silent_since: Some(since), ..node(11, 16_000, 8, 100) });
        let reason = place(&size(1, 4096, 10), &nodes, NOW).unwrap_err();
        assert_eq!(reason.code, ReasonCode::NoNodeFits);
        assert_eq!(
            reason.message,
            "0 of 12 nodes fit: 8 lack memory (need 4 GiB, most free 2.1 GiB on n7), 3 in maintenance, \
             1 does not answer since 11:50 UTC"
        );
        let reason = place(&size(9, 64, 500), &[node(1, 100, 8, 100), node(2, 100, 64, 90)], NOW).unwrap_err();
        assert_eq!(
            reason.message,
            "0 of 2 nodes fit: 1 lacks vCPUs (need 9, most free 8 on n1), 1 lacks disk (need 500 GiB, most free 90 GiB on n2)"
        );
        assert_eq!(place(&size(1, 64, 1), &[], NOW).unwrap_err().code, ReasonCode::NoNodes);
    }

    #[test]
    fn the_emptiest_node_that_fits_wins_and_ties_go_to_the_oldest() {
        let nodes = [node(3, 1000, 8, 100), node(1, 4000, 8, 100), node(2, 4000, 8, 100), node(4, 9000, 8, 1)];
        assert_eq!(place(&size(1, 512, 10), &nodes, NOW), Ok(nodes[1].id));
    }

    #[test]
    fn what_no_node_could_ever_hold_is_refused_at_the_door() {
        let nodes = [node(1, 0, 0, 0)];
        assert!(ceiling(&size(1, 16 << 10, 1), &nodes).is_ok(), "it would fit were the node empty");
        let detail = ceiling(&size(1, 17 << 10, 1), &nodes).unwrap_err().detail;
        assert!(detail.contains("needs 17 GiB of memory") && detail.contains("n1, has 16 GiB"), "{detail}");
        assert!(ceiling(&size(65, 64, 1), &nodes).is_err());
        assert!(ceiling(&size(1, 64, 401), &nodes).is_err());
        assert!(ceiling(&size(255, 17 << 10, 1), &[]).is_ok(), "nodes may yet join");
    }

    #[test]
    fn a_node_short_of_disk_takes_nothing_new() {
        let (node, mut status) = testing::node("n1");
        assert!(place(&size(1, 64, 1), &[Candidate::new(&node, Some(&status), None, Room::default())], NOW).is_ok());
        status.disk_free = Bytes::mib(500);
        assert!(place(&size(1, 64, 1), &[Candidate::new(&node, Some(&status), None, Room::default())], NOW).is_err());
        assert!(place(&size(1, 64, 1), &[Candidate::new(&node, None, None, Room::default())], NOW).is_err());
    }

    fn any_node() -> impl Strategy<Value = Candidate> {
        (0u8..200, 0u64..8000, 0u64..32, 0u64..200, 0u8..10).prop_map(|(n, memory, vcpus, disk, odd)| Candidate {
            maintenance: odd == 0,
            silent_since: (odd == 1).then_some(NOW),
            ..node(n, memory, vcpus, disk)
        })
    }

    proptest! {
        #[test]
        fn a_chosen_node_fits_and_none_is_chosen_only_if_none_fits(
            nodes in prop::collection::vec(any_node(), 0..30), vcpus in 1u16..32, memory in 16u64..8000, disk in 0u64..200,
        ) {
            let size = size(vcpus, memory, disk);
            let fits = |n: &Candidate| !n.maintenance && n.silent_since.is_none() && n.free.memory >= size.memory
                && n.free.vcpus >= u64::from(size.vcpus) && n.free.disk >= size.disk;
            match place(&size, &nodes, NOW) {
                Ok(id) => prop_assert!(nodes.iter().any(|n| n.id == id && fits(n))),
                Err(reason) => {
                    prop_assert!(!nodes.iter().any(fits));
                    let all = format!("0 of {} node", nodes.len());
                    prop_assert!(nodes.is_empty() || reason.message.starts_with(&all), "{}", reason.message);
                }
            }
        }
    }
}
