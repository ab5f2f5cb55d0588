//! Every call that changes something leaves one record, with the change and exactly then.

use std::{collections::BTreeMap, sync::Arc};

use hull_server::app::Settings;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    cloud::{Answer, Client, Cloud},
    node::FakeNode,
    stubborn::Stubborn,
};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me";

/// Sends a call under a request id, by which its record is found.
async fn call(client: &Client, id: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let request = client.request(method.parse().unwrap(), path).header("x-request-id", id);
    client
        .send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
}

/// All records, by the id of their request.
async fn records(cloud: &Cloud) -> BTreeMap<String, Vec<Value>> {
    let lines = cloud.client.get("/v1/audit?format=jsonl").await;
    assert_eq!(lines.headers["content-type"], "application/x-ndjson");
    let mut found = BTreeMap::<String, Vec<Value>>::new();
    for line in std::str::from_utf8(&lines.bytes).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        found.entry(record["request_id"].as_str().unwrap().to_owned()).or_default().push(record);
    }
    found
}

async fn token(cloud: &Cloud, project: &str, role: &str) -> Client {
    let made = cloud.client.post(&format!("/v1/tokens?project={project}"), json!({"name": role, "role": role})).await;
    cloud.client.with_token(made.created()["secret"].as_str())
}

/// The operations that change something, with the streams into guests: id, method, path.
fn operations() -> Vec<(String, String, String)> {
    let described = serde_json::to_value(hull_server::api::openapi()).unwrap();
    let mut found = Vec::new();
    for (path, methods) in described["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap().to_owned();
            if method != "get" || ["vms.console", "vms.vnc", "vms.tcp"].contains(&id.as_str()) {
                found.push((id, method.to_uppercase(), path.clone()));
            }
        }
    }
    assert!(found.len() > 25, "{found:?}");
    found
}

#[tokio::test]
async fn every_operation_leaves_one_record_whoever_calls_and_however_it_ends() {
    let cloud = Cloud::start().await;
    let callers = [
        ("stranger", cloud.client.with_token(None)),
        ("liar", cloud.client.with_token(Some("hull_wrong"))),
        ("reader", token(&cloud, "default", "reader").await),
        ("admin", cloud.client.clone()),
    ];
    let mut told = Vec::new();
    for (operation, method, path) in operations() {
        let path = path.replace("{port}", "22").replace(['{', '}'], "");
        for (caller, client) in &callers {
            let id = format!("{operation}-{caller}");
            let answer = call(client, &id, &method, &path, Some(&json!({}))).await;
            told.push((id, operation.clone(), method.clone(), path.clone(), answer));
        }
    }
    let records = records(&cloud).await;
    for (id, operation, method, path, answer) in told {
        // What is coalesced stands under the request it began with; each of these is the first of its kind, but that a
        // liar is as much a stranger as who says nothing.
        let open = ["auth.login", "auth.oidc"].contains(&operation.as_str());
        if id.ends_with("-liar") || (open && !id.ends_with("-stranger")) {
            assert!(!records.contains_key(&id), "{id}: {records:#?}");
            continue;
        }
        let found = records.get(&id).unwrap_or_else(|| panic!("{id} left no record"));
        assert_eq!(found.len(), 1, "{id}: {found:#?}");
        let record = &found[0];
        assert_eq!(record["operation"], operation.as_str());
        assert_eq!((&record["method"], &record["path"]), (&json!(method), &json!(path)));
        assert_eq!(record["address"], "127.0.0.1");
        // Who needs no credentials is a stranger whatever they send.
        let alike = if open {
            4
        } else if id.ends_with("-stranger") {
            2
        } else {
            1
        };
        assert_eq!(record["count"].as_u64().unwrap_or(1), alike, "{record}");
        assert_eq!(record["actor"].is_string(), !id.ends_with("-stranger"), "{record}");
        if answer.status.as_u16() < 400 {
            assert_eq!(record["outcome"], "ok", "{record}");
        } else {
            assert_eq!(record["outcome"], "refused", "{record}");
            assert_eq!(record["status"], answer.status.as_u16(), "{record}");
            assert_eq!(record["error"], answer.body["kind"], "{record}");
        }
    }
}

