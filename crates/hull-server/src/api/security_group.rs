//! `/v1/security-groups`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hull_types::{
    security_group::SecurityGroup,
    wire::{
        List, Revised,
        network::{SecurityGroupCreate, SecurityGroupUpdate, SecurityRuleCreate},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::{made, shown},
    extract::{Json, Path, Query},
    list::{ListQuery, tagged},
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, security_group::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, update, delete))
        .routes(routes!(add_rule))
        .routes(routes!(remove_rule))
}

/// Lists a project's security groups.
#[utoipa::path(get, path = "/v1/security-groups", tag = "security-groups", params(ListQuery),
    responses((status = 200, body = List<Revised<SecurityGroup>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let tagged = tagged(query.tag.clone());
    query.only(&["tag"])?.serve(&app, &ctx, LISTING, move |_, it| tagged(&it.meta))
}

/// Makes a security group, with rules.
#[utoipa::path(post, path = "/v1/security-groups", tag = "security-groups", request_body = SecurityGroupCreate,
    responses((status = 201, body = Revised<SecurityGroup>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<SecurityGroupCreate>) -> Answer<Response> {
    Ok(made(&app.create_security_group(&ctx, &body).await?))
}

/// Shows a security group.
#[utoipa::path(get, path = "/v1/security-groups/{group}", tag = "security-groups",
    params(("group" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<SecurityGroup>)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(group): Path<String>) -> Answer<Response> {
    Ok(shown(&app.security_group(&ctx, &group)?))
}

/// Changes a security group; its rules are added and removed one by one.
#[utoipa::path(patch, path = "/v1/security-groups/{group}", tag = "security-groups", request_body = SecurityGroupUpdate,
    params(("group" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<SecurityGroup>)))]
async fn update(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(group): Path<String>,
    Json(body): Json<SecurityGroupUpdate>,
) -> Answer<Response> {
    Ok(shown(&app.update_security_group(&ctx, &group, &body).await?))
}

/// Deletes a security group that no port is in and no other group's rule names.
#[utoipa::path(delete, path = "/v1/security-groups/{group}", tag = "security-groups",
    params(("group" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(group): Path<String>) -> Answer<Response> {
    app.delete_security_group(&ctx, &group).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Adds a rule; answers with the group.
#[utoipa::path(post, path = "/v1/security-groups/{group}/rules", tag = "security-groups",
    request_body = SecurityRuleCreate, params(("group" = String, Path, description = "Name or id")),
    responses((status = 201, body = Revised<SecurityGroup>)))]
async fn add_rule(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(group): Path<String>,
    Json(body): Json<SecurityRuleCreate>,
) -> Answer<Response> {
    Ok(made(&app.add_security_rule(&ctx, &group, &body).await?))
}

/// Removes a rule.
#[utoipa::path(delete, path = "/v1/security-groups/{group}/rules/{rule}", tag = "security-groups",
    params(("group" = String, Path, description = "Name or id"), ("rule" = String, Path, description = "Id")),
    responses((status = 204)))]
async fn remove_rule(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path((group, rule)): Path<(String, String)>,
) -> Answer<Response> {
    app.remove_security_rule(&ctx, &group, &rule).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
