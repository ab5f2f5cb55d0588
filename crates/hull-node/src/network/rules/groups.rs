//! Security rules as nftables chains: a constant number of set look-ups, however many rules there are.
//!
//! nftables refuses overlapping intervals in one set, and users write them (`22 from anywhere`, `20-30 from 10.0.0.0/8`).
//! So the ports are cut where any rule begins or ends; each piece has the set of ranges that may reach it, without those
//! inside another; pieces that are neighbours and let the same in become one again.

use std::collections::BTreeSet;

use hull_types::{
    link::{DesiredNetwork, DesiredPort},
    security_group::{Direction, Remote, RuleMatch, SecurityRule},
};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

/// What lets packets through, with the other side as addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    direction: Direction,
    matches: RuleMatch,
    remote: IpNet,
}

/// The openings of a port: its groups' rules, those that name a group once for each member.
pub(super) fn rules_of(network: &DesiredNetwork, port: &DesiredPort) -> Vec<Opening> {
    let group = |id| network.groups.iter().find(move |group| group.id == id);
    let rules = port.groups.iter().filter_map(|&id| group(id)).flat_map(|group| &group.rules);
    rules
        .flat_map(|rule: &SecurityRule| {
            let remotes: Vec<IpNet> = match rule.remote {
                Remote::Net(net) => vec![net],
                Remote::Group(id) => {
                    group(id).into_iter().flat_map(|group| &group.members).map(|&member| member.into()).collect()
                }
            };
            remotes.into_iter().map(|remote| Opening { direction: rule.direction, matches: rule.matches, remote })
        })
        .collect()
}

/// A piece of a number space (ports, ICMP types), both ends included.
type Piece = (u16, u16);

/// A chain made of rules, named by them: ports with the same rules share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GroupChain {
    pub(super) name: String,
    pub(super) lines: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    const fn protocol_word(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }

    const fn icmp(self) -> &'static str {
        match self {
            Self::V4 => "icmp",
            Self::V6 => "icmpv6",
        }
    }
}

/// The chain for one direction of a port's rules; `None` outbound where no rule speaks of it, as all may leave then.
pub(super) fn chain(rules: &[Opening], direction: Direction) -> Option<GroupChain> {
    let rules: Vec<&Opening> = rules.iter().filter(|rule| rule.direction == direction).collect();
    let (prefix, side, verdict) = match direction {
        Direction::Ingress => ("in", "saddr", "accept"),
        // What may leave goes on to the other end's inbound rules.
        Direction::Egress => ("out", "daddr", "return"),
    };
    if direction == Direction::Egress && rules.is_empty() {
        return None;
    }
    let mut lines: Vec<String> =
        Family::BOTH.iter().flat_map(|&family| family_lines(&rules, family, side, verdict)).collect();
    if direction == Direction::Egress {
        lines.push("drop".to_owned());
    }
    let digest = hex::encode(Sha256::digest(lines.join("\n")));
    Some(GroupChain { name: format!("{prefix}_{}", &digest[..12]), lines })
}

fn family_lines(rules: &[&Opening], family: Family, side: &str, verdict: &str) -> Vec<String> {
    let of_family = || rules.iter().filter(move |rule| Family::of(&rule.remote) == family);
    let remotes = |wanted: fn(&RuleMatch) -> bool| {
        IpNet::aggregate(&of_family().filter(|rule| wanted(&rule.matches)).map(|rule| rule.remote.trunc()).collect())
    };
    let spans = |span: fn(&RuleMatch) -> Option<Piece>| -> Vec<(Piece, IpNet)> {
        of_family().filter_map(|rule| Some((span(&rule.matches)?, rule.remote.trunc()))).collect()
    };

    let mut lines = Vec::new();
    lines.extend(whole_line(&remotes(|m| matches!(m, RuleMatch::Any)), family, side, "", verdict));
    let all_icmp = remotes(|m| matches!(m, RuleMatch::Icmp { kind: None, .. }));
    let l4 = format!(" meta l4proto {}", if family == Family::V4 { "icmp" } else { "ipv6-icmp" });
    lines.extend(whole_line(&all_icmp, family, side, &l4, verdict));
    let tcp = spans(|m| match *m {
        RuleMatch::Tcp { from, to } => Some((from, to)),
        _ => None,
    });
    let udp = spans(|m| match *m {
        RuleMatch::Udp { from, to } => Some((from, to)),
        _ => None,
    });
    let icmp = spans(|m| match *m {
        RuleMatch::Icmp { kind: Some(kind), .. } => Some((kind.into(), kind.into())),
        _ => None,
    });
    lines.extend(piece_lines(&tcp, family, side, "tcp dport", verdict));
    lines.extend(piece_lines(&udp, family, side, "udp dport", verdict));
    lines.extend(piece_lines(&icmp, family, side, &format!("{} type", family.icmp()), verdict));
    lines
}