/// A call that succeeds, and what its record says it was on.
type Deed<'a> = (&'a str, &'a str, &'a str, Value, &'a [&'a str]);

/// A cloud's whole life, each operation once.
fn deeds<'a>() -> Vec<Deed<'a>> {
    let create = json!({"name": "w", "count": 2, "image": "i", "flavor": "f"});
    vec![
        ("projects.create", "POST", "/v1/projects", json!({"name": "acme"}), &["project acme"]),
        ("projects.update", "PATCH", "/v1/projects/acme", json!({"quota": {"vms": 5}}), &["project acme"]),
        ("projects.delete", "DELETE", "/v1/projects/acme", Value::Null, &["project acme"]),
        ("tokens.create", "POST", "/v1/tokens", json!({"name": "t", "role": "member"}), &["token t"]),
        (
            "flavors.create",
            "POST",
            "/v1/flavors",
            json!({"name": "f", "vcpus": 1, "memory": 1 << 28, "disk": 1 << 20}),
            &["flavor f"],
        ),
        ("keypairs.create", "POST", "/v1/keypairs", json!({"name": "k", "public_key": KEY}), &["keypair k"]),
        ("keypairs.delete", "DELETE", "/v1/keypairs/k", Value::Null, &["keypair k"]),
        ("images.create", "POST", "/v1/images", json!({"name": "i", "format": "raw"}), &["image i"]),
        ("images.upload", "PUT", "/v1/images/i/content", Value::Null, &["image i"]),
        ("images.update", "PATCH", "/v1/images/i", json!({"description": "d"}), &["image i"]),
        ("vms.create", "POST", "/v1/vms", create, &["vm w-1", "vm w-2"]),
        ("vms.update", "PATCH", "/v1/vms/w-1", json!({"name": "v"}), &["vm v"]),
        ("vms.act", "POST", "/v1/vms/v/actions", json!({"action": "pause"}), &["vm v"]),
        ("vms.act", "POST", "/v1/vms/v/actions", json!({"action": "pause"}), &["vm v"]),
        ("vms.exec", "POST", "/v1/vms/v/exec", json!({"argv": ["id"]}), &["vm v"]),
        ("vms.password", "POST", "/v1/vms/v/password", json!({"user": "root", "password": "x"}), &["vm v"]),
        ("vms.quiesce", "POST", "/v1/vms/v/quiesce", json!({}), &["vm v"]),
        ("vms.thaw", "POST", "/v1/vms/v/thaw", json!({}), &["vm v"]),
        ("vms.agent_ping", "POST", "/v1/vms/v/agent-ping", json!({}), &["vm v"]),
        ("vms.delete", "DELETE", "/v1/vms/v", Value::Null, &["vm v"]),
        ("vms.delete", "DELETE", "/v1/vms/w-2", Value::Null, &["vm w-2"]),
        ("flavors.delete", "DELETE", "/v1/flavors/f", Value::Null, &["flavor f"]),
        ("nodes.update", "PATCH", "/v1/nodes/n1", json!({"maintenance": true}), &["node n1"]),
        ("join-tokens.invite", "POST", "/v1/join-tokens", json!({}), &[]),
    ]
}

