//! What must hold of migrations at every revision.
//!
//! | promise | checked |
//! |---|---|
//! | one node has a VM | a placement changes its node only to where its migration leads, a generation up, as the old node holds it |
//! | told as one | in the same transaction the migration goes to `Starting` |
//! | one at a time | a migration that is not over is the one that its VM's placement names, and the other way round |
//! | over is over | a migration never leaves a phase in which it is over, and skips none on its way there |

use std::collections::BTreeMap;

use hull_types::{
    migration::{Migration, MigrationPhase},
    vm::{Placement, VmPhase, VmStatus},
};
use uuid::Uuid;

use crate::truth::Truth;

/// What documents were before one transaction, where it changed them.
#[derive(Default)]
pub(crate) struct Before {
    pub(crate) placements: BTreeMap<Uuid, Option<Placement>>,
    pub(crate) statuses: BTreeMap<Uuid, Option<VmStatus>>,
    pub(crate) migrations: BTreeMap<Uuid, Option<Migration>>,
}

impl Truth {
    /// The migrations that are not over.
    pub fn migrations_under_way(&self) -> impl Iterator<Item = &Migration> {
        self.migrations.values().filter(|migration| !migration.phase.is_over())
    }

    /// Promises about migrations that a transaction has broken.
    pub(crate) fn migrations_broken(&self, before: &Before) -> Vec<String> {
        let mut broken = Vec::new();
        for (id, was) in &before.placements {
            if let (Some(was), Some(is)) = (was, self.placements.get(id)) {
                broken.extend(self.move_broken(*id, was, is, before));
            }
        }
        for (id, was) in &before.migrations {
            let is = self.migrations.get(id);
            if !goes(was.as_ref(), is) || was.as_ref().is_some_and(|was| was.phase.is_over() && Some(was) != is) {
                broken.push(format!("migration {id} went from {was:?} to {is:?}"));
            }
        }
        if !before.placements.is_empty() || !before.migrations.is_empty() {
            broken.extend(self.strays());
        }
        broken
    }

    /// A placement's node changes by its migration only, as its old node holds the VM for that.
    fn move_broken(&self, id: Uuid, was: &Placement, is: &Placement, before: &Before) -> Option<String> {
        let wrong = |what: &str| Some(format!("{id}: {what}: {was:?} {is:?}"));
        if was.node.is_none() {
            return (is.generation < was.generation).then(|| wrong("its generation went back")).flatten();
        }
        if is.node == was.node {
            return (is.generation != was.generation).then(|| wrong("it was placed anew on its own node")).flatten();
        }
        let Some(moving) = was.moving else { return wrong("it was placed anew while its disk is on one node") };
        if is.node != Some(moving.to) || is.generation != was.generation + 1 || is.moving != was.moving {
            return wrong("it did not go where its migration leads");
        }
        let said = before.statuses.get(&id).map_or_else(|| self.statuses.get(&id), Option::as_ref);
        let held = said.is_some_and(|said| {
            said.phase == VmPhase::Released
                && (said.node, said.generation, said.migration)
                    == (was.node.unwrap_or(said.node), was.generation, Some(moving.migration))
        });
        if !held {
            return wrong(&format!("it went while its old node did not hold it ({said:?})"));
        }
        let phase = |migration: Option<&Migration>| migration.map(|migration| migration.phase);
        let told = before.migrations.get(&moving.migration.0).map(|was| phase(was.as_ref()));
        let now = phase(self.migrations.get(&moving.migration.0));
        if (told, now) != (Some(Some(MigrationPhase::Copying)), Some(MigrationPhase::Starting)) {
            return wrong(&format!("it went while its migration went from {told:?} to {now:?}"));
        }
        None
    }

    /// Migrations under way and placements name each other.
    fn strays(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for migration in self.migrations_under_way() {
            let moving = self.placements.get(&migration.vm.0).and_then(|placement| placement.moving);
            if moving.map(|moving| moving.migration) != Some(migration.id) {
                broken.push(format!("migration {} is not over, its VM has {moving:?}", migration.id));
            }
        }
        for (vm, placement) in &self.placements {
            let Some(moving) = placement.moving else { continue };
            let on = if placement.leaving().is_some() { placement.node } else { None };
            let fits = self.migrations.get(&moving.migration.0).is_some_and(|migration| {
                let undone = migration.phase.can_be_undone();
                migration.vm.0 == *vm
                    && !migration.phase.is_over()
                    && migration.to == moving.to
                    && undone == on.is_some()
                    && moving.ready == (migration.phase != MigrationPhase::Preparing)
                    && on.is_none_or(|on| on == migration.from)
            });
            if !fits {
                broken.push(format!("{vm} is said to be on its way by {moving:?}, which is not so"));
            }
        }
        broken
    }
}

