//! The metadata service's sockets.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Method, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};

use super::{
    super::{
        layout::{METADATA_V4, METADATA_V6},
        metadata::{Answer, Caller, Request, respond},
    },
    Shop,
    seats::Seats,
};

/// Connections of one network at a time; those beyond wait in the listener's queue.
const CONNECTIONS: usize = 256;
/// Those of one caller; further ones are hung up on.
const SHARE: usize = 16;
/// How long a connection may live: metadata is small, and a guest must not collect connections.
const LONGEST: Duration = Duration::from_secs(30);

pub(super) async fn serve(shop: Shop, with_v6: bool) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let seats = Seats::new(SHARE);
    let v4 = accept(shop.clone(), IpAddr::V4(METADATA_V4), Arc::clone(&room), seats.clone());
    if with_v6 {
        tokio::join!(v4, accept(shop, IpAddr::V6(METADATA_V6), room, seats));
    } else {
        v4.await;
    }
}

async fn accept(shop: Shop, address: IpAddr, room: Arc<Semaphore>, seats: Seats) {
    let listener = shop.open("metadata", move || listen(SocketAddr::new(address, 80))).await;
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let Some(seat) = seats.take(peer.ip()) else { continue };
        let shop = shop.clone();
        tokio::spawn(async move {
            Box::pin(converse(shop, stream, peer.ip())).await;
            drop((permit, seat));
        });
    }
}

pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn converse(shop: Shop, stream: impl AsyncRead + AsyncWrite + Unpin, peer: IpAddr) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let answer = answer(&shop, peer, request.method(), request.uri().path(), request.headers());
        async move { Ok::<_, Infallible>(written(answer)) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    // What a guest breaks off is the guest's affair.
    let _ = tokio::time::timeout(LONGEST, served).await;
}

fn answer(shop: &Shop, peer: IpAddr, method: &Method, path: &str, headers: &HeaderMap) -> Answer {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let view = shop.view();
    let Some(port) = view.port_of_address(peer) else { return Answer::refusal(404, "no VM has this address") };
    let Some(guest) = port.vm.and_then(|vm| shop.guests.get(vm)) else {
        return Answer::refusal(503, "the node does not know this VM yet; try again");
    };
    let request = Request {
        method: method.as_str().to_owned(),
        path: path.to_owned(),
        token: header("x-aws-ec2-metadata-token"),
        token_life: header("x-aws-ec2-metadata-token-ttl-seconds"),
        forwarded: headers.contains_key("x-forwarded-for"),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    respond(Caller { network: view.network(), port, guest: &guest }, &request, &shop.tokens, now)
}

fn written(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = hyper::StatusCode::from_u16(answer.status).unwrap_or(hyper::StatusCode::NOT_FOUND);
    let headers = response.headers_mut();
    headers.insert(hyper::header::CONTENT_TYPE, hyper::header::HeaderValue::from_static(answer.content_type));
    headers.insert(hyper::header::SERVER, hyper::header::HeaderValue::from_static("hull"));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod hostile_tests;
