//! A VM's whole life, as its owner sees it.

use serde_json::{Value, json};

use crate::{cloud::Cloud, node::FakeNode};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me";

async fn settled(cloud: &Cloud, vm: &str, state: &str) -> Value {
    let wanted = |answer: &crate::cloud::Answer| answer.state() == state && answer.body["settled"] == true;
    cloud.until(&format!("/v1/vms/{vm}"), state, wanted).await.ok()
}

#[tokio::test]
async fn a_vm_is_made_used_and_deleted_and_nothing_is_left() {
    let cloud = Cloud::start().await;
    let node = FakeNode::attach(cloud.app(), "n1").await;
    cloud.image("debian").await;
    cloud.client.post("/v1/keypairs", json!({"name": "me", "public_key": KEY})).await.created();
    let before = cloud.client.get("/v1/projects/default").await.ok()["usage"].clone();

    let request =
        json!({"name": "web1", "image": "debian", "flavor": "small", "keypairs": ["me"], "user_data": "aGk="});
    let made = cloud.client.post("/v1/vms", request).await.created();
    let view = &made["items"][0];
    assert_eq!(view["state"], "scheduling");
    assert_eq!(view["user_data"], Value::Null, "user data is not shown");
    assert_eq!(view["addresses"].as_array().unwrap().len(), 2, "one address of each family: {view}");

    let running = settled(&cloud, "web1", "running").await;
    assert_eq!(running["placement"]["generation"], 1);
    let told = node.held.lock().unwrap().vms.values().next().unwrap().clone();
    assert_eq!(told.vm.user_data.as_deref(), Some("aGk="));
    assert_eq!(told.vm.ssh_keys.len(), 1);
    assert!(told.image.is_some() && told.nics.len() == 1);
    assert_eq!(cloud.client.get("/v1/vms/web1/user-data").await.ok()["user_data"], "aGk=");

    for (action, state) in [
        ("pause", "paused"),
        ("resume", "running"),
        ("suspend", "suspended"),
        ("resume", "running"),
        ("stop", "stopped"),
        ("start", "running"),
    ] {
        cloud.client.post("/v1/vms/web1/actions", json!({"action": action})).await.ok();
        settled(&cloud, "web1", state).await;
    }
    cloud.client.post("/v1/vms/web1/actions", json!({"action": "reboot", "kind": "hard"})).await.ok();
    assert_eq!(settled(&cloud, "web1", "running").await["reboot"]["seq"], 1);
    cloud.client.post("/v1/vms/web1/actions", json!({"action": "resize", "flavor": "medium"})).await.ok();
    assert_eq!(settled(&cloud, "web1", "running").await["resources"]["vcpus"], 2);
    cloud.client.patch("/v1/vms/web1", json!({"name": "web2"})).await.ok();
    cloud.client.get("/v1/vms/web1").await.refused("not-found");

    cloud.client.post("/v1/vms/web2/actions", json!({"action": "lock"})).await.ok();
    cloud.client.delete("/v1/vms/web2").await.refused("conflict");
    cloud.client.post("/v1/vms/web2/actions", json!({"action": "unlock"})).await.ok();
    cloud.client.delete("/v1/vms/web2").await.gone();
    cloud.until("/v1/vms/web2", "gone", |answer| answer.status == 404).await;
    assert_eq!(cloud.client.get("/v1/projects/default").await.ok()["usage"], before, "its quota came back");
    assert_eq!(cloud.client.get("/v1/ports").await.ok()["items"], json!([]));
    let emptied = || node.held.lock().unwrap().vms.is_empty() && node.held.lock().unwrap().networks.is_empty();
    cloud.until("/v1/status", "told to the node", |_| emptied()).await;

    let id = running["id"].as_str().unwrap();
    let history = cloud.client.get(&format!("/v1/events?resource={id}")).await.ok();
    let actions: Vec<&str> =
        history["items"].as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap()).collect();
    assert_eq!(actions.first(), Some(&"vm.create"), "{actions:?}");
    assert!(actions.contains(&"vm.delete"), "{actions:?}");
}

