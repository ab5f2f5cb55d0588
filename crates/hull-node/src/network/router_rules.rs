//! What passes a router and a tunnel, as nftables text: pure functions.
//!
//! Whether a packet may reach a guest is not said here: each network's own rules meet it where it enters (see `rules/`).
//! A router only translates, and keeps what must not leave from leaving:
//!
//! ```text
//!   net… ──► net…   joined ranges: forwarded, not tracked: the answer may come back by another node's router
//!   net… ──► gw0    under a floating IP, else (snat) under this node's address, else (no snat) as it is
//!   gw0  ──► net…   to a floating IP, or an answer; without snat to the ranges themselves too
//!   net… ──► floating IP ──► net…   the source is translated as well, so that the answer comes this way again
//! ```
//!
//! A connection made before a floating IP was taken away must not go on under it, so what was translated is checked
//! against today's sets with every packet.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::IpAddr,
};

use hull_types::link::{DesiredGateway, DesiredRouter};
use ipnet::IpNet;

use super::{
    layout::{GATEWAY, NETWORK_PREFIX},
    links::TUNNEL_PORT,
};

/// The words of nftables that differ by family.
struct Family {
    digit: char,
    ip: &'static str,
    kind: &'static str,
    v4: bool,
}

const FAMILIES: [Family; 2] = [
    Family { digit: '4', ip: "ip", kind: "ipv4_addr", v4: true },
    Family { digit: '6', ip: "ip6", kind: "ipv6_addr", v4: false },
];

impl Family {
    fn has(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.v4
    }
}

/// The rules of a router's namespace.
pub(crate) fn router_rules(router: &DesiredRouter) -> String {
    let mut text = "table inet hull {\n".to_owned();
    if let Some(gateway) = &router.gateway {
        for family in &FAMILIES {
            text.push_str(&sets(router, gateway, family));
        }
        text.push_str(&translation(gateway));
    }
    text.push_str(&forwarding(router.gateway.as_ref()));
    text + "}\n"
}

/// The ranges behind the router: joined, or routed to by a next hop on one that is.
fn inside<'a>(router: &'a DesiredRouter, family: &'a Family) -> impl Iterator<Item = IpNet> + 'a {
    let joined = router.subnets.iter().map(|subnet| subnet.cidr.trunc());
    let beyond = router
        .routes
        .iter()
        .filter(|route| router.subnets.iter().any(|subnet| subnet.cidr.contains(&route.via)))
        .map(|route| route.to.trunc())
        // Everything is not behind the router, whoever routes it there.
        .filter(|range| range.prefix_len() > 0);
    joined.chain(beyond).filter(|range| family.has(range.addr()))
}

fn sets(router: &DesiredRouter, gateway: &DesiredGateway, family: &Family) -> String {
    let Family { digit, kind, .. } = family;
    let floating = || gateway.floating_ips.iter().filter(|floating| family.has(floating.address));
    let inward: BTreeSet<String> = floating().map(|f| format!("{} : {}", f.address, f.fixed)).collect();
    let pairs: BTreeSet<String> = floating().map(|f| format!("{} . {}", f.address, f.fixed)).collect();
    // A VM with several goes out under the first of them, the same each time.
    let mut first: BTreeMap<IpAddr, IpAddr> = BTreeMap::new();
    for f in floating() {
        first.entry(f.fixed).and_modify(|now| *now = f.address.min(*now)).or_insert(f.address);
    }
    let outward: BTreeSet<String> = first.iter().map(|(fixed, address)| format!("{fixed} : {address}")).collect();
    let fixed: BTreeSet<String> = first.keys().map(IpAddr::to_string).collect();
    let own = gateway.addresses.iter().map(|net| net.addr()).filter(|address| family.has(*address));
    let own: BTreeSet<String> = own.chain(floating().map(|f| f.address)).map(|address| address.to_string()).collect();
    let ranges: BTreeSet<String> = inside(router, family).map(|range| range.to_string()).collect();
    [
        set("map", &format!("floating{digit}"), &format!("type {kind} : {kind}"), &inward),
        set("map", &format!("outward{digit}"), &format!("type {kind} : {kind}"), &outward),
        set("set", &format!("fixed{digit}"), &format!("type {kind}"), &fixed),
        set("set", &format!("pairs{digit}"), &format!("type {kind} . {kind}"), &pairs),
        set("set", &format!("own{digit}"), &format!("type {kind}"), &own),
        set("set", &format!("inside{digit}"), &format!("type {kind}; flags interval; auto-merge"), &ranges),
    ]
    .concat()
}

