//! `/v1/audit`.

use std::sync::Arc;

use axum::{
    Json as Body,
    body::Body as Bytes,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use hull_types::{
    Timestamp,
    audit::Audit,
    error::{Error, Problem},
    wire::List,
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{extract::Query, list::line, problem::Answer};
use crate::app::{App, audit::Wanted, ctx::Ctx};

/// The most of a page, and how many where the caller does not say.
const LIMIT_MAX: usize = 1_000;
const LIMIT: usize = 100;

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum Form {
    /// A page.
    #[default]
    Json,
    /// All records, one a line.
    Jsonl,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// At most so many, 1 to 1,000; 100 where absent. Not for `format=jsonl`.
    limit: Option<usize>,
    /// The `next` of the page before. A page may be shorter than its limit and still have one.
    after: Option<Uuid>,
    /// Name or id of the project. Where absent: the caller's own; for system admins, everything.
    #[serde(rename = "project")]
    _project: Option<String>,
    /// Everything; for system admins.
    #[serde(default)]
    all_projects: bool,
    /// Not before (RFC 3339).
    #[param(value_type = Option<String>)]
    since: Option<Timestamp>,
    /// Not after (RFC 3339).
    #[param(value_type = Option<String>)]
    until: Option<Timestamp>,
    /// Whose: the id of an actor or credential, or a kind of actor (`local-root`).
    actor: Option<String>,
    /// What: an operation (`vms.create`), or all of a noun (`vms`).
    action: Option<String>,
    /// On what: an id or a name.
    resource: Option<String>,
    /// How it ended: `ok`, `replayed`, `refused` or `broken-off`.
    outcome: Option<String>,
    /// A page (`json`), or all records as JSON lines (`jsonl`).
    #[serde(default)]
    #[param(inline)]
    format: Form,
}

/// Lists audit records, oldest first: a project's for its admins, all for the system's.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(AuditQuery),
    responses((status = 200, body = List<Audit>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<AuditQuery>) -> Answer<Response> {
    let whose = app.audit_of(&ctx, query.all_projects)?;
    let outcomes = ["ok", "replayed", "refused", "broken-off"];
    if let Some(word) = query.outcome.as_deref().filter(|word| !outcomes.contains(word)) {
        let detail = format!("?outcome={word:?} is none; there are {}", outcomes.join(", "));
        return Err(Error::invalid(detail).at("?outcome").into());
    }
    let limit = query.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Error::invalid(format!("a page has 1 to {LIMIT_MAX} items, not {limit}")).at("?limit").into());
    }
    let AuditQuery { since, until, actor, action, resource, outcome, .. } = query;
    let wanted = Wanted { since, until, actor, action, resource, outcome };
    // Counts of what goes on right now are part of the answer.
    app.flush_audit().await;
    match query.format {
        Form::Json => Ok(Body(app.audit(whose, &wanted, query.after, limit).await?).into_response()),
        Form::Jsonl => {
            let records = app.audit_stream(whose, wanted, query.after);
            let lines = records.map(|record| match record {
                Ok(record) => line(&record),
                // The stream has begun, so its end is told in its own last line.
                Err(error) => line(&Problem::from(error)),
            });
            let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
            Ok((headers, Bytes::from_stream(lines)).into_response())
        }
    }
}
