//! The services of one network: sockets inside its namespace, answers from the pure responders beside this file.
//!
//! All answer from one [`View`], which is replaced when the network changes; the sockets stay. They are opened anew only
//! when what they are bound to is gone ([`Ground`]). A service that cannot open its socket tries again: the old Hull may
//! be just ending.

mod dhcp;
mod dns;
mod http;
mod seats;

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    panic::AssertUnwindSafe,
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use futures::FutureExt;
use hull_types::{id::VmId, network::Mac};
use tokio::{sync::watch, task::JoinSet};

use super::{GuestMetadata, metadata::TokenKey, netns::Netns, view::View};

/// Between two tries to open a socket.
const AGAIN: Duration = Duration::from_millis(250);

/// What sockets are bound to: a namespace, a bridge in it, the addresses on it that names are asked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ground {
    pub(crate) namespace: u64,
    pub(crate) bridge: u32,
    pub(crate) resolvers: Vec<IpAddr>,
    pub(crate) with_v6: bool,
}

/// When each MAC last got its lease, in seconds since 1970.
pub(crate) type Leases = Arc<Mutex<HashMap<Mac, i64>>>;

/// What VMs are told of themselves.
#[derive(Clone, Default)]
pub(crate) struct Guests(Arc<RwLock<HashMap<VmId, Arc<GuestMetadata>>>>);

impl Guests {
    pub(crate) fn set(&self, guest: GuestMetadata) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(guest.vm, Arc::new(guest));
    }

    pub(crate) fn forget(&self, vm: VmId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&vm);
    }

    fn get(&self, vm: VmId) -> Option<Arc<GuestMetadata>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&vm).cloned()
    }
}

/// What every service of a network holds.
#[derive(Clone)]
struct Shop {
    namespace: Netns,
    /// Where the host's resolvers are asked from, and which file names them.
    host: Netns,
    resolv_conf: Arc<Path>,
    view: watch::Receiver<Arc<View>>,
    guests: Guests,
    leases: Leases,
    tokens: TokenKey,
}

impl Shop {
    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Opens a socket inside, trying until it succeeds.
    async fn open<S, F>(&self, what: &str, open: F) -> S
    where
        S: Send + 'static,
        F: Fn() -> io::Result<S> + Clone + Send + 'static,
    {
        let mut said = false;
        loop {
            let error = match self.namespace.run(open.clone()).await {
                Ok(Ok(socket)) => return socket,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            if !said {
                tracing::warn!(network = %self.view().network().name, %error, "{what} cannot be served yet");
                said = true;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Starts a service again when it panics: a decoder's defect must cost a guest its answer, not all guests the service.
async fn supervise<F: Future<Output = ()>>(shop: Shop, service: impl Fn(Shop) -> F) {
    while AssertUnwindSafe(service(shop.clone())).catch_unwind().await.is_err() {
        tracing::error!(network = %shop.view().network().name, "a service of the network panicked; it is started again");
        tokio::time::sleep(AGAIN).await;
    }
}

/// The running services of a network; they end when this is dropped.
pub(crate) struct Services {
    ground: Ground,
    view: watch::Sender<Arc<View>>,
    _tasks: JoinSet<()>,
}

/// What a network's services are started with.
pub(crate) struct Stock {
    pub(crate) namespace: Netns,
    pub(crate) host: Netns,
    pub(crate) resolv_conf: Arc<Path>,
    pub(crate) view: Arc<View>,
    pub(crate) guests: Guests,
    pub(crate) leases: Leases,
    pub(crate) tokens: TokenKey,
}

impl Services {
    pub(crate) fn start(ground: Ground, stock: Stock) -> Self {
        let Stock { namespace, host, resolv_conf, view, guests, leases, tokens } = stock;
        let (sender, receiver) = watch::channel(view);
        let shop = Shop { namespace, host, resolv_conf, view: receiver, guests, leases, tokens };
        let Ground { with_v6, bridge, .. } = ground;
        let mut tasks = JoinSet::new();
        tasks.spawn(supervise(shop.clone(), dhcp::serve_v4));
        if with_v6 {
            tasks.spawn(supervise(shop.clone(), move |shop| dhcp::serve_v6(shop, bridge)));
            tasks.spawn(supervise(shop.clone(), move |shop| dhcp::advertise(shop, bridge)));
        }
        for &resolver in &ground.resolvers {
            tasks.spawn(supervise(shop.clone(), move |shop| dns::serve(shop, resolver)));
        }
        tasks.spawn(supervise(shop, move |shop| http::serve(shop, with_v6)));
        Self { ground, view: sender, _tasks: tasks }
    }

    /// Answers from this view from now on; `false` where the sockets stand on other ground and must be opened anew.
    pub(crate) fn update(&self, ground: &Ground, view: &Arc<View>) -> bool {
        if self.ground != *ground {
            return false;
        }
        self.view.send_if_modified(|now| {
            let changed = **now != **view;
            if changed {
                *now = Arc::clone(view);
            }
            changed
        });
        true
    }
}
