//! Puts the parts together into a process.
//!
//! ```text
//!   hull up        store ── server ══ channels ══ node        one process
//!   hull server    store ── server ◄═ WebSocket, mTLS ═┐
//!   hull node run                                      └═ node
//! ```
//!
//! A data directory belongs to one process at a time: it holds a lock on `hull.lock`, whose first line is its process id and whose
//! second appears once it is ready. Stopping ends tasks and connections; guests are not touched.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use hull_image::{ImageStore, Limits};
use hull_node::{
    Drivers, Node, NodeConfig, NodeHandle,
    host::{LocalHost, SystemClock},
    hypervisor::qemu::{QemuConfig, QemuHypervisor},
    link::{Connector, Dialled, Identity, Remote, in_process, renew::keep_renewed},
    network::{LinuxNetworks, NetworksConfig, Prefix},
    storage::{ImageCache, ImageSource, LocalDisks},
    vm::{handover::FileHandover, records::FileRecords},
};
use hull_server::{
    Config, Server, ServerHandle,
    app::{
        Settings,
        ctx::{Caller, Ctx},
    },
    env::Env,
    hub::Hub,
};
use hull_store::embedded::{EmbeddedStore, Options};
use hull_types::{
    error::{Error, Result},
    id::{MigrationId, NodeId},
    name::Name,
    units::Bytes,
};
use rustix::fs::{FlockOperation, flock};
use tokio::{
    io::{DuplexStream, copy_bidirectional},
    signal::unix::{SignalKind, signal},
};

use crate::config;

/// What a node is told of the networks of its host.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostNetworks {
    /// What names of its networks begin with.
    pub(crate) prefix: String,
    /// The address at which other nodes reach its networks.
    pub(crate) underlay: Option<IpAddr>,
    /// The provider networks it is plugged into, with the bridge for each.
    pub(crate) providers: BTreeMap<String, String>,
}

/// What a process is made of.
#[derive(Clone, Debug)]
pub(crate) enum Parts {
    /// Server and node.
    All {
        /// Where the API listens.
        listen: SocketAddr,
        /// What the node is told of its host.
        host: HostNetworks,
        /// What holds for the server as a whole.
        settings: Settings,
    },
    /// The server.
    Server {
        /// Where the API and links listen.
        listen: SocketAddr,
        /// Names for its certificate.
        names: Vec<String>,
        /// What holds for the server as a whole.
        settings: Settings,
    },
    /// A node that has joined a server.
    Node {
        /// What it is told of its host.
        host: HostNetworks,
        /// The most that cached images may take.
        image_cache: Option<Bytes>,
    },
}

/// Runs these parts until the process is told to end.
pub(crate) fn run(data: &Path, parts: &Parts) -> Result<()> {
    let lock = Lock::take(data)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("hull").build();
    let runtime = runtime.map_err(|e| Error::internal(format!("the runtime cannot be started: {e}")))?;
    runtime.block_on(async {
        // Before anything else starts: a signal that comes early must not be lost.
        let ended = until_told()?;
        let running = Running::start(data, parts).await?;
        lock.ready()?;
        // Without systemd nobody listens.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        tracing::info!(data = %data.display(), "ready");
        ended.await;
        tracing::info!("stopping; VMs go on running");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        running.shutdown().await;
        Ok(())
    })
}

