//! WebSockets: interactive byte streams (console, VNC, TCP into a VM's network).

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use hull_types::error::{Error, Result};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error as WsError, Message, client::IntoClientRequest},
};

use crate::{
    endpoint::{Endpoint, tls},
    http::{Client, Query, refusal},
};

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// An open byte stream.
pub struct Socket(WebSocketStream<Box<dyn Wire>>);

impl Client {
    /// Opens the byte stream at this path.
    pub async fn socket(&self, path: &str, query: &Query<'_>) -> Result<Socket> {
        let mut url = self.url(path, query)?;
        let server = self.endpoint.describe();
        let lost = |e: std::io::Error| Error::unavailable(format!("no Hull answers at {server}: {e}"));
        let scheme = if matches!(self.endpoint, Endpoint::Unix(_)) { "ws" } else { "wss" };
        url.set_scheme(scheme).map_err(|()| Error::internal("an http URL takes the ws scheme"))?;
        let wire: Box<dyn Wire> = match &self.endpoint {
            Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(lost)?),
            Endpoint::Https { ca_pem, .. } => {
                let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let port = url.port_or_known_default().unwrap_or(443);
                let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(lost)?;
                let name = ServerName::try_from(host).map_err(|e| Error::invalid(format!("the server's name: {e}")))?;
                let connector = TlsConnector::from(Arc::new(tls(ca_pem)?));
                Box::new(connector.connect(name, tcp).await.map_err(lost)?)
            }
        };
        let mut request = url.as_str().into_client_request().map_err(|e| Error::internal(e.to_string()))?;
        if let Some(token) = &self.token {
            let value = format!("Bearer {}", token.expose())
                .parse()
                .map_err(|_| Error::unauthenticated("the token has characters that no token has"))?;
            request.headers_mut().insert("authorization", value);
        }
        match client_async(request, wire).await {
            Ok((stream, _)) => Ok(Socket(stream)),
            Err(WsError::Http(response)) => {
                Err(refusal(response.status(), response.body().as_deref().unwrap_or_default()))
            }
            Err(error) => Err(Error::unavailable(format!("the stream could not be opened: {error}"))),
        }
    }
}

impl Socket {
    /// Copies both ways until either side ends: `from` into the stream, the stream into `to`. Returns when the far side
    /// closed, or when `from` ended and the far side has answered all.
    pub async fn pipe(self, from: impl AsyncRead + Unpin, to: impl AsyncWrite + Unpin) -> Result<()> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut sink, mut stream) = self.0.split();
        let (mut from, mut to) = (from, to);
        let mut buffer = vec![0; 16 * 1024];
        let mut open = true;
        loop {
            tokio::select! {
                read = from.read(&mut buffer), if open => match read.map_err(|e| broken(&e))? {
                    0 => {
                        // An empty frame is end of input; the far side may still have something to say.
                        open = false;
                        sink.send(Message::Binary(bytes::Bytes::new())).await.map_err(|e| broken(&e))?;
                    }
                    n => sink
                        .send(Message::Binary(bytes::Bytes::copy_from_slice(&buffer[..n])))
                        .await
                        .map_err(|e| broken(&e))?,
                },
                message = stream.next() => match message {
                    Some(Ok(Message::Binary(data))) => {
                        to.write_all(&data).await.map_err(|e| broken(&e))?;
                        to.flush().await.map_err(|e| broken(&e))?;
                    }
                    Some(Ok(Message::Text(text))) => to.write_all(text.as_bytes()).await.map_err(|e| broken(&e))?,
                    Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) != 1000 => {
                        return Err(Error::unavailable(frame.reason.to_string()));
                    }
                    Some(Ok(Message::Close(_))) | None => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(WsError::ConnectionClosed | WsError::AlreadyClosed)) => return Ok(()),
                    Some(Err(error)) => return Err(broken(&error)),
                },
            }
        }
    }
}

fn broken(error: &dyn std::error::Error) -> Error {
    Error::unavailable(format!("the stream broke: {error}"))
}
