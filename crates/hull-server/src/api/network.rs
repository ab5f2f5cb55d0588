//! `/v1/networks`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hull_types::{
    network::Network,
    wire::{
        List, Revised,
        network::{NetworkCreate, NetworkUpdate},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::{made, shown},
    extract::{Json, Path, Query},
    list::{ListQuery, tagged},
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, network::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, update, delete))
}

/// Lists a project's networks, and those other projects share or lead out by.
#[utoipa::path(get, path = "/v1/networks", tag = "networks", params(ListQuery),
    responses((status = 200, body = List<Revised<Network>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let tagged = tagged(query.tag.clone());
    query.only(&["tag"])?.serve(&app, &ctx, LISTING, move |_, it| tagged(&it.meta))
}

/// Makes a network, without subnets.
#[utoipa::path(post, path = "/v1/networks", tag = "networks", request_body = NetworkCreate,
    responses((status = 201, body = Revised<Network>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<NetworkCreate>) -> Answer<Response> {
    Ok(made(&app.create_network(&ctx, &body).await?))
}

/// Shows a network.
#[utoipa::path(get, path = "/v1/networks/{network}", tag = "networks",
    params(("network" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Network>)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(network): Path<String>) -> Answer<Response> {
    Ok(shown(&app.network(&ctx, &network)?))
}

/// Changes a network.
#[utoipa::path(patch, path = "/v1/networks/{network}", tag = "networks", request_body = NetworkUpdate,
    params(("network" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Network>)))]
async fn update(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(network): Path<String>,
    Json(body): Json<NetworkUpdate>,
) -> Answer<Response> {
    Ok(shown(&app.update_network(&ctx, &network, &body).await?))
}

/// Deletes a network that nothing is on, with its subnets.
#[utoipa::path(delete, path = "/v1/networks/{network}", tag = "networks",
    params(("network" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(network): Path<String>) -> Answer<Response> {
    app.delete_network(&ctx, &network).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
