//! Steps that send VMs from node to node, and what befalls those that are on their way.

use std::time::Duration;

use hull_store::{StoreError, memory::Fault};
use hull_types::{migration::Migration, wire::MigrationCreate};

use crate::{
    cloud::{Cloud, ctx},
    link::Cable,
    steps::ANSWER_WITHIN,
};

impl Cloud {
    /// Begins a migration; often something befalls it, and at times more than one thing.
    pub(crate) async fn migrating(&mut self) {
        let vms: Vec<String> = self.truth.vms.keys().map(ToString::to_string).collect();
        let Some(vm) = self.fate.one_of(&vms).cloned() else { return };
        let node = self.fate.chance(50).then(|| self.nodes[self.fate.below(self.nodes.len())].id.to_string());
        let begun = self.send(&vm, node).await;
        while let Some(begun) = &begun
            && self.fate.chance(60)
        {
            let still = if self.fate.chance(70) { 15_000 } else { 100_000 };
            self.pass(Duration::from_millis(self.fate.below(still) as u64)).await;
            self.befall(begun).await;
        }
    }

    async fn send(&mut self, vm: &str, node: Option<String>) -> Option<Migration> {
        let app = self.app().cloned()?;
        let request = MigrationCreate { vm: vm.to_owned(), node };
        let begun = tokio::time::timeout(ANSWER_WITHIN, app.begin_migration(&ctx(), &request)).await;
        self.judge(&format!("migrate {vm} to {:?}", request.node), begun).map(|begun| begun.object)
    }

    /// Something befalls a VM on its way.
    async fn befall(&mut self, migration: &Migration) {
        let end = if self.fate.chance(60) { migration.to } else { migration.from };
        let Some(number) = self.nodes.iter().position(|node| node.id == end) else { return };
        let kind = self.fate.below(19);
        self.note(format!("{kind} befalls migration {} at node {number}", migration.id));
        match kind {
            0 | 1 => self.cancel(migration).await,
            14 | 15 => {
                self.cancel(migration).await;
                self.pass(Duration::from_millis(self.fate.below(8_000) as u64)).await;
                self.send(&migration.vm.to_string(), Some(migration.to.to_string())).await;
            }
            2 | 3 => self.act_on(&migration.vm.to_string()).await,
            4 => {
                self.kill_node(number);
                self.start_node(number).await;
            }
            5 => self.kill_node(number),
            6 => self.start_node(number).await,
            7 => {
                self.reboot_host(number);
                self.start_node(number).await;
            }
            8 => {
                self.kill_server();
                self.start_server().await;
            }
            9 => _ = self.nodes[number].cable.send_replace(Cable::Cut),
            10 => _ = self.nodes[number].cable.send_replace(Cable::Silent),
            11 => _ = self.nodes[number].cable.send_replace(Cable::Whole),
            12 => self.nodes[number].host.set_faults(|faults| faults.disk_full = !faults.disk_full),
            16 => self.store.fail_next(Fault::Before(StoreError::Engine("simulated".into()))),
            17 => self.store.fail_next(Fault::After(StoreError::Engine("simulated".into()))),
            _ => self.machine_fault(number),
        }
    }

    async fn cancel(&mut self, migration: &Migration) {
        let Some(app) = self.app().cloned() else { return };
        let id = migration.id.to_string();
        let done = tokio::time::timeout(ANSWER_WITHIN, app.cancel_migration(&ctx(), &id)).await;
        self.judge(&format!("cancel migration {id}"), done);
    }
}
