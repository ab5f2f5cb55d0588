//! `hull node`: hosts that run VMs; and, on such a host, the mechanism by hand.

use std::path::PathBuf;

use clap::Subcommand;
use hull_types::{
    error::Result,
    name::Name,
    units::Bytes,
    wire::{JoinTokenCreate, NodeUpdate, NodeView, Secret},
};

use super::{Global, Session, daemon};
use crate::{
    output::{self, Show, word},
    wiring::Parts,
};

mod drain;
mod local;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List nodes
    #[command(visible_alias = "ls")]
    List,
    /// Show a node
    Show {
        /// Name or id
        node: String,
    },
    /// Place no new VMs on a node
    Maintenance {
        /// Name or id
        node: String,
        /// Back to work
        #[arg(long)]
        off: bool,
    },
    /// Take a node out of service and move its VMs to others, two at once
    Drain(drain::Drain),
    /// Forget a node that is gone and holds no VMs
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id
        node: String,
    },
    /// Print a token that lets a host join, once, within a day
    JoinToken {
        /// Let any number of hosts join with it until it expires
        #[arg(long)]
        reusable: bool,
        /// Let a host join under this name only, also in the place of the node that has it
        #[arg(long)]
        name: Option<Name>,
    },
    /// Join this host to a server; then `hull node run`
    Join {
        /// The token, as `hull node join-token` prints it
        token: String,
        /// This node's name; the host's where absent
        #[arg(long)]
        name: Option<Name>,
    },
    /// Run the node alone on this host
    Run {
        #[command(flatten)]
        host: daemon::OnHost,
        /// The most that images cached here may take, but for those in use (20G); a fifth of the disk, at most 50 GiB, where
        /// absent
        #[arg(long, env = "HULL_IMAGE_CACHE")]
        image_cache: Option<Bytes>,
        #[command(flatten)]
        run: daemon::Run,
    },
    /// The VMs on this host, by hand and without a server
    #[command(subcommand)]
    Local(local::Verb),
}

impl Show for NodeView {
    const COLUMNS: &'static [&'static str] = &["name", "ready", "vms", "vcpus", "memory", "accel", "disk free", "id"];

    fn row(&self) -> Vec<String> {
        let facts = self.status.as_ref().map(|status| &status.facts);
        let of = |used: String, all: Option<String>| all.map_or(used.clone(), |all| format!("{used} of {all}"));
        vec![
            self.node.name.to_string(),
            match (self.ready, self.node.maintenance) {
                (true, false) => "yes",
                (true, true) => "maintenance",
                (false, _) => "no",
            }
            .to_owned(),
            self.vms.to_string(),
            of(self.allocated.vcpus.to_string(), facts.map(|facts| facts.cpus.to_string())),
            of(self.allocated.memory.to_string(), facts.map(|facts| facts.memory.to_string())),
            facts.map_or_else(|| "-".to_owned(), |facts| word(&facts.accel)),
            self.status.as_ref().map_or_else(|| "-".to_owned(), |status| status.disk_free.to_string()),
            self.node.id.to_string(),
        ]
    }

    fn page(&self) -> Vec<(&'static str, String)> {
        let mut page: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        if let Some(status) = &self.status {
            let facts = &status.facts;
            page.push(("host", format!("{}, kernel {}, {} CPUs", facts.hostname, facts.kernel, facts.cpus)));
            page.push(("hull", facts.hull_version.clone()));
            page.push(("qemu", facts.qemu_version.clone().unwrap_or_else(|| "missing".to_owned())));
            page.push(("seen", status.at.to_string()));
            page.extend(status.conditions.iter().map(|condition| ("condition", condition.reason.message.clone())));
        }
        page
    }
}

impl Verb {
    /// Whether this is about this host rather than the server's records.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Join { .. } | Self::Run { .. } | Self::Local(_))
    }

    pub(crate) fn run_local(self, global: &Global) -> Result<u8> {
        match self {
            Self::Join { token, name } => local::join(&data(global), &token, name),
            Self::Run { host, image_cache, run } => {
                daemon::start(global.data_dir.clone(), &run, &Parts::Node { host: host.networks(), image_cache })
            }
            Self::Local(verb) => verb.run(&data(global), global.output),
            Self::List
            | Self::Show { .. }
            | Self::Maintenance { .. }
            | Self::Drain(_)
            | Self::Delete { .. }
            | Self::JoinToken { .. } => Ok(2),
        }
    }

    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let nodes = session.client.nouns("nodes");
        match self {
            Self::List => output::list(&nodes.list::<NodeView>(&[]).await?, session.format),
            Self::Show { node } => output::one(&nodes.show::<NodeView>(&node).await?, session.format),
            Self::Maintenance { node, off } => {
                let update = NodeUpdate { maintenance: Some(!off) };
                output::one(&nodes.update::<_, NodeView>(&node, &update).await?, session.format);
            }
            Self::Drain(drain) => drain.run(session).await?,
            Self::Delete { node } => nodes.delete(&node).await?,
            Self::JoinToken { reusable, name } => {
                let wanted = JoinTokenCreate { reusable, name };
                let secret: Secret = session.client.nouns("join-tokens").create(&wanted).await?;
                output::line(secret.secret.expose());
            }
            Self::Join { .. } | Self::Run { .. } | Self::Local(_) => return Ok(2),
        }
        Ok(0)
    }
}

fn data(global: &Global) -> PathBuf {
    global.data_dir.clone().unwrap_or_else(|| PathBuf::from(crate::config::DATA_DIR))
}
