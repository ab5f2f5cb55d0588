//! Logs of the long-running forms.

use hull_types::error::{Error, Result};

/// Starts logging to stderr.
pub(crate) fn init(json: bool) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HULL_LOG").unwrap_or_else(|_| "info".into());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json { lines.json().try_init() } else { lines.with_ansi(false).try_init() };
    started.map_err(|e| Error::internal(format!("logging cannot be started: {e}")))
}
