//! The services behind the API, without HTTP. One file per noun.
//!
//! Every change goes the same way: look at one consistent state, let `hull_core` decide, commit the decision as one
//! transaction whose conditions prove that what was looked at still holds; if it does not, look again. Afterwards wait
//! until the cache has seen the commit, so that whoever changed something reads it.

pub mod answer;
pub mod app_credential;
pub mod audit;
pub mod ctx;
pub mod event;
pub mod explain;
pub mod flavor;
pub mod floating_ip;
pub mod guard;
pub mod guest;
pub mod image;
pub mod keypair;
pub mod list;
pub mod migration;
pub mod network;
pub mod node;
pub mod oidc;
pub mod password;
pub mod path;
pub mod port;
pub mod project;
pub mod replay;
pub mod role_assignment;
pub mod router;
pub mod security_group;
pub mod session;
pub mod signing;
mod standing;
pub mod status;
pub mod subnet;
pub mod token;
pub mod trail;
pub mod user;
pub mod user_group;
pub mod vm;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use hull_core::{call::Call, change::Changes};
use hull_image::ImageStore;
use hull_store::Store;
use hull_types::{
    Timestamp,
    error::{Error, Result},
    id::{ImageId, ProjectId},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::ctx::{Ctx, FreshEnv};
use crate::{
    env::Env,
    hub::Hub,
    metrics::Metrics,
    state::{
        cache::Cache,
        repo::{Committed, Plan},
        view::State,
    },
};

/// How often a decision is made again because something changed meanwhile, before the caller is told to try later.
const ATTEMPTS: u32 = 16;

/// An answer with the revision of the transaction that made it true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done<T> {
    /// The answer.
    pub answer: T,
    /// The revision.
    pub revision: u64,
}

/// What operators decide of the server as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Audit records are kept so many days.
    pub audit_days: u32,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { audit_days: 365, trusted_proxies: Vec::new() }
    }
}

/// The services.
pub struct App {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) env: Env,
    pub(crate) images: Option<Arc<ImageStore>>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) started_at: Timestamp,
    pub(crate) settings: Settings,
    pub(crate) refusals: audit::Refusals,
    turns: Mutex<HashMap<ProjectId, Arc<Semaphore>>>,
    /// Whoever gives VMs their nodes holds it, so that room is never promised twice.
    pub(crate) placing: tokio::sync::Mutex<()>,
    receiving: Arc<Mutex<HashSet<ImageId>>>,
    door: OnceLock<Door>,
    passwords: password::Hasher,
    guard: guard::Guard,
    oidc: OnceLock<oidc::Provider>,
}

/// How hosts that join find and trust this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// `host:port`, as other hosts reach it.
    pub address: String,
    /// The CA's fingerprint.
    pub fingerprint: String,
}

impl App {
    /// The services over these parts. Without an image store, images can be looked at but not filled.
    pub fn new(
        store: Arc<dyn Store>,
        cache: Arc<Cache>,
        env: Env,
        images: Option<Arc<ImageStore>>,
        hub: Arc<Hub>,
        metrics: Arc<Metrics>,
        settings: Settings,
    ) -> Arc<Self> {
        let started_at = env.now();
        Arc::new(Self {
            store,
            cache,
            env,
            images,
            hub,
            metrics,
            started_at,
            settings,
            refusals: audit::Refusals::default(),
            turns: Mutex::default(),
            placing: tokio::sync::Mutex::default(),
            receiving: Arc::default(),
            door: OnceLock::new(),
            passwords: password::Hasher::default(),
            guard: guard::Guard::default(),
            oidc: OnceLock::new(),
        })
    }

    /// Says how hosts that join find and trust this server; the first word counts.
    pub fn set_door(&self, door: Door) {
        // A server has one door for its whole life.
        _ = self.door.set(door);
    }

    /// The documents in memory.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// The links to nodes.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// What operators decided.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The clock, ids and randomness.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Waits until reads are at least as new as everything committed by now.
    ///
    /// # Errors
    /// The store's.
    pub async fn catch_up(&self) -> Result<()> {
        let newest = self.store.revision().await.map_err(crate::state::repo::store_error)?;
        self.cache.reached(newest.0).await;
        Ok(())
    }

    /// Decides on one state, commits, answers. Decided again where the state has changed meanwhile.
    ///
    /// # Errors
    /// The decision's; a claim's refusal; `Conflict` where the state keeps changing; the store's.
    pub(crate) async fn change<T: Serialize + DeserializeOwned>(
        &self,
        ctx: &Ctx,
        decide: impl Fn(&State, &mut Call<'_>) -> Result<(Changes, T)>,
    ) -> Result<Done<T>> {
        self.plan(ctx, |state, call| {
            let (changes, answer) = decide(state, call)?;
            Ok((Plan::new(changes, state)?, answer))
        })
        .await
    }

    /// As [`App::change`], for documents that are the server's own.
    pub(crate) async fn plan<T: Serialize + DeserializeOwned>(
        &self,
        ctx: &Ctx,
        decide: impl Fn(&State, &mut Call<'_>) -> Result<(Plan, T)>,
    ) -> Result<Done<T>> {
        if let Some(done) = self.replayed(ctx).await? {
            return Ok(done);
        }
        for _ in 0..ATTEMPTS {
            let (mut plan, answer, revision) = self.cache.read_at(|state, revision| {
                let mut fresh = FreshEnv(&self.env);
                let mut call = Call { now: self.env.now(), actor: ctx.caller.actor.clone(), fresh: &mut fresh };
                decide(state, &mut call).map(|(plan, answer)| (plan, answer, revision))
            })?;
            self.remember(ctx, &mut plan, &answer)?;
            if plan.is_empty() {
                return Ok(Done { answer, revision });
            }
            let record = self.audited(ctx, &mut plan)?;
            let started = tokio::time::Instant::now();
            let outcome = plan.commit(&self.store).await;
            self.metrics.stored(started.elapsed());
            match outcome? {
                Committed::At(revision) => {
                    if let (Some(trail), Some(record)) = (&ctx.trail, record) {
                        trail.recorded(record);
                    }
                    self.cache.reached(revision).await;
                    return Ok(Done { answer, revision });
                }
                Committed::Stale => self.catch_up().await?,
            }
            // The same call, made twice at once: the other one may just have been answered.
            if let Some(done) = self.replayed(ctx).await? {
                return Ok(done);
            }
        }
        Err(Error::conflict("this keeps being changed by others at the same time; try again in a moment"))
    }

    /// Waits for this caller's turn to take from a project's quota. Creations of one project go one after another: each
    /// sees what the one before has taken, so none is decided twice and no quota is exceeded.
    pub(crate) async fn turn(&self, project: ProjectId) -> OwnedSemaphorePermit {
        let turns = {
            let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(project).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
        };
        match turns.acquire_owned().await {
            Ok(permit) => permit,
            // Nobody closes these semaphores.
            Err(_) => unreachable!("the semaphore of a project's turns was closed"),
        }
    }
}
