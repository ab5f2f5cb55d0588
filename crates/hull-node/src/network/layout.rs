//! What things are called and which addresses the plumbing uses: all derived from ids, so that a restarted Hull (or a
//! person with `ip`) finds everything again without a record.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hull_types::{
    error::{Error, Result},
    id::{NetworkId, PortId, RouterId},
    link::{DesiredNetwork, DesiredSubnet},
    network::Mac,
};
use ipnet::{Ipv4Net, Ipv6Net};

/// The bridge in each network's namespace.
pub(crate) const BRIDGE: &str = "br0";
/// The network's end of its link to the host.
pub(crate) const UPLINK: &str = "up0";
/// What every tap's name begins with; nothing else in the namespace does.
pub(crate) const TAP_PREFIX: &str = "tap";
/// The network's end of its tunnel to other nodes (VXLAN).
pub(crate) const TUNNEL: &str = "vx0";
/// The network's end of its cable to a provider's bridge.
pub(crate) const CABLE: &str = "pv0";
/// What the name of each link to a router begins with, in a network's namespace.
pub(crate) const ROUTER_PREFIX: &str = "rt";
/// What the name of each router's way out begins with, in the external network's namespace.
pub(crate) const GATEWAY_PREFIX: &str = "gw";
/// What the name of each link to a network begins with, in a router's namespace.
pub(crate) const NETWORK_PREFIX: &str = "net";
/// The router's end of its way out.
pub(crate) const GATEWAY: &str = "gw0";
/// The two ends of a link between a network and a router. Every such link has these: routes name the link as well, and
/// guests see none of them.
pub(crate) const ROUTER_LINK: LinkEnds = LinkEnds {
    network4: Ipv4Addr::new(169, 254, 194, 0),
    router4: Ipv4Addr::new(169, 254, 194, 1),
    network6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x1),
    router6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x2),
};
/// Where guests ask for metadata over IPv4 (the EC2 and OpenStack convention).
pub(crate) const METADATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Where guests ask for metadata over IPv6 (the EC2 convention).
pub(crate) const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Where guests ask for names over IPv4 where no gateway is the network's own (the EC2 convention).
pub(crate) const RESOLVER_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);
/// Where guests ask for names over IPv6 where no gateway is the network's own (the EC2 convention).
pub(crate) const RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253);

/// A prefix for the names of everything one Hull makes on a host: 1 to 5 lower-case letters and digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// Parses a prefix. Five characters are what an interface name (15 bytes) leaves beside the network's part.
    pub fn new(text: &str) -> Result<Self> {
        let fits = (1..=5).contains(&text.len());
        if fits && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::invalid(format!(
            "{text:?} cannot be a prefix for names of network devices: use 1 to 5 lower-case letters and digits"
        )))
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a network's namespace: the whole id, so that the network can be told from the name alone.
    pub(crate) fn namespace(&self, network: NetworkId) -> String {
        format!("{}-{}", self.0, network.0.simple())
    }

    /// The network whose namespace bears this name, if it is one of this Hull's.
    pub(crate) fn network_of(&self, namespace: &str) -> Option<NetworkId> {
        let hex = namespace.strip_prefix(&self.0)?.strip_prefix('-')?;
        (hex.len() == 32).then(|| hex.parse().ok()).flatten().filter(|id| self.namespace(*id) == namespace)
    }

    /// The name of a router's namespace. The longer form cannot be taken for a network's.
    pub(crate) fn router_namespace(&self, router: RouterId) -> String {
        format!("{}-r-{}", self.0, router.0.simple())
    }

    /// The router whose namespace bears this name, if it is one of this Hull's.
    pub(crate) fn router_of(&self, namespace: &str) -> Option<RouterId> {
        let hex = namespace.strip_prefix(&self.0)?.strip_prefix("-r-")?;
        (hex.len() == 32).then(|| hex.parse().ok()).flatten().filter(|id| self.router_namespace(*id) == namespace)
    }

    /// The host's end of a provider network's cable. Not a [`Prefix::host_link`]: the host does not route for it.
    pub(crate) fn host_cable(&self, network: NetworkId) -> String {
        format!("{}_{}", self.0, tail(&network.0, 9))
    }

    /// The host's end of a network's link. The last digits of a version 7 UUID are its random ones.
    pub(crate) fn host_link(&self, network: NetworkId) -> String {
        format!("{}-{}", self.0, tail(&network.0, 9))
    }

    /// Matches every [`Prefix::host_link`] in nftables.
    pub(crate) fn host_links(&self) -> String {
        format!("{}-*", self.0)
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self("hull".to_owned())
    }
}

