//! All guests of the cloud, whichever host they run on: what no host can see alone.
//!
//! A VM's disk may be on several hosts while the VM goes from one to another, of different age. A guest that runs on an older
//! one than the newest that any guest has written to has lost what it wrote since.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hull_types::id::VmId;

use super::Machine;

/// What is known of a VM's guests.
#[derive(Default)]
struct Guest {
    /// How often one has run, anywhere.
    runs: u64,
    /// Its machines, and where they are; ended ones until another starts.
    machines: Vec<(String, Arc<Machine>)>,
}

/// All guests.
#[derive(Default)]
pub struct Guests(Mutex<BTreeMap<VmId, Guest>>);

impl Guests {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmId, Guest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine starts on this host. Says where another one of its VM lives, where one does.
    pub(super) fn starts(&self, host: &str, machine: &Arc<Machine>) -> Option<String> {
        let mut guests = self.lock();
        let machines = &mut guests.entry(machine.vm).or_default().machines;
        machines.retain(|(_, machine)| machine.is_alive());
        let twin = machines.iter().find(|(other, _)| other != host).map(|(other, _)| other.clone());
        machines.push((host.to_owned(), machine.clone()));
        twin
    }

    /// A guest runs on a disk on which one has run so often before. Says what the newest disk has seen, where that is another.
    pub(super) fn runs(&self, vm: VmId, disk: u64) -> Option<u64> {
        let mut guests = self.lock();
        let newest = &mut guests.entry(vm).or_default().runs;
        let differs = (*newest != disk).then_some(*newest);
        *newest = (*newest).max(disk) + 1;
        differs
    }
}
