//! Putting the server together.
//!
//! ```text
//!   Core::start    cache, hub, services, controllers           no sockets: the simulator stops here
//!   Server::start  Core + certificates, first token, doors     what `hull up` and `hull server` run
//! ```

use std::{
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hull_image::ImageStore;
use hull_store::Store;
use hull_types::{
    error::{Error, Result},
    name::Name,
};
use jiff::SignedDuration;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api,
    app::{App, Door, Settings},
    controllers::{self, bootstrap},
    env::Env,
    hub::Hub,
    listen::Doors,
    metrics::Metrics,
    state::{cache::Cache, repo::store_error},
    tls::{self, Ca, LEAF_LIFE, ServerCertificate},
};

/// How long requests under way have when the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// How often the server looks whether its certificate is to be renewed.
const LOOK_AT_CERTIFICATE: Duration = Duration::from_secs(60);

/// The server without sockets.
pub struct Core {
    /// The services.
    pub app: Arc<App>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Core {
    /// Loads the store, makes what a new cloud begins with, starts the controllers.
    ///
    /// # Errors
    /// The store's.
    pub async fn start(store: Arc<dyn Store>, images: Option<Arc<ImageStore>>, env: Env) -> Result<Self> {
        Self::start_with(store, images, env, Settings::default()).await
    }

    /// The same, as operators want it.
    ///
    /// # Errors
    /// The store's.
    pub async fn start_with(
        store: Arc<dyn Store>,
        images: Option<Arc<ImageStore>>,
        env: Env,
        settings: Settings,
    ) -> Result<Self> {
        let cache = Cache::load(&store).await.map_err(store_error)?;
        let hub = Hub::new(store.clone(), cache.clone(), env.clone());
        let app = App::new(store.clone(), cache.clone(), env, images, hub, Arc::new(Metrics::default()), settings);
        let core = Self { app, stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let stop = core.stop.clone();
        core.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = cache.follow(store) => {}
            }
        });
        bootstrap::bootstrap(&core.app).await?;
        core.tasks.spawn(controllers::run(core.app.clone(), core.stop.clone()));
        Ok(core)
    }

    /// Stops controllers and links, and waits until they have.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.app.hub().close();
        self.tasks.close();
        self.tasks.wait().await;
        self.app.flush_audit().await;
    }
}

/// Where the server listens and keeps its keys.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory: `pki/`, `admin-token` and, where not said otherwise, `hull.sock` are in it.
    pub data_dir: PathBuf,
    /// The TCP address; none listens to this host's root only.
    pub listen: Option<SocketAddr>,
    /// The unix socket.
    pub socket: PathBuf,
    /// Names and addresses the server's certificate is for, beside `localhost` and the loopback addresses. The first is
    /// what join tokens tell other hosts; the listening address where there is none.
    pub names: Vec<String>,
    /// How long the certificates it signs are good for, nodes' and its own.
    pub certificates_live: SignedDuration,
    /// What holds for the server as a whole.
    pub settings: Settings,
}

impl Config {
    /// A server with its data here, listening nowhere but on its socket.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            socket: data_dir.join("hull.sock"),
            data_dir,
            listen: None,
            names: Vec::new(),
            certificates_live: LEAF_LIFE,
            settings: Settings::default(),
        }
    }
}

/// The server.
pub struct Server;

/// A running server.
pub struct ServerHandle {
    /// The TCP address it listens on.
    pub addr: Option<SocketAddr>,
    /// The services, and by [`App::hub`] the links to nodes.
    pub app: Arc<App>,
    core: Core,
    doors: Doors,
    closing: CancellationToken,
}

impl Server {
    /// Starts a server.
    ///
    /// # Errors
    /// Where the store, the certificates, the port or the socket cannot be used; each says what to do.
    pub async fn start(
        config: Config,
        store: Arc<dyn Store>,
        images: Option<Arc<ImageStore>>,
        env: Env,
    ) -> Result<ServerHandle> {
        let now = env.now();
        let ca = Ca::open(&config.data_dir.join("pki"), now)?.with_life(config.certificates_live);
        let ca = Arc::new(ca);
        let provider = crate::app::oidc::Provider::open(&config.data_dir.join("oidc.yaml"))?;
        let core = Core::start_with(store, images, env, config.settings.clone()).await?;
        let app = core.app.clone();
        provider.into_iter().for_each(|provider| app.set_oidc(provider));
        let closing = CancellationToken::new();
        let doors = Doors::new(api::router(app.clone(), Some(ca.clone())), closing.clone());
        let handle = ServerHandle { addr: None, app, core, doors, closing };
        match handle.open(&config, &ca, now).await {
            Ok(addr) => Ok(ServerHandle { addr, ..handle }),
            Err(error) => {
                handle.shutdown().await;
                Err(error)
            }
        }
    }
}

impl ServerHandle {
    async fn open(&self, config: &Config, ca: &Arc<Ca>, now: hull_types::Timestamp) -> Result<Option<SocketAddr>> {
        let name = Name::new("first admin").map_err(|e| Error::internal(format!("the first token's name: {e}")))?;
        if let Some(secret) = self.app.first_token(&name).await? {
            keep(&config.data_dir.join("admin-token"), &secret)?;
        }
        let addr = match config.listen {
            Some(listen) => {
                let shown = ServerCertificate::new(ca.clone(), names(config), now)?;
                let addr = self.doors.tcp(listen, tls::server_config(shown.clone())?).await?;
                self.core.tasks.spawn(keep_fresh(shown, self.app.clone(), self.core.stop.clone()));
                let address = match config.names.first() {
                    Some(name) if name.contains(':') => format!("[{name}]:{}", addr.port()),
                    Some(name) => format!("{name}:{}", addr.port()),
                    None => addr.to_string(),
                };
                self.app.set_door(Door { address, fingerprint: ca.fingerprint()? });
                Some(addr)
            }
            None => None,
        };
        self.doors.unix(&config.socket)?;
        Ok(addr)
    }

    /// Stops: no new connections, those under way have a few seconds, then controllers and links end. Guests are not
    /// touched.
    pub async fn shutdown(self) {
        self.closing.cancel();
        // Links are long-lived requests; they end first so that the doors can close.
        self.app.hub().close();
        self.doors.closed(GRACE).await;
        self.core.shutdown().await;
    }
}

/// Renews the server's certificate in time, for as long as it runs.
async fn keep_fresh(shown: Arc<ServerCertificate>, app: Arc<App>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_AT_CERTIFICATE) => {}
        }
        match shown.refresh(app.env().now()) {
            Ok(true) => tracing::info!("the server's certificate was renewed"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "the server's certificate cannot be renewed; nobody can connect once it ends")
            }
        }
    }
}

fn names(config: &Config) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(config.listen.map(|listen| listen.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
    names.extend(config.names.iter().cloned());
    names.sort();
    names.dedup();
    names
}

/// Writes a secret for root alone.
fn keep(path: &Path, secret: &str) -> Result<()> {
    let bad = |e: std::io::Error| Error::internal(format!("{} cannot be written: {e}", path.display()));
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(bad)?;
    std::io::Write::write_all(&mut file, format!("{secret}\n").as_bytes()).map_err(bad)?;
    file.sync_all().map_err(bad)
}
