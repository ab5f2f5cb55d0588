//! `/v1/flavors`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hull_types::{
    flavor::Flavor,
    wire::{FlavorCreate, List, Revised},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::{made, shown},
    extract::{Json, Path, Query},
    list::ListQuery,
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, flavor::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, delete))
}

/// Lists flavors.
#[utoipa::path(get, path = "/v1/flavors", tag = "flavors", params(ListQuery),
    responses((status = 200, body = List<Revised<Flavor>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    query.only(&[])?.serve(&app, &ctx, LISTING, |_, _| true)
}

/// Makes a flavor; for system admins.
#[utoipa::path(post, path = "/v1/flavors", tag = "flavors", request_body = FlavorCreate,
    responses((status = 201, body = Revised<Flavor>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<FlavorCreate>) -> Answer<Response> {
    Ok(made(&app.create_flavor(&ctx, &body).await?))
}

/// Shows a flavor.
#[utoipa::path(get, path = "/v1/flavors/{flavor}", tag = "flavors",
    params(("flavor" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Flavor>)))]
async fn show(State(app): State<Arc<App>>, _: Ctx, Path(flavor): Path<String>) -> Answer<Response> {
    Ok(shown(&app.flavor(&flavor)?))
}

/// Deletes a flavor; for system admins. VMs made of it stay as they are.
#[utoipa::path(delete, path = "/v1/flavors/{flavor}", tag = "flavors",
    params(("flavor" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(flavor): Path<String>) -> Answer<Response> {
    app.delete_flavor(&ctx, &flavor).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
