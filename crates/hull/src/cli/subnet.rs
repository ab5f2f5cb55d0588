//! `hull subnet`.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use hull_types::{
    error::Result,
    name::Name,
    network::{AddressRange, DhcpOption, Route, Subnet},
    wire::network::{SubnetCreate, SubnetUpdate},
};
use ipnet::IpNet;

use super::{
    Session,
    named::{Described, Filtered, OrNone, Redescribed, Settings, settings, spaced},
};
use crate::output::Show;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List subnets
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        filtered: Filtered,
        /// Only those of this network
        #[arg(long)]
        network: Option<String>,
    },
    /// Show a subnet
    Show {
        /// Name or id
        subnet: String,
    },
    /// Create a subnet: `hull subnet create web-v4 --network web 10.1.0.0/24`
    Create(Box<Create>),
    /// Change a subnet
    Update(Box<Update>),
    /// Delete subnets no address of which is in use
    #[command(visible_alias = "rm")]
    Delete {
        /// Names or ids
        #[arg(required = true)]
        subnets: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name
    name: Name,
    /// The range: IPv4 from /8 to /30, or an IPv6 /64
    #[arg(value_parser = range)]
    cidr: IpNet,
    /// Name or id of its network
    #[arg(long)]
    network: String,
    #[command(flatten)]
    described: Described,
    /// The gateway's address, or `none`; the first address where absent
    #[arg(long)]
    gateway: Option<OrNone<IpAddr>>,
    /// A name server told to guests (repeatable); the network's own where absent
    #[arg(long)]
    dns: Vec<IpAddr>,
    /// Addresses are given from FIRST-LAST (repeatable)
    #[arg(long = "pool", value_parser = pool)]
    pools: Vec<AddressRange>,
    /// DHCP does not serve it
    #[arg(long)]
    no_dhcp: bool,
    /// A route told to guests, RANGE=NEXT-HOP (repeatable)
    #[arg(long = "route", value_parser = route)]
    routes: Vec<Route>,
    /// A further DHCP option, CODE=VALUE (repeatable)
    #[arg(long = "dhcp-option", value_parser = dhcp_option)]
    dhcp_options: Vec<DhcpOption>,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Name or id
    subnet: String,
    #[command(flatten)]
    described: Redescribed,
    /// New gateway, or `none`
    #[arg(long)]
    gateway: Option<OrNone<IpAddr>>,
    /// A name server; given ones replace all
    #[arg(long)]
    dns: Option<Vec<IpAddr>>,
    /// A pool, FIRST-LAST; given ones replace all
    #[arg(long = "pool", value_parser = pool)]
    pools: Option<Vec<AddressRange>>,
    /// Whether DHCP serves it
    #[arg(long)]
    dhcp: Option<bool>,
    /// A route, RANGE=NEXT-HOP; given ones replace all
    #[arg(long = "route", value_parser = route)]
    routes: Option<Vec<Route>>,
    /// A DHCP option, CODE=VALUE; given ones replace all
    #[arg(long = "dhcp-option", value_parser = dhcp_option)]
    dhcp_options: Option<Vec<DhcpOption>>,
}

/// `10.0.0.0/24`
fn range(text: &str) -> std::result::Result<IpNet, String> {
    text.parse().map_err(|_| format!("{text:?} is no range; write one as 10.0.0.0/24 or 2001:db8::/64"))
}

/// `10.0.0.10-10.0.0.99`
fn pool(text: &str) -> std::result::Result<AddressRange, String> {
    let parts = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    let (first, last) = parts.ok_or_else(|| format!("{text:?} is no pool; give FIRST-LAST, two addresses"))?;
    Ok(AddressRange { first, last })
}

