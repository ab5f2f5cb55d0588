//! Images through the API: upload, fetch, failure.

use axum::{Router, routing::get};
use serde_json::json;

use hull_store::Txn;

use crate::cloud::Cloud;

#[tokio::test]
async fn an_upload_becomes_ready_and_comes_out_as_it_went_in() {
    let cloud = Cloud::start().await;
    let ready = cloud.image("disk").await;
    assert_eq!(ready["phase"], "ready");
    assert_eq!(ready["content"]["virtual_size"], 1 << 20);
    let out = cloud.client.get("/v1/images/disk/content").await;
    assert_eq!(out.bytes.len(), 1 << 20);
    assert!(out.bytes.iter().all(|&b| b == 7));
    cloud.client.put("/v1/images/disk/content", vec![1]).await.refused("conflict");
}

#[tokio::test]
async fn bytes_that_are_not_what_was_promised_fail_with_the_reason() {
    let cloud = Cloud::start().await;
    let checksum = "sha256:".to_owned() + &"0".repeat(64);
    cloud.client.post("/v1/images", json!({"name": "i", "format": "raw", "checksum": checksum})).await.created();
    assert!(!cloud.client.put("/v1/images/i/content", vec![7; 4096]).await.status.is_success());
    let failed = cloud.client.get("/v1/images/i").await.ok();
    assert_eq!(failed["phase"], "failed");
    assert!(failed["reason"]["message"].as_str().unwrap().contains("sha256"), "{failed}");
    let body = json!({"name": "w", "image": "i", "flavor": "micro"});
    cloud.client.post("/v1/vms", body).await.refused("conflict");
    cloud.client.delete("/v1/images/i").await.gone();
}

#[tokio::test]
async fn an_image_is_fetched_from_its_url_by_an_operators_wish_only() {
    let cloud = Cloud::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/disk", listener.local_addr().unwrap());
    let web = Router::new().route("/disk", get(async || vec![7u8; 1 << 20]));
    let serving = tokio::spawn(async move { axum::serve(listener, web).await.unwrap() });
    cloud.client.post("/v1/images", json!({"name": "i", "format": "raw", "source_url": url})).await.created();
    cloud.until("/v1/images/i", "ready", |image| image.body["phase"] == "ready").await;

    let made = cloud.client.post("/v1/tokens", json!({"name": "m", "role": "member"})).await.created();
    let tenant = cloud.client.with_token(made["secret"].as_str());
    tenant.post("/v1/images", json!({"name": "j", "format": "raw", "source_url": url})).await.created();
    let failed = cloud.until("/v1/images/j", "failed", |image| image.body["phase"] == "failed").await.ok();
    assert!(failed["reason"]["message"].is_string(), "{failed}");
    serving.abort();
}

/// A server that stopped leaves records in `importing`: what has a URL is fetched again, what was uploaded fails.
#[tokio::test]
async fn an_import_that_a_stopped_server_left_is_taken_up_or_failed() {
    let cloud = Cloud::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/disk", listener.local_addr().unwrap());
    let web = Router::new().route("/disk", get(async || vec![7u8; 1 << 20]));
    let serving = tokio::spawn(async move { axum::serve(listener, web).await.unwrap() });
    for (name, source) in [("fetched", Some(url)), ("uploaded", None)] {
        let made = cloud.client.post("/v1/images", json!({"name": name, "format": "raw"})).await.created();
        let key = format!("image/{}", made["id"].as_str().unwrap());
        let mut left = made.clone();
        left["phase"] = "importing".into();
        left["source_url"] = json!(source);
        // The URL was an operator's: so says the promise beside the record.
        cloud.store.txn(Txn::new().put_json(key.as_str(), &left).unwrap()).await.unwrap();
    }
    cloud.until("/v1/images/fetched", "ready", |image| image.body["phase"] == "ready").await;
    let failed = cloud.until("/v1/images/uploaded", "failed", |image| image.body["phase"] == "failed").await.ok();
    assert!(failed["reason"]["message"].as_str().unwrap().contains("upload"), "{failed}");
    serving.abort();
}
