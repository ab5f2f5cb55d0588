//! Bad input: a clear error at the door, nothing changed.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    cloud::{Cloud, DEADLINE, tls},
    node::FakeNode,
};

#[tokio::test]
async fn a_vm_that_cannot_be_is_refused_naming_the_field() {
    let cloud = Cloud::start().await;
    let _node = FakeNode::attach(cloud.app(), "n1").await;
    cloud.image("debian").await;
    cloud.until("/v1/status", "with a node", |status| status.body["nodes_ready"] == 1).await;
    let good = json!({"name": "w", "image": "debian", "flavor": "small"});
    let long = "x".repeat(256);
    let huge = json!({"vcpus": 200, "memory": 1u64 << 40, "disk": 0});
    let table: &[(&str, Value, &str, &str)] = &[
        ("image", json!("nope"), "not-found", "/image"),
        ("flavor", json!("nope"), "not-found", "/flavor"),
        ("keypairs", json!(["nope"]), "not-found", "/keypairs/0"),
        ("nics", json!([{"network": "nope"}]), "not-found", "/nics/0/network"),
        ("nics", json!([{"network": "default", "addresses": ["192.0.2.1"]}]), "invalid", "/nics/0/addresses"),
        ("name", json!(long), "invalid", "/name"),
        ("name", json!("a\u{1b}[31m"), "invalid", "/name"),
        ("name", json!("../etc/passwd"), "invalid", "/name"),
        ("name", json!(7), "invalid", "/name"),
        ("count", json!("many"), "invalid", "/count"),
        ("count", json!(0), "invalid", "/count"),
        ("count", json!(1001), "invalid", "/count"),
        ("user_data", json!("not base64!"), "invalid", "/user_data"),
        ("profile", json!("mainframe"), "invalid", "/profile"),
        ("unknown_field", json!(1), "invalid", ""),
    ];
    for (field, value, kind, pointer) in table {
        let mut body = good.clone();
        body[*field] = value.clone();
        let answer = cloud.client.post("/v1/vms", body).await;
        let shown = answer.body.clone();
        answer.refused(kind);
        if !pointer.is_empty() {
            assert_eq!(shown["field"], *pointer, "{field}: {shown}");
        }
    }
    let too_large = json!({"name": "w", "image": "debian", "resources": huge});
    let detail = cloud.client.post("/v1/vms", too_large).await.refused("insufficient-resources");
    assert!(detail.contains("n1") || detail.contains("node"), "{detail}");
    assert_eq!(cloud.client.get("/v1/vms").await.ok()["items"], json!([]), "nothing was made");
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused() {
    let cloud = Cloud::start().await;
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    for body in [deep.as_str(), "{", "", "nonsense", "{\"name\":\"a\"} trailing"] {
        let request = cloud.client.request(Method::POST, "/v1/keypairs").header("content-type", "application/json");
        cloud.client.send(request.body(body.to_owned())).await.refused("invalid");
    }
    let form = cloud.client.request(Method::POST, "/v1/keypairs").header("content-type", "text/plain").body("x");
    cloud.client.send(form).await.refused("invalid");
    cloud.client.get("/v1/vms?limit=0").await.refused("invalid");
    cloud.client.get("/v1/vms?limit=x").await.refused("invalid");
    cloud.client.get("/v1/vms?stat=running").await.refused("invalid");
    cloud.client.get("/v1/vms?state=flying").await.refused("invalid");
    cloud.client.get("/v1/flavors?node=x").await.refused("invalid");
    cloud.client.get("/v1/nothing").await.refused("not-found");
    cloud.client.delete("/v1/status").await.refused("invalid");
}

/// The body is announced, never sent whole: the refusal comes first.
#[tokio::test]
async fn a_hundred_megabytes_of_json_are_refused_unread() {
    let cloud = Cloud::start().await;
    let ca = std::fs::read(cloud.dir.path().join("pki/ca.pem")).unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls(&ca, None)));
    let tcp = tokio::net::TcpStream::connect(cloud.client.addr).await.unwrap();
    let mut stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    let token = cloud.client.token.clone().unwrap();
    let head = format!(
        "POST /v1/keypairs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 100000000\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, async {
        while !answer.ends_with(b"}") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed without an answer");
        }
    })
    .await
    .unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("too-large"), "{answer}");

    // One that does not say how long it is, is read no further than the limit.
    let chunks = futures::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 << 10])));
    let request = cloud.client.request(Method::POST, "/v1/keypairs").header("content-type", "application/json");
    let sent = request.body(reqwest::Body::wrap_stream(chunks)).send().await;
    // The server may hang up while the client still sends; what counts is that it does not take it.
    assert!(sent.map_or(true, |answer| answer.status() == 413));
}

