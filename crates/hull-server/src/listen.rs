//! The doors: a TCP port that speaks TLS, and a unix socket for root of this host.
//!
//! Both serve the same router; each request carries, as an extension, the [`Peer`] that its connection proves. A connection that does not
//! finish its handshake or headers in time is dropped, so that silent strangers hold nothing.

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hull_types::error::{Error, Result};
use hyper::{Request, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::tls::{Peer, node_of};

/// How long a stranger may take for a TLS handshake, and again for a request's headers.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections at once, over all doors; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 4096;

/// The address at the other end of a connection, as an extension of its requests; absent over the unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote(pub IpAddr);

/// Serves a router on both doors until shut down.
pub struct Doors {
    router: Router,
    stop: CancellationToken,
    tasks: TaskTracker,
    slots: Arc<tokio::sync::Semaphore>,
}

impl Doors {
    /// Doors onto this router, closed when the token is cancelled.
    pub fn new(router: Router, stop: CancellationToken) -> Self {
        Self { router, stop, tasks: TaskTracker::new(), slots: Arc::new(tokio::sync::Semaphore::new(CONNECTIONS)) }
    }

    /// Opens the TCP port; answers the address it is bound to.
    ///
    /// # Errors
    /// Where the port is taken or not ours to take.
    pub async fn tcp(&self, listen: SocketAddr, tls: Arc<rustls::ServerConfig>) -> Result<SocketAddr> {
        let listener = TcpListener::bind(listen).await.map_err(|e| match e.kind() {
            std::io::ErrorKind::AddrInUse => Error::conflict(format!(
                "{listen} is in use by another program (`ss -ltnp` shows which); stop it, or choose another address with --listen"
            )),
            _ => Error::invalid(format!("{listen} cannot be listened on: {e}; choose another address with --listen")),
        })?;
        let address = listener.local_addr().map_err(|e| Error::internal(format!("{listen}: {e}")))?;
        let acceptor = TlsAcceptor::from(tls);
        let door = self.door();
        self.tasks.spawn(async move {
            loop {
                let Some((slot, accepted)) = door.next(listener.accept()).await else { return };
                let Ok((stream, from)) = accepted else { continue };
                let (acceptor, each) = (acceptor.clone(), door.clone());
                door.tasks.spawn(async move {
                    let _slot = slot;
                    // A stranger's broken handshake is theirs to notice.
                    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
                    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    let peer = certificate.and_then(node_of).map_or(Peer::Anonymous, Peer::Node);
                    each.serve(stream, peer, Some(Remote(from.ip().to_canonical()))).await;
                });
            }
        });
        Ok(address)
    }

    /// Opens the unix socket, for root alone. One left behind by a Hull that was killed is replaced; the caller holds the data directory's
    /// lock, so nobody listens on it.
    ///
    /// # Errors
    /// Where the path is too long for a socket (107 bytes), is something else than a socket, or cannot be made.
    pub fn unix(&self, path: &Path) -> Result<()> {
        let listener = bind(path)?;
        let door = self.door();
        let guard = Unlink(path.to_owned());
        self.tasks.spawn(async move {
            let _guard = guard;
            loop {
                let Some((slot, accepted)) = door.next(listener.accept()).await else { return };
                let Ok((stream, _)) = accepted else { continue };
                let each = door.clone();
                door.tasks.spawn(async move {
                    let _slot = slot;
                    let peer = peer(&stream);
                    each.serve(stream, peer, None).await;
                });
            }
        });
        Ok(())
    }

    /// Waits until every connection has ended, after the token was cancelled; at most `grace`.
    pub async fn closed(&self, grace: Duration) {
        self.tasks.close();
        // Connections that outstay the grace are dropped with the process.
        let _ = tokio::time::timeout(grace, self.tasks.wait()).await;
    }

    fn door(&self) -> Door {
        Door {
            router: self.router.clone(),
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
            slots: Arc::clone(&self.slots),
        }
    }
}

/// What each connection needs.
#[derive(Clone)]
struct Door {
    router: Router,
    stop: CancellationToken,
    tasks: TaskTracker,
    slots: Arc<tokio::sync::Semaphore>,
}

impl Door {
    /// A free place and then the next connection; none once the door closes.
    async fn next<T>(
        &self,
        accept: impl Future<Output = std::io::Result<T>>,
    ) -> Option<(tokio::sync::OwnedSemaphorePermit, std::io::Result<T>)> {
        let both = async {
            let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
            let accepted = accept.await;
            if accepted.is_err() {
                // Out of descriptors, most likely: give the others time to end.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Some((slot, accepted))
        };
        tokio::select! {
            next = both => next,
            () = self.stop.cancelled() => None,
        }
    }

    async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
        remote: Option<Remote>,
    ) {
        let service = self.router.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            if let Some(remote) = remote {
                request.extensions_mut().insert(remote);
            }
            request
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
        builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(30)));
        let connection = builder
            .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service))
            .into_owned();
        tokio::pin!(connection);
        tokio::select! {
            // How a connection ends is its peer's affair.
            _ = connection.as_mut() => {}
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
}

/// Removes the socket's file when the door closes.
struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        // The next start replaces it where this fails.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn bind(path: &Path) -> Result<UnixListener> {
    if path.as_os_str().len() > 107 {
        return Err(Error::invalid(format!(
            "{} is longer than a unix socket's path may be (107 bytes); choose a shorter --data-dir",
            path.display()
        )));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => drop(std::fs::remove_file(path)),
        Ok(_) => return Err(Error::conflict(format!("{} is there and is no socket; move it away", path.display()))),
        Err(_) => {}
    }
    let refuse = |e: std::io::Error| Error::invalid(format!("the socket {} cannot be made: {e}", path.display()));
    let listener = UnixListener::bind(path).map_err(refuse)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(refuse)?;
    Ok(listener)
}

/// The kernel says who connected.
fn peer(stream: &UnixStream) -> Peer {
    match stream.peer_cred() {
        Ok(cred) if cred.uid() == 0 => Peer::LocalRoot,
        _ => Peer::Anonymous,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::{Extension, routing::get};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn doors() -> Doors {
        let router = Router::new().route("/", get(async |Extension(peer): Extension<Peer>| format!("{peer:?}")));
        Doors::new(router, CancellationToken::new())
    }

    async fn ask(mut stream: UnixStream) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_socket_tells_who_connected_and_replaces_one_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let doors = doors();
        doors.unix(&path).unwrap();
        let uid = rustix::process::getuid();
        let answer = ask(UnixStream::connect(&path).await.unwrap()).await;
        assert!(answer.ends_with(if uid.is_root() { "LocalRoot" } else { "Anonymous" }), "{answer}");
        doors.stop.cancel();
        doors.closed(Duration::from_secs(5)).await;
        assert!(!path.exists(), "a closed door leaves no socket");
    }

    #[tokio::test]
    async fn a_file_in_the_sockets_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        assert!(doors().unix(&path).unwrap_err().detail.contains("no socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_port_in_use_says_so_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let now = hull_types::Timestamp::now();
        let ca = Arc::new(crate::tls::Ca::open(dir.path(), now).unwrap());
        let shown = crate::tls::ServerCertificate::new(ca, vec!["localhost".into()], now).unwrap();
        let tls = crate::tls::server_config(shown).unwrap();
        let doors = doors();
        let taken = doors.tcp("127.0.0.1:0".parse().unwrap(), Arc::clone(&tls)).await.unwrap();
        let error = doors.tcp(taken, tls).await.unwrap_err();
        assert!(error.detail.contains("--listen"), "{error}");
    }
}
