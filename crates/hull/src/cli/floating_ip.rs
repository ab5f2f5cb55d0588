//! `hull floating-ip`.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use hull_types::{
    error::Result,
    name::Name,
    router::FloatingIp,
    security_group::Family,
    wire::network::{FloatingIpCreate, FloatingIpTargetRequest, FloatingIpUpdate},
};

use super::{
    Session,
    named::{Described, Filtered, Redescribed, Settings, settings},
};
use crate::output::Show;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List floating IPs
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        filtered: Filtered,
        /// Only those of this network
        #[arg(long)]
        network: Option<String>,
    },
    /// Show a floating IP
    Show {
        /// Address, name or id
        floating_ip: String,
    },
    /// Take an address of an external network
    Create {
        /// Name or id of the external network
        network: String,
        /// Its name; the address where absent
        #[arg(long)]
        name: Option<Name>,
        #[command(flatten)]
        described: Described,
        /// The address wanted; the next free one where absent
        #[arg(long)]
        address: Option<IpAddr>,
        /// Of IPv6, where no address is wanted
        #[arg(long, conflicts_with = "address")]
        ipv6: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Change a floating IP's name and texts
    Update {
        /// Address, name or id
        floating_ip: String,
        #[command(flatten)]
        described: Redescribed,
    },
    /// Lead it to a VM: `hull floating-ip assign 203.0.113.5 web1`
    Assign {
        /// Address, name or id
        floating_ip: String,
        /// Name or id of the VM
        #[arg(required_unless_present = "port", conflicts_with = "port")]
        vm: Option<String>,
        /// Name or id of a port, instead of a VM
        #[arg(long)]
        port: Option<String>,
        /// Which of its addresses
        #[arg(long)]
        fixed: Option<IpAddr>,
    },
    /// Lead it nowhere
    Unassign {
        /// Address, name or id
        floating_ip: String,
    },
    /// Give addresses back
    #[command(visible_alias = "rm")]
    Delete {
        /// Addresses, names or ids
        #[arg(required = true)]
        floating_ips: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Name or id of a VM it leads to
    #[arg(long, conflicts_with = "port")]
    vm: Option<String>,
    /// Name or id of a port it leads to
    #[arg(long)]
    port: Option<String>,
}

impl Show for FloatingIp {
    const COLUMNS: &'static [&'static str] = &["address", "leads to", "name", "network", "id"];
    fn row(&self) -> Vec<String> {
        vec![
            self.address.to_string(),
            self.target.map_or_else(|| "-".to_owned(), |target| target.fixed.to_string()),
            self.meta.name.to_string(),
            self.network.to_string(),
            self.id.to_string(),
        ]
    }

    fn page(&self) -> Vec<(&'static str, String)> {
        let mut page: Settings = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        if let Some(target) = self.target {
            page.push(("port", target.port.to_string()));
            page.push(("router", target.router.to_string()));
        }
        settings(page, &self.meta)
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let floating = session.client.nouns("floating-ips");
        match self {
            Self::List { filtered, network } => {
                let mut query = filtered.query();
                query.extend(network.map(|network| ("network", network)));
                session.list(&floating.list::<FloatingIp>(&query).await?).await;
            }
            Self::Show { floating_ip } => session.one(&floating.show::<FloatingIp>(&floating_ip).await?).await,
            Self::Create { network, name, described, address, ipv6, target: Target { vm, port } } => {
                let (description, metadata, tags) = described.parts();
                let family = ipv6.then_some(Family::Ipv6);
                let leads = vm.is_some() || port.is_some();
                let target = leads.then_some(FloatingIpTargetRequest { port, vm, fixed: None });
                let body = FloatingIpCreate { name, description, metadata, tags, network, address, family, target };
                session.one(&floating.create::<_, FloatingIp>(&body).await?).await;
            }
            Self::Update { floating_ip, described } => {
                let (name, description, metadata, tags) = described.parts();
                let body = FloatingIpUpdate { name, description, metadata, tags, target: None };
                session.one(&floating.update::<_, FloatingIp>(&floating_ip, &body).await?).await;
            }
            Self::Assign { floating_ip, vm, port, fixed } => {
                let target = Some(Some(FloatingIpTargetRequest { port, vm, fixed }));
                let body = FloatingIpUpdate { target, ..FloatingIpUpdate::default() };
                session.one(&floating.update::<_, FloatingIp>(&floating_ip, &body).await?).await;
            }
            Self::Unassign { floating_ip } => {
                let body = FloatingIpUpdate { target: Some(None), ..FloatingIpUpdate::default() };
                session.one(&floating.update::<_, FloatingIp>(&floating_ip, &body).await?).await;
            }
            Self::Delete { floating_ips } => {
                for name in floating_ips {
                    floating.delete(&name).await?;
                }
            }
        }
        Ok(0)
    }
}
