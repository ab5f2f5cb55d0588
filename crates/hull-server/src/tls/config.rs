//! TLS for the API's port.

use std::sync::{Arc, PoisonError, RwLock};

use hull_types::{
    Timestamp,
    error::{Error, Result},
    id::NodeId,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Ca;

/// The certificate the API's port shows: the newest there is, also to who connects after it was renewed.
pub struct ServerCertificate {
    ca: Arc<Ca>,
    names: Vec<String>,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl std::fmt::Debug for ServerCertificate {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerCertificate").field("names", &self.names).finish_non_exhaustive()
    }
}

impl ServerCertificate {
    /// The certificate for these names, made where there is none that is good.
    ///
    /// # Errors
    /// Where it cannot be made or read.
    pub fn new(ca: Arc<Ca>, names: Vec<String>, now: Timestamp) -> Result<Arc<Self>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let current = RwLock::new(load(&ca, &names, &provider, now)?);
        Ok(Arc::new(Self { ca, names, provider, current }))
    }

    /// Takes up the certificate of now: the same until a third of its life is left, then a new one. Connections that stand go on.
    ///
    /// # Errors
    /// As [`ServerCertificate::new`]; the old one goes on being shown.
    pub fn refresh(&self, now: Timestamp) -> Result<bool> {
        let fresh = load(&self.ca, &self.names, &self.provider, now)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let changed = current.cert != fresh.cert;
        *current = fresh;
        Ok(changed)
    }
}

fn load(ca: &Ca, names: &[String], provider: &CryptoProvider, now: Timestamp) -> Result<Arc<CertifiedKey>> {
    let (chain, key) = ca.server(names, now)?;
    CertifiedKey::from_der(chain, key, provider).map(Arc::new).map_err(|e| bad(&e))
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn bad(error: &dyn std::error::Error) -> Error {
    Error::internal(format!("TLS cannot be set up: {error}"))
}

/// TLS as the API's port speaks it: the server's certificate; client certificates of its CA welcome, not needed.
///
/// # Errors
/// Where the CA's certificate cannot be used.
pub fn server_config(certificate: Arc<ServerCertificate>) -> Result<Arc<ServerConfig>> {
    let provider = certificate.provider.clone();
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(certificate.ca.pem().as_bytes()).map_err(|e| bad(&e))?;
    roots.add(root).map_err(|e| bad(&e))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|e| bad(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The node a verified client certificate names; none where it names something else.
pub fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    name.strip_prefix("node:")?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_certificate_names_the_node_whatever_the_request_claimed() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let ca = Ca::open(dir.path(), now).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut claims = rcgen::CertificateParams::new(vec!["server.example".to_owned()]).unwrap();
        claims.distinguished_name.push(rcgen::DnType::CommonName, "node:00000000-0000-0000-0000-000000000000");
        let request = claims.serialize_request(&key).unwrap().pem().unwrap();
        let node = NodeId(uuid::Uuid::from_u128(7));
        let signed = ca.sign_node(&request, node, now).unwrap();
        let der = CertificateDer::from_pem_slice(signed.certificate.as_bytes()).unwrap();
        assert_eq!(node_of(&der), Some(node));
        assert!(!String::from_utf8_lossy(&der).contains("server.example"));
    }

    #[test]
    fn the_servers_own_certificate_is_no_node() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let ca = Ca::open(dir.path(), now).unwrap();
        let (chain, _) = ca.server(&["localhost".into()], now).unwrap();
        assert_eq!(node_of(&chain[0]), None);
    }

    #[test]
    fn a_server_that_runs_for_long_shows_a_new_certificate_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let after = |days: i64| Timestamp::from_second(1_800_000_000 + days * 86_400).unwrap();
        let ca = Arc::new(Ca::open(dir.path(), after(0)).unwrap());
        let shown = ServerCertificate::new(ca, vec!["localhost".into()], after(0)).unwrap();
        let first = shown.current.read().unwrap().cert.clone();
        assert!(!shown.refresh(after(240)).unwrap());
        assert_eq!(shown.current.read().unwrap().cert, first);
        assert!(shown.refresh(after(250)).unwrap(), "a third of its life is left");
        let second = shown.current.read().unwrap().cert.clone();
        assert!(second != first && second[1] == first[1], "of the same CA");
        assert!(!shown.refresh(after(251)).unwrap());
    }
}
