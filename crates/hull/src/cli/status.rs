//! `hull status`.

use hull_types::{error::Result, wire::ServerStatus};

use super::Session;
use crate::output::{self, Show};

impl Show for ServerStatus {
    const COLUMNS: &'static [&'static str] = &["version", "up", "nodes", "vms", "revision"];
    fn row(&self) -> Vec<String> {
        let vms: Vec<_> = self.vms.iter().map(|(state, count)| format!("{count} {state}")).collect();
        vec![
            self.version.clone(),
            output::ago(self.started_at),
            format!("{} of {} ready", self.nodes_ready, self.nodes),
            if vms.is_empty() { "none".to_owned() } else { vms.join(", ") },
            self.revision.to_string(),
        ]
    }
}

pub(crate) async fn run(session: &Session) -> Result<u8> {
    output::one(&session.client.get::<ServerStatus>("v1/status", &[]).await?, session.format);
    Ok(0)
}
