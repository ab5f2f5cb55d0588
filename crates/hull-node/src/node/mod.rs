//! A node: takes what shall be from its server, keeps one task per VM and one per network, reports what is.
//!
//! ```text
//!               link ──► Desired ──► wishes of VM tasks, wants of network tasks
//!   (lost: dialled again,            statuses of VM tasks ──► outbox ──► link
//!    all statuses told again)        calls ──► a task each ──► replies ──► outbox
//! ```
//!
//! It starts from its own records and works without a server: VMs come back after a reboot of the host before any server
//! answers. What a server no longer knows is removed only after it has told everything it does know
//! ([`hull_types::link::Desired::full`]). Shutting down ends tasks, never VMs.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use hull_types::{
    digest::Digest,
    error::{Error, Result},
    id::{NetworkId, NodeId, RouterId, VmId},
    link::{Desired, DesiredRouter, DesiredVm, FromNode, NodeCall, ToNode},
    node::NodeStatus,
    units::Bytes,
    vm::{VmPhase, VmStatus},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::outbox::Outbox;
use crate::{
    host::{Clock, Host, HostFacts},
    hypervisor::{Hypervisor, HypervisorFacts},
    link::{Connector, Link},
    network::Networks,
    plan::record::Record,
    storage::{Disks, ImageSource},
    vm::{self, Report, Shared, VmHandle, What, Wish, handover::Handover, records::Records},
};

mod calls;
mod facts;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod fake;
pub mod local;
pub(crate) mod networks;
mod outbox;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

/// How often the node looks at itself.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often images that nobody uses are looked for.
const TIDY_EVERY: Duration = Duration::from_secs(600);
/// How many looks pass between heartbeats.
const LOOKS_PER_HEARTBEAT: u32 = 2;
/// How long the first link waits for the hypervisor to say what it can do.
const FACTS_WITHIN: Duration = Duration::from_secs(90);
/// How soon the hypervisor is asked again after it could not say.
const FACTS_AGAIN: Duration = Duration::from_secs(30);
/// The longest pause between attempts to reach the server.
const DIAL_MOST: Duration = Duration::from_secs(15);

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Who it is.
    pub id: NodeId,
    /// Its zone's name, as guests are told.
    pub zone: String,
    /// Hull's version.
    pub hull_version: String,
    /// Memory kept off for the host itself.
    pub memory_reserved: Bytes,
    /// The address at which other nodes reach its networks; none where it is alone.
    pub underlay: Option<IpAddr>,
    /// The provider networks it is plugged into.
    pub providers: Vec<String>,
}

/// What a node works with: its borders to the host.
#[derive(Clone)]
pub struct Drivers {
    /// Starts machines.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Makes networks.
    pub networks: Arc<dyn Networks>,
    /// Makes disks.
    pub disks: Arc<dyn Disks>,
    /// Brings kernels.
    pub images: Arc<dyn ImageSource>,
    /// Gives VMs to other nodes and takes them.
    pub handover: Arc<dyn Handover>,
    /// Remembers.
    pub records: Arc<dyn Records>,
    /// Tells of the host.
    pub host: Arc<dyn Host>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// A node that runs.
#[derive(Debug)]
pub struct NodeHandle {
    stop: CancellationToken,
    connected: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl NodeHandle {
    /// Ends the node's tasks. VMs run on.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the node did not end cleanly");
        }
    }

