//! Quotas and usage, as admins and tenants see them.

use std::sync::Arc;

use hull_server::app::Settings;
use hull_store::embedded::{EmbeddedStore, Options};
use hull_types::project::QuotaKind;
use serde_json::{Value, json};

use crate::cloud::{Client, Cloud};

/// Any key: what is counted are records, and their names differ.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

/// Makes one of a kind; answers whether its quota allowed it.
async fn make(client: Client, kind: QuotaKind, n: usize) -> bool {
    let (path, body) = match kind {
        QuotaKind::Vms => {
            ("/v1/vms?project=small", json!({"name": format!("vm{n}"), "image": "debian", "flavor": "micro"}))
        }
        QuotaKind::Keypairs => ("/v1/keypairs?project=small", json!({"name": format!("key{n}"), "public_key": KEY})),
        QuotaKind::Images => ("/v1/images?project=small", json!({"name": format!("image{n}"), "format": "raw"})),
        other => unreachable!("{other:?} is not made here"),
    };
    let answer = client.post(path, body).await;
    if answer.status == 201 {
        return true;
    }
    answer.refused("quota-exceeded");
    false
}

#[tokio::test]
async fn a_thousand_creates_of_several_kinds_at_once_never_exceed_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path().join("store"), Options::default()).unwrap();
    let cloud = Cloud::start_on(store, Settings::default()).await;
    cloud.image("debian").await;
    cloud.client.patch("/v1/images/debian", json!({"visibility": "public"})).await.ok();
    // Ports run out before VMs do: what stops a VM is whichever kind is full first.
    let quota = json!({"vms": 10, "ports": 7, "keypairs": 9, "images": 8});
    cloud.client.post("/v1/projects", json!({"name": "small", "quota": quota})).await.created();

    // The last of a thousand on a busy host waits for all the others.
    let client = Client { patience: std::time::Duration::from_secs(300), ..cloud.client.clone() };
    let kinds = [QuotaKind::Vms, QuotaKind::Keypairs, QuotaKind::Images];
    let creates = (0..1_000).map(|n| {
        let kind = kinds[n % kinds.len()];
        (kind, tokio::spawn(make(client.clone(), kind, n)))
    });
    let mut made = std::collections::BTreeMap::<QuotaKind, u64>::new();
    for (kind, create) in creates.collect::<Vec<_>>() {
        *made.entry(kind).or_default() += u64::from(create.await.unwrap());
    }
    assert_eq!(
        made.into_iter().collect::<Vec<_>>(),
        [(QuotaKind::Vms, 7), (QuotaKind::Images, 8), (QuotaKind::Keypairs, 9)]
    );

    let view = cloud.client.get("/v1/projects/small").await.ok();
    for (kind, used) in [("vms", 7), ("ports", 7), ("vcpus", 7), ("images", 8), ("keypairs", 9), ("volumes", 0)] {
        assert_eq!(view["usage"][kind], used, "{kind}");
    }
    for (noun, many) in [("vms", 7), ("ports", 7), ("images", 8), ("keypairs", 9)] {
        let listed = cloud.client.get(&format!("/v1/{noun}?project=small&limit=1000")).await.ok();
        let items = listed["items"].as_array().unwrap();
        let own = items.iter().filter(|item| item["project"] == view["id"]).count();
        assert_eq!(own, many, "{noun}");
    }
}

#[tokio::test]
async fn a_project_shows_what_it_holds_of_what_it_may() {
    let cloud = Cloud::start().await;
    let made = cloud.client.post("/v1/projects", json!({"name": "acme"})).await.created();
    for &kind in QuotaKind::ALL {
        assert!(made["quota"][kind.name()].is_u64(), "a tenant has a limit of {}", kind.name());
        assert!(made["usage"][kind.name()].is_u64());
    }
    assert_eq!(made["usage"]["security_groups"], 1);
    assert_eq!(cloud.client.get("/v1/projects/acme").await.ok(), made);
    let own = cloud.client.get("/v1/projects/default").await.ok();
    assert_eq!((&own["usage"]["networks"], &own["usage"]["subnets"]), (&json!(1), &json!(2)));
    assert_eq!(own["quota"]["vms"], Value::Null, "who starts a cloud is not limited");
}

