//! `/v1/app-credentials`.

use std::sync::Arc;

use axum::{
    Json as Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hull_types::{
    app_credential::AppCredential,
    wire::{AppCredentialCreate, List, Secret},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{Json, Path, Query},
    list::ListQuery,
    problem::Answer,
};
use crate::app::{App, app_credential::LISTING, ctx::Ctx};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, delete))
}

/// Lists the caller's application credentials without their secrets; everyone's for system readers.
#[utoipa::path(get, path = "/v1/app-credentials", tag = "auth", params(ListQuery),
    responses((status = 200, body = List<AppCredential>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let seen = ctx.clone();
    query.only(&[])?.serve(&app, &ctx, LISTING, move |_, credential| App::shows_own(&seen, credential.user))
}

/// Makes an application credential for the caller in the project; its secret is shown this once.
#[utoipa::path(post, path = "/v1/app-credentials", tag = "auth", request_body = AppCredentialCreate,
    responses((status = 201, body = Secret)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<AppCredentialCreate>) -> Answer<Response> {
    Ok((StatusCode::CREATED, Body(app.create_app_credential(&ctx, &body).await?)).into_response())
}

/// Shows an application credential.
#[utoipa::path(get, path = "/v1/app-credentials/{credential}", tag = "auth",
    params(("credential" = String, Path, description = "Name or id")), responses((status = 200, body = AppCredential)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(credential): Path<String>) -> Answer<Body<AppCredential>> {
    Ok(Body(app.app_credential(&ctx, &credential)?))
}

/// Deletes an application credential; it stops working at once.
#[utoipa::path(delete, path = "/v1/app-credentials/{credential}", tag = "auth",
    params(("credential" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(credential): Path<String>) -> Answer<StatusCode> {
    app.delete_app_credential(&ctx, &credential).await?;
    Ok(StatusCode::NO_CONTENT)
}
