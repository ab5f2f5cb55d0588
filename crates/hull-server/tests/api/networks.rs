//! Networks, subnets, ports, security groups, routers and floating IPs, as their owners see them.

use serde_json::{Value, json};

use crate::{
    cloud::{Client, Cloud},
    node::FakeNode,
};

pub(crate) async fn member(cloud: &Cloud, project: &str) -> Client {
    cloud.client.post("/v1/projects", json!({"name": project})).await.created();
    let path = format!("/v1/tokens?project={project}");
    let made = cloud.client.post(&path, json!({"name": "t", "role": "member"})).await.created();
    cloud.client.with_token(Some(made["secret"].as_str().unwrap()))
}

async fn network(client: &Client, name: &str, cidrs: &[&str]) -> Value {
    let made = client.post("/v1/networks", json!({"name": name})).await.created();
    for (number, cidr) in cidrs.iter().enumerate() {
        let body = json!({"name": format!("{name}-{number}"), "network": name, "cidr": cidr});
        client.post("/v1/subnets", body).await.created();
    }
    made
}

/// An external network, as a system administrator makes it.
async fn external(cloud: &Cloud, cidr: &str) {
    let body = json!({"name": "ext", "uplink": {"provider": "ext"}, "external": true});
    cloud.client.post("/v1/networks", body).await.created();
    let body = json!({"name": "ext-0", "network": "ext", "cidr": cidr});
    cloud.client.post("/v1/subnets", body).await.created();
}

/// A VM on a network with a router to the external one, on a node.
async fn routed(cloud: &Cloud, client: &Client) {
    network(client, "n", &["10.0.0.0/24"]).await;
    let body = json!({"name": "r", "subnets": ["n-0"], "gateway": {"network": "ext"}});
    client.post("/v1/routers", body).await.created();
    let body = json!({"name": "w", "image": "debian", "flavor": "micro", "nics": [{"network": "n"}]});
    client.post("/v1/vms", body).await.created();
    cloud.until("/v1/vms?all-projects=true", "placed", |vms| vms.body["items"][0]["placement"].is_object()).await;
}

fn items(listed: &Value) -> usize {
    listed["items"].as_array().unwrap().len()
}

/// What is claimed of names, addresses, MACs and numbers of networks, apart from what is there from the start.
async fn claims(cloud: &Cloud) -> Vec<String> {
    let mut all = Vec::new();
    for prefix in ["name/", "address/", "mac/", "vni/"] {
        let page = cloud.store.list(prefix, None, 10_000).await.unwrap();
        all.extend(page.entries.into_iter().map(|entry| entry.key.to_string()));
    }
    all
}

