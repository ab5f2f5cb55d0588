//! A node on a host in memory, its server played by the test. Time is virtual: waiting costs nothing.

use hull_types::{
    id::{MigrationId, PortId, StreamId},
    link::{DesiredNetwork, DesiredNic, DesiredRouterSubnet, NodeReply, StreamTarget},
    migration::Transit,
    network::{Mac, Uplink},
    reason::ReasonCode,
    vm::{ExitCause, PowerTarget, VmPhase},
};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use super::{
    fake::{FakeHost, Wrong},
    *,
};
use crate::{
    link::{Dialled, in_process},
    plan::world,
};

/// The server's end.
struct Server {
    dialled: mpsc::Receiver<Dialled>,
    connector: Arc<dyn Connector>,
    link: Option<(mpsc::Sender<ToNode>, mpsc::Receiver<FromNode>)>,
    statuses: BTreeMap<VmId, VmStatus>,
}

impl Server {
    fn new() -> Self {
        let (connector, dialled) = in_process();
        Self { dialled, connector: Arc::new(connector), link: None, statuses: BTreeMap::new() }
    }

    /// Takes the node's call and its greeting.
    async fn accept(&mut self) {
        let Some(Dialled::Link { to_node, mut from_node }) = self.dialled.recv().await else { panic!("no link") };
        let FromNode::Hello { status, .. } = from_node.recv().await.unwrap() else { panic!("no greeting") };
        assert_eq!(status.facts.qemu_version.as_deref(), Some("7.2"));
        self.link = Some((to_node, from_node));
    }

    async fn tell(&mut self, desired: Desired) {
        self.link.as_ref().unwrap().0.send(ToNode::Desired(desired)).await.unwrap();
    }

    async fn receive(&mut self) -> FromNode {
        let receive = self.link.as_mut().unwrap().1.recv();
        let message = timeout(Duration::from_secs(3600), receive).await.expect("the node is silent").unwrap();
        if let FromNode::Vm(status) = &message {
            self.statuses.insert(status.vm, (**status).clone());
        }
        message
    }

    /// Reads reports until the VM's is as wanted.
    async fn until(&mut self, vm: &DesiredVm, wanted: impl Fn(&VmStatus) -> bool) -> VmStatus {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(7200);
        loop {
            if let Some(status) = self.statuses.get(&vm.vm.id).filter(|status| wanted(status)) {
                return status.clone();
            }
            assert!(tokio::time::Instant::now() < deadline, "never came: {:#?}", self.statuses.get(&vm.vm.id));
            self.receive().await;
        }
    }

    async fn until_phase(&mut self, vm: &DesiredVm, phase: VmPhase) -> VmStatus {
        self.until(vm, |status| status.phase == phase && status.observed_revision == vm.revision).await
    }

    async fn call(&mut self, call: NodeCall) -> Result<NodeReply> {
        self.link.as_ref().unwrap().0.send(ToNode::Call { id: 5, call }).await.unwrap();
        loop {
            if let FromNode::Reply { id: 5, result } = self.receive().await {
                return result;
            }
        }
    }
}

fn config() -> NodeConfig {
    NodeConfig {
        id: NodeId(Uuid::from_u128(1)),
        zone: "z1".into(),
        hull_version: "0.1.0".into(),
        memory_reserved: Bytes::ZERO,
        underlay: None,
        providers: Vec::new(),
    }
}

async fn start(host: &FakeHost, server: &Server) -> NodeHandle {
    Node::start(config(), host.drivers(), server.connector.clone()).await.unwrap()
}

fn network() -> DesiredNetwork {
    DesiredNetwork {
        id: NetworkId(Uuid::from_u128(11)),
        name: "default".into(),
        subnets: vec![],
        uplink: Uplink::Nat,
        vni: None,
        mtu: 1500,
        domain: "hull.internal".into(),
        ports: vec![],
        groups: vec![],
    }
}

