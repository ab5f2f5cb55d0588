//! What the services of a network answer from: the desired network, indexed by what guests come with.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hull_types::{
    link::{DesiredNetwork, DesiredPort},
    network::Mac,
};

use super::layout::link_local;

/// A network as its services see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    network: DesiredNetwork,
    by_mac: HashMap<Mac, usize>,
    by_address: HashMap<IpAddr, usize>,
    by_name: HashMap<String, usize>,
}

impl View {
    pub(crate) fn new(network: DesiredNetwork) -> Self {
        let (mut by_mac, mut by_address, mut by_name) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (index, port) in network.ports.iter().enumerate() {
            by_mac.insert(port.mac, index);
            by_address.extend(port.addresses.iter().map(|&address| (address, index)));
            by_address.insert(link_local(port.mac).into(), index);
            by_name.entry(port.hostname.to_ascii_lowercase()).or_insert(index);
        }
        Self { network, by_mac, by_address, by_name }
    }

    pub(crate) fn network(&self) -> &DesiredNetwork {
        &self.network
    }

    /// The port with this MAC.
    pub(crate) fn port_of_mac(&self, mac: Mac) -> Option<&DesiredPort> {
        self.network.ports.get(*self.by_mac.get(&mac)?)
    }

    /// The port that holds this address, link-local ones included.
    pub(crate) fn port_of_address(&self, address: IpAddr) -> Option<&DesiredPort> {
        self.network.ports.get(*self.by_address.get(&address)?)
    }

    /// The port with this host name, in lower case.
    pub(crate) fn port_of_name(&self, name: &str) -> Option<&DesiredPort> {
        self.network.ports.get(*self.by_name.get(name)?)
    }
}

/// The port's address in this range.
pub(crate) fn address_v4(port: &DesiredPort, range: ipnet::Ipv4Net) -> Option<Ipv4Addr> {
    port.addresses.iter().find_map(|address| match address {
        IpAddr::V4(v4) if range.contains(v4) => Some(*v4),
        _ => None,
    })
}

/// The port's address in this range.
pub(crate) fn address_v6(port: &DesiredPort, range: ipnet::Ipv6Net) -> Option<Ipv6Addr> {
    port.addresses.iter().find_map(|address| match address {
        IpAddr::V6(v6) if range.contains(v6) => Some(*v6),
        _ => None,
    })
}
