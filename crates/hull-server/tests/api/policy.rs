//! Who may do what, operation by operation: every operation of the API's description is played by every kind of caller. An operation without
//! a row here, or a row without an operation, fails.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::cloud::{Client, Cloud};

/// What each caller gets, in this order:
///
/// 1. no credentials, 2. an admin of another project, 3. a reader, 4. a member, 5. an admin of the project, 6. a reader, 7. an admin of the system.
///
/// `+` is allowed (whatever else may be wrong), `U` 401, `F` 403, `H` 404: hidden.
const TABLE: &[(&str, &str)] = &[
    ("POST /v1/auth/login", "+++++++"),
    ("GET /v1/auth/methods", "+++++++"),
    ("POST /v1/auth/oidc", "+++++++"),
    ("POST /v1/auth/renew", "U++++++"),
    ("POST /v1/auth/logout", "U++++++"),
    ("GET /v1/whoami", "U++++++"),
    ("GET /v1/status", "U++++++"),
    ("GET /v1/openapi.json", "U++++++"),
    ("GET /metrics", "UFFFF++"),
    ("GET /v1/users", "UFFFF++"),
    ("POST /v1/users", "UFFFFF+"),
    ("GET /v1/users/{user}", "UHHHH++"),
    ("PATCH /v1/users/{user}", "UFFFFF+"),
    ("DELETE /v1/users/{user}", "UFFFFF+"),
    ("PUT /v1/users/{user}/password", "UHHHHF+"),
    ("POST /v1/users/{user}/revoke-sessions", "UHHHHF+"),
    ("POST /v1/users/{user}/unlock", "UFFFFF+"),
    ("GET /v1/user-groups", "UFFFF++"),
    ("POST /v1/user-groups", "UFFFFF+"),
    ("GET /v1/user-groups/{group}", "UFFFF++"),
    ("PATCH /v1/user-groups/{group}", "UFFFFF+"),
    ("DELETE /v1/user-groups/{group}", "UFFFFF+"),
    ("GET /v1/role-assignments", "UH+++++"),
    ("POST /v1/role-assignments", "UHFF+F+"),
    ("GET /v1/role-assignments/{assignment}", "UH+++++"),
    ("PATCH /v1/role-assignments/{assignment}", "UHFF+F+"),
    ("DELETE /v1/role-assignments/{assignment}", "UHFF+F+"),
    ("GET /v1/app-credentials", "U++++++"),
    ("POST /v1/app-credentials", "UH+++++"),
    ("GET /v1/app-credentials/{credential}", "UHHHH++"),
    ("DELETE /v1/app-credentials/{credential}", "UHHHHF+"),
    ("GET /v1/tokens", "UHFF+F+"),
    ("POST /v1/tokens", "UHFF+F+"),
    ("GET /v1/tokens/{token}", "UHFF+F+"),
    ("DELETE /v1/tokens/{token}", "UHFF+F+"),
    ("GET /v1/projects", "U++++++"),
    ("POST /v1/projects", "UFFFFF+"),
    ("GET /v1/projects/{project}", "UH+++++"),
    ("PATCH /v1/projects/{project}", "UFFFFF+"),
    ("DELETE /v1/projects/{project}", "UFFFFF+"),
    ("GET /v1/flavors", "U++++++"),
    ("POST /v1/flavors", "UFFFFF+"),
    ("GET /v1/flavors/{flavor}", "U++++++"),
    ("DELETE /v1/flavors/{flavor}", "UFFFFF+"),
    ("GET /v1/nodes", "UFFFF++"),
    ("GET /v1/nodes/{node}", "UFFFF++"),
    ("PATCH /v1/nodes/{node}", "UFFFFF+"),
    ("DELETE /v1/nodes/{node}", "UFFFFF+"),
    ("GET /v1/migrations", "UFFFF++"),
    ("POST /v1/migrations", "UFFFFF+"),
    ("GET /v1/migrations/{migration}", "UFFFF++"),
    ("POST /v1/migrations/{migration}/cancel", "UFFFFF+"),
    ("POST /v1/join-tokens", "UFFFFF+"),
    ("GET /v1/events", "UH+++++"),
    ("GET /v1/audit", "UHFF+F+"),
    ("GET /v1/keypairs", "UH+++++"),
    ("POST /v1/keypairs", "UHF++F+"),
    ("GET /v1/keypairs/{keypair}", "UH+++++"),
    ("DELETE /v1/keypairs/{keypair}", "UHF++F+"),
    ("GET /v1/images", "UH+++++"),
    ("POST /v1/images", "UHF++F+"),
    ("GET /v1/images/{image}", "UH+++++"),
    ("PATCH /v1/images/{image}", "UHF++F+"),
    ("DELETE /v1/images/{image}", "UHF++F+"),
    ("PUT /v1/images/{image}/content", "UHF++F+"),
    ("GET /v1/images/{image}/content", "UH+++++"),
    ("GET /v1/vms", "UH+++++"),
    ("POST /v1/vms", "UHF++F+"),
    ("GET /v1/vms/{vm}", "UH+++++"),
    ("PATCH /v1/vms/{vm}", "UHF++F+"),
    ("DELETE /v1/vms/{vm}", "UHF++F+"),
    ("POST /v1/vms/{vm}/actions", "UHF++F+"),
    ("GET /v1/vms/{vm}/explain", "UH+++++"),
    ("GET /v1/vms/{vm}/path", "UH+++++"),
    ("GET /v1/vms/{vm}/user-data", "UHF++F+"),
    ("POST /v1/vms/{vm}/exec", "UHF++F+"),
    ("POST /v1/vms/{vm}/password", "UHF++F+"),
    ("POST /v1/vms/{vm}/quiesce", "UHF++F+"),
    ("POST /v1/vms/{vm}/thaw", "UHF++F+"),
    ("POST /v1/vms/{vm}/agent-ping", "UHF++F+"),
    ("GET /v1/vms/{vm}/console-log", "UHF++F+"),
    ("GET /v1/vms/{vm}/screenshot", "UHF++F+"),
    ("GET /v1/vms/{vm}/console", "UHF++F+"),
    ("GET /v1/vms/{vm}/vnc", "UHF++F+"),
    ("GET /v1/vms/{vm}/tcp/{port}", "UHF++F+"),
    ("GET /v1/networks", "UH+++++"),
    ("POST /v1/networks", "UHF++F+"),
    ("GET /v1/networks/{network}", "UH+++++"),
    ("PATCH /v1/networks/{network}", "UHF++F+"),
    ("DELETE /v1/networks/{network}", "UHF++F+"),
    ("GET /v1/subnets", "UH+++++"),
    ("POST /v1/subnets", "UHF++F+"),
    ("GET /v1/subnets/{subnet}", "UH+++++"),
    ("PATCH /v1/subnets/{subnet}", "UHF++F+"),
    ("DELETE /v1/subnets/{subnet}", "UHF++F+"),
    ("GET /v1/ports", "UH+++++"),
    ("POST /v1/ports", "UHF++F+"),
    ("GET /v1/ports/{port}", "UH+++++"),
    ("PATCH /v1/ports/{port}", "UHF++F+"),
    ("DELETE /v1/ports/{port}", "UHF++F+"),
    ("GET /v1/security-groups", "UH+++++"),
    ("POST /v1/security-groups", "UHF++F+"),
    ("GET /v1/security-groups/{group}", "UH+++++"),
    ("PATCH /v1/security-groups/{group}", "UHF++F+"),
    ("DELETE /v1/security-groups/{group}", "UHF++F+"),
    ("GET /v1/routers", "UH+++++"),
    ("POST /v1/routers", "UHF++F+"),
    ("GET /v1/routers/{router}", "UH+++++"),
    ("PATCH /v1/routers/{router}", "UHF++F+"),
    ("DELETE /v1/routers/{router}", "UHF++F+"),
    ("GET /v1/floating-ips", "UH+++++"),
    ("POST /v1/floating-ips", "UHF++F+"),
    ("GET /v1/floating-ips/{floating_ip}", "UH+++++"),
    ("PATCH /v1/floating-ips/{floating_ip}", "UHF++F+"),
    ("DELETE /v1/floating-ips/{floating_ip}", "UHF++F+"),
    ("POST /v1/security-groups/{group}/rules", "UHF++F+"),
    ("DELETE /v1/security-groups/{group}/rules/{rule}", "UHF++F+"),
    ("POST /v1/routers/{router}/subnets", "UHF++F+"),
    ("DELETE /v1/routers/{router}/subnets/{subnet}", "UHF++F+"),
];

