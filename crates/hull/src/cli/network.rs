//! `hull network`.

use clap::{Args, Subcommand};
use hull_types::{
    error::Result,
    name::Name,
    network::{Network, Uplink},
    wire::network::{NetworkCreate, NetworkUpdate},
};

use super::{
    Session,
    named::{Described, Filtered, Redescribed, Settings, settings},
};
use crate::output::{self, Show, word};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List networks: the project's, and those it may use or lead out by
    #[command(visible_alias = "ls")]
    List(Filtered),
    /// Show a network
    Show {
        /// Name or id
        network: String,
    },
    /// Create a network; give it ranges with `hull subnet create`
    Create(Create),
    /// Change a network
    Update(Update),
    /// Delete networks that nothing is on, with their subnets
    #[command(visible_alias = "rm")]
    Delete {
        /// Names or ids
        #[arg(required = true)]
        networks: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name
    name: Name,
    #[command(flatten)]
    described: Described,
    /// VMs reach out through the address of their node
    #[arg(long, conflicts_with = "provider")]
    nat: bool,
    /// It is the provider's network of this name in the nodes' configurations (system administrators)
    #[arg(long)]
    provider: Option<String>,
    /// Routers lead out by it and floating IPs come from it (system administrators)
    #[arg(long, requires = "provider")]
    external: bool,
    /// Every project may use it (system administrators)
    #[arg(long)]
    share: bool,
    /// Largest packet in bytes
    #[arg(long)]
    mtu: Option<u16>,
    /// Domain of its VMs' names
    #[arg(long)]
    domain: Option<String>,
    /// Its ports are neither kept from spoofing nor filtered
    #[arg(long)]
    no_port_security: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Name or id
    network: String,
    #[command(flatten)]
    described: Redescribed,
    /// New largest packet in bytes
    #[arg(long)]
    mtu: Option<u16>,
    /// New domain
    #[arg(long)]
    domain: Option<String>,
    /// Every project may use it
    #[arg(long)]
    share: Option<bool>,
    /// Routers lead out by it and floating IPs come from it
    #[arg(long)]
    external: Option<bool>,
    /// New ports are kept from spoofing and filtered
    #[arg(long)]
    port_security: Option<bool>,
}

impl Show for Network {
    const COLUMNS: &'static [&'static str] = &["name", "uplink", "subnets", "mtu", "for", "id"];
    fn row(&self) -> Vec<String> {
        let uplink = match &self.uplink {
            Uplink::Provider(name) => format!("provider {name}"),
            other => word(other),
        };
        let whom = [(self.shared, "all projects"), (self.external, "routers")];
        let whom: Vec<&str> = whom.into_iter().filter(|(is, _)| *is).map(|(_, whom)| whom).collect();
        vec![
            self.meta.name.to_string(),
            uplink,
            self.subnets.len().to_string(),
            self.mtu.to_string(),
            whom.join(", "),
            self.id.to_string(),
        ]
    }

    fn page(&self) -> Vec<(&'static str, String)> {
        let mut page: Settings = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        let subnets: Vec<String> = self.subnets.iter().map(ToString::to_string).collect();
        page[2].1 = subnets.join(" ");
        page.push(("number between nodes", self.vni.map(|vni| vni.to_string()).unwrap_or_default()));
        page.push(("domain", self.domain.clone()));
        page.push(("port security", if self.port_security { "on" } else { "off" }.to_owned()));
        settings(page, &self.meta)
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let networks = session.client.nouns("networks");
        match self {
            Self::List(filtered) => output::list(&networks.list::<Network>(&filtered.query()).await?, session.format),
            Self::Show { network } => output::one(&networks.show::<Network>(&network).await?, session.format),
            Self::Create(create) => {
                output::one(&networks.create::<_, Network>(&create.request()).await?, session.format);
            }
            Self::Update(update) => {
                let (network, body) = update.request();
                output::one(&networks.update::<_, Network>(&network, &body).await?, session.format);
            }
            Self::Delete { networks: names } => {
                for name in names {
                    networks.delete(&name).await?;
                }
            }
        }
        Ok(0)
    }
}

impl Create {
    fn request(self) -> NetworkCreate {
        let (description, metadata, tags) = self.described.parts();
        let uplink = match (self.nat, self.provider) {
            (_, Some(provider)) => Uplink::Provider(provider),
            (true, None) => Uplink::Nat,
            (false, None) => Uplink::None,
        };
        NetworkCreate {
            name: self.name,
            description,
            metadata,
            tags,
            uplink,
            mtu: self.mtu,
            domain: self.domain,
            shared: self.share,
            external: self.external,
            port_security: !self.no_port_security,
        }
    }
}

impl Update {
    fn request(self) -> (String, NetworkUpdate) {
        let (name, description, metadata, tags) = self.described.parts();
        let Self { network, mtu, domain, share: shared, external, port_security, .. } = self;
        (network, NetworkUpdate { name, description, metadata, tags, mtu, domain, shared, external, port_security })
    }
}
