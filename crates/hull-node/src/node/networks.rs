//! One task per network: applies it when it changes, repairs it every few seconds, removes it when nobody uses it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hull_types::{
    error::{Error, Result},
    id::NetworkId,
    link::DesiredNetwork,
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

/// What the last attempt came to.
#[derive(Clone, Debug, Default)]
struct Outcome {
    /// The network as it was last made.
    applied: Option<DesiredNetwork>,
    /// Why it could not be made as it shall be now.
    error: Option<Error>,
}

#[derive(Clone)]
struct Entry {
    /// None: it shall go.
    want: watch::Sender<Option<DesiredNetwork>>,
    outcome: watch::Receiver<Outcome>,
}

/// The networks a node keeps.
#[derive(Clone)]
pub(crate) struct Keeper {
    driver: Arc<dyn Networks>,
    entries: Arc<Mutex<BTreeMap<NetworkId, Entry>>>,
}

impl Keeper {
    pub(crate) fn new(driver: Arc<dyn Networks>) -> Self {
        Self { driver, entries: Arc::default() }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<NetworkId, Entry>> {
        // Every change under this lock is a single insertion or removal, whole even if its holder panicked.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network shall be so.
    pub(crate) fn want(&self, network: DesiredNetwork, tasks: &mut tokio::task::JoinSet<()>) {
        let id = network.id;
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

    /// The network shall go. One that is here from before, unknown to us, goes as well.
    pub(crate) fn remove(&self, id: NetworkId, tasks: &mut tokio::task::JoinSet<()>) {
        if let Some(entry) = self.entries().remove(&id) {
            entry.want.send_replace(None);
            return;
        }
        let (_, wanted) = watch::channel(None);
        let (done, _) = watch::channel(Outcome::default());
        tasks.spawn(keep(id, self.driver.clone(), wanted, done));
    }

    /// The networks that shall be.
    pub(crate) fn known(&self) -> BTreeSet<NetworkId> {
        self.entries().keys().copied().collect()
    }

    /// Everything about the networks that shall be.
    pub(crate) fn desired(&self) -> Vec<DesiredNetwork> {
        self.entries().values().filter_map(|entry| entry.want.borrow().clone()).collect()
    }

    /// A network as it shall be.
    pub(crate) fn get(&self, id: NetworkId) -> Option<DesiredNetwork> {
        self.entries().get(&id).and_then(|entry| entry.want.borrow().clone())
    }

    /// Waits until the network is as it shall be.
    pub(crate) async fn ready(&self, id: NetworkId) -> Result<DesiredNetwork> {
        let entry = self.entries().get(&id).cloned();
        let entry = entry.ok_or_else(|| Error::unavailable(format!("network {id} was not told to this node yet")))?;
        let mut outcome = entry.outcome.clone();
        let want = entry.want.subscribe();
        let settled = |outcome: &Outcome| {
            outcome.error.is_some() || (outcome.applied.is_some() && *want.borrow() == outcome.applied)
        };
        let waited = timeout(READY_WITHIN, outcome.wait_for(settled)).await;
        let outcome = match waited {
            Ok(Ok(outcome)) => outcome.clone(),
            Ok(Err(_)) => return Err(Error::unavailable(format!("network {id} is going away"))),
            Err(_) => {
                let detail = format!("network {id} was not ready within {} s", READY_WITHIN.as_secs());
                return Err(Error::timeout(detail));
            }
        };
        match (outcome.applied, outcome.error) {
            (_, Some(error)) => Err(error),
            (Some(network), None) => Ok(network),
            (None, None) => Err(Error::unavailable(format!("network {id} is not ready"))),
        }
    }
}

async fn keep(
    id: NetworkId,
    driver: Arc<dyn Networks>,
    mut wanted: watch::Receiver<Option<DesiredNetwork>>,
    done: watch::Sender<Outcome>,
) {
    loop {
        let want = wanted.borrow_and_update().clone();
        let pause = match want {
            None => match driver.remove(id).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(network = %id, %error, "a network could not be removed; trying again");
                    RETRY_AFTER
                }
            },
            Some(network) => match driver.apply(&network).await {
                Ok(()) => {
                    done.send_replace(Outcome { applied: Some(network), error: None });
                    REPAIR_EVERY
                }
                Err(error) => {
                    tracing::warn!(network = %id, %error, "a network could not be made as it shall be; trying again");
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
