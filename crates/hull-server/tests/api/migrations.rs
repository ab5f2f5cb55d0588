//! A VM goes from node to node, as operators see it, and what the two nodes are told meanwhile. The nodes are doubles: of a
//! VM on its way they say what the test says.

use std::net::IpAddr;

use hull_server::{
    app::ctx::{Caller, Ctx},
    controllers::{migrations, retention},
};
use hull_types::{
    Timestamp,
    id::{MigrationId, VmId},
    link::{DesiredVm, FromNode, PortPlace},
    migration::{MigrationPhase, Transit},
    reason::{Reason, ReasonCode},
    vm::{VmPhase, VmState, VmStatus},
};
use jiff::ToSpan;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};
use uuid::Uuid;

use crate::{
    clock::{Wall, running},
    cloud::{Answer, Cloud, DEADLINE},
    listing::Lines,
    node::{FakeNode, fulfilled, status},
};

/// A migration that was over at this time, put straight into the store; its id.
pub(crate) async fn over(cloud: &Cloud, at: Timestamp) -> String {
    recorded(cloud, at, "done").await
}

async fn recorded(cloud: &Cloud, at: Timestamp, phase: &str) -> String {
    let (id, project) = (Uuid::now_v7(), Uuid::now_v7());
    let record = json!({
        "id": id, "vm": Uuid::now_v7(), "vm_name": "w", "project": project, "from": Uuid::now_v7(),
        "to": Uuid::now_v7(), "phase": phase, "began_at": at, "deadline": at, "ended_at": at,
    });
    let txn = hull_store::Txn::new().put_json(format!("migration/{id}"), &record).unwrap();
    cloud.store.txn(txn).await.unwrap();
    cloud.app().catch_up().await.unwrap();
    id.to_string()
}

/// Two nodes; the VM `w` runs on the first.
struct Stage {
    cloud: Cloud,
    old: FakeNode,
    new: FakeNode,
    vm: VmId,
}

impl Stage {
    async fn set() -> Self {
        Self::set_on(Cloud::start().await).await
    }

    async fn set_on(cloud: Cloud) -> Self {
        let at = |number: u8| Some(IpAddr::from([192, 0, 2, number]));
        let old = FakeNode::attach_as(cloud.app(), "n1", |facts| facts.underlay = at(1)).await;
        cloud.image("debian").await;
        let made = cloud.client.post("/v1/vms", json!({"name": "w", "image": "debian", "flavor": "micro"})).await;
        let vm = serde_json::from_value(made.created()["items"][0]["id"].clone()).unwrap();
        cloud.until("/v1/vms/w", "running", |vm| vm.state() == "running").await;
        let new = FakeNode::attach_as(cloud.app(), "n2", |facts| facts.underlay = at(2)).await;
        cloud.until("/v1/status", "with two nodes", |status| status.body["nodes_ready"] == 2).await;
        Self { cloud, old, new, vm }
    }

    async fn begin(&self) -> MigrationId {
        let begun = self.cloud.client.post("/v1/migrations", json!({"vm": "w", "node": "n2"})).await.created();
        assert_eq!((&begun["phase"], &begun["vm_name"]), (&json!("preparing"), &json!("w")));
        assert_eq!((&begun["from"], &begun["to"]), (&json!(self.old.id), &json!(self.new.id)));
        serde_json::from_value(begun["id"].clone()).unwrap()
    }

    /// As [`Stage::begin`], and the new node is ready, and the old one told to let it go.
    async fn leaving(&self) -> MigrationId {
        let migration = self.begin().await;
        self.told(&self.new, "to expect it", |vm| vm.transit == Some(Transit::Expected { migration })).await;
        self.says(&self.new, VmPhase::Expected, None).await;
        self.told(&self.old, "to let it go", |vm| vm.transit == Some(Transit::Leaving { migration })).await;
        migration
    }

    /// As [`Stage::leaving`], and the old node holds the VM for the new one, which has been told so.
    async fn copying(&self) -> MigrationId {
        let migration = self.leaving().await;
        self.says(&self.old, VmPhase::Released, None).await;
        self.told(&self.new, "to fetch it", |vm| vm.transit == Some(Transit::Arriving { migration })).await;
        migration
    }

