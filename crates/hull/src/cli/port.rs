//! `hull port`.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use hull_types::{
    error::Result,
    name::Name,
    network::{DhcpOption, Mac},
    port::{AddressPair, Bandwidth, Port},
    wire::network::{PortCreate, PortUpdate},
};

use super::{
    Session,
    named::{Described, Filtered, Redescribed, Settings, settings, spaced},
    subnet::dhcp_option,
};
use crate::output::Show;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List ports: VMs' ends on networks, and ends that wait for a VM
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        filtered: Filtered,
        /// Only those of this network
        #[arg(long)]
        network: Option<String>,
        /// Only those of this VM
        #[arg(long)]
        vm: Option<String>,
    },
    /// Show a port
    Show {
        /// Name or id
        port: String,
    },
    /// Create a port, for a VM to come
    Create(Box<Create>),
    /// Change a port
    Update(Box<Update>),
    /// Delete ports that no VM has
    #[command(visible_alias = "rm")]
    Delete {
        /// Names or ids
        #[arg(required = true)]
        ports: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name
    name: Name,
    /// Name or id of its network
    #[arg(long)]
    network: String,
    #[command(flatten)]
    described: Described,
    /// An address wanted (repeatable); the next free ones where absent
    #[arg(long = "address")]
    addresses: Vec<IpAddr>,
    /// Name or id of a subnet to give a free address (repeatable)
    #[arg(long = "subnet")]
    subnets: Vec<String>,
    /// MAC wanted
    #[arg(long)]
    mac: Option<Mac>,
    /// Host name; made of the name where absent
    #[arg(long)]
    hostname: Option<String>,
    /// Name or id of a security group (repeatable); `default` where absent
    #[arg(long = "security-group", conflicts_with = "no_security_group")]
    security_groups: Vec<String>,
    /// In no security group: nothing inbound passes
    #[arg(long)]
    no_security_group: bool,
    /// Neither kept from spoofing nor filtered
    #[arg(long)]
    no_port_security: bool,
    #[command(flatten)]
    more: More,
}

#[derive(Debug, Args)]
struct More {
    /// Further addresses it may send from, RANGE or RANGE=MAC (repeatable)
    #[arg(long = "allow", value_parser = allowed)]
    allowed_pairs: Option<Vec<AddressPair>>,
    /// A further DHCP option, CODE=VALUE (repeatable)
    #[arg(long = "dhcp-option", value_parser = dhcp_option)]
    dhcp_options: Option<Vec<DhcpOption>>,
    /// At most so many kilobits a second to the VM; 0 is no limit
    #[arg(long)]
    ingress_kbps: Option<u64>,
    /// At most so many kilobits a second from the VM; 0 is no limit
    #[arg(long)]
    egress_kbps: Option<u64>,
}

