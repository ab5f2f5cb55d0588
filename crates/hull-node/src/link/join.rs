//! Becoming a node: a token from the server names its address, pins its CA and proves that we may.

use std::{path::Path, str::FromStr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hull_types::{
    Timestamp,
    error::{Error, Problem, Result},
    link::{JoinRequest, Joined},
    name::Name,
};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;

use super::{Identity, renew, tls};

/// How long joining may take.
const JOIN_WITHIN: Duration = Duration::from_secs(30);

/// A join token: `hull-join:<host:port>:<CA's SHA-256 in hexadecimal>:<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The server's address, `host:port`.
    pub server: String,
    /// The CA certificate's SHA-256.
    pub fingerprint: [u8; 32],
    /// What proves that we may join.
    pub secret: String,
}

impl std::fmt::Debug for JoinToken {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("server", &self.server).finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            let what = "this is not a join token: it reads hull-join:<address>:<fingerprint>:<secret>; make one with `hull node join-token`";
            Error::invalid(what)
        };
        let rest = text.trim().strip_prefix("hull-join:").ok_or_else(refuse)?;
        // The address may itself hold colons, so the parts are taken from the end.
        let mut parts = rest.rsplitn(3, ':');
        let (Some(secret), Some(pin), Some(server)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(refuse());
        };
        let mut fingerprint = [0; 32];
        hex::decode_to_slice(pin, &mut fingerprint).map_err(|_| refuse())?;
        if secret.is_empty() || !server.contains(':') {
            return Err(refuse());
        }
        Ok(Self { server: server.to_owned(), fingerprint, secret: secret.to_owned() })
    }
}

/// Joins under this name and keeps the identity in the directory. The key is made here and stays here.
pub async fn join(token: &JoinToken, name: &Name, dir: &Path) -> Result<Identity> {
    let late = || Error::timeout(format!("{} did not let us join within {} s", token.server, JOIN_WITHIN.as_secs()));
    timeout(JOIN_WITHIN, Box::pin(join_now(token, name, dir))).await.unwrap_or_else(|_| Err(late()))
}

async fn join_now(token: &JoinToken, name: &Name, dir: &Path) -> Result<Identity> {
    let (key, request) = request()?;
    let asked = JoinRequest { secret: token.secret.clone(), name: name.clone(), request };
    let body = serde_json::to_vec(&asked).map_err(|e| Error::internal(e.to_string()))?;
    let before = before(token, dir).await;
    let stream = tls::dial(&token.server, tls::pinned(token.fingerprint, before.as_ref())?).await?;
    let joined: Joined = ask(stream, &token.server, "/node/v1/join", body).await?;
    let ca = CertificateDer::from_pem_slice(joined.ca.as_bytes());
    if !ca.is_ok_and(|ca| Sha256::digest(&ca)[..] == token.fingerprint) {
        return Err(Error::unauthenticated("the server gave another CA than its join token names"));
    }
    let identity = Identity {
        node: joined.node,
        server: token.server.clone(),
        certificate: joined.certificate,
        key,
        ca: joined.ca,
    };
    identity.save(dir).await?;
    Ok(identity)
}

/// Who this host was to the same CA. An identity that cannot be read, or that has expired, proves nothing, and a server
/// would refuse the connection for it.
async fn before(token: &JoinToken, dir: &Path) -> Option<Identity> {
    let identity = Identity::load(dir).await.ok().flatten()?;
    let ca = CertificateDer::from_pem_slice(identity.ca.as_bytes()).ok()?;
    let held = renew::validity(&identity.certificate).ok()?;
    let now = Timestamp::now();
    (Sha256::digest(&ca)[..] == token.fingerprint && held.from <= now && now < held.until).then_some(identity)
}

/// A new key and a request for its certificate, both PEM. The key stays on this host.
pub(super) fn request() -> Result<(String, String)> {
    let failed = |e: rcgen::Error| Error::internal(format!("a certificate request cannot be made: {e}"));
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let request = rcgen::CertificateParams::default().serialize_request(&key).map_err(failed)?;
    Ok((key.serialize_pem(), request.pem().map_err(failed)?))
}

/// Posts a JSON document over a fresh connection and reads the one it is answered with.
pub(super) async fn ask<T: DeserializeOwned>(
    stream: TlsStream<TcpStream>,
    server: &str,
    path: &str,
    body: Vec<u8>,
) -> Result<T> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, server)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| Error::internal(e.to_string()))?;
    let answer = send(stream, request).await?.collect().await;
    let answer = answer.map_err(|e| Error::unavailable(format!("{server} broke off: {e}")))?.to_bytes();
    serde_json::from_slice(&answer)
        .map_err(|e| Error::unavailable(format!("{server} answered what no Hull server does: {e}")))
}

/// Sends one request over a fresh connection; the answer's body, or the problem the server told.
pub(super) async fn send(stream: TlsStream<TcpStream>, request: Request<Full<Bytes>>) -> Result<Incoming> {
    let broke = |e: hyper::Error| Error::unavailable(format!("the server broke off: {e}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    // Ends with the response's body.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(broke)?;
    if response.status() == StatusCode::OK {
        return Ok(response.into_body());
    }
    let status = response.status();
    let body = response.into_body().collect().await.map_err(broke)?.to_bytes();
    let problem = serde_json::from_slice::<Problem>(&body).map(Error::from);
    Err(problem.unwrap_or_else(|_| Error::unavailable(format!("the server answered {status}"))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_from_the_end_and_nonsense_is_refused() {
        let pin = "ab".repeat(32);
        for server in ["10.0.0.1:7443", "[fd00::1]:7443", "hull.example:7443"] {
            let token: JoinToken = format!("hull-join:{server}:{pin}:s3cret\n").parse().unwrap();
            assert_eq!((token.server.as_str(), token.secret.as_str()), (server, "s3cret"));
            assert_eq!(token.fingerprint, [0xab; 32]);
            assert!(!format!("{token:?}").contains("s3cret"));
        }
        for text in ["", "hull-join:", "hull-join:a:b:c", &format!("hull-join:host:{pin}:"), &format!("x:1:{pin}:s")] {
            assert!(text.parse::<JoinToken>().is_err(), "{text}");
        }
    }
}
