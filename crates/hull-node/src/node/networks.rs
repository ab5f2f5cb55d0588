//! One task per network and per router: applies it when it changes, repairs it every few seconds, removes it when nobody
//! uses it. A router waits for its networks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Debug, Display},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use hull_types::{
    error::{Error, Result},
    id::{NetworkId, RouterId},
    link::{DesiredNetwork, DesiredRouter},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::network::Networks;

/// How often a network is made so again, unasked. Drivers may watch over their networks more closely themselves.
const REPAIR_EVERY: Duration = Duration::from_secs(15);
/// How soon a failed attempt is repeated.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long a VM's start waits for its network.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What is kept: a network, or a router.
#[async_trait]
pub(crate) trait Kept: Clone + PartialEq + Send + Sync + 'static {
    /// What it is called in sentences.
    const NOUN: &'static str;
    type Id: Copy + Ord + Display + Debug + Send + Sync + 'static;
    /// What makes it.
    type Driver: Clone + Send + Sync + 'static;

    fn id(&self) -> Self::Id;
    async fn apply(&self, driver: &Self::Driver) -> Result<()>;
    async fn remove(id: Self::Id, driver: &Self::Driver) -> Result<()>;
}

#[async_trait]
impl Kept for DesiredNetwork {
    const NOUN: &'static str = "network";
    type Id = NetworkId;
    type Driver = Arc<dyn Networks>;

    fn id(&self) -> NetworkId {
        self.id
    }

    async fn apply(&self, driver: &Arc<dyn Networks>) -> Result<()> {
        driver.apply(self).await
    }

    async fn remove(id: NetworkId, driver: &Arc<dyn Networks>) -> Result<()> {
        driver.remove(id).await
    }
}

/// What makes routers, and the networks they wait for.
#[derive(Clone)]
pub(crate) struct RouterDriver {
    driver: Arc<dyn Networks>,
    networks: Keeper,
}

#[async_trait]
impl Kept for DesiredRouter {
    const NOUN: &'static str = "router";
    type Id = RouterId;
    type Driver = RouterDriver;

    fn id(&self) -> RouterId {
        self.id
    }

    async fn apply(&self, RouterDriver { driver, networks }: &RouterDriver) -> Result<()> {
        let joined = self.subnets.iter().map(|subnet| subnet.network);
        let wanted: BTreeSet<NetworkId> = joined.chain(self.gateway.iter().map(|gateway| gateway.network)).collect();
        let mut failed = None;
        for network in wanted {
            failed = networks.ready(network).await.err().or(failed);
        }
        // One network that cannot be made costs the others nothing; the error stays until it can.
        driver.apply_router(self).await?;
        failed.map_or(Ok(()), Err)
    }

    async fn remove(id: RouterId, RouterDriver { driver, .. }: &RouterDriver) -> Result<()> {
        driver.remove_router(id).await
    }
}

/// What the last attempt came to.
#[derive(Clone, Debug)]
struct Outcome<T> {
    /// It as it was last made.
    applied: Option<T>,
    /// Why it could not be made as it shall be now.
    error: Option<Error>,
}

impl<T> Default for Outcome<T> {
    fn default() -> Self {
        Self { applied: None, error: None }
    }
}

#[derive(Clone)]
struct Entry<T> {
    /// None: it shall go.
    want: watch::Sender<Option<T>>,
    outcome: watch::Receiver<Outcome<T>>,
}

/// The networks (or routers) a node keeps.
#[derive(Clone)]
pub(crate) struct Keeper<T: Kept = DesiredNetwork> {
    driver: T::Driver,
    entries: Entries<T>,
}

type Entries<T> = Arc<Mutex<BTreeMap<<T as Kept>::Id, Entry<T>>>>;

impl Keeper<DesiredRouter> {
    pub(crate) fn of_routers(driver: Arc<dyn Networks>, networks: Keeper) -> Self {
        Self::new(RouterDriver { driver, networks })
    }
}

