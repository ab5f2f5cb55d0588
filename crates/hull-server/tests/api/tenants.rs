//! Who may do what.

use serde_json::json;

use crate::cloud::{Client, Cloud};

async fn token(cloud: &Cloud, project: &str, role: &str) -> Client {
    let path = format!("/v1/tokens?project={project}");
    let made = cloud.client.post(&path, json!({"name": role, "role": role})).await.created();
    cloud.client.with_token(Some(made["secret"].as_str().unwrap()))
}

#[tokio::test]
async fn projects_do_not_see_each_other() {
    let cloud = Cloud::start().await;
    cloud.image("debian").await;
    for project in ["a", "b"] {
        cloud.client.post("/v1/projects", json!({"name": project})).await.created();
    }
    cloud.client.patch("/v1/images/debian", json!({"visibility": "public"})).await.ok();
    let (a, b) = (token(&cloud, "a", "member").await, token(&cloud, "b", "member").await);
    let body = json!({"name": "w", "image": "debian", "flavor": "micro"});
    let made = a.post("/v1/vms", body.clone()).await.created();
    let id = made["items"][0]["id"].as_str().unwrap();

    assert_eq!(b.get("/v1/vms").await.ok()["items"], json!([]));
    for path in ["/v1/vms/w".to_owned(), format!("/v1/vms/{id}")] {
        b.get(&path).await.refused("not-found");
        b.delete(&path).await.refused("not-found");
        b.post(&format!("{path}/actions"), json!({"action": "stop"})).await.refused("not-found");
        b.get(&format!("{path}/user-data")).await.refused("not-found");
    }
    b.get("/v1/vms?project=a").await.refused("not-found");
    b.get("/v1/vms?all-projects=true").await.refused("forbidden");
    b.post("/v1/vms", body).await.created();
    assert_eq!(cloud.client.get("/v1/vms?all-projects=true").await.ok()["items"].as_array().unwrap().len(), 2);
    assert_eq!(b.get("/v1/projects").await.ok()["items"].as_array().unwrap().len(), 1);
    b.patch("/v1/images/debian", json!({"hidden": true})).await.refused("forbidden");
    b.delete("/v1/images/debian").await.refused("forbidden");
}

#[tokio::test]
async fn roles_bound_what_a_token_may_do() {
    let cloud = Cloud::start().await;
    cloud.image("debian").await;
    let (reader, member) = (token(&cloud, "default", "reader").await, token(&cloud, "default", "member").await);
    let body = json!({"name": "w", "image": "debian", "flavor": "micro"});
    reader.get("/v1/vms").await.ok();
    reader.post("/v1/vms", body.clone()).await.refused("forbidden");
    member.post("/v1/vms", body).await.created();
    for (path, body) in [
        ("/v1/flavors", json!({"name": "f", "vcpus": 1, "memory": 1 << 28, "disk": 0})),
        ("/v1/projects", json!({"name": "p"})),
        ("/v1/tokens", json!({"name": "t", "role": "member"})),
        ("/v1/tokens", json!({"name": "t", "role": "admin", "system": true})),
        ("/v1/join-tokens", json!({})),
    ] {
        member.post(path, body).await.refused("forbidden");
    }
    member.get("/v1/nodes").await.refused("forbidden");
    member.get("/metrics").await.refused("forbidden");
    let admin = token(&cloud, "default", "admin").await;
    admin.post("/v1/tokens", json!({"name": "t", "role": "admin", "system": true})).await.refused("forbidden");
    assert_eq!(admin.get("/v1/whoami").await.ok()["role"], "admin");
}

#[tokio::test]
async fn a_revoked_token_and_a_wrong_one_open_nothing() {
    let cloud = Cloud::start().await;
    let made = token(&cloud, "default", "member").await;
    made.get("/v1/vms").await.ok();
    let tokens = cloud.client.get("/v1/tokens").await.ok();
    let shown = tokens["items"].as_array().unwrap();
    assert!(!tokens.to_string().contains(made.token.as_deref().unwrap()), "secrets are not kept");
    let id = shown.iter().find(|token| token["name"] == "member").unwrap()["id"].as_str().unwrap();
    cloud.client.delete(&format!("/v1/tokens/{id}")).await.gone();
    made.get("/v1/vms").await.refused("unauthenticated");
    cloud.client.with_token(Some("hull_wrong")).get("/v1/vms").await.refused("unauthenticated");
}

#[tokio::test]
async fn root_needs_no_token_on_the_socket() {
    let cloud = Cloud::start().await;
    let http = reqwest::Client::builder()
        .unix_socket(cloud.dir.path().join("hull.sock"))
        .tls_backend_preconfigured(crate::cloud::tls(
            &std::fs::read(cloud.dir.path().join("pki/ca.pem")).unwrap(),
            None,
        ))
        .build()
        .unwrap();
    let answer = http.get("http://hull/v1/whoami").send().await.unwrap();
    let root = rustix::process::geteuid().is_root();
    assert_eq!(answer.status().as_u16(), if root { 200 } else { 401 });
}
