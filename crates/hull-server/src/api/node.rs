//! `/v1/nodes`, `/v1/join-tokens`.

use std::sync::Arc;

use axum::{
    Json as Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hull_types::wire::{JoinTokenCreate, List, NodeUpdate, NodeView, Revised, Secret};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::shown,
    extract::{Json, Path, Query},
    list::ListQuery,
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, node::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show, update, delete)).routes(routes!(invite))
}

/// Lists nodes; for system scope.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", params(ListQuery),
    responses((status = 200, body = List<Revised<NodeView>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    query.only(&[])?.serve(&app, &ctx, LISTING, |_, _| true)
}

/// Shows a node; for system scope.
#[utoipa::path(get, path = "/v1/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<NodeView>)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(node): Path<String>) -> Answer<Response> {
    Ok(shown(&app.node(&ctx, &node)?))
}

/// Takes a node out of service, or in again; for system admins.
#[utoipa::path(patch, path = "/v1/nodes/{node}", tag = "nodes", request_body = NodeUpdate,
    params(("node" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<NodeView>)))]
async fn update(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(node): Path<String>,
    Json(body): Json<NodeUpdate>,
) -> Answer<Response> {
    Ok(shown(&app.update_node(&ctx, &node, &body).await?))
}

/// Removes a node that holds no VMs; for system admins.
#[utoipa::path(delete, path = "/v1/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(node): Path<String>) -> Answer<Response> {
    app.delete_node(&ctx, &node).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Makes a token by which a host may join, once unless it is said to be reusable; for system admins. It names this server
/// and pins its CA.
#[utoipa::path(post, path = "/v1/join-tokens", tag = "nodes", request_body = JoinTokenCreate,
    responses((status = 201, body = Secret)))]
async fn invite(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<JoinTokenCreate>) -> Answer<Response> {
    Ok((StatusCode::CREATED, Body(app.create_join_token(&ctx, &body).await?)).into_response())
}
