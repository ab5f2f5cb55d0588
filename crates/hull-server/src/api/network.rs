//! `/v1/networks`, `/v1/security-groups`, `/v1/ports`.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hull_types::{
    id::VmId,
    network::Network,
    port::Port,
    security_group::SecurityGroup,
    wire::{List, Revised},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::shown,
    extract::{Path, Query},
    list::ListQuery,
    problem::Answer,
};
use crate::app::{
    App,
    ctx::Ctx,
    network::{GROUPS, NETWORKS, PORTS},
};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(networks))
        .routes(routes!(network))
        .routes(routes!(groups))
        .routes(routes!(group))
        .routes(routes!(ports))
        .routes(routes!(port))
}

/// Lists a project's networks, and those all projects share.
#[utoipa::path(get, path = "/v1/networks", tag = "networks", params(ListQuery),
    responses((status = 200, body = List<Revised<Network>>)))]
async fn networks(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    query.only(&[])?.serve(&app, &ctx, NETWORKS, |_, _| true)
}

/// Shows a network.
#[utoipa::path(get, path = "/v1/networks/{network}", tag = "networks",
    params(("network" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Network>)))]
async fn network(State(app): State<Arc<App>>, ctx: Ctx, Path(network): Path<String>) -> Answer<Response> {
    Ok(shown(&app.network(&ctx, &network)?))
}

/// Lists a project's security groups.
#[utoipa::path(get, path = "/v1/security-groups", tag = "networks", params(ListQuery),
    responses((status = 200, body = List<Revised<SecurityGroup>>)))]
async fn groups(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    query.only(&[])?.serve(&app, &ctx, GROUPS, |_, _| true)
}

/// Shows a security group.
#[utoipa::path(get, path = "/v1/security-groups/{group}", tag = "networks",
    params(("group" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<SecurityGroup>)))]
async fn group(State(app): State<Arc<App>>, ctx: Ctx, Path(group): Path<String>) -> Answer<Response> {
    Ok(shown(&app.security_group(&ctx, &group)?))
}

/// Lists a project's ports.
#[utoipa::path(get, path = "/v1/ports", tag = "networks", params(ListQuery),
    responses((status = 200, body = List<Revised<Port>>)))]
async fn ports(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let vm = query.vm.map(VmId);
    query.only(&["vm"])?.serve(&app, &ctx, PORTS, move |_, port| vm.is_none_or(|vm| port.vm == Some(vm)))
}

/// Shows a port.
#[utoipa::path(get, path = "/v1/ports/{port}", tag = "networks",
    params(("port" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Port>)))]
async fn port(State(app): State<Arc<App>>, ctx: Ctx, Path(port): Path<String>) -> Answer<Response> {
    Ok(shown(&app.port(&ctx, &port)?))
}
