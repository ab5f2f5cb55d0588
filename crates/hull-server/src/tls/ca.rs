//! The certificate authority.

use std::{
    io::Write,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use hull_types::{
    Timestamp,
    error::{Error, Result},
    id::NodeId,
};
use jiff::SignedDuration;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest as _, Sha256};

/// Days the CA is good for.
const CA_DAYS: i64 = 3650;
/// How long a certificate is good for; it is renewed once a third of that is left.
pub const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Clocks may differ by this much, in seconds, before a new certificate looks not yet valid.
const SKEW: i64 = 3600;

/// The certificate authority of this cloud.
pub struct Ca {
    dir: PathBuf,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    life: SignedDuration,
}

/// A node's certificate, with the CA's beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCertificate {
    /// The node's certificate, PEM.
    pub certificate: String,
    /// The CA's, PEM.
    pub ca: String,
}

/// SHA-256 of a certificate's DER, in hexadecimal.
pub fn fingerprint(certificate: &[u8]) -> String {
    hex::encode(Sha256::digest(certificate))
}

impl Ca {
    /// Opens the CA in this directory, making it at the first start.
    ///
    /// # Errors
    /// Where the directory cannot be written, or what is there cannot be read: a CA is never replaced silently, since every node and
    /// client pins it.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::internal(format!("{} cannot be made: {e}", dir.display())))?;
        let (certificate, key) = (dir.join("ca.pem"), dir.join("ca.key"));
        if !certificate.exists() {
            make(&certificate, &key, now)?;
        }
        let pem = read(&certificate)?;
        let key = KeyPair::from_pem(&read(&key)?).map_err(|e| broken(&key, &e))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|e| broken(&certificate, &e))?;
        Ok(Self { dir: dir.to_owned(), pem, issuer, life: LEAF_LIFE })
    }

    /// Signs certificates that are good for so long.
    #[must_use]
    pub fn with_life(self, life: SignedDuration) -> Self {
        Self { life, ..self }
    }

    /// The CA's certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The CA's fingerprint, as join tokens carry it.
    ///
    /// # Errors
    /// Where the certificate on disk is not one.
    pub fn fingerprint(&self) -> Result<String> {
        let der = CertificateDer::from_pem_slice(self.pem.as_bytes())
            .map_err(|e| Error::internal(format!("the CA's certificate cannot be read: {e}")))?;
        Ok(fingerprint(&der))
    }

    /// The server's certificate chain and key, for these names and addresses; made anew where they changed or it is old.
    /// The chain ends with the CA's own certificate, so that a host that joins can check it against its token's fingerprint.
    ///
    /// # Errors
    /// Where a name is none, or the directory cannot be written.
    pub fn server(
        &self,
        names: &[String],
        now: Timestamp,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let (certificate, key) = (self.dir.join("server.pem"), self.dir.join("server.key"));
        let marker = self.dir.join("server.names");
        let wanted = marker_text(names);
        let fresh = std::fs::read_to_string(&marker).is_ok_and(|have| self.still_good(&have, &wanted, now));
        if !fresh {
            let pair = KeyPair::generate().map_err(|e| Error::internal(format!("a key cannot be made: {e}")))?;
            let mut params = self.leaf("hull server", now)?;
            params.subject_alt_names = names.iter().map(|name| alternative(name)).collect::<Result<_>>()?;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            let signed = params.signed_by(&pair, &self.issuer).map_err(|e| broken(&certificate, &e))?;
            write(&key, &pair.serialize_pem())?;
            write(&certificate, &signed.pem())?;
            write(&marker, &format!("{}\n{wanted}", now.as_second()))?;
        }
        let chain =
            CertificateDer::from_pem_slice(read(&certificate)?.as_bytes()).map_err(|e| broken(&certificate, &e))?;
        let key = PrivateKeyDer::from_pem_slice(read(&key)?.as_bytes()).map_err(|e| broken(&key, &e))?;
        let root = CertificateDer::from_pem_slice(self.pem.as_bytes()).map_err(|e| broken(&certificate, &e))?;
        Ok((vec![chain, root], key))
    }

    /// Refuses a node's request that could not be signed.
    ///
    /// # Errors
    /// As [`Ca::sign_node`].
    pub fn check_request(request: &str) -> Result<()> {
        read_request(request).map(drop)
    }

    /// Signs a node's request. Whatever the request says of itself, the certificate names this node and nothing else.
    ///
    /// # Errors
    /// Where the request is not a well-formed PKCS #10 one whose signature proves its key.
    pub fn sign_node(&self, request: &str, node: NodeId, now: Timestamp) -> Result<NodeCertificate> {
        let mut request = read_request(request)?;
        let mut params = self.leaf(&format!("node:{node}"), now)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.params = params;
        let signed = request
            .signed_by(&self.issuer)
            .map_err(|e| Error::internal(format!("the request cannot be signed: {e}")))?;
        Ok(NodeCertificate { certificate: signed.pem(), ca: self.pem.clone() })
    }

    /// Whether the marker beside the server's certificate says that it is for these names and young enough. One from the
    /// future was made before the clock was set back, and does not hold yet.
    fn still_good(&self, have: &str, wanted: &str, now: Timestamp) -> bool {
        let Some((made, names)) = have.split_once('\n') else { return false };
        let age = made.parse().map(|made: i64| now.as_second().saturating_sub(made));
        names == wanted && age.is_ok_and(|age| (-SKEW..self.life.as_secs() * 2 / 3).contains(&age))
    }

    fn leaf(&self, name: &str, now: Timestamp) -> Result<CertificateParams> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (time(now, -SKEW)?, time(now, self.life.as_secs())?);
        Ok(params)
    }
}

