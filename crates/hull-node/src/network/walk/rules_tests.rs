//! Rules as nftables 1.0.6 lists them, and packets that meet them.

use hull_types::path::{PathPacket, PathProtocol};

use super::{super::words::Words, *};

/// `nft -j -nnn list ruleset` of the rules in [`LISTING`].
const JSON: &str = r#"{"nftables": [
 {"metainfo": {"version": "1.0.6"}},
 {"table": {"family": "inet", "name": "hull", "handle": 1}},
 {"set": {"family": "inet", "name": "friends", "table": "hull", "type": "ipv4_addr", "handle": 2, "elem": ["10.0.0.7", {"prefix": {"addr": "10.1.0.0", "len": 16}}, {"elem": {"val": "10.0.0.9", "counter": {"packets": 1, "bytes": 2}}}]}},
 {"map": {"family": "inet", "name": "ingress", "table": "hull", "type": "ipv4_addr", "handle": 3, "map": "verdict", "elem": [["10.0.0.5", {"jump": {"target": "in_web"}}]]}},
 {"map": {"family": "inet", "name": "fip", "table": "hull", "type": "ipv4_addr", "handle": 4, "map": "ipv4_addr", "elem": [["203.0.113.5", "10.0.0.5"]]}},
 {"chain": {"family": "inet", "table": "hull", "name": "in_web", "handle": 5}},
 {"chain": {"family": "inet", "table": "hull", "name": "forward", "handle": 6, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
 {"chain": {"family": "inet", "table": "hull", "name": "pre", "handle": 7, "type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}},
 {"rule": {"family": "inet", "table": "hull", "chain": "in_web", "handle": 10, "expr": [{"match": {"op": "==", "left": {"concat": [{"payload": {"protocol": "ip", "field": "saddr"}}, {"payload": {"protocol": "tcp", "field": "dport"}}]}, "right": {"set": [{"concat": [{"prefix": {"addr": "10.0.0.0", "len": 8}}, {"range": [80, 90]}]}]}}}, {"accept": null}]}},
 {"rule": {"family": "inet", "table": "hull", "chain": "in_web", "handle": 11, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@friends"}}, {"accept": null}]}},
 {"rule": {"family": "inet", "table": "hull", "chain": "forward", "handle": 12, "expr": [{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [[1, {"drop": null}], [2, {"accept": null}], [4, {"accept": null}]]}}}]}},
 {"rule": {"family": "inet", "table": "hull", "chain": "forward", "handle": 13, "expr": [{"set": {"op": "add", "elem": {"payload": {"protocol": "ip", "field": "saddr"}}, "set": "@many", "stmt": [{"ct count": {"val": 3, "inv": true}}]}}, {"drop": null}]}},
 {"rule": {"family": "inet", "table": "hull", "chain": "forward", "handle": 14, "expr": [{"vmap": {"key": {"payload": {"protocol": "ip", "field": "daddr"}}, "data": "@ingress"}}]}},
 {"rule": {"family": "inet", "table": "hull", "chain": "forward", "handle": 15, "expr": [{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "up*"}}, {"accept": null}]}},
 {"rule": {"family": "inet", "table": "hull", "chain": "pre", "handle": 16, "expr": [{"dnat": {"family": "ip", "addr": {"map": {"key": {"payload": {"protocol": "ip", "field": "daddr"}}, "data": "@fip"}}}}]}}
]}"#;

const LISTING: &str = "table inet hull { # handle 1
	chain in_web { # handle 5
		ip saddr . tcp dport { 10.0.0.0/8 . 80-90 } accept # handle 10
		ip saddr @friends accept # handle 11
	}
	chain forward { # handle 6
		type filter hook forward priority filter; policy drop;
		ip daddr vmap @ingress # handle 14
		oifname \"up*\" accept # handle 15
	}
}
";

fn packet(source: &str, destination: &str, protocol: PathProtocol) -> Packet {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    Packet::new(&PathPacket { source, destination, protocol, size: 100 })
}

fn forward(mut packet: Packet) -> Decision {
    Rules::parse(JSON).unwrap().run(Layer::Inet, "forward", &mut packet).unwrap()
}

#[test]
fn verdict_maps_sets_prefixes_and_ranges_decide_and_the_rule_is_named() {
    let tcp = |source, port| forward(packet(source, "10.0.0.5", PathProtocol::Tcp { port }));
    let told = |decision: Decision| (decision.passes, Words::parse(LISTING).of(&decision.by.unwrap(), decision.passes));
    let named = |rule: &str| (true, format!("chain in_web: {rule}"));
    let web = named("ip saddr . tcp dport { 10.0.0.0/8 . 80-90 } accept");
    assert_eq!(told(tcp("10.200.0.1", 85)), web);
    assert!(!tcp("10.200.0.1", 91).passes, "beyond the range");
    assert!(!tcp("192.0.2.1", 80).passes, "beyond the prefix");
    for friend in ["10.0.0.7", "10.1.2.3", "10.0.0.9"] {
        assert_eq!(told(tcp(friend, 22)), named("ip saddr @friends accept"), "{friend}");
    }
    assert!(!forward(packet("10.200.0.1", "10.0.0.5", PathProtocol::Udp { port: 85 })).passes, "another protocol");
}

#[test]
fn what_no_rule_lets_through_the_policy_drops() {
    let dropped = forward(packet("10.0.0.5", "10.0.0.6", PathProtocol::Icmp));
    assert_eq!(dropped.by, Some(By::Policy { chain: "forward".to_owned() }));
    let mut outward = packet("10.0.0.5", "198.51.100.1", PathProtocol::Icmp);
    outward.leaves_by = "up0".to_owned();
    assert!(forward(outward).passes);
    // The other family has no entry in maps of the first.
    assert!(!forward(packet("fd00::5", "fd00::6", PathProtocol::Icmp)).passes);
}

#[test]
fn a_floating_ip_is_translated_and_others_are_not() {
    let rules = Rules::parse(JSON).unwrap();
    let mut to_floating = packet("198.51.100.1", "203.0.113.5", PathProtocol::Tcp { port: 22 });
    assert!(rules.run(Layer::Inet, "prerouting", &mut to_floating).unwrap().passes);
    assert_eq!(to_floating.destination.to_string(), "10.0.0.5");
    assert_eq!(to_floating.asked.to_string(), "203.0.113.5");
    let mut other = packet("198.51.100.1", "203.0.113.6", PathProtocol::Tcp { port: 22 });
    assert!(rules.run(Layer::Inet, "prerouting", &mut other).unwrap().passes);
    assert_eq!(other.destination.to_string(), "203.0.113.6");
}

#[test]
fn what_is_not_known_is_an_error_and_no_guess() {
    let strange = JSON.replace(
        r#""expr": [{"vmap": {"key": {"payload""#,
        r#""expr": [{"queue": {"num": 1}}, {"vmap": {"key": {"payload""#,
    );
    let rules = Rules::parse(&strange).unwrap();
    let mut packet = packet("10.0.0.1", "10.0.0.5", PathProtocol::Icmp);
    let error = rules.run(Layer::Inet, "forward", &mut packet).unwrap_err();
    assert!(error.detail.contains("cannot be explained"), "{error}");
}
