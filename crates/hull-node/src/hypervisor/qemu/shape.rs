//! How large a machine is, how large it may become while it runs, and what has been plugged in so far.
//!
//! ```text
//!   at start:  vcpus ≤ max_vcpus          memory ≤ max_memory
//!   online:    + plugged_cpus (core ids)  + dimms (multiples of 128 MiB, one slot each)
//!   now:       vcpus + plugged            memory + sum of dimms
//!
//!   slots of a pc (PCIe root ports):   disks … | NICs, each where it was first plugged … | free
//! ```
//!
//! A saved machine bears its shape, because QEMU can only load the state of the very machine that was saved.

use hull_types::{flavor::Resources, id::PortId, network::Mac, units::Bytes, vm::Profile};
use serde::{Deserialize, Serialize};

use crate::hypervisor::PluggedNic;

/// Memory of a running x86 Linux grows by blocks of this size.
const MEMORY_BLOCK: Bytes = Bytes::mib(128);
const DIMM_SLOTS: u16 = 16;
const MOST_VCPUS: u16 = 255;
/// PCIe root ports left free for devices to come.
pub(super) const SPARE_SLOTS: u16 = 4;

/// A machine's size now and at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shape {
    /// CPUs at start.
    pub vcpus: u16,
    /// CPUs it has room for.
    pub max_vcpus: u16,
    /// Memory at start.
    pub memory: Bytes,
    /// Memory it has room for.
    pub max_memory: Bytes,
    /// Slots for memory to come.
    pub dimm_slots: u16,
    /// Core ids of CPUs plugged in later.
    pub plugged_cpus: Vec<u16>,
    /// Sizes of memory plugged in later, in order.
    pub dimms: Vec<Bytes>,
    /// The root disk's size as the guest was last told.
    pub disk: Bytes,
    /// Slots for disks and NICs; none on a micro.
    #[serde(default)]
    pub slots: u16,
    /// The first slot that is not a disk's.
    #[serde(default)]
    pub first_nic: u16,
    /// NICs, in the order they came; not known of a machine that an earlier Hull started.
    #[serde(default)]
    pub nics: Option<Vec<NicSeat>>,
}

/// A NIC and where it is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NicSeat {
    pub port: PortId,
    pub mac: Mac,
    pub mtu: u16,
    /// On a micro, of no meaning.
    pub slot: u16,
}

impl NicSeat {
    pub(super) fn nic(&self) -> PluggedNic {
        PluggedNic { port: self.port, mac: self.mac }
    }
}

/// What shall be plugged in, and what cannot be done while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Growth {
    pub cores: Vec<u16>,
    pub dimm: Option<Bytes>,
    pub pending: Vec<String>,
}

impl Shape {
    /// A machine of this size with room to grow: on `pc` to four times the CPUs and memory, and at least to 8 CPUs and
    /// 4 GiB more. Room costs the guest page structures only as it is used.
    pub(super) fn new(profile: Profile, size: Resources) -> Self {
        let (max_vcpus, max_memory, dimm_slots) = match profile {
            Profile::Micro => (size.vcpus, size.memory, 0),
            Profile::Pc => {
                let memory = size.memory.0.saturating_mul(4).max(size.memory.0.saturating_add(Bytes::gib(4).0));
                // QEMU wants the ceiling to be a whole number of its own memory blocks.
                let ceiling = Bytes(memory.div_ceil(Bytes::gib(1).0).saturating_mul(Bytes::gib(1).0));
                (size.vcpus.saturating_mul(4).clamp(8, MOST_VCPUS).max(size.vcpus), ceiling, DIMM_SLOTS)
            }
        };
        Self {
            vcpus: size.vcpus,
            max_vcpus,
            memory: size.memory,
            max_memory,
            dimm_slots,
            plugged_cpus: Vec::new(),
            dimms: Vec::new(),
            disk: size.disk,
            slots: 0,
            first_nic: 0,
            nics: None,
        }
    }

    /// Gives disks and NICs (with their MTUs) their places, before the first start.
    pub(super) fn seat(&mut self, profile: Profile, disks: usize, nics: impl IntoIterator<Item = (PluggedNic, u16)>) {
        // A machine has a few dozen devices at most.
        self.first_nic = u16::try_from(disks).unwrap_or(u16::MAX);
        let mut next = self.first_nic;
        let seats = nics.into_iter().map(|(nic, mtu)| {
            let seat = NicSeat { port: nic.port, mac: nic.mac, mtu, slot: next };
            next = next.saturating_add(1);
            seat
        });
        self.nics = Some(seats.collect());
        self.slots = match profile {
            Profile::Pc => next.saturating_add(SPARE_SLOTS),
            Profile::Micro => 0,
        };
    }

    /// A slot for one more NIC.
    pub(super) fn free_slot(&self) -> Option<u16> {
        let seats = self.nics.as_deref().unwrap_or_default();
        (self.first_nic..self.slots).find(|slot| !seats.iter().any(|seat| seat.slot == *slot))
    }

    /// The size it has now.
    pub(super) fn now(&self) -> Resources {
        Resources {
            vcpus: self.vcpus.saturating_add(u16::try_from(self.plugged_cpus.len()).unwrap_or(u16::MAX)),
            memory: self.memory.saturating_add(self.dimms.iter().copied().sum()),
            disk: self.disk,
        }
    }