#[tokio::test]
async fn what_is_done_is_told_with_who_on_what_and_for_whom() {
    let cloud = Cloud::start().await;
    let _node = FakeNode::attach(cloud.app(), "n1").await;
    cloud.until("/v1/status", "with a node", |status| status.body["nodes_ready"] == 1).await;
    let default = cloud.client.get("/v1/projects/default").await.ok()["id"].clone();
    for (n, (operation, method, path, body, _)) in deeds().into_iter().enumerate() {
        if operation == "vms.exec" {
            cloud.until("/v1/vms/v", "paused", |vm| vm.state() == "paused" && vm.body["settled"] == true).await;
        }
        let id = format!("deed-{n}");
        let answer = if operation == "images.upload" {
            let request = cloud.client.request(Method::PUT, path).header("x-request-id", &id);
            cloud.client.send(request.body(vec![7; 1 << 20])).await
        } else {
            call(&cloud.client, &id, method, path, Some(&body)).await
        };
        assert!(answer.status.is_success(), "{operation}: {} {}", answer.status, answer.body);
    }
    let records = records(&cloud).await;
    for (n, (operation, method, _, _, on)) in deeds().into_iter().enumerate() {
        let found = records.get(&format!("deed-{n}")).unwrap_or_else(|| panic!("{operation} left no record"));
        assert_eq!(found.len(), 1, "{operation}: {found:#?}");
        let record = &found[0];
        assert_eq!((&record["operation"], &record["method"]), (&json!(operation), &json!(method)));
        assert_eq!((&record["outcome"], &record["actor"]), (&json!("ok"), &json!("token")), "{record}");
        assert_eq!(record["authenticated_by"], json!({"kind": "token", "id": record["token"]}));
        let targets = record["targets"].as_array().cloned().unwrap_or_default();
        let targets =
            targets.iter().map(|t| format!("{} {}", t["kind"].as_str().unwrap(), t["name"].as_str().unwrap()));
        let targets = targets.collect::<Vec<_>>();
        assert_eq!(targets, on, "{record}");
        let owned = ["keypairs.", "images.", "vms."].iter().any(|noun| operation.starts_with(noun));
        if owned {
            assert_eq!(record["project"], default, "{record}");
        }
    }
}

#[tokio::test]
async fn a_record_is_committed_with_its_change_or_neither_is() {
    let stubborn = Arc::new(Stubborn::default());
    let cloud = Cloud::start_on(stubborn.clone(), Settings::default()).await;
    let body = json!({"name": "k", "public_key": KEY});
    for (id, prefix) in [("all", ""), ("change", "keypair/")] {
        stubborn.refuse(prefix);
        call(&cloud.client, id, "POST", "/v1/keypairs", Some(&body)).await.refused("internal");
    }
    stubborn.allow();
    cloud.client.get("/v1/keypairs/k").await.refused("not-found");
    let found = records(&cloud).await;
    let told: Vec<&Value> = found.values().flatten().filter(|r| r["operation"] == "keypairs.create").collect();
    assert_eq!(told.len(), 1, "two calls alike that failed, and none that was done: {found:#?}");
    assert_eq!(
        (&told[0]["outcome"], &told[0]["status"], &told[0]["count"]),
        (&json!("refused"), &json!(500), &json!(2))
    );

    let made = call(&cloud.client, "made", "POST", "/v1/keypairs", Some(&body)).await.created();
    let record = &records(&cloud).await["made"][0];
    let [project, record] = [&record["project"], &record["id"]].map(|id| id.as_str().unwrap());
    let change = cloud.store.get(&format!("keypair/{}", made["id"].as_str().unwrap())).await.unwrap().unwrap();
    let told = cloud.store.get(&format!("audit/{project}/{record}")).await.unwrap().unwrap();
    assert_eq!((told.modified, told.version), (change.modified, 1), "one transaction, and never touched again");
}

