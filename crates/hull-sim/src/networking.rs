//! Steps of a tenant with their networks: all nouns made, joined, changed and deleted at random. Most calls are refused,
//! since what they name is in use, taken or gone; what counts is that none of them leaves anything half made.

use std::time::Duration;

use hull_server::app::App;
use hull_types::{error::Result, wire::VmAction};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    cloud::{Cloud, ctx},
    fate::Fate,
};

/// How long a call may take while the server is up.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How many of each noun a run has at most: few, so that they meet.
const FEW: usize = 3;

/// What a call may name, drawn anew for each.
struct Names {
    network: String,
    subnet: String,
    port: String,
    router: String,
    group: String,
    floating: Option<String>,
    vm: Option<String>,
    /// Two ranges of three overlap.
    cidr: &'static str,
}

impl Names {
    fn new(fate: &Fate, floating: Option<String>, vm: Option<String>) -> Self {
        let few = |stem: &str| format!("{stem}{}", fate.below(FEW));
        let cidrs = ["10.0.0.0/28", "10.0.0.0/29", "10.1.0.0/28", "fd00:1::/64"];
        Self {
            network: few("net"),
            subnet: few("sub"),
            port: few("port"),
            router: few("router"),
            group: few("group"),
            floating,
            vm,
            cidr: cidrs[fate.below(cidrs.len())],
        }
    }
}

/// A request from its JSON form: what is left out is as the API has it.
fn request<T: DeserializeOwned>(body: Value) -> T {
    serde_json::from_value(body).expect("the simulation's own requests are well formed")
}

/// What a tenant begins with: a network, and a router that joins it to an external one.
pub(crate) async fn found(app: &App) -> Result<()> {
    let ctx = ctx();
    done(app.create_network(&ctx, &request(json!({"name": "net0"}))).await)?;
    let range = json!({"name": "sub0", "network": "net0", "cidr": "10.0.0.0/28"});
    done(app.create_subnet(&ctx, &request(range)).await)?;
    let outside = json!({"name": "ext", "uplink": {"provider": "ext"}, "external": true});
    done(app.create_network(&ctx, &request(outside)).await)?;
    let range = json!({"name": "ext", "network": "ext", "cidr": "203.0.113.0/29"});
    done(app.create_subnet(&ctx, &request(range)).await)?;
    let router = json!({"name": "router0", "subnets": ["sub0"], "gateway": {"network": "ext"}});
    done(app.create_router(&ctx, &request(router)).await)
}

impl Cloud {
    /// Some calls about networks.
    pub(crate) async fn networking(&mut self) {
        for _ in 0..1 + self.fate.below(6) {
            self.networks_change().await;
        }
    }

    async fn networks_change(&mut self) {
        self.catch_up().await;
        let Some(app) = self.app().cloned() else { return };
        let floating: Vec<String> = self.truth.floating_ips.keys().map(ToString::to_string).collect();
        let vms: Vec<String> = self.truth.vms.keys().map(ToString::to_string).collect();
        let floating = self.fate.one_of(&floating).cloned();
        let vm = self.fate.one_of(&vms).cloned();
        let names = Names::new(&self.fate, floating, vm);
        let kind = self.fate.below(24);
        let done = tokio::time::timeout(ANSWER_WITHIN, call(&app, kind, &names)).await;
        self.judge(&format!("networking {kind}"), done);
    }

    /// Deletes all that a user made of networks, what refers before what is referred to.
    pub(crate) async fn networks_go(&mut self) {
        let Some(app) = self.app().cloned() else { return };
        let ctx = ctx();
        let ids = |ids: Vec<&uuid::Uuid>| ids.into_iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut failed = Vec::new();
        for id in ids(self.truth.floating_ips.keys().collect()) {
            failed.extend(app.delete_floating_ip(&ctx, &id).await.err());
        }
        for router in self.truth.routers.values() {
            for subnet in &router.subnets {
                failed.extend(app.remove_router_subnet(&ctx, &router.id.to_string(), &subnet.to_string()).await.err());
            }
            failed.extend(app.delete_router(&ctx, &router.id.to_string()).await.err());
        }
        let ports = self.truth.ports.iter().filter(|(_, port)| port.router_gateway.is_none()).map(|(id, _)| id);
        for id in ids(ports.collect()) {
            failed.extend(app.delete_port(&ctx, &id).await.err());
        }
        // The default network is shared, and stays.
        let networks = self.truth.networks.iter().filter(|(_, network)| !network.shared).map(|(id, _)| id);
        for id in ids(networks.collect()) {
            failed.extend(app.delete_network(&ctx, &id).await.err());
        }
        self.truth.broken.extend(failed.into_iter().map(|error| format!("it cannot be deleted: {error}")));
    }
}