fn everywhere(net: &IpNet) -> bool {
    net.prefix_len() == 0
}

fn whole_line(remotes: &[IpNet], family: Family, side: &str, what: &str, verdict: &str) -> Option<String> {
    if remotes.is_empty() {
        return None;
    }
    if remotes.iter().any(everywhere) {
        return Some(format!("meta nfproto {}{what} {verdict}", family.protocol_word()));
    }
    Some(format!("{} {side} {{ {} }}{what} {verdict}", family.word(), join(remotes)))
}

fn piece_lines(spans: &[(Piece, IpNet)], family: Family, side: &str, field: &str, verdict: &str) -> Vec<String> {
    let (open, narrow): (Vec<_>, Vec<_>) =
        disjoint(spans).into_iter().partition(|(_, remotes)| remotes.iter().any(everywhere));
    let mut lines = Vec::new();
    if !open.is_empty() {
        let pieces: Vec<String> = open.iter().map(|(piece, _)| written(*piece)).collect();
        lines.push(format!("meta nfproto {} {field} {{ {} }} {verdict}", family.protocol_word(), pieces.join(", ")));
    }
    if !narrow.is_empty() {
        let elements: Vec<String> = narrow
            .iter()
            .flat_map(|(piece, remotes)| remotes.iter().map(|remote| format!("{remote} . {}", written(*piece))))
            .collect();
        lines.push(format!("{} {side} . {field} {{ {} }} {verdict}", family.word(), elements.join(", ")));
    }
    lines
}

fn written((from, to): Piece) -> String {
    if from == to { from.to_string() } else { format!("{from}-{to}") }
}

fn join(nets: &[IpNet]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
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
    use proptest::prelude::*;

    use super::*;

    fn rule(direction: Direction, matches: RuleMatch, remote: &str) -> Opening {
        Opening { direction, matches, remote: remote.parse().unwrap() }
    }

    #[test]
    fn ordinary_rules_are_one_line_a_protocol() {
        let rules = [
            rule(Direction::Ingress, RuleMatch::Tcp { from: 22, to: 22 }, "0.0.0.0/0"),
            rule(Direction::Ingress, RuleMatch::Tcp { from: 80, to: 90 }, "0.0.0.0/0"),
            rule(Direction::Ingress, RuleMatch::Tcp { from: 85, to: 99 }, "10.0.0.0/8"),
            rule(Direction::Ingress, RuleMatch::Icmp { kind: None, code: None }, "0.0.0.0/0"),
            rule(Direction::Ingress, RuleMatch::Icmp { kind: Some(128), code: None }, "2001:db8::/32"),
            rule(Direction::Ingress, RuleMatch::Any, "::1/128"),
        ];
        assert_eq!(
            chain(&rules, Direction::Ingress).unwrap().lines,
            [
                "meta nfproto ipv4 meta l4proto icmp accept",
                "meta nfproto ipv4 tcp dport { 22, 80-90 } accept",
                "ip saddr . tcp dport { 10.0.0.0/8 . 91-99 } accept",
                "ip6 saddr { ::1/128 } accept",
                "ip6 saddr . icmpv6 type { 2001:db8::/32 . 128 } accept",
            ]
        );
    }

    #[test]
    fn all_may_leave_until_a_rule_speaks_of_it() {
        assert_eq!(chain(&[], Direction::Egress), None);
        let rules = [rule(Direction::Egress, RuleMatch::Udp { from: 53, to: 53 }, "9.9.9.9/32")];
        assert_eq!(
            chain(&rules, Direction::Egress).unwrap().lines,
            ["ip daddr . udp dport { 9.9.9.9/32 . 53 } return", "drop"]
        );
    }

    #[test]
    fn the_same_rules_share_a_chain() {
        let one = rule(Direction::Ingress, RuleMatch::Tcp { from: 22, to: 22 }, "0.0.0.0/0");
        let two = rule(Direction::Ingress, RuleMatch::Tcp { from: 22, to: 22 }, "10.1.2.3/8");
        let narrow = rule(Direction::Ingress, RuleMatch::Tcp { from: 22, to: 22 }, "10.0.0.0/8");
        assert_eq!(chain(&[one.clone(), two], Direction::Ingress), chain(&[narrow, one.clone()], Direction::Ingress));
        assert_ne!(chain(&[one], Direction::Ingress), chain(&[], Direction::Ingress));
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
