//! The link over the network: messages in a WebSocket over mTLS, streams and images over connections of their own.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt, StreamExt, TryStreamExt};
use http::{Request, header};
use http_body_util::{BodyDataStream, Full};
use hull_core::certificate::Validity;
use hull_types::{
    digest::Digest,
    error::{Error, Result},
    id::{MigrationId, StreamId},
    link::{FromNode, Joined, RenewRequest, ToNode},
};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
    net::TcpStream,
    sync::mpsc,
    time::{interval, timeout},
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};
use tokio_util::io::StreamReader;

use super::{Certificate, Connector, Identity, Link, join, renew, tls};
use crate::hypervisor::ByteStream;

/// Messages under way in each direction before the sender waits.
const DEPTH: usize = 256;
/// The largest message: everything a node shall hold, of which the server is trusted to know the measure.
const MESSAGE_MOST: usize = 1 << 30;
/// How long a connection may take to be made.
const DIAL_WITHIN: Duration = Duration::from_secs(10);
/// How long a server may take to sign.
const RENEW_WITHIN: Duration = Duration::from_secs(30);
/// How often a silent server is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(10);
/// A server that says nothing for so long, not even to a ping, is gone.
const SILENT_AT_MOST: Duration = Duration::from_secs(35);
/// Bytes of a stream under way, and read at once.
const BUFFER: usize = 64 * 1024;
const CHUNK: usize = 16 * 1024;

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// A server reached over the network.
pub struct Remote {
    server: String,
    held: RwLock<Held>,
}

/// Who we are to the server, until the certificate is renewed.
#[derive(Clone)]
struct Held {
    identity: Identity,
    tls: Arc<ClientConfig>,
    certificate: Certificate,
}

impl Held {
    fn new(identity: Identity) -> Result<Self> {
        let validity = renew::validity(&identity.certificate)?;
        let tls = tls::of_node(&identity)?;
        Ok(Self { identity, tls, certificate: Certificate { validity, trouble: None } })
    }
}

impl Remote {
    /// The server this identity was given by.
    pub fn new(identity: &Identity) -> Result<Self> {
        Ok(Self { server: identity.server.clone(), held: RwLock::new(Held::new(identity.clone())?) })
    }

    fn held(&self) -> Held {
        // Every change under this lock is whole even if its holder panicked.
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The certificate in use.
    pub(super) fn certificate_held(&self) -> Certificate {
        self.held().certificate
    }

    /// That it could not be renewed.
    pub(super) fn not_renewed(&self, why: &Error) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.certificate.trouble = Some(why.detail.clone());
    }

    /// Asks for a new certificate by the old one, keeps it in the directory and uses it from the next connection on.
    pub(super) async fn renew(&self, dir: &Path) -> Result<Validity> {
        let before = self.held().identity;
        let (key, request) = join::request()?;
        let body = serde_json::to_vec(&RenewRequest { request }).map_err(|e| Error::internal(e.to_string()))?;
        let asked = join::ask(self.dial().await?, &self.server, "/node/v1/renew", body);
        let late = || Error::timeout(format!("{} did not answer in time", self.server));
        let given: Joined = timeout(RENEW_WITHIN, asked).await.unwrap_or_else(|_| Err(late()))?;
        if given.node != before.node || given.ca != before.ca {
            return Err(Error::internal("the server gave a certificate of another node or CA; it is not taken"));
        }
        let held = Held::new(Identity { certificate: given.certificate, key, ..before })?;
        held.identity.save(dir).await?;
        let validity = held.certificate.validity;
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = held;
        Ok(validity)
    }

    async fn dial(&self) -> Result<TlsStream<TcpStream>> {
        let late = || Error::timeout(format!("{} does not answer", self.server));
        let dialled = timeout(DIAL_WITHIN, tls::dial(&self.server, self.held().tls)).await;
        dialled.unwrap_or_else(|_| Err(late()))
    }