fn tail(id: &uuid::Uuid, digits: usize) -> String {
    let hex = id.simple().to_string();
    hex[hex.len() - digits..].to_owned()
}

/// The name of a port's tap.
pub(crate) fn tap_name(port: PortId) -> String {
    format!("{TAP_PREFIX}{}", tail(&port.0, 12))
}

/// The name of a link to this router, in a network's namespace.
pub(crate) fn router_link(router: RouterId) -> String {
    format!("{ROUTER_PREFIX}{}", tail(&router.0, 12))
}

/// The name of this router's way out, in the external network's namespace.
pub(crate) fn gateway_link(router: RouterId) -> String {
    format!("{GATEWAY_PREFIX}{}", tail(&router.0, 12))
}

/// The name of a link to this network, in a router's namespace.
pub(crate) fn network_link(network: NetworkId) -> String {
    format!("{NETWORK_PREFIX}{}", tail(&network.0, 12))
}

/// The routing tables of a router in a network's namespace: for what guests send, and for what the router sends. By its
/// number, which no other router has.
pub(crate) fn router_tables(router: RouterId) -> (u32, u32) {
    let number = router.number() << 1;
    (0x4000_0000 | number, 0x4000_0000 | number | 1)
}

/// The MAC of a network's gateway: the same on every node, locally administered.
pub(crate) fn gateway_mac(network: NetworkId) -> Mac {
    let id = network.0.as_bytes();
    Mac([0x02, id[11], id[12], id[13], id[14], id[15]])
}

/// The link-local address that a MAC makes by EUI-64 (RFC 4291, appendix A).
pub(crate) fn link_local(mac: Mac) -> Ipv6Addr {
    eui64(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), mac)
}

/// The address that a MAC makes in a /64 by EUI-64.
pub(crate) fn eui64(prefix: Ipv6Addr, mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let mut octets = prefix.octets();
    octets[8..].copy_from_slice(&[a ^ 0x02, b, c, 0xff, 0xfe, d, e, f]);
    octets.into()
}

/// The MAC that makes this link-local address by EUI-64.
pub(crate) fn mac_of_link_local(address: Ipv6Addr) -> Option<Mac> {
    let o = address.octets();
    let mac = Mac([o[8] ^ 0x02, o[9], o[10], o[13], o[14], o[15]]);
    (link_local(mac) == address).then_some(mac)
}

/// The addresses of the two ends of a link between a network and a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkEnds {
    pub(crate) network4: Ipv4Addr,
    pub(crate) router4: Ipv4Addr,
    pub(crate) network6: Ipv6Addr,
    pub(crate) router6: Ipv6Addr,
}

impl LinkEnds {
    /// The network's end, in the family of this address.
    pub(crate) fn network(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.network4.into() } else { self.network6.into() }
    }

    /// The router's end, in the family of this address.
    pub(crate) fn router(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.router4.into() } else { self.router6.into() }
    }
}

/// The two ends of a network's link to its host, one pair of addresses of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkAddresses {
    pub(crate) host4: Ipv4Addr,
    pub(crate) inner4: Ipv4Addr,
    pub(crate) host6: Ipv6Addr,
    pub(crate) inner6: Ipv6Addr,
}

/// The ranges that links to the host are numbered from. Guests never see them; they must not be in use on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRange {
    /// Two addresses of it for each network.
    pub v4: Ipv4Net,
    /// Two addresses of it for each network.
    pub v6: Ipv6Net,
}

impl Default for LinkRange {
    /// The upper half of the range for benchmarks of RFC 2544, which nobody routes, and a ULA that spells "Hull".
    fn default() -> Self {
        Self {
            v4: Ipv4Net::new_assert(Ipv4Addr::new(198, 19, 0, 0), 16),
            v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd48, 0x756c, 0x6c00, 0, 0, 0, 0, 0), 64),
        }
    }
}

impl LinkRange {
    /// How many networks it has room for.
    pub(crate) fn room(&self) -> u32 {
        1u32 << (32 - u32::from(self.v4.prefix_len())).saturating_sub(1).min(30)
    }

    /// The pair of addresses with this number, below [`LinkRange::room`].
    pub(crate) fn pair(&self, number: u32) -> LinkAddresses {
        let v4 = u32::from(self.v4.network()) + number * 2;
        let v6 = u128::from(self.v6.network()) + u128::from(number) * 2;
        LinkAddresses { host4: v4.into(), inner4: (v4 + 1).into(), host6: v6.into(), inner6: (v6 + 1).into() }
    }

