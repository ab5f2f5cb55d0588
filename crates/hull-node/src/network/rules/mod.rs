//! What shall pass on a network, as nftables text: a pure function of the desired network.
//!
//! ```text
//!            tap ──► bridge prerouting: is it who it says it is?   (MAC, ARP, IPv4, IPv6, ND; no DHCP or RA servers)
//!                        │
//!           ┌────────────┴──────────────┐
//!     to another tap              to the gateway
//!           │                           │
//!     bridge forward:             ┌─────┴──────────────┐
//!     does the receiver     inet input:           inet forward, postrouting:
//!     own the address?      DHCP, DNS,            out by the uplink, masqueraded
//!           │               metadata, ping
//!     inet forward (through br_netfilter, stateful):
//!     the receiver's security groups
//! ```
//!
//! In the inet hooks a bridged packet's interface is the bridge, so rules there find the port by its address; the bridge
//! family makes that sound: no packet gets in with a source that is not its port's, none out to a port that does not own
//! its destination. Look-ups are sets and verdict maps; nothing is walked port by port.

mod groups;

use std::{
    collections::BTreeSet,
    fmt::Write,
    net::{IpAddr, Ipv6Addr},
};

use hull_types::{
    link::{DesiredNetwork, DesiredPort},
    network::Uplink,
    security_group::Direction,
};

use self::groups::GroupChain;
use super::layout::{
    BRIDGE, LinkRange, METADATA_V4, METADATA_V6, ROUTER_PREFIX, TAP_PREFIX, UPLINK, link_local, tap_name,
};

/// The rules of one network's namespace, as one transaction that replaces whatever was there.
pub(crate) fn network_rules(network: &DesiredNetwork, links: &LinkRange) -> String {
    let mut text = String::new();
    for family in ["bridge", "inet"] {
        // Declaring first lets the deletion succeed where there is none; all of it is one transaction.
        let _ = writeln!(text, "table {family} hull\ndelete table {family} hull");
    }
    text.push_str(&bridge_table(network));
    text.push_str(&inet_table(network, links));
    text
}

fn local_ports(network: &DesiredNetwork) -> impl Iterator<Item = &DesiredPort> {
    network.ports.iter().filter(|port| port.is_here())
}

/// The IPv6 addresses a port may use: its own, and the link-local one of its MAC.
fn v6_addresses(port: &DesiredPort) -> impl Iterator<Item = Ipv6Addr> {
    let assigned = port.addresses.iter().filter_map(|address| match address {
        IpAddr::V6(v6) => Some(*v6),
        IpAddr::V4(_) => None,
    });
    assigned.chain([link_local(port.mac)])
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

fn bridge_table(network: &DesiredNetwork) -> String {
    let (mut macs, mut v4, mut v6, mut nd) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for port in local_ports(network) {
        let tap = tap_name(port.id);
        macs.insert(format!("{tap} . {}", port.mac));
        for address in port.addresses.iter().filter(|address| address.is_ipv4()) {
            v4.insert(format!("{tap} . {address}"));
        }
        for address in v6_addresses(port) {
            v6.insert(format!("{tap} . {address}"));
            nd.insert(format!("{tap} . 0x{:032x}", u128::from(address)));
        }
    }
    let sets = [
        set("set", "macs", "type ifname . ether_addr", &macs),
        set("set", "v4", "type ifname . ipv4_addr", &v4),
        set("set", "v6", "type ifname . ipv6_addr", &v6),
        // The target of neighbour advertisements and solicitations: 16 bytes behind the 8 of the ICMPv6 header.
        set("set", "nd_targets", "typeof iifname . @th,64,128", &nd),
    ];
    format!("table bridge hull {{\n{}{}}}\n", sets.concat(), bridge_chains())
}

/// The chains of the bridge family. Their text is the same for every network; only the sets differ.
fn bridge_chains() -> String {
    let meters: String = ["drops", "arp_rate", "dhcp_rate", "dns_rate", "nd_rate", "metadata_rate"]
        .map(|name| {
            let counter = if name == "drops" { "; counter" } else { "" };
            format!("\tset {name} {{\n\t\ttype ifname; size 65535; flags dynamic{counter}\n\t}}\n")
        })
        .concat();
    format!(
        r#"{meters}	chain prerouting {{
		type filter hook prerouting priority -300; policy accept;
		iifname != "{TAP_PREFIX}*" accept
		iifname . ether saddr != @macs jump spoofed
		ether type != {{ ip, ip6, arp }} jump spoofed
		ether type arp jump from_arp
		ether type ip jump from_v4
		ether type ip6 jump from_v6
	}}
	chain from_arp {{
		iifname . arp saddr ether != @macs jump spoofed
		arp saddr ip != 0.0.0.0 iifname . arp saddr ip != @v4 jump spoofed
		add @arp_rate {{ iifname limit rate over 200/second burst 500 packets }} drop
		accept
	}}
	chain from_v4 {{
		udp sport 67 jump spoofed
		udp dport 67 add @dhcp_rate {{ iifname limit rate over 20/second burst 50 packets }} drop
		ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept
		iifname . ip saddr != @v4 jump spoofed
		jump rates
		ip daddr {METADATA_V4} tcp dport 80 tcp flags syn add @metadata_rate {{ iifname limit rate over 100/second burst 300 packets }} drop
		accept
	}}
	chain from_v6 {{
		icmpv6 type {{ nd-router-advert, nd-redirect }} jump spoofed
		udp sport 547 jump spoofed
		icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} add @nd_rate {{ iifname limit rate over 200/second burst 500 packets }} drop
		icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @nd_targets jump spoofed
		ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @nd_targets accept
		ip6 saddr :: icmpv6 type {{ nd-router-solicit, mld-listener-report, mld2-listener-report }} accept
		iifname . ip6 saddr != @v6 jump spoofed
		udp dport 547 add @dhcp_rate {{ iifname limit rate over 20/second burst 50 packets }} drop
		jump rates
		ip6 daddr {METADATA_V6} tcp dport 80 tcp flags syn add @metadata_rate {{ iifname limit rate over 100/second burst 300 packets }} drop
		accept
	}}
	chain rates {{
		udp dport 53 add @dns_rate {{ iifname limit rate over 1000/second burst 2000 packets }} drop
	}}
	chain spoofed {{
		add @drops {{ iifname }}
		counter drop
	}}
	chain forward {{
		type filter hook forward priority -300; policy accept;
		oifname != "{TAP_PREFIX}*" accept
		udp dport {{ 67, 547 }} drop
		icmpv6 type nd-router-solicit drop
		ether type ip ip daddr != 224.0.0.0/4 ip daddr != 255.255.255.255 oifname . ip daddr != @v4 counter drop
		ether type ip6 ip6 daddr != ff00::/8 oifname . ip6 daddr != @v6 counter drop
	}}
