//! `/v1/role-assignments`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use hull_types::wire::{List, Revised, RoleAssignmentCreate, RoleAssignmentUpdate, RoleAssignmentView};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::{made, shown},
    extract::{Json, Path, Query},
    list::ListQuery,
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, role_assignment::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, update, delete))
}

/// Lists who has which role in a project; with `all-projects`, for system readers, in all of them and on the system.
#[utoipa::path(get, path = "/v1/role-assignments", tag = "users", params(ListQuery),
    responses((status = 200, body = List<Revised<RoleAssignmentView>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let (seen, all) = (ctx.clone(), query.all_projects);
    query.only(&[])?.serve(&app, &ctx, LISTING, move |state, given| App::lists_role(&seen, all, state, given))
}

/// Gives a user or a group a role on the project, or on the system; for admins there.
#[utoipa::path(post, path = "/v1/role-assignments", tag = "users", request_body = RoleAssignmentCreate,
    responses((status = 201, body = Revised<RoleAssignmentView>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<RoleAssignmentCreate>) -> Answer<Response> {
    Ok(made(&app.create_role_assignment(&ctx, &body).await?))
}

/// Shows who has which role where.
#[utoipa::path(get, path = "/v1/role-assignments/{assignment}", tag = "users",
    params(("assignment" = String, Path, description = "Id")),
    responses((status = 200, body = Revised<RoleAssignmentView>)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(assignment): Path<String>) -> Answer<Response> {
    Ok(shown(&app.role_assignment(&ctx, &assignment)?))
}

/// Changes the role given; for admins of its scope.
#[utoipa::path(patch, path = "/v1/role-assignments/{assignment}", tag = "users", request_body = RoleAssignmentUpdate,
    params(("assignment" = String, Path, description = "Id")),
    responses((status = 200, body = Revised<RoleAssignmentView>)))]
async fn update(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(assignment): Path<String>,
    Json(body): Json<RoleAssignmentUpdate>,
) -> Answer<Response> {
    Ok(shown(&app.update_role_assignment(&ctx, &assignment, &body).await?))
}

/// Takes a role away; for admins of its scope.
#[utoipa::path(delete, path = "/v1/role-assignments/{assignment}", tag = "users",
    params(("assignment" = String, Path, description = "Id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(assignment): Path<String>) -> Answer<StatusCode> {
    app.delete_role_assignment(&ctx, &assignment).await?;
    Ok(StatusCode::NO_CONTENT)
}