#[tokio::test]
async fn a_vm_waits_for_a_node_and_says_so_and_can_be_deleted_meanwhile() {
    let cloud = Cloud::start().await;
    cloud.image("debian").await;
    let request = json!({"name": "w", "image": "debian", "flavor": "micro"});
    cloud.client.post("/v1/vms", request.clone()).await.created();
    let waiting = cloud.until("/v1/vms/w", "told why", |vm| vm.body["reason"]["code"] == "no-nodes").await.ok();
    assert_eq!(waiting["state"], "scheduling");
    cloud.client.delete("/v1/vms/w").await.gone();
    cloud.client.get("/v1/vms/w").await.refused("not-found");

    cloud.client.post("/v1/vms", request).await.created();
    let _node = FakeNode::attach(cloud.app(), "n1").await;
    settled(&cloud, "w", "running").await;
    let explained = cloud.client.get("/v1/vms/w/explain").await.ok();
    assert!(explained.to_string().contains("qemu is happy"), "{explained}");
    assert_eq!(cloud.client.get("/v1/status").await.ok()["vms"], json!({"running": 1}));
}

#[tokio::test]
async fn reports_of_older_generations_and_of_other_nodes_change_nothing() {
    let cloud = Cloud::start().await;
    let node = FakeNode::attach(cloud.app(), "n1").await;
    let other = FakeNode::attach(cloud.app(), "n2").await;
    cloud.image("debian").await;
    cloud.client.post("/v1/vms", json!({"name": "w", "image": "debian", "flavor": "micro"})).await.created();
    let view = settled(&cloud, "w", "running").await;
    let on_first = view["placement"]["node"] == node.id.to_string();
    let (mine, stranger) = if on_first { (&node, &other) } else { (&other, &node) };
    let desired = mine.held.lock().unwrap().vms.values().next().unwrap().clone();

    let mut stale = crate::node::fulfilled(mine.id, &desired);
    stale.generation -= 1;
    stale.phase = hull_types::vm::VmPhase::Failed;
    let mut foreign = crate::node::fulfilled(stranger.id, &desired);
    foreign.phase = hull_types::vm::VmPhase::Failed;
    mine.say.send(hull_types::link::FromNode::Vm(Box::new(stale))).await.unwrap();
    stranger.say.send(hull_types::link::FromNode::Vm(Box::new(foreign))).await.unwrap();
    // A true word after them shows that both were heard.
    let mut fresh = crate::node::fulfilled(mine.id, &desired);
    fresh.pending = vec!["told".into()];
    mine.say.send(hull_types::link::FromNode::Vm(Box::new(fresh))).await.unwrap();
    let answer = cloud.until("/v1/vms/w", "told", |vm| vm.body["status"]["pending"] == json!(["told"])).await;
    assert_eq!(answer.state(), "running");
    cloud.client.post("/v1/vms/w/actions", json!({"action": "pause"})).await.ok();
    settled(&cloud, "w", "paused").await;
}

#[tokio::test]
async fn a_guest_is_reached_through_its_node() {
    let cloud = Cloud::start().await;
    let _node = FakeNode::attach(cloud.app(), "n1").await;
    cloud.image("debian").await;
    cloud.client.post("/v1/vms", json!({"name": "w", "image": "debian", "flavor": "micro"})).await.created();
    settled(&cloud, "w", "running").await;
    let client = &cloud.client;
    client.post("/v1/vms/w/agent-ping", json!({})).await.gone();
    assert_eq!(client.post("/v1/vms/w/exec", json!({"argv": ["uname", "-r"]})).await.ok()["stdout"], "dW5hbWUgLXI=");
    assert_eq!(client.post("/v1/vms/w/quiesce", json!({})).await.ok()["count"], 2);
    assert_eq!(client.post("/v1/vms/w/thaw", json!({})).await.ok()["count"], 2);
    client.post("/v1/vms/w/password", json!({"user": "root", "password": "x"})).await.gone();
    assert_eq!(&client.get("/v1/vms/w/console-log?tail=10").await.bytes[..], b"login:");
    assert_eq!(&client.get("/v1/vms/w/screenshot").await.bytes[..], b"\x89PNG");
    client.post("/v1/vms/w/exec", json!({"argv": []})).await.refused("invalid");
    client.post("/v1/vms/w/exec", json!({"argv": ["x"], "timeout_seconds": 601})).await.refused("invalid");
}