"#
    )
}

fn inet_table(network: &DesiredNetwork, links: &LinkRange) -> String {
    let mut chains: BTreeSet<GroupChain> = BTreeSet::new();
    let mut maps: [BTreeSet<String>; 4] = Default::default();
    let [ingress4, ingress6, egress4, egress6] = &mut maps;
    for port in local_ports(network) {
        for (direction, v4, v6) in
            [(Direction::Ingress, &mut *ingress4, &mut *ingress6), (Direction::Egress, &mut *egress4, &mut *egress6)]
        {
            let Some(chain) = groups::chain(&groups::rules_of(network, port), direction) else { continue };
            for address in &port.addresses {
                let map = if address.is_ipv4() { &mut *v4 } else { &mut *v6 };
                map.insert(format!("{address} : jump {}", chain.name));
            }
            chains.insert(chain);
        }
    }
    let mut text = "table inet hull {\n".to_owned();
    for (name, kind, elements) in [
        ("ingress4", "type ipv4_addr : verdict", &maps[0]),
        ("ingress6", "type ipv6_addr : verdict", &maps[1]),
        ("egress4", "type ipv4_addr : verdict", &maps[2]),
        ("egress6", "type ipv6_addr : verdict", &maps[3]),
    ] {
        text.push_str(&set("map", name, kind, elements));
    }
    for chain in &chains {
        let _ = writeln!(text, "\tchain {} {{", chain.name);
        for line in &chain.lines {
            let _ = writeln!(text, "\t\t{line}");
        }
        text.push_str("\t}\n");
    }
    text.push_str(&inet_chains(network, links));
    text + "}\n"
}

fn inet_chains(network: &DesiredNetwork, links: &LinkRange) -> String {
    let gateways: BTreeSet<String> =
        network.subnets.iter().filter_map(|subnet| Some(subnet.gateway?.to_string())).collect();
    let (gateways4, gateways6): (Vec<String>, Vec<String>) = gateways.into_iter().partition(|text| !text.contains(':'));
    let resolver: String = [("ip", gateways4), ("ip6", gateways6)]
        .into_iter()
        .filter(|(_, addresses)| !addresses.is_empty())
        .map(|(family, addresses)| {
            format!(
                "\t\t{family} daddr {{ {} }} meta l4proto {{ tcp, udp }} th dport 53 accept\n",
                addresses.join(", ")
            )
        })
        .collect();
    let outward = match &network.uplink {
        Uplink::None | Uplink::Provider(_) => String::new(),
        Uplink::Nat => format!(
            r#"		oifname "{UPLINK}" ip daddr {{ {}, 169.254.0.0/16 }} drop
		oifname "{UPLINK}" ip6 daddr {{ {}, fd00:ec2::/32 }} drop
		iifname "{BRIDGE}" oifname "{UPLINK}" accept
"#,
            links.v4, links.v6
        ),
    };
    let [transit, passing] = transit(network);
    format!(
        r#"{transit}	set tracked4 {{
		type ipv4_addr; size 65535; flags dynamic
	}}
	set tracked6 {{
		type ipv6_addr; size 65535; flags dynamic
	}}
	chain limits {{
		ip saddr != 0.0.0.0 add @tracked4 {{ ip saddr ct count over 16384 }} drop
		add @tracked6 {{ ip6 saddr ct count over 16384 }} drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy drop;
		ip6 hoplimit 255 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
		ct state vmap {{ established : accept, related : accept, invalid : drop }}
		iifname "{BRIDGE}" jump limits
		ip saddr vmap @egress4
		ip6 saddr vmap @egress6
		ip daddr vmap @ingress4
		ip6 daddr vmap @ingress6
{outward}{passing}	}}
	chain input {{
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		ip6 hoplimit 255 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} accept
		ct state vmap {{ established : accept, related : accept, invalid : drop }}
		icmp type echo-request accept
		icmpv6 type echo-request accept
		iifname "{BRIDGE}" jump services
	}}
	chain services {{
		jump limits
		udp dport {{ 67, 547 }} accept
{resolver}		ip daddr {METADATA_V4} tcp dport 80 accept
		ip6 daddr {METADATA_V6} tcp dport 80 accept
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		oifname "{UPLINK}" masquerade
	}}