#[tokio::test]
async fn an_image_in_use_is_not_deleted() {
    let cloud = Cloud::start().await;
    let _node = FakeNode::attach(cloud.app(), "n1").await;
    cloud.image("debian").await;
    cloud.client.post("/v1/vms", json!({"name": "w", "image": "debian", "flavor": "micro"})).await.created();
    let detail = cloud.client.delete("/v1/images/debian").await.refused("conflict");
    assert!(detail.contains('w'), "it names the user: {detail}");
    cloud.client.delete("/v1/vms/w").await.gone();
    cloud.until("/v1/vms/w", "gone", |answer| answer.status == 404).await;
    cloud.client.delete("/v1/images/debian").await.gone();
    cloud.until("/v1/images/debian", "gone", |answer| answer.status == 404).await;
}

#[tokio::test]
async fn a_change_of_what_was_changed_meanwhile_is_refused() {
    let cloud = Cloud::start().await;
    cloud.image("debian").await;
    cloud.client.post("/v1/vms", json!({"name": "w", "image": "debian", "flavor": "micro"})).await.created();
    let shown = cloud.client.get("/v1/vms/w").await;
    let tag = shown.headers["etag"].to_str().unwrap().to_owned();
    let change = |tag: &str, text: &str| {
        let request = cloud.client.request(Method::PATCH, "/v1/vms/w").header("if-match", tag);
        cloud.client.send(request.json(&json!({"description": text})))
    };
    let changed = change(&tag, "one").await;
    let newer = changed.headers["etag"].to_str().unwrap().to_owned();
    changed.ok();
    change(&tag, "two").await.refused("precondition-failed");
    assert_eq!(cloud.client.get("/v1/vms/w").await.ok()["description"], "one");
    change(&newer, "three").await.ok();
    change("rubbish", "four").await.refused("invalid");
    let delete = cloud.client.request(Method::DELETE, "/v1/vms/w").header("if-match", &tag);
    cloud.client.send(delete).await.refused("precondition-failed");
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let cloud = Cloud::start().await;
    cloud.image("debian").await;
    let body = json!({"name": "w", "image": "debian", "flavor": "micro"});
    cloud.client.post("/v1/vms", body.clone()).await.created();
    cloud.client.post("/v1/vms", body.clone()).await.refused("already-exists");
    let three = json!({"name": "w", "count": 3, "image": "debian", "flavor": "micro"});
    assert_eq!(cloud.client.post("/v1/vms", three).await.created()["items"].as_array().unwrap().len(), 3);
    let ours = json!({"name": "default"});
    cloud.client.post("/v1/projects", ours).await.refused("already-exists");
}

#[tokio::test]
async fn many_vms_of_one_call_are_all_made_or_none() {
    let cloud = Cloud::start().await;
    cloud.image("debian").await;
    cloud.client.patch("/v1/images/debian", json!({"visibility": "public"})).await.ok();
    let unlimited = json!({"vms": null, "vcpus": null, "memory": null, "disk": null, "images": null, "ports": null});
    cloud.client.post("/v1/projects", json!({"name": "big", "quota": unlimited})).await.created();
    let many = |name: &str, user_data: &str| json!({"name": name, "count": 1000, "image": "debian", "flavor": "micro", "start": false, "user_data": user_data});
    let heavy = "A".repeat(64 << 10);
    cloud.client.post("/v1/vms?project=big", many("h", &heavy)).await.refused("invalid");
    assert_eq!(cloud.client.get("/v1/projects/big").await.ok()["usage"]["vms"], 0, "none was made");
    let made = cloud.client.post("/v1/vms?project=big", many("w", "aGk=")).await.created();
    assert_eq!(made["items"].as_array().unwrap().len(), 1000);
    assert_eq!(cloud.client.get("/v1/projects/big").await.ok()["usage"]["vms"], 1000);
    let page = cloud.client.get("/v1/vms?project=big&limit=1000").await.ok();
    assert_eq!(page["items"].as_array().unwrap().len(), 1000);
}
