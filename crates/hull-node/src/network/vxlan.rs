//! A network between nodes: its tunnel, which carries frames to where the store says each MAC is.
//!
//! ```text
//!   guest ── tap ── br0 ── vx0 ═══ UDP 4789 by the host's namespace ═══ vx0 ── br0 ── tap ── guest
//! ```
//!
//! Nothing is learned and nothing is flooded: the tunnel has an entry for each port that is elsewhere and no default,
//! the bridge sends it known addresses only, and answers itself when a guest asks for a neighbour that is elsewhere
//! (`neigh_suppress`, from the permanent neighbours of `br0`). So broadcasts and multicasts of guests stay on their node;
//! DHCP, RA, DNS and metadata are answered on every node alike.
//!
//! The gateway has one MAC everywhere; frames from a tunnel with that source come from another node's gateway, and none
//! with that destination is ever sent. Who may speak to a tunnel at all is said by the host's rules: known nodes only.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::{MutexGuard, PoisonError},
};

use hull_types::{
    error::{Error, Result},
    id::NetworkId,
    link::{DesiredNetwork, PortPlace},
    network::Mac,
};
use tokio::sync::Mutex;

use super::{
    layout::{Prefix, TUNNEL},
    links::{Link, Links, Shape, Tunnel},
    netns::Netns,
    nft, router_rules,
};

/// What an inner packet grows by: Ethernet 14, VXLAN 8, UDP 8, and the outer IP header.
pub(crate) fn overhead(underlay: IpAddr) -> u32 {
    if underlay.is_ipv4() { 50 } else { 70 }
}

/// The host's side of all tunnels.
pub(crate) struct Tunnels {
    /// The address at which other nodes reach this one.
    underlay: Option<IpAddr>,
    prefix: Prefix,
    state: PathBuf,
    /// Which nodes each network reaches. Remembered in a file: a Hull that starts again is told its networks one by one,
    /// and must not shut out the nodes of the others meanwhile. Held while rules are loaded, so that the last is the
    /// newest.
    peers: Mutex<Option<BTreeMap<NetworkId, BTreeSet<IpAddr>>>>,
    /// The MTU with which each network's tunnel was measured against the underlay, and what came of it.
    measured: std::sync::Mutex<BTreeMap<NetworkId, Measured>>,
}

/// A network's MTU, and why its packets do not fit, where they do not.
type Measured = (u16, Option<String>);

impl Tunnels {
    pub(crate) fn new(underlay: Option<IpAddr>, prefix: Prefix, state: PathBuf) -> Self {
        Self { underlay, prefix, state, peers: Mutex::default(), measured: std::sync::Mutex::default() }
    }

    /// Makes the network's tunnel be as said, or not be.
    pub(crate) async fn keep(
        &self,
        host: &Netns,
        network: &DesiredNetwork,
        inside: &Netns,
        inner: &Links,
        bridge: &Link,
    ) -> Result<()> {
        let (Some(local), Some(vni)) = (self.underlay, network.vni) else {
            self.measured().remove(&network.id);
            if self.underlay.is_some() {
                self.allow(host, network.id, Some(BTreeSet::new())).await?;
            }
            return inner.delete(TUNNEL).await;
        };
        let far = far(network, local);
        self.allow(host, network.id, Some(far.iter().map(|(_, node)| *node).collect())).await?;
        let (tunnel, mtu) = (Tunnel { vni, local }, u32::from(network.mtu));
        let there = inner.tunnel(TUNNEL).await? == Some(tunnel);
        // What fitted is not measured at every pass; what did not may have been mended on the host.
        let fits = matches!(self.measured().get(&network.id), Some((mtu, None)) if *mtu == network.mtu);
        if !there || !fits {
            let outer = Links::open(host).await?;
            let misfit = misfit(&outer, local, network).await?;
            self.measured().insert(network.id, (network.mtu, misfit));
            if !there {
                inner.delete(TUNNEL).await?;
                outer.add_tunnel(TUNNEL, inside.as_raw_fd(), tunnel, mtu).await?;
            }
        }
        let link = inner.get(TUNNEL).await?.ok_or_else(|| {
            Error::unavailable(format!(
                "the tunnel of network {} could not be made: another one on this host has the VNI {vni}, perhaps one \
                 that is just going; trying again helps then",
                network.name
            ))
        })?;
        inner.shape(&link, Shape { mac: None, mtu, master: Some(bridge.index) }).await?;
        inner.keep_quiet(&link).await?;
        inner.set_far(&link, &far).await
    }

    /// Takes what the host has for the network's tunnel away.
    pub(crate) async fn remove(&self, host: &Netns, network: NetworkId) -> Result<()> {
        self.measured().remove(&network);
        if self.underlay.is_none() {
            return Ok(());
        }
        self.allow(host, network, None).await
    }

    /// The networks whose full-size packets the underlay does not carry.
    pub(crate) fn misfits(&self) -> Vec<String> {
        self.measured().values().filter_map(|(_, misfit)| misfit.clone()).collect()
    }

