//! The cloud: a store that outlives everything, a server and nodes that come and go, hosts that go on without them.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use hull_node::{Drivers, Node, NodeConfig, NodeHandle};
use hull_server::{
    Core,
    app::{
        App,
        ctx::{Caller, Ctx},
    },
    env::Env,
    hub::Hub,
};
use hull_store::{Revision, Store, memory::MemoryStore};
use hull_types::{error::Result, id::NodeId, name::Name, units::Bytes};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    clock::SimClock,
    fate::Fate,
    founding,
    fuse::Fuse,
    host::{Doors, Guests, Host},
    life::LifeStore,
    link::{Cable, Dialled, SimConnector, Switchboard, What},
    truth::Truth,
};

/// One life of the server.
struct Server {
    core: Core,
    /// The store as this life reaches it.
    store: Arc<LifeStore>,
    /// Its links; dropped, they are gone.
    _links: JoinSet<()>,
}

/// A node: its host, and one life of its runtime at a time.
pub struct SimNode {
    /// Its id.
    pub id: NodeId,
    /// Its host.
    pub host: Arc<Host>,
    /// Its cable.
    pub cable: watch::Sender<Cable>,
    life: Option<(Doors, NodeHandle)>,
}

impl SimNode {
    /// Whether its runtime is up.
    pub fn is_up(&self) -> bool {
        self.life.is_some()
    }
}

/// The world of one run.
pub struct Cloud {
    /// Chance.
    pub fate: Arc<Fate>,
    /// Time.
    pub clock: SimClock,
    /// The store, which never dies.
    pub store: Arc<MemoryStore>,
    /// Cuts the server off from its store.
    pub server_fuse: Arc<Fuse>,
    /// The nodes.
    pub nodes: Vec<SimNode>,
    /// What the store says.
    pub truth: Truth,
    /// What was done, newest last, for whoever reads a failure.
    pub journal: Vec<String>,
    server: Option<Server>,
    switchboard: Switchboard,
    guests: Arc<Guests>,
    seen: Revision,
}

impl Cloud {
    /// A cloud with its server up, its default project and network made, and so many nodes joined and up.
    pub async fn new(seed: u64, nodes: usize) -> Result<Self> {
        let mut cloud = Self {
            fate: Arc::new(Fate::new(seed)),
            clock: SimClock::new(),
            store: Arc::new(MemoryStore::new()),
            server_fuse: Arc::default(),
            nodes: Vec::new(),
            truth: Truth::default(),
            journal: Vec::new(),
            server: None,
            switchboard: Switchboard::default(),
            guests: Arc::default(),
            seen: Revision(0),
        };
        cloud.start_server().await;
        founding::found(&cloud).await?;
        for number in 1..=nodes {
            let name =
                Name::new(&format!("n{number}")).map_err(|why| hull_types::error::Error::internal(why.to_string()))?;
            let app = cloud.app().ok_or_else(|| hull_types::error::Error::unavailable("the server did not start"))?;
            let id = app.join_node(&ctx(), &name).await?;
            let host = Host::new(name.as_str(), cloud.fate.clone(), cloud.clock, cloud.guests.clone());
            cloud.nodes.push(SimNode { id, host, cable: watch::Sender::new(Cable::Whole), life: None });
            cloud.start_node(number - 1).await;
        }
        Ok(cloud)
    }

    /// The services, while the server is up.
    pub fn app(&self) -> Option<&Arc<App>> {
        self.server.as_ref().map(|server| &server.core.app)
    }

    /// Notes what happens, for whoever reads a failure.
    pub fn note(&mut self, what: impl Into<String>) {
        self.journal.push(format!("{} {}", self.clock.now(), what.into()));
    }

    /// Starts the server on the store as it is.
    pub async fn start_server(&mut self) {
        if self.server.is_some() {
            return;
        }
        let store = Arc::new(LifeStore::new(self.store.clone(), self.fate.clone(), self.server_fuse.clone()));
        let world = Arc::new(World { fate: self.fate.clone(), clock: self.clock });
        let env = Env::new(world.clone(), world.clone(), world);
        let core = match Box::pin(Core::start(store.clone(), None, env)).await {
            Ok(core) => core,
            Err(error) => return self.note(format!("the server did not start: {error}")),
        };
        let (dial, mut dialled) = mpsc::unbounded_channel::<Dialled>();
        let hub = core.app.hub().clone();
        let mut acceptor = JoinSet::new();
        acceptor.spawn(async move {
            let mut links = JoinSet::new();
            while let Some(dialled) = dialled.recv().await {
                links.spawn(answer(hub.clone(), dialled));
            }
        });
        self.switchboard.set(Some(dial));
        self.server = Some(Server { core, store, _links: acceptor });
    }

