//! `/v1/projects`.

use std::sync::Arc;

use axum::{
    Json as Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hull_types::wire::{List, ProjectCreate, ProjectUpdate, ProjectView};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{Json, Path, Query},
    list::ListQuery,
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, project::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, update, delete))
}

/// Lists the projects the caller sees.
#[utoipa::path(get, path = "/v1/projects", tag = "projects", params(ListQuery),
    responses((status = 200, body = List<ProjectView>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let seen = ctx.clone();
    query.only(&[])?.serve(&app, &ctx, LISTING, move |_, project| App::lists_project(&seen, project))
}

/// Makes a project; for system admins.
#[utoipa::path(post, path = "/v1/projects", tag = "projects", request_body = ProjectCreate,
    responses((status = 201, body = ProjectView)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<ProjectCreate>) -> Answer<Response> {
    Ok((StatusCode::CREATED, Body(app.create_project(&ctx, &body).await?)).into_response())
}

/// Shows a project with what it holds.
#[utoipa::path(get, path = "/v1/projects/{project}", tag = "projects",
    params(("project" = String, Path, description = "Name or id")), responses((status = 200, body = ProjectView)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(project): Path<String>) -> Answer<Body<ProjectView>> {
    Ok(Body(app.project(&ctx, &project)?))
}

/// Changes a project's name, description or quota (the limits given, others stay); for system admins. A limit may go
/// below what is held: nothing is taken away, no more is given, and `above` in the answer says so.
#[utoipa::path(patch, path = "/v1/projects/{project}", tag = "projects", request_body = ProjectUpdate,
    params(("project" = String, Path, description = "Name or id")), responses((status = 200, body = ProjectView)))]
async fn update(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(project): Path<String>,
    Json(body): Json<ProjectUpdate>,
) -> Answer<Body<ProjectView>> {
    Ok(Body(app.update_project(&ctx, &project, &body).await?))
}

/// Deletes an empty project; for system admins.
#[utoipa::path(delete, path = "/v1/projects/{project}", tag = "projects",
    params(("project" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(project): Path<String>) -> Answer<Response> {
    app.delete_project(&ctx, &project).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