    async fn socket(&self, path: &str) -> Result<Socket> {
        let stream = self.dial().await?;
        let url = format!("wss://{}{path}", self.server);
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MOST)).max_frame_size(Some(MESSAGE_MOST));
        let late = || Error::timeout(format!("{} does not answer", self.server));
        let up = timeout(DIAL_WITHIN, Box::pin(client_async_with_config(url, stream, Some(config)))).await;
        let (socket, _) = up
            .map_err(|_| late())?
            .map_err(|e| Error::unavailable(format!("{} does not take {path}: {e}", self.server)))?;
        Ok(socket)
    }
}

#[async_trait]
impl Connector for Remote {
    async fn connect(&self) -> Result<Link> {
        let socket = self.socket("/node/v1/link").await?;
        let (tx, from_node) = mpsc::channel(DEPTH);
        let (to_node, rx) = mpsc::channel(DEPTH);
        tokio::spawn(carry(socket, from_node, to_node));
        Ok(Link { tx, rx })
    }

    async fn open_stream(&self, id: StreamId) -> Result<Box<dyn ByteStream>> {
        let socket = self.socket(&format!("/node/v1/streams/{id}")).await?;
        let (near, far) = duplex(BUFFER);
        tokio::spawn(stream(socket, far));
        Ok(Box::new(near))
    }

    async fn image(&self, digest: Digest) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
        let request = Request::builder()
            .uri(format!("/node/v1/images/{digest}"))
            .header(header::HOST, &self.server)
            .body(Full::new(Bytes::new()))
            .map_err(|e| Error::internal(e.to_string()))?;
        let body = join::send(self.dial().await?, request).await?;
        let stream = BodyDataStream::new(body).map_err(std::io::Error::other);
        Ok(Box::new(StreamReader::new(stream)))
    }

    async fn handover(&self, migration: MigrationId) -> Result<Box<dyn ByteStream>> {
        let socket = self.socket(&format!("/node/v1/handovers/{migration}")).await?;
        let (near, far) = duplex(BUFFER);
        tokio::spawn(stream(socket, far));
        Ok(Box::new(near))
    }

    fn certificate(&self) -> Option<Certificate> {
        Some(self.certificate_held())
    }
}

/// Carries a link's messages until either end is done, or the server is silent.
async fn carry(socket: Socket, mut from_node: mpsc::Receiver<FromNode>, to_node: mpsc::Sender<ToNode>) {
    let (mut sink, mut source) = socket.split();
    let inward = async {
        while let Ok(Some(Ok(message))) = timeout(SILENT_AT_MOST, source.next()).await {
            let Message::Text(text) = message else { continue };
            match serde_json::from_str(&text) {
                Ok(message) => {
                    if to_node.send(message).await.is_err() {
                        return;
                    }
                }
                // A newer server may say things this node does not know; what it does know goes on.
                Err(error) => tracing::warn!(%error, "a message of the server's cannot be read"),
            }
        }
    };
    let outward = async {
        let mut ping = interval(PING_EVERY);
        loop {
            let message = tokio::select! {
                message = from_node.recv() => match message {
                    Some(message) => match serde_json::to_string(&message) {
                        Ok(text) => Message::Text(text.into()),
                        Err(error) => {
                            tracing::error!(%error, "a message to the server cannot be written");
                            continue;
                        }
                    },
                    None => return,
                },
                _ = ping.tick() => Message::Ping(Bytes::new()),
            };
            if sink.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

/// Carries a byte stream in binary frames until either end is done. An empty frame says that its sender says no more.
async fn stream(socket: Socket, io: DuplexStream) {
    let (mut sink, mut source) = socket.split();
    let (mut reader, mut writer) = split(io);
    let inward = async {
        while let Some(Ok(message)) = source.next().await {
            let done = match message {
                Message::Binary(bytes) if bytes.is_empty() => writer.shutdown().await.is_err(),
                Message::Binary(bytes) => writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err(),
                Message::Close(_) => true,
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => false,
            };
            if done {
                return;
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(n) = reader.read(&mut buffer).await {
            let bytes = Bytes::copy_from_slice(&buffer[..n]);
            if sink.send(Message::Binary(bytes)).await.is_err() {
                return;
            }
            if n == 0 {
                // Our side is done; the other may still have to say something.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}
