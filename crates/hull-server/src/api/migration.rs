//! `/v1/migrations`.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hull_types::{
    error::{Error, Result},
    migration::{Migration, MigrationPhase},
    wire::{List, MigrationCreate, Revised},
};
use serde::{Deserialize, de::IntoDeserializer};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::{made, shown},
    extract::{Json, Path, Query},
    list::ListQuery,
    problem::Answer,
};
use crate::app::{
    App,
    ctx::Ctx,
    migration::{Filter, LISTING},
};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show)).routes(routes!(cancel))
}

/// Lists migrations, of all projects; for system readers.
#[utoipa::path(get, path = "/v1/migrations", tag = "migrations", params(ListQuery),
    responses((status = 200, body = List<Revised<Migration>>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let phase = query.phase.as_deref().map(phase).transpose()?;
    let filter = Filter::new(&app, &ctx, phase, query.vm.as_deref(), query.node.as_deref())?;
    query.only(&["phase", "vm", "node"])?.serve(&app, &ctx, LISTING, move |_, it| filter.keeps(it))
}

fn phase(text: &str) -> Result<MigrationPhase> {
    MigrationPhase::deserialize(text.into_deserializer()).map_err(|e: serde::de::value::Error| {
        Error::invalid(format!("?phase={text:?} is no phase of a migration: {e}")).at("?phase")
    })
}

/// Sends a VM to another node; for system admins. The wish is written and answered; the VM follows (`phase` says how far).
#[utoipa::path(post, path = "/v1/migrations", tag = "migrations", request_body = MigrationCreate,
    responses((status = 201, body = Revised<Migration>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<MigrationCreate>) -> Answer<Response> {
    Ok(made(&app.begin_migration(&ctx, &body).await?))
}

/// Shows a migration; for system readers.
#[utoipa::path(get, path = "/v1/migrations/{migration}", tag = "migrations",
    params(("migration" = String, Path, description = "Id")), responses((status = 200, body = Revised<Migration>)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(migration): Path<String>) -> Answer<Response> {
    Ok(shown(&app.migration(&ctx, &migration)?))
}

/// Ends a migration; the VM goes on on its old node. One that is over stays as it is; for system admins.
#[utoipa::path(post, path = "/v1/migrations/{migration}/cancel", tag = "migrations",
    params(("migration" = String, Path, description = "Id")), responses((status = 200, body = Revised<Migration>)))]
async fn cancel(State(app): State<Arc<App>>, ctx: Ctx, Path(migration): Path<String>) -> Answer<Response> {
    Ok(shown(&app.cancel_migration(&ctx, &migration).await?))
}
