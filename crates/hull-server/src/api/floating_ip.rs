//! `/v1/floating-ips`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hull_types::{
    router::FloatingIp,
    wire::{
        List, Revised,
        network::{FloatingIpCreate, FloatingIpUpdate},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::{made, shown},
    extract::{Json, Path, Query},
    list::{ListQuery, tagged},
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, floating_ip::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, update, delete))
}

/// Lists a project's floating IPs.
#[utoipa::path(get, path = "/v1/floating-ips", tag = "floating-ips", params(ListQuery),
    responses((status = 200, body = List<Revised<FloatingIp>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let tagged = tagged(query.tag.clone());
    let network = query.network.as_deref().map(|text| app.network_id(&ctx, text)).transpose()?;
    query
        .only(&["tag", "network"])?
        .serve(&app, &ctx, LISTING, move |_, it| tagged(&it.meta) && network.is_none_or(|id| it.network == id))
}

/// Takes an address of an external network.
#[utoipa::path(post, path = "/v1/floating-ips", tag = "floating-ips", request_body = FloatingIpCreate,
    responses((status = 201, body = Revised<FloatingIp>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<FloatingIpCreate>) -> Answer<Response> {
    Ok(made(&app.create_floating_ip(&ctx, &body).await?))
}

/// Shows a floating IP.
#[utoipa::path(get, path = "/v1/floating-ips/{floating_ip}", tag = "floating-ips",
    params(("floating_ip" = String, Path, description = "Name, id or address")), responses((status = 200, body = Revised<FloatingIp>)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(floating_ip): Path<String>) -> Answer<Response> {
    Ok(shown(&app.floating_ip(&ctx, &floating_ip)?))
}

/// Changes a floating IP, or where it leads.
#[utoipa::path(patch, path = "/v1/floating-ips/{floating_ip}", tag = "floating-ips", request_body = FloatingIpUpdate,
    params(("floating_ip" = String, Path, description = "Name, id or address")), responses((status = 200, body = Revised<FloatingIp>)))]
async fn update(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(floating_ip): Path<String>,
    Json(body): Json<FloatingIpUpdate>,
) -> Answer<Response> {
    Ok(shown(&app.update_floating_ip(&ctx, &floating_ip, &body).await?))
}

/// Gives a floating IP's address back.
#[utoipa::path(delete, path = "/v1/floating-ips/{floating_ip}", tag = "floating-ips",
    params(("floating_ip" = String, Path, description = "Name, id or address")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(floating_ip): Path<String>) -> Answer<Response> {
    app.delete_floating_ip(&ctx, &floating_ip).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
