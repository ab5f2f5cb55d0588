//! What shall pass on a network, as nftables rules: a pure function of the desired network.
//!
//! ```text
//!            tap ──► bridge prerouting: is it who it says it is?   (MAC, ARP, IPv4, IPv6, ND; no DHCP or RA servers)
//!                        │
//!           ┌────────────┴──────────────┐
//!     to another tap              to the gateway
//!           │                           │
//!           │    inet prerouting: the sender's security groups
//!           │                           │
//!     bridge forward:             ┌─────┴──────────────┐
//!     does the receiver     inet input:           inet forward, postrouting:
//!     own the address?      DHCP, DNS,            to a router, or out by the uplink, masqueraded
//!           │               metadata, ping
//!     inet forward (through br_netfilter, stateful):
//!     the receiver's security groups
//! ```
//!
//! In the inet hooks a bridged packet's interface is the bridge; the mark that the bridge family gave it tells the port it
//! comes from, and later the one it goes to. What was routed finds its port by its address, which is sound as no packet gets
//! in with a source that is not its port's. Look-ups are sets and verdict maps; nothing is walked port by port.
//!
//! The rules are a [`Ruleset`], a model: what changes in the kernel is what differs between two of them. Each stage of the
//! way (whose the packet is, what its sender may send, what its receiver lets in) judges a packet by the rules before a
//! change or by those after it, never by something in between.

mod bridge;
mod groups;
mod inet;
mod model;
mod ports;

use hull_types::link::DesiredNetwork;

pub(crate) use self::model::{Edition, Ruleset};
use self::ports::Ports;
use super::layout::LinkRange;

/// The rules of one network's namespace.
pub(crate) fn network_rules(network: &DesiredNetwork, links: &LinkRange, edition: Edition) -> Ruleset {
    let ports = Ports::of(network, edition);
    Ruleset {
        edition,
        tables: [("bridge hull", bridge::table(&ports)), ("inet hull", inet::table(&ports, links))].into(),
    }
}

/// The rules of the host itself, the same for every network of one Hull: guests may pass through the host but not into
/// it, not to another network, and not under an address that is not their link's. No chain has the policy to drop: while
/// a table takes another's place the kernel applies policies to packets that it does not judge by either's rules.
pub(crate) fn host_rules(table: &str, host_links: &str, links: &LinkRange) -> String {
    let LinkRange { v4, v6 } = links;
    format!(
        r#"table inet {table} {{
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
    #![allow(clippy::unwrap_used)]
    use super::{super::fixture, *};

    /// Reads like the rules that an operator sees with `nft list ruleset`; a change here is a change of who may what.
    #[test]
    fn the_rules_of_a_network_are_these() {
        let text = network_rules(&fixture::network(), &LinkRange::default(), Edition::First).whole();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_rules_of_the_host_are_these() {
        insta::assert_snapshot!(host_rules("hull_host", "hull-*", &LinkRange::default()));
    }

    #[test]
    fn a_port_on_another_node_has_no_rules_here() {
        let mut network = fixture::network();
        let far = super::super::layout::tap_name(network.ports[2].id);
        assert!(!network_rules(&network, &LinkRange::default(), Edition::First).whole().contains(&far));
        network.ports[2].place = hull_types::link::PortPlace::Here;
        assert!(network_rules(&network, &LinkRange::default(), Edition::First).whole().contains(&far));
    }

    /// What a change of this network puts into the kernel.
    fn change(alter: impl FnOnce(&mut DesiredNetwork)) -> String {
        let before = fixture::network();
        let mut after = before.clone();
        alter(&mut after);
        let rules = |network| network_rules(network, &LinkRange::default(), Edition::First);
        rules(&after).steps_from(&rules(&before)).unwrap().concat()
    }

    #[test]
    fn a_changed_group_is_its_chain_and_nothing_else() {
        let changed = change(|network| {
            network.groups[0].rules.remove(1);
        });
        let chain = "inet hull group_00000000000000000000000000000300_in";
        let lines: Vec<&str> = changed.lines().collect();
        let [made, filled, flushed, led, emptied, deleted] = lines[..] else { panic!("{changed}") };
        assert!(made.starts_with(&format!("add chain {chain}_")), "{made}");
        assert!(filled.ends_with(" meta nfproto ipv4 tcp dport { 22 } accept"), "{filled}");
        assert_eq!(flushed, format!("flush chain {chain}"));
        assert!(led.starts_with(&format!("add rule {chain} jump group_")), "{led}");
        assert!(emptied.starts_with(&format!("flush chain {chain}_")), "{emptied}");
        assert!(deleted.starts_with(&format!("delete chain {chain}_")), "{deleted}");
    }

    #[test]
    fn a_member_that_joins_a_group_is_one_element_wherever_the_group_is_named() {
        let named = |network: &mut DesiredNetwork| {
            let mut rule = network.groups[0].rules[0].clone();
            rule.remote = hull_types::security_group::Remote::Group(network.groups[1].id);
            network.groups[0].rules.push(rule);
            network.groups[1].members = vec!["10.90.0.11".parse().unwrap()];
        };
        let mut before = fixture::network();
        named(&mut before);
        let mut after = before.clone();
        after.groups[1].members.push("10.90.0.12".parse().unwrap());
        let rules = |network| network_rules(network, &LinkRange::default(), Edition::First);
        assert_eq!(
            rules(&after).steps_from(&rules(&before)).unwrap().concat(),
            "add element inet hull members4_00000000000000000000000000000301 { 10.90.0.12 }\n"
        );
    }

    #[test]
    fn a_port_that_comes_is_its_elements() {
        let changed = change(|network| network.ports[2].place = hull_types::link::PortPlace::Here);
        assert!(changed.lines().all(|line| line.starts_with("add element ")), "{changed}");
        assert!(changed.contains("add element inet hull to4 { 10.90.0.12 : goto to_"), "{changed}");
    }
}
