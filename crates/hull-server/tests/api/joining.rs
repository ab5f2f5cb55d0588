//! Becoming a node: join tokens, names that are taken, certificates and their renewal.

use hull_server::tls::node_of;
use hull_types::{id::NodeId, link::Joined};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};

use crate::cloud::{Answer, Client, Cloud, http};

/// A host that may ask to join.
struct Candidate {
    key: KeyPair,
    request: String,
}

impl Candidate {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        Self { key, request }
    }

    async fn join(&self, client: &Client, secret: &str, name: &str) -> Answer {
        client.post("/node/v1/join", json!({"secret": secret, "name": name, "request": self.request})).await
    }

    /// This host, showing its certificate.
    fn showing(&self, cloud: &Cloud, joined: &Value) -> Client {
        let own = (joined["certificate"].as_str().unwrap(), self.key.serialize_pem());
        Client { http: http(cloud.dir.path(), Some((own.0, &own.1))), token: None, ..cloud.client.clone() }
    }
}

/// A new token's secret part.
async fn token(cloud: &Cloud, wanted: Value) -> String {
    let made = cloud.client.post("/v1/join-tokens", wanted).await.created();
    made["secret"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned()
}

fn id(joined: &Value) -> &str {
    joined["node"].as_str().unwrap()
}

#[tokio::test]
async fn a_token_lets_one_host_join_however_many_try_at_once() {
    let cloud = Cloud::start().await;
    let stranger = cloud.client.with_token(None);
    let secret = token(&cloud, json!({})).await;
    let candidate = Candidate::new();
    // A request that cannot be signed does not use it up.
    let broken = json!({"secret": secret, "name": "n0", "request": "?"});
    stranger.post("/node/v1/join", broken).await.refused("invalid");

    let names: Vec<String> = (0..8).map(|n| format!("n{n}")).collect();
    let tries = names.iter().map(|name| candidate.join(&stranger, &secret, name));
    let answers = futures::future::join_all(tries).await;
    let joined = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(joined, 1);
    for answer in answers.into_iter().filter(|answer| answer.status != 200) {
        assert!(answer.refused("unauthenticated").contains("hull node join-token"));
    }
    assert_eq!(cloud.client.get("/v1/nodes").await.ok()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_reusable_token_lets_many_join_and_a_bound_one_its_name_alone() {
    let cloud = Cloud::start().await;
    let stranger = cloud.client.with_token(None);
    let reusable = token(&cloud, json!({"reusable": true})).await;
    for name in ["n1", "n2", "n3"] {
        Candidate::new().join(&stranger, &reusable, name).await.ok();
    }
    let bound = token(&cloud, json!({"name": "n4"})).await;
    assert!(Candidate::new().join(&stranger, &bound, "n5").await.refused("forbidden").contains("n4"));
    Candidate::new().join(&stranger, &bound, "n4").await.ok();
    cloud.client.post("/v1/join-tokens", json!({"name": "a/b"})).await.refused("invalid");
    cloud.client.post("/v1/join-tokens", json!({"once": true})).await.refused("invalid");
}

#[tokio::test]
async fn a_name_that_is_taken_is_given_to_its_holder_or_where_an_admin_said_so() {
    let cloud = Cloud::start().await;
    let stranger = cloud.client.with_token(None);
    let reusable = token(&cloud, json!({"reusable": true})).await;
    let (first, other) = (Candidate::new(), Candidate::new());
    let joined = first.join(&stranger, &reusable, "n1").await.ok();
    let elsewhere = other.join(&stranger, &reusable, "n2").await.ok();

    let refusal = other.join(&stranger, &reusable, "n1").await.refused("forbidden");
    assert!(refusal.contains("join-token --name n1") && refusal.contains("node delete n1"), "{refusal}");
    let another = other.showing(&cloud, &elsewhere);
    other.join(&another, &reusable, "n1").await.refused("forbidden");
    let again = first.join(&first.showing(&cloud, &joined), &reusable, "n1").await.ok();
    assert_eq!(id(&again), id(&joined), "its holder, by its certificate");

    let bound = token(&cloud, json!({"name": "n1"})).await;
    let replaced = other.join(&stranger, &bound, "n1").await.ok();
    assert_eq!(id(&replaced), id(&joined), "by an admin's word");
    cloud.client.delete("/v1/nodes/n1").await.gone();
    let anew = other.join(&stranger, &reusable, "n1").await.ok();
    assert_ne!(id(&anew), id(&joined), "a name that is free is anyone's");
    let joins =
        cloud.app().cache().read(|state| state.events.iter().filter(|event| event.action == "node.join").count());
    assert_eq!(joins, 5, "each is in history");
}

#[tokio::test]
async fn a_node_renews_its_certificate_by_the_old_one_and_for_itself_alone() {
    let cloud = Cloud::start().await;
    let stranger = cloud.client.with_token(None);
    let secret = token(&cloud, json!({})).await;
    let host = Candidate::new();
    let joined = host.join(&stranger, &secret, "n1").await.ok();
    let node = host.showing(&cloud, &joined);

    let next = Candidate::new();
    let body = json!({"request": next.request});
    stranger.post("/node/v1/renew", body.clone()).await.refused("unauthenticated");
    cloud.client.post("/node/v1/renew", body.clone()).await.refused("unauthenticated");
    node.post("/node/v1/renew", json!({"request": "?"})).await.refused("invalid");
    let renewed = node.post("/node/v1/renew", body.clone()).await.ok();
    assert_ne!(renewed["certificate"], joined["certificate"]);
    let given: Joined = serde_json::from_value(renewed.clone()).unwrap();
    let certificate = CertificateDer::from_pem_slice(given.certificate.as_bytes()).unwrap();
    assert_eq!(node_of(&certificate), Some(id(&joined).parse::<NodeId>().unwrap()));
    // The new one opens what the old one did.
    next.showing(&cloud, &renewed).post("/node/v1/renew", body.clone()).await.ok();

    cloud.client.delete("/v1/nodes/n1").await.gone();
    assert!(node.post("/node/v1/renew", body).await.refused("not-found").contains("join"));
}
