//! [`Networks`] on a Linux host.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use hull_types::{
    error::{Error, Result},
    id::{NetworkId, PortId, RouterId, VmId},
    link::{DesiredNetwork, DesiredRouter},
    path::{PathQuery, PathReport},
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::AbortHandle,
};

use super::{
    GuestMetadata, Networks, explain,
    host::Host,
    keeper::{Common, Keeper, Request},
    layout::{LinkRange, Prefix},
    metadata::TokenKey,
    netns::Netns,
    router::{RouterKeeper, RouterRequest},
    serve::{Guests, Leases},
    walk,
};
use crate::hypervisor::ByteStream;

/// How long a connection into a network may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// How networks are made on this host.
#[derive(Clone, Debug)]
pub struct NetworksConfig {
    /// Where it remembers what it loaded (small files, safe to lose). Made where missing.
    pub state: PathBuf,
    /// What the names of everything it makes begin with; two Hulls on one host need two.
    pub prefix: Prefix,
    /// Where the links between networks and the host get their addresses.
    pub links: LinkRange,
    /// A file of the network namespace that is the host's; this process's own where absent.
    pub host_namespace: Option<PathBuf>,
    /// The file that names the resolvers which guests' questions are passed on to, asked from the host's namespace.
    pub resolv_conf: PathBuf,
    /// How often each network is looked over and repaired.
    pub repair_every: Duration,
    /// The address at which other nodes reach this one's networks; none where it is alone.
    pub underlay: Option<IpAddr>,
    /// The provider networks it is plugged into, with the bridge of the host for each.
    pub providers: BTreeMap<String, String>,
}

impl NetworksConfig {
    /// The usual way, remembering under this directory.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            prefix: Prefix::default(),
            links: LinkRange::default(),
            host_namespace: None,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            repair_every: Duration::from_secs(5),
            underlay: None,
            providers: BTreeMap::new(),
        }
    }
}

struct Handle {
    requests: mpsc::Sender<Request>,
    leases: Leases,
    keeper: AbortHandle,
}

struct RouterHandle {
    requests: mpsc::Sender<RouterRequest>,
    keeper: AbortHandle,
}

