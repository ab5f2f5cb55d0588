//! TLS for the API's port.

use std::sync::Arc;

use hull_types::{
    Timestamp,
    error::{Error, Result},
    id::NodeId,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Ca;

/// TLS as the API's port speaks it: the server's certificate for these names; client certificates of this CA welcome, not needed.
///
/// # Errors
/// Where the certificates cannot be made or read.
pub fn server_config(ca: &Ca, names: &[String], now: Timestamp) -> Result<Arc<ServerConfig>> {
    let bad = |e: &dyn std::error::Error| Error::internal(format!("TLS cannot be set up: {e}"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(ca.pem().as_bytes()).map_err(|e| bad(&e))?;
    roots.add(root).map_err(|e| bad(&e))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|e| bad(&e))?;
    let (chain, key) = ca.server(names, now)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| bad(&e))?;
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
}
