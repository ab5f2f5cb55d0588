//! What the services of a network answer from: the desired network, indexed by what guests come with.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hull_types::{
    link::{DesiredNetwork, DesiredPort, DesiredSubnet},
    network::{Mac, Uplink},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::layout::{RESOLVER_V4, RESOLVER_V6, link_local};

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
pub(crate) fn address_v4(port: &DesiredPort, range: Ipv4Net) -> Option<Ipv4Addr> {
    port.addresses.iter().find_map(|address| match address {
        IpAddr::V4(v4) if range.contains(v4) => Some(*v4),
        _ => None,
    })
}

/// The port's address in this range.
pub(crate) fn address_v6(port: &DesiredPort, range: Ipv6Net) -> Option<Ipv6Addr> {
    port.addresses.iter().find_map(|address| match address {
        IpAddr::V6(v6) if range.contains(v6) => Some(*v6),
        _ => None,
    })
}

/// The IPv4 subnets in their order.
pub(crate) fn subnets_v4(network: &DesiredNetwork) -> impl Iterator<Item = (Ipv4Net, &DesiredSubnet)> {
    network.subnets.iter().filter_map(|subnet| match subnet.cidr {
        IpNet::V4(range) => Some((range, subnet)),
        IpNet::V6(_) => None,
    })
}

/// The IPv6 subnets that DHCP and router advertisements serve, in their order.
pub(crate) fn served_v6(network: &DesiredNetwork) -> impl Iterator<Item = (Ipv6Net, &DesiredSubnet)> {
    network.subnets.iter().filter(|subnet| subnet.dhcp).filter_map(|subnet| match subnet.cidr {
        IpNet::V6(range) => Some((range, subnet)),
        IpNet::V4(_) => None,
    })
}

/// Whether the subnet's gateway leads anywhere: the network's own, one outside, or a VM that has the address.
pub(crate) fn leads_out(view: &View, subnet: &DesiredSubnet) -> bool {
    let outside = matches!(view.network().uplink, Uplink::Provider(_));
    subnet.gateway.is_some_and(|gateway| subnet.gateway_is_ours || outside || view.port_of_address(gateway).is_some())
}

/// The name servers of a subnet: those it names, else the network's own.
pub(crate) fn resolvers(subnet: &DesiredSubnet) -> Vec<IpAddr> {
    let v4 = subnet.cidr.addr().is_ipv4();
    let named: Vec<IpAddr> = subnet.dns.iter().copied().filter(|address| address.is_ipv4() == v4).collect();
    match subnet.gateway.filter(|_| subnet.gateway_is_ours) {
        _ if !named.is_empty() => named,
        Some(gateway) => vec![gateway],
        None if v4 => vec![RESOLVER_V4.into()],
        None => vec![RESOLVER_V6.into()],
    }
}
