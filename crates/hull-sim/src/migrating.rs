//! Steps that send VMs from node to node, and end that.

use std::time::Duration;

use hull_types::wire::MigrationCreate;

use crate::cloud::{Cloud, ctx};

/// How long a call may take while the server is up.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

impl Cloud {
    /// Begins a migration, or cancels one.
    pub(crate) async fn migrating(&mut self) {
        let Some(app) = self.app().cloned() else { return };
        let fate = self.fate.clone();
        let under_way: Vec<String> =
            self.truth.migrations_under_way().map(|migration| migration.id.to_string()).collect();
        if fate.chance(15)
            && let Some(id) = fate.one_of(&under_way)
        {
            let done = tokio::time::timeout(ANSWER_WITHIN, app.cancel_migration(&ctx(), id)).await;
            self.judge(&format!("cancel migration {id}"), done);
            return;
        }
        let vms: Vec<String> = self.truth.vms.keys().map(ToString::to_string).collect();
        let Some(vm) = fate.one_of(&vms).cloned() else { return };
        let node = fate.chance(50).then(|| self.nodes[fate.below(self.nodes.len())].id.to_string());
        let request = MigrationCreate { vm, node };
        let begun = tokio::time::timeout(ANSWER_WITHIN, app.begin_migration(&ctx(), &request)).await;
        self.judge(&format!("migrate {} to {:?}", request.vm, request.node), begun);
    }
}
