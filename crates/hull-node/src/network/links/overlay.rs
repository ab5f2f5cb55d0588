//! Tunnels between nodes: VXLAN devices, the manners of their bridge ports, and where each MAC is.

use std::{collections::BTreeSet, net::IpAddr, os::fd::RawFd};

use futures::TryStreamExt;
use hull_types::{
    error::Result,
    network::{Mac, Vni},
};
use rtnetlink::{
    LinkBridgePort, LinkVxlan,
    packet_route::{
        AddressFamily,
        link::{InfoBridgePort, InfoData, InfoPortData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};

use super::{Link, Links, failed, unless_there};

/// The port of RFC 7348.
pub(crate) const PORT: u16 = 4789;
/// `NUD_NOARP | NUD_REACHABLE`: what `bridge fdb` calls static. `NUD_PERMANENT` would make it an address of our own.
const STATIC: NeighbourState = NeighbourState::Other(0x42);

/// What a tunnel is, apart from its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub(crate) vni: Vni,
    pub(crate) local: IpAddr,
}

impl Links {
    /// Makes a tunnel in another namespace: what it carries goes by this one. It has no default destination and learns
    /// nothing.
    pub(crate) async fn add_tunnel(&self, name: &str, namespace: RawFd, tunnel: Tunnel, mtu: u32) -> Result<()> {
        let device = LinkVxlan::new(name, tunnel.vni.0).port(PORT).learning(false).mtu(mtu).setns_by_fd(namespace);
        let device = match tunnel.local {
            IpAddr::V4(local) => device.local(local),
            IpAddr::V6(local) => device.local6(local),
        };
        let added = self.handle.link().add(device.build()).execute().await;
        unless_there(added).map(drop).map_err(failed(format!("cannot make the tunnel with VNI {}", tunnel.vni)))
    }

    /// The tunnel of this name.
    pub(crate) async fn tunnel(&self, name: &str) -> Result<Option<Tunnel>> {
        Ok(self.message(name).await?.as_ref().and_then(tunnel_of))
    }

    /// Makes a bridge port flood nothing, learn nothing, and be answered for: asked for a neighbour behind it, the
    /// bridge answers from its own table.
    pub(crate) async fn keep_quiet(&self, link: &Link) -> Result<()> {
        let told = [
            InfoBridgePort::Learning(false),
            InfoBridgePort::UnicastFlood(false),
            InfoBridgePort::MulticastFlood(false),
            InfoBridgePort::BroadcastFlood(false),
            InfoBridgePort::NeighSupress(true),
        ];
        let now = self.message(&link.name).await?.map(|message| port_data(&message)).unwrap_or_default();
        if told.iter().all(|wanted| now.contains(wanted)) {
            return Ok(());
        }
        let message = told.into_iter().fold(LinkBridgePort::new(link.index), |m, wanted| m.append_info_data(wanted));
        let set = self.handle.link().set_port(message.build()).execute().await;
        set.map_err(failed(format!("cannot keep the port {} from flooding", link.name)))
    }

    /// Makes the MACs behind a tunnel be exactly these, each at its node: in the tunnel, and at the bridge's port.
    pub(crate) async fn set_far(&self, link: &Link, wanted: &BTreeSet<(Mac, IpAddr)>) -> Result<()> {
        let request = self.handle.neighbours().get().set_address_family(AddressFamily::Bridge);
        let listed = request.execute().try_collect::<Vec<NeighbourMessage>>().await;
        let listed = listed.map_err(failed("cannot list forwarding entries".into()))?;
        let macs: BTreeSet<Mac> = wanted.iter().map(|(mac, _)| *mac).collect();
        let (mut in_tunnel, mut at_port) = (BTreeSet::new(), BTreeSet::new());
        for mut message in listed.into_iter().filter(|message| message.header.ifindex == link.index) {
            let Some((mac, node, of_bridge)) = far_of(&message) else { continue };
            let right = match node {
                _ if of_bridge => macs.contains(&mac) && at_port.insert(mac),
                Some(node) => wanted.contains(&(mac, node)) && in_tunnel.insert((mac, node)),
                None => false,
            };
            // The bridge's own entry for the port's MAC is the kernel's.
            if right || (of_bridge && message.header.state == NeighbourState::Permanent) {
                continue;
            }
            message.header.flags = if of_bridge { NeighbourFlags::Controller } else { NeighbourFlags::Own };
            let deleted = self.handle.neighbours().del(message).execute().await;
            deleted.map_err(failed(format!("cannot forget where {mac} is")))?;
        }
        // In the tunnel first: the port would send to nobody.
        for &(mac, node) in wanted.difference(&in_tunnel) {
            let mut request = self.handle.neighbours().add_bridge(link.index, &mac.0).flags(NeighbourFlags::Own);
            let address = match node {
                IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
                IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
            };
            request.message_mut().attributes.push(NeighbourAttribute::Destination(address));
            let added = request.replace().execute().await;
            added.map_err(failed(format!("cannot enter that {mac} is at {node}")))?;
        }
        for mac in macs.difference(&at_port) {
            let request = self.handle.neighbours().add_bridge(link.index, &mac.0).state(STATIC);
            let added = request.flags(NeighbourFlags::Controller).replace().execute().await;
            added.map_err(failed(format!("cannot enter that {mac} is behind {}", link.name)))?;
        }
        Ok(())
    }

    async fn message(&self, name: &str) -> Result<Option<LinkMessage>> {
        let messages = self.handle.link().get().execute().try_collect::<Vec<LinkMessage>>().await;
        let named = |message: &LinkMessage| {
            message.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(found) if found == name))
        };
        Ok(messages.map_err(failed("cannot list links".into()))?.into_iter().find(named))
    }
}

fn infos(message: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    message.attributes.iter().flat_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.as_slice(),
        _ => &[],
    })
}

fn tunnel_of(message: &LinkMessage) -> Option<Tunnel> {
    let data = infos(message).find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    })?;
    let (mut vni, mut local) = (None, None);
    for info in data {
        match info {
            InfoVxlan::Id(id) => vni = Some(Vni(*id)),
            InfoVxlan::Local(address) => local = Some(IpAddr::V4(*address)),
            InfoVxlan::Local6(address) => local = Some(IpAddr::V6(*address)),
            _ => {}
        }
    }
    Some(Tunnel { vni: vni?, local: local? })
}

fn port_data(message: &LinkMessage) -> Vec<InfoBridgePort> {
    let data = infos(message).find_map(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => Some(data.clone()),
        _ => None,
    });
    data.unwrap_or_default()
}

/// A forwarding entry: the MAC, the node it is at, and whether the bridge's port has it (or the tunnel itself).
fn far_of(message: &NeighbourMessage) -> Option<(Mac, Option<IpAddr>, bool)> {
    let (mut mac, mut node, mut of_bridge) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(&bytes[..]).ok().map(Mac),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => node = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => node = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::Controller(_) => of_bridge = true,
            _ => {}
        }
    }
    Some((mac?, node, of_bridge))
}