/// Whether a migration may go from one phase to the other in one transaction.
fn goes(was: Option<&Migration>, is: Option<&Migration>) -> bool {
    use MigrationPhase::{Cancelled, Copying, Done, Failed, Preparing, Releasing, Starting};
    match (was.map(|was| was.phase), is.map(|is| is.phase)) {
        (None, is) => is == Some(Preparing),
        // What is over may be forgotten.
        (Some(was), None) => was.is_over(),
        (Some(Preparing), Some(Preparing | Releasing | Failed | Cancelled))
        | (Some(Releasing), Some(Releasing | Copying | Failed | Cancelled))
        | (Some(Copying), Some(Copying | Starting | Failed | Cancelled))
        // Where its VM is deleted it fails.
        | (Some(Starting), Some(Starting | Done | Failed)) => true,
        (Some(was @ (Done | Failed | Cancelled)), Some(is)) => was == is,
        (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_store::{Batch, Change, Entry, Revision};

    use super::*;

    const OLD: &str = "00000000-0000-0000-0000-00000000000a";
    const NEW: &str = "00000000-0000-0000-0000-00000000000b";
    const VM: &str = "00000000-0000-0000-0000-000000000007";
    const MIGRATION: &str = "00000000-0000-0000-0000-0000000000f1";
    const AT: &str = "2026-01-01T00:00:00Z";

    fn put(key: String, value: String) -> Change {
        let revision = Revision(1);
        let value = value.into_bytes().into();
        Change::Put(Entry { key: key.into(), value, created: revision, modified: revision, version: 1, lease: None })
    }

    fn placed(node: &str, generation: u64, moving: bool) -> Change {
        on_its_way(node, generation, moving.then_some(true))
    }

    fn on_its_way(node: &str, generation: u64, ready: Option<bool>) -> Change {
        let moving = if let Some(ready) = ready {
            format!(r#","moving":{{"migration":"{MIGRATION}","to":"{NEW}","deadline":"{AT}","ready":{ready}}}"#)
        } else {
            String::new()
        };
        let text = format!(r#"{{"vm":"{VM}","node":"{node}","generation":{generation},"decided_at":"{AT}"{moving}}}"#);
        put(format!("placement/{VM}"), text)
    }

    fn migration(phase: &str) -> Change {
        let text = format!(
            r#"{{"id":"{MIGRATION}","vm":"{VM}","vm_name":"web","project":"{VM}","from":"{OLD}","to":"{NEW}",
            "phase":"{phase}","began_at":"{AT}","deadline":"{AT}"}}"#
        );
        put(format!("migration/{MIGRATION}"), text)
    }

    fn said(phase: &str) -> Change {
        let text = format!(
            r#"{{"vm":"{VM}","node":"{OLD}","generation":1,"observed_revision":1,"phase":"{phase}","power_seq":1,
            "reboot_seq":0,"disk_generation":1,"rescue":false,"restarts":0,"at":"{AT}","migration":"{MIGRATION}"}}"#
        );
        put(format!("vm-status/{VM}"), text)
    }

    /// What these transactions break, but for that there is no such VM.
    fn broken(batches: Vec<Vec<Change>>) -> String {
        let mut truth = Truth::default();
        for (at, changes) in batches.into_iter().enumerate() {
            truth.take(&Batch { revision: Revision(at as u64 + 1), changes });
        }
        truth.broken.retain(|what| !what.contains("which is gone"));
        truth.broken.join("; ")
    }

    fn until_released(phase: &str) -> Vec<Vec<Change>> {
        vec![
            vec![placed(OLD, 1, false)],
            vec![on_its_way(OLD, 1, Some(false)), migration("preparing")],
            vec![placed(OLD, 1, true), migration("releasing")],
            vec![said(phase), migration("copying")],
        ]
    }

    fn then(last: Vec<Change>) -> String {
        broken([until_released("released"), vec![last]].concat())
    }

    #[test]
    fn a_whole_migration_breaks_nothing() {
        let goes =
            vec![vec![placed(NEW, 2, true), migration("starting")], vec![placed(NEW, 2, false), migration("done")]];
        assert_eq!(broken([until_released("released"), goes].concat()), "");
        assert_eq!(then(vec![placed(OLD, 1, false), migration("cancelled")]), "");
    }

    #[test]
    fn a_node_changes_as_its_migration_says_and_in_no_other_way() {
        let moved = || vec![placed(NEW, 2, true), migration("starting")];
        let early = broken([until_released("suspending"), vec![moved()]].concat());
        assert!(early.contains("while its old node did not hold it"), "{early}");
        assert!(then(vec![placed(NEW, 1, true), migration("starting")]).contains("did not go where"));
        assert!(then(vec![placed(VM, 2, true), migration("starting")]).contains("did not go where"));
        assert!(then(vec![placed(NEW, 2, true)]).contains("while its migration went from"));
        assert!(then(vec![placed(OLD, 2, true)]).contains("placed anew on its own node"));
        let unasked = broken(vec![vec![placed(OLD, 1, false)], vec![placed(NEW, 2, false)]]);
        assert!(unasked.contains("while its disk is on one node"), "{unasked}");
    }

    #[test]
    fn a_migration_ends_once_and_with_its_placement() {
        assert!(then(vec![placed(OLD, 1, false)]).contains("is not over"));
        assert!(then(vec![migration("failed")]).contains("which is not so"));
        assert!(then(vec![placed(OLD, 1, false), migration("done")]).contains("went from"));
        let again = [
            until_released("released"),
            vec![vec![placed(OLD, 1, false), migration("failed")], vec![placed(OLD, 1, true), migration("preparing")]],
        ];
        assert!(broken(again.concat()).contains("went from"));
    }
}
