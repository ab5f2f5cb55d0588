//! Idempotency keys.

use reqwest::Method;
use serde_json::{Value, json};

use crate::cloud::{Answer, Client, Cloud};

async fn create(client: &Client, key: &str, body: &Value) -> Answer {
    let request = client.request(Method::POST, "/v1/vms").header("idempotency-key", key).json(body);
    client.send(request).await
}

#[tokio::test]
async fn a_call_made_again_under_its_key_is_answered_alike_and_changes_nothing() {
    let cloud = Cloud::start().await;
    cloud.image("debian").await;
    let body = json!({"name": "w", "image": "debian", "flavor": "micro"});
    let first = create(&cloud.client, "k1", &body).await.created();
    let again = create(&cloud.client, "k1", &body).await.created();
    assert_eq!(first, again);
    assert_eq!(cloud.client.get("/v1/vms").await.ok()["items"].as_array().unwrap().len(), 1);

    let other = json!({"name": "x", "image": "debian", "flavor": "micro"});
    create(&cloud.client, "k1", &other).await.refused("conflict");
    create(&cloud.client, "a/b", &other).await.refused("invalid");
    cloud.client.get("/v1/vms/x").await.refused("not-found");
}

#[tokio::test]
async fn a_call_made_many_times_at_once_under_one_key_happens_once() {
    let cloud = Cloud::start().await;
    cloud.image("debian").await;
    let body = json!({"name": "w", "count": 2, "image": "debian", "flavor": "micro"});
    let calls = (0..20).map(|_| create(&cloud.client, "k", &body));
    let answers = futures::future::join_all(calls).await;
    let first = answers[0].body.clone();
    for answer in answers {
        assert_eq!(answer.created(), first);
    }
    assert_eq!(cloud.client.get("/v1/vms").await.ok()["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_secret_is_not_made_under_a_key() {
    let cloud = Cloud::start().await;
    let body = json!({"name": "t", "role": "member"});
    let request = cloud.client.request(Method::POST, "/v1/tokens").header("idempotency-key", "k").json(&body);
    cloud.client.send(request).await.refused("invalid");
}
