//! Security groups as nftables chains: a constant number of set look-ups, however many rules there are.
//!
//! A group is a chain for each direction, and the chain of a port's set of groups jumps to them. Rules whose other side is
//! a group look into a named set of that group's addresses: who joins or leaves it touches that set alone.
//!
//! nftables refuses overlapping intervals in one set, and users write them (`22 from anywhere`, `20-30 from 10.0.0.0/8`).
//! So the ports are cut where any rule begins or ends; each piece has the set of ranges that may reach it, without those
//! inside another; pieces that are neighbours and let the same in become one again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hull_types::{
    id::SecurityGroupId,
    link::DesiredGroup,
    security_group::{Direction, Family, Remote, RuleMatch},
};
use ipnet::IpNet;

use super::model::Edition;

/// What lets packets through, with the other side as addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Opening {
    matches: RuleMatch,
    remote: IpNet,
}

/// A piece of a number space (ports, ICMP types), both ends included.
type Piece = (u16, u16);

/// The name of a group's chain.
pub(super) fn chain_name(group: SecurityGroupId, direction: Direction, edition: Edition) -> String {
    let way = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    format!("group_{}_{way}{}", group.0.simple(), edition.suffix())
}

/// The name of the set of a group's addresses.
pub(super) fn members_name(group: SecurityGroupId, family: Family, edition: Edition) -> String {
    let number = match family {
        Family::Ipv4 => 4,
        Family::Ipv6 => 6,
    };
    format!("members{number}_{}{}", group.0.simple(), edition.suffix())
}

/// The groups that a group's rules name as the other side.
pub(super) fn remotes(group: &DesiredGroup) -> impl Iterator<Item = SecurityGroupId> {
    group.rules.iter().filter_map(|rule| match rule.remote {
        Remote::Group(id) => Some(id),
        Remote::Net(_) => None,
    })
}

/// The lines of a group's chain for one direction: what matches passes, what does not goes on to the port's next group.
pub(super) fn chain(group: &DesiredGroup, direction: Direction, edition: Edition) -> Vec<String> {
    Family::BOTH.iter().flat_map(|&family| of_family(group, direction, family, edition)).collect()
}

fn of_family(group: &DesiredGroup, direction: Direction, family: Family, edition: Edition) -> Vec<String> {
    let (mut nets, mut groups) = (Vec::new(), BTreeMap::<SecurityGroupId, Vec<Opening>>::new());
    for rule in group.rules.iter().filter(|rule| rule.direction == direction && rule.family == family) {
        match rule.remote {
            Remote::Net(remote) => nets.push(Opening { matches: rule.matches, remote: remote.trunc() }),
            // The set says who; the rest is as if it were anybody.
            Remote::Group(id) => {
                groups.entry(id).or_default().push(Opening { matches: rule.matches, remote: all(family) });
            }
        }
    }
    let mut lines = Writer::new(direction, family, None).lines(&nets);
    for (id, openings) in groups {
        lines.extend(Writer::new(direction, family, Some(&members_name(id, family, edition))).lines(&openings));
    }
    lines
}

fn all(family: Family) -> IpNet {
    match family {
        Family::Ipv4 => IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        Family::Ipv6 => IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    }
}

/// Writes the lines of one family, direction and other side.
struct Writer {
    /// Begins a line that any address may match.
    open: String,
    /// The other side's address, `ip saddr`.
    side: &'static str,
    icmp: &'static str,
    l4_icmp: &'static str,
    verdict: &'static str,
}

impl Writer {
    fn new(direction: Direction, family: Family, members: Option<&str>) -> Self {
        let side = match (family, direction) {
            (Family::Ipv4, Direction::Ingress) => "ip saddr",
            (Family::Ipv4, Direction::Egress) => "ip daddr",
            (Family::Ipv6, Direction::Ingress) => "ip6 saddr",
            (Family::Ipv6, Direction::Egress) => "ip6 daddr",
        };
        let (any, icmp, l4_icmp) = match family {
            Family::Ipv4 => ("meta nfproto ipv4", "icmp", "icmp"),
            Family::Ipv6 => ("meta nfproto ipv6", "icmpv6", "ipv6-icmp"),
        };
        let open = match members {
            None => any.to_owned(),
            Some(name) => format!("{side} @{name}"),
        };
        let verdict = match direction {
            Direction::Ingress => "accept",
            // What may leave has served its mark: see `super::inet`.
            Direction::Egress => "meta mark set 0 accept",
        };
        Self { open, side, icmp, l4_icmp, verdict }
    }