/// A body that says enough for the call to be judged.
fn body(operation: &str, number: u32) -> Option<Value> {
    let name = format!("n{number}");
    Some(match operation {
        "POST /v1/auth/login" => json!({"user": "someone", "password": "correct horse"}),
        "POST /v1/auth/oidc" => json!({"id_token": "x"}),
        "POST /v1/users" => json!({"name": name}),
        "PATCH /v1/users/{user}" => json!({"display_name": "x"}),
        "PUT /v1/users/{user}/password" => json!({"password": "correct horse battery"}),
        "POST /v1/user-groups" => json!({"name": name}),
        "PATCH /v1/user-groups/{group}" => json!({"description": "x"}),
        "POST /v1/role-assignments" => json!({"role": "reader", "user": "someone"}),
        "PATCH /v1/role-assignments/{assignment}" => json!({"role": "reader"}),
        "POST /v1/app-credentials" => json!({"name": name, "role": "reader"}),
        "POST /v1/tokens" => json!({"name": name, "role": "reader"}),
        "POST /v1/projects" => json!({"name": name}),
        "PATCH /v1/projects/{project}" => json!({"description": "x"}),
        "POST /v1/flavors" => json!({"name": name, "vcpus": 1, "memory": 1 << 28, "disk": 0}),
        "POST /v1/migrations" => json!({"vm": "w"}),
        "POST /v1/join-tokens" => json!({}),
        "PATCH /v1/nodes/{node}" => json!({}),
        "POST /v1/keypairs" => json!({"name": name, "public_key": KEY}),
        "POST /v1/images" => json!({"name": name}),
        "PATCH /v1/images/{image}" => json!({"hidden": false}),
        "POST /v1/vms" => json!({"name": name, "image": "debian", "flavor": "micro", "nics": []}),
        "PATCH /v1/vms/{vm}" => json!({"description": "x"}),
        "POST /v1/vms/{vm}/actions" => json!({"action": "stop"}),
        "POST /v1/vms/{vm}/exec" => json!({"argv": ["true"]}),
        "POST /v1/networks" | "POST /v1/security-groups" | "POST /v1/routers" => json!({"name": name}),
        "POST /v1/subnets" => json!({"name": name, "network": "n", "cidr": "10.0.0.0/24"}),
        "POST /v1/ports" => json!({"name": name, "network": "n"}),
        "POST /v1/floating-ips" => json!({"network": "ext"}),
        "POST /v1/security-groups/{group}/rules" => json!({"protocol": "tcp", "from": 22}),
        "POST /v1/routers/{router}/subnets" => json!({"subnet": "s"}),
        "PATCH /v1/networks/{network}"
        | "PATCH /v1/subnets/{subnet}"
        | "PATCH /v1/ports/{port}"
        | "PATCH /v1/security-groups/{group}"
        | "PATCH /v1/routers/{router}"
        | "PATCH /v1/floating-ips/{floating_ip}" => json!({"description": "x"}),
        "POST /v1/vms/{vm}/password" => json!({"user": "root", "password": "x"}),
        _ => return None,
    })
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl a@b";

struct Stage {
    cloud: Cloud,
    /// In the table's order.
    callers: Vec<Client>,
    /// Things of project `a` that stay, by the name of the path's parameter.
    fixed: BTreeMap<&'static str, String>,
    number: u32,
}

impl Stage {
    async fn set() -> Self {
        let cloud = Cloud::start().await;
        // A node that never answered: no VM is placed on it, so that no call waits for it.
        let server = hull_server::app::ctx::Ctx::of(hull_server::app::ctx::Caller::SERVER);
        cloud.app().join_node(&server, &"n1".parse().unwrap()).await.unwrap();
        let root = cloud.client.clone();
        for project in ["a", "b"] {
            root.post("/v1/projects", json!({"name": project})).await.created();
        }
        root.post("/v1/users", json!({"name": "someone", "password": "correct horse"})).await.created();
        root.post("/v1/keypairs?project=a", json!({"name": "k", "public_key": KEY})).await.created();
        root.post("/v1/images?project=a", json!({"name": "debian", "format": "raw"})).await.created();
        root.put("/v1/images/debian/content?project=a", vec![7; 1 << 20]).await.ok();
        let vm = json!({"name": "w", "image": "debian", "flavor": "micro"});
        let made = root.post("/v1/vms?project=a", vm).await.created();
        let port = made["items"][0]["ports"][0].as_str().unwrap().to_owned();
        let outside = json!({"name": "ext", "uplink": {"provider": "ext"}, "external": true});
        root.post("/v1/networks", outside).await.created();
        root.post("/v1/subnets", json!({"name": "ext", "network": "ext", "cidr": "203.0.113.0/24"})).await.created();
        root.post("/v1/networks?project=a", json!({"name": "n"})).await.created();
        let subnet = json!({"name": "s", "network": "n", "cidr": "10.0.0.0/24"});
        root.post("/v1/subnets?project=a", subnet).await.created();
        root.post("/v1/routers?project=a", json!({"name": "r"})).await.created();
        root.post("/v1/floating-ips?project=a", json!({"name": "f", "network": "ext"})).await.created();
        let group = root.get("/v1/security-groups/default?project=a").await.ok();
        let migration = crate::migrations::over(&cloud, hull_types::Timestamp::now()).await;
        let mut callers = vec![cloud.client.with_token(None)];
        for (name, project, role) in [
            ("other", Some("b"), "admin"),
            ("reader", Some("a"), "reader"),
            ("member", Some("a"), "member"),
            ("admin", Some("a"), "admin"),
            ("system-reader", None, "reader"),
            ("system-admin", None, "admin"),
        ] {
            callers.push(crate::identity::user(&cloud, name, project, role).await);
        }
        let fixed = BTreeMap::from([
            ("vm", "w".to_owned()),
            ("image", "debian".to_owned()),
            ("keypair", "k".to_owned()),
            ("network", "n".to_owned()),
            ("subnet", "s".to_owned()),
            ("router", "r".to_owned()),
            ("floating_ip", "f".to_owned()),
            ("rule", group["rules"][0]["id"].as_str().unwrap().to_owned()),
            ("security-group", "default".to_owned()),
            ("port", port),
            ("project", "a".to_owned()),
            ("flavor", "micro".to_owned()),
            ("node", "n1".to_owned()),
            ("migration", migration),
        ]);
        Self { cloud, callers, fixed, number: 0 }
    }

    /// Something new for a call to act on, where the call may be its end.
    async fn fresh(&mut self, path: &str, parameter: &str) -> String {
        self.number += 1;
        let (name, root) = (format!("f{}", self.number), &self.cloud.client);
        let id = |made: &Value| made["id"].as_str().unwrap().to_owned();
        match (path, parameter) {
            (path, "group") if path.starts_with("/v1/user-groups") => {
                id(&root.post("/v1/user-groups", json!({"name": name})).await.created())
            }
            (_, "group") => self.fixed["security-group"].clone(),
            (path, "port") if path.starts_with("/v1/vms") => "22".to_owned(),
            (_, "user") => id(&root.post("/v1/users", json!({"name": name})).await.created()),
            (_, "assignment") => {
                root.post("/v1/users", json!({"name": name})).await.created();
                let role = json!({"role": "member", "user": name});
                id(&root.post("/v1/role-assignments?project=a", role).await.created())
            }
            (_, "token") => {
                root.post("/v1/tokens?project=a", json!({"name": name, "role": "reader"})).await.created();
                let all = root.get("/v1/tokens?limit=1000").await.ok();
                let found = all["items"].as_array().unwrap().iter().find(|token| token["name"] == name.as_str());
                id(found.unwrap())
            }
            (_, "credential") => {
                let owner = crate::identity::user(&self.cloud, &name, Some("a"), "member").await;
                owner.post("/v1/app-credentials?project=a", json!({"name": "c", "role": "reader"})).await.created();
                let all = owner.get("/v1/app-credentials").await.ok();
                id(&all["items"][0])
            }
            (_, parameter) => self.fixed.get(parameter).unwrap_or_else(|| panic!("what is {{{parameter}}}?")).clone(),
        }
    }

    /// What a caller gets for an operation, in the table's letters.
    async fn play(&mut self, operation: &str, caller: usize) -> (char, String) {
        let (method, template) = operation.split_once(' ').unwrap();
        let mut path = template.to_owned();
        while let (Some(from), Some(to)) = (path.find('{'), path.find('}')) {
            let value = self.fresh(template, &path[from + 1..to]).await;
            path.replace_range(from..=to, &value);
        }
        self.number += 1;
        let client = self.callers[caller].clone();
        let method: Method = method.parse().unwrap();
        let more = if template == "/v1/vms/{vm}/path" { "&to=internet" } else { "" };
        let mut request = client.request(method.clone(), &format!("{path}?project=a{more}"));
        if let Some(body) = body(operation, self.number) {
            request = request.json(&body);
        }
        // What would end something fixed stumbles over its revision instead, after it was allowed.
        if method == Method::DELETE && template != "/v1/projects/{project}" {
            request = request.header("if-match", "\"999999\"");
        }
        let answer = client.send(request).await;
        let letter = match answer.status.as_u16() {
            401 => 'U',
            403 => 'F',
            404 => 'H',
            _ => '+',
        };
        (letter, format!("{} {}", answer.status, answer.body))
    }
}

fn described() -> BTreeSet<String> {
    let api: Value = serde_json::to_value(hull_server::api::openapi()).unwrap();
    let mut all = BTreeSet::from(["GET /metrics".to_owned()]);
    for (path, methods) in api["paths"].as_object().unwrap() {
        all.extend(methods.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())));
    }
    all
}

