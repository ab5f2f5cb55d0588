//! Calls that want an answer now. Each runs in a task of its own and waits for no VM's task.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use hull_types::{
    error::{Error, Result},
    id::{MigrationId, VmId},
    link::{DesiredVm, NodeCall, NodeReply, StreamTarget},
    migration::Transit,
    vm::{VmPhase, VmStatus},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Drivers, local, networks::Keeper};
use crate::{
    hypervisor::{ByteStream, Vmm},
    link::Connector,
};

/// How long a call may take that does not say itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A guest left frozen thaws by itself after this.
const FROZEN_AT_MOST: Duration = Duration::from_secs(60);
/// The most a call for the console log gives.
const LOG_MOST: usize = 1 << 20;

/// Bytes of a VM under way to another node.
const HANDOVER: usize = 1 << 20;

/// What a call may use.
pub(crate) struct Context {
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) networks: Keeper,
    pub(crate) drivers: Drivers,
    /// The VM's process, where there is one or was one lately.
    pub(crate) vmm: Option<Arc<dyn Vmm>>,
    /// What it shall be, where this node knows.
    pub(crate) desired: Option<DesiredVm>,
    /// What was last reported of it.
    pub(crate) status: Option<VmStatus>,
    /// The node shuts down: streams end.
    pub(crate) stop: CancellationToken,
}

/// The VM a call is about.
pub(crate) fn vm_of(call: &NodeCall) -> VmId {
    match call {
        NodeCall::OpenStream { vm, .. }
        | NodeCall::ConsoleLog { vm, .. }
        | NodeCall::Screenshot { vm }
        | NodeCall::AgentPing { vm }
        | NodeCall::AgentExec { vm, .. }
        | NodeCall::SetPassword { vm, .. }
        | NodeCall::Quiesce { vm }
        | NodeCall::Thaw { vm }
        | NodeCall::Explain { vm }
        | NodeCall::ExplainPath { vm, .. } => *vm,
    }
}

/// Answers a call.
pub(crate) async fn answer(context: Context, call: NodeCall) -> Result<NodeReply> {
    let limit = match &call {
        NodeCall::AgentExec { timeout_seconds, .. } => {
            Duration::from_secs(u64::from(*timeout_seconds)).saturating_add(ANSWER_WITHIN)
        }
        _ => ANSWER_WITHIN,
    };
    let late = || Error::timeout(format!("the node did not get an answer within {} s", limit.as_secs()));
    timeout(limit, Box::pin(perform(&context, call))).await.unwrap_or_else(|_| Err(late()))
}

async fn perform(context: &Context, call: NodeCall) -> Result<NodeReply> {
    let vmm = || context.vmm.clone().ok_or_else(not_running);
    let bytes = |bytes: Vec<u8>| NodeReply::Bytes { base64: STANDARD.encode(bytes) };
    Ok(match call {
        NodeCall::OpenStream { stream, target, .. } => {
            let near = open(context, target).await?;
            let far = context.connector.open_stream(stream).await?;
            tokio::spawn(context.stop.clone().run_until_cancelled_owned(crate::link::pipe(near, far)));
            NodeReply::Done
        }
        NodeCall::ConsoleLog { vm, tail } => {
            let tail = usize::try_from(tail).unwrap_or(LOG_MOST).min(LOG_MOST);
            bytes(match &context.vmm {
                Some(vmm) => vmm.console_log(tail).await?,
                None => log_at_rest(context, vm, tail).await?,
            })
        }
        NodeCall::Screenshot { .. } => bytes(vmm()?.screenshot().await?),
        NodeCall::AgentPing { .. } => vmm()?.agent_ping().await.map(|()| NodeReply::Done)?,
        NodeCall::AgentExec { argv, input, timeout_seconds, .. } => {
            let input = input.map(|text| STANDARD.decode(text)).transpose();
            let input = input.map_err(|_| Error::invalid("the program's input is not base64").at("/input"))?;
            let limit = Duration::from_secs(u64::from(timeout_seconds));
            NodeReply::Exec(vmm()?.agent_exec(argv, input.unwrap_or_default(), limit).await?)
        }
        NodeCall::SetPassword { user, password, .. } => {
            vmm()?.set_password(&user, password.expose()).await.map(|()| NodeReply::Done)?
        }
        NodeCall::Quiesce { .. } => NodeReply::Count { count: vmm()?.quiesce(FROZEN_AT_MOST).await? },
        NodeCall::Thaw { .. } => NodeReply::Count { count: vmm()?.thaw().await? },
        NodeCall::Explain { .. } => NodeReply::Text { lines: explain(context).await },
        NodeCall::ExplainPath { query, .. } => {
            NodeReply::Path(Box::new(context.drivers.networks.explain_path(query).await?))
        }
    })
}