    fn lines(&self, rules: &[Opening]) -> Vec<String> {
        let remotes = |wanted: fn(&RuleMatch) -> bool| {
            IpNet::aggregate(&rules.iter().filter(|rule| wanted(&rule.matches)).map(|rule| rule.remote).collect())
        };
        let spans = |span: fn(&RuleMatch) -> Option<Piece>| -> Vec<(Piece, IpNet)> {
            rules.iter().filter_map(|rule| Some((span(&rule.matches)?, rule.remote))).collect()
        };
        let tcp = spans(|m| match *m {
            RuleMatch::Tcp { from, to } => Some((from, to)),
            _ => None,
        });
        let udp = spans(|m| match *m {
            RuleMatch::Udp { from, to } => Some((from, to)),
            _ => None,
        });
        let icmp = spans(|m| match *m {
            RuleMatch::Icmp { kind: Some(kind), code: None } => Some((kind.into(), kind.into())),
            _ => None,
        });
        let others = spans(|m| match *m {
            RuleMatch::Other { number } => Some((number.into(), number.into())),
            _ => None,
        });
        let mut lines = Vec::new();
        lines.extend(self.whole(&remotes(|m| matches!(m, RuleMatch::Any)), ""));
        let all_icmp = remotes(|m| matches!(m, RuleMatch::Icmp { kind: None, .. }));
        lines.extend(self.whole(&all_icmp, &format!(" meta l4proto {}", self.l4_icmp)));
        lines.extend(self.pieces(&tcp, "tcp dport"));
        lines.extend(self.pieces(&udp, "udp dport"));
        lines.extend(self.pieces(&icmp, &format!("{} type", self.icmp)));
        lines.extend(self.icmp_codes(rules));
        lines.extend(self.pieces(&others, "meta l4proto"));
        lines
    }

    fn whole(&self, remotes: &[IpNet], what: &str) -> Option<String> {
        let Self { open, side, verdict, .. } = self;
        if remotes.is_empty() {
            None
        } else if remotes.iter().any(everywhere) {
            Some(format!("{open}{what} {verdict}"))
        } else {
            let remotes: Vec<String> = remotes.iter().map(ToString::to_string).collect();
            Some(format!("{side} {{ {} }}{what} {verdict}", remotes.join(", ")))
        }
    }

    fn pieces(&self, spans: &[(Piece, IpNet)], field: &str) -> Vec<String> {
        self.by_value(disjoint(spans).into_iter().map(|(piece, nets)| (written(piece), nets)).collect(), field)
    }

    fn icmp_codes(&self, rules: &[Opening]) -> Vec<String> {
        let mut by_code: BTreeMap<(u8, u8), Vec<IpNet>> = BTreeMap::new();
        for rule in rules {
            if let RuleMatch::Icmp { kind: Some(kind), code: Some(code) } = rule.matches {
                by_code.entry((kind, code)).or_default().push(rule.remote);
            }
        }
        let values =
            by_code.into_iter().map(|((kind, code), nets)| (format!("{kind} . {code}"), IpNet::aggregate(&nets)));
        self.by_value(values.collect(), &format!("{0} type . {0} code", self.icmp))
    }