/// Only whether it was done counts.
fn done<T>(outcome: Result<T>) -> Result<()> {
    outcome.map(drop)
}

async fn call(app: &App, kind: usize, names: &Names) -> Result<()> {
    let ctx = ctx();
    let Names { network, subnet, port, router, group, floating, vm, cidr } = names;
    let floating = floating.as_deref().unwrap_or("none");
    let vm = vm.as_deref().unwrap_or("none");
    match kind {
        0 | 1 => done(app.create_network(&ctx, &request(json!({"name": network}))).await),
        2 => done(app.update_network(&ctx, network, &request(json!({"tags": [group]}))).await),
        3 | 4 => {
            let body = json!({"name": subnet, "network": network, "cidr": cidr});
            done(app.create_subnet(&ctx, &request(body)).await)
        }
        5 | 6 => {
            let body = json!({"name": port, "network": network});
            done(app.create_port(&ctx, &request(body)).await)
        }
        7 => done(app.create_router(&ctx, &request(json!({"name": router, "gateway": {"network": "ext"}}))).await),
        8 => done(app.create_router(&ctx, &request(json!({"name": router, "subnets": [subnet]}))).await),
        9 | 10 => done(app.add_router_subnet(&ctx, router, subnet).await),
        11 => done(app.remove_router_subnet(&ctx, router, subnet).await),
        12 => done(app.update_router(&ctx, router, &request(json!({"gateway": {"network": "ext"}}))).await),
        13 => done(app.update_router(&ctx, router, &request(json!({"gateway": null}))).await),
        14 | 15 => done(app.create_floating_ip(&ctx, &request(json!({"network": "ext"}))).await),
        16 => done(app.update_floating_ip(&ctx, floating, &request(json!({"target": {"vm": vm}}))).await),
        17 => done(app.update_floating_ip(&ctx, floating, &request(json!({"target": {"port": port}}))).await),
        18 => {
            let body = json!({"name": group, "rules": [{"remote": {"group": "default"}}]});
            done(app.create_security_group(&ctx, &request(body)).await)
        }
        19 => done(app.update_port(&ctx, port, &request(json!({"security_groups": [group]}))).await),
        20 => {
            let nic = if port.ends_with('0') { json!({"port": port}) } else { json!({"network": network}) };
            done(app.act_on_vm(&ctx, vm, &request(json!({"action": "attach-nic", "nic": nic}))).await)
        }
        21 => {
            let ports = app.vm(&ctx, vm)?.vm.ports;
            let port = ports.last().map_or_else(|| port.clone(), ToString::to_string);
            done(app.act_on_vm(&ctx, vm, &VmAction::DetachNic { port }).await)
        }
        _ => delete(app, names).await,
    }
}

/// Deletes one of everything; what is in use refuses.
async fn delete(app: &App, names: &Names) -> Result<()> {
    let ctx = ctx();
    let floating = names.floating.as_deref().unwrap_or("none");
    let mut refused = None;
    refused = app.delete_port(&ctx, &names.port).await.err().or(refused);
    refused = app.delete_subnet(&ctx, &names.subnet).await.err().or(refused);
    refused = app.delete_network(&ctx, &names.network).await.err().or(refused);
    refused = app.delete_router(&ctx, &names.router).await.err().or(refused);
    refused = app.delete_security_group(&ctx, &names.group).await.err().or(refused);
    refused = app.delete_floating_ip(&ctx, floating).await.err().or(refused);
    refused.map_or(Ok(()), Err)
}