"#
    )
}

/// What this node's guests neither send nor receive, and what they send elsewhere: sets and a chain of their own, and the
/// last lines of the forward chain.
///
/// A packet that only passes (from a router to another node, from a router to a provider's segment) is not tracked: its
/// answer comes another way. What comes by a router for a guest here has met the guest's rules before this.
fn transit(network: &DesiredNetwork) -> [String; 2] {
    let here: BTreeSet<IpAddr> = local_ports(network)
        .flat_map(|port| port.addresses.iter().copied().chain(v6_addresses(port).map(IpAddr::V6)))
        .collect();
    let family = |v4: bool| here.iter().filter(|a| a.is_ipv4() == v4).map(ToString::to_string).collect::<BTreeSet<_>>();
    let ranges = |v4: bool| {
        let all = network.subnets.iter().map(|subnet| subnet.cidr.trunc()).filter(|cidr| cidr.addr().is_ipv4() == v4);
        all.map(|cidr| cidr.to_string()).collect::<BTreeSet<_>>()
    };
    let sets = [
        set("set", "here4", "type ipv4_addr", &family(true)),
        set("set", "here6", "type ipv6_addr", &family(false)),
        set("set", "ranges4", "type ipv4_addr; flags interval", &ranges(true)),
        set("set", "ranges6", "type ipv6_addr; flags interval", &ranges(false)),
    ]
    .concat();
    let raw = r"	chain untracked {
		type filter hook prerouting priority raw; policy accept;
		ip saddr != @here4 ip daddr @ranges4 ip daddr != @here4 fib daddr type != local notrack
		ip6 saddr != @here6 ip6 daddr @ranges6 ip6 daddr != @here6 fib daddr type != local notrack
	}
";
    let passing = format!(
        "\t\tiifname \"{ROUTER_PREFIX}*\" oifname \"{BRIDGE}\" ip daddr != @here4 accept\n\
         \t\tiifname \"{ROUTER_PREFIX}*\" oifname \"{BRIDGE}\" ip6 daddr != @here6 accept\n\
         \t\tiifname \"{BRIDGE}\" oifname \"{ROUTER_PREFIX}*\" accept\n\
         \t\tiifname \"{BRIDGE}\" oifname \"{BRIDGE}\" ip daddr != @here4 accept\n\
         \t\tiifname \"{BRIDGE}\" oifname \"{BRIDGE}\" ip6 daddr != @here6 accept\n\
         \t\tct state untracked accept\n"
    );
    [sets + raw, passing]
}

/// The rules of the host itself, the same for every network of one Hull: guests may pass through the host but not into
/// it, not to another network, and not under an address that is not their link's.
pub(crate) fn host_rules(table: &str, host_links: &str, links: &LinkRange) -> String {
    let LinkRange { v4, v6 } = links;
    format!(
        r#"table inet {table}
delete table inet {table}
table inet {table} {{
	chain input {{
		type filter hook input priority filter; policy accept;
		iifname != "{host_links}" accept
		ct state established,related accept
		icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
		counter drop
	}}
	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname "{host_links}" oifname "{host_links}" counter drop
		iifname "{host_links}" ip saddr != {v4} counter drop
		iifname "{host_links}" ip6 saddr != {v6} counter drop
		oifname "{host_links}" ct state established,related accept
		oifname "{host_links}" counter drop
	}}
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr {v4} oifname != "{host_links}" masquerade
		ip6 saddr {v6} oifname != "{host_links}" masquerade
	}}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::{super::fixture, *};

    /// Reads like the rules that an operator sees with `nft list ruleset`; a change here is a change of who may what.
    #[test]
    fn the_rules_of_a_network_are_these() {
        let text = network_rules(&fixture::network(), &LinkRange::default());
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_rules_of_the_host_are_these() {
        insta::assert_snapshot!(host_rules("hull_host", "hull-*", &LinkRange::default()));
    }

    #[test]
    fn a_port_on_another_node_has_no_rules_here() {
        let mut network = fixture::network();
        let far = tap_name(network.ports[2].id);
        assert!(!network_rules(&network, &LinkRange::default()).contains(&far));
        network.ports[2].place = hull_types::link::PortPlace::Here;
        assert!(network_rules(&network, &LinkRange::default()).contains(&far));
    }
}
