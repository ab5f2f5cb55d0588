//! `/v1/user-groups`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use hull_types::{
    user_group::UserGroup,
    wire::{List, Revised, UserGroupCreate, UserGroupUpdate},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::{made, shown},
    extract::{Json, Path, Query},
    list::ListQuery,
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, user_group::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, update, delete))
}

/// Lists groups of users; for system readers.
#[utoipa::path(get, path = "/v1/user-groups", tag = "users", params(ListQuery),
    responses((status = 200, body = List<Revised<UserGroup>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    query.only(&[])?.serve(&app, &ctx, LISTING, |_, _| true)
}

/// Makes a group of users; for system admins.
#[utoipa::path(post, path = "/v1/user-groups", tag = "users", request_body = UserGroupCreate,
    responses((status = 201, body = Revised<UserGroup>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<UserGroupCreate>) -> Answer<Response> {
    Ok(made(&app.create_user_group(&ctx, &body).await?))
}

/// Shows a group of users; for system readers.
#[utoipa::path(get, path = "/v1/user-groups/{group}", tag = "users",
    params(("group" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<UserGroup>)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(group): Path<String>) -> Answer<Response> {
    Ok(shown(&app.user_group(&ctx, &group)?))
}

/// Changes a group's texts and members; for system admins.
#[utoipa::path(patch, path = "/v1/user-groups/{group}", tag = "users", request_body = UserGroupUpdate,
    params(("group" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<UserGroup>)))]
async fn update(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(group): Path<String>,
    Json(body): Json<UserGroupUpdate>,
) -> Answer<Response> {
    Ok(shown(&app.update_user_group(&ctx, &group, &body).await?))
}

/// Deletes a group of users with the roles it was given; for system admins.
#[utoipa::path(delete, path = "/v1/user-groups/{group}", tag = "users",
    params(("group" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(group): Path<String>) -> Answer<StatusCode> {
    app.delete_user_group(&ctx, &group).await?;
    Ok(StatusCode::NO_CONTENT)
}
