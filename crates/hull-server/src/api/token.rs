//! `/v1/tokens`, `/v1/whoami`.

use std::sync::Arc;

use axum::{
    Json as Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hull_types::{
    token::Token,
    wire::{List, Secret, TokenCreate, WhoAmI},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{Json, Path, Query},
    list::ListQuery,
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, token::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, delete)).routes(routes!(whoami))
}

/// Lists tokens without their secrets; for admins.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", params(ListQuery),
    responses((status = 200, body = List<Token>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let seen = ctx.clone();
    query.only(&[])?.serve(&app, &ctx, LISTING, move |_, token| App::lists_token(&seen, token))
}

/// Makes a token; its secret is shown this once.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = TokenCreate,
    responses((status = 201, body = Secret)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<TokenCreate>) -> Answer<Response> {
    Ok((StatusCode::CREATED, Body(app.create_token(&ctx, &body).await?)).into_response())
}

/// Shows a token.
#[utoipa::path(get, path = "/v1/tokens/{token}", tag = "tokens",
    params(("token" = String, Path, description = "Id")), responses((status = 200, body = Token)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(token): Path<String>) -> Answer<Body<Token>> {
    Ok(Body(app.token(&ctx, &token)?))
}

/// Revokes a token.
#[utoipa::path(delete, path = "/v1/tokens/{token}", tag = "tokens",
    params(("token" = String, Path, description = "Id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(token): Path<String>) -> Answer<Response> {
    app.delete_token(&ctx, &token).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Tells who the caller is and what they may do.
#[utoipa::path(get, path = "/v1/whoami", tag = "tokens", responses((status = 200, body = WhoAmI)))]
async fn whoami(State(app): State<Arc<App>>, ctx: Ctx) -> Body<WhoAmI> {
    Body(app.whoami(&ctx))
}
