//! `/v1/status`, `/v1/openapi.json`, `/healthz`, `/metrics`.

use std::sync::Arc;

use axum::{
    Json as Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use hull_types::wire::ServerStatus;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::problem::Answer;
use crate::app::{App, ctx::Ctx};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(status)).routes(routes!(openapi))
}

/// What runs here.
#[utoipa::path(get, path = "/v1/status", tag = "server", responses((status = 200, body = ServerStatus)))]
async fn status(State(app): State<Arc<App>>, ctx: Ctx) -> Body<ServerStatus> {
    Body(app.status(&ctx))
}

/// This API's description.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "server",
    responses((status = 200, content_type = "application/json", body = serde_json::Value)))]
async fn openapi(_: Ctx) -> Response {
    Body(super::openapi()).into_response()
}

/// Whether the server serves; open to everyone.
pub(crate) async fn healthz(State(app): State<Arc<App>>) -> Answer<&'static str> {
    app.catch_up().await?;
    Ok("ok\n")
}

/// Numbers for Prometheus; for system readers.
pub(crate) async fn metrics(State(app): State<Arc<App>>, _: Ctx) -> Answer<Response> {
    let text = app.metrics.text(&app).await?;
    // prometheus-client writes the OpenMetrics text format.
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response())
}
