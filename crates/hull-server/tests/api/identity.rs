//! Users, groups, roles, and how people prove who they are.

use serde_json::{Value, json};

use crate::cloud::{Client, Cloud};

pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// A user with one role, logged in.
pub(crate) async fn user(cloud: &Cloud, name: &str, project: Option<&str>, role: &str) -> Client {
    let root = &cloud.client;
    root.post("/v1/users", json!({"name": name, "password": PASSWORD})).await.created();
    let (path, system) = match project {
        Some(project) => (format!("/v1/role-assignments?project={project}"), false),
        None => ("/v1/role-assignments".to_owned(), true),
    };
    root.post(&path, json!({"role": role, "user": name, "system": system})).await.created();
    // Tests log in more often than one address may.
    let id = root.get(&format!("/v1/users/{name}")).await.ok()["id"].as_str().unwrap().parse().unwrap();
    let session = cloud.app().begin_session(id).await.unwrap();
    root.with_token(Some(session.token.expose()))
}

async fn login(cloud: &Cloud, name: &str, password: &str) -> Client {
    let session = try_login(cloud, json!({"user": name, "password": password})).await.ok();
    cloud.client.with_token(session["token"].as_str())
}

async fn try_login(cloud: &Cloud, body: Value) -> crate::cloud::Answer {
    cloud.client.with_token(None).post("/v1/auth/login", body).await
}

async fn cloud_with(projects: &[&str]) -> Cloud {
    let cloud = Cloud::start().await;
    for project in projects {
        cloud.client.post("/v1/projects", json!({"name": project})).await.created();
    }
    cloud
}

#[tokio::test]
async fn a_user_logs_in_and_is_what_their_roles_are_at_this_moment() {
    let cloud = cloud_with(&["acme"]).await;
    let root = &cloud.client;
    let made = root.post("/v1/users", json!({"name": "ann", "password": PASSWORD, "email": "ann@example.org"})).await;
    let made = made.created();
    assert_eq!((&made["enabled"], &made["email"]), (&json!(true), &json!("ann@example.org")));
    let ann = login(&cloud, "ann", PASSWORD).await;
    let me = ann.get("/v1/whoami").await.ok();
    assert_eq!((&me["actor"], &me["name"], &me["roles"]), (&json!("user"), &json!("ann"), &json!([])));
    ann.get("/v1/vms?project=acme").await.refused("forbidden");

    let given =
        root.post("/v1/role-assignments?project=acme", json!({"role": "reader", "user": "ann"})).await.created();
    assert_eq!((&given["subject_name"], &given["project_name"]), (&json!("ann"), &json!("acme")));
    ann.get("/v1/vms").await.ok();
    let keypair = json!({"name": "k", "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"});
    ann.post("/v1/keypairs", keypair.clone()).await.refused("forbidden");
    let path = format!("/v1/role-assignments/{}", given["id"].as_str().unwrap());
    root.patch(&path, json!({"role": "member"})).await.ok();
    ann.post("/v1/keypairs", keypair).await.created();
    root.delete(&path).await.gone();
    ann.get("/v1/vms?project=acme").await.refused("forbidden");
}

#[tokio::test]
async fn a_group_gives_its_members_its_roles() {
    let cloud = cloud_with(&["acme"]).await;
    let root = &cloud.client;
    root.post("/v1/users", json!({"name": "bob", "password": PASSWORD})).await.created();
    root.post("/v1/user-groups", json!({"name": "ops", "members": ["bob"]})).await.created();
    root.post("/v1/role-assignments?project=acme", json!({"role": "member", "user_group": "ops"})).await.created();
    let bob = login(&cloud, "bob", PASSWORD).await;
    bob.get("/v1/vms").await.ok();
    root.patch("/v1/user-groups/ops", json!({"remove": ["bob"]})).await.ok();
    bob.get("/v1/vms?project=acme").await.refused("forbidden");
    root.patch("/v1/user-groups/ops", json!({"add": ["bob"]})).await.ok();
    bob.get("/v1/vms?project=acme").await.ok();
    root.delete("/v1/user-groups/ops").await.gone();
    bob.get("/v1/vms?project=acme").await.refused("forbidden");
    let roles = root.get("/v1/role-assignments?all-projects=true").await.ok();
    assert_eq!(roles["items"], json!([]), "a group's roles go with it");
}