#[tokio::test]
async fn limits_are_changed_one_by_one_and_below_use_takes_nothing_away() {
    let cloud = Cloud::start().await;
    cloud.client.post("/v1/projects", json!({"name": "acme", "quota": {"keypairs": 3}})).await.created();
    for n in 0..3 {
        let body = json!({"name": format!("k{n}"), "public_key": KEY});
        cloud.client.post("/v1/keypairs?project=acme", body).await.created();
    }
    let before = cloud.client.get("/v1/projects/acme").await.ok();
    let lowered = cloud.client.patch("/v1/projects/acme", json!({"quota": {"keypairs": 1}})).await.ok();
    assert_eq!(lowered["above"], json!(["keypairs"]), "it says so");
    assert_eq!(lowered["usage"]["keypairs"], 3);
    assert_eq!(lowered["quota"]["vms"], before["quota"]["vms"], "what is not named stays");
    let more = json!({"name": "k9", "public_key": KEY});
    cloud.client.post("/v1/keypairs?project=acme", more.clone()).await.refused("quota-exceeded");
    cloud.client.delete("/v1/keypairs/k0?project=acme").await.gone();
    cloud.client.post("/v1/keypairs?project=acme", more.clone()).await.refused("quota-exceeded");

    let lifted = cloud.client.patch("/v1/projects/acme", json!({"quota": {"keypairs": null}})).await.ok();
    assert_eq!((&lifted["quota"]["keypairs"], &lifted["above"]), (&Value::Null, &Value::Null));
    cloud.client.post("/v1/keypairs?project=acme", more).await.created();
    let history = cloud.client.get("/v1/events?project=acme").await.ok();
    assert!(history.to_string().contains("quota of keypairs from 3 to 1, below the 3 it holds"), "{history}");

    let renamed = cloud.client.patch("/v1/projects/acme", json!({"name": "emca", "description": "d"})).await.ok();
    assert_eq!((&renamed["name"], &renamed["description"]), (&json!("emca"), &json!("d")));
    cloud.client.get("/v1/projects/acme").await.refused("not-found");
    cloud.client.post("/v1/projects", json!({"name": "acme"})).await.created();
    cloud.client.patch("/v1/projects/emca", json!({"name": "acme"})).await.refused("already-exists");
    cloud.client.patch("/v1/projects/emca", json!({"quota": {"vmz": 1}})).await.refused("invalid");
    let body = json!({"name": "a", "role": "admin"});
    let admin = cloud.client.post("/v1/tokens?project=emca", body).await.created();
    let admin = cloud.client.with_token(admin["secret"].as_str());
    admin.get("/v1/projects/emca").await.ok();
    admin.patch("/v1/projects/emca", json!({"quota": {"vms": null}})).await.refused("forbidden");
}

#[tokio::test]
async fn what_an_older_version_did_not_count_is_counted_at_the_start() {
    let store = Arc::new(hull_store::memory::MemoryStore::new());
    let cloud = Cloud::start_on(store.clone(), Settings::default()).await;
    cloud.client.post("/v1/projects", json!({"name": "acme"})).await.created();
    let body = json!({"name": "k", "public_key": KEY});
    cloud.client.post("/v1/keypairs?project=acme", body).await.created();
    let right = cloud.client.get("/v1/projects/acme").await.ok();
    let key = format!("usage/{}", right["id"].as_str().unwrap());
    cloud.handle.shutdown().await;
    let older = json!({"vms": 0, "vcpus": 0, "memory": 0, "disk": 0, "images": 0, "ports": 0});
    hull_store::Store::txn(&*store, hull_store::Txn::new().put_json(key.as_str(), &older).unwrap()).await.unwrap();
    // The admin's token is made at the first start only, and this directory has none.
    let again = hull_server::Core::start(store, None, hull_server::env::Env::system()).await.unwrap();
    let ctx = hull_server::app::ctx::Ctx::of(hull_server::app::ctx::Caller::LOCAL_ROOT);
    let view = serde_json::to_value(again.app.project(&ctx, "acme").unwrap()).unwrap();
    assert_eq!(view["usage"], right["usage"]);
    again.shutdown().await;
}
