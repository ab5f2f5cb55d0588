//! Which packet an explained path is about: whose port it leaves by, between which addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hull_types::{
    error::{Error, Result},
    id::PortId,
    path::{PathPacket, PathProtocol},
    port::Port,
    security_group::Family,
};

/// The size of the packet where nobody says, in bytes: what a first segment or a ping has at most.
pub const SIZE: u16 = 100;
/// The largest packet asked about, in bytes.
pub const SIZE_MAX: u16 = 9000;

/// Somewhere on the internet that is nobody's: addresses for documentation (RFC 5737, RFC 3849).
const ELSEWHERE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ELSEWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Where the packet goes.
#[derive(Clone, Copy, Debug)]
pub enum To<'a> {
    /// Another VM: its ports.
    Vm(&'a [&'a Port]),
    /// Out of the cloud.
    Internet,
    /// An address.
    Address(IpAddr),
}

/// What is asked of it.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// What it carries.
    pub protocol: PathProtocol,
    /// Its family; where nobody says, the first that both ends have.
    pub family: Option<Family>,
    /// Its size.
    pub size: Option<u16>,
}

/// The port it leaves by, and the packet.
///
/// # Errors
/// `Invalid` where the ends have no family in common, or the size is out of bounds.
pub fn packet(from: &[&Port], to: To<'_>, asked: Asked) -> Result<(PortId, PathPacket)> {
    let size = asked.size.unwrap_or(SIZE);
    if !(SIZE..=SIZE_MAX).contains(&size) {
        return Err(Error::invalid(format!("a packet has {SIZE} to {SIZE_MAX} bytes here, not {size}")).at("?size"));
    }
    let families = asked.family.map_or_else(|| Family::BOTH.to_vec(), |family| vec![family]);
    let found = families.iter().find_map(|&family| ends(from, to, family));
    let (port, source, destination) = found.ok_or_else(|| {
        Error::invalid("the two ends have no addresses of one family, so no packet can go between them; look at both with `hull vm show`")
    })?;
    Ok((port, PathPacket { source, destination, protocol: asked.protocol, size }))
}

/// The best pair of addresses of one family: on a network both are on, else the first of each.
fn ends(from: &[&Port], to: To<'_>, family: Family) -> Option<(PortId, IpAddr, IpAddr)> {
    let address = |port: &Port| port.ips().find(|address| Family::of(address) == family);
    let first = || from.iter().find_map(|port| Some((port.id, address(port)?)));
    match to {
        To::Vm(ports) => {
            let pairs = from.iter().flat_map(|near| ports.iter().map(move |far| (near, far)));
            let both = pairs
                .filter_map(|(near, far)| Some((near.network != far.network, near.id, address(near)?, address(far)?)));
            both.min_by_key(|(apart, ..)| *apart).map(|(_, port, source, destination)| (port, source, destination))
        }
        To::Internet => {
            let elsewhere = match family {
                Family::Ipv4 => IpAddr::V4(ELSEWHERE_V4),
                Family::Ipv6 => IpAddr::V6(ELSEWHERE_V6),
            };
            first().map(|(port, source)| (port, source, elsewhere))
        }
        To::Address(to) if Family::of(&to) == family => first().map(|(port, source)| (port, source, to)),
        To::Address(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_types::{
        id::{NetworkId, SubnetId},
        network::Mac,
        port::{Bandwidth, FixedIp},
    };
    use uuid::Uuid;

    use super::*;
    use crate::testing::meta;

    fn port(number: u128, network: u128, addresses: &[&str]) -> Port {
        let fixed = |text: &&str| FixedIp { subnet: SubnetId(Uuid::nil()), address: text.parse().unwrap() };
        Port {
            id: PortId(Uuid::from_u128(number)),
            meta: meta("p"),
            network: NetworkId(Uuid::from_u128(network)),
            vm: None,
            goes_with_vm: true,
            router_gateway: None,
            mac: Mac([2; 6]),
            addresses: addresses.iter().map(fixed).collect(),
            hostname: "p".into(),
            security_groups: vec![],
            port_security: true,
            allowed_pairs: vec![],
            dhcp_options: vec![],
            bandwidth: Bandwidth::default(),
        }
    }

    fn between(from: &[&Port], to: To<'_>, family: Option<Family>) -> Option<(PortId, String, String)> {
        let asked = Asked { protocol: PathProtocol::Icmp, family, size: None };
        let (port, packet) = packet(from, to, asked).ok()?;
        Some((port, packet.source.to_string(), packet.destination.to_string()))
    }

    #[test]
    fn a_common_network_comes_first_then_any_family_both_have() {
        let (a, b) = (port(1, 1, &["10.0.0.2", "fd00::2"]), port(2, 2, &["10.1.0.2"]));
        let (c, d) = (port(3, 2, &["10.1.0.3"]), port(4, 3, &["fd03::3"]));
        let said = |port: &Port, source: &str, to: &str| Some((port.id, source.to_owned(), to.to_owned()));
        assert_eq!(between(&[&a, &b], To::Vm(&[&c]), None), said(&b, "10.1.0.2", "10.1.0.3"));
        assert_eq!(between(&[&a], To::Vm(&[&c]), None), said(&a, "10.0.0.2", "10.1.0.3"));
        assert_eq!(between(&[&a], To::Vm(&[&d]), None), said(&a, "fd00::2", "fd03::3"));
        assert_eq!(between(&[&a], To::Vm(&[&d]), Some(Family::Ipv4)), None);
        assert_eq!(between(&[&b], To::Internet, Some(Family::Ipv6)), None);
        assert_eq!(between(&[&d], To::Internet, None), said(&d, "fd03::3", "2001:db8::1"));
        assert_eq!(between(&[&a], To::Address("fd09::9".parse().unwrap()), None), said(&a, "fd00::2", "fd09::9"));
    }

    #[test]
    fn absurd_sizes_are_refused() {
        let a = port(1, 1, &["10.0.0.2"]);
        for size in [0, 99, 9001] {
            let asked = Asked { protocol: PathProtocol::Icmp, family: None, size: Some(size) };
            assert_eq!(packet(&[&a], To::Internet, asked).unwrap_err().field.as_deref(), Some("?size"), "{size}");
        }
    }
}
