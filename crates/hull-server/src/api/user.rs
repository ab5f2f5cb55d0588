//! `/v1/users`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use hull_types::{
    user::User,
    wire::{List, Revised, UserCreate, UserPasswordSet, UserUpdate},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::{made, shown},
    extract::{Json, Path, Query},
    list::ListQuery,
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, user::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, update, delete))
        .routes(routes!(password))
        .routes(routes!(revoke_sessions))
        .routes(routes!(unlock))
}

/// Lists users; for system readers.
#[utoipa::path(get, path = "/v1/users", tag = "users", params(ListQuery),
    responses((status = 200, body = List<Revised<User>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    query.only(&[])?.serve(&app, &ctx, LISTING, |_, _| true)
}

/// Makes a user; for system admins.
#[utoipa::path(post, path = "/v1/users", tag = "users", request_body = UserCreate,
    responses((status = 201, body = Revised<User>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<UserCreate>) -> Answer<Response> {
    Ok(made(&app.create_user(&ctx, &body).await?))
}

/// Shows a user; for the user and system readers.
#[utoipa::path(get, path = "/v1/users/{user}", tag = "users",
    params(("user" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<User>)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(user): Path<String>) -> Answer<Response> {
    Ok(shown(&app.user(&ctx, &user)?))
}

/// Changes a user; for system admins.
#[utoipa::path(patch, path = "/v1/users/{user}", tag = "users", request_body = UserUpdate,
    params(("user" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<User>)))]
async fn update(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(user): Path<String>,
    Json(body): Json<UserUpdate>,
) -> Answer<Response> {
    Ok(shown(&app.update_user(&ctx, &user, &body).await?))
}

/// Deletes a user with their roles, credentials and memberships; for system admins.
#[utoipa::path(delete, path = "/v1/users/{user}", tag = "users",
    params(("user" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(user): Path<String>) -> Answer<StatusCode> {
    app.delete_user(&ctx, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets a user's password; their sessions end. For the user, who must know the present one, and system admins.
#[utoipa::path(put, path = "/v1/users/{user}/password", tag = "users", request_body = UserPasswordSet,
    params(("user" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn password(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(user): Path<String>,
    Json(body): Json<UserPasswordSet>,
) -> Answer<StatusCode> {
    app.set_user_password(&ctx, &user, &body).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends every session of a user's; for the user and system admins.
#[utoipa::path(post, path = "/v1/users/{user}/revoke-sessions", tag = "users",
    params(("user" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn revoke_sessions(State(app): State<Arc<App>>, ctx: Ctx, Path(user): Path<String>) -> Answer<StatusCode> {
    app.revoke_sessions(&ctx, &user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets the log-ins that failed under a user's name, so that they need not wait; for system admins.
#[utoipa::path(post, path = "/v1/users/{user}/unlock", tag = "users",
    params(("user" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn unlock(State(app): State<Arc<App>>, ctx: Ctx, Path(user): Path<String>) -> Answer<StatusCode> {
    app.unlock_user(&ctx, &user)?;
    Ok(StatusCode::NO_CONTENT)
}