/// `192.168.0.0/16=10.0.0.254`
pub(crate) fn route(text: &str) -> std::result::Result<Route, String> {
    let parts = text.split_once('=').and_then(|(to, via)| Some((to.parse().ok()?, via.parse().ok()?)));
    let (to, via) = parts.ok_or_else(|| format!("{text:?} is no route; give RANGE=NEXT-HOP"))?;
    Ok(Route { to, via })
}

/// `66=tftp.example`
pub(crate) fn dhcp_option(text: &str) -> std::result::Result<DhcpOption, String> {
    let parts = text.split_once('=').and_then(|(code, value)| Some((code.parse().ok()?, value.to_owned())));
    let (code, value) = parts.ok_or_else(|| format!("{text:?} is no DHCP option; give CODE=VALUE"))?;
    Ok(DhcpOption { code, value })
}

impl Show for Subnet {
    const COLUMNS: &'static [&'static str] = &["name", "range", "gateway", "dhcp", "router", "network", "id"];
    fn row(&self) -> Vec<String> {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            self.meta.name.to_string(),
            self.cidr.to_string(),
            or_none(self.gateway.map(|gateway| gateway.to_string())),
            if self.dhcp { "yes" } else { "no" }.to_owned(),
            or_none(self.router.map(|router| router.to_string())),
            self.network.to_string(),
            self.id.to_string(),
        ]
    }

    fn page(&self) -> Vec<(&'static str, String)> {
        let mut page: Settings = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        page.push(("name servers", spaced(&self.dns)));
        page.push(("pools", spaced(self.pools.iter().map(|pool| format!("{}-{}", pool.first, pool.last)))));
        page.push(("routes", spaced(self.routes.iter().map(|route| format!("{}={}", route.to, route.via)))));
        page.push(("dhcp options", spaced(self.dhcp_options.iter().map(|o| format!("{}={}", o.code, o.value)))));
        settings(page, &self.meta)
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let subnets = session.client.nouns("subnets");
        match self {
            Self::List { filtered, network } => {
                let mut query = filtered.query();
                query.extend(network.map(|network| ("network", network)));
                session.list(&subnets.list::<Subnet>(&query).await?).await;
            }
            Self::Show { subnet } => session.one(&subnets.show::<Subnet>(&subnet).await?).await,
            Self::Create(create) => {
                session.one(&subnets.create::<_, Subnet>(&create.request()).await?).await;
            }
            Self::Update(update) => {
                let (subnet, body) = update.request();
                session.one(&subnets.update::<_, Subnet>(&subnet, &body).await?).await;
            }
            Self::Delete { subnets: names } => {
                for name in names {
                    subnets.delete(&name).await?;
                }
            }
        }
        Ok(0)
    }
}

impl Create {
    fn request(self) -> SubnetCreate {
        let (description, metadata, tags) = self.described.parts();
        SubnetCreate {
            name: self.name,
            description,
            metadata,
            tags,
            network: self.network,
            cidr: self.cidr,
            gateway: self.gateway.map(Into::into),
            dns: self.dns,
            pools: self.pools,
            dhcp: !self.no_dhcp,
            routes: self.routes,
            dhcp_options: self.dhcp_options,
        }
    }
}

impl Update {
    fn request(self) -> (String, SubnetUpdate) {
        let (name, description, metadata, tags) = self.described.parts();
        let Self { subnet, gateway, dns, pools, dhcp, routes, dhcp_options, .. } = self;
        let gateway = gateway.map(Into::into);
        (subnet, SubnetUpdate { name, description, metadata, tags, gateway, dns, pools, dhcp, routes, dhcp_options })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_routes_and_options_are_read() {
        assert!(pool("10.0.0.1-10.0.0.9").is_ok() && pool("fd00::1-fd00::9").is_ok() && pool("10.0.0.1").is_err());
        assert!(route("10.0.0.0/8=10.0.0.1").is_ok() && route("10.0.0.0/8").is_err());
        assert_eq!(dhcp_option("66=a=b").map(|option| option.value), Ok("a=b".to_owned()));
    }
}