fn read_request(request: &str) -> Result<CertificateSigningRequestParams> {
    CertificateSigningRequestParams::from_pem(request)
        .map_err(|e| Error::invalid(format!("the certificate request cannot be read: {e}")).at("/request"))
}

/// What the marker beside the server's certificate says: which names it is for.
fn marker_text(names: &[String]) -> String {
    let mut names = names.to_vec();
    names.sort();
    names.dedup();
    names.join("\n")
}

fn make(certificate: &Path, key: &Path, now: Timestamp) -> Result<()> {
    let pair = KeyPair::generate().map_err(|e| Error::internal(format!("a key cannot be made: {e}")))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("Hull CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (time(now, -SKEW)?, time(now, CA_DAYS * 86_400)?);
    let signed = params.self_signed(&pair).map_err(|e| broken(certificate, &e))?;
    // The key first: a certificate without its key would look like a CA that lost it.
    write(key, &pair.serialize_pem())?;
    write(certificate, &signed.pem())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn alternative(name: &str) -> Result<SanType> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let name = name.to_owned();
    let refuse =
        || Error::invalid(format!("{name:?} is neither a host name nor an address; a server's certificate needs one"));
    Ok(SanType::DnsName(name.clone().try_into().map_err(|_| refuse())?))
}

/// rcgen's clock type, this many seconds away.
fn time(now: Timestamp, seconds: i64) -> Result<time::OffsetDateTime> {
    time::OffsetDateTime::from_unix_timestamp(now.as_second() + seconds)
        .map_err(|e| Error::internal(format!("the clock says {now}: {e}")))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        Error::internal(format!(
            "{} cannot be read: {e}; put it back from a backup, since nodes and clients trust it",
            path.display()
        ))
    })
}

/// Writes a file only root may read, whole or not at all.
fn write(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("new");
    let refuse = |e: std::io::Error| Error::internal(format!("{} cannot be written: {e}", path.display()));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(refuse)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(refuse)?;
    std::fs::rename(&temporary, path).map_err(refuse)
}

fn broken(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::internal(format!("{} is not what it should be: {error}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn the_ca_stays_the_same_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let first = Ca::open(dir.path(), now()).unwrap().fingerprint().unwrap();
        assert_eq!(Ca::open(dir.path(), now()).unwrap().fingerprint().unwrap(), first);
    }

    #[test]
    fn the_servers_certificate_is_kept_until_its_names_change_or_it_grows_old() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::open(dir.path(), now()).unwrap();
        let chain = |names: &[&str], at| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            ca.server(&names, at).unwrap().0
        };
        let first = chain(&["localhost", "127.0.0.1"], now());
        assert_eq!(chain(&["127.0.0.1", "localhost"], now()), first, "order does not matter");
        assert_ne!(chain(&["localhost"], now()), first);
        let second = chain(&["localhost"], now());
        let later = Timestamp::from_second(now().as_second() + 300 * 86_400).unwrap();
        assert_ne!(chain(&["localhost"], later), second);
    }

    #[test]
    fn a_certificate_without_its_key_is_an_error_and_not_a_new_ca() {
        let dir = tempfile::tempdir().unwrap();
        Ca::open(dir.path(), now()).unwrap();
        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        assert!(Ca::open(dir.path(), now()).err().unwrap().detail.contains("ca.key"));
    }

    #[test]
    fn keys_are_for_root_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Ca::open(dir.path(), now()).unwrap().server(&["localhost".into()], now()).unwrap();
        for file in ["ca.key", "server.key"] {
            let mode = std::fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }
}