#[tokio::test]
async fn what_hangs_on_a_user_or_a_project_goes_with_it() {
    let cloud = cloud_with(&["acme", "other"]).await;
    let root = &cloud.client;
    let ann = user(&cloud, "ann", Some("acme"), "admin").await;
    root.post("/v1/user-groups", json!({"name": "ops", "members": ["ann"]})).await.created();
    root.post("/v1/role-assignments?project=other", json!({"role": "reader", "user": "ann"})).await.created();
    let secret = ann.post("/v1/app-credentials?project=other", json!({"name": "ci", "role": "reader"})).await.created();
    let program = root.with_token(secret["secret"].as_str());
    let secret = root.post("/v1/tokens?project=other", json!({"name": "bot", "role": "reader"})).await.created();
    let bot = root.with_token(secret["secret"].as_str());
    program.get("/v1/vms").await.ok();
    bot.get("/v1/vms").await.ok();
    root.delete("/v1/projects/other").await.gone();
    program.get("/v1/vms").await.refused("unauthenticated");
    bot.get("/v1/vms").await.refused("unauthenticated");
    let left = root.get("/v1/role-assignments?all-projects=true").await.ok();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);

    root.delete("/v1/users/ann").await.gone();
    ann.get("/v1/whoami").await.refused("unauthenticated");
    assert_eq!(root.get("/v1/role-assignments?all-projects=true").await.ok()["items"], json!([]));
    assert_eq!(root.get("/v1/user-groups/ops").await.ok()["members"], json!([]));
    root.post("/v1/users", json!({"name": "ann"})).await.created();
}

#[tokio::test]
async fn the_system_keeps_an_admin() {
    let cloud = cloud_with(&[]).await;
    let root = &cloud.client;
    user(&cloud, "ann", None, "admin").await;
    let roles = root.get("/v1/role-assignments?all-projects=true").await.ok();
    let role = format!("/v1/role-assignments/{}", roles["items"][0]["id"].as_str().unwrap());
    root.delete("/v1/users/ann").await.refused("conflict");
    root.patch("/v1/users/ann", json!({"enabled": false})).await.refused("conflict");
    root.delete(&role).await.refused("conflict");
    root.patch(&role, json!({"role": "reader"})).await.refused("conflict");
    // Another one by way of a group, and the first may go; then the group may not.
    root.post("/v1/users", json!({"name": "bob"})).await.created();
    root.post("/v1/user-groups", json!({"name": "ops", "members": ["bob"]})).await.created();
    root.post("/v1/role-assignments", json!({"role": "admin", "user_group": "ops", "system": true})).await.created();
    root.delete("/v1/users/ann").await.gone();
    root.patch("/v1/user-groups/ops", json!({"remove": ["bob"]})).await.refused("conflict");
    root.delete("/v1/user-groups/ops").await.refused("conflict");
    root.delete("/v1/users/bob").await.refused("conflict");
}

#[tokio::test]
async fn a_projects_admin_gives_roles_there_and_nowhere_else() {
    let cloud = cloud_with(&["acme", "other"]).await;
    let ann = user(&cloud, "ann", Some("acme"), "admin").await;
    cloud.client.post("/v1/users", json!({"name": "bob"})).await.created();
    let role = |role: &str, system: bool| json!({"role": role, "user": "bob", "system": system});
    ann.post("/v1/role-assignments", role("admin", true)).await.refused("forbidden");
    ann.post("/v1/role-assignments?project=other", role("reader", false)).await.refused("not-found");
    ann.post("/v1/role-assignments", role("reader", false)).await.created();
    ann.post("/v1/role-assignments", role("reader", false)).await.created();
    let refusal = ann.post("/v1/role-assignments", role("member", false)).await.refused("already-exists");
    assert!(refusal.contains("hull role update"), "{refusal}");
    assert_eq!(ann.get("/v1/role-assignments").await.ok()["items"].as_array().unwrap().len(), 2);
    ann.get("/v1/role-assignments?all-projects=true").await.refused("forbidden");
}

