//! The API as it is described: checked in, and closed to strangers.

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::cloud::Cloud;

const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi.json");

/// `HULL_BLESS=1` writes the file anew.
#[test]
fn the_description_checked_in_is_the_one_generated() {
    let mut generated = serde_json::to_string_pretty(&hull_server::api::openapi()).unwrap();
    generated.push('\n');
    if std::env::var_os("HULL_BLESS").is_some() {
        std::fs::write(CHECKED_IN, &generated).unwrap();
    }
    let checked_in = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
    assert!(
        checked_in == generated,
        "openapi.json is out of date; run this test with HULL_BLESS=1 and commit the file"
    );
    assert!(generated.contains("\"openapi\": \"3.1.0\""));
}

#[tokio::test]
async fn no_endpoint_answers_without_credentials() {
    let cloud = Cloud::start().await;
    let stranger = cloud.client.with_token(None);
    let described: Value = serde_json::to_value(hull_server::api::openapi()).unwrap();
    let mut tried = 0;
    for (path, methods) in described["paths"].as_object().unwrap() {
        let path = path.replace(['{', '}'], "");
        for method in methods.as_object().unwrap().keys() {
            // Where credentials are got.
            if ["/v1/auth/login", "/v1/auth/oidc", "/v1/auth/methods"].contains(&path.as_str()) {
                continue;
            }
            let method: Method = method.to_uppercase().parse().unwrap();
            let answer = stranger.send(stranger.request(method.clone(), &path)).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert!(answer.headers.contains_key("www-authenticate"));
            answer.refused("unauthenticated");
            tried += 1;
        }
    }
    assert!(tried > 45, "only {tried} endpoints are described");
    for path in ["/metrics", "/node/v1/images/x", "/v1/vms/x/vnc"] {
        let answer = stranger.get(path).await;
        assert!(matches!(answer.status.as_u16(), 400 | 401), "{path}: {}", answer.status);
    }
    assert_eq!(&stranger.get("/healthz").await.bytes[..], b"ok\n");
}

#[tokio::test]
async fn metrics_tell_requests_vms_and_nodes() {
    let cloud = Cloud::start().await;
    let _node = crate::node::FakeNode::attach(cloud.app(), "n1").await;
    cloud.until("/v1/status", "with a node", |status| status.body["nodes_ready"] == 1).await;
    let text = String::from_utf8(cloud.client.get("/metrics").await.bytes.to_vec()).unwrap();
    for line in [
        "hull_nodes_ready 1",
        "hull_watch_lag_revisions 0",
        "hull_http_requests_total{method=\"GET\",route=\"/v1/status\"",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
}
