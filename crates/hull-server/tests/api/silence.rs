//! A node that stops answering, on paused time and without sockets, as the simulator runs the server.

use std::sync::Arc;

use hull_server::{
    Core,
    app::{
        App,
        ctx::{Caller, Ctx},
    },
    env::Env,
};
use hull_store::{Store, Txn, memory::MemoryStore};
use hull_types::{link::FromNode, reason::ReasonCode, vm::VmState, wire::VmView};
use serde_json::json;

use crate::node::{FakeNode, status};

/// Time moves only while everything waits, so this needs no deadline: a state that never comes is a lease that never ends.
async fn until(app: &App, state: VmState) -> VmView {
    let ctx = Ctx::of(Caller::LOCAL_ROOT);
    let mut changes = app.cache().subscribe();
    loop {
        let view = app.vm(&ctx, "w").unwrap();
        if view.state == state {
            return view;
        }
        let changed = tokio::time::timeout(crate::cloud::DEADLINE * 10, changes.changed()).await;
        assert!(changed.is_ok(), "never {state:?}: {view:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_nodes_vms_are_unknown_until_it_speaks_again() {
    let store = Arc::new(MemoryStore::new());
    let core = Core::start(store.clone(), None, Env::system()).await.unwrap();
    let (app, ctx) = (&core.app, Ctx::of(Caller::LOCAL_ROOT));
    let request = serde_json::from_value(json!({"name": "debian"})).unwrap();
    let mut image = serde_json::to_value(app.create_image(&ctx, &request).await.unwrap()).unwrap();
    image["phase"] = "ready".into();
    let digest = format!("sha256:{}", "0".repeat(64));
    image["content"] =
        json!({"digest": digest, "format": "raw", "size": 1, "virtual_size": 1, "source_digest": digest});
    let key = format!("image/{}", image["id"].as_str().unwrap());
    store.txn(Txn::new().put_json(key.as_str(), &image).unwrap()).await.unwrap();
    app.catch_up().await.unwrap();

    let node = FakeNode::attach(app, "n1").await;
    let request = serde_json::from_value(json!({"name": "w", "image": "debian", "flavor": "micro"})).unwrap();
    app.create_vms(&ctx, &request).await.unwrap();
    until(app, VmState::Running).await;
    assert!(app.node(&ctx, "n1").unwrap().object.ready);

    // It says nothing more, and its lease runs out.
    let unknown = until(app, VmState::Unknown).await;
    assert_eq!(unknown.reason.unwrap().code, ReasonCode::NodeUnreachable);
    assert!(!app.node(&ctx, "n1").unwrap().object.ready);

    node.say.send(FromNode::Status(Box::new(status(node.id)))).await.unwrap();
    until(app, VmState::Running).await;
    core.shutdown().await;
}
