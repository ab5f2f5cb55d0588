//! The mechanism by hand: a node's VMs without its server, from the records on disk. The node's own process must not be
//! running meanwhile; a server that comes back says again what shall be, and its word holds.

use std::{sync::Arc, time::Duration};

use hull_types::{
    error::{Error, Result},
    id::VmId,
    vm::{PowerTarget, VmStatus},
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{Drivers, NodeConfig, networks::Keeper, unknown};
use crate::{
    plan::record::Record,
    vm::{self, Report, Shared, What},
};

/// A VM as a node remembers it.
#[derive(Clone, Debug)]
pub struct LocalVm {
    /// Its id.
    pub id: VmId,
    /// Its name, where the record tells it.
    pub name: Option<String>,
    /// What power shall be.
    pub target: Option<PowerTarget>,
    /// Whether a process was started for it.
    pub started: bool,
}

/// The VMs on this node.
pub async fn list(drivers: &Drivers) -> Result<Vec<LocalVm>> {
    let local = |record: Record| LocalVm {
        id: record.vm,
        name: record.desired.as_ref().map(|desired| desired.vm.meta.name.to_string()),
        target: record.desired.as_ref().map(|desired| desired.vm.power.target),
        started: record.started.is_some(),
    };
    Ok(drivers.records.load().await?.into_iter().map(local).collect())
}

/// Starts a VM; returns once it runs, or tells why it does not.
pub async fn start(config: &NodeConfig, drivers: &Drivers, vm: VmId, within: Duration) -> Result<VmStatus> {
    power(config, drivers, vm, PowerTarget::Running, within).await
}

/// Stops a VM; returns once it is off.
pub async fn stop(config: &NodeConfig, drivers: &Drivers, vm: VmId, within: Duration) -> Result<VmStatus> {
    power(config, drivers, vm, PowerTarget::Stopped, within).await
}

/// Removes a VM with everything it has on this node.
pub async fn delete(config: &NodeConfig, drivers: &Drivers, vm: VmId, within: Duration) -> Result<()> {
    let record = find(drivers, vm).await?;
    drive(config, drivers, record, What::Remove, within, |report| matches!(report, Report::Ended { .. })).await?;
    Ok(())
}

async fn power(
    config: &NodeConfig,
    drivers: &Drivers,
    vm: VmId,
    target: PowerTarget,
    within: Duration,
) -> Result<VmStatus> {
    let record = find(drivers, vm).await?;
    let mut desired = record.desired.clone().ok_or_else(|| unknown(vm))?;
    desired.vm.power.target = target;
    desired.vm.power.seq = desired.vm.power.seq.max(record.power_seq) + 1;
    let seq = desired.vm.power.seq;
    let reached = |report: &Report| matches!(report, Report::Status(status) if status.power_seq >= seq);
    let last = drive(config, drivers, record, What::Hold(Box::new(desired)), within, reached).await?;
    match last {
        Report::Status(status) => Ok(*status),
        Report::Progress { .. } | Report::Ended { .. } => Err(unknown(vm)),
    }
}

pub(super) async fn find(drivers: &Drivers, vm: VmId) -> Result<Record> {
    let records = drivers.records.load().await?;
    records.into_iter().find(|record| record.vm == vm).ok_or_else(|| unknown(vm))
}

/// Runs the VM's task until it reports what is waited for.
async fn drive(
    config: &NodeConfig,
    drivers: &Drivers,
    record: Record,
    what: What,
    within: Duration,
    reached: impl Fn(&Report) -> bool,
) -> Result<Report> {
    let (reports, mut reported) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let keeper = Keeper::new(drivers.networks.clone());
    for network in drivers.records.load_networks().await? {
        keeper.want(network, &mut tasks);
    }
    let routers = Keeper::of_routers(drivers.networks.clone(), keeper.clone());
    for router in drivers.records.load_routers().await? {
        routers.want(router, &mut tasks);
    }
    let shared = Arc::new(Shared {
        server: None,
        node: config.id,
        zone: config.zone.clone(),
        boot_id: drivers.host.facts().await?.boot_id,
        drivers: drivers.clone(),
        networks: keeper,
        reports,
    });
    let vm = record.vm;
    let _handle = vm::spawn(shared, record, what, &mut tasks);
    let mut last = None;
    let wait = async {
        while let Some(report) = reported.recv().await {
            if reached(&report) {
                return Some(report);
            }
            last = Some(report);
        }
        None
    };
    if let Ok(Some(report)) = timeout(within, wait).await {
        return Ok(report);
    }
    let why = match last {
        Some(Report::Status(status)) => status.reason.map(|reason| format!(": {}", reason.message)),
        _ => None,
    };
    let detail = format!("VM {vm} is not there after {} s{}", within.as_secs(), why.unwrap_or_default());
    Err(Error::timeout(detail))
}
