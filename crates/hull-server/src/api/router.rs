//! `/v1/routers`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hull_types::{
    router::Router,
    wire::{
        List, Revised,
        network::{RouterCreate, RouterSubnetAdd, RouterUpdate},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::{made, shown},
    extract::{Json, Path, Query},
    list::{ListQuery, tagged},
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, router::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, update, delete))
        .routes(routes!(add_subnet))
        .routes(routes!(remove_subnet))
}

/// Lists a project's routers.
#[utoipa::path(get, path = "/v1/routers", tag = "routers", params(ListQuery),
    responses((status = 200, body = List<Revised<Router>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let tagged = tagged(query.tag.clone());
    query.only(&["tag"])?.serve(&app, &ctx, LISTING, move |_, it| tagged(&it.meta))
}

/// Makes a router.
#[utoipa::path(post, path = "/v1/routers", tag = "routers", request_body = RouterCreate,
    responses((status = 201, body = Revised<Router>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<RouterCreate>) -> Answer<Response> {
    Ok(made(&app.create_router(&ctx, &body).await?))
}

/// Shows a router.
#[utoipa::path(get, path = "/v1/routers/{router}", tag = "routers",
    params(("router" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Router>)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(router): Path<String>) -> Answer<Response> {
    Ok(shown(&app.router(&ctx, &router)?))
}

/// Changes a router, or its gateway.
#[utoipa::path(patch, path = "/v1/routers/{router}", tag = "routers", request_body = RouterUpdate,
    params(("router" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Router>)))]
async fn update(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(router): Path<String>,
    Json(body): Json<RouterUpdate>,
) -> Answer<Response> {
    Ok(shown(&app.update_router(&ctx, &router, &body).await?))
}

/// Deletes a router that joins nothing.
#[utoipa::path(delete, path = "/v1/routers/{router}", tag = "routers",
    params(("router" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(router): Path<String>) -> Answer<Response> {
    app.delete_router(&ctx, &router).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Joins a subnet: the router answers at its gateway from now on. Joining it again changes nothing.
#[utoipa::path(post, path = "/v1/routers/{router}/subnets", tag = "routers", request_body = RouterSubnetAdd,
    params(("router" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Router>)))]
async fn add_subnet(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(router): Path<String>,
    Json(body): Json<RouterSubnetAdd>,
) -> Answer<Response> {
    Ok(shown(&app.add_router_subnet(&ctx, &router, &body.subnet).await?))
}

/// Leaves a subnet.
#[utoipa::path(delete, path = "/v1/routers/{router}/subnets/{subnet}", tag = "routers",
    params(("router" = String, Path, description = "Name or id"), ("subnet" = String, Path, description = "Name or id")),
    responses((status = 204)))]
async fn remove_subnet(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path((router, subnet)): Path<(String, String)>,
) -> Answer<Response> {
    app.remove_router_subnet(&ctx, &router, &subnet).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
