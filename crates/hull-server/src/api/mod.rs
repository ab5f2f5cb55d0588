//! The API's words. Handlers unpack, call one service and answer; what is decided is decided elsewhere.
//!
//! ```text
//!   request ─> id, problem documents ─> audit ─> panics caught ─> room for it? ─> who calls? ─> replay key ─> handler
//! ```

pub(crate) mod answer;
mod app_credential;
mod audit;
mod auth;
mod event;
mod extract;
mod flavor;
mod floating_ip;
mod guest;
mod image;
mod keypair;
mod link;
mod list;
mod migration;
mod network;
mod node;
mod pipe;
mod port;
pub mod problem;
mod project;
mod role_assignment;
mod router;
mod security_group;
mod session;
mod status;
mod subnet;
mod token;
mod trail;
mod user;
mod user_group;
mod vm;

use std::sync::Arc;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use hull_types::error::{Error, Problem};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::{
    OpenApi,
    openapi::{
        ContentBuilder, Ref, RefOr, ResponseBuilder,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::router::OpenApiRouter;

use crate::{app::App, tls::Ca};

/// Requests under way at once; more are refused, so that a flood costs its senders and not the server's memory.
const ROOM: usize = 4_096;

#[derive(OpenApi)]
#[openapi(
    info(title = "Hull", description = "A cloud of virtual machines in one binary.", license(name = "Apache-2.0")),
    components(schemas(Problem))
)]
struct Described;

fn described() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Described::openapi())
        .merge(status::routes())
        .merge(token::routes())
        .merge(project::routes())
        .merge(flavor::routes())
        .merge(keypair::routes())
        .merge(image::routes())
        .merge(vm::routes())
        .merge(guest::routes())
        .merge(network::routes())
        .merge(subnet::routes())
        .merge(port::routes())
        .merge(security_group::routes())
        .merge(router::routes())
        .merge(floating_ip::routes())
        .merge(node::routes())
        .merge(migration::routes())
        .merge(event::routes())
        .merge(session::routes())
        .merge(user::routes())
        .merge(user_group::routes())
        .merge(role_assignment::routes())
        .merge(app_credential::routes())
        .merge(audit::routes())
}

/// The API's description, OpenAPI 3.1; checked in as `openapi.json`.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut api) = described().split_for_parts();
    let components = api.components.get_or_insert_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    api.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    // Every call may be refused, and every refusal has the same form.
    let refusal = ResponseBuilder::new()
        .description("Refused: a problem document (RFC 9457)")
        .content(
            "application/problem+json",
            ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build(),
        )
        .build();
    for (place, path) in &mut api.paths.paths {
        let noun = place.trim_start_matches("/v1/").split('/').next().unwrap_or_default();
        let operations = [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch];
        for operation in operations.into_iter().flatten() {
            // Handlers are called alike in every noun; an operation's name is one of a kind.
            operation.operation_id = operation.operation_id.take().map(|name| format!("{noun}.{name}"));
            operation.responses.responses.insert("default".to_owned(), RefOr::T(refusal.clone()));
        }
    }
    api
}

/// The whole router. With a CA, nodes may join and link over the network.
pub fn router(app: Arc<App>, ca: Option<Arc<Ca>>) -> Router {
    let gate = auth::Gate::new(app.clone());
    let (api, _) = described().split_for_parts();
    let authenticated = api
        .route("/metrics", get(status::metrics))
        .layer(from_fn(extract::replay_key))
        .layer(from_fn_with_state(gate, auth::authenticate));
    let mut router = Router::new().merge(authenticated).route("/healthz", get(status::healthz)).with_state(app.clone());
    if let Some(ca) = ca {
        router = router.merge(link::routes(link::Door { app: app.clone(), ca }));
    }
    router
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(from_fn_with_state(app.clone(), measure))
        .layer(from_fn_with_state(Arc::new(Semaphore::new(ROOM)), room))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(from_fn_with_state(app, trail::follow))
        .layer(from_fn(problem::render))
}

async fn measure(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = tokio::time::Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = next.run(request).await;
    let route = route.as_deref().unwrap_or("none");
    app.metrics.answered(method.as_str(), route, response.status().as_u16(), started.elapsed());
    response
}

async fn room(State(room): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match room.try_acquire() {
        Ok(_place) => next.run(request).await,
        Err(_) => {
            problem::Refusal(Error::unavailable("too many requests at once; try again in a moment")).into_response()
        }
    }
}
