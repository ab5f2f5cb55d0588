//! A node that is a test double: it believes every wish fulfilled at once and says so.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hull_server::app::{
    App,
    ctx::{Caller, Ctx},
};
use hull_types::{
    Timestamp,
    id::{NetworkId, NodeId, StreamId, VmId},
    link::{Desired, DesiredNetwork, DesiredVm, ExecResult, FromNode, NodeCall, NodeReply, PROTOCOL, ToNode},
    name::Name,
    node::{NodeFacts, NodeStatus},
    path::{PathEnd, PathHop, PathPacket, PathProtocol, PathQuery, PathReport, PathStart},
    units::Bytes,
    vm::{Accel, PowerTarget, VmPhase, VmStatus},
};
use tokio::{
    io::duplex,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use uuid::Uuid;

/// What the node was told it shall hold.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) vms: BTreeMap<VmId, DesiredVm>,
    pub(crate) networks: BTreeMap<hull_types::id::NetworkId, DesiredNetwork>,
}

pub(crate) struct FakeNode {
    pub(crate) id: NodeId,
    pub(crate) held: Arc<Mutex<Held>>,
    pub(crate) say: mpsc::Sender<FromNode>,
    /// Goes up with each telling that was heard.
    pub(crate) heard: watch::Receiver<u64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

pub(crate) fn status(node: NodeId) -> NodeStatus {
    NodeStatus {
        node,
        facts: NodeFacts {
            migrates: true,
            cpu_model: None,
            hostname: "host".into(),
            hull_version: "0".into(),
            qemu_version: None,
            kernel: "6".into(),
            cpus: 64,
            memory: Bytes::gib(64),
            memory_reserved: Bytes::gib(1),
            disk: Bytes::gib(1000),
            accel: Accel::Tcg,
            boot_id: "boot".into(),
            underlay: None,
            providers: Vec::new(),
        },
        conditions: Vec::new(),
        disk_free: Bytes::gib(900),
        at: Timestamp::now(),
    }
}

impl FakeNode {
    /// Joins under this name and attaches in process.
    pub(crate) async fn attach(app: &Arc<App>, name: &str) -> Self {
        Self::attach_as(app, name, |_| ()).await
    }

