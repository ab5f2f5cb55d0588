//! How long a session lasts, the keys that sign it, and how often one may try to log in: on a clock that the test moves.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use hull_server::{
    app::Settings,
    controllers::keys,
    env::{Clock, Env, Ids, Rng},
};
use hull_types::Timestamp;
use jiff::SignedDuration;
use reqwest::{Method, StatusCode};
use serde_json::json;
use uuid::Uuid;

use crate::{
    cloud::{Answer, Client, Cloud},
    identity::PASSWORD,
};

/// A clock that stands still but for the test.
struct Still {
    from: Timestamp,
    minutes: AtomicI64,
}

impl Still {
    fn minutes(&self, minutes: i64) {
        self.minutes.store(minutes, Ordering::SeqCst);
    }
}

impl Clock for Still {
    fn now(&self) -> Timestamp {
        self.from.checked_add(SignedDuration::from_mins(self.minutes.load(Ordering::SeqCst))).unwrap()
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

async fn cloud() -> (Cloud, Arc<Still>) {
    let clock = Arc::new(Still { from: Timestamp::now(), minutes: AtomicI64::new(0) });
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
        clock.minutes(minutes);
        ann = renewed(&ann).await;
    }
    first.get("/v1/whoami").await.refused("unauthenticated");
    ann.get("/v1/whoami").await.ok();
    clock.minutes(12 * 60 + 1);
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

    clock.minutes(24 * 60 - 1);
    let by_first = login(&cloud).await;
    clock.minutes(24 * 60 + 1);
    keys::round(cloud.app()).await.unwrap();
    assert_eq!(kept().len(), 2);
    by_first.get("/v1/whoami").await.ok();
    login(&cloud).await.get("/v1/whoami").await.ok();
    clock.minutes(49 * 60 + 1);
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
    clock.minutes(60 * 49);
    keys::round(cloud.app()).await.unwrap();
    assert_eq!(kept(), 1, "the key that signed it may be there still, and the clock be set back");
    clock.minutes(60 * 51);
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
    clock.minutes(24 * 60 - 10);
    let exchanged = renewed(&ci).await;
    exchanged.get("/v1/vms").await.ok();
    clock.minutes(24 * 60 + 1);
    ci.get("/v1/vms").await.refused("unauthenticated");
    exchanged.get("/v1/vms").await.refused("unauthenticated");
}

async fn guess(cloud: &Cloud, name: &str) -> Answer {
    let body = json!({"user": name, "password": "a guess of mine"});
    cloud.client.with_token(None).post("/v1/auth/login", body).await
}

#[tokio::test]
async fn guessing_waits_longer_and_longer_until_an_admin_forgives() {
    let (cloud, clock) = cloud().await;
    for name in ["ann", "nobody"] {
        for _ in 0..6 {
            let refusal = guess(&cloud, name).await.refused("unauthenticated");
            assert!(refusal.contains("no such user, or the password"), "the same for both: {refusal}");
        }
        let answer = guess(&cloud, name).await;
        assert_eq!(answer.status, 429, "{name}");
        assert_eq!((&answer.headers["retry-after"], &answer.body["retry_after"]), (&"2".parse().unwrap(), &json!(2)));
    }
    let right = json!({"user": "ann", "password": PASSWORD});
    let stranger = cloud.client.with_token(None);
    stranger.post("/v1/auth/login", right.clone()).await.refused("too-many-requests");
    cloud.client.post("/v1/users/ann/unlock", json!({})).await.gone();
    stranger.post("/v1/auth/login", right.clone()).await.ok();

    for _ in 0..6 {
        clock.minutes(clock.minutes.load(Ordering::SeqCst) + 16);
        guess(&cloud, "ann").await.refused("unauthenticated");
    }
    guess(&cloud, "ann").await.refused("too-many-requests");
    clock.minutes(clock.minutes.load(Ordering::SeqCst) + 16);
    stranger.post("/v1/auth/login", right).await.ok();
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_a_rate_of_its_own() {
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let settings = Settings { trusted_proxies, ..Settings::default() };
    let cloud = Cloud::start_on(Arc::new(hull_store::memory::MemoryStore::new()), settings).await;
    let guess = async |from: &str, n: u32| {
        let body = json!({"user": format!("u{n}"), "password": "a guess of mine"});
        let request = cloud.client.with_token(None).request(Method::POST, "/v1/auth/login").json(&body);
        cloud.client.send(request.header("x-forwarded-for", from)).await.status
    };
    while guess("203.0.113.9", 0).await != StatusCode::TOO_MANY_REQUESTS {}
    assert_eq!(guess("203.0.113.10", 1).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn one_address_has_a_rate_whatever_names_it_tries() {
    let (cloud, clock) = cloud().await;
    let mut refused = 0;
    for n in 0..22 {
        refused += usize::from(guess(&cloud, &format!("u{n}")).await.status == 429);
    }
    assert_eq!(refused, 2);
    clock.minutes(1);
    login(&cloud).await.get("/v1/whoami").await.ok();
}
