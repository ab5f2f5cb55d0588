//! A node's certificate is renewed in time, without anyone's doing.
//!
//! ```text
//!   a third of its life is left ─► new key, request ─► POST /node/v1/renew by the old one ─► identity.json, replaced whole
//!                    ▲     │ failed: again after a while, said in the log      └─► the next connection shows the new one
//!                    └─────┘ a sixth is left: a condition of the node
//! ```
//!
//! The link that stands goes on; it was proven as it was made.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hull_core::certificate::{Stage, Validity};
use hull_types::{
    Timestamp,
    error::{Error, Result},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::time::sleep;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Remote;
use crate::host::Clock;

/// How often the clock is looked at: it may have been set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The first pause after a renewal that failed, and the longest.
const RETRY_FIRST: Duration = Duration::from_secs(10);
const RETRY_MOST: Duration = Duration::from_secs(3600);

/// A certificate, as those who watch over a node need to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// When it holds.
    pub validity: Validity,
    /// Why it could not be renewed, where that failed last.
    pub trouble: Option<String>,
}

/// When a certificate (PEM) holds.
pub fn validity(certificate: &str) -> Result<Validity> {
    let broken = |why: &dyn std::fmt::Display| Error::internal(format!("a certificate cannot be read: {why}"));
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| broken(&e))?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|e| broken(&e))?;
    let date = |seconds: i64| Timestamp::from_second(seconds).map_err(|e| broken(&e));
    let validity = parsed.validity();
    Ok(Validity { from: date(validity.not_before.timestamp())?, until: date(validity.not_after.timestamp())? })
}

/// Renews the certificate whenever it is due, for ever. The identity is kept in the directory.
pub async fn keep_renewed(remote: Arc<Remote>, dir: PathBuf, clock: Arc<dyn Clock>) {
    let mut pause = RETRY_FIRST;
    loop {
        match renew_when_due(&remote, &dir, clock.now()).await {
            Ok(_) => {
                pause = RETRY_FIRST;
                sleep(LOOK_EVERY).await;
            }
            Err(_) => {
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_MOST);
            }
        }
    }
}

/// Renews the certificate if it is due by now; whether it was.
pub async fn renew_when_due(remote: &Remote, dir: &std::path::Path, now: Timestamp) -> Result<bool> {
    let before = remote.certificate_held().validity;
    let stage = before.stage(now);
    if stage == Stage::Good {
        return Ok(false);
    }
    match remote.renew(dir).await {
        Ok(after) => {
            tracing::info!(until = %after.until, "the node's certificate was renewed");
            Ok(true)
        }
        Err(error) => {
            let until = before.until;
            match stage {
                Stage::Good | Stage::Due => {
                    tracing::warn!(%until, %error, "the node's certificate cannot be renewed; trying again")
                }
                Stage::Ending | Stage::Over => tracing::error!(%until, %error,
                    "the node's certificate ends and cannot be renewed: the server will not know this node any more"),
            }
            remote.not_renewed(&error);
            Err(error)
        }
    }
}