fn not_running() -> Error {
    Error::conflict("the VM has no running machine on its node; start it first")
}

/// The log of a VM that has no process now.
async fn log_at_rest(context: &Context, vm: VmId, tail: usize) -> Result<Vec<u8>> {
    // A directory is made where there is none, so only for a VM that is this node's.
    if context.desired.is_none() {
        return Err(not_running());
    }
    let dir = context.drivers.records.dir(vm).await?;
    context.drivers.hypervisor.console_log(&dir, tail).await
}

async fn open(context: &Context, target: StreamTarget) -> Result<Box<dyn ByteStream>> {
    let vmm = || context.vmm.clone().ok_or_else(not_running);
    match target {
        StreamTarget::Handover { migration } => hand_over(context, migration),
        StreamTarget::Console => vmm()?.console().await,
        StreamTarget::Vnc => vmm()?.vnc().await,
        StreamTarget::Tcp { port } => {
            let (network, address) = address(context)?;
            context.drivers.networks.connect(network, address, port).await
        }
    }
}

/// All that the VM is, while it is held here for the node that it goes to.
fn hand_over(context: &Context, migration: MigrationId) -> Result<Box<dyn ByteStream>> {
    let leaves = Some(Transit::Leaving { migration });
    let held = |status: &VmStatus| status.phase == VmPhase::Released && status.migration == Some(migration);
    let desired = context.desired.as_ref().filter(|desired| desired.transit == leaves);
    let (Some(desired), true) = (desired, context.status.as_ref().is_some_and(held)) else {
        return Err(Error::conflict("the VM is not held for another node"));
    };
    let (near, mut far) = tokio::io::duplex(HANDOVER);
    let (drivers, vm) = (context.drivers.clone(), desired.vm.id);
    let give = async move {
        let record = local::find(&drivers, vm).await?;
        drivers.handover.give(vm, record.carried(), &mut far).await
    };
    let giving = async move {
        if let Err(error) = give.await {
            tracing::warn!(%vm, %error, "a VM could not be handed over");
        }
    };
    tokio::spawn(context.stop.clone().run_until_cancelled_owned(giving));
    Ok(Box::new(near))
}

/// Where the VM is reached: its first NIC's first address, IPv4 before IPv6.
fn address(context: &Context) -> Result<(hull_types::id::NetworkId, std::net::IpAddr)> {
    let nics = context.desired.iter().flat_map(|desired| &desired.nics);
    for nic in nics {
        let Some(network) = context.networks.get(nic.network) else { continue };
        let addresses = network.ports.iter().filter(|port| port.id == nic.port).flat_map(|port| &port.addresses);
        if let Some(address) = addresses.min_by_key(|address| address.is_ipv6()) {
            return Ok((nic.network, *address));
        }
    }
    Err(Error::conflict("the VM has no network address on its node"))
}

async fn explain(context: &Context) -> Vec<String> {
    let mut lines = Vec::new();
    match &context.vmm {
        Some(vmm) => {
            let info = vmm.info();
            lines.push(format!("process {} since {}, {:?}", info.pid, info.started_at, info.accel));
        }
        None => lines.push("no process".to_owned()),
    }
    if let Some(status) = &context.status {
        let reason = status.reason.as_ref().map(|reason| format!(": {}", reason.message)).unwrap_or_default();
        lines.push(format!("{:?} at generation {}{reason}", status.phase, status.generation));
    }
    for nic in context.desired.iter().flat_map(|desired| &desired.nics) {
        match context.drivers.networks.explain(nic.network, nic.port).await {
            Ok(told) => lines.extend(told),
            Err(error) => lines.push(format!("port {}: {}", nic.port, error.detail)),
        }
    }
    lines
}
