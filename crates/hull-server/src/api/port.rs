//! `/v1/ports`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hull_types::{
    port::Port,
    wire::{
        List, Revised,
        network::{PortCreate, PortUpdate},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::{made, shown},
    extract::{Json, Path, Query},
    list::{ListQuery, tagged},
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, port::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, update, delete))
}

/// Lists a project's ports.
#[utoipa::path(get, path = "/v1/ports", tag = "ports", params(ListQuery),
    responses((status = 200, body = List<Revised<Port>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let tagged = tagged(query.tag.clone());
    let network = query.network.as_deref().map(|text| app.network_id(&ctx, text)).transpose()?;
    let vm = query.vm.as_deref().map(|text| app.vm_id(&ctx, text)).transpose()?;
    query.only(&["tag", "network", "vm"])?.serve(&app, &ctx, LISTING, move |_, it| {
        tagged(&it.meta) && network.is_none_or(|id| it.network == id) && vm.is_none_or(|vm| it.vm == Some(vm))
    })
}

/// Makes a port without a VM.
#[utoipa::path(post, path = "/v1/ports", tag = "ports", request_body = PortCreate,
    responses((status = 201, body = Revised<Port>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<PortCreate>) -> Answer<Response> {
    Ok(made(&app.create_port(&ctx, &body).await?))
}

/// Shows a port.
#[utoipa::path(get, path = "/v1/ports/{port}", tag = "ports",
    params(("port" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Port>)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(port): Path<String>) -> Answer<Response> {
    Ok(shown(&app.port(&ctx, &port)?))
}

/// Changes a port.
#[utoipa::path(patch, path = "/v1/ports/{port}", tag = "ports", request_body = PortUpdate,
    params(("port" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Port>)))]
async fn update(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(port): Path<String>,
    Json(body): Json<PortUpdate>,
) -> Answer<Response> {
    Ok(shown(&app.update_port(&ctx, &port, &body).await?))
}

/// Deletes a port that no VM has.
#[utoipa::path(delete, path = "/v1/ports/{port}", tag = "ports",
    params(("port" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(port): Path<String>) -> Answer<Response> {
    app.delete_port(&ctx, &port).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
