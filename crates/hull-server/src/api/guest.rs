//! `/v1/vms/{vm}/…`: what the VM's node answers at once, and byte streams.

use std::sync::Arc;

use axum::{
    Json as Body,
    extract::{State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use hull_types::{
    error::Error,
    link::{ExecResult, StreamTarget},
    wire::{ExecRequest, PasswordRequest},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{Json, Path, Query},
    pipe,
    problem::{Answer, Refusal},
};
use crate::app::{App, ctx::Ctx};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(exec))
        .routes(routes!(password))
        .routes(routes!(quiesce))
        .routes(routes!(thaw))
        .routes(routes!(agent_ping))
        .routes(routes!(console_log))
        .routes(routes!(screenshot))
        .routes(routes!(console))
        .routes(routes!(vnc))
        .routes(routes!(tcp))
}

/// Runs a program in the guest through its agent.
#[utoipa::path(post, path = "/v1/vms/{vm}/exec", tag = "guests", request_body = ExecRequest,
    params(("vm" = String, Path, description = "Name or id")), responses((status = 200, body = ExecResult)))]
async fn exec(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(vm): Path<String>,
    Json(body): Json<ExecRequest>,
) -> Answer<Body<ExecResult>> {
    Ok(Body(app.exec(&ctx, &vm, &body).await?))
}

/// Sets a user's password in the guest through its agent.
#[utoipa::path(post, path = "/v1/vms/{vm}/password", tag = "guests", request_body = PasswordRequest,
    params(("vm" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn password(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(vm): Path<String>,
    Json(body): Json<PasswordRequest>,
) -> Answer<StatusCode> {
    app.set_password(&ctx, &vm, &body).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How many file systems were frozen or thawed.
#[derive(Debug, Serialize, ToSchema)]
struct FileSystems {
    /// How many.
    count: u64,
}

/// Freezes the guest's file systems through its agent.
#[utoipa::path(post, path = "/v1/vms/{vm}/quiesce", tag = "guests",
    params(("vm" = String, Path, description = "Name or id")), responses((status = 200, body = FileSystems)))]
async fn quiesce(State(app): State<Arc<App>>, ctx: Ctx, Path(vm): Path<String>) -> Answer<Body<FileSystems>> {
    Ok(Body(FileSystems { count: app.quiesce(&ctx, &vm).await? }))
}

/// Thaws the guest's file systems through its agent.
#[utoipa::path(post, path = "/v1/vms/{vm}/thaw", tag = "guests",
    params(("vm" = String, Path, description = "Name or id")), responses((status = 200, body = FileSystems)))]
async fn thaw(State(app): State<Arc<App>>, ctx: Ctx, Path(vm): Path<String>) -> Answer<Body<FileSystems>> {
    Ok(Body(FileSystems { count: app.thaw(&ctx, &vm).await? }))
}

/// Answers once the guest's agent has.
#[utoipa::path(post, path = "/v1/vms/{vm}/agent-ping", tag = "guests",
    params(("vm" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn agent_ping(State(app): State<Arc<App>>, ctx: Ctx, Path(vm): Path<String>) -> Answer<StatusCode> {
    app.ping_agent(&ctx, &vm).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Tail {
    /// At most so many bytes, up to 4 MiB; 64 KiB where absent.
    tail: Option<u32>,
}

/// The newest bytes of the console log.
#[utoipa::path(get, path = "/v1/vms/{vm}/console-log", tag = "guests",
    params(("vm" = String, Path, description = "Name or id"), Tail),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>)))]
async fn console_log(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(vm): Path<String>,
    Query(query): Query<Tail>,
) -> Answer<Response> {
    let log = app.console_log(&ctx, &vm, query.tail).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], log).into_response())
}

/// The screen.
#[utoipa::path(get, path = "/v1/vms/{vm}/screenshot", tag = "guests",
    params(("vm" = String, Path, description = "Name or id")),
    responses((status = 200, content_type = "image/png", body = Vec<u8>)))]
async fn screenshot(State(app): State<Arc<App>>, ctx: Ctx, Path(vm): Path<String>) -> Answer<Response> {
    let png = app.screenshot(&ctx, &vm).await?;
    Ok(([(header::CONTENT_TYPE, "image/png")], png).into_response())
}

/// A WebSocket upgrade, or why it is none.
type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// The serial console, interactive: a WebSocket of binary frames.
#[utoipa::path(get, path = "/v1/vms/{vm}/console", tag = "guests",
    params(("vm" = String, Path, description = "Name or id")), responses((status = 101)))]
async fn console(State(app): State<Arc<App>>, ctx: Ctx, Path(vm): Path<String>, up: Upgrade) -> Answer<Response> {
    open(app, ctx, vm, StreamTarget::Console, up).await
}

/// The VNC server: a WebSocket of binary frames.
#[utoipa::path(get, path = "/v1/vms/{vm}/vnc", tag = "guests",
    params(("vm" = String, Path, description = "Name or id")), responses((status = 101)))]
async fn vnc(State(app): State<Arc<App>>, ctx: Ctx, Path(vm): Path<String>, up: Upgrade) -> Answer<Response> {
    open(app, ctx, vm, StreamTarget::Vnc, up).await
}

/// A TCP connection to one of the VM's ports, made from its network: a WebSocket of binary frames.
#[utoipa::path(get, path = "/v1/vms/{vm}/tcp/{port}", tag = "guests",
    params(("vm" = String, Path, description = "Name or id"), ("port" = u16, Path, description = "TCP port")),
    responses((status = 101)))]
async fn tcp(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path((vm, port)): Path<(String, u16)>,
    up: Upgrade,
) -> Answer<Response> {
    open(app, ctx, vm, StreamTarget::Tcp { port }, up).await
}

/// The stream is opened before the upgrade is answered, so that a refusal is an ordinary problem document.
async fn open(app: Arc<App>, ctx: Ctx, vm: String, target: StreamTarget, up: Upgrade) -> Answer<Response> {
    // Whether there is such a VM for the caller comes before how they ask.
    app.vm(&ctx, &vm)?;
    let up = up.map_err(|e| Refusal(Error::invalid(format!("this is a WebSocket: {}", e.body_text()))))?;
    let io = app.stream(&ctx, &vm, target).await?;
    let over = app.until_revoked(ctx, move |app, ctx| app.node_of(ctx, &vm).map(drop));
    Ok(up.on_upgrade(move |socket| pipe::pipe(socket, io, over)))
}
