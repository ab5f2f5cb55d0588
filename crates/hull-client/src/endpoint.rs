//! Where a server is, and how to trust it.

use std::{path::PathBuf, sync::Arc};

use hull_types::error::{Error, Result};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use url::Url;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The server's unix socket on this host; root needs no token there.
    Unix(PathBuf),
    /// HTTPS.
    Https {
        /// `https://host:port`.
        url: Url,
        /// The CA that the server's certificate must come from, as PEM.
        ca_pem: String,
    },
}

impl Endpoint {
    /// The base that request paths are joined to. The host of a unix socket's URL is never looked up.
    pub(crate) fn base(&self) -> Result<Url> {
        match self {
            Self::Unix(_) => Url::parse("http://hull.local/").map_err(|e| Error::internal(e.to_string())),
            Self::Https { url, .. } if url.scheme() == "https" => Ok(url.clone()),
            Self::Https { url, .. } => {
                Err(Error::invalid(format!("{url} is not an https:// address; Hull's API speaks TLS only")))
            }
        }
    }

    /// How errors call this server.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Unix(path) => path.display().to_string(),
            Self::Https { url, .. } => url.to_string(),
        }
    }
}

/// A TLS configuration that trusts this CA and nothing else.
pub(crate) fn tls(ca_pem: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate =
            certificate.map_err(|e| Error::invalid(format!("the server's CA certificate is not valid PEM: {e}")))?;
        roots
            .add(certificate)
            .map_err(|e| Error::invalid(format!("the server's CA certificate cannot be used: {e}")))?;
    }
    if roots.is_empty() {
        return Err(Error::invalid(
            "the CA file holds no certificate; copy `pki/ca.pem` from the server's data directory",
        ));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::internal(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
