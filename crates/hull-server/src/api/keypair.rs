//! `/v1/keypairs`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hull_types::{
    keypair::Keypair,
    wire::{KeypairCreate, List, Revised},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::{made, shown},
    extract::{Json, Path, Query},
    list::ListQuery,
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, keypair::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, delete))
}

/// Lists a project's keypairs.
#[utoipa::path(get, path = "/v1/keypairs", tag = "keypairs", params(ListQuery),
    responses((status = 200, body = List<Revised<Keypair>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    query.only(&[])?.serve(&app, &ctx, LISTING, |_, _| true)
}

/// Takes a public key in.
#[utoipa::path(post, path = "/v1/keypairs", tag = "keypairs", request_body = KeypairCreate,
    responses((status = 201, body = Revised<Keypair>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<KeypairCreate>) -> Answer<Response> {
    Ok(made(&app.create_keypair(&ctx, &body).await?))
}

/// Shows a keypair.
#[utoipa::path(get, path = "/v1/keypairs/{keypair}", tag = "keypairs",
    params(("keypair" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Keypair>)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(keypair): Path<String>) -> Answer<Response> {
    Ok(shown(&app.keypair(&ctx, &keypair)?))
}

/// Deletes a keypair. VMs that were given it keep it.
#[utoipa::path(delete, path = "/v1/keypairs/{keypair}", tag = "keypairs",
    params(("keypair" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(keypair): Path<String>) -> Answer<Response> {
    app.delete_keypair(&ctx, &keypair).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