impl More {
    /// Limits as given; those not given as they were.
    fn bandwidth(&self, before: Bandwidth) -> Bandwidth {
        let limit = |given: Option<u64>, before| match given {
            None => before,
            Some(0) => None,
            Some(limit) => Some(limit),
        };
        Bandwidth {
            ingress_kbps: limit(self.ingress_kbps, before.ingress_kbps),
            egress_kbps: limit(self.egress_kbps, before.egress_kbps),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Name or id
    port: String,
    #[command(flatten)]
    described: Redescribed,
    /// An address; given ones replace all
    #[arg(long = "address")]
    addresses: Option<Vec<IpAddr>>,
    /// New host name
    #[arg(long)]
    hostname: Option<String>,
    /// Name or id of a security group; given ones replace all
    #[arg(long = "security-group", conflicts_with = "no_security_group")]
    security_groups: Option<Vec<String>>,
    /// In no security group: nothing inbound passes
    #[arg(long)]
    no_security_group: bool,
    /// Whether it is kept from spoofing and filtered
    #[arg(long)]
    port_security: Option<bool>,
    #[command(flatten)]
    more: More,
}

/// `10.0.0.100/32`, `10.0.0.100` or `10.0.0.100=52:54:00:12:34:56`
fn allowed(text: &str) -> std::result::Result<AddressPair, String> {
    let (range, mac) = text.split_once('=').map_or((text, None), |(range, mac)| (range, Some(mac)));
    let addresses = range.parse().or_else(|_| range.parse::<IpAddr>().map(Into::into));
    let addresses = addresses.map_err(|_| format!("{range:?} is neither an address nor a range"))?;
    let mac = mac.map(|mac| mac.parse().map_err(|_| format!("{mac:?} is no MAC address"))).transpose()?;
    Ok(AddressPair { addresses, mac })
}

impl Show for Port {
    const COLUMNS: &'static [&'static str] = &["name", "mac", "addresses", "host name", "of", "id"];
    fn row(&self) -> Vec<String> {
        let of = match (self.vm, self.router_gateway) {
            (Some(vm), _) => format!("vm {vm}"),
            (None, Some(on)) => format!("router {}", on.router),
            (None, None) => "-".to_owned(),
        };
        vec![
            self.meta.name.to_string(),
            self.mac.to_string(),
            spaced(self.ips()),
            self.hostname.clone(),
            of,
            self.id.to_string(),
        ]
    }

    fn page(&self) -> Vec<(&'static str, String)> {
        let mut page: Settings = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        let pair = |pair: &AddressPair| match pair.mac {
            Some(mac) => format!("{}={mac}", pair.addresses),
            None => pair.addresses.to_string(),
        };
        let kbps = |limit: Option<u64>| limit.map(|limit| format!("{limit} kbit/s")).unwrap_or_default();
        page.push(("network", self.network.to_string()));
        page.push(("security groups", spaced(&self.security_groups)));
        page.push(("port security", if self.port_security { "on" } else { "off" }.to_owned()));
        page.push(("may also send from", spaced(self.allowed_pairs.iter().map(pair))));
        page.push(("dhcp options", spaced(self.dhcp_options.iter().map(|o| format!("{}={}", o.code, o.value)))));
        page.push(("at most in", kbps(self.bandwidth.ingress_kbps)));
        page.push(("at most out", kbps(self.bandwidth.egress_kbps)));
        settings(page, &self.meta)
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let ports = session.client.nouns("ports");
        match self {
            Self::List { filtered, network, vm } => {
                let mut query = filtered.query();
                query.extend(network.map(|network| ("network", network)));
                query.extend(vm.map(|vm| ("vm", vm)));
                session.list(&ports.list::<Port>(&query).await?).await;
            }
            Self::Show { port } => session.one(&ports.show::<Port>(&port).await?).await,
            Self::Create(create) => session.one(&ports.create::<_, Port>(&create.request()).await?).await,
            Self::Update(update) => {
                let limited = update.more.ingress_kbps.is_some() || update.more.egress_kbps.is_some();
                let before = if limited { Some(ports.show::<Port>(&update.port).await?.bandwidth) } else { None };
                let (port, body) = update.request(before);
                session.one(&ports.update::<_, Port>(&port, &body).await?).await;
            }
            Self::Delete { ports: names } => {
                for name in names {
                    ports.delete(&name).await?;
                }
            }
        }
        Ok(0)
    }
}

impl Create {
    fn request(self) -> PortCreate {
        let (description, metadata, tags) = self.described.parts();
        let groups = !self.security_groups.is_empty() || self.no_security_group;
        let bandwidth = self.more.bandwidth(Bandwidth::default());
        PortCreate {
            name: self.name,
            description,
            metadata,
            tags,
            network: self.network,
            addresses: self.addresses,
            subnets: self.subnets,
            mac: self.mac,
            hostname: self.hostname,
            security_groups: groups.then_some(self.security_groups),
            port_security: self.no_port_security.then_some(false),
            allowed_pairs: self.more.allowed_pairs.unwrap_or_default(),
            dhcp_options: self.more.dhcp_options.unwrap_or_default(),
            bandwidth,
        }
    }
}

impl Update {
    fn request(self, bandwidth: Option<Bandwidth>) -> (String, PortUpdate) {
        let Self { port, described, addresses, hostname, security_groups, no_security_group, port_security, more } =
            self;
        let (name, description, metadata, tags) = described.parts();
        let bandwidth = bandwidth.map(|before| more.bandwidth(before));
        let security_groups = if no_security_group { Some(Vec::new()) } else { security_groups };
        let More { allowed_pairs, dhcp_options, .. } = more;
        let body = PortUpdate {
            name,
            description,
            metadata,
            tags,
            addresses,
            hostname,
            security_groups,
            port_security,
            allowed_pairs,
            dhcp_options,
            bandwidth,
        };
        (port, body)
    }
}