    /// Whether it is linked to its server; changes as that does.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

/// A node.
pub struct Node;

impl Node {
    /// Starts a node from its records. Fails where those or the host's facts cannot be read; all else is retried for ever.
    pub async fn start(config: NodeConfig, drivers: Drivers, connector: Arc<dyn Connector>) -> Result<NodeHandle> {
        let host = drivers.host.facts().await?;
        let records = drivers.records.load().await?;
        let networks = drivers.records.load_networks().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the networks last told cannot be read; waiting for the server's word");
            Vec::new()
        });
        let routers = drivers.records.load_routers().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the routers last told cannot be read; waiting for the server's word");
            Vec::new()
        });
        let (reports, reported) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            node: config.id,
            zone: config.zone.clone(),
            boot_id: host.boot_id.clone(),
            networks: networks::Keeper::new(drivers.networks.clone()),
            server: Some(connector.clone()),
            drivers,
            reports,
        });
        let mut tasks = JoinSet::new();
        for network in networks {
            shared.networks.want(network, &mut tasks);
        }
        let kept = networks::Keeper::of_routers(shared.drivers.networks.clone(), shared.networks.clone());
        for router in routers {
            kept.want(router, &mut tasks);
        }
        let (abilities, hypervisor) = watch::channel(None);
        tasks.spawn(ask_hypervisor(shared.drivers.hypervisor.clone(), abilities));
        let (linked, connected) = watch::channel(false);
        let (replies, replied) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let mut runtime = Runtime {
            config,
            shared,
            routers: kept,
            connector,
            host,
            hypervisor,
            tasks,
            vms: BTreeMap::new(),
            statuses: BTreeMap::new(),
            leaving: BTreeSet::new(),
            outbox: Outbox::default(),
            status: None,
            epoch: 0,
            looks: 0,
            linked,
            replies,
            stop: stop.clone(),
        };
        for record in records {
            runtime.adopt(record);
        }
        let task = tokio::spawn(runtime.run(reported, replied));
        Ok(NodeHandle { stop, connected, task })
    }
}

/// Asks what the hypervisor can do until it says so.
async fn ask_hypervisor(hypervisor: Arc<dyn Hypervisor>, abilities: watch::Sender<Option<Result<HypervisorFacts>>>) {
    loop {
        let facts = hypervisor.facts().await;
        let known = facts.is_ok();
        abilities.send_replace(Some(facts));
        if known {
            return;
        }
        sleep(FACTS_AGAIN).await;
    }
}

/// A VM of the node's.
struct Held {
    handle: VmHandle,
    /// The newest wish's number.
    number: u64,
    /// What it shall be, as last told.
    desired: Option<DesiredVm>,
    /// Networks it may use until it is gone.
    networks: BTreeSet<NetworkId>,
}

/// What a link has for us.
enum LinkEvent {
    Message(ToNode),
    Room(mpsc::OwnedPermit<FromNode>),
    Down,
}

struct Runtime {
    config: NodeConfig,
    shared: Arc<Shared>,
    routers: networks::Keeper<DesiredRouter>,
    connector: Arc<dyn Connector>,
    host: HostFacts,
    hypervisor: watch::Receiver<Option<Result<HypervisorFacts>>>,
    tasks: JoinSet<()>,
    vms: BTreeMap<VmId, Held>,
    statuses: BTreeMap<VmId, VmStatus>,
    /// Networks to remove as soon as no VM uses them.
    leaving: BTreeSet<NetworkId>,
    outbox: Outbox,
    status: Option<NodeStatus>,
    /// Counts links: a reply belongs to the link its call came by.
    epoch: u64,
    looks: u32,
    linked: watch::Sender<bool>,
    replies: mpsc::UnboundedSender<(u64, FromNode)>,
    stop: CancellationToken,
}

