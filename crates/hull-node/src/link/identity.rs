//! Who a node is to its server: its id, its certificate and key, the CA it trusts. One file, readable by root alone.

use std::path::Path;

use hull_types::{
    error::{Error, Result},
    id::NodeId,
};
use serde::{Deserialize, Serialize};

use crate::{blocking, io_error, vm::records};

const FILE: &str = "identity.json";

/// What a node keeps from joining.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its id.
    pub node: NodeId,
    /// The server's address, `host:port`.
    pub server: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its key, PEM; never leaves this host.
    pub key: String,
    /// The CA's certificate, PEM.
    pub ca: String,
}

impl std::fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("node", &self.node).field("server", &self.server).finish_non_exhaustive()
    }
}

impl Identity {
    /// The identity kept in the node's directory; none before it joined.
    pub async fn load(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        blocking(move || match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| {
                Error::internal(format!("{} cannot be read: {e}; remove it and join again", path.display()))
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("read", &path, &e)),
        })
        .await
    }

    pub(super) async fn save(&self, dir: &Path) -> Result<()> {
        let (dir, bytes) = (dir.to_owned(), records::to_json(self)?);
        blocking(move || {
            records::make_private(&dir)?;
            records::write_atomic(&dir, FILE, &bytes)
        })
        .await
    }
}