#[tokio::test]
async fn a_new_password_ends_sessions_and_the_old_one_is_needed_for_ones_own() {
    let cloud = cloud_with(&["acme"]).await;
    let ann = user(&cloud, "ann", Some("acme"), "member").await;
    let set = |current: Option<&str>| json!({"password": "another fine password", "current": current});
    ann.send(ann.request(reqwest::Method::PUT, "/v1/users/ann/password").json(&set(None))).await.refused("forbidden");
    let wrong = ann.request(reqwest::Method::PUT, "/v1/users/ann/password").json(&set(Some("not it at all")));
    assert!(ann.send(wrong).await.refused("forbidden").contains("present password"));
    let right = ann.request(reqwest::Method::PUT, "/v1/users/ann/password").json(&set(Some(PASSWORD)));
    ann.send(right).await.gone();
    ann.get("/v1/whoami").await.refused("unauthenticated");
    try_login(&cloud, json!({"user": "ann", "password": PASSWORD})).await.refused("unauthenticated");
    login(&cloud, "ann", "another fine password").await.get("/v1/vms").await.ok();
}

#[tokio::test]
async fn who_must_choose_another_password_does_nothing_before() {
    let cloud = cloud_with(&["acme"]).await;
    let body = json!({"name": "ann", "password": PASSWORD, "must_change_password": true});
    cloud.client.post("/v1/users", body).await.created();
    cloud.client.post("/v1/role-assignments?project=acme", json!({"role": "admin", "user": "ann"})).await.created();
    let session = try_login(&cloud, json!({"user": "ann", "password": PASSWORD})).await.ok();
    assert_eq!(session["must_change_password"], true);
    let ann = cloud.client.with_token(session["token"].as_str());
    assert!(ann.get("/v1/vms").await.refused("forbidden").contains("set-password"));
    ann.get("/v1/whoami").await.ok();
    let body = json!({"password": "a password of my own", "current": PASSWORD});
    ann.send(ann.request(reqwest::Method::PUT, "/v1/users/ann/password").json(&body)).await.gone();
    login(&cloud, "ann", "a password of my own").await.get("/v1/vms").await.ok();
}

#[tokio::test]
async fn sessions_end_by_logging_out_being_disabled_and_being_revoked() {
    let cloud = cloud_with(&["acme"]).await;
    let root = &cloud.client;
    let first = user(&cloud, "ann", Some("acme"), "member").await;
    let second = login(&cloud, "ann", PASSWORD).await;
    first.post("/v1/auth/logout", json!({})).await.gone();
    first.get("/v1/whoami").await.refused("unauthenticated");
    second.get("/v1/whoami").await.ok();
    second.post("/v1/users/ann/revoke-sessions", json!({})).await.gone();
    second.get("/v1/whoami").await.refused("unauthenticated");

    let third = login(&cloud, "ann", PASSWORD).await;
    root.patch("/v1/users/ann", json!({"enabled": false})).await.ok();
    third.get("/v1/whoami").await.refused("unauthenticated");
    try_login(&cloud, json!({"user": "ann", "password": PASSWORD})).await.refused("unauthenticated");
    root.patch("/v1/users/ann", json!({"enabled": true})).await.ok();
    third.get("/v1/whoami").await.refused("unauthenticated");
    login(&cloud, "ann", PASSWORD).await.get("/v1/whoami").await.ok();
}

#[tokio::test]
async fn a_token_is_renewed_and_can_be_limited_to_a_scope() {
    let cloud = cloud_with(&["acme", "other"]).await;
    let ann = user(&cloud, "ann", Some("acme"), "admin").await;
    cloud.client.post("/v1/role-assignments?project=other", json!({"role": "admin", "user": "ann"})).await.created();
    let renewed = ann.post("/v1/auth/renew", json!({})).await.ok();
    cloud.client.with_token(renewed["token"].as_str()).get("/v1/vms?project=acme").await.ok();

    let body = json!({"user": "ann", "password": PASSWORD, "project": "other"});
    let limited = cloud.client.with_token(try_login(&cloud, body).await.ok()["token"].as_str());
    limited.get("/v1/vms").await.ok();
    limited.get("/v1/vms?project=acme").await.refused("not-found");
    let renewed = limited.post("/v1/auth/renew", json!({})).await.ok();
    let renewed = cloud.client.with_token(renewed["token"].as_str());
    renewed.get("/v1/vms?project=acme").await.refused("not-found");
    assert_eq!(renewed.get("/v1/whoami").await.ok()["roles"].as_array().unwrap().len(), 1);
    try_login(&cloud, json!({"user": "ann", "password": PASSWORD, "system": true})).await.refused("forbidden");
    try_login(&cloud, json!({"user": "ann", "password": PASSWORD, "project": "nope"})).await.refused("not-found");
}

