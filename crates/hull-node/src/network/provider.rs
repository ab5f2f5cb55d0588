//! A provider's network: the network's bridge plugged, by a cable, into a bridge of the host that the node's
//! configuration names.
//!
//! ```text
//!   segment outside ── eth1 ── br-ext (the host's) ── hull_<id> ═ cable ═ pv0 ── br0 (the network's) ── taps, routers
//! ```
//!
//! The segment is not Hull's: its gateway is another machine, and Hull's own addresses on `br0`, which are the same on
//! every node, are kept off it (`rules::bridge`). The host's bridge is made by the host's administrator.

use std::collections::BTreeMap;

use hull_types::{
    error::{Error, Result},
    id::NetworkId,
    link::DesiredNetwork,
    network::Uplink,
};

use super::{
    layout::{CABLE, Prefix},
    links::{Link, Links, Shape},
    netns::Netns,
};

/// The provider networks this host is plugged into: their names, and its bridges.
pub(crate) struct Providers {
    bridges: BTreeMap<String, String>,
    prefix: Prefix,
}

impl Providers {
    pub(crate) fn new(bridges: BTreeMap<String, String>, prefix: Prefix) -> Self {
        Self { bridges, prefix }
    }

    /// Makes the network's cable be as said, or not be.
    pub(crate) async fn keep(
        &self,
        host: &Netns,
        network: &DesiredNetwork,
        inside: &Netns,
        inner: &Links,
        bridge: &Link,
    ) -> Result<()> {
        let Uplink::Provider(provider) = &network.uplink else { return inner.delete(CABLE).await };
        let name = self.bridges.get(provider).ok_or_else(|| {
            Error::unavailable(format!(
                "this node is not plugged into the provider network {provider}; start it with \
                 `--provider {provider}=BRIDGE`"
            ))
        })?;
        let outer = Links::open(host).await?;
        let there = outer.get(name).await?.ok_or_else(|| {
            Error::unavailable(format!(
                "the host has no bridge {name}, which this node's configuration names for the provider network \
                 {provider}; make it, or name another"
            ))
        })?;
        let (cable, mtu) = (self.prefix.host_cable(network.id), u32::from(network.mtu));
        let (far, near) = outer.pair(&cable, inner, CABLE, inside, mtu).await?;
        host.sysctl(vec![(format!("ipv6/conf/{cable}/disable_ipv6"), "1")]).await?;
        outer.shape(&far, Shape { mac: None, mtu, master: Some(there.index) }).await?;
        inner.shape(&near, Shape { mac: None, mtu, master: Some(bridge.index) }).await
    }

    /// Pulls the network's cable; the kernel takes both ends.
    pub(crate) async fn remove(&self, host: &Netns, network: NetworkId) -> Result<()> {
        Links::open(host).await?.delete(&self.prefix.host_cable(network)).await
    }
}
