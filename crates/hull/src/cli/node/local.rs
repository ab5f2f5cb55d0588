//! `hull node join` and `hull node local`: on the host itself, the latter without a server.

use std::{path::Path, sync::Arc, time::Duration};

use clap::Subcommand;
use hull_image::{ImageStore, Limits};
use hull_node::{
    Drivers,
    link::{self, Identity, JoinToken, Remote},
    node::local,
    storage::{ImageCache, ImageSource},
};
use hull_types::{
    error::{Error, Result},
    id::{NodeId, VmId},
    name::Name,
    vm::PowerTarget,
};
use serde::Serialize;

use crate::{
    cli::{block_on, daemon::OnHost},
    output::{self, Format, Show, word},
    wiring::{self, HostNetworks},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List the VMs this host holds
    #[command(visible_alias = "ls")]
    List,
    /// Start a VM, as it was last said to be; the node must not run meanwhile
    Start(One),
    /// Stop a VM; a server that comes back says again what shall be
    Stop(One),
    /// Remove a VM with everything it has on this host
    Delete(One),
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// Its id
    vm: VmId,
    /// Seconds to wait at most
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    #[command(flatten)]
    host: OnHost,
}

#[derive(Serialize)]
struct Row {
    id: VmId,
    name: Option<String>,
    power: Option<PowerTarget>,
    started: bool,
}

impl Show for Row {
    const COLUMNS: &'static [&'static str] = &["name", "power", "process", "id"];
    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone().unwrap_or_else(|| "-".to_owned()),
            self.power.as_ref().map(word).unwrap_or_default(),
            if self.started { "started" } else { "none" }.to_owned(),
            self.id.to_string(),
        ]
    }
}

/// Joins this host to a server.
pub(crate) fn join(data: &Path, token: &str, name: Option<Name>) -> Result<u8> {
    let token: JoinToken = token.parse()?;
    let host = || {
        wiring::host_name()
            .parse()
            .map_err(|e| Error::invalid(format!("this host's name: {e}; give another with --name")))
    };
    let name = name.map_or_else(host, Ok)?;
    let identity = block_on(link::join(&token, &name, &wiring::node_dir(data)))?;
    output::note(format!("joined {} as {name} ({}); start it with `hull node run`", identity.server, identity.node));
    Ok(0)
}

impl Verb {
    pub(crate) fn run(self, data: &Path, format: Format) -> Result<u8> {
        match self {
            Self::List => block_on(async {
                let vms = local::list(
                    &drivers(data, &HostNetworks { prefix: "hull".to_owned(), ..HostNetworks::default() }).await?.1,
                )
                .await?;
                let row = |vm: local::LocalVm| Row { id: vm.id, name: vm.name, power: vm.target, started: vm.started };
                output::list(&vms.into_iter().map(row).collect::<Vec<_>>(), format);
                Ok(0)
            }),
            Self::Start(one) => one.alone(data, What::Start),
            Self::Stop(one) => one.alone(data, What::Stop),
            Self::Delete(one) => one.alone(data, What::Delete),
        }
    }
}

/// What is done to one VM.
#[derive(Clone, Copy)]
enum What {
    Start,
    Stop,
    Delete,
}

impl One {
    /// Does it while no Hull runs here: two that decide about one VM would undo each other's work.
    fn alone(self, data: &Path, what: What) -> Result<u8> {
        let _lock = wiring::Lock::take(data)?;
        block_on(async {
            let host = self.host.networks();
            let (id, drivers) = drivers(data, &host).await?;
            let (config, within) = (wiring::node_config(id, &host), Duration::from_secs(self.timeout));
            let status = match what {
                What::Start => Some(Box::pin(local::start(&config, &drivers, self.vm, within)).await?),
                What::Stop => Some(Box::pin(local::stop(&config, &drivers, self.vm, within)).await?),
                What::Delete => {
                    Box::pin(local::delete(&config, &drivers, self.vm, within)).await?;
                    None
                }
            };
            output::note(status.map_or_else(|| "removed".to_owned(), |status| word(&status.phase)));
            Ok(0)
        })
    }
}

/// The drivers, and the node's id; a node that shares a process with its server has it from the store, and none is needed here.
async fn drivers(data: &Path, host: &HostNetworks) -> Result<(NodeId, Drivers)> {
    let dir = wiring::node_dir(data);
    let (id, images): (_, Arc<dyn ImageSource>) = match Identity::load(&dir).await? {
        Some(identity) => {
            (identity.node, Arc::new(ImageCache::new(dir.join("images"), Arc::new(Remote::new(&identity)?))))
        }
        None => (NodeId(uuid::Uuid::nil()), Arc::new(ImageStore::open(data.join("images"), Limits::default()).await?)),
    };
    Ok((id, wiring::drivers(data, host, images)?))
}