    /// How to come as near to this size as can be while it runs.
    pub(super) fn grow_to(&self, to: Resources) -> Growth {
        let mut growth = Growth::default();
        self.grow_cpus(to.vcpus, &mut growth);
        self.grow_memory(to.memory, &mut growth);
        growth
    }

    fn grow_cpus(&self, to: u16, growth: &mut Growth) {
        let now = self.now().vcpus;
        let reach = to.min(self.max_vcpus);
        // Cores 0..vcpus are there from the start; plugged ones follow in order.
        growth.cores = (now..reach).collect();
        if to != now.max(reach) {
            let why = if to < now { "CPUs cannot be taken from it while it runs" } else { "it has no room for more" };
            growth.pending.push(format!("{to} CPUs take effect at the next start (now {}: {why})", now.max(reach)));
        }
    }

    fn grow_memory(&self, to: Bytes, growth: &mut Growth) {
        let now = self.now().memory;
        if to == now {
            return;
        }
        let wanted = to.saturating_sub(now);
        let why = if to < now {
            "memory cannot be taken from it while it runs"
        } else if to > self.max_memory || self.dimms.len() >= usize::from(self.dimm_slots) {
            "it has no room for more"
        } else if !wanted.0.is_multiple_of(MEMORY_BLOCK.0) {
            "memory grows in steps of 128 MiB while it runs"
        } else {
            growth.dimm = Some(wanted);
            return;
        };
        growth.pending.push(format!("{to} of memory takes effect at the next start (now {now}: {why})"));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn size(vcpus: u16, mib: u64) -> Resources {
        Resources { vcpus, memory: Bytes::mib(mib), disk: Bytes::gib(1) }
    }

    #[test]
    fn a_pc_has_room_and_a_micro_has_none() {
        let pc = Shape::new(Profile::Pc, size(2, 512));
        assert_eq!((pc.max_vcpus, pc.max_memory), (8, Bytes::gib(5)));
        assert_eq!(Shape::new(Profile::Pc, size(200, 512)).max_vcpus, 255);
        let micro = Shape::new(Profile::Micro, size(2, 512));
        assert_eq!((micro.max_vcpus, micro.max_memory), (2, Bytes::mib(512)));
    }

    #[test]
    fn nics_keep_their_slots_and_a_freed_one_is_used_again() {
        let nic = |number| PluggedNic { port: PortId(uuid::Uuid::from_u128(number)), mac: Mac([2, 0, 0, 0, 0, 1]) };
        let mut shape = Shape::new(Profile::Pc, size(1, 512));
        shape.seat(Profile::Pc, 2, [(nic(1), 1500), (nic(2), 1500)]);
        let slots = |shape: &Shape| shape.nics.iter().flatten().map(|seat| seat.slot).collect::<Vec<_>>();
        assert_eq!((slots(&shape), shape.slots, shape.free_slot()), (vec![2, 3], 8, Some(4)));
        shape.nics.as_mut().unwrap().remove(0);
        assert_eq!((slots(&shape), shape.free_slot()), (vec![3], Some(2)));
        for slot in [2, 4, 5, 6, 7] {
            assert_eq!(shape.free_slot(), Some(slot));
            let seat = NicSeat { port: nic(9).port, mac: nic(9).mac, mtu: 1500, slot };
            shape.nics.as_mut().unwrap().push(seat);
        }
        assert_eq!(shape.free_slot(), None);
        let mut micro = Shape::new(Profile::Micro, size(1, 512));
        micro.seat(Profile::Micro, 0, [(nic(1), 1500)]);
        assert_eq!((micro.slots, micro.free_slot()), (0, None));
    }

    #[test]
    fn a_shape_written_before_nics_were_kept_is_read() {
        let old = r#"{"vcpus":1,"max_vcpus":8,"memory":1,"max_memory":2,"dimm_slots":16,"plugged_cpus":[],"dimms":[],"disk":3}"#;
        assert_eq!(serde_json::from_str::<Shape>(old).map(|shape| shape.nics).ok(), Some(None));
    }

    #[test]
    fn grows_by_cores_and_a_dimm() {
        let shape = Shape::new(Profile::Pc, size(2, 512));
        let growth = shape.grow_to(size(4, 1024));
        assert_eq!(growth, Growth { cores: vec![2, 3], dimm: Some(Bytes::mib(512)), pending: vec![] });
        let grown = Shape { plugged_cpus: vec![2, 3], dimms: vec![Bytes::mib(512)], ..shape };
        assert_eq!(grown.now(), size(4, 1024));
        assert_eq!(grown.grow_to(size(4, 1024)), Growth::default());
    }

    #[test]
    fn what_cannot_be_done_online_is_said() {
        let shape = Shape::new(Profile::Pc, size(2, 512));
        for (to, says) in [
            (size(1, 512), "1 CPUs take effect at the next start (now 2: CPUs cannot be taken"),
            (size(9, 512), "9 CPUs take effect at the next start (now 8: it has no room"),
            (size(2, 256), "256 MiB of memory takes effect at the next start (now 512 MiB: memory cannot"),
            (size(2, 513), "steps of 128 MiB"),
            (size(2, 1 << 20), "it has no room for more"),
        ] {
            let growth = shape.grow_to(to);
            assert!(growth.pending.len() == 1 && growth.pending[0].contains(says), "{growth:?}");
        }
        let micro = Shape::new(Profile::Micro, size(1, 128)).grow_to(size(2, 256));
        assert_eq!((micro.cores, micro.dimm, micro.pending.len()), (vec![], None, 2));
    }
}