#[test]
fn every_operation_has_a_rule_and_a_row() {
    let described = described();
    let rows: BTreeSet<String> = TABLE.iter().map(|(operation, _)| (*operation).to_owned()).collect();
    let acts = hull_core::policy::Act::ALL.iter().map(|act| format!("{} {}", act.method(), act.path()));
    let acts: BTreeSet<String> = acts.collect();
    assert_eq!(described, acts, "the API's description, and the rules in hull-core/src/policy.rs");
    assert_eq!(described, rows, "the API's description, and the table above");
}

#[tokio::test]
async fn every_operation_lets_in_whom_the_table_says() {
    let mut stage = Stage::set().await;
    let mut wrong = Vec::new();
    for (operation, expected) in TABLE {
        // Logging out ends the caller's session; it is played with others' further down.
        if *operation == "POST /v1/auth/logout" {
            continue;
        }
        for (caller, wanted) in expected.chars().enumerate() {
            let (got, answer) = stage.play(operation, caller).await;
            if got != wanted {
                wrong.push(format!("{operation}: caller {} gets {got}, the table says {wanted}: {answer}", caller + 1));
            }
        }
    }
    for (caller, wanted) in "U++++++".chars().enumerate() {
        let (got, answer) = stage.play("POST /v1/auth/logout", caller).await;
        assert_eq!(got, wanted, "{answer}");
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