impl Drop for RouterHandle {
    /// As for a network's.
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Drop for Handle {
    /// A keeper in the middle of a repair must not outlive its instance and undo what another one does.
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Networks as namespaces of this host.
///
/// Dropping it ends the services (DHCP, DNS, metadata) and leaves everything in the kernel as it is: guests go on
/// talking, and the next instance finds all of it.
pub struct LinuxNetworks {
    common: Arc<Common>,
    keepers: Mutex<HashMap<NetworkId, Handle>>,
    routers: Mutex<HashMap<RouterId, RouterHandle>>,
}

impl LinuxNetworks {
    /// Opens the host. Needs root and, for filtering between VMs, the kernel's `br_netfilter`.
    pub fn new(config: NetworksConfig) -> Result<Self> {
        let NetworksConfig { state, prefix, links, host_namespace, resolv_conf, repair_every, .. } = config.clone();
        std::fs::create_dir_all(&state)
            .map_err(|error| Error::unavailable(format!("{} cannot be made: {error}", state.display())))?;
        require_bridge_filter()?;
        let namespace = match host_namespace {
            Some(path) => Netns::open_path(&path, "the host's")?,
            None => Netns::current()?,
        };
        let host = Host::new(namespace, config);
        let tokens = TokenKey::new(rand::random());
        let common = Common {
            host,
            prefix,
            range: links,
            state,
            resolv_conf: resolv_conf.into(),
            repair_every,
            guests: Guests::default(),
            tokens,
        };
        Ok(Self { common: Arc::new(common), keepers: Mutex::default(), routers: Mutex::default() })
    }

    async fn ask_router(
        &self,
        router: RouterId,
        request: impl FnOnce(oneshot::Sender<Result<()>>) -> RouterRequest,
    ) -> Result<()> {
        let gone = || Error::internal(format!("the keeper of router {router} ended"));
        let requests = {
            let mut routers = self.routers.lock().unwrap_or_else(PoisonError::into_inner);
            let handle = routers.entry(router).or_insert_with(|| {
                let (requests, inbox) = mpsc::channel(16);
                let keeper = RouterKeeper::new(Arc::clone(&self.common), router);
                RouterHandle { requests, keeper: tokio::spawn(keeper.run(inbox)).abort_handle() }
            });
            handle.requests.clone()
        };
        let (answer, result) = oneshot::channel();
        requests.send(request(answer)).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }

    /// The network's keeper, started where there is none yet.
    fn keeper(&self, network: NetworkId) -> mpsc::Sender<Request> {
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = keepers.entry(network).or_insert_with(|| {
            let (requests, inbox) = mpsc::channel(16);
            let leases = Leases::default();
            let keeper = Keeper::new(Arc::clone(&self.common), network, Arc::clone(&leases));
            Handle { requests, leases, keeper: tokio::spawn(keeper.run(inbox)).abort_handle() }
        });
        handle.requests.clone()
    }

    fn leases(&self, network: NetworkId) -> Option<Leases> {
        let keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        keepers.get(&network).map(|handle| Arc::clone(&handle.leases))
    }

    async fn ask<T>(&self, network: NetworkId, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T> {
        let gone = || Error::internal(format!("the keeper of network {network} ended"));
        let (answer, result) = oneshot::channel();
        self.keeper(network).send(request(answer)).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())
    }

    /// What is on this host, for a packet's walk.
    async fn surroundings(&self) -> Result<walk::Surroundings> {
        let mut around = walk::Surroundings::new(self.common.host.namespace.clone());
        for id in self.list().await? {
            if let Some(view) = self.ask(id, Request::Desired).await? {
                around.network(self.common.prefix.namespace(id), view.network().clone());
            }
        }
        for id in self.routers().await? {
            around.router(self.common.prefix.router_namespace(id), id);
        }
        Ok(around)
    }

    fn namespace(&self, network: NetworkId) -> Result<Netns> {
        Netns::named(&self.common.prefix.namespace(network))?
            .ok_or_else(|| Error::unavailable(format!("the network {network} is not on this node")))
    }
}

/// Filtering between VMs of one network depends on `br_netfilter`; without it rules would silently not apply.
fn require_bridge_filter() -> Result<()> {
    const SETTING: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    if std::path::Path::new(SETTING).exists() {
        return Ok(());
    }
    let loaded = super::command::run("modprobe", &["br_netfilter"], "");
    if std::path::Path::new(SETTING).exists() {
        return Ok(());
    }
    let why = loaded.err().map_or_else(String::new, |error| format!(" ({error})"));
    Err(Error::insufficient(format!(
        "this kernel lacks br_netfilter, without which VMs cannot be kept from each other{why}; `modprobe br_netfilter`"
    )))
}

#[async_trait]
impl Networks for LinuxNetworks {
    async fn apply(&self, network: &DesiredNetwork) -> Result<()> {
        self.ask(network.id, |answer| Request::Apply(Box::new(network.clone()), answer)).await?
    }

    async fn remove(&self, network: NetworkId) -> Result<()> {
        self.ask(network, Request::Remove).await?
    }

    async fn list(&self) -> Result<Vec<NetworkId>> {
        let mut found: Vec<NetworkId> =
            Netns::names().iter().filter_map(|name| self.common.prefix.network_of(name)).collect();
        found.sort_unstable();
        Ok(found)
    }

    async fn apply_router(&self, router: &DesiredRouter) -> Result<()> {
        self.ask_router(router.id, |answer| RouterRequest::Apply(Box::new(router.clone()), answer)).await
    }

    async fn remove_router(&self, router: RouterId) -> Result<()> {
        self.ask_router(router, RouterRequest::Remove).await
    }

    async fn routers(&self) -> Result<Vec<RouterId>> {
        let mut found: Vec<RouterId> =
            Netns::names().iter().filter_map(|name| self.common.prefix.router_of(name)).collect();
        found.sort_unstable();
        Ok(found)
    }

    async fn tap(&self, network: NetworkId, port: PortId) -> Result<OwnedFd> {
        self.ask(network, |answer| Request::Tap(port, answer)).await?
    }

    async fn set_metadata(&self, metadata: GuestMetadata) -> Result<()> {
        self.common.guests.set(metadata);
        Ok(())
    }

    async fn forget_metadata(&self, vm: VmId) -> Result<()> {
        self.common.guests.forget(vm);
        Ok(())
    }

    async fn connect(&self, network: NetworkId, address: IpAddr, port: u16) -> Result<Box<dyn ByteStream>> {
        let target = SocketAddr::new(address, port);
        // A socket belongs to the namespace it was made in; connecting may happen anywhere.
        let socket = self
            .namespace(network)?
            .run(move || match target {
                SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
                SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
            })
            .await?
            .map_err(|error| Error::insufficient(format!("no socket for a connection to {target}: {error}")))?;
        let stream: TcpStream = tokio::time::timeout(CONNECT, socket.connect(target))
            .await
            .map_err(|_| Error::timeout(format!("{target} does not answer; is the VM up, and a server on that port?")))?
            .map_err(|error| Error::unavailable(format!("cannot connect to {target}: {error}")))?;
        let _ = stream.set_nodelay(true);
        Ok(Box::new(stream))
    }

    async fn explain(&self, network: NetworkId, port: PortId) -> Result<Vec<String>> {
        let view = self.ask(network, Request::Desired).await?;
        let Some(view) = view else {
            return Ok(vec![format!("the network {network} is not kept on this node")]);
        };
        let mut lines = explain::port(&view, &self.namespace(network)?, self.leases(network), port).await?;
        lines.extend(self.common.host.explain(view.network()).await?);
        Ok(lines)
    }

    fn troubles(&self) -> Vec<String> {
        self.common.host.tunnels.misfits()
    }

    async fn explain_path(&self, query: PathQuery) -> Result<PathReport> {
        walk::walk(&self.surroundings().await?, query).await
    }
}
