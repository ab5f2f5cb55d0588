//! `/node/v1`: joining, and what nodes use once they have a certificate.

use std::sync::Arc;

use axum::{
    Extension, Json as Body, Router,
    body::Body as Bytes,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use futures::{SinkExt, StreamExt};
use hull_types::{
    digest::Digest,
    error::{Error, Result},
    id::{MigrationId, NodeId, StreamId},
    link::{FromNode, JoinRequest, Joined, RenewRequest, ToNode},
};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;

use super::{
    extract::{Json, Path},
    pipe,
    problem::Answer,
};
use crate::{
    app::{App, trail::Trail},
    tls::{Ca, Peer},
};

/// Messages on their way in one direction.
const QUEUE: usize = 256;
/// The largest message: a network of tens of thousands of ports.
const MESSAGE_MAX: usize = 64 << 20;
/// Bytes on their way in one direction of a stream.
const STREAM: usize = 64 << 10;

/// What these handlers need.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) app: Arc<App>,
    pub(crate) ca: Arc<Ca>,
}

pub(crate) fn routes(door: Door) -> Router {
    Router::new()
        .route("/node/v1/join", post(join))
        .route("/node/v1/renew", post(renew))
        .route("/node/v1/link", any(link))
        .route("/node/v1/streams/{id}", any(stream))
        .route("/node/v1/handovers/{migration}", any(handover))
        .route("/node/v1/images/{digest}", get(image))
        .with_state(door)
}

/// A host with a join token becomes a node.
async fn join(
    State(door): State<Door>,
    peer: Option<Extension<Peer>>,
    trail: Option<Extension<Trail>>,
    Json(body): Json<JoinRequest>,
) -> Answer<Body<Joined>> {
    // Before the token is used up.
    Ca::check_request(&body.request)?;
    let proves = node(peer).ok();
    let trail = trail.map(|Extension(trail)| trail);
    let node = door.app.join_by_token(&body.secret, &body.name, proves, trail).await?;
    let signed = door.ca.sign_node(&body.request, node, door.app.env().now())?;
    Ok(Body(Joined { node, certificate: signed.certificate, ca: signed.ca }))
}

/// A node has a new certificate signed by the old one: for itself, while it is registered.
async fn renew(
    State(door): State<Door>,
    peer: Option<Extension<Peer>>,
    Json(body): Json<RenewRequest>,
) -> Answer<Body<Joined>> {
    let node = node(peer)?;
    if door.app.cache().read(|state| state.nodes.get(node).is_none()) {
        return Err(Error::not_found("this node was removed; join the host again with a join token").into());
    }
    let signed = door.ca.sign_node(&body.request, node, door.app.env().now())?;
    tracing::info!(%node, "a node's certificate was renewed");
    Ok(Body(Joined { node, certificate: signed.certificate, ca: signed.ca }))
}

/// The node a connection proves to be.
fn node(peer: Option<Extension<Peer>>) -> Result<NodeId> {
    match peer {
        Some(Extension(Peer::Node(node))) => Ok(node),
        _ => Err(Error::unauthenticated("this is for nodes: connect with the certificate that joining gave")),
    }
}

async fn link(State(door): State<Door>, peer: Option<Extension<Peer>>, up: WebSocketUpgrade) -> Answer<Response> {
    let node = node(peer)?;
    Ok(up.max_message_size(MESSAGE_MAX).on_upgrade(move |socket| serve(door, node, socket)))
}

/// Carries a link's messages between a WebSocket and the hub.
async fn serve(door: Door, node: NodeId, socket: WebSocket) {
    let (to_hub, from_node) = mpsc::channel::<FromNode>(QUEUE);
    let (to_node, mut from_hub) = mpsc::channel::<ToNode>(QUEUE);
    let (mut sink, mut source) = socket.split();
    let inward = async {
        while let Some(Ok(message)) = source.next().await {
            let Message::Text(text) = message else { continue };
            match serde_json::from_str(&text) {
                Ok(message) => {
                    if to_hub.send(message).await.is_err() {
                        return;
                    }
                }
                // A newer node may say things this server does not know; what it does know goes on.
                Err(error) => tracing::warn!(%node, %error, "a node's message cannot be read"),
            }
        }
    };
    let outward = async {
        while let Some(message) = from_hub.recv().await {
            let Ok(text) = serde_json::to_string(&message) else { continue };
            if sink.send(Message::Text(text.into())).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        outcome = door.app.hub().attach(node, from_node, to_node) => match outcome {
            Ok(()) => tracing::info!(%node, "a node's link ended"),
            Err(error) => tracing::warn!(%node, %error, "a node's link ended"),
        },
        () = inward => tracing::info!(%node, "a node hung up"),
        () = outward => tracing::info!(%node, "a node's link broke"),
    }
}

/// A node dials back for a stream that was asked of it.
async fn stream(
    State(door): State<Door>,
    peer: Option<Extension<Peer>>,
    Path(id): Path<StreamId>,
    up: WebSocketUpgrade,
) -> Answer<Response> {
    let node = node(peer)?;
    let (near, far) = tokio::io::duplex(STREAM);
    door.app.hub().accept_stream(node, id, Box::new(far))?;
    Ok(up.on_upgrade(move |socket| pipe::pipe(socket, Box::new(near), std::future::pending())))
}

/// A node fetches a VM that goes to it.
async fn handover(
    State(door): State<Door>,
    peer: Option<Extension<Peer>>,
    Path(migration): Path<MigrationId>,
    up: WebSocketUpgrade,
) -> Answer<Response> {
    let from = door.app.hub().handover(node(peer)?, migration).await?;
    Ok(up.on_upgrade(move |socket| pipe::pipe(socket, from, std::future::pending())))
}

/// An image's stored bytes, by their name.
async fn image(
    State(door): State<Door>,
    peer: Option<Extension<Peer>>,
    Path(digest): Path<Digest>,
) -> Answer<Response> {
    node(peer)?;
    let blob = door.app.image_store()?.open_blob(&digest).await?;
    let length = blob.metadata().map_err(|e| Error::internal(format!("image {digest}: {e}")))?.len();
    let blob = tokio::fs::File::from_std(blob);
    let body = Bytes::from_stream(ReaderStream::with_capacity(blob, 256 << 10));
    let mut response = ([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}