impl<T: Kept> Keeper<T> {
    pub(crate) fn new(driver: T::Driver) -> Self {
        Self { driver, entries: Arc::default() }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<T::Id, Entry<T>>> {
        // Every change under this lock is a single insertion or removal, whole even if its holder panicked.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It shall be so.
    pub(crate) fn want(&self, network: T, tasks: &mut tokio::task::JoinSet<()>) {
        let id = network.id();
        let known = self.entries().get(&id).cloned();
        if let Some(entry) = known.filter(|entry| !entry.want.is_closed()) {
            entry.want.send_if_modified(|want| {
                let changed = want.as_ref() != Some(&network);
                *want = Some(network);
                changed
            });
            return;
        }
        let (want, wanted) = watch::channel(Some(network));
        let (done, outcome) = watch::channel(Outcome::default());
        self.entries().insert(id, Entry { want, outcome });
        tasks.spawn(keep(id, self.driver.clone(), wanted, done));
    }

    /// It shall go. One that is here from before, unknown to us, goes as well.
    pub(crate) fn remove(&self, id: T::Id, tasks: &mut tokio::task::JoinSet<()>) {
        if let Some(entry) = self.entries().remove(&id) {
            entry.want.send_replace(None);
            return;
        }
        let (_, wanted) = watch::channel(None);
        let (done, _) = watch::channel(Outcome::default());
        tasks.spawn(keep::<T>(id, self.driver.clone(), wanted, done));
    }

    /// Those that shall be.
    pub(crate) fn known(&self) -> BTreeSet<T::Id> {
        self.entries().keys().copied().collect()
    }

    /// Everything about those that shall be.
    pub(crate) fn desired(&self) -> Vec<T> {
        self.entries().values().filter_map(|entry| entry.want.borrow().clone()).collect()
    }

    /// One as it shall be.
    pub(crate) fn get(&self, id: T::Id) -> Option<T> {
        self.entries().get(&id).and_then(|entry| entry.want.borrow().clone())
    }

    /// Waits until it is as it shall be.
    pub(crate) async fn ready(&self, id: T::Id) -> Result<T> {
        let noun = T::NOUN;
        let entry = self.entries().get(&id).cloned();
        let entry = entry.ok_or_else(|| Error::unavailable(format!("{noun} {id} was not told to this node yet")))?;
        let mut outcome = entry.outcome.clone();
        let want = entry.want.subscribe();
        let settled = |outcome: &Outcome<T>| {
            outcome.error.is_some() || (outcome.applied.is_some() && *want.borrow() == outcome.applied)
        };
        let waited = timeout(READY_WITHIN, outcome.wait_for(settled)).await;
        let outcome = match waited {
            Ok(Ok(outcome)) => outcome.clone(),
            Ok(Err(_)) => return Err(Error::unavailable(format!("{noun} {id} is going away"))),
            Err(_) => {
                let detail = format!("{noun} {id} was not ready within {} s", READY_WITHIN.as_secs());
                return Err(Error::timeout(detail));
            }
        };
        match (outcome.applied, outcome.error) {
            (_, Some(error)) => Err(error),
            (Some(network), None) => Ok(network),
            (None, None) => Err(Error::unavailable(format!("{noun} {id} is not ready"))),
        }
    }
}

async fn keep<T: Kept>(
    id: T::Id,
    driver: T::Driver,
    mut wanted: watch::Receiver<Option<T>>,
    done: watch::Sender<Outcome<T>>,
) {
    loop {
        let want = wanted.borrow_and_update().clone();
        let pause = match want {
            None => match T::remove(id, &driver).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%id, %error, "a {} could not be removed; trying again", T::NOUN);
                    RETRY_AFTER
                }
            },
            Some(network) => match network.apply(&driver).await {
                Ok(()) => {
                    done.send_replace(Outcome { applied: Some(network), error: None });
                    REPAIR_EVERY
                }
                Err(error) => {
                    tracing::warn!(%id, %error, "a {} could not be made as it shall be; trying again", T::NOUN);
                    done.send_modify(|outcome| outcome.error = Some(error));
                    RETRY_AFTER
                }
            },
        };
        tokio::select! {
            Ok(()) = wanted.changed() => {}
            () = sleep(pause) => {}
        }
    }
}