    /// One line for what comes from anywhere and one for what comes from somewhere.
    fn by_value(&self, values: Vec<(String, Vec<IpNet>)>, field: &str) -> Vec<String> {
        let Self { open, side, verdict, .. } = self;
        let (anywhere, somewhere): (Vec<_>, Vec<_>) =
            values.into_iter().partition(|(_, remotes)| remotes.iter().any(everywhere));
        let mut lines = Vec::new();
        if !anywhere.is_empty() {
            let values: Vec<String> = anywhere.into_iter().map(|(value, _)| value).collect();
            lines.push(format!("{open} {field} {{ {} }} {verdict}", values.join(", ")));
        }
        if !somewhere.is_empty() {
            let elements: Vec<String> = somewhere
                .iter()
                .flat_map(|(value, remotes)| remotes.iter().map(move |remote| format!("{remote} . {value}")))
                .collect();
            lines.push(format!("{side} . {field} {{ {} }} {verdict}", elements.join(", ")));
        }
        lines
    }
}

fn everywhere(net: &IpNet) -> bool {
    net.prefix_len() == 0
}

fn written((from, to): Piece) -> String {
    if from == to { from.to_string() } else { format!("{from}-{to}") }
}

/// Cuts spans into disjoint pieces, each with the least set of disjoint ranges that may reach it.
fn disjoint(spans: &[(Piece, IpNet)]) -> Vec<(Piece, Vec<IpNet>)> {
    let sound = || spans.iter().filter(|((from, to), _)| from <= to);
    // Beyond the last number there is no cut to make, hence u32.
    let cuts: BTreeSet<u32> = sound().flat_map(|&((from, to), _)| [u32::from(from), u32::from(to) + 1]).collect();
    let cuts: Vec<u32> = cuts.into_iter().collect();
    let mut pieces: Vec<(Piece, Vec<IpNet>)> = Vec::new();
    for pair in cuts.windows(2) {
        // Cuts lie between 0 and 65536, and a piece ends one below its right cut.
        let (from, to) = (pair[0] as u16, (pair[1] - 1) as u16);
        let reach: Vec<IpNet> =
            sound().filter(|((start, end), _)| *start <= from && to <= *end).map(|(_, net)| *net).collect();
        let reach = IpNet::aggregate(&reach);
        match pieces.last_mut() {
            _ if reach.is_empty() => {}
            Some((last, same)) if *same == reach && u32::from(last.1) + 1 == pair[0] => last.1 = to,
            _ => pieces.push(((from, to), reach)),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hull_types::{id::SecurityRuleId, security_group::SecurityRule};
    use proptest::prelude::*;

    use super::*;

    fn rule(direction: Direction, matches: RuleMatch, remote: Remote, family: Family) -> SecurityRule {
        let (id, description) = (SecurityRuleId(uuid::Uuid::nil()), String::new());
        SecurityRule { id, direction, family, matches, remote, description }
    }

    fn net(direction: Direction, matches: RuleMatch, remote: &str) -> SecurityRule {
        let remote: IpNet = remote.parse().unwrap();
        rule(direction, matches, Remote::Net(remote), Family::of(&remote.addr()))
    }

    fn lines(direction: Direction, rules: Vec<SecurityRule>) -> Vec<String> {
        let group = DesiredGroup { id: SecurityGroupId(uuid::Uuid::nil()), stateful: true, rules, members: vec![] };
        chain(&group, direction, Edition::First)
    }

    #[test]
    fn ordinary_rules_are_one_line_a_protocol() {
        use Direction::Ingress;
        let rules = vec![
            net(Ingress, RuleMatch::Tcp { from: 22, to: 22 }, "0.0.0.0/0"),
            net(Ingress, RuleMatch::Tcp { from: 80, to: 90 }, "0.0.0.0/0"),
            net(Ingress, RuleMatch::Tcp { from: 85, to: 99 }, "10.0.0.0/8"),
            net(Ingress, RuleMatch::Icmp { kind: None, code: None }, "0.0.0.0/0"),
            net(Ingress, RuleMatch::Icmp { kind: Some(3), code: Some(4) }, "0.0.0.0/0"),
            net(Ingress, RuleMatch::Icmp { kind: Some(5), code: Some(1) }, "10.0.0.0/8"),
            net(Ingress, RuleMatch::Other { number: 112 }, "10.0.0.0/8"),
            net(Ingress, RuleMatch::Other { number: 47 }, "0.0.0.0/0"),
            net(Ingress, RuleMatch::Icmp { kind: Some(128), code: None }, "2001:db8::/32"),
            net(Ingress, RuleMatch::Any, "::1/128"),
        ];
        assert_eq!(
            lines(Ingress, rules),
            [
                "meta nfproto ipv4 meta l4proto icmp accept",
                "meta nfproto ipv4 tcp dport { 22, 80-90 } accept",
                "ip saddr . tcp dport { 10.0.0.0/8 . 91-99 } accept",
                "meta nfproto ipv4 icmp type . icmp code { 3 . 4 } accept",
                "ip saddr . icmp type . icmp code { 10.0.0.0/8 . 5 . 1 } accept",
                "meta nfproto ipv4 meta l4proto { 47 } accept",
                "ip saddr . meta l4proto { 10.0.0.0/8 . 112 } accept",
                "ip6 saddr { ::1/128 } accept",
                "ip6 saddr . icmpv6 type { 2001:db8::/32 . 128 } accept",
            ]
        );
    }

    #[test]
    fn a_group_on_the_other_side_is_a_set_by_its_name() {
        let other = Remote::Group(SecurityGroupId(uuid::Uuid::from_u128(7)));
        let rules = vec![
            rule(Direction::Ingress, RuleMatch::Tcp { from: 1, to: 9 }, other, Family::Ipv4),
            rule(Direction::Ingress, RuleMatch::Tcp { from: 5, to: 20 }, other, Family::Ipv4),
            rule(Direction::Egress, RuleMatch::Any, other, Family::Ipv6),
        ];
        assert_eq!(
            lines(Direction::Ingress, rules.clone()),
            ["ip saddr @members4_00000000000000000000000000000007 tcp dport { 1-20 } accept"]
        );
        assert_eq!(
            lines(Direction::Egress, rules),
            ["ip6 daddr @members6_00000000000000000000000000000007 meta mark set 0 accept"]
        );
    }

    #[test]
    fn the_same_rules_in_another_order_are_the_same_chain() {
        let one = net(Direction::Ingress, RuleMatch::Tcp { from: 22, to: 22 }, "0.0.0.0/0");
        let two = net(Direction::Ingress, RuleMatch::Tcp { from: 23, to: 23 }, "10.1.2.3/8");
        let narrow = net(Direction::Ingress, RuleMatch::Tcp { from: 23, to: 23 }, "10.0.0.0/8");
        let ingress = Direction::Ingress;
        assert_eq!(lines(ingress, vec![one.clone(), two]), lines(ingress, vec![narrow, one]));
    }

    fn spans() -> impl Strategy<Value = Vec<(Piece, IpNet)>> {
        let net = (any::<u32>(), 0u8..=32).prop_map(|(bits, length)| {
            // Few distinct addresses, so that ranges nest and touch.
            IpNet::new(std::net::Ipv4Addr::from(bits & 0xf000_000f).into(), length).unwrap().trunc()
        });
        let edge = prop_oneof![0u16..12, 65530u16..=65535];
        proptest::collection::vec(((edge.clone(), edge), net), 0..12)
    }

    proptest! {
        #[test]
        fn pieces_let_in_what_the_rules_do_and_never_overlap(spans in spans(), address: u32) {
            let address = std::net::IpAddr::from(std::net::Ipv4Addr::from(address & 0xf000_000f));
            let pieces = disjoint(&spans);
            for port in (0..12).chain(65530..=65535) {
                let by_rules = spans.iter().any(|((a, b), net)| *a <= port && port <= *b && net.contains(&address));
                let holding: Vec<_> = pieces.iter()
                    .filter(|((a, b), _)| *a <= port && port <= *b)
                    .flat_map(|(_, nets)| nets).filter(|net| net.contains(&address)).collect();
                prop_assert!(holding.len() <= 1, "{holding:?} overlap at {port}");
                prop_assert_eq!(by_rules, !holding.is_empty(), "port {}", port);
            }
        }
    }
}
