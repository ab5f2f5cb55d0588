//! `/v1/subnets`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hull_types::{
    network::Subnet,
    wire::{
        List, Revised,
        network::{SubnetCreate, SubnetUpdate},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::{made, shown},
    extract::{Json, Path, Query},
    list::{ListQuery, tagged},
    problem::Answer,
};
use crate::app::{App, ctx::Ctx, subnet::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, update, delete))
}

/// Lists a project's subnets.
#[utoipa::path(get, path = "/v1/subnets", tag = "subnets", params(ListQuery),
    responses((status = 200, body = List<Revised<Subnet>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let tagged = tagged(query.tag.clone());
    let network = query.network.as_deref().map(|text| app.network_id(&ctx, text)).transpose()?;
    query
        .only(&["tag", "network"])?
        .serve(&app, &ctx, LISTING, move |_, it| tagged(&it.meta) && network.is_none_or(|id| it.network == id))
}

/// Makes a subnet of a network.
#[utoipa::path(post, path = "/v1/subnets", tag = "subnets", request_body = SubnetCreate,
    responses((status = 201, body = Revised<Subnet>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<SubnetCreate>) -> Answer<Response> {
    Ok(made(&app.create_subnet(&ctx, &body).await?))
}

/// Shows a subnet.
#[utoipa::path(get, path = "/v1/subnets/{subnet}", tag = "subnets",
    params(("subnet" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Subnet>)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(subnet): Path<String>) -> Answer<Response> {
    Ok(shown(&app.subnet(&ctx, &subnet)?))
}

/// Changes a subnet; its range stays.
#[utoipa::path(patch, path = "/v1/subnets/{subnet}", tag = "subnets", request_body = SubnetUpdate,
    params(("subnet" = String, Path, description = "Name or id")), responses((status = 200, body = Revised<Subnet>)))]
async fn update(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(subnet): Path<String>,
    Json(body): Json<SubnetUpdate>,
) -> Answer<Response> {
    Ok(shown(&app.update_subnet(&ctx, &subnet, &body).await?))
}

/// Deletes a subnet no address of which is in use.
#[utoipa::path(delete, path = "/v1/subnets/{subnet}", tag = "subnets",
    params(("subnet" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(subnet): Path<String>) -> Answer<Response> {
    app.delete_subnet(&ctx, &subnet).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