#[tokio::test]
async fn every_noun_is_made_listed_shown_changed_and_deleted_and_leaves_nothing() {
    let cloud = Cloud::start().await;
    external(&cloud, "203.0.113.0/24").await;
    let client = member(&cloud, "a").await;
    let before = claims(&cloud).await;
    let usage = client.get("/v1/projects/a").await.ok()["usage"].clone();

    network(&client, "n", &["10.0.0.0/24", "fd00:1::/64"]).await;
    let group = json!({"name": "web", "rules": [{"protocol": "tcp", "from": 80, "to": 443}]});
    client.post("/v1/security-groups", group).await.created();
    let port = json!({"name": "p", "network": "n", "security_groups": ["web"], "tags": ["blue"]});
    let port = client.post("/v1/ports", port).await.created();
    assert_eq!(port["addresses"].as_array().unwrap().len(), 2, "one of each family: {port}");
    client.post("/v1/routers", json!({"name": "r", "gateway": {"network": "ext"}})).await.created();
    client.post("/v1/routers/r/subnets", json!({"subnet": "n-0"})).await.ok();
    let floating = json!({"network": "ext", "target": {"port": "p"}});
    let floating = client.post("/v1/floating-ips", floating).await.created();
    let address = floating["address"].as_str().unwrap();
    assert_eq!(floating["target"]["fixed"], port["addresses"][0]["address"]);

    for (plural, name, change, field) in [
        ("networks", "n", json!({"description": "mine"}), "description"),
        ("subnets", "n-0", json!({"dns": ["192.0.2.1"]}), "dns"),
        ("ports", "p", json!({"hostname": "www"}), "hostname"),
        ("security-groups", "web", json!({"tags": ["green"]}), "tags"),
        ("routers", "r", json!({"routes": [{"to": "10.9.0.0/16", "via": "10.0.0.9"}]}), "routes"),
        ("floating-ips", address, json!({"name": "front"}), "name"),
    ] {
        assert!(items(&client.get(&format!("/v1/{plural}")).await.ok()) > 0, "{plural}");
        let path = format!("/v1/{plural}/{name}");
        let shown = client.get(&path).await;
        let tag = shown.headers["etag"].to_str().unwrap().to_owned();
        let patch = |body: Value| client.request(reqwest::Method::PATCH, &path).header("if-match", &tag).json(&body);
        let changed = client.send(patch(change.clone())).await.ok();
        assert_eq!(changed[field], change[field], "{plural}");
        client.send(patch(json!({"description": "late"}))).await.refused("precondition-failed");
        client.patch(&path, json!({"nonsense": 1})).await.refused("invalid");
    }
    assert_eq!(items(&client.get("/v1/ports?tag=blue&network=n").await.ok()), 1);
    assert_eq!(items(&client.get("/v1/ports?tag=red").await.ok()), 0);

    for (path, says) in [
        ("/v1/networks/n", "in use"),
        ("/v1/subnets/n-0", "on a router"),
        ("/v1/subnets/n-1", "in use"),
        ("/v1/security-groups/web", "1 port is in it"),
        ("/v1/security-groups/default", "goes with its project"),
        ("/v1/routers/r", "still joins 1 subnet"),
        ("/v1/routers/r/subnets/n-0", "1 floating IP leads to it"),
    ] {
        let detail = client.delete(path).await.refused("conflict");
        assert!(detail.contains(says), "{path}: {detail}");
    }
    client.patch("/v1/routers/r", json!({"gateway": null})).await.refused("conflict");
    client.delete("/v1/ports/p").await.gone();
    assert_eq!(client.get("/v1/floating-ips/front").await.ok()["target"], Value::Null, "it leads nowhere now");
    client.patch("/v1/routers/r", json!({"routes": []})).await.ok();
    for path in
        ["routers/r/subnets/n-0", "routers/r", "floating-ips/front", "subnets/n-1", "networks/n", "security-groups/web"]
    {
        client.delete(&format!("/v1/{path}")).await.gone();
    }
    assert_eq!(client.get("/v1/projects/a").await.ok()["usage"], usage);
    assert_eq!(claims(&cloud).await, before, "nothing stays claimed");
    cloud.client.delete("/v1/projects/a").await.gone();
}