/// A named set or map, with its elements in order; nft takes no empty list.
fn set(kind: &str, name: &str, of: &str, elements: &BTreeSet<String>) -> String {
    let mut text = format!("\t{kind} {name} {{\n\t\t{of}\n");
    if !elements.is_empty() {
        let all: Vec<&str> = elements.iter().map(String::as_str).collect();
        let _ = writeln!(text, "\t\telements = {{ {} }}", all.join(", "));
    }
    text + "\t}\n"
}

/// This node's own address on the external network, which VMs without a floating IP go out under.
fn node_address(gateway: &DesiredGateway, family: &Family) -> Option<IpAddr> {
    gateway.addresses.iter().map(|net| net.addr()).find(|address| gateway.snat && family.has(*address))
}

fn translation(gateway: &DesiredGateway) -> String {
    let (mut raw, mut inward, mut outward) = (String::new(), String::new(), String::new());
    for family in &FAMILIES {
        let Family { digit, ip, .. } = family;
        let _ = writeln!(
            raw,
            "\t\tiifname \"{NETWORK_PREFIX}*\" {ip} saddr @inside{digit} {ip} daddr @inside{digit} notrack"
        );
        let _ = writeln!(inward, "\t\tdnat {ip} to {ip} daddr map @floating{digit}");
        let _ = writeln!(outward, "\t\toifname \"{GATEWAY}\" snat {ip} to {ip} saddr map @outward{digit}");
        let hairpin = format!("\t\tiifname \"{NETWORK_PREFIX}*\" oifname \"{NETWORK_PREFIX}*\" ct status dnat");
        let _ = writeln!(outward, "{hairpin} snat {ip} to {ip} saddr map @outward{digit}");
        if let Some(address) = node_address(gateway, family) {
            let _ = writeln!(outward, "\t\toifname \"{GATEWAY}\" {ip} saddr @inside{digit} snat {ip} to {address}");
            let _ = writeln!(outward, "{hairpin} {ip} saddr @inside{digit} snat {ip} to {address}");
        } else {
            // Under the floating IP that was called: the one address that surely leads back here.
            let _ = writeln!(outward, "{hairpin} snat {ip} to {ip} daddr map @outward{digit}");
        }
    }
    format!(
        r"	chain untracked {{
		type filter hook prerouting priority raw; policy accept;
{raw}	}}
	chain prerouting {{
		type nat hook prerouting priority dstnat; policy accept;
{inward}	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
{outward}	}}
"
    )
}

fn forwarding(gateway: Option<&DesiredGateway>) -> String {
    let mut checks = String::new();
    let mut chains = String::new();
    if let Some(gateway) = gateway {
        let (mut out, mut into) = (String::new(), String::new());
        for family in &FAMILIES {
            let Family { digit, ip, .. } = family;
            let _ = write!(
                checks,
                "\t\tct status dnat ct direction original ct original {ip} daddr . {ip} daddr != @pairs{digit} drop\n\
                 \t\tct status dnat ct direction reply ct original {ip} daddr . {ip} saddr != @pairs{digit} drop\n\
                 \t\toifname \"{GATEWAY}\" ct status snat ct direction original ct reply {ip} daddr != @own{digit} drop\n"
            );
            let free = !gateway.snat || node_address(gateway, family).is_some();
            let may = if free { "inside" } else { "fixed" };
            let _ = writeln!(out, "\t\t{ip} saddr @{may}{digit} accept");
            if !gateway.snat {
                let _ = writeln!(into, "\t\t{ip} daddr @inside{digit} accept");
            }
        }
        let _ = write!(
            checks,
            "\t\tiifname \"{NETWORK_PREFIX}*\" oifname \"{GATEWAY}\" jump outward\n\
             \t\tiifname \"{GATEWAY}\" oifname \"{NETWORK_PREFIX}*\" jump inward\n"
        );
        chains = format!(
            "\tchain outward {{\n\t\tct direction reply accept\n{out}\t}}\n\
             \tchain inward {{\n\t\tct state established,related accept\n\t\tct status dnat accept\n{into}\t}}\n"
        );
    }
    // Nothing but a ping and neighbours' questions is for the router itself.
    let answers = if gateway.is_some() { "\t\tct state established,related accept\n" } else { "" };
    format!(
        r#"{chains}	chain forward {{
		type filter hook forward priority filter; policy accept;
{checks}		iifname "{NETWORK_PREFIX}*" oifname "{NETWORK_PREFIX}*" accept
		counter drop
	}}
	chain input {{
		type filter hook input priority filter; policy accept;
		iifname "lo" accept
		ip6 hoplimit 255 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
		icmp type echo-request accept
		icmpv6 type echo-request accept
{answers}		counter drop
	}}
