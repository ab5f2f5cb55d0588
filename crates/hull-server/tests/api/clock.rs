//! A wall clock that is set by ten years, ahead or back, while the server runs: nothing waits for years, nothing is lost.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use hull_server::{
    Core,
    app::{
        App,
        ctx::{Caller, Ctx},
    },
    controllers::retention,
    env::{Clock, Env, Ids, Rng},
};
use hull_store::{Store, Txn, memory::MemoryStore};
use hull_types::{Timestamp, link::FromNode, vm::VmState};
use jiff::SignedDuration;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};
use uuid::Uuid;

use crate::{
    cloud::{Answer, Client, Cloud},
    node::{FakeNode, status},
};

const DAY: i64 = 86_400;
const YEARS: i64 = 10 * 365 * DAY;

/// A clock that goes on with tokio's time and can be set.
pub(crate) struct Wall {
    began: Timestamp,
    zero: Instant,
    set: AtomicI64,
}

impl Wall {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { began: Timestamp::now(), zero: Instant::now(), set: AtomicI64::new(0) })
    }

    pub(crate) fn env(self: &Arc<Self>) -> Env {
        Env::new(self.clone(), self.clone(), self.clone())
    }

    /// Sets it so many seconds from where it began.
    pub(crate) fn set(&self, seconds: i64) {
        self.set.store(seconds, Ordering::SeqCst);
    }
}

impl Clock for Wall {
    fn now(&self) -> Timestamp {
        let set = SignedDuration::from_secs(self.set.load(Ordering::SeqCst));
        self.began + set + SignedDuration::try_from(self.zero.elapsed()).unwrap()
    }
}

impl Ids for Wall {
    fn next(&self) -> Uuid {
        Uuid::now_v7()
    }
}

impl Rng for Wall {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.iter_mut().for_each(|byte| *byte = Uuid::now_v7().as_bytes()[15]);
    }
}

/// A server without sockets, with one VM on a node that answers.
pub(crate) async fn running(wall: &Arc<Wall>) -> (Core, FakeNode) {
    let store = Arc::new(MemoryStore::new());
    let core = Core::start(store.clone(), None, wall.env()).await.unwrap();
    let (app, ctx) = (&core.app, Ctx::of(Caller::LOCAL_ROOT));
    let request = serde_json::from_value(json!({"name": "debian"})).unwrap();
    let mut image = serde_json::to_value(app.create_image(&ctx, &request).await.unwrap()).unwrap();
    image["phase"] = "ready".into();
    let digest = format!("sha256:{}", "0".repeat(64));
    image["content"] =
        json!({"digest": digest, "format": "raw", "size": 1, "virtual_size": 1, "source_digest": digest});
    let key = format!("image/{}", image["id"].as_str().unwrap());
    store.txn(Txn::new().put_json(key.as_str(), &image).unwrap()).await.unwrap();
    app.catch_up().await.unwrap();
    let node = FakeNode::attach(app, "n1").await;
    let request = serde_json::from_value(json!({"name": "w", "image": "debian", "flavor": "micro"})).unwrap();
    app.create_vms(&ctx, &request).await.unwrap();
    until(app, Some(VmState::Running)).await;
    (core, node)
}

