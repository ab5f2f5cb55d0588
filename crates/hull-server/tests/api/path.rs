//! `/v1/vms/{vm}/path`: who may ask what, and what of the nodes' words they are told.

use serde_json::json;

use crate::{cloud::Cloud, node::FakeNode};

#[tokio::test]
async fn a_path_is_told_without_what_is_other_tenants() {
    let cloud = Cloud::start().await;
    cloud.image("debian").await;
    let _node = FakeNode::attach(cloud.app(), "n1").await;
    for name in ["a", "b"] {
        cloud.client.post("/v1/vms", json!({"name": name, "image": "debian", "flavor": "micro"})).await.created();
        let running = |answer: &crate::cloud::Answer| answer.body["state"] == "running";
        cloud.until(&format!("/v1/vms/{name}"), "running", running).await;
    }
    let told = cloud.client.get("/v1/vms/a/path?to=internet&port=443").await.ok();
    assert_eq!(told["reaches"], true, "{told}");
    let hops = told["hops"].as_array().unwrap();
    assert_eq!(hops[0]["place"], "network default", "its own");
    assert_eq!(hops[0]["told"], "security group default lets it out: accept", "by the name people know it by");
    let summary = told["summary"].as_str().unwrap();
    assert!(summary.contains("to 192.0.2.1 leaves the cloud as 203.0.113.7"), "{summary}");
    assert_eq!(hops[1]["place"], "another project");
    assert!(!told.to_string().contains("theirs"), "{told}");
    let to_vm = cloud.client.get("/v1/vms/a/path?to=b").await.ok();
    assert_eq!(to_vm["reaches"], false, "it left the cloud instead: {to_vm}");

    let mail = cloud.client.get("/v1/vms/a/path?to=internet&port=25").await.ok();
    assert_eq!(mail["reaches"], false, "{mail}");
    assert_eq!(mail["hops"][0]["passes"], false);
    let summary = mail["summary"].as_str().unwrap();
    let stops = "stops at network default, security groups (node n1): no rule of the receiver's security groups";
    assert!(summary.contains(stops), "{summary}");

    for (query, kind, field) in [
        ("to=nobody", "not-found", "?to"),
        ("to=b&protocol=tcp", "invalid", "?port"),
        ("to=b&protocol=icmp&port=1", "invalid", "?port"),
        ("to=b&protocol=sctp", "invalid", "?protocol"),
        ("to=b&size=20", "invalid", "?size"),
    ] {
        let answer = cloud.client.get(&format!("/v1/vms/a/path?{query}")).await;
        assert_eq!(answer.body["field"], field, "{query}");
        answer.refused(kind);
    }
    cloud.client.get("/v1/vms/a/path").await.refused("invalid");
    cloud.client.get("/v1/vms/nobody/path?to=b").await.refused("not-found");
}