    /// One that says of itself what the test wants.
    pub(crate) async fn attach_as(app: &Arc<App>, name: &str, change: impl FnOnce(&mut NodeFacts)) -> Self {
        let id = app.join_node(&Ctx::of(Caller::SERVER), &Name::new(name).unwrap()).await.unwrap();
        let (say, from_node) = mpsc::channel(64);
        let (to_node, hear) = mpsc::channel(64);
        let mut status = status(id);
        change(&mut status.facts);
        say.send(FromNode::Hello { protocol: PROTOCOL, node: id, status: Box::new(status) }).await.unwrap();
        let hub = app.hub().clone();
        let link = tokio::spawn(async move { hub.attach(id, from_node, to_node).await.unwrap() });
        let held = Arc::<Mutex<Held>>::default();
        let (hears, heard) = watch::channel(0);
        let node = tokio::spawn(listen(app.clone(), id, held.clone(), say.clone(), hears, hear));
        Self { id, held, say, heard, tasks: vec![link, node] }
    }
}

async fn listen(
    app: Arc<App>,
    id: NodeId,
    held: Arc<Mutex<Held>>,
    say: mpsc::Sender<FromNode>,
    hears: watch::Sender<u64>,
    mut hear: mpsc::Receiver<ToNode>,
) {
    while let Some(message) = hear.recv().await {
        match message {
            ToNode::Desired(desired) => {
                for report in take(id, &held, desired) {
                    say.send(FromNode::Vm(Box::new(report))).await.unwrap();
                }
                hears.send_modify(|times| *times += 1);
            }
            ToNode::Call { id: call_id, call } => {
                if let NodeCall::OpenStream { stream, .. } = &call {
                    echo(&app, id, *stream);
                }
                if matches!(&call, NodeCall::AgentExec { argv, .. } if argv == &["hang"]) {
                    continue;
                }
                let result = Ok(reply(call, &held));
                say.send(FromNode::Reply { id: call_id, result }).await.unwrap();
            }
        }
    }
}

/// A stream that answers what it is told.
fn echo(app: &App, node: NodeId, stream: StreamId) {
    let (near, far) = duplex(1024);
    app.hub().accept_stream(node, stream, Box::new(far)).unwrap();
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(near);
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
}

pub(crate) fn reply(call: NodeCall, held: &Mutex<Held>) -> NodeReply {
    match call {
        NodeCall::ConsoleLog { .. } => NodeReply::Bytes { base64: STANDARD.encode("login:") },
        NodeCall::Screenshot { .. } => NodeReply::Bytes { base64: STANDARD.encode(b"\x89PNG") },
        NodeCall::AgentExec { argv, .. } => NodeReply::Exec(ExecResult {
            exit_code: Some(0),
            signal: None,
            stdout: STANDARD.encode(argv.join(" ")),
            stderr: String::new(),
            truncated: false,
        }),
        NodeCall::Quiesce { .. } | NodeCall::Thaw { .. } => NodeReply::Count { count: 2 },
        NodeCall::Explain { .. } => NodeReply::Text { lines: vec!["qemu is happy".into()] },
        NodeCall::ExplainPath { query, .. } => NodeReply::Path(Box::new(walked(query, held))),
        NodeCall::OpenStream { .. } | NodeCall::AgentPing { .. } | NodeCall::SetPassword { .. } => NodeReply::Done,
    }
}

/// A packet is let out by its network's first group, passes a network that is nobody's the caller knows, and leaves the
/// cloud; mail is let in by nobody.
fn walked(query: PathQuery, held: &Mutex<Held>) -> PathReport {
    let hop = |place: &str, network, told: &str, passes| PathHop {
        place: place.to_owned(),
        network: Some(network),
        router: None,
        part: "security groups".to_owned(),
        told: told.to_owned(),
        passes,
    };
    let PathStart::Port { network, .. } = query.start else { panic!("{query:?}") };
    if query.packet.protocol == (PathProtocol::Tcp { port: 25 }) {
        let hops = vec![hop("network default", network, "no rule of the receiver's security groups lets it in", false)];
        return PathReport { hops, end: PathEnd::Dropped, packet: query.packet };
    }
    let group = held.lock().unwrap().networks[&network].groups[0].id.0;
    let out = format!("security group {group} lets it out: accept");
    let theirs = hop("network theirs", NetworkId(Uuid::nil()), "a rule of theirs", true);
    let packet = PathPacket { source: "203.0.113.7".parse().unwrap(), ..query.packet };
    PathReport { hops: vec![hop("network default", network, &out, true), theirs], end: PathEnd::Outside, packet }
}

pub(crate) fn take(node: NodeId, held: &Mutex<Held>, desired: Desired) -> Vec<VmStatus> {
    let mut held = held.lock().unwrap();
    if desired.full {
        *held = Held::default();
    }
    for gone in &desired.vms_removed {
        held.vms.remove(gone);
    }
    for gone in &desired.networks_removed {
        held.networks.remove(gone);
    }
    held.networks.extend(desired.networks.into_iter().map(|network| (network.id, network)));
    held.vms.extend(desired.vms.iter().map(|vm| (vm.vm.id, vm.clone())));
    // Of VMs on their way the test speaks for the node, word by word.
    desired.vms.iter().filter(|vm| vm.transit.is_none()).map(|vm| fulfilled(node, vm)).collect()
}

/// The report that says that all is as wished.
pub(crate) fn fulfilled(node: NodeId, desired: &DesiredVm) -> VmStatus {
    let vm = &desired.vm;
    let phase = match vm.power.target {
        _ if vm.deleted_at.is_some() => VmPhase::Gone,
        PowerTarget::Running => VmPhase::Running,
        PowerTarget::Stopped => VmPhase::Stopped,
        PowerTarget::Paused => VmPhase::Paused,
        PowerTarget::Suspended => VmPhase::Suspended,
    };
    VmStatus {
        vm: vm.id,
        node,
        generation: desired.generation,
        observed_revision: desired.revision,
        phase,
        reason: None,
        vmm: None,
        power_seq: vm.power.seq,
        reboot_seq: vm.reboot.seq,
        disk_generation: vm.disk_generation,
        rescue: vm.rescue.is_some(),
        running: matches!(phase, VmPhase::Running | VmPhase::Paused).then_some(vm.resources),
        pending: Vec::new(),
        last_exit: None,
        restarts: 0,
        migration: None,
        failures: 0,
        at: Timestamp::now(),
    }
}