#[tokio::test]
async fn what_cannot_be_is_refused_naming_the_field_and_makes_nothing() {
    let cloud = Cloud::start().await;
    external(&cloud, "203.0.113.0/29").await;
    let client = member(&cloud, "a").await;
    network(&client, "n", &["10.0.0.0/24"]).await;
    network(&client, "overlapping", &["10.0.0.128/25"]).await;
    client.post("/v1/routers", json!({"name": "r", "subnets": ["n-0"]})).await.created();
    client.post("/v1/ports", json!({"name": "p", "network": "n", "mac": "52:54:00:00:00:01"})).await.created();
    let before = claims(&cloud).await;
    let table: &[(&str, Value, &str, &str)] = &[
        ("networks", json!({"name": "n"}), "already-exists", ""),
        ("networks", json!({"name": "x", "mtu": 100}), "invalid", "/mtu"),
        ("networks", json!({"name": "x", "shared": true}), "forbidden", "/shared"),
        ("networks", json!({"name": "x", "uplink": {"provider": "ext"}}), "forbidden", "/uplink"),
        ("subnets", json!({"name": "x", "network": "nope", "cidr": "10.1.0.0/24"}), "not-found", "/network"),
        ("subnets", json!({"name": "x", "network": "n", "cidr": "10.0.0.0/16"}), "conflict", "/cidr"),
        ("subnets", json!({"name": "x", "network": "n", "cidr": "10.1.0.0/33"}), "invalid", "/cidr"),
        (
            "subnets",
            json!({"name": "x", "network": "n", "cidr": "10.1.0.0/24", "gateway": "10.2.0.1"}),
            "invalid",
            "/gateway",
        ),
        ("subnets", json!({"name": "x", "network": "default", "cidr": "10.1.0.0/24"}), "forbidden", "/network"),
        ("ports", json!({"name": "x", "network": "n", "addresses": ["192.0.2.1"]}), "invalid", "/addresses"),
        ("ports", json!({"name": "x", "network": "n", "addresses": ["10.0.0.1"]}), "invalid", "/addresses"),
        ("ports", json!({"name": "x", "network": "n", "addresses": ["10.0.0.2"]}), "already-exists", "/addresses"),
        ("ports", json!({"name": "x", "network": "n", "mac": "52:54:00:00:00:01"}), "already-exists", "/mac"),
        ("ports", json!({"name": "x", "network": "n", "hostname": "p"}), "already-exists", "/hostname"),
        ("ports", json!({"name": "x", "network": "n", "port_security": false}), "forbidden", "/port_security"),
        ("ports", json!({"name": "x", "network": "n", "security_groups": ["nope"]}), "not-found", "/security_groups/0"),
        ("ports", json!({"name": "x", "network": "n", "subnets": ["nope"]}), "not-found", "/subnets/0"),
        ("ports", json!({"name": "x", "network": "ext"}), "forbidden", "/network"),
        ("routers", json!({"name": "x", "subnets": ["overlapping-0", "n-0"]}), "conflict", "/subnets/1"),
        ("routers", json!({"name": "x", "gateway": {"network": "n"}}), "invalid", "/gateway/network"),
        ("routers", json!({"name": "x", "routes": [{"to": "10.9.0.0/16", "via": "10.0.0.9"}]}), "invalid", "/routes"),
        ("routers/r/subnets", json!({"subnet": "overlapping-0"}), "conflict", "/subnet"),
        ("floating-ips", json!({"network": "n"}), "invalid", "/network"),
        ("floating-ips", json!({"network": "ext", "address": "192.0.2.1"}), "invalid", "/address"),
        ("floating-ips", json!({"network": "ext", "target": {"port": "p"}}), "conflict", "/target"),
        ("floating-ips", json!({"network": "ext", "target": {}}), "invalid", "/target"),
        (
            "security-groups",
            json!({"name": "x", "rules": [{}, {"protocol": "tcp", "from": 9, "to": 1}]}),
            "invalid",
            "/rules/1/to",
        ),
        (
            "security-groups",
            json!({"name": "x", "rules": [{"remote": {"group": "nope"}}]}),
            "not-found",
            "/rules/0/remote/group",
        ),
        ("security-groups/default/rules", json!({"protocol": "icmp", "code": 1}), "invalid", "/kind"),
        ("security-groups/default/rules", json!({"protocol": "tcp", "from": 22}), "already-exists", ""),
    ];
    for (path, body, kind, field) in table {
        let answer = client.post(&format!("/v1/{path}"), body.clone()).await;
        let shown = answer.body.clone();
        answer.refused(kind);
        let wanted = if field.is_empty() { Value::Null } else { json!(field) };
        assert_eq!(shown["field"], wanted, "{path} {body}: {shown}");
    }
    assert_eq!(claims(&cloud).await, before, "nothing was made");
    assert_eq!(client.get("/v1/projects/a").await.ok()["usage"]["ports"], 1);
    assert_eq!(client.get("/v1/routers/r").await.ok()["subnets"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_exhausted_pool_says_so_and_makes_no_vm() {
    let cloud = Cloud::start().await;
    cloud.image("debian").await;
    let client = cloud.client.clone();
    client.post("/v1/networks", json!({"name": "n"})).await.created();
    let pools = json!([{"first": "10.0.0.10", "last": "10.0.0.11"}]);
    client
        .post("/v1/subnets", json!({"name": "s", "network": "n", "cidr": "10.0.0.0/24", "pools": pools}))
        .await
        .created();
    let many = |name: &str, count: u32| json!({"name": name, "count": count, "image": "debian", "flavor": "micro", "nics": [{"network": "n"}]});
    let detail = client.post("/v1/vms", many("w", 3)).await.refused("insufficient-resources");
    assert!(detail.contains("network n has no free IPv4 address left"), "{detail}");
    client.post("/v1/vms", many("w", 2)).await.created();
    client.post("/v1/ports", json!({"name": "p", "network": "n"})).await.refused("insufficient-resources");
    let outside = json!({"name": "p", "network": "n", "addresses": ["10.0.0.99"]});
    client.post("/v1/ports", outside).await.created();
    client.patch("/v1/subnets/s", json!({"pools": []})).await.ok();
    client.post("/v1/ports", json!({"name": "q", "network": "n"})).await.created();
}

#[tokio::test]
async fn projects_have_the_same_addresses_and_do_not_touch_each_other_s() {
    let cloud = Cloud::start().await;
    let (a, b) = (member(&cloud, "a").await, member(&cloud, "b").await);
    let mut ids = Vec::new();
    for client in [&a, &b] {
        let made = network(client, "n", &["10.0.0.0/24"]).await;
        let port = json!({"name": "p", "network": "n", "addresses": ["10.0.0.5"], "mac": "52:54:00:00:00:01"});
        let port = client.post("/v1/ports", port).await.created();
        client.post("/v1/security-groups", json!({"name": "g"})).await.created();
        let group = client.get("/v1/security-groups/g").await.ok();
        ids.push(
            [made["id"].clone(), port["id"].clone(), group["id"].clone()].map(|id| id.as_str().unwrap().to_owned()),
        );
    }
    assert_ne!(ids[0][0], ids[1][0]);
    let [network, port, group] = &ids[0];
    for path in [format!("networks/{network}"), format!("ports/{port}"), format!("security-groups/{group}")] {
        b.get(&format!("/v1/{path}")).await.refused("not-found");
        b.patch(&format!("/v1/{path}"), json!({"description": "b was here"})).await.refused("not-found");
        b.delete(&format!("/v1/{path}")).await.refused("not-found");
    }
    b.post("/v1/subnets", json!({"name": "x", "network": network, "cidr": "10.9.0.0/24"})).await.refused("not-found");
    b.post("/v1/ports", json!({"name": "x", "network": network})).await.refused("not-found");
    b.post("/v1/ports", json!({"name": "x", "network": "n", "security_groups": [group]})).await.refused("not-found");
    let rule = json!({"remote": {"group": group}});
    b.post("/v1/security-groups/g/rules", rule).await.refused("not-found");
    // Not even who sees both joins them.
    let root = &cloud.client;
    root.post("/v1/ports?project=b", json!({"name": "x", "network": network})).await.refused("forbidden");
    root.post("/v1/routers?project=b", json!({"name": "x", "subnets": [network]})).await.refused("not-found");
    assert_eq!(items(&b.get("/v1/ports").await.ok()), 1);
}

#[tokio::test]
async fn a_shared_network_is_used_by_all_and_changed_by_who_administers_the_cloud() {
    let cloud = Cloud::start().await;
    let (a, root) = (member(&cloud, "a").await, &cloud.client);
    root.post("/v1/networks", json!({"name": "all", "shared": true})).await.created();
    root.post("/v1/subnets", json!({"name": "all-0", "network": "all", "cidr": "10.7.0.0/24"})).await.created();
    let listed = a.get("/v1/subnets?network=all").await.ok();
    assert_eq!(listed["items"][0]["cidr"], "10.7.0.0/24", "{listed}");
    a.post("/v1/ports", json!({"name": "p", "network": "all"})).await.created();
    a.delete("/v1/networks/all").await.refused("forbidden");
    a.patch("/v1/networks/all", json!({"description": "mine"})).await.refused("forbidden");
    let pairs = json!([{"addresses": "10.7.0.0/24"}]);
    a.patch("/v1/ports/p", json!({"allowed_pairs": pairs})).await.refused("forbidden");
    let detail = root.patch("/v1/networks/all", json!({"shared": false})).await.refused("conflict");
    assert!(detail.contains("1 port of other projects"), "{detail}");
    root.delete("/v1/subnets/all-0").await.refused("conflict");
    a.delete("/v1/ports/p").await.gone();
    root.patch("/v1/networks/all", json!({"shared": false})).await.ok();
    a.get("/v1/networks/all").await.refused("not-found");
    root.delete("/v1/networks/all").await.gone();
}

#[tokio::test]
async fn security_rules_come_and_go_one_by_one() {
    let cloud = Cloud::start().await;
    let client = member(&cloud, "a").await;
    for name in ["web", "db"] {
        client.post("/v1/security-groups", json!({"name": name})).await.created();
    }
    let rule = json!({"protocol": "tcp", "from": 5432, "remote": {"group": "web"}});
    let group = client.post("/v1/security-groups/db/rules", rule.clone()).await.created();
    assert_eq!(group["rules"][0]["protocol"], "tcp");
    client.post("/v1/security-groups/db/rules", rule).await.refused("already-exists");
    let detail = client.delete("/v1/security-groups/web").await.refused("conflict");
    assert!(detail.contains("a rule of group db names it"), "{detail}");
    let id = group["rules"][0]["id"].as_str().unwrap();
    client.delete("/v1/security-groups/db/rules/nonsense").await.refused("not-found");
    client.delete(&format!("/v1/security-groups/db/rules/{id}")).await.gone();
    client.delete(&format!("/v1/security-groups/db/rules/{id}")).await.refused("not-found");
    client.delete("/v1/security-groups/web").await.gone();

    client.post("/v1/security-groups", json!({"name": "raw", "stateful": false})).await.created();
    network(&client, "n", &["10.0.0.0/24"]).await;
    let mixed = json!({"name": "p", "network": "n", "security_groups": ["raw", "db"]});
    assert_eq!(client.post("/v1/ports", mixed).await.body["field"], "/security_groups");
    client.post("/v1/ports", json!({"name": "p", "network": "n", "security_groups": ["raw"]})).await.created();
    client.patch("/v1/security-groups/raw", json!({"stateful": true})).await.refused("conflict");
    client.patch("/v1/ports/p", json!({"security_groups": []})).await.ok();
    client.patch("/v1/security-groups/raw", json!({"stateful": true})).await.ok();
    client.patch("/v1/security-groups/default", json!({"name": "other"})).await.refused("conflict");
}

#[tokio::test]
async fn a_router_has_an_end_outside_on_each_node_that_needs_it_and_floating_ips_lead_in() {
    let cloud = Cloud::start().await;
    let node = FakeNode::attach(cloud.app(), "n1").await;
    cloud.image("debian").await;
    cloud.client.patch("/v1/images/debian", json!({"visibility": "public"})).await.ok();
    external(&cloud, "203.0.113.0/24").await;
    let client = member(&cloud, "a").await;
    routed(&cloud, &client).await;
    let ends = "/v1/ports?all-projects=true&network=ext";
    let end = cloud.until(ends, "one", |ports| items(&ports.body) == 1).await.ok();
    assert_eq!(end["items"][0]["router_gateway"]["node"], json!(node.id));
    assert_eq!(client.get("/v1/projects/a").await.ok()["usage"]["ports"], 1, "it counts for no quota");
    let port = end["items"][0]["id"].as_str().unwrap();
    client.delete(&format!("/v1/ports/{port}")).await.refused("conflict");

    let floating = client.post("/v1/floating-ips", json!({"network": "ext"})).await.created();
    let address = floating["address"].as_str().unwrap();
    let path = format!("/v1/floating-ips/{address}");
    let assigned = client.patch(&path, json!({"target": {"vm": "w"}})).await.ok();
    assert_eq!(assigned["target"]["fixed"], "10.0.0.2");
    client.delete("/v1/networks/ext").await.refused("forbidden");
    let detail = cloud.client.delete("/v1/networks/ext").await.refused("conflict");
    assert!(detail.contains("1 router leads out through it and 1 floating IP is from it"), "{detail}");

    client.delete("/v1/vms/w").await.gone();
    cloud.until(ends, "none", |ports| items(&ports.body) == 0).await;
    assert_eq!(client.get(&path).await.ok()["target"], Value::Null, "the VM is gone, the address stays");
    client.patch("/v1/routers/r", json!({"gateway": null})).await.ok();
    client.delete(&path).await.gone();
    cloud.client.delete("/v1/networks/ext").await.gone();
}

#[tokio::test]
async fn a_full_external_network_fails_no_vm_and_the_router_says_so() {
    let cloud = Cloud::start().await;
    let _node = FakeNode::attach(cloud.app(), "n1").await;
    cloud.image("debian").await;
    cloud.client.patch("/v1/images/debian", json!({"visibility": "public"})).await.ok();
    external(&cloud, "203.0.113.0/30").await;
    let client = member(&cloud, "a").await;
    let floating = client.post("/v1/floating-ips", json!({"network": "ext"})).await.created();
    routed(&cloud, &client).await;
    cloud.until("/v1/vms?all-projects=true", "running", |vms| vms.body["items"][0]["state"] == "running").await;
    let lacking =
        cloud.until("/v1/routers?all-projects=true", "lacking", |r| r.body["items"][0]["reason"].is_object()).await;
    let reason = lacking.ok()["items"][0]["reason"].clone();
    assert_eq!(reason["code"], "addresses-exhausted");
    assert!(reason["message"].as_str().unwrap().contains("node n1: network ext has no free IPv4 address"), "{reason}");
    client.delete(&format!("/v1/floating-ips/{}", floating["id"].as_str().unwrap())).await.gone();
    cloud.until("/v1/routers?all-projects=true", "whole", |r| r.body["items"][0]["reason"].is_null()).await;
}

#[tokio::test]
async fn nics_come_and_go_and_a_user_s_port_outlives_its_vm() {
    let cloud = Cloud::start().await;
    let node = FakeNode::attach(cloud.app(), "n1").await;
    cloud.image("debian").await;
    let client = cloud.client.clone();
    network(&client, "n", &["10.0.0.0/24"]).await;
    let port = client.post("/v1/ports", json!({"name": "own", "network": "n"})).await.created();
    let body = json!({"name": "w", "image": "debian", "flavor": "micro", "nics": [{"port": "own"}]});
    client.post("/v1/vms", body.clone()).await.created();
    let mut twice = body.clone();
    twice["name"] = json!("x");
    assert_eq!(client.post("/v1/vms", twice).await.body["field"], "/nics/0/port", "a port is one VM's");
    let mut both = body;
    both["nics"] = json!([{"port": "own", "network": "n"}]);
    client.post("/v1/vms", both).await.refused("invalid");
    let running = |answer: &crate::cloud::Answer| answer.state() == "running" && answer.body["settled"] == true;
    cloud.until("/v1/vms/w", "running", running).await;
    client.delete("/v1/ports/own").await.refused("conflict");

    let act = |body: Value| client.post("/v1/vms/w/actions", body);
    let plugged =
        act(json!({"action": "attach-nic", "nic": {"network": "n", "security_groups": ["default"]}})).await.ok();
    assert_eq!(plugged["addresses"].as_array().unwrap().len(), 2);
    cloud.until("/v1/vms/w", "running", running).await;
    assert_eq!(node.held.lock().unwrap().vms.values().next().unwrap().nics.len(), 2);
    assert_eq!(client.get("/v1/projects/default").await.ok()["usage"]["ports"], 2);
    act(json!({"action": "attach-nic", "nic": {"network": "nope"}})).await.refused("not-found");
    let new = plugged["ports"][1].as_str().unwrap();
    let of_vm = client.get("/v1/ports?vm=w").await.ok();
    assert_eq!(of_vm["items"].as_array().unwrap().len(), 2, "{of_vm}");
    act(json!({"action": "detach-nic", "port": new})).await.ok();
    client.get(&format!("/v1/ports/{new}")).await.refused("not-found");
    act(json!({"action": "detach-nic", "port": "own"})).await.ok();
    act(json!({"action": "detach-nic", "port": "own"})).await.refused("not-found");
    act(json!({"action": "attach-nic", "nic": {"port": "own"}})).await.ok();

    client.delete("/v1/vms/w").await.gone();
    cloud.until("/v1/vms/w", "gone", |answer| answer.status == 404).await;
    let left = client.get("/v1/ports/own").await.ok();
    assert_eq!((&left["addresses"], &left["vm"]), (&port["addresses"], &Value::Null), "it waits for another VM");
    assert_eq!(client.get("/v1/projects/default").await.ok()["usage"]["ports"], 1);
    client.delete("/v1/ports/own").await.gone();
    client.delete("/v1/networks/n").await.gone();
}

/// References that begin while what they refer to goes: one of the two is refused, and nothing dangles.
#[tokio::test]
async fn what_is_deleted_while_it_begins_to_be_used_is_refused_on_one_side() {
    let cloud = Cloud::start().await;
    let client = member(&cloud, "a").await;
    for round in 0..20 {
        let name = format!("n{round}");
        network(&client, &name, &["10.0.0.0/24"]).await;
        let (path, port) = (format!("/v1/networks/{name}"), json!({"name": format!("p{round}"), "network": name}));
        let (made, gone) = tokio::join!(client.post("/v1/ports", port), client.delete(&path));
        assert_ne!(made.status == 201, gone.status == 204, "{made:?} {gone:?}");
        let network = client.get(&path).await;
        assert_eq!(network.status == 200, made.status == 201);
    }
}