/// Waits, on paused time, until the VM is so, or is gone.
async fn until(app: &App, wanted: Option<VmState>) {
    let ctx = Ctx::of(Caller::LOCAL_ROOT);
    let late = Instant::now() + Duration::from_secs(600);
    loop {
        let state = app.vm(&ctx, "w").ok().map(|view| view.state);
        if state == wanted {
            return;
        }
        assert!(Instant::now() < late, "never {wanted:?}: {state:?}");
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_answers_does_so_whatever_the_clock_says() {
    let wall = Wall::new();
    let (core, node) = running(&wall).await;
    let ctx = Ctx::of(Caller::LOCAL_ROOT);
    for set in [YEARS, -YEARS, 0] {
        wall.set(set);
        for _ in 0..12 {
            node.say.send(FromNode::Status(Box::new(status(node.id)))).await.unwrap();
            sleep(Duration::from_secs(10)).await;
            assert!(core.app.node(&ctx, "n1").unwrap().object.ready, "{set}");
            assert_eq!(core.app.vm(&ctx, "w").unwrap().state, VmState::Running, "{set}");
        }
    }
    core.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_waits_for_a_silent_node_waits_minutes_and_not_years() {
    for set in [YEARS, -YEARS] {
        let wall = Wall::new();
        let (core, node) = running(&wall).await;
        drop(node);
        until(&core.app, Some(VmState::Unknown)).await;
        core.app.delete_vm(&Ctx::of(Caller::LOCAL_ROOT), "w").await.unwrap();
        assert_eq!(core.app.vm(&Ctx::of(Caller::LOCAL_ROOT), "w").unwrap().state, VmState::Deleting);
        wall.set(set);
        until(&core.app, None).await;
        core.shutdown().await;
    }
}

#[tokio::test]
async fn a_token_that_expires_works_neither_after_its_time_nor_before_it_was_made() {
    let wall = Wall::new();
    let cloud = Cloud::start_in(wall.env()).await;
    let body = json!({"name": "t", "role": "reader", "expires_in_days": 1});
    let made = cloud.client.post("/v1/tokens", body).await.created();
    let guest = cloud.client.with_token(made["secret"].as_str());
    for (set, works) in [(0, true), (DAY + 1, false), (YEARS, false), (-YEARS, false), (-60, true), (0, true)] {
        wall.set(set);
        let answer = guest.get("/v1/whoami").await;
        match works {
            true => drop(answer.ok()),
            false => drop(answer.refused("unauthenticated")),
        }
        cloud.client.get("/v1/whoami").await.ok();
    }
}

async fn create(client: &Client, key: &str, name: &str) -> Answer {
    let body = json!({"name": name, "image": "debian", "flavor": "micro"});
    client.send(client.request(Method::POST, "/v1/vms").header("idempotency-key", key).json(&body)).await
}

async fn events(cloud: &Cloud) -> usize {
    cloud.client.get("/v1/events?limit=1000").await.ok()["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_clock_set_ahead_empties_no_history_and_forgets_no_answer() {
    let wall = Wall::new();
    let cloud = Cloud::start_in(wall.env()).await;
    cloud.image("debian").await;
    let first: Value = create(&cloud.client, "k", "w").await.created();
    retention::round(cloud.app()).await.unwrap();
    let told = events(&cloud).await;
    wall.set(YEARS);
    for hours in [0, 1, 23] {
        wall.set(YEARS + hours * 3600);
        retention::round(cloud.app()).await.unwrap();
        assert_eq!(events(&cloud).await, told, "after {hours} h");
        assert_eq!(create(&cloud.client, "k", "w").await.created(), first);
    }
    // Set right again.
    wall.set(3600);
    retention::round(cloud.app()).await.unwrap();
    assert_eq!(events(&cloud).await, told);
    assert_eq!(create(&cloud.client, "k", "w").await.created(), first);
    // Left as it is, what is old by then goes.
    for days in 0..3 {
        wall.set(YEARS + days * DAY);
        retention::round(cloud.app()).await.unwrap();
    }
    assert!(events(&cloud).await < told);
}

#[tokio::test]
async fn a_clock_set_back_keeps_answers_for_their_day_and_not_for_years() {
    let wall = Wall::new();
    let cloud = Cloud::start_in(wall.env()).await;
    cloud.image("debian").await;
    let first: Value = create(&cloud.client, "k", "w").await.created();
    for hours in [0, 1, 23] {
        wall.set(hours * 3600 - YEARS);
        retention::round(cloud.app()).await.unwrap();
        assert_eq!(create(&cloud.client, "k", "w").await.created(), first, "after {hours} h");
    }
    wall.set(25 * 3600 - YEARS);
    retention::round(cloud.app()).await.unwrap();
    assert!(create(&cloud.client, "k", "w").await.refused("already-exists").contains("already"));
}
