//! Router advertisements (RFC 4861), as bytes made from the desired network.
//!
//! Addresses come from DHCPv6 (the M flag): anti-spoofing lets a port use its own address only, and an address made up by
//! SLAAC would be another. The A flag is set where both are the same for every port, that is where all addresses of the
//! range were made from MACs. It offers itself as a router where a gateway is the network's own; elsewhere as the way to
//! the metadata and name services only (RFC 4191), and another machine may be the router. Lifetimes are as long as the formats allow, so that a guest keeps its route and resolver
//! while Hull is down.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use super::{
    layout::{METADATA_V6, eui64, gateway_mac},
    view::{View, address_v6, resolvers, served_v6},
};

/// ICMPv6 types (RFC 4861, section 4).
pub(crate) const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// "Forever" in option lifetimes.
const FOREVER: [u8; 4] = [0xff; 4];
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;
/// Where the network's own services are.
const SERVICES: Ipv6Net = Ipv6Net::new_assert(METADATA_V6, 64);

/// Whether this ICMPv6 message asks for an advertisement.
pub(crate) fn is_solicitation(message: &[u8]) -> bool {
    matches!(message, [SOLICITATION, 0, ..]) && message.len() >= 8
}

/// What the gateway advertises; `None` where the network has no IPv6. The checksum is left to the kernel.
pub(crate) fn advertisement(view: &View) -> Option<Vec<u8>> {
    let network = view.network();
    let (_, first) = served_v6(network).next()?;
    let ours = served_v6(network).any(|(_, subnet)| subnet.gateway_is_ours && subnet.gateway.is_some());
    // RFC 8319 raises the limit from 9000 s to what the field holds.
    let lifetime: u16 = if ours { u16::MAX } else { 0 };
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, 64, MANAGED | OTHER];
    message.extend(lifetime.to_be_bytes());
    message.extend([0; 8]);

    message.extend([1, 1]);
    message.extend(gateway_mac(network.id).0);

    message.extend([5, 1, 0, 0]);
    message.extend(u32::from(network.mtu).to_be_bytes());

    for (range, _) in served_v6(network) {
        prefix(&mut message, view, range);
    }
    if !ours {
        route(&mut message, SERVICES);
    }
    for (_, subnet) in served_v6(network).filter(|(_, subnet)| subnet.gateway_is_ours) {
        for to in subnet.routes.iter().filter_map(|route| v6_net(route.to)) {
            route(&mut message, to);
        }
    }

    let resolvers: Vec<Ipv6Addr> = resolvers(first)
        .into_iter()
        .filter_map(|address| match address {
            IpAddr::V6(v6) => Some(v6),
            IpAddr::V4(_) => None,
        })
        .take(8)
        .collect();
    // RFC 8106: lengths are in units of eight bytes.
    message.extend([25, 1 + 2 * resolvers.len() as u8, 0, 0]);
    message.extend(FOREVER);
    resolvers.iter().for_each(|resolver| message.extend(resolver.octets()));

    let mut domain = dns_labels(&network.domain);
    domain.resize(domain.len().next_multiple_of(8), 0);
    message.extend([31, 1 + (domain.len() / 8) as u8, 0, 0]);
    message.extend(FOREVER);
    message.extend(domain);
    Some(message)
}

/// Prefix information (RFC 4861, section 4.6.2).
fn prefix(message: &mut Vec<u8>, view: &View, range: Ipv6Net) {
    let autonomous = range.prefix_len() == 64
        && view
            .network()
            .ports
            .iter()
            .all(|port| address_v6(port, range).is_none_or(|address| address == eui64(range.network(), port.mac)));
    message.extend([3, 4, range.prefix_len(), ON_LINK | if autonomous { AUTONOMOUS } else { 0 }]);
    message.extend([FOREVER, FOREVER, [0; 4]].concat());
    message.extend(range.network().octets());
}

/// Route information (RFC 4191, section 2.3), of medium preference.
fn route(message: &mut Vec<u8>, to: Ipv6Net) {
    message.extend([24, 3, to.prefix_len(), 0]);
    message.extend(FOREVER);
    message.extend(to.network().octets());
}

fn v6_net(net: IpNet) -> Option<Ipv6Net> {
    match net {
        IpNet::V6(v6) => Some(v6),
        IpNet::V4(_) => None,
    }
}

/// A domain as DNS writes it: labels behind their lengths, a zero at the end.
fn dns_labels(domain: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in domain.split('.').filter(|label| (1..=63).contains(&label.len())) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{
        super::fixture::{network, view},
        *,
    };

    /// The options of an advertisement, by kind.
    fn options(message: &[u8]) -> std::collections::BTreeMap<u8, Vec<u8>> {
        let mut rest = &message[16..];
        let mut options = std::collections::BTreeMap::new();
        while let [kind, units, ..] = *rest {
            let (option, after) = rest.split_at(usize::from(units) * 8);
            options.insert(kind, option[2..].to_vec());
            rest = after;
        }
        assert!(rest.is_empty());
        options
    }

    #[test]
    fn it_says_what_a_guest_needs() {
        let message = advertisement(&view()).unwrap();
        assert_eq!(message[..8], [134, 0, 0, 0, 64, MANAGED | OTHER, 0xff, 0xff]);
        let options = options(&message);
        assert_eq!(options[&1], [2, 0x23, 0x45, 0x67, 0x89, 0xab]);
        assert_eq!(options[&5], [0, 0, 0, 0, 0x05, 0x78]);
        assert_eq!(options[&3][..2], [64, ON_LINK]);
        assert_eq!(options[&3][14..], "fd00:90::".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(options[&25][6..], "fd00:90::1".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(options[&31][6..], *b"\x04hull\x08internal\0\0");
    }

    #[test]
    fn addresses_are_made_by_guests_only_where_they_come_out_right() {
        let mut network = network();
        let prefix = "fd00:90::".parse().unwrap();
        for port in &mut network.ports {
            port.addresses = vec![eui64(prefix, port.mac).into()];
        }
        let message = advertisement(&View::new(network.clone())).unwrap();
        assert_eq!(options(&message)[&3][1], ON_LINK | AUTONOMOUS);
        network.subnets[1].gateway_is_ours = false;
        let message = advertisement(&View::new(network.clone())).unwrap();
        assert_eq!(message[6..8], [0, 0], "no router");
        let options = options(&message);
        assert_eq!(options[&24][..2], [64, 0]);
        assert_eq!(options[&24][6..14], [0xfd, 0, 0x0e, 0xc2, 0, 0, 0, 0], "but a way to the services");
        assert_eq!(options[&25][6..], super::super::layout::RESOLVER_V6.octets());
        network.subnets.retain(|subnet| subnet.cidr.addr().is_ipv4());
        assert_eq!(advertisement(&View::new(network)), None);
    }
}
