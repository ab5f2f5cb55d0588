//! TLS to the server: either the CA is known, or it is recognised by the fingerprint a join token carries.

use std::sync::{Arc, Mutex, PoisonError};

use hull_types::error::{Error, Result};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Identity;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn broken(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::internal(format!("{what}: {error}; join again to have a new one"))
}

/// TLS of a node that has joined: its certificate for the server, its CA for us.
pub(super) fn of_node(identity: &Identity) -> Result<Arc<ClientConfig>> {
    let (certificate, key) = own(identity)?;
    let ca = CertificateDer::from_pem_slice(identity.ca.as_bytes());
    let ca = ca.map_err(|e| broken("the CA's certificate cannot be read", &e))?;
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|e| broken("the CA's certificate cannot be used", &e))?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| broken("TLS cannot be set up", &e))?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .map_err(|e| broken("the node's certificate cannot be used", &e))?;
    Ok(Arc::new(http1(config)))
}

/// What a node proves itself by.
fn own(identity: &Identity) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes());
    Ok((
        certificate.map_err(|e| broken("the node's certificate cannot be read", &e))?,
        key.map_err(|e| broken("the node's key cannot be read", &e))?,
    ))
}

/// TLS of a host that joins: the CA must have this fingerprint, and the server a certificate of it. A host that was a node
/// of that CA's already shows its certificate.
pub(super) fn pinned(fingerprint: [u8; 32], before: Option<&Identity>) -> Result<Arc<ClientConfig>> {
    let verifier = Arc::new(Pinned { fingerprint, provider: provider(), inner: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| broken("TLS cannot be set up", &e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let own = before.and_then(|identity| own(identity).ok());
    let config = match own {
        Some((certificate, key)) => config
            .with_client_auth_cert(vec![certificate], key)
            .map_err(|e| broken("the node's certificate cannot be used", &e))?,
        None => config.with_no_client_auth(),
    };
    Ok(Arc::new(http1(config)))
}

/// WebSockets and plain requests alike are HTTP/1.1.
fn http1(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Dials an address, `host:port` (IPv6 in brackets).
pub(super) async fn dial(address: &str, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
    let unreachable = |error: &dyn std::fmt::Display| Error::unavailable(format!("no way to {address}: {error}"));
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host);
    let name = name.map_err(|e| Error::invalid(format!("{address:?} is not a server's address: {e}")))?;
    let tcp = TcpStream::connect(address).await.map_err(|e| unreachable(&e))?;
    tcp.set_nodelay(true).map_err(|e| unreachable(&e))?;
    TlsConnector::from(config).connect(name, tcp).await.map_err(|e| unreachable(&e))
}

/// Trusts what a CA with this fingerprint, shown in the server's chain, has signed.
#[derive(Debug)]
struct Pinned {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
    inner: Mutex<Option<Arc<WebPkiServerVerifier>>>,
}

impl Pinned {
    fn inner(&self) -> std::result::Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        // Set whole or not at all.
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        inner.ok_or_else(|| rustls::Error::General("no certificate was verified".into()))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let is_pinned = |shown: &&CertificateDer<'_>| Sha256::digest(shown)[..] == self.fingerprint;
        let ca = chain.iter().find(is_pinned).ok_or_else(|| {
            rustls::Error::General(
                "its CA is not the one the join token names; make sure of the address, or make a new token".into(),
            )
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        let verifier = verifier.map_err(|e| rustls::Error::General(e.to_string()))?;
        let verified = verifier.verify_server_cert(leaf, chain, name, ocsp, now)?;
        *self.inner.lock().unwrap_or_else(PoisonError::into_inner) = Some(verifier);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner()?.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner()?.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
