//! The host's side of the networks: links, routes, rules and settings in the host's own namespace.
//!
//! Each network that reaches out has a pair of links between its namespace and the host's. It masquerades as its own end
//! (so networks may use the same addresses), the host masquerades again as itself. Guests get through the host, not into
//! it; the host gets to guests by routes. What is set on the host, and logged when it is: forwarding for both families.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use hull_types::{
    error::{Error, Result},
    id::NetworkId,
    link::DesiredNetwork,
};
use ipnet::IpNet;

use super::{
    forwarding,
    layout::{LinkAddresses, LinkRange, Prefix, UPLINK},
    links::{Links, Shape},
    linux::NetworksConfig,
    netns::Netns,
    nft,
    provider::Providers,
    rules,
    vxlan::Tunnels,
};

/// The host's namespace and what Hull numbers in it.
pub(crate) struct Host {
    pub(crate) namespace: Netns,
    pub(crate) tunnels: Tunnels,
    pub(crate) providers: Providers,
    prefix: Prefix,
    range: LinkRange,
    state: PathBuf,
    /// Which pair of addresses each network's link has.
    numbers: Mutex<HashMap<NetworkId, u32>>,
    /// Whether it is known that nothing of Hull's is left on the host beside links. Not known at first: another process may
    /// have left something. Held while that changes.
    bare: tokio::sync::Mutex<bool>,
}

impl Host {
    pub(crate) fn new(namespace: Netns, config: NetworksConfig) -> Self {
        let NetworksConfig { state, prefix, links, underlay, providers, .. } = config;
        Self {
            namespace,
            tunnels: Tunnels::new(underlay, prefix.clone(), state.clone()),
            providers: Providers::new(providers, prefix.clone()),
            prefix,
            range: links,
            state,
            numbers: Mutex::default(),
            bare: tokio::sync::Mutex::default(),
        }
    }

    /// Makes the network's link to the host, both ends, with addresses and routes.
    pub(crate) async fn link_up(&self, network: &DesiredNetwork, inside: &Netns, inner: &Links) -> Result<()> {
        self.prepare().await?;
        let outer = Links::open(&self.namespace).await?;
        let name = self.prefix.host_link(network.id);
        let addresses = self.addresses(network.id, &outer).await?;
        let mtu = u32::from(network.mtu);
        let (far, near) = outer.pair(&name, inner, UPLINK, inside, mtu).await?;
        for (namespace, link) in [(inside, UPLINK), (&self.namespace, name.as_str())] {
            namespace.sysctl(quiet_link(link)).await?;
        }
        inner.set_addresses(&near, &both(addresses.inner4, addresses.inner6)).await?;
        outer.set_addresses(&far, &both(addresses.host4, addresses.host6)).await?;
        inner.shape(&near, Shape { mtu, ..Shape::default() }).await?;
        outer.shape(&far, Shape { mtu, ..Shape::default() }).await?;
        for gateway in [IpAddr::V4(addresses.host4), IpAddr::V6(addresses.host6)] {
            inner.route(everywhere(gateway), gateway, near.index).await?;
        }
        for subnet in &network.subnets {
            let via = match subnet.cidr {
                IpNet::V4(_) => IpAddr::V4(addresses.inner4),
                IpNet::V6(_) => IpAddr::V6(addresses.inner6),
            };
            if !outer.route(subnet.cidr.trunc(), via, far.index).await? {
                tracing::debug!(network = %network.name, range = %subnet.cidr,
                    "the host has a route for this range already; it reaches these VMs through Hull only");
            }
        }
        Ok(())
    }