/// Resolves at SIGTERM or SIGINT.
fn until_told() -> Result<impl Future<Output = ()>> {
    let listen = |kind| signal(kind).map_err(|e| Error::internal(format!("signals cannot be received: {e}")));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// What runs.
#[derive(Default)]
struct Running {
    node: Option<NodeHandle>,
    /// What goes on beside the parts, and ends once the node has.
    tasks: Vec<tokio::task::JoinHandle<()>>,
    server: Option<ServerHandle>,
    store: Option<Arc<EmbeddedStore>>,
}

impl Running {
    async fn start(data: &Path, parts: &Parts) -> Result<Self> {
        let mut running = Self::default();
        let started = match parts {
            Parts::All { listen, host, settings } => running.all(data, *listen, host, settings.clone()).await,
            Parts::Server { listen, names, settings } => {
                running.server(data, *listen, names.clone(), settings.clone()).await.map(drop)
            }
            Parts::Node { host, image_cache } => running.remote_node(data, host, *image_cache).await,
        };
        match started {
            Ok(()) => Ok(running),
            Err(error) => {
                running.shutdown().await;
                Err(error)
            }
        }
    }

    async fn all(&mut self, data: &Path, listen: SocketAddr, host: &HostNetworks, settings: Settings) -> Result<()> {
        let images = self.server(data, listen, Vec::new(), settings).await?;
        let Some(server) = &self.server else { return Ok(()) };
        let app = Arc::clone(&server.app);
        let id = app.join_node(&Ctx::of(Caller::SERVER), &node_name(data)?).await?;
        let (connector, mut dialled) = in_process();
        let hub = Arc::clone(app.hub());
        self.tasks.push(tokio::spawn(async move {
            while let Some(dialled) = dialled.recv().await {
                match dialled {
                    Dialled::Link { to_node, from_node } => {
                        let hub = Arc::clone(&hub);
                        tokio::spawn(async move {
                            if let Err(error) = hub.attach(id, from_node, to_node).await {
                                tracing::warn!(%error, "this host's link ended; it is made again");
                            }
                        });
                    }
                    Dialled::Handover { migration, stream } => {
                        tokio::spawn(hand_over(Arc::clone(&hub), id, migration, stream));
                    }
                    Dialled::Stream { id: stream, stream: bytes } => {
                        if let Err(error) = hub.accept_stream(id, stream, Box::new(bytes)) {
                            tracing::debug!(%error, "nobody waits for this stream any more");
                        }
                    }
                }
            }
        }));
        let drivers = drivers(data, host, images)?;
        self.node = Some(Node::start(node_config(id, host), drivers, Arc::new(connector)).await?);
        Ok(())
    }

    async fn server(
        &mut self,
        data: &Path,
        listen: SocketAddr,
        names: Vec<String>,
        settings: Settings,
    ) -> Result<Arc<ImageStore>> {
        let store = EmbeddedStore::open(crate::cli::store_dir(data), Options::default())?;
        self.store = Some(Arc::clone(&store));
        let images = Arc::new(ImageStore::open(data.join("images"), Limits::default()).await?);
        let config =
            Config { listen: Some(listen), names, settings, socket: config::socket(data), ..Config::new(data) };
        self.server = Some(Server::start(config, store, Some(Arc::clone(&images)), Env::system()).await?);
        Ok(images)
    }

    async fn remote_node(&mut self, data: &Path, host: &HostNetworks, image_cache: Option<Bytes>) -> Result<()> {
        let identity = Identity::load(&node_dir(data)).await?.ok_or_else(|| {
            Error::conflict("this host has not joined a server; make a token there with `hull node join-token`, then `hull node join TOKEN` here")
        })?;
        let remote = Arc::new(Remote::new(&identity)?);
        let renewing = keep_renewed(Arc::clone(&remote), node_dir(data), Arc::new(SystemClock::new()));
        self.tasks.push(tokio::spawn(renewing));
        let connector: Arc<dyn Connector> = remote;
        let images = ImageCache::new(node_dir(data).join("images"), Arc::clone(&connector)).with_limit(image_cache);
        let images = Arc::new(images);
        let drivers = drivers(data, host, images)?;
        self.node = Some(Node::start(node_config(identity.node, host), drivers, connector).await?);
        Ok(())
    }

    /// Ends tasks and connections, the node's first: its last reports still find the server.
    async fn shutdown(self) {
        if let Some(node) = self.node {
            node.shutdown().await;
        }
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        if let Some(server) = self.server {
            server.shutdown().await;
        }
        if let Some(store) = self.store {
            store.close();
        }
    }
}

/// Joins this host's node, to which a VM comes, to the node that it leaves.
async fn hand_over(hub: Arc<Hub>, node: NodeId, migration: MigrationId, mut to: DuplexStream) {
    match hub.handover(node, migration).await {
        // How it ended is for its two ends to know.
        Ok(mut from) => drop(copy_bidirectional(&mut from, &mut to).await),
        Err(error) => tracing::warn!(%migration, %error, "a VM cannot be fetched from the node it leaves"),
    }
}

/// What a node keeps in a data directory.
pub(crate) fn node_dir(data: &Path) -> PathBuf {
    data.join("node")
}

/// The host's QEMU, networks and disks, with what the node keeps under this data directory.
pub(crate) fn drivers(data: &Path, host: &HostNetworks, images: Arc<dyn ImageSource>) -> Result<Drivers> {
    let dir = node_dir(data);
    std::fs::create_dir_all(&dir).map_err(|e| Error::invalid(format!("{} cannot be made: {e}", dir.display())))?;
    let networks = NetworksConfig {
        prefix: Prefix::new(&host.prefix)?,
        underlay: host.underlay,
        providers: host.providers.clone(),
        ..NetworksConfig::new(dir.join("networks"))
    };
    Ok(Drivers {
        hypervisor: Arc::new(QemuHypervisor::new(QemuConfig::default())),
        networks: Arc::new(LinuxNetworks::new(networks)?),
        disks: Arc::new(LocalDisks::new(dir.join("disks"), Arc::clone(&images))),
        handover: Arc::new(FileHandover::new(dir.join("disks"), &dir)),
        images,
        records: Arc::new(FileRecords::new(&dir)),
        host: Arc::new(LocalHost::new(&dir)),
        clock: Arc::new(SystemClock::new()),
    })
}

pub(crate) fn node_config(id: NodeId, host: &HostNetworks) -> NodeConfig {
    NodeConfig {
        id,
        zone: "default".to_owned(),
        hull_version: env!("CARGO_PKG_VERSION").to_owned(),
        memory_reserved: Bytes::mib(512),
        underlay: host.underlay,
        providers: host.providers.keys().cloned().collect(),
    }
}

/// The node's name: the host's as it was at the first start, since VMs are placed by it and hosts get renamed.
fn node_name(data: &Path) -> Result<Name> {
    let file = node_dir(data).join("name");
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(_) => {
            let host = host_name();
            let written = std::fs::create_dir_all(node_dir(data)).and_then(|()| std::fs::write(&file, &host));
            written.map_err(|e| Error::invalid(format!("{} cannot be written: {e}", file.display())))?;
            host
        }
    };
    text.trim().parse().map_err(|e| Error::invalid(format!("{} holds no name: {e}", file.display())))
}