    fn measured(&self) -> MutexGuard<'_, BTreeMap<NetworkId, Measured>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets these nodes, and those of the other networks, speak to this one.
    async fn allow(&self, host: &Netns, network: NetworkId, nodes: Option<BTreeSet<IpAddr>>) -> Result<()> {
        let Some(underlay) = self.underlay else { return Ok(()) };
        let mut guard = self.peers.lock().await;
        let before = guard.take().unwrap_or_else(|| self.remembered());
        let mut peers = before.clone();
        match nodes {
            Some(nodes) => peers.insert(network, nodes),
            None => peers.remove(&network),
        };
        let kept = self.load(host, underlay, before != peers, &peers).await;
        // What could not be loaded is not known.
        *guard = kept.is_ok().then_some(peers);
        kept
    }

    async fn load(
        &self,
        host: &Netns,
        underlay: IpAddr,
        changed: bool,
        peers: &BTreeMap<NetworkId, BTreeSet<IpAddr>>,
    ) -> Result<()> {
        let table = format!("{}_tunnels", self.prefix.as_str());
        if peers.is_empty() {
            let text = format!("table inet {table}\ndelete table inet {table}\n");
            host.run(move || super::command::run("nft", &["-f", "-"], &text)).await??;
            let _ = std::fs::remove_file(self.rules_memory());
            let _ = std::fs::remove_file(self.memory());
            return Ok(());
        }
        let nodes = peers.values().flatten().copied().collect();
        let text = router_rules::tunnel_rules(&table, &self.prefix.host_links(), underlay, &nodes);
        nft::keep(host, vec![format!("inet {table}")], text, self.rules_memory()).await?;
        if changed {
            let failed =
                |error: String| Error::unavailable(format!("{} cannot be written: {error}", self.memory().display()));
            let bytes = serde_json::to_vec(peers).map_err(|error| failed(error.to_string()))?;
            let fresh = self.state.join("tunnels.new");
            std::fs::write(&fresh, bytes)
                .and_then(|()| std::fs::rename(&fresh, self.memory()))
                .map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    /// What was remembered of networks that are still here: after a reboot of the host none is.
    fn remembered(&self) -> BTreeMap<NetworkId, BTreeSet<IpAddr>> {
        let bytes = std::fs::read(self.memory()).unwrap_or_default();
        let mut peers: BTreeMap<NetworkId, BTreeSet<IpAddr>> = serde_json::from_slice(&bytes).unwrap_or_default();
        peers.retain(|network, _| matches!(Netns::named(&self.prefix.namespace(*network)), Ok(Some(_))));
        peers
    }

    fn memory(&self) -> PathBuf {
        self.state.join("tunnels.json")
    }

    fn rules_memory(&self) -> PathBuf {
        self.state.join("tunnels.rules")
    }
}

/// Where each MAC that is elsewhere is. Nodes that only the other family reaches are left out: a tunnel has one.
fn far(network: &DesiredNetwork, local: IpAddr) -> BTreeSet<(Mac, IpAddr)> {
    let there = network.ports.iter().filter_map(|port| match port.place {
        PortPlace::There { node } if node.is_ipv4() == local.is_ipv4() && node != local => Some((port.mac, node)),
        PortPlace::There { node } => {
            tracing::warn!(network = %network.name, port = %port.id, %node, %local,
                "a port's node cannot be reached from this node's underlay address; give both one of the same family");
            None
        }
        PortPlace::Here | PortPlace::Nowhere => None,
    });
    there.collect()
}

/// Refuses an underlay address that is not the host's; says what to do where full-size packets would not fit.
async fn misfit(outer: &Links, local: IpAddr, network: &DesiredNetwork) -> Result<Option<String>> {
    let index = outer.addresses(None).await?.iter().find(|(_, net)| net.addr() == local).map(|(index, _)| *index);
    let link = outer.all().await?.into_iter().find(|link| Some(link.index) == index).ok_or_else(|| {
        Error::unavailable(format!(
            "the underlay address {local} is on no link of this host; give the node one that is (`--underlay`)"
        ))
    })?;
    let most = link.mtu.saturating_sub(overhead(local));
    let mtu = u32::from(network.mtu);
    Ok((mtu > most).then(|| {
        format!(
            "network {}'s packets (MTU {mtu}) do not fit into tunnels over {}: set its MTU to {most} at most, or that link's to {} at least",
            network.name,
            link.name,
            mtu + overhead(local)
        )
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::fixture, *};

    #[test]
    fn only_ports_elsewhere_are_behind_the_tunnel() {
        let mut network = fixture::network();
        let local = "192.0.2.1".parse().unwrap();
        let there = (network.ports[2].mac, "192.0.2.2".parse().unwrap());
        assert_eq!(far(&network, local), [there].into());
        network.ports[2].place = PortPlace::There { node: "2001:db8::2".parse().unwrap() };
        assert_eq!(far(&network, local), [].into());
    }
}
