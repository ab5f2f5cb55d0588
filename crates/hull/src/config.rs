//! Contexts: which server the command talks to, and as whom.
//!
//! `$XDG_CONFIG_HOME/hull/config.yaml` (mode 0600: it holds tokens) lists named contexts. Without one, the command talks to the Hull
//! of this host, over the unix socket in its data directory, where root needs no token.

use std::{
    collections::BTreeMap,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use hull_client::{Client, Endpoint};
use hull_types::{
    Timestamp,
    error::{Error, Result},
    sensitive::Sensitive,
    wire::Session,
};
use serde::{Deserialize, Serialize};
use url::Url;

/// Where a Hull keeps its things unless told otherwise.
pub(crate) const DATA_DIR: &str = "/var/lib/hull";

/// The API's socket in a data directory.
pub(crate) fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join("hull.sock")
}

/// The contexts a user has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The one in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// All, by name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// A server, and as whom to talk to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// `https://host:port`.
    pub(crate) server: Url,
    /// The CA's certificate, as PEM.
    pub(crate) ca: String,
    /// The token.
    pub(crate) token: Sensitive,
    /// The project calls are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<String>,
    /// The session the token is of, where someone logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) login: Option<LoggedIn>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoggedIn {
    /// Who.
    pub(crate) user: String,
    /// When the token stops working.
    pub(crate) expires_at: Timestamp,
    /// Until when it can be renewed.
    pub(crate) renewable_until: Timestamp,
}

impl LoggedIn {
    /// The session just begun or renewed.
    pub(crate) fn new(user: String, session: &Session) -> Self {
        Self { user, expires_at: session.expires_at, renewable_until: session.renewable_until }
    }
}

impl Config {
    /// Reads the user's contexts; none where there is no file.
    pub(crate) fn load() -> Result<Self> {
        let path = path()?;
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_norway::from_str(&text)
                .map_err(|e| Error::invalid(format!("{} cannot be read: {e}; mend or remove it", path.display()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Error::invalid(format!("{} cannot be read: {e}", path.display()))),
        }
    }

    /// Writes them, readable by their owner only.
    pub(crate) fn save(&self) -> Result<()> {
        let path = path()?;
        let refuse = |e: std::io::Error| Error::invalid(format!("{} cannot be written: {e}", path.display()));
        let text = serde_norway::to_string(self).map_err(|e| Error::internal(e.to_string()))?;
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(refuse)?;
        }
        let temporary = path.with_extension("new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(refuse)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(refuse)?;
        std::fs::rename(&temporary, &path).map_err(refuse)
    }

    /// The context named, or the current one.
    pub(crate) fn context(&self, name: Option<&str>) -> Result<Option<&Context>> {
        let Some(name) = name.or(self.current.as_deref()) else { return Ok(None) };
        self.contexts.get(name).map(Some).ok_or_else(|| {
            let known: Vec<_> = self.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
            Error::not_found(format!("no context named {name:?} (there are: {known}); add it with `hull context add`"))
        })
    }
}

/// A client: of the context, or of this host's Hull.
pub(crate) fn client(context: Option<&str>, data_dir: Option<&Path>, project: Option<String>) -> Result<Client> {
    // A data directory given by hand is about this host, whatever the current context says.
    if data_dir.is_none()
        && let Some(found) = Config::load()?.context(context)?
    {
        let endpoint = Endpoint::Https { url: found.server.clone(), ca_pem: found.ca.clone() };
        return Client::new(
            endpoint,
            Some(found.token.expose().to_owned()).filter(|token| !token.is_empty()),
            project.or_else(|| found.project.clone()),
        );
    }
    let socket = socket(data_dir.unwrap_or(Path::new(DATA_DIR)));
    Client::new(Endpoint::Unix(socket), None, project)
}

fn path() -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
    base.map(|dir| dir.join("hull/config.yaml"))
        .ok_or_else(|| Error::invalid("neither XDG_CONFIG_HOME nor HOME is set, so there is no place for contexts"))
}
