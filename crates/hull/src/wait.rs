//! Waiting for a VM to rest, or to be on its new node.

use std::time::Duration;

use hull_client::Client;
use hull_types::{
    error::{Error, Result},
    migration::{Migration, MigrationPhase},
    vm::VmState,
    wire::VmView,
};

use crate::{output::word, progress};

/// How long a VM that is being deleted may take to be gone.
pub(crate) const DELETION: Duration = Duration::from_secs(600);

/// Waits until a migration is over. One that did not bring the VM to its new node, and to where its power shall be there,
/// is an error, and so is a deadline that passed.
pub(crate) async fn moved(client: &Client, id: &str, deadline: Duration) -> Result<Migration> {
    let spinner = progress::spinner(id);
    let told = |it: &Migration| {
        spinner.set_message(format!("{} is {}{}", it.vm_name, word(&it.phase), because(it)));
        false
    };
    let ended = tokio::time::timeout(deadline, client.migrations().until(id, told)).await;
    spinner.finish_and_clear();
    let Ok(ended) = ended else {
        let now = client.migrations().show(id).await?;
        return Err(Error::timeout(format!(
            "the migration of {} is still {} after {} s{}; it goes on by itself, look again with `hull migration show {id}`",
            now.vm_name,
            word(&now.phase),
            deadline.as_secs(),
            because(&now)
        )));
    };
    judge(ended?)
}

/// A migration, or why it did not do what it was to do.
pub(crate) fn judge(ended: Migration) -> Result<Migration> {
    let (vm, why) = (&ended.vm_name, because(&ended));
    match ended.phase {
        MigrationPhase::Failed | MigrationPhase::Cancelled => {
            let how = word(&ended.phase);
            Err(Error::conflict(format!("{vm} was not moved, the migration is {how}{why}; it stays on its node")))
        }
        MigrationPhase::Done if ended.reason.is_some() => {
            let detail = format!("{vm} is on its new node and failed there{why}; see `hull explain vm {}`", ended.vm);
            Err(Error::conflict(detail))
        }
        _ => Ok(ended),
    }
}

fn because(migration: &Migration) -> String {
    migration.reason.as_ref().map(|reason| format!(": {}", reason.message)).unwrap_or_default()
}

/// Waits until the VM rests as asked, telling on the way what it waits for. A VM that came to rest as failed is an error, and so
/// is a deadline that passed.
pub(crate) async fn settled(client: &Client, vm: &str, deadline: Duration) -> Result<Option<VmView>> {
    let spinner = progress::spinner(vm);
    let told = |view: &VmView| {
        let why = view.reason.as_ref().map(|reason| format!(": {}", reason.message)).unwrap_or_default();
        spinner.set_message(format!("{} is {}{why}", view.vm.meta.name, word(&view.state)));
    };
    let vms = client.vms();
    let settled = tokio::time::timeout(deadline, vms.settle(vm, told)).await;
    spinner.finish_and_clear();
    let Ok(settled) = settled else {
        let view = client.vms().show(vm).await?;
        return Err(Error::timeout(format!(
            "{} is still {} after {} s{}; it goes on by itself, look again with `hull explain vm {vm}`",
            view.vm.meta.name,
            word(&view.state),
            deadline.as_secs(),
            view.reason.map(|reason| format!(" ({})", reason.message)).unwrap_or_default()
        )));
    };
    match settled? {
        Some(view) if view.state == VmState::Failed => Err(Error::conflict(format!(
            "{} failed: {}; see `hull explain vm {}`",
            view.vm.meta.name,
            view.reason.map(|reason| reason.message).unwrap_or_default(),
            view.vm.meta.name
        ))),
        other => Ok(other),
    }
}