"#
    )
}

/// The rules of the host for tunnels: only nodes that are known speak to this one, and no guest speaks as if it were
/// this node (the host would masquerade it so).
pub(crate) fn tunnel_rules(table: &str, host_links: &str, underlay: IpAddr, peers: &BTreeSet<IpAddr>) -> String {
    let peers_of = |family: &Family| peers.iter().filter(|peer| family.has(**peer)).map(IpAddr::to_string).collect();
    let [v4, v6] = FAMILIES.each_ref().map(|family| {
        let of = format!("type {}", family.kind);
        set("set", &format!("peers{}", family.digit), &of, &peers_of(family))
    });
    let [own, other] = if underlay.is_ipv4() { ["ip", "4"] } else { ["ip6", "6"] };
    format!(
        r#"table inet {table} {{
{v4}{v6}	chain input {{
		type filter hook input priority filter - 10; policy accept;
		udp dport {TUNNEL_PORT} {own} daddr {underlay} {own} saddr != @peers{other} counter drop
	}}
	chain forward {{
		type filter hook forward priority filter - 10; policy accept;
		iifname "{host_links}" udp dport {TUNNEL_PORT} counter drop
	}}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hull_types::{
        id::{FloatingIpId, NetworkId, RouterId},
        link::{DesiredFloatingIp, DesiredRouterSubnet},
        network::{Mac, Route},
    };
    use uuid::Uuid;

    use super::*;

    fn router() -> DesiredRouter {
        let subnet = |number: u128, cidr: &str, gateway: &str| DesiredRouterSubnet {
            network: NetworkId(Uuid::from_u128(number)),
            cidr: cidr.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        let floating = |address: &str, fixed: &str| DesiredFloatingIp {
            id: FloatingIpId(Uuid::nil()),
            address: address.parse().unwrap(),
            fixed: fixed.parse().unwrap(),
        };
        DesiredRouter {
            id: RouterId(Uuid::from_u128(9)),
            name: "r".to_owned(),
            subnets: vec![
                subnet(1, "10.1.0.0/24", "10.1.0.1"),
                subnet(1, "fd00:1::/64", "fd00:1::1"),
                subnet(2, "10.2.0.0/24", "10.2.0.1"),
            ],
            routes: vec![
                Route { to: "10.7.0.0/16".parse().unwrap(), via: "10.2.0.7".parse().unwrap() },
                Route { to: "0.0.0.0/0".parse().unwrap(), via: "10.2.0.8".parse().unwrap() },
            ],
            gateway: Some(DesiredGateway {
                network: NetworkId(Uuid::from_u128(3)),
                mac: Mac([2, 0, 0, 0, 0, 1]),
                addresses: vec!["203.0.113.10/24".parse().unwrap()],
                next_hops: vec!["203.0.113.1".parse().unwrap()],
                snat: true,
                floating_ips: vec![floating("203.0.113.21", "10.1.0.5"), floating("203.0.113.20", "10.1.0.5")],
            }),
        }
    }

    #[test]
    fn the_rules_of_a_router_are_these() {
        insta::assert_snapshot!(router_rules(&router()));
    }

    #[test]
    fn a_router_without_a_way_out_tracks_nothing() {
        let text = router_rules(&DesiredRouter { gateway: None, ..router() });
        assert!(!text.contains("ct ") && !text.contains("nat"), "{text}");
    }

    #[test]
    fn without_snat_nothing_is_hidden_but_what_has_a_floating_ip() {
        let mut router = router();
        router.gateway.as_mut().unwrap().snat = false;
        let text = router_rules(&router);
        assert!(!text.contains("203.0.113.10 ") && text.contains("ip daddr @inside4 accept"), "{text}");
    }

    #[test]
    fn private_addresses_stay_in_while_the_node_has_none_of_its_own() {
        let text = router_rules(&router());
        assert!(text.contains("ip6 saddr @fixed6 accept") && !text.contains("ip6 saddr @inside6 accept"), "{text}");
    }

    #[test]
    fn the_rules_of_the_host_for_tunnels_are_these() {
        let peers = ["192.0.2.2", "2001:db8::2"].map(|peer| peer.parse().unwrap()).into();
        insta::assert_snapshot!(tunnel_rules("hull_tunnels", "hull-*", "192.0.2.1".parse().unwrap(), &peers));
    }
}