    /// What a node holds of the VM, as it was told.
    fn held(&self, node: &FakeNode) -> Option<DesiredVm> {
        node.held.lock().unwrap().vms.get(&self.vm).cloned()
    }

    /// Waits until the node was told so of the VM.
    async fn told(&self, node: &FakeNode, what: &str, wanted: impl Fn(&DesiredVm) -> bool) -> DesiredVm {
        heard(node, what, || self.held(node).is_some_and(|vm| wanted(&vm))).await;
        self.held(node).unwrap()
    }

    /// Waits until the node was told that the VM is not its own.
    async fn forgets(&self, node: &FakeNode) {
        heard(node, "that the VM is not its own", || self.held(node).is_none()).await;
    }

    /// A node's word about the VM, which it was told of.
    async fn says(&self, node: &FakeNode, phase: VmPhase, reason: Option<Reason>) {
        let told = self.held(node).expect("it was told of the VM");
        let said = VmStatus {
            phase,
            reason,
            running: matches!(phase, VmPhase::Running | VmPhase::Suspending).then_some(told.vm.resources),
            migration: told.transit.map(Transit::migration),
            ..fulfilled(node.id, &told)
        };
        node.say.send(FromNode::Vm(Box::new(said))).await.unwrap();
    }

    async fn until(&self, migration: MigrationId, phase: &str) -> Value {
        let path = format!("/v1/migrations/{migration}");
        self.cloud.until(&path, phase, |answer| answer.body["phase"] == phase).await.ok()
    }

    async fn vm(&self) -> Value {
        self.cloud.client.get("/v1/vms/w").await.ok()
    }

    /// Which node the VM is placed on, in which generation.
    async fn place(&self) -> (Value, Value) {
        let placement = self.vm().await["placement"].clone();
        (placement["node"].clone(), placement["generation"].clone())
    }

    async fn allocated(&self, node: &str) -> (u64, u64) {
        let node = self.cloud.client.get(&format!("/v1/nodes/{node}")).await.ok();
        (node["allocated"]["vcpus"].as_u64().unwrap(), node["vms"].as_u64().unwrap())
    }

    async fn history(&self) -> Vec<String> {
        let events = self.cloud.client.get(&format!("/v1/events?resource={}", self.vm)).await.ok();
        let events = events["items"].as_array().unwrap().clone();
        events.iter().map(|event| event["action"].as_str().unwrap().to_owned()).collect()
    }
}