/// This host's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A data directory's lock.
pub(crate) struct Lock(File);

impl Lock {
    /// Takes it; refused while another Hull has it.
    pub(crate) fn take(data: &Path) -> Result<Self> {
        let path = data.join("hull.lock");
        let refuse = |e: std::io::Error| Error::invalid(format!("{} cannot be written: {e}", path.display()));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(refuse)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = holder(&mut file).map_or_else(String::new, |(pid, _)| format!(" (process {pid})"));
            return Err(Error::conflict(format!(
                "{} is in use by another Hull{holder}; stop it with `hull down`, or name another --data-dir",
                data.display()
            )));
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(refuse)?;
        Ok(Self(file))
    }

    fn ready(&self) -> Result<()> {
        writeln!(&self.0, "ready").map_err(|e| Error::internal(format!("the lock file cannot be written: {e}")))
    }
}

/// What a lock's file says: the process, and whether it is ready.
fn holder(file: &mut File) -> Option<(i32, bool)> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text)).ok()?;
    let mut lines = text.lines();
    Some((lines.next()?.parse().ok()?, lines.next() == Some("ready")))
}

/// The Hull that holds a data directory: its process, and whether it is ready.
pub(crate) fn running(data: &Path) -> Option<(i32, bool)> {
    let mut file = File::open(data.join("hull.lock")).ok()?;
    // A shared lock is to be had only where nobody holds it; it is gone as the file closes.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => None,
        Err(_) => holder(&mut file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(running(dir.path()), None);
        let lock = Lock::take(dir.path()).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(running(dir.path()), Some((own, false)));
        lock.ready().unwrap();
        assert_eq!(running(dir.path()), Some((own, true)));
        let error = Lock::take(dir.path()).err().unwrap();
        assert!(error.detail.contains("hull down"), "{error}");
        drop(lock);
        assert_eq!(running(dir.path()), None, "what a dead process left behind is not a holder");
    }

    #[test]
    fn a_node_keeps_its_first_name() {
        let dir = tempfile::tempdir().unwrap();
        let first = node_name(dir.path()).unwrap();
        assert_eq!(first.as_str(), host_name());
        std::fs::write(node_dir(dir.path()).join("name"), "kept\n").unwrap();
        assert_eq!(node_name(dir.path()).unwrap().as_str(), "kept");
    }
}
