//! How long a session lasts, and the keys that sign it, on a clock that the test moves.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use hull_server::{
    controllers::keys,
    env::{Clock, Env, Ids, Rng},
};
use hull_types::Timestamp;
use jiff::SignedDuration;
use serde_json::json;
use uuid::Uuid;

use crate::{
    cloud::{Client, Cloud},
    identity::PASSWORD,
};

/// The machine's clock, so many minutes ahead.
#[derive(Default)]
struct Ahead(AtomicI64);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::now().checked_add(SignedDuration::from_mins(self.0.load(Ordering::SeqCst))).unwrap()
    }
}

struct Machine;

impl Ids for Machine {
    fn next(&self) -> Uuid {
        Uuid::now_v7()
    }
}

impl Rng for Machine {
    fn fill(&self, buffer: &mut [u8]) {
        rand::RngCore::fill_bytes(&mut rand::rng(), buffer);
    }
}

async fn cloud() -> (Cloud, Arc<Ahead>) {
    let clock = Arc::new(Ahead::default());
    let cloud = Cloud::start_in(Env::new(clock.clone(), Arc::new(Machine), Arc::new(Machine))).await;
    cloud.client.post("/v1/users", json!({"name": "ann", "password": PASSWORD})).await.created();
    (cloud, clock)
}

async fn login(cloud: &Cloud) -> Client {
    let body = json!({"user": "ann", "password": PASSWORD});
    let session = cloud.client.with_token(None).post("/v1/auth/login", body).await.ok();
    cloud.client.with_token(session["token"].as_str())
}

async fn renewed(client: &Client) -> Client {
    let session = client.post("/v1/auth/renew", json!({})).await.ok();
    client.with_token(session["token"].as_str())
}

#[tokio::test]
async fn a_token_works_for_an_hour_and_is_renewed_for_twelve() {
    let (cloud, clock) = cloud().await;
    let mut ann = login(&cloud).await;
    let first = ann.clone();
    for minutes in (50..12 * 60).step_by(50) {
        clock.0.store(minutes, Ordering::SeqCst);
        ann = renewed(&ann).await;
    }
    first.get("/v1/whoami").await.refused("unauthenticated");
    ann.get("/v1/whoami").await.ok();
    clock.0.store(12 * 60 + 1, Ordering::SeqCst);
    ann.get("/v1/whoami").await.refused("unauthenticated");
    ann.post("/v1/auth/renew", json!({})).await.refused("unauthenticated");
    login(&cloud).await.get("/v1/whoami").await.ok();
}

#[tokio::test]
async fn keys_are_followed_by_others_and_go_when_nothing_of_theirs_is_left() {
    let (cloud, clock) = cloud().await;
    let kept = || cloud.app().cache().read(|state| state.people.keys.iter().map(|key| key.id).collect::<Vec<_>>());
    keys::round(cloud.app()).await.unwrap();
    assert_eq!(kept(), [], "without users there is nothing to sign");
    login(&cloud).await;
    let [first] = kept()[..] else { panic!("{:?}", kept()) };
    keys::round(cloud.app()).await.unwrap();
    assert_eq!(kept(), [first]);

    clock.0.store(24 * 60 - 1, Ordering::SeqCst);
    let by_first = login(&cloud).await;
    clock.0.store(24 * 60 + 1, Ordering::SeqCst);
    keys::round(cloud.app()).await.unwrap();
    assert_eq!(kept().len(), 2);
    by_first.get("/v1/whoami").await.ok();
    login(&cloud).await.get("/v1/whoami").await.ok();
    clock.0.store(49 * 60 + 1, Ordering::SeqCst);
    keys::round(cloud.app()).await.unwrap();
    assert!(!kept().contains(&first), "the first key is gone with the last token it can have signed");
    login(&cloud).await.get("/v1/whoami").await.ok();
}

#[tokio::test]
async fn what_ended_early_is_remembered_no_longer_than_needed() {
    let (cloud, clock) = cloud().await;
    let ann = login(&cloud).await;
    ann.post("/v1/auth/logout", json!({})).await.gone();
    ann.get("/v1/whoami").await.refused("unauthenticated");
    let kept = || cloud.app().cache().read(|state| state.people.ended.len());
    keys::round(cloud.app()).await.unwrap();
    assert_eq!(kept(), 1);
    clock.0.store(61, Ordering::SeqCst);
    keys::round(cloud.app()).await.unwrap();
    assert_eq!(kept(), 0);
    ann.get("/v1/whoami").await.refused("unauthenticated");
}

#[tokio::test]
async fn a_credential_expires_and_takes_the_tokens_made_of_it_along() {
    let (cloud, clock) = cloud().await;
    cloud.client.post("/v1/role-assignments", json!({"role": "member", "user": "ann"})).await.created();
    let body = json!({"name": "ci", "role": "member", "expires_in_days": 1});
    let secret = login(&cloud).await.post("/v1/app-credentials", body).await.created();
    let ci = cloud.client.with_token(secret["secret"].as_str());
    clock.0.store(24 * 60 - 10, Ordering::SeqCst);
    let exchanged = renewed(&ci).await;
    exchanged.get("/v1/vms").await.ok();
    clock.0.store(24 * 60 + 1, Ordering::SeqCst);
    ci.get("/v1/vms").await.refused("unauthenticated");
    exchanged.get("/v1/vms").await.refused("unauthenticated");
}