    /// The number of the pair that this host address belongs to.
    pub(crate) fn number_of(&self, host: Ipv4Addr) -> Option<u32> {
        self.v4.contains(&host).then(|| (u32::from(host) - u32::from(self.v4.network())) / 2)
    }

    /// A free number for this network, the same each time while it is free.
    pub(crate) fn choose(&self, network: NetworkId, taken: impl Fn(u32) -> bool) -> Option<u32> {
        let id = network.0.as_bytes();
        let start = u32::from_be_bytes([id[12], id[13], id[14], id[15]]);
        (0..self.room()).map(|step| start.wrapping_add(step) % self.room()).find(|&number| !taken(number))
    }
}

/// The gateways that the network itself answers for.
pub(crate) fn own_gateways(network: &DesiredNetwork) -> impl Iterator<Item = (IpAddr, &DesiredSubnet)> {
    let own = network.subnets.iter().filter(|subnet| subnet.gateway_is_ours);
    own.filter_map(|subnet| Some((subnet.gateway?, subnet)))
}

/// Whether the network has IPv6 addresses of its own.
pub(crate) fn has_v6(network: &DesiredNetwork) -> bool {
    network.subnets.iter().any(|subnet| subnet.cidr.addr().is_ipv6())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn network(text: &str) -> NetworkId {
        text.parse().unwrap()
    }

    #[test]
    fn a_namespaces_name_tells_its_network() {
        let id = network("0192f0c1-2345-7abc-8def-0123456789ab");
        let hull = Prefix::default();
        assert_eq!(hull.namespace(id), "hull-0192f0c123457abc8def0123456789ab");
        assert_eq!(hull.network_of(&hull.namespace(id)), Some(id));
        for stranger in ["hull", "hull-x", "hull2-0192f0c123457abc8def0123456789ab", "0192f0c123457abc8def0123456789ab"]
        {
            assert_eq!(hull.network_of(stranger), None, "{stranger}");
        }
        assert!(hull.host_link(id).len() <= 15 && Prefix::new("abcde").unwrap().host_link(id).len() <= 15);
        assert!(tap_name(PortId(id.0)).len() <= 15);
    }

    #[test]
    fn a_routers_namespace_is_no_networks() {
        let router: RouterId = "0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap();
        let hull = Prefix::default();
        let name = hull.router_namespace(router);
        assert_eq!((hull.router_of(&name), hull.network_of(&name)), (Some(router), None));
        assert_eq!(hull.router_of(&hull.namespace(NetworkId(router.0))), None);
        for name in [router_link(router), gateway_link(router), network_link(NetworkId(router.0))] {
            assert!(name.len() <= 15, "{name}");
        }
        assert!(Prefix::new("abcde").unwrap().host_cable(NetworkId(router.0)).len() <= 15);
        let (out, back) = router_tables(router);
        assert!(out != back && out > 255 && back > 255);
    }

    #[test]
    fn prefixes_that_would_not_fit_device_names_are_refused() {
        for bad in ["", "toolong", "A", "a-b", "a/b"] {
            assert!(Prefix::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn link_local_addresses_and_macs_tell_each_other() {
        let mac: Mac = "52:54:00:12:34:56".parse().unwrap();
        let address: Ipv6Addr = "fe80::5054:ff:fe12:3456".parse().unwrap();
        assert_eq!(link_local(mac), address);
        assert_eq!(mac_of_link_local(address), Some(mac));
        assert_eq!(mac_of_link_local("fe80::1".parse().unwrap()), None);
        assert_eq!(mac_of_link_local("2001:db8::5054:ff:fe12:3456".parse().unwrap()), None);
    }

    #[test]
    fn each_network_gets_a_pair_of_its_own() {
        let range = LinkRange { v4: "198.19.0.0/29".parse().unwrap(), ..LinkRange::default() };
        let mut taken = std::collections::BTreeSet::new();
        for _ in 0..range.room() {
            let number = range.choose(network("0192f0c1-2345-7abc-8def-0123456789ab"), |n| taken.contains(&n)).unwrap();
            let pair = range.pair(number);
            assert!(range.v4.contains(&pair.host4) && range.v4.contains(&pair.inner4));
            assert_eq!(range.number_of(pair.host4), Some(number));
            assert_eq!(range.number_of(pair.inner4), Some(number));
            assert!(taken.insert(number));
        }
        assert_eq!(taken.len(), 4);
        assert_eq!(range.choose(network("0192f0c1-2345-7abc-8def-0123456789ab"), |n| taken.contains(&n)), None);
    }
}