fn desired() -> DesiredVm {
    let nic = DesiredNic { port: PortId(Uuid::from_u128(21)), network: network().id, mac: Mac([2, 0, 0, 0, 0, 1]) };
    DesiredVm { nics: vec![nic], ..world::desired() }
}

fn all(vms: &[&DesiredVm]) -> Desired {
    let vms = vms.iter().map(|vm| (*vm).clone()).collect();
    Desired { full: true, vms, networks: vec![network()], ..Desired::default() }
}

fn change(vm: &DesiredVm, change: impl FnOnce(&mut DesiredVm)) -> DesiredVm {
    let mut vm = vm.clone();
    change(&mut vm);
    vm.revision += 1;
    vm
}

fn power(vm: &DesiredVm, target: PowerTarget) -> DesiredVm {
    change(vm, |vm| (vm.vm.power.target, vm.vm.power.seq) = (target, vm.vm.power.seq + 1))
}

/// A node with a server and one VM that runs.
async fn running() -> (FakeHost, Server, NodeHandle, DesiredVm) {
    let (host, mut server, vm) = (FakeHost::new(), Server::new(), desired());
    let node = start(&host, &server).await;
    server.accept().await;
    server.tell(all(&[&vm])).await;
    server.until_phase(&vm, VmPhase::Running).await;
    (host, server, node, vm)
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_made_stopped_started_and_deleted_without_a_trace() {
    let (host, mut server, node, vm) = running().await;
    assert_eq!(host.with(|state| state.metadata[&vm.vm.id].zone.clone()), "z1");
    let vm = power(&vm, PowerTarget::Stopped);
    server.tell(all(&[&vm])).await;
    let status = server.until_phase(&vm, VmPhase::Stopped).await;
    assert_eq!((status.vmm, status.last_exit.unwrap().cause), (None, ExitCause::GuestShutdown));
    let vm = power(&vm, PowerTarget::Running);
    server.tell(all(&[&vm])).await;
    server.until_phase(&vm, VmPhase::Running).await;
    let vm = change(&vm, |vm| vm.vm.deleted_at = Some(world::at(1)));
    server.tell(all(&[&vm])).await;
    server.until_phase(&vm, VmPhase::Gone).await;
    server.tell(Desired { full: true, ..Desired::default() }).await;
    while host.with(|state| !state.networks.is_empty()) {
        server.receive().await;
    }
    host.with(|state| {
        assert!(state.processes.is_empty() && state.disks.is_empty());
        assert!(state.records.is_empty() && state.metadata.is_empty());
    });
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_again_goes_on_with_the_same_process_and_tells_all_again() {
    let (host, mut server, node, vm) = running().await;
    node.shutdown().await;
    assert_eq!(host.with(|state| state.processes.len()), 1, "shutting down leaves VMs running");
    host.with(|state| state.metadata.clear());
    server.statuses.clear();
    let node = start(&host, &server).await;
    server.accept().await;
    let status = server.until_phase(&vm, VmPhase::Running).await;
    assert_eq!(status.vmm.unwrap().pid, 1);
    assert!(host.with(|state| state.metadata.contains_key(&vm.vm.id)), "the metadata service is told anew");
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_server_vms_come_back_after_a_reboot_of_the_host() {
    let (host, server, node, _) = running().await;
    node.shutdown().await;
    drop(server);
    host.reboot();
    let node = start(&host, &Server::new()).await;
    while host.with(|state| state.processes.is_empty()) {
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(host.with(|state| (state.started, state.networks.len())), (2, 1));
    node.shutdown().await;
}

/// While Hull is away someone sets the clock.
const YEARS: i64 = 10 * 365 * 86_400;

#[tokio::test(start_paused = true)]
async fn a_restart_that_waits_comes_in_time_though_the_clock_was_set_while_hull_was_away() {
    for moved in [YEARS, -YEARS] {
        let (host, mut server, node, vm) = running().await;
        for n in 1..=5 {
            host.with(|state| state.processes[&vm.vm.id].exit(ExitCause::Died));
            server.until(&vm, |status| status.restarts == n).await;
            if n < 5 {
                let again = |status: &VmStatus| status.restarts == n && status.phase == VmPhase::Running;
                server.until(&vm, again).await;
            }
        }
        node.shutdown().await;
        host.with(|state| state.wall += moved);
        let before = tokio::time::Instant::now();
        let mut server = Server::new();
        let node = start(&host, &server).await;
        server.accept().await;
        server.tell(all(&[&vm])).await;
        let waiting = server.until(&vm, |status| status.reason.is_some()).await.reason.unwrap();
        let left = waiting.deadline.unwrap().duration_since(host.now());
        assert!((1..=16).contains(&left.as_secs()), "{moved}: {waiting:?} {left}");
        server.until_phase(&vm, VmPhase::Running).await;
        let took = before.elapsed().as_secs();
        assert!((10..=30).contains(&took), "{moved}: after {took} s");
        node.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_heed_is_forced_in_time_though_the_clock_was_set_while_hull_was_away() {
    for moved in [YEARS, -YEARS] {
        let (host, mut server, vm) = (FakeHost::new(), Server::new(), desired());
        host.with(|state| state.deaf = true);
        let node = start(&host, &server).await;
        server.accept().await;
        server.tell(all(&[&vm])).await;
        server.until_phase(&vm, VmPhase::Running).await;
        let vm = power(&vm, PowerTarget::Stopped);
        server.tell(all(&[&vm])).await;
        let asked = tokio::time::Instant::now();
        server.until(&vm, |status| status.phase == VmPhase::Stopping && status.reason.is_some()).await;
        sleep(Duration::from_secs(5)).await;
        node.shutdown().await;
        host.with(|state| state.wall += moved);
        let mut server = Server::new();
        let node = start(&host, &server).await;
        server.accept().await;
        server.tell(all(&[&vm])).await;
        let stopped = server.until_phase(&vm, VmPhase::Stopped).await;
        assert_eq!(stopped.last_exit.unwrap().cause, ExitCause::Requested);
        let took = asked.elapsed().as_secs();
        assert!((30..=35).contains(&took), "{moved}: forced after {took} s, its grace being 30");
        node.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_is_dialled_again_and_what_it_missed_is_made_good() {
    let (host, mut server, node, vm) = running().await;
    server.link = None;
    host.with(|state| state.processes[&vm.vm.id].exit(ExitCause::Died));
    server.statuses.clear();
    server.accept().await;
    let vm = power(&vm, PowerTarget::Stopped);
    server.tell(all(&[&vm])).await;
    let status = server.until_phase(&vm, VmPhase::Stopped).await;
    assert!(status.last_exit.is_some());
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_server_does_not_know_goes_only_once_it_has_told_everything() {
    let (host, mut server, node, vm) = running().await;
    let stray = VmId(Uuid::from_u128(99));
    host.with(|state| state.disks.insert(stray, BTreeSet::from([1])));
    server.tell(Desired { vms: vec![vm.clone()], ..Desired::default() }).await;
    let vm = change(&vm, |_| ());
    server.tell(Desired { vms: vec![vm.clone()], ..Desired::default() }).await;
    server.until_phase(&vm, VmPhase::Running).await;
    assert!(host.with(|state| state.disks.contains_key(&stray)));
    server.tell(Desired { full: true, networks: vec![network()], ..Desired::default() }).await;
    while host.with(|state| !state.disks.is_empty()) {
        server.receive().await;
    }
    assert!(host.with(|state| state.processes.is_empty() && state.records.is_empty()));
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn deleting_does_not_wait_for_an_image_that_never_comes() {
    let (host, mut server, vm) = (FakeHost::new(), Server::new(), desired());
    host.with(|state| state.disks_hang = true);
    let node = start(&host, &server).await;
    server.accept().await;
    server.tell(all(&[&vm])).await;
    let status = server.until_phase(&vm, VmPhase::Preparing).await;
    assert_eq!(status.generation, 1);
    let status = server.until(&vm, |status| status.reason.is_some()).await;
    assert!(status.reason.unwrap().deadline.is_some(), "what waits says until when");
    let asked = tokio::time::Instant::now();
    let vm = change(&vm, |vm| vm.vm.deleted_at = Some(world::at(1)));
    server.tell(all(&[&vm])).await;
    server.until_phase(&vm, VmPhase::Gone).await;
    assert!(asked.elapsed() < Duration::from_secs(5));
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_network_that_cannot_be_made_is_said_and_waited_for() {
    let (host, mut server, vm) = (FakeHost::new(), Server::new(), desired());
    host.with(|state| state.networks_fail = true);
    let node = start(&host, &server).await;
    server.accept().await;
    server.tell(all(&[&vm])).await;
    let status = server.until_phase(&vm, VmPhase::Failed).await;
    let reason = status.reason.unwrap();
    assert_eq!((reason.code, reason.message.as_str()), (ReasonCode::NetworkFailed, "nft: broken"));
    host.with(|state| state.networks_fail = false);
    server.until_phase(&vm, VmPhase::Running).await;
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn routers_come_after_their_networks_are_remembered_and_go_when_nobody_names_them() {
    let (host, mut server, vm) = (FakeHost::new(), Server::new(), desired());
    let node = start(&host, &server).await;
    server.accept().await;
    let router = DesiredRouter {
        id: RouterId(Uuid::from_u128(31)),
        name: "r".into(),
        subnets: vec![DesiredRouterSubnet {
            network: network().id,
            cidr: "10.1.0.0/24".parse().unwrap(),
            gateway: "10.1.0.1".parse().unwrap(),
        }],
        routes: vec![],
        gateway: None,
    };
    let has = |routers: &[RouterId]| {
        let wanted: BTreeSet<RouterId> = routers.iter().copied().collect();
        let host = host.clone();
        async move {
            let there = async {
                while host.with(|state| state.routers != wanted) {
                    sleep(Duration::from_millis(100)).await;
                }
            };
            timeout(Duration::from_secs(60), there).await.expect("the routers never became these");
        }
    };
    // The fake refuses a router whose network is not there yet.
    host.with(|state| state.networks_fail = true);
    server.tell(Desired { routers: vec![router.clone()], ..all(&[&vm]) }).await;
    sleep(Duration::from_secs(30)).await;
    host.with(|state| state.networks_fail = false);
    has(&[router.id]).await;

    node.shutdown().await;
    host.reboot();
    let node = start(&host, &server).await;
    has(&[router.id]).await;
    server.accept().await;
    server.tell(all(&[&vm])).await;
    has(&[]).await;
    node.shutdown().await;
    assert!(host.with(|state| state.told_routers.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_tells_nothing_keeps_what_runs_until_someone_says_what_shall_be() {
    let (host, mut server, node, vm) = running().await;
    node.shutdown().await;
    host.with(|state| state.records.insert(vm.vm.id, Record::new(vm.vm.id)));
    let node = start(&host, &server).await;
    server.accept().await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(host.with(|state| state.processes.len()), 1);
    server.statuses.clear();
    server.tell(all(&[&vm])).await;
    assert_eq!(server.until_phase(&vm, VmPhase::Running).await.vmm.unwrap().pid, 1);
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn calls_are_answered_and_streams_dialled_back() {
    let (_host, mut server, node, vm) = running().await;
    let id = vm.vm.id;
    let log = server.call(NodeCall::ConsoleLog { vm: id, tail: 100 }).await.unwrap();
    assert_eq!(log, NodeReply::Bytes { base64: "Ym9vdGVk".into() });
    let error = server.call(NodeCall::AgentPing { vm: id }).await.unwrap_err();
    assert_eq!(error.detail, "no agent");
    let elsewhere = server.call(NodeCall::Screenshot { vm: VmId(Uuid::nil()) }).await.unwrap_err();
    assert!(elsewhere.detail.contains("start it first"), "{elsewhere}");
    let stream = StreamId(Uuid::from_u128(77));
    let open = NodeCall::OpenStream { stream, vm: id, target: StreamTarget::Console };
    assert_eq!(server.call(open).await.unwrap(), NodeReply::Done);
    let Some(Dialled::Stream { id, stream: mut bytes }) = server.dialled.recv().await else { panic!("no stream") };
    assert_eq!(id, stream);
    let mut said = [0; 7];
    bytes.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"login: ");
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn by_hand_a_vm_is_stopped_started_and_deleted_without_a_server() {
    let (host, _server, node, vm) = running().await;
    node.shutdown().await;
    let (config, drivers, within) = (config(), host.drivers(), Duration::from_secs(600));
    let listed = local::list(&drivers).await.unwrap();
    assert_eq!((listed.len(), listed[0].name.as_deref(), listed[0].started), (1, Some("web1"), true));
    let status = local::stop(&config, &drivers, vm.vm.id, within).await.unwrap();
    assert_eq!(status.phase, VmPhase::Stopped);
    let status = local::start(&config, &drivers, vm.vm.id, within).await.unwrap();
    assert_eq!(status.phase, VmPhase::Running);
    local::delete(&config, &drivers, vm.vm.id, within).await.unwrap();
    assert!(host.with(|state| state.processes.is_empty() && state.disks.is_empty() && state.records.is_empty()));
    assert!(local::start(&config, &drivers, vm.vm.id, within).await.is_err());
}

fn nic(number: u8) -> DesiredNic {
    DesiredNic {
        port: PortId(Uuid::from_u128(20 + u128::from(number))),
        network: network().id,
        mac: Mac([2, 0, 0, 0, 0, number]),
    }
}

/// Waits until the process has these NICs and the node says that all is as wished.
async fn until_nics(host: &FakeHost, server: &mut Server, vm: &DesiredVm) {
    let held = |host: &FakeHost| {
        let process = host.with(|state| state.processes[&vm.vm.id].clone());
        let held: BTreeSet<_> = process.nics.lock().unwrap().iter().map(|nic| nic.mac).collect();
        held
    };
    let wanted: BTreeSet<_> = vm.nics.iter().map(|nic| nic.mac).collect();
    let settled =
        |status: &VmStatus| status.observed_revision == vm.revision && status.reason.is_none() && held(host) == wanted;
    server.until(vm, settled).await;
}

#[tokio::test(start_paused = true)]
async fn nics_come_and_go_whatever_step_fails_repeats_or_is_cut_short() {
    for wrong in [None, Some(Wrong::Before), Some(Wrong::After), Some(Wrong::Silent)] {
        for to in [&[1, 2][..], &[], &[2], &[2, 3]] {
            let (host, mut server, mut node, vm) = running().await;
            let process = host.with(|state| state.processes[&vm.vm.id].clone());
            process.changes.lock().unwrap().wrong = wrong;
            let vm = change(&vm, |vm| vm.nics = to.iter().map(|&number| nic(number)).collect());
            server.tell(all(&[&vm])).await;
            if wrong == Some(Wrong::Silent) {
                // The node dies in the middle of the step, after it took effect.
                while process.changes.lock().unwrap().made.is_empty() {
                    sleep(Duration::from_millis(10)).await;
                }
                node.shutdown().await;
                server.statuses.clear();
                node = start(&host, &server).await;
                server.accept().await;
                server.tell(all(&[&vm])).await;
            }
            until_nics(&host, &mut server, &vm).await;
            assert_eq!(host.with(|state| state.started), 1, "{wrong:?} {to:?}: the machine ran on");
            let made = process.changes.lock().unwrap().made.clone();
            let once: BTreeSet<_> = made.iter().collect();
            assert_eq!(
                made.len() - once.len(),
                usize::from(wrong == Some(Wrong::Before)),
                "{wrong:?} {to:?}: {made:?}"
            );
            node.shutdown().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_suspended_with_one_nic_and_resumed_with_another_ends_up_with_the_other() {
    let (host, mut server, node, vm) = running().await;
    let vm = power(&vm, PowerTarget::Suspended);
    server.tell(all(&[&vm])).await;
    server.until_phase(&vm, VmPhase::Suspended).await;
    let vm = power(&change(&vm, |vm| vm.nics = vec![nic(2)]), PowerTarget::Running);
    server.tell(all(&[&vm])).await;
    server.until_phase(&vm, VmPhase::Running).await;
    until_nics(&host, &mut server, &vm).await;
    let process = host.with(|state| state.processes[&vm.vm.id].clone());
    assert_eq!(process.changes.lock().unwrap().made, ["+02:00:00:00:00:02", &format!("-{}", nic(1).port)]);
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_goes_from_node_to_node_by_their_server() {
    let migration = MigrationId(Uuid::from_u128(99));
    let (old_host, mut old, old_node, vm) = running().await;
    let hand_over = |migration| NodeCall::OpenStream {
        stream: StreamId(Uuid::from_u128(77)),
        vm: vm.vm.id,
        target: StreamTarget::Handover { migration },
    };
    assert!(old.call(hand_over(migration)).await.unwrap_err().detail.contains("not held"), "it runs");
    let leaves = DesiredVm { transit: Some(Transit::Leaving { migration }), ..vm.clone() };
    old.tell(all(&[&leaves])).await;
    let status = old.until_phase(&leaves, VmPhase::Released).await;
    assert_eq!((status.migration, status.vmm, status.generation), (Some(migration), None, 1));
    let another = MigrationId(Uuid::from_u128(98));
    assert!(old.call(hand_over(another)).await.is_err(), "it is held for one");

    let (new_host, mut new) = (FakeHost::new(), Server::new());
    let new_node = start(&new_host, &new).await;
    new.accept().await;
    let comes = DesiredVm { generation: 2, transit: Some(Transit::Arriving { migration }), ..vm.clone() };
    new.tell(all(&[&comes])).await;
    let Some(Dialled::Handover { migration: asked, stream: mut to }) = new.dialled.recv().await else { panic!("none") };
    assert_eq!(asked, migration);
    old.call(hand_over(migration)).await.unwrap();
    let Some(Dialled::Stream { stream: mut from, .. }) = old.dialled.recv().await else { panic!("no stream") };
    tokio::io::copy(&mut from, &mut to).await.unwrap();
    drop(to);
    let status = new.until_phase(&comes, VmPhase::Arrived).await;
    assert_eq!((status.migration, status.generation), (Some(migration), 2));
    assert!(new_host.with(|state| state.processes.is_empty()), "it is not this node's yet");

    let own = DesiredVm { transit: None, ..comes };
    new.tell(all(&[&own])).await;
    let status = new.until(&own, |status| status.phase == VmPhase::Running && status.migration.is_none()).await;
    assert_eq!(status.power_seq, vm.vm.power.seq);
    old.tell(all(&[])).await;
    let gone = || old_host.with(|state| state.disks.is_empty() && state.records.is_empty());
    timeout(Duration::from_secs(60), async {
        while !gone() {
            tokio::task::yield_now().await;
            tokio::time::advance(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap();
    old_node.shutdown().await;
    new_node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_comes_by_another_migration_is_not_waited_for_by_the_first() {
    let [first, second] = [98, 99].map(|number| MigrationId(Uuid::from_u128(number)));
    let (host, mut server) = (FakeHost::new(), Server::new());
    let node = start(&host, &server).await;
    server.accept().await;
    let comes = |migration| DesiredVm { transit: Some(Transit::Arriving { migration }), ..desired() };
    server.tell(all(&[&comes(first)])).await;
    // Its bytes never end.
    let Some(Dialled::Handover { stream: _stalled, .. }) = server.dialled.recv().await else { panic!("none") };
    let told = tokio::time::Instant::now();
    server.tell(all(&[&comes(second)])).await;
    let Some(Dialled::Handover { migration, .. }) = server.dialled.recv().await else { panic!("none") };
    assert_eq!(migration, second);
    assert!(told.elapsed() < Duration::from_secs(60), "it waited for the first");
    node.shutdown().await;
}