impl Runtime {
    async fn run(
        mut self,
        mut reported: mpsc::UnboundedReceiver<Report>,
        mut replied: mpsc::UnboundedReceiver<(u64, FromNode)>,
    ) {
        let stop = self.stop.clone();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tidy = interval(TIDY_EVERY);
        tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut link: Option<Link> = None;
        let mut dialling = self.dial();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(report) = reported.recv() => self.reported(report),
                Some((epoch, reply)) = replied.recv() => {
                    if epoch == self.epoch {
                        self.outbox.replies.push_back(reply);
                    }
                }
                dialled = &mut dialling, if link.is_none() => {
                    link = Some(dialled);
                    self.linked();
                }
                event = next(&mut link, !self.outbox.is_empty()) => match event {
                    LinkEvent::Message(ToNode::Desired(desired)) => self.desired(desired).await,
                    LinkEvent::Message(ToNode::Call { id, call }) => self.call(id, call),
                    LinkEvent::Room(permit) => self.send(permit),
                    LinkEvent::Down => {
                        tracing::warn!("the link to the server is down; dialling again");
                        self.linked.send_replace(false);
                        link = None;
                        dialling = self.dial();
                    }
                },
                Ok(()) = self.hypervisor.changed() => self.look(false).await,
                _ = look.tick() => self.look(true).await,
                _ = tidy.tick() => self.tidy_images(),
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a task of the node's ended badly");
                    }
                }
            }
        }
        self.tasks.shutdown().await;
    }

    /// A future that ends with a link, however long it takes.
    fn dial(&self) -> Pin<Box<dyn Future<Output = Link> + Send>> {
        let (connector, node, mut hypervisor) = (self.connector.clone(), self.config.id, self.hypervisor.clone());
        Box::pin(async move {
            // A server should know what a node can do before it places VMs there.
            let _ = timeout(FACTS_WITHIN, hypervisor.wait_for(Option::is_some)).await;
            let mut attempt = 0u32;
            loop {
                match connector.connect().await {
                    Ok(link) => return link,
                    Err(error) => tracing::info!(%error, attempt, "the server cannot be reached"),
                }
                attempt = attempt.saturating_add(1);
                sleep(backoff(node, attempt)).await;
            }
        })
    }

    fn linked(&mut self) {
        self.epoch += 1;
        self.outbox = Outbox::greeting(self.statuses.keys().copied());
        self.linked.send_replace(true);
    }

    /// Puts the next message into the room there is.
    fn send(&mut self, permit: mpsc::OwnedPermit<FromNode>) {
        let message = self.status.as_ref().and_then(|status| self.outbox.next(status, &self.statuses));
        if let Some(message) = message {
            permit.send(message);
        }
    }

    fn reported(&mut self, report: Report) {
        match report {
            Report::Status(status) => {
                self.outbox.vms.insert(status.vm);
                self.statuses.insert(status.vm, *status);
            }
            Report::Progress { vm, message } => {
                let now = self.shared.now();
                let status = self.statuses.get_mut(&vm).filter(|status| status.phase == VmPhase::Arriving);
                if let Some((status, reason)) =
                    status.and_then(|status| Some((&mut status.at, status.reason.as_mut()?)))
                {
                    (*status, reason.message) = (now, message);
                    self.outbox.vms.insert(vm);
                }
            }
            Report::Ended { vm, heeded } => {
                let Some(held) = self.vms.remove(&vm) else { return };
                if held.number > heeded {
                    let what = held.handle.wish.borrow().what.clone();
                    self.spawn(Record::new(vm), what, held.desired);
                }
                self.sweep();
            }
        }
    }

    /// Goes on with a VM as recorded.
    fn adopt(&mut self, record: Record) {
        let desired = record.desired.clone();
        self.spawn(record, What::AsRecorded, desired);
    }

    fn spawn(&mut self, record: Record, what: What, desired: Option<DesiredVm>) {
        let vm = record.vm;
        let handle = vm::spawn(self.shared.clone(), record, what, &mut self.tasks);
        let networks = desired.iter().flat_map(|desired| desired.nics.iter().map(|nic| nic.network)).collect();
        self.vms.insert(vm, Held { handle, number: 0, desired, networks });
    }

    /// Takes what the server says.
    async fn desired(&mut self, desired: Desired) {
        let (networks_before, routers_before) = (self.shared.networks.desired(), self.routers.desired());
        for network in &desired.networks {
            self.leaving.remove(&network.id);
            self.shared.networks.want(network.clone(), &mut self.tasks);
        }
        self.leaving.extend(&desired.networks_removed);
        for router in &desired.routers {
            self.routers.want(router.clone(), &mut self.tasks);
        }
        for router in &desired.routers_removed {
            self.routers.remove(*router, &mut self.tasks);
        }
        if desired.full {
            self.drop_unknown(&desired).await;
        }
        for vm in desired.vms_removed {
            self.remove(vm);
        }
        for vm in desired.vms {
            self.hold(vm);
        }
        self.sweep();
        let networks = self.shared.networks.desired();
        if networks != networks_before
            && let Err(error) = self.shared.drivers.records.save_networks(&networks).await
        {
            tracing::error!(%error, "the networks told cannot be recorded; a restart without a server would miss them");
        }
        let routers = self.routers.desired();
        if routers != routers_before
            && let Err(error) = self.shared.drivers.records.save_routers(&routers).await
        {
            tracing::error!(%error, "the routers told cannot be recorded; a restart without a server would miss them");
        }
    }

    /// A server that has told everything does not know what it did not name.
    async fn drop_unknown(&mut self, desired: &Desired) {
        let vms: BTreeSet<VmId> = desired.vms.iter().map(|desired| desired.vm.id).collect();
        let networks: BTreeSet<NetworkId> = desired.networks.iter().map(|network| network.id).collect();
        let mut here: BTreeSet<VmId> = self.vms.keys().copied().collect();
        match self.shared.drivers.disks.list().await {
            Ok(listed) => here.extend(listed),
            Err(error) => tracing::warn!(%error, "disks cannot be listed; leftovers stay until the next full word"),
        }
        for vm in here.difference(&vms) {
            self.remove(*vm);
        }
        self.statuses.retain(|vm, _| vms.contains(vm));
        self.leaving.extend(self.shared.networks.known().difference(&networks));
        match self.shared.drivers.networks.list().await {
            Ok(listed) => self.leaving.extend(listed.iter().filter(|id| !networks.contains(id))),
            Err(error) => tracing::warn!(%error, "networks cannot be listed; leftovers stay until the next full word"),
        }
        let routers: BTreeSet<RouterId> = desired.routers.iter().map(|router| router.id).collect();
        let mut strays = self.routers.known();
        match self.shared.drivers.networks.routers().await {
            Ok(listed) => strays.extend(listed),
            Err(error) => tracing::warn!(%error, "routers cannot be listed; leftovers stay until the next full word"),
        }
        for router in strays.difference(&routers) {
            self.routers.remove(*router, &mut self.tasks);
        }
    }

    fn hold(&mut self, desired: DesiredVm) {
        let what = What::Hold(Box::new(desired.clone()));
        match self.vms.get_mut(&desired.vm.id) {
            Some(held) => {
                held.networks.extend(desired.nics.iter().map(|nic| nic.network));
                held.desired = Some(desired);
                held.tell(what);
            }
            None => self.spawn(Record::new(desired.vm.id), what, Some(desired)),
        }
    }

    fn remove(&mut self, vm: VmId) {
        match self.vms.get_mut(&vm) {
            Some(held) => {
                held.desired = None;
                held.tell(What::Remove);
            }
            // It may have left disks behind; where it did not, its task finds nothing and ends.
            None if self.statuses.remove(&vm).is_none() => self.spawn(Record::new(vm), What::Remove, None),
            None => {}
        }
    }

    /// Removes networks that shall go and that no VM uses any more.
    fn sweep(&mut self) {
        let used: BTreeSet<NetworkId> = self.vms.values().flat_map(|held| held.networks.iter().copied()).collect();
        let free: Vec<NetworkId> = self.leaving.difference(&used).copied().collect();
        for network in free {
            self.leaving.remove(&network);
            self.shared.networks.remove(network, &mut self.tasks);
        }
    }

    fn call(&mut self, id: u64, call: NodeCall) {
        let vm = calls::vm_of(&call);
        let held = self.vms.get(&vm);
        let context = calls::Context {
            connector: self.connector.clone(),
            networks: self.shared.networks.clone(),
            drivers: self.shared.drivers.clone(),
            vmm: held.and_then(|held| held.handle.vmm.borrow().clone()),
            desired: held.and_then(|held| held.desired.clone()),
            status: self.statuses.get(&vm).cloned(),
            stop: self.stop.clone(),
        };
        let (epoch, replies) = (self.epoch, self.replies.clone());
        self.tasks.spawn(async move {
            let result = calls::answer(context, call).await;
            // The link may be gone, and whoever asked with it.
            let _ = replies.send((epoch, FromNode::Reply { id, result }));
        });
    }

    /// Lets go cached images, but for those that VMs here are made of. Where it is not known of one, all stay.
    fn tidy_images(&mut self) {
        let all: Option<Vec<&DesiredVm>> = self.vms.values().map(|held| held.desired.as_ref()).collect();
        let Some(all) = all else { return };
        let used: BTreeSet<Digest> = all.into_iter().flat_map(DesiredVm::images).collect();
        let images = self.shared.drivers.images.clone();
        self.tasks.spawn(async move {
            if let Err(error) = images.tidy(used).await {
                tracing::warn!(%error, "cached images that nobody uses could not be removed; trying again later");
            }
        });
    }

    /// Looks at the node itself; now and then says that it lives.
    async fn look(&mut self, counts: bool) {
        match self.shared.drivers.host.facts().await {
            Ok(host) => self.host = host,
            Err(error) => tracing::warn!(%error, "the host's facts cannot be read; telling the last known"),
        }
        let disk_free = self.shared.drivers.disks.free().await.unwrap_or_default();
        let hypervisor = self.hypervisor.borrow().clone();
        let certificate = self.connector.certificate();
        let networks = self.shared.drivers.networks.troubles();
        let known = facts::Known {
            node: self.config.id,
            hull_version: &self.config.hull_version,
            memory_reserved: self.config.memory_reserved,
            underlay: self.config.underlay,
            providers: &self.config.providers,
            networks: &networks,
            host: &self.host,
            hypervisor: hypervisor.as_ref(),
            disk_free,
            certificate: certificate.as_ref(),
            now: self.shared.now(),
        };
        let status = facts::status(&known, self.status.as_ref());
        self.looks += u32::from(counts);
        let changed = self.status.as_ref().is_none_or(|before| !facts::same(before, &status));
        if changed || self.looks >= LOOKS_PER_HEARTBEAT {
            self.looks = 0;
            self.outbox.status = true;
        }
        self.status = Some(status);
    }
}

