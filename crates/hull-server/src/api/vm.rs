//! `/v1/vms`: documents and acts. What needs the VM's node at once is in [`super::guest`].

use std::sync::Arc;

use axum::{
    Json as Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hull_core::path::Asked;
use hull_types::{
    error::{Error, Result},
    path::{PathExplanation, PathProtocol},
    security_group::Family,
    vm::VmState,
    wire::{Explanation, List, VmAction, VmCreate, VmUpdate, VmView},
};
use serde::Deserialize;
use serde::{Serialize, de::IntoDeserializer};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    answer::shown,
    extract::{Json, Path, Query},
    list::ListQuery,
    problem::Answer,
};
use crate::app::{
    App,
    ctx::Ctx,
    path::PathAsked,
    vm::{Filter, LISTING},
};

pub(crate) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, update, delete))
        .routes(routes!(act))
        .routes(routes!(explain))
        .routes(routes!(explain_path))
        .routes(routes!(user_data))
}

/// Lists a project's VMs.
#[utoipa::path(get, path = "/v1/vms", tag = "vms", params(ListQuery), responses((status = 200, body = List<VmView>)))]
async fn list(State(app): State<Arc<App>>, ctx: Ctx, Query(query): Query<ListQuery>) -> Answer<Response> {
    let wanted = query.state.as_deref().map(state).transpose()?;
    let filter = Filter::new(&app, &ctx, wanted, query.node.as_deref(), query.image.as_deref())?;
    let env = app.env().clone();
    query
        .only(&["state", "node", "image"])?
        .serve(&app, &ctx, LISTING, move |state, vm| filter.keeps(state, vm, env.now()))
}

fn state(text: &str) -> hull_types::error::Result<VmState> {
    VmState::deserialize(text.into_deserializer()).map_err(|e: serde::de::value::Error| {
        hull_types::error::Error::invalid(format!("?state={text:?} is no state of a VM: {e}")).at("?state")
    })
}

/// Makes a VM, or `count` of them; all or none.
#[utoipa::path(post, path = "/v1/vms", tag = "vms", request_body = VmCreate,
    responses((status = 201, body = List<VmView>)))]
async fn create(State(app): State<Arc<App>>, ctx: Ctx, Json(body): Json<VmCreate>) -> Answer<Response> {
    Ok((StatusCode::CREATED, Body(app.create_vms(&ctx, &body).await?)).into_response())
}

/// Shows a VM.
#[utoipa::path(get, path = "/v1/vms/{vm}", tag = "vms",
    params(("vm" = String, Path, description = "Name or id")), responses((status = 200, body = VmView)))]
async fn show(State(app): State<Arc<App>>, ctx: Ctx, Path(vm): Path<String>) -> Answer<Response> {
    Ok(shown(&app.vm(&ctx, &vm)?))
}

/// Changes a VM's name, texts or restart policy.
#[utoipa::path(patch, path = "/v1/vms/{vm}", tag = "vms", request_body = VmUpdate,
    params(("vm" = String, Path, description = "Name or id")), responses((status = 200, body = VmView)))]
async fn update(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(vm): Path<String>,
    Json(body): Json<VmUpdate>,
) -> Answer<Response> {
    Ok(shown(&app.update_vm(&ctx, &vm, &body).await?))
}

/// Deletes a VM, in whatever state it is; refused only where it is locked.
#[utoipa::path(delete, path = "/v1/vms/{vm}", tag = "vms",
    params(("vm" = String, Path, description = "Name or id")), responses((status = 204)))]
async fn delete(State(app): State<Arc<App>>, ctx: Ctx, Path(vm): Path<String>) -> Answer<Response> {
    app.delete_vm(&ctx, &vm).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Acts on a VM. The wish is written and answered; the VM follows (`settled` says when).
#[utoipa::path(post, path = "/v1/vms/{vm}/actions", tag = "vms", request_body = VmAction,
    params(("vm" = String, Path, description = "Name or id")), responses((status = 200, body = VmView)))]
async fn act(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(vm): Path<String>,
    Json(body): Json<VmAction>,
) -> Answer<Response> {
    Ok(shown(&app.act_on_vm(&ctx, &vm, &body).await?))
}

/// Explains why a VM is as it is.
#[utoipa::path(get, path = "/v1/vms/{vm}/explain", tag = "vms",
    params(("vm" = String, Path, description = "Name or id")), responses((status = 200, body = Explanation)))]
async fn explain(State(app): State<Arc<App>>, ctx: Ctx, Path(vm): Path<String>) -> Answer<Body<Explanation>> {
    Ok(Body(app.explain_vm(&ctx, &vm).await?))
}

/// The query of an explained path.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PathParameters {
    /// Where the packet goes: a VM's name or id, an address, or `internet`.
    to: String,
    /// `tcp`, `udp` or `icmp`; `tcp` with a port, `icmp` without.
    protocol: Option<String>,
    /// The destination's port.
    port: Option<u16>,
    /// `ipv4` or `ipv6`; the first that both ends have where absent.
    family: Option<Family>,
    /// The packet's size in bytes, with its IP header.
    size: Option<u16>,
    /// Name or id of the project.
    #[serde(rename = "project")]
    _project: Option<String>,
}

impl PathParameters {
    fn asked(self) -> Result<PathAsked> {
        let protocol = match (self.protocol.as_deref(), self.port) {
            (Some("tcp") | None, Some(port)) => PathProtocol::Tcp { port },
            (Some("udp"), Some(port)) => PathProtocol::Udp { port },
            (Some("icmp") | None, None) => PathProtocol::Icmp,
            (Some("tcp" | "udp"), None) => {
                return Err(Error::invalid("tcp and udp need a port; give ?port=").at("?port"));
            }
            (Some("icmp"), Some(_)) => {
                return Err(Error::invalid("icmp has no ports; leave ?port= out").at("?port"));
            }
            (Some(other), _) => {
                let other: String = other.chars().take(20).collect();
                return Err(Error::invalid(format!("{other:?} is none of tcp, udp, icmp")).at("?protocol"));
            }
        };
        Ok(PathAsked { to: self.to, packet: Asked { protocol, family: self.family, size: self.size } })
    }
}

/// Explains how far a packet gets, hop by hop, from what nodes' kernels hold.
#[utoipa::path(get, path = "/v1/vms/{vm}/path", tag = "vms",
    params(("vm" = String, Path, description = "Name or id of the sender"), PathParameters),
    responses((status = 200, body = PathExplanation)))]
async fn explain_path(
    State(app): State<Arc<App>>,
    ctx: Ctx,
    Path(vm): Path<String>,
    Query(query): Query<PathParameters>,
) -> Answer<Body<PathExplanation>> {
    Ok(Body(app.explain_path(&ctx, &vm, &query.asked()?).await?))
}

/// A VM's user data.
#[derive(Debug, Serialize, ToSchema)]
struct UserData {
    /// Base64; absent where none was given.
    user_data: Option<String>,
}

/// Shows a VM's user data; for members.
#[utoipa::path(get, path = "/v1/vms/{vm}/user-data", tag = "vms",
    params(("vm" = String, Path, description = "Name or id")), responses((status = 200, body = UserData)))]
async fn user_data(State(app): State<Arc<App>>, ctx: Ctx, Path(vm): Path<String>) -> Answer<Body<UserData>> {
    Ok(Body(UserData { user_data: app.user_data(&ctx, &vm)? }))
}
