//! Waiting for a VM to rest.

use std::time::Duration;

use hull_client::Client;
use hull_types::{
    error::{Error, Result},
    vm::VmState,
    wire::VmView,
};

use crate::{output::word, progress};

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