#[tokio::test]
async fn admins_read_their_own_and_nobody_else_reads() {
    let cloud = Cloud::start().await;
    for project in ["a", "b"] {
        cloud.client.post("/v1/projects", json!({"name": project})).await.created();
    }
    let (ours, theirs) = (token(&cloud, "a", "admin").await, token(&cloud, "b", "admin").await);
    for (client, name) in [(&ours, "ours"), (&theirs, "theirs")] {
        client.post("/v1/keypairs", json!({"name": name, "public_key": KEY})).await.created();
    }
    // What another project's admin tries is told to themselves.
    theirs.delete("/v1/keypairs/ours").await.refused("not-found");
    theirs.post("/v1/projects", json!({"name": "c"})).await.refused("forbidden");
    let names = |answer: Value| {
        let items = answer["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|r| format!("{} {}", r["operation"].as_str().unwrap(), r["outcome"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(ours.get("/v1/audit").await.ok()), ["projects.create ok", "keypairs.create ok"]);
    assert_eq!(
        names(theirs.get("/v1/audit").await.ok()),
        ["projects.create ok", "keypairs.create ok", "keypairs.delete refused", "projects.create refused"]
    );
    ours.get("/v1/audit?project=b").await.refused("not-found");
    ours.get("/v1/audit?all-projects=true").await.refused("forbidden");
    assert_eq!(names(cloud.client.get("/v1/audit?project=a").await.ok()).len(), 2);
    assert!(names(cloud.client.get("/v1/audit").await.ok()).len() > 6, "the system's admins see all");
    for role in ["reader", "member"] {
        let client = token(&cloud, "a", role).await;
        client.get("/v1/audit").await.refused("forbidden");
        client.get("/v1/audit?format=jsonl").await.refused("forbidden");
    }
    cloud.client.with_token(None).get("/v1/audit").await.refused("unauthenticated");
}

#[tokio::test]
async fn records_are_found_by_time_actor_deed_target_and_outcome_page_by_page() {
    let cloud = Cloud::start().await;
    for n in 0..25 {
        let body = json!({"name": format!("k{n}"), "public_key": KEY});
        cloud.client.post("/v1/keypairs", body).await.created();
    }
    cloud.client.delete("/v1/keypairs/none").await.refused("not-found");
    let (mut next, mut seen) = (String::new(), Vec::new());
    loop {
        let page = cloud.client.get(&format!("/v1/audit?action=keypairs&limit=10{next}")).await.ok();
        seen.extend(page["items"].as_array().unwrap().iter().map(|record| record["id"].as_str().unwrap().to_owned()));
        let Some(after) = page["next"].as_str() else { break };
        next = format!("&after={after}");
    }
    assert_eq!(seen.len(), 26);
    assert!(seen.is_sorted(), "oldest first, none twice");
    let actor = cloud.client.get("/v1/whoami").await.ok()["token"].as_str().unwrap().to_owned();
    let at = cloud.client.get("/v1/audit?resource=k7").await.ok()["items"][0]["at"].as_str().unwrap().to_owned();
    for (query, many) in [
        ("resource=k7".to_owned(), 1),
        ("outcome=refused".to_owned(), 1),
        ("action=keypairs.delete".to_owned(), 1),
        ("action=keypair".to_owned(), 0),
        (format!("actor={actor}"), 26),
        ("actor=token".to_owned(), 26),
        ("actor=local-root".to_owned(), 0),
        (format!("since={at}"), 19),
        (format!("until={at}"), 8),
        ("since=2099-01-01T00:00:00Z".to_owned(), 0),
        ("until=2001-01-01T00:00:00Z".to_owned(), 0),
    ] {
        let found = cloud.client.get(&format!("/v1/audit?{query}")).await.ok();
        let found = found["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|r| r["operation"].as_str().unwrap().starts_with("keypairs"));
        assert_eq!(found.count(), many, "{query}");
        let lines = cloud.client.get(&format!("/v1/audit?format=jsonl&action=keypairs&{query}")).await;
        let expected = if query.starts_with("action") { continue } else { many };
        assert_eq!(lines.bytes.iter().filter(|&&b| b == b'\n').count(), expected, "{query}");
    }
    for query in ["outcome=fine", "limit=0", "limit=1001", "since=yesterday", "colour=red"] {
        cloud.client.get(&format!("/v1/audit?{query}")).await.refused("invalid");
    }
}

#[tokio::test]
async fn a_call_made_again_under_its_key_is_told_as_a_replay() {
    let cloud = Cloud::start().await;
    let body = json!({"name": "k", "public_key": KEY});
    for id in ["first", "again"] {
        let request = cloud.client.request(Method::POST, "/v1/keypairs").header("idempotency-key", "key");
        cloud.client.send(request.header("x-request-id", id).json(&body)).await.created();
    }
    let found = records(&cloud).await;
    assert_eq!((found["first"].len(), &found["first"][0]["outcome"]), (1, &json!("ok")));
    assert_eq!((found["again"].len(), &found["again"][0]["outcome"]), (1, &json!("replayed")));
}

#[tokio::test]
async fn no_secret_is_in_a_record() {
    const SECRET: &str = "correct-horse-battery-staple";
    let cloud = Cloud::start().await;
    let _node = FakeNode::attach(cloud.app(), "n1").await;
    cloud.image("i").await;
    let client = &cloud.client;
    client.post("/v1/vms", json!({"name": "w", "image": "i", "flavor": "micro", "user_data": "aGk="})).await.created();
    cloud.until("/v1/vms/w", "running", |vm| vm.state() == "running").await;
    client.post("/v1/vms/w/password", json!({"user": "root", "password": SECRET})).await.gone();
    let made = client.post("/v1/tokens", json!({"name": "t", "role": "member"})).await.created();
    for (path, body) in [
        ("/v1/vms/w/password", json!({"user": "root", "password": {"no": SECRET}})),
        ("/v1/vms/w/password", json!({"user": SECRET.to_owned() + ":", "password": "x"})),
        ("/v1/vms/w/exec", json!({"argv": SECRET})),
        ("/v1/keypairs", json!({"name": "k", "public_key": SECRET})),
        ("/v1/tokens", json!({"name": "t", "role": SECRET})),
    ] {
        client.post(path, body).await.refused("invalid");
    }
    client.post(&format!("/v1/tokens?secret={SECRET}"), json!({"name": "t", "role": "member"})).await;
    client.with_token(Some(SECRET)).delete("/v1/vms/w").await.refused("unauthenticated");
    records(&cloud).await;
    let held = cloud.store.list("audit", None, 10_000).await.unwrap();
    assert!(held.entries.len() > 15);
    for entry in held.entries {
        let text = String::from_utf8(entry.value.to_vec()).unwrap();
        for secret in [SECRET, made["secret"].as_str().unwrap(), client.token.as_deref().unwrap()] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn a_flood_of_refusals_is_a_count() {
    let cloud = Cloud::start().await;
    let stranger = cloud.client.with_token(None);
    for _ in 0..300 {
        stranger.post("/v1/vms", json!({})).await.refused("unauthenticated");
    }
    let records = cloud.client.get("/v1/audit?action=vms").await.ok();
    let items = records["items"].as_array().unwrap();
    // The minute may end meanwhile, once or twice.
    assert!(items.len() <= 3, "{items:#?}");
    let count = |record: &Value| record["count"].as_u64().unwrap_or(1);
    assert_eq!(items.iter().map(count).sum::<u64>(), 300);
}

#[tokio::test]
async fn a_trusted_proxy_says_where_a_call_came_from_and_anyone_else_does_not() {
    let told = async |settings: Settings| {
        let cloud = Cloud::start_on(Arc::new(hull_store::memory::MemoryStore::new()), settings).await;
        let request = cloud.client.request(Method::DELETE, "/v1/vms/x").header("x-forwarded-for", "203.0.113.9");
        let request = request.header("user-agent", "curl/8").header("x-request-id", "r");
        assert_eq!(cloud.client.send(request).await.status, StatusCode::NOT_FOUND);
        records(&cloud).await["r"][0].clone()
    };
    let record = told(Settings::default()).await;
    assert_eq!((&record["address"], &record["proxy"]), (&json!("127.0.0.1"), &Value::Null));
    assert_eq!(record["user_agent"], "curl/8");
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let record = told(Settings { trusted_proxies, ..Settings::default() }).await;
    assert_eq!((&record["address"], &record["proxy"]), (&json!("203.0.113.9"), &json!("127.0.0.1")));
}

#[tokio::test]
async fn who_hangs_up_is_told_of() {
    let cloud = Cloud::start().await;
    let _node = FakeNode::attach(cloud.app(), "n1").await;
    cloud.image("i").await;
    cloud.client.post("/v1/vms", json!({"name": "w", "image": "i", "flavor": "micro"})).await.created();
    cloud.until("/v1/vms/w", "running", |vm| vm.state() == "running").await;
    // The guest has the command, and its agent never answers.
    let mut changes = cloud.app().cache().subscribe();
    let request = cloud.client.request(Method::POST, "/v1/vms/w/exec").header("x-request-id", "r");
    let asking = request.json(&json!({"argv": ["hang"]})).timeout(std::time::Duration::from_secs(2)).send();
    asking.await.unwrap_err();
    let told = async {
        loop {
            if let Some(found) = records(&cloud).await.get("r") {
                return found[0].clone();
            }
            changes.changed().await.unwrap();
        }
    };
    let record = tokio::time::timeout(crate::cloud::DEADLINE, told).await.unwrap();
    assert_eq!((&record["outcome"], &record["targets"][0]["name"]), (&json!("broken-off"), &json!("w")), "{record}");
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_not_told_as_done() {
    let cloud = Cloud::start().await;
    cloud.client.post("/v1/images", json!({"name": "i", "format": "raw"})).await.created();
    let (bytes, body) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let body = futures::stream::unfold(body, async |mut body| Some((body.recv().await?, body)));
    let request = cloud.client.request(Method::PUT, "/v1/images/i/content").header("x-request-id", "r");
    let sending = tokio::spawn(request.body(reqwest::Body::wrap_stream(Box::pin(body))).send());
    bytes.send(Ok(vec![7; 1024])).await.unwrap();
    cloud.until("/v1/images/i", "importing", |image| image.body["phase"] == "importing").await;
    let mut changes = cloud.app().cache().subscribe();
    sending.abort();
    let told = async {
        loop {
            let found = records(&cloud).await["r"].clone();
            if found[0]["outcome"] != "ok" {
                return found;
            }
            changes.changed().await.unwrap();
        }
    };
    let found = tokio::time::timeout(crate::cloud::DEADLINE, told).await.unwrap();
    assert_eq!(found.len(), 1, "{found:#?}");
    // Whether the server sees the body end or the caller go first.
    assert!(["refused", "broken-off"].contains(&found[0]["outcome"].as_str().unwrap()), "{found:#?}");
}

#[tokio::test]
async fn records_go_when_they_are_old_and_not_before() {
    let settings = Settings { audit_days: 30, ..Settings::default() };
    let cloud = Cloud::start_on(Arc::new(hull_store::memory::MemoryStore::new()), settings).await;
    cloud.client.delete("/v1/vms/x").await.refused("not-found");
    let held = cloud.store.list("audit/", None, 10).await.unwrap();
    let record: Value = serde_json::from_slice(&held.entries[0].value).unwrap();
    let now = hull_types::Timestamp::now().as_millisecond();
    let at = |days: i64, n: u128| {
        let millis = u128::try_from(now - days * 86_400_000).unwrap();
        uuid::Uuid::from_u128(millis << 80 | 7 << 76 | 2 << 62 | n)
    };
    // More than one transaction lets go.
    let old: Vec<uuid::Uuid> = (0..1_200).map(|n| at(31, n)).collect();
    for ids in old.iter().chain(&[at(29, 0)]).collect::<Vec<_>>().chunks(100) {
        let txn = ids.iter().fold(hull_store::Txn::new(), |txn, id| {
            let txn = txn.put_json(format!("audit/-/{id}"), &record).unwrap();
            txn.put_json(format!("audit-at/{id}"), &Value::Null).unwrap()
        });
        cloud.store.txn(txn).await.unwrap();
    }
    hull_server::controllers::retention::round(cloud.app()).await.unwrap();
    for prefix in ["audit/", "audit-at/"] {
        let left = cloud.store.list(prefix, None, 10_000).await.unwrap().entries;
        assert_eq!(left.len(), held.entries.len() + 1, "{prefix}: only those of the last 30 days are left");
    }
}

#[tokio::test]
async fn who_logs_in_is_told_and_who_tries_in_vain_is_not_named() {
    let cloud = Cloud::start().await;
    let user = json!({"name": "ada", "password": "correct horse battery"});
    let made = cloud.client.post("/v1/users", user).await.created();
    let stranger = cloud.client.with_token(None);
    for (id, password) in [("wrong", "hunter2"), ("right", "correct horse battery")] {
        call(&stranger, id, "POST", "/v1/auth/login", Some(&json!({"user": "ada", "password": password}))).await;
    }
    let found = records(&cloud).await;
    let (wrong, right) = (&found["wrong"][0], &found["right"][0]);
    assert_eq!((&wrong["outcome"], &wrong["actor"], &wrong["status"]), (&json!("refused"), &Value::Null, &json!(401)));
    assert_eq!((&right["outcome"], &right["actor"], &right["user"]), (&json!("ok"), &json!("user"), &made["id"]));
    assert_eq!(right["authenticated_by"]["kind"], "session");
    assert!(!serde_json::to_string(&found).unwrap().contains("hunter2"));
}
