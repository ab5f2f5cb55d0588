//! `/v1/auth/…`: logging in, staying in, logging out.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension, Json as Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use hull_types::wire::{AuthMethods, Login, OidcLogin, Session};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{extract::Json, problem::Answer};
use crate::{
    app::{App, ctx::Ctx, trail::Trail},
    listen::Remote,
};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(login))
        .routes(routes!(oidc))
        .routes(routes!(renew))
        .routes(routes!(logout))
        .routes(routes!(methods))
}

/// Tells how one can log in; open to everyone.
#[utoipa::path(get, path = "/v1/auth/methods", tag = "auth", security(()),
    responses((status = 200, body = AuthMethods)))]
async fn methods(State(app): State<Arc<App>>) -> Body<AuthMethods> {
    Body(app.auth_methods())
}

/// Logs in with a user's name and password; answers a token that works for an hour. Open to everyone, but not often.
#[utoipa::path(post, path = "/v1/auth/login", tag = "auth", request_body = Login, security(()),
    responses((status = 200, body = Session)))]
async fn login(
    State(app): State<Arc<App>>,
    remote: Option<Extension<Remote>>,
    trail: Option<Extension<Trail>>,
    Json(body): Json<Login>,
) -> Answer<Response> {
    let session = app.login(&body, address(remote, trail.as_ref())).await?;
    told(&app, trail, &session);
    Ok(secret(session))
}

/// Logs in who an identity provider's ID token is about; answers a token that works for an hour. Open to everyone, but not often.
#[utoipa::path(post, path = "/v1/auth/oidc", tag = "auth", request_body = OidcLogin, security(()),
    responses((status = 200, body = Session)))]
async fn oidc(
    State(app): State<Arc<App>>,
    remote: Option<Extension<Remote>>,
    trail: Option<Extension<Trail>>,
    Json(body): Json<OidcLogin>,
) -> Answer<Response> {
    let session = app.login_oidc(&body, address(remote, trail.as_ref())).await?;
    told(&app, trail, &session);
    Ok(secret(session))
}

/// Another token for a signed one that still works, or for an application credential.
#[utoipa::path(post, path = "/v1/auth/renew", tag = "auth", responses((status = 200, body = Session)))]
async fn renew(State(app): State<Arc<App>>, ctx: Ctx) -> Answer<Response> {
    Ok(secret(app.renew(&ctx).await?))
}

/// Ends the session of this token, at once.
#[utoipa::path(post, path = "/v1/auth/logout", tag = "auth", responses((status = 204)))]
async fn logout(State(app): State<Arc<App>>, ctx: Ctx) -> Answer<StatusCode> {
    app.logout(&ctx).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whose tries are counted: behind a trusted proxy those of each client, not of all together.
fn address(remote: Option<Extension<Remote>>, trail: Option<&Extension<Trail>>) -> Option<IpAddr> {
    trail.map_or_else(|| remote.map(|Extension(Remote(from))| from), |Extension(trail)| trail.address())
}

/// Who has logged in is known only now; the audit is to tell it.
fn told(app: &App, trail: Option<Extension<Trail>>, session: &Session) {
    if let (Some(Extension(trail)), Ok(caller)) = (trail, app.bearer(session.token.expose())) {
        trail.known(&caller, None);
    }
}

/// An answer that nobody on its way may keep (RFC 6749 section 5.1).
fn secret(session: Session) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Body(session)).into_response()
}