/// Waits for something that a node is told, which follows the store a moment later.
async fn heard(node: &FakeNode, what: &str, wanted: impl Fn() -> bool) {
    let mut heard = node.heard.clone();
    let waiting = async {
        heard.borrow_and_update();
        while !wanted() {
            heard.changed().await.unwrap();
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "the node was never told {what}");
}

fn trouble(message: &str, deadline: Option<Timestamp>) -> Option<Reason> {
    Some(Reason { deadline, ..Reason::new(ReasonCode::DiskFull, message, Timestamp::now()) })
}

#[tokio::test]
async fn a_vm_is_let_go_fetched_and_runs_on_its_new_node() {
    let stage = Stage::set().await;
    let migration = stage.begin().await;
    let expected = stage.told(&stage.new, "to expect it", |_| true).await;
    assert_eq!((expected.transit, expected.generation), (Some(Transit::Expected { migration }), 2));
    assert_eq!(stage.held(&stage.old).unwrap().transit, None, "it runs on until the new node is ready");
    assert_eq!(stage.vm().await["state"], "running");
    stage.says(&stage.new, VmPhase::Expected, None).await;
    let leaving = stage.told(&stage.old, "to let it go", |vm| vm.transit.is_some()).await;
    assert_eq!((leaving.transit, leaving.generation), (Some(Transit::Leaving { migration }), 1));
    let seen = stage.vm().await;
    assert_eq!((&seen["state"], &seen["settled"]), (&json!("migrating"), &json!(false)));
    stage.says(&stage.old, VmPhase::Suspending, trouble("its memory is being saved", Some(Timestamp::MAX))).await;
    stage.cloud.until("/v1/vms/w", "told why", |vm| vm.body["reason"]["message"] == "its memory is being saved").await;
    let told = stage.held(&stage.new).unwrap().transit;
    assert_eq!(told, Some(Transit::Expected { migration }), "no more before the old node holds the VM for it");

    stage.says(&stage.old, VmPhase::Released, None).await;
    let arriving = stage.told(&stage.new, "to fetch it", |vm| vm.transit != expected.transit).await;
    assert_eq!((arriving.transit, arriving.generation), (Some(Transit::Arriving { migration }), 2));
    assert!(arriving.image.is_some() && arriving.nics == leaving.nics);
    assert!(stage.until(migration, "copying").await["halted_at"].is_string());
    assert_eq!(stage.place().await, (json!(stage.old.id), json!(1)), "it is the old node's until the new one has all");

    stage.says(&stage.new, VmPhase::Arrived, None).await;
    let yours = stage.told(&stage.new, "that the VM is its own", |vm| vm.transit.is_none()).await;
    assert_eq!(yours.generation, 2);
    stage.forgets(&stage.old).await;
    let done = stage.until(migration, "done").await;
    assert!(done["downtime_ms"].is_u64() && done["moved_at"].is_string() && done["ended_at"].is_string(), "{done}");
    assert_eq!(done.get("reason"), None);
    let seen = stage.cloud.until("/v1/vms/w", "running", |vm| vm.state() == "running").await.ok();
    assert_eq!((seen["settled"].clone(), seen["placement"].get("moving")), (json!(true), None));
    assert_eq!(stage.place().await, (json!(stage.new.id), json!(2)));
    let history = stage.history().await;
    assert!(["vm.migrate", "vm.move"].iter().all(|told| history.iter().any(|it| it == told)), "{history:?}");

    let again = stage.cloud.client.post(&format!("/v1/migrations/{migration}/cancel"), json!({})).await.ok();
    assert_eq!(again, done, "what is over stays as it is");
    let back = stage.cloud.client.post("/v1/migrations", json!({"vm": "w"})).await.created();
    assert_eq!(back["to"], json!(stage.old.id), "where none is named, the scheduler finds one");
}

#[tokio::test]
async fn its_ports_are_told_at_their_new_place_once_it_is_there_and_not_before() {
    let stage = Stage::set().await;
    let client = &stage.cloud.client;
    client.patch("/v1/nodes/n2", json!({"maintenance": true})).await.ok();
    client.post("/v1/vms", json!({"name": "stays", "image": "debian", "flavor": "micro"})).await.created();
    let stays = stage.cloud.until("/v1/vms/stays", "running", |vm| vm.state() == "running").await.ok();
    let stays: VmId = serde_json::from_value(stays["id"].clone()).unwrap();
    client.patch("/v1/nodes/n2", json!({"maintenance": false})).await.ok();
    let place = |node: &FakeNode, vm: VmId| {
        let held = node.held.lock().unwrap();
        let mut ports = held.networks.values().flat_map(|network| &network.ports);
        ports.find(|port| port.vm == Some(vm)).map(|port| port.place)
    };
    let there = |number: u8| Some(PortPlace::There { node: IpAddr::from([192, 0, 2, number]) });

    stage.copying().await;
    assert_eq!(place(&stage.old, stage.vm), Some(PortPlace::Here));
    assert_eq!(place(&stage.new, stage.vm), there(1), "its networks are made beforehand");

    stage.says(&stage.new, VmPhase::Arrived, None).await;
    heard(&stage.old, "where it is now", || place(&stage.old, stage.vm) == there(2)).await;
    heard(&stage.new, "that it is here", || place(&stage.new, stage.vm) == Some(PortPlace::Here)).await;
    assert_eq!((place(&stage.old, stays), place(&stage.new, stays)), (Some(PortPlace::Here), there(1)));
}

#[tokio::test]
async fn a_cancelled_one_leaves_the_vm_where_it_is() {
    let stage = Stage::set().await;
    let migration = stage.copying().await;
    let path = format!("/v1/migrations/{migration}/cancel");
    let cancelled = stage.cloud.client.post(&path, json!({})).await.ok();
    assert_eq!((&cancelled["phase"], &cancelled["reason"]["code"]), (&json!("cancelled"), &json!("requested")));
    stage.forgets(&stage.new).await;
    let goes_on = stage.told(&stage.old, "to go on with it", |vm| vm.transit.is_none()).await;
    assert_eq!(goes_on.generation, 1);
    stage.cloud.until("/v1/vms/w", "running", |vm| vm.state() == "running" && vm.body["settled"] == true).await;
    assert_eq!(stage.place().await, (json!(stage.old.id), json!(1)));
    assert_eq!(stage.cloud.client.post(&path, json!({})).await.ok(), cancelled, "once is enough");
    assert!(stage.history().await.contains(&"vm.migrate-cancelled".to_owned()));
    stage.begin().await;
}

#[tokio::test]
async fn a_node_that_cannot_take_it_says_why_and_the_vm_stays() {
    let stage = Stage::set().await;
    let migration = stage.copying().await;
    stage.says(&stage.new, VmPhase::Arriving, trouble("its disk is full", Some(Timestamp::MAX))).await;
    let path = format!("/v1/migrations/{migration}");
    stage.cloud.until(&path, "held up", |it| it.body["reason"]["message"] == "its disk is full").await;
    assert_eq!(stage.until(migration, "copying").await["ended_at"], Value::Null, "it tries again");
    stage.says(&stage.new, VmPhase::Arriving, trouble("its disk is full", None)).await;
    let failed = stage.until(migration, "failed").await;
    assert_eq!(failed["reason"]["message"], "its disk is full");
    stage.told(&stage.old, "to go on with it", |vm| vm.transit.is_none()).await;
    stage.forgets(&stage.new).await;
    assert_eq!(stage.place().await, (json!(stage.old.id), json!(1)));
}

#[tokio::test]
async fn a_word_of_the_new_node_counts_for_nothing_once_it_was_given_up() {
    let stage = Stage::set().await;
    let migration = stage.copying().await;
    let told = stage.held(&stage.new).unwrap();
    stage.cloud.client.post(&format!("/v1/migrations/{migration}/cancel"), json!({})).await.ok();
    let late = VmStatus { phase: VmPhase::Arrived, migration: Some(migration), ..fulfilled(stage.new.id, &told) };
    stage.new.say.send(FromNode::Vm(Box::new(late))).await.unwrap();
    // What the same node says after it was heard after it.
    let mut facts = status(stage.new.id);
    facts.disk_free = hull_types::units::Bytes::gib(1);
    stage.new.say.send(FromNode::Status(Box::new(facts))).await.unwrap();
    let free = |node: &Answer| node.body["status"]["disk_free"] == json!(1u64 << 30);
    stage.cloud.until("/v1/nodes/n2", "heard", free).await;
    assert_eq!(stage.place().await, (json!(stage.old.id), json!(1)));
    assert_eq!(stage.until(migration, "cancelled").await["moved_at"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn a_new_node_that_falls_silent_does_not_get_it() {
    let wall = Wall::new();
    let (core, old) = running(&wall).await;
    let (app, ctx) = (&core.app, Ctx::of(Caller::LOCAL_ROOT));
    let new = FakeNode::attach(app, "n2").await;
    while !app.node(&ctx, "n2").unwrap().object.ready {
        sleep(Duration::from_secs(1)).await;
    }
    let request = serde_json::from_value(json!({"vm": "w", "node": "n2"})).unwrap();
    let begun = app.begin_migration(&ctx, &request).await.unwrap().object;
    drop(new);
    for _ in 0..12 {
        old.say.send(FromNode::Status(Box::new(status(old.id)))).await.unwrap();
        sleep(Duration::from_secs(10)).await;
    }
    let ended = app.migration(&ctx, &begun.id.to_string()).unwrap().object;
    assert_eq!(ended.phase, MigrationPhase::Failed);
    let reason = ended.reason.unwrap();
    assert_eq!(reason.code, ReasonCode::NodeUnreachable);
    assert!(reason.message.contains("n2, does not answer since"), "{reason:?}");
    let seen = app.vm(&ctx, "w").unwrap();
    assert_eq!((seen.state, seen.placement.unwrap().node), (VmState::Running, Some(old.id)));
    core.shutdown().await;
}

#[tokio::test]
async fn it_is_given_up_when_its_time_is_over() {
    let wall = Wall::new();
    let stage = Stage::set_on(Cloud::start_in(wall.env()).await).await;
    let migration = stage.copying().await;
    wall.set(59 * 60);
    migrations::round(stage.cloud.app()).await.unwrap();
    stage.until(migration, "copying").await;
    stage.says(&stage.new, VmPhase::Arriving, trouble("the link is slow", Some(Timestamp::MAX))).await;
    let path = format!("/v1/migrations/{migration}");
    stage.cloud.until(&path, "held up", |it| it.body["reason"]["message"] == "the link is slow").await;
    wall.set(5 * 3600);
    migrations::round(stage.cloud.app()).await.unwrap();
    let failed = stage.until(migration, "failed").await;
    let why = failed["reason"]["message"].as_str().unwrap();
    assert!(why.contains("not done by") && why.contains("the link is slow"), "{why}");
    stage.told(&stage.old, "to go on with it", |vm| vm.transit.is_none()).await;
}

#[tokio::test]
async fn deleting_the_vm_ends_it() {
    let stage = Stage::set().await;
    let migration = stage.copying().await;
    stage.cloud.client.delete("/v1/vms/w").await.gone();
    stage.forgets(&stage.new).await;
    stage.told(&stage.old, "to tear it down", |vm| vm.vm.deleted_at.is_some()).await;
    stage.says(&stage.old, VmPhase::Gone, None).await;
    let failed = stage.until(migration, "failed").await;
    assert_eq!(failed["reason"]["message"], "its VM was deleted");
    stage.cloud.client.get("/v1/vms/w").await.refused("not-found");
    assert_eq!((stage.allocated("n1").await, stage.allocated("n2").await), ((0, 0), (0, 0)));
    let told = stage.cloud.client.get(&format!("/v1/migrations?vm={}", stage.vm)).await.ok();
    assert_eq!(told["items"], json!([failed]), "what became of it can be looked up by the VM's id");
}

#[tokio::test]
async fn while_it_is_on_its_way_both_nodes_keep_room_for_it() {
    let stage = Stage::set().await;
    let client = &stage.cloud.client;
    client.patch("/v1/nodes/n2", json!({"maintenance": true})).await.ok();
    client.post("/v1/vms", json!({"name": "x", "image": "debian", "flavor": "micro"})).await.created();
    stage.cloud.until("/v1/vms/x", "running", |vm| vm.state() == "running").await;
    client.patch("/v1/nodes/n2", json!({"maintenance": false})).await.ok();
    assert_eq!((stage.allocated("n1").await, stage.allocated("n2").await), ((2, 2), (0, 0)));
    let migration = stage.copying().await;
    assert_eq!((stage.allocated("n1").await, stage.allocated("n2").await), ((2, 2), (1, 0)));
    stage.says(&stage.new, VmPhase::Arrived, None).await;
    stage.until(migration, "done").await;
    assert_eq!((stage.allocated("n1").await, stage.allocated("n2").await), ((1, 1), (1, 1)));

    // Room for one is promised once.
    let micro = client.get("/v1/flavors/micro").await.ok()["resources"]["memory"].as_u64().unwrap();
    let tight = |facts: &mut hull_types::node::NodeFacts| facts.memory.0 = facts.memory_reserved.0 + micro;
    let _tight = FakeNode::attach_as(stage.cloud.app(), "tight", tight).await;
    stage.cloud.until("/v1/nodes/tight", "ready", |node| node.body["ready"] == true).await;
    let begun = client.post("/v1/migrations", json!({"vm": "w", "node": "tight"})).await.created();
    let other = client.post("/v1/migrations", json!({"vm": "x", "node": "tight"})).await;
    let refusal = other.refused("insufficient-resources");
    assert!(refusal.contains("cannot migrate x to node tight") && refusal.contains("1 lacks memory"), "{refusal}");
    client.post(&format!("/v1/migrations/{}/cancel", begun["id"].as_str().unwrap()), json!({})).await.ok();
    client.post("/v1/migrations", json!({"vm": "x", "node": "tight"})).await.created();
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let stage = Stage::set().await;
    let client = &stage.cloud.client;
    let _full = FakeNode::attach_as(stage.cloud.app(), "full", |facts| facts.memory = facts.memory_reserved).await;
    let _other = FakeNode::attach_as(stage.cloud.app(), "other", |facts| facts.qemu_version = Some("9.9".into())).await;
    let _out = FakeNode::attach(stage.cloud.app(), "out").await;
    client.patch("/v1/nodes/out", json!({"maintenance": true})).await.ok();
    stage.cloud.until("/v1/status", "with all nodes", |status| status.body["nodes_ready"] == 5).await;
    for (body, kind, field, says) in [
        (json!({"vm": "nobody"}), "not-found", "/vm", "no VM \"nobody\""),
        (json!({"vm": "w", "node": "nowhere"}), "not-found", "/node", "no node \"nowhere\""),
        (json!({"vm": "w", "node": "n1"}), "invalid", "/node", "on node n1 already"),
        (json!({"vm": "w", "node": "out"}), "insufficient-resources", "/node", "1 in maintenance"),
        (json!({"vm": "w", "node": "full"}), "insufficient-resources", "/node", "1 lacks memory"),
        (json!({"vm": "w", "node": "other"}), "conflict", "/node", "stop it first"),
        (json!({"node": "n2"}), "invalid", "", "vm"),
        (json!({"vm": "w", "force": true}), "invalid", "", "force"),
    ] {
        let answer = client.post("/v1/migrations", body.clone()).await;
        if !field.is_empty() {
            assert_eq!(answer.body["field"], field, "{body}");
        }
        let detail = answer.refused(kind);
        assert!(detail.contains(says), "{body}: {detail}");
    }
    assert_eq!(client.get("/v1/migrations").await.ok()["items"], json!([]));
    assert_eq!(stage.vm().await["state"], "running");
    client.get(&format!("/v1/migrations/{}", Uuid::nil())).await.refused("not-found");
    client.post(&format!("/v1/migrations/{}/cancel", Uuid::nil()), json!({})).await.refused("not-found");

    let migration = stage.begin().await;
    let twice = client.post("/v1/migrations", json!({"vm": "w"})).await.refused("conflict");
    assert!(twice.contains(&format!("hull migration cancel {migration}")), "{twice}");
}

#[tokio::test]
async fn a_node_that_a_vm_goes_to_is_not_removed_under_it() {
    let stage = Stage::set().await;
    let migration = stage.begin().await;
    let refusal = stage.cloud.client.delete("/v1/nodes/n2").await.refused("conflict");
    assert!(refusal.contains("w") && refusal.contains("on their way to it"), "{refusal}");
    let refusal = stage.cloud.client.delete("/v1/nodes/n1").await.refused("conflict");
    assert!(refusal.contains("hull node drain n1"), "{refusal}");
    stage.cloud.client.post(&format!("/v1/migrations/{migration}/cancel"), json!({})).await.ok();
    stage.cloud.client.delete("/v1/nodes/n2").await.gone();
}

#[tokio::test]
async fn they_are_the_operators_affair() {
    let stage = Stage::set().await;
    let migration = stage.leaving().await;
    let member = crate::identity::user(&stage.cloud, "ann", Some("default"), "admin").await;
    let reader = crate::identity::user(&stage.cloud, "rob", None, "reader").await;
    let cancel = format!("/v1/migrations/{migration}/cancel");
    for client in [&member, &reader] {
        client.post("/v1/migrations", json!({"vm": "w"})).await.refused("forbidden");
        client.post(&cancel, json!({})).await.refused("forbidden");
    }
    member.get("/v1/migrations").await.refused("forbidden");
    assert_eq!(member.get("/v1/vms/w").await.state(), "migrating", "its owner sees that it goes");
    assert_eq!(reader.get("/v1/migrations").await.ok()["items"][0]["id"], json!(migration));
    assert_eq!(reader.get(&format!("/v1/migrations/{migration}")).await.ok()["phase"], "releasing");
}

#[tokio::test]
async fn they_are_found_by_vm_node_and_phase_and_watched() {
    let stage = Stage::set().await;
    let client = &stage.cloud.client;
    let mut lines = Lines::open(client, "/v1/migrations?watch=true&vm=w").await;
    assert_eq!(lines.next().await["type"], "bookmark", "there is none yet");
    over(&stage.cloud, Timestamp::now()).await;
    let migration = stage.copying().await;
    for phase in ["preparing", "releasing", "copying"] {
        let told = lines.next().await;
        assert_eq!((&told["object"]["id"], &told["object"]["phase"]), (&json!(migration), &json!(phase)));
    }
    for (query, many) in [
        ("", 2),
        ("?vm=w", 1),
        (&format!("?vm={}", stage.vm), 1),
        ("?node=n1", 1),
        (&format!("?node={}", stage.new.id), 1),
        ("?phase=copying", 1),
        ("?phase=done", 1),
        ("?phase=done&vm=w", 0),
        ("?phase=starting", 0),
    ] {
        let found = client.get(&format!("/v1/migrations{query}")).await.ok();
        assert_eq!(found["items"].as_array().unwrap().len(), many, "{query}");
    }
    client.get("/v1/migrations?phase=flying").await.refused("invalid");
    client.get("/v1/migrations?state=running").await.refused("invalid");
    client.get("/v1/migrations?vm=nobody").await.refused("not-found");
    client.get("/v1/migrations?node=nowhere").await.refused("not-found");
    let metrics = String::from_utf8(client.get("/metrics").await.bytes.to_vec()).unwrap();
    assert!(metrics.contains("hull_migrations_under_way 1\n"), "{metrics}");
    let explained = client.get("/v1/vms/w/explain").await.ok().to_string();
    assert!(explained.contains(&format!("on its way to node n2 by migration {migration}")), "{explained}");
}

#[tokio::test]
async fn one_begun_again_under_its_key_is_answered_alike_and_the_audit_tells_of_both() {
    let stage = Stage::set().await;
    let client = &stage.cloud.client;
    let call = async || {
        let request = client.request(Method::POST, "/v1/migrations").header("idempotency-key", "k");
        client.send(request.json(&json!({"vm": "w"}))).await.created()
    };
    let first = call().await;
    let cancel = format!("/v1/migrations/{}/cancel", first["id"].as_str().unwrap());
    client.post(&cancel, json!({})).await.ok();
    assert_eq!(call().await, first, "as it was answered then");
    assert_eq!(client.get("/v1/migrations").await.ok()["items"].as_array().unwrap().len(), 1);
    let records = client.get("/v1/audit?action=migrations").await.ok()["items"].as_array().unwrap().clone();
    let told = |record: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let on = format!("{} {}", text(&record["targets"][0]["kind"]), text(&record["targets"][0]["name"]));
        format!("{} {} on {on}", text(&record["operation"]), text(&record["outcome"]))
    };
    let told: Vec<String> = records.iter().map(told).collect();
    assert_eq!(told[..2], ["migrations.create ok on vm w", "migrations.cancel ok on vm w"]);
    assert!(told[2].starts_with("migrations.create replayed"), "{told:?}");
}

#[tokio::test]
async fn those_long_over_go_and_those_under_way_never() {
    let cloud = Cloud::start().await;
    let ago = |days: i64| Timestamp::now() - (days * 24).hours();
    let old = over(&cloud, ago(91)).await;
    let recent = over(&cloud, ago(89)).await;
    let under_way = recorded(&cloud, ago(91), "copying").await;
    retention::round(cloud.app()).await.unwrap();
    let left = cloud.client.get("/v1/migrations").await.ok();
    let left: Vec<&str> = left["items"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(left, [recent.as_str(), under_way.as_str()]);
    cloud.client.get(&format!("/v1/migrations/{old}")).await.refused("not-found");
}
