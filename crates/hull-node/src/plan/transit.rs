//! Plans of a VM on its way from one node to another.

use super::*;

/// What a node says while it fetches a VM.
pub(crate) const FETCHING: &str = "its disk and memory are being fetched";

impl View<'_> {
    /// On the node it leaves, without a process: once the end of the last one is settled it is held as it is.
    pub(super) fn released(&self) -> Plan {
        let held = || Plan::rest(VmPhase::Released, self.reason(ReasonCode::Migrating, "held for the node it goes to"));
        self.settle().unwrap_or_else(held)
    }

    /// On the node it is to go to, while it runs on on the other.
    pub(super) fn expected(&self, migration: MigrationId) -> Plan {
        let record = self.record;
        if record.arrived.is_some() || self.has_remains() {
            return tear_down(self.observed, record, self.now);
        }
        if record.expected == Some(migration) {
            return Plan::rest(VmPhase::Expected, None);
        }
        let reason = self.reason(ReasonCode::FetchingImage, "what it is made of is being fetched");
        Plan::step(Step::FetchImages { migration }, VmPhase::Arriving, reason)
    }

    /// Of an attempt that was given up.
    fn has_remains(&self) -> bool {
        self.record.disk.is_some() || self.record.saved.is_some() || self.observed.process != Process::None
    }

    /// On the node it goes to, which does not have it yet.
    pub(super) fn arriving(&self, migration: MigrationId) -> Plan {
        let record = self.record;
        match record.arrived {
            Some(arrived) if arrived == migration => {
                let reason = self.reason(ReasonCode::Migrating, "all of it is here, and it is to become this node's");
                Plan::rest(VmPhase::Arrived, reason)
            }
            None if !self.has_remains() => {
                let reason = self.reason(ReasonCode::Migrating, FETCHING);
                Plan::step(Step::TakeOver { migration }, VmPhase::Arriving, reason)
            }
            _ => tear_down(self.observed, record, self.now),
        }
    }
}