    /// The server dies in the middle of whatever it does.
    pub fn kill_server(&mut self) {
        self.switchboard.set(None);
        let Some(server) = self.server.take() else { return };
        server.store.close();
        // In this process its tasks must be ended by hand; with its store closed none of them changes anything.
        tokio::spawn(server.core.shutdown());
    }

    /// Starts a node's runtime on its host as it is.
    pub async fn start_node(&mut self, number: usize) {
        let Some(node) = self.nodes.get_mut(number).filter(|node| node.life.is_none()) else { return };
        let doors = node.host.doors();
        let config = NodeConfig {
            id: node.id,
            zone: "sim".to_owned(),
            hull_version: "sim".to_owned(),
            memory_reserved: Bytes::gib(1),
            underlay: None,
            providers: Vec::new(),
        };
        let shared = Arc::new(doors.clone());
        let drivers = Drivers {
            hypervisor: shared.clone(),
            networks: shared.clone(),
            disks: shared.clone(),
            images: shared.clone(),
            handover: shared.clone(),
            records: shared.clone(),
            host: shared,
            clock: Arc::new(self.clock),
        };
        let cable = node.cable.subscribe();
        let connector = SimConnector::new(node.id, self.switchboard.clone(), cable, self.fate.clone());
        match Box::pin(Node::start(config, drivers, Arc::new(connector))).await {
            Ok(handle) => node.life = Some((doors, handle)),
            Err(error) => self.truth.broken.push(format!("a node's runtime did not start: {error}")),
        }
    }

    /// A node's runtime dies; its host goes on.
    pub fn kill_node(&mut self, number: usize) {
        let Some((doors, handle)) = self.nodes.get_mut(number).and_then(|node| node.life.take()) else { return };
        doors.close();
        // In this process its tasks must be ended by hand; with its doors closed none of them reaches the host.
        tokio::spawn(handle.shutdown());
    }

    /// A host loses power and comes back; its runtime is started by whoever calls.
    pub fn reboot_host(&mut self, number: usize) {
        self.kill_node(number);
        if let Some(node) = self.nodes.get(number) {
            node.host.reboot();
        }
    }

    /// Lets time pass.
    pub async fn pass(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
        self.catch_up().await;
    }

    /// Reads what was committed since the last look, revision by revision.
    pub async fn catch_up(&mut self) {
        let Ok(now) = self.store.revision().await else { return };
        if now <= self.seen {
            return;
        }
        let mut batches = match self.store.watch("", self.seen).await {
            Ok(batches) => batches,
            Err(error) => return self.truth.broken.push(format!("the store's history is gone: {error}")),
        };
        while self.seen < now {
            match batches.next().await {
                Some(Ok(batch)) => {
                    self.seen = batch.revision;
                    self.truth.take(&batch);
                }
                other => return self.truth.broken.push(format!("the store's watch ended: {other:?}")),
            }
        }
    }

    /// The last revision looked at.
    pub fn revision(&self) -> u64 {
        self.seen.0
    }

    /// Every promise broken so far.
    pub fn broken(&self) -> Vec<String> {
        let hosts = self.nodes.iter().flat_map(|node| node.host.broken());
        self.truth.broken.iter().cloned().chain(hosts).collect()
    }
}

/// Serves what a node dialled for. How it ended is for the node to know.
async fn answer(hub: Arc<Hub>, Dialled { node, what }: Dialled) {
    match what {
        What::Link { from, to } => _ = hub.attach(node, from, to).await,
        What::Stream { id, io } => _ = hub.accept_stream(node, id, Box::new(io)),
        What::Handover { migration, mut io } => {
            if let Ok(mut from) = hub.handover(node, migration).await {
                _ = tokio::io::copy_bidirectional(&mut from, &mut io).await;
            }
        }
    }
}

/// The circumstances of the simulation's own calls.
pub fn ctx() -> Ctx {
    Ctx::of(Caller::LOCAL_ROOT)
}

/// Time and chance, as the server takes them.
struct World {
    fate: Arc<Fate>,
    clock: SimClock,
}

impl hull_server::env::Clock for World {
    fn now(&self) -> hull_types::Timestamp {
        self.clock.now()
    }
}

impl hull_server::env::Ids for World {
    fn next(&self) -> uuid::Uuid {
        self.fate.uuid(u64::try_from(self.clock.now().as_millisecond()).unwrap_or(0))
    }
}

impl hull_server::env::Rng for World {
    fn fill(&self, buffer: &mut [u8]) {
        self.fate.fill(buffer);
    }
}