#[tokio::test]
async fn a_program_never_may_more_than_its_user() {
    let cloud = cloud_with(&["acme", "other"]).await;
    let root = &cloud.client;
    let ann = user(&cloud, "ann", Some("acme"), "member").await;
    root.post("/v1/role-assignments?project=other", json!({"role": "admin", "user": "ann"})).await.created();
    let ask = |role: &str| json!({"name": "ci", "role": role, "expires_in_days": 1});
    ann.post("/v1/app-credentials?project=acme", ask("admin")).await.refused("forbidden");
    let secret = ann.post("/v1/app-credentials?project=acme", ask("member")).await.created();
    ann.post("/v1/app-credentials?project=acme", ask("member")).await.refused("already-exists");
    let ci = root.with_token(secret["secret"].as_str());
    let me = ci.get("/v1/whoami").await.ok();
    assert_eq!((&me["actor"], &me["name"], &me["role"]), (&json!("app-credential"), &json!("ann"), &json!("member")));
    ci.get("/v1/vms?project=other").await.refused("not-found");
    ci.post("/v1/users/ann/revoke-sessions", json!({})).await.refused("forbidden");
    ci.post("/v1/app-credentials", ask("reader")).await.refused("forbidden");

    let session = ci.post("/v1/auth/renew", json!({})).await.ok();
    let exchanged = root.with_token(session["token"].as_str());
    exchanged.get("/v1/vms").await.ok();
    exchanged.get("/v1/vms?project=other").await.refused("not-found");
    let roles = root.get("/v1/role-assignments?project=acme").await.ok();
    let path = format!("/v1/role-assignments/{}", roles["items"][0]["id"].as_str().unwrap());
    root.patch(&path, json!({"role": "reader"})).await.ok();
    let image = json!({"name": "i"});
    ci.post("/v1/images", image.clone()).await.refused("forbidden");
    exchanged.post("/v1/images", image).await.refused("forbidden");
    ann.delete("/v1/app-credentials/ci").await.gone();
    ci.get("/v1/vms").await.refused("unauthenticated");
    exchanged.get("/v1/vms").await.refused("unauthenticated");
}

#[tokio::test]
async fn bad_input_is_refused_at_the_door() {
    let cloud = cloud_with(&[]).await;
    let root = &cloud.client;
    for (body, field) in [
        (json!({"name": "ann", "password": "short"}), "/password"),
        (json!({"name": "ann", "password": "aaaaaaaaaaaaaa"}), "/password"),
        (json!({"name": "ann", "email": "nonsense"}), "/email"),
        (json!({"name": "a/b"}), "/name"),
        (json!({"name": "ann", "display_name": "a\u{7}"}), "/display_name"),
    ] {
        let answer = root.post("/v1/users", body).await;
        assert_eq!(answer.body["field"], field);
        answer.refused("invalid");
    }
    root.post("/v1/role-assignments", json!({"role": "reader"})).await.refused("invalid");
    root.post("/v1/role-assignments", json!({"role": "king", "user": "ann"})).await.refused("invalid");
    root.post("/v1/role-assignments", json!({"role": "reader", "user": "ghost"})).await.refused("not-found");
    root.post("/v1/user-groups", json!({"name": "g", "members": ["ghost"]})).await.refused("not-found");
    assert_eq!(root.get("/v1/users").await.ok()["items"], json!([]), "nothing half made");
}

#[tokio::test]
async fn hashes_and_keys_are_in_no_answer() {
    let cloud = cloud_with(&["acme"]).await;
    let ann = user(&cloud, "ann", None, "admin").await;
    ann.post("/v1/app-credentials", json!({"name": "ci", "role": "reader"})).await.created();
    let api: Value = serde_json::to_value(hull_server::api::openapi()).unwrap();
    let lists = api["paths"].as_object().unwrap().keys().filter(|path| !path.contains('{'));
    for path in lists.map(String::as_str).chain(["/v1/users/ann", "/metrics", "/v1/app-credentials/ci"]) {
        let text = String::from_utf8_lossy(&ann.get(&format!("{path}?all-projects=true")).await.bytes).into_owned();
        for secret in ["$argon2", "phc", "\"private\"", PASSWORD] {
            assert!(path == "/v1/openapi.json" || !text.contains(secret), "{path} tells {secret}: {text}");
        }
    }
}