impl Held {
    fn tell(&mut self, what: What) {
        self.number += 1;
        self.handle.wish.send_replace(Wish { number: self.number, what });
    }
}

/// The next event of the link; none ever where there is none.
async fn next(link: &mut Option<Link>, something_to_send: bool) -> LinkEvent {
    let Some(link) = link else { return std::future::pending().await };
    tokio::select! {
        message = link.rx.recv() => message.map_or(LinkEvent::Down, LinkEvent::Message),
        room = link.tx.clone().reserve_owned(), if something_to_send => room.map_or(LinkEvent::Down, LinkEvent::Room),
        () = link.tx.closed() => LinkEvent::Down,
    }
}

/// The pause before the `attempt`th attempt (from 1): 0.2 s, 0.4 s, … 15 s, each node a different part of it, so that a
/// server that comes back is not met by all at once.
fn backoff(node: NodeId, attempt: u32) -> Duration {
    let most = Duration::from_millis(200).saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(DIAL_MOST);
    let mixed = node.0.as_u128() ^ u128::from(attempt).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    let part = u32::try_from((mixed ^ (mixed >> 64)) % 512).unwrap_or(0);
    most / 2 + most.saturating_mul(part) / 1024
}

/// That a VM is not known to this node.
pub(crate) fn unknown(vm: VmId) -> Error {
    Error::not_found(format!("VM {vm} is not on this node"))
}
