//! `/v1/events`.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use hull_types::{event::Event, wire::List};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{extract::Query, list::ListQuery, problem::Answer};
use crate::app::{App, ctx::Ctx, event::LISTING};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Lists history, oldest first. Events that belong to no project are shown to system scope only, with `all-projects`.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(ListQuery),
    responses((status = 200, body = List<Event>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let (resource, system) = (query.resource, ctx.caller.is_system());
    query.only(&["resource"])?.serve(&app, &ctx, LISTING, move |_, event| {
        (system || event.project.is_some()) && resource.is_none_or(|id| event.resource.id == id)
    })
}