    /// Takes the network's link away (the kernel takes both ends, addresses and routes with it), and with the last one the
    /// host's rules and settings.
    pub(crate) async fn link_down(&self, network: NetworkId) -> Result<()> {
        let outer = Links::open(&self.namespace).await?;
        outer.delete(&self.prefix.host_link(network)).await?;
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).remove(&network);
        let ours = format!("{}-", self.prefix.as_str());
        if outer.all().await?.iter().any(|link| link.name.starts_with(&ours)) {
            return Ok(());
        }
        let mut bare = self.bare.lock().await;
        if *bare {
            return Ok(());
        }
        let table = self.table();
        self.namespace
            .run(move || {
                let text = format!("table inet {table}\ndelete table inet {table}\n");
                super::command::run("nft", &["-f", "-"], &text)
            })
            .await??;
        let _ = std::fs::remove_file(self.memory());
        forwarding::turn_off(&self.namespace, self.settings()).await?;
        *bare = true;
        Ok(())
    }

    fn table(&self) -> String {
        format!("{}_host", self.prefix.as_str())
    }

    fn memory(&self) -> PathBuf {
        self.state.join("host.rules")
    }

    /// What Hull changed of the host's own settings.
    fn settings(&self) -> PathBuf {
        self.state.join("forwarding.json")
    }

    /// Forwarding and the host's rules.
    async fn prepare(&self) -> Result<()> {
        let mut bare = self.bare.lock().await;
        *bare = false;
        forwarding::turn_on(&self.namespace, self.settings()).await?;
        let table = self.table();
        let text = rules::host_rules(&table, &self.prefix.host_links(), &self.range);
        nft::keep(&self.namespace, vec![format!("inet {table}")], text, self.memory()).await.map(drop)
    }

    async fn addresses(&self, network: NetworkId, outer: &Links) -> Result<LinkAddresses> {
        let name = self.prefix.host_link(network);
        let own = outer.get(&name).await?.map(|link| link.index);
        let present = outer.addresses(None).await?;
        let numbered = present.iter().filter_map(|(link, address)| match address.addr() {
            IpAddr::V4(v4) => Some((*link, self.range.number_of(v4)?)),
            IpAddr::V6(_) => None,
        });
        let (own, others): (Vec<_>, Vec<_>) = numbered.partition(|(link, _)| Some(*link) == own);
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = numbers.get(&network).copied().or_else(|| own.first().map(|(_, number)| *number));
        let taken = |number: u32| {
            let promised = numbers.iter().any(|(other, &theirs)| theirs == number && *other != network);
            promised || others.iter().any(|&(_, theirs)| theirs == number)
        };
        let number = known.or_else(|| self.range.choose(network, taken)).ok_or_else(|| {
            Error::insufficient(format!(
                "no link addresses are left in {}; give the node a larger range",
                self.range.v4
            ))
        })?;
        numbers.insert(network, number);
        Ok(self.range.pair(number))
    }

    /// What this host does with the network's ranges, for people.
    pub(crate) async fn explain(&self, network: &DesiredNetwork) -> Result<Vec<String>> {
        let outer = Links::open(&self.namespace).await?;
        let name = self.prefix.host_link(network.id);
        let Some(link) = outer.get(&name).await? else {
            return Ok(vec![format!("host: no link {name}; the network does not reach out")]);
        };
        let mut lines = vec![format!("host: link {name} is {}", if link.up { "up" } else { "down" })];
        for subnet in &network.subnets {
            let ours = outer.routes(subnet.cidr.trunc()).await?.iter().any(|(_, to)| *to == Some(link.index));
            lines.push(match ours {
                true => format!("host: {} is routed to the network", subnet.cidr),
                false => format!("host: {} is routed elsewhere; reach these VMs with `hull ssh`", subnet.cidr),
            });
        }
        Ok(lines)
    }
}

fn both(v4: std::net::Ipv4Addr, v6: std::net::Ipv6Addr) -> BTreeSet<IpNet> {
    [IpNet::new_assert(v4.into(), 31), IpNet::new_assert(v6.into(), 127)].into()
}

fn everywhere(family: IpAddr) -> IpNet {
    match family {
        IpAddr::V4(_) => IpNet::new_assert(std::net::Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => IpNet::new_assert(std::net::Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

/// A link that has the addresses it is given and no others, usable at once.
pub(crate) fn quiet_link(link: &str) -> Vec<(String, &'static str)> {
    let v6 = |key: &str| format!("ipv6/conf/{link}/{key}");
    vec![
        (v6("disable_ipv6"), "0"),
        (v6("accept_ra"), "0"),
        (v6("accept_dad"), "0"),
        // 1: no link-local address is made; a /127 needs none.
        (v6("addr_gen_mode"), "1"),
    ]
}
