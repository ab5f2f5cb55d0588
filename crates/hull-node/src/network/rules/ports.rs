//! The ports of a network that are here, by what governs them.
//!
//! Ports in the same set of groups are governed alike. Such a *regime* has a chain for each direction and a mark: while a
//! packet passes between the bridge's hooks and the inet family's, where the port's interface is no longer to be seen, it
//! bears the mark of the port it came from or goes to.

use std::collections::{BTreeMap, BTreeSet};

use hull_types::{
    id::SecurityGroupId,
    link::{DesiredGroup, DesiredNetwork, DesiredPort},
    security_group::{Direction, Family},
};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::{
    super::layout::{link_local, tap_name},
    model::Edition,
};

/// The mark of a packet that is bridged to no port which is governed here.
pub(super) const ELSEWHERE: u32 = 1;

/// What governs ports of one set of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Regime {
    pub(super) name: String,
    pub(super) mark: u32,
    pub(super) groups: BTreeSet<SecurityGroupId>,
    /// Whether answers pass by themselves.
    pub(super) stateful: bool,
    /// Whether a rule speaks of what may leave; all may where none does.
    pub(super) closed_outbound: bool,
}

/// A port that is here and governed by its groups.
#[derive(Clone, Copy, Debug)]
pub(super) struct Governed<'a> {
    pub(super) port: &'a DesiredPort,
    regime: &'a BTreeSet<SecurityGroupId>,
}

/// The ports that are here.
pub(super) struct Ports<'a> {
    pub(super) network: &'a DesiredNetwork,
    pub(super) edition: Edition,
    here: Vec<(&'a DesiredPort, BTreeSet<SecurityGroupId>)>,
    regimes: BTreeMap<BTreeSet<SecurityGroupId>, Regime>,
    groups: BTreeMap<SecurityGroupId, &'a DesiredGroup>,
}

impl<'a> Ports<'a> {
    pub(super) fn of(network: &'a DesiredNetwork, edition: Edition) -> Self {
        let groups: BTreeMap<_, _> = network.groups.iter().map(|group| (group.id, group)).collect();
        let governed = network.ports.iter().filter(|port| port.is_here() && port.port_security);
        let here: Vec<_> = governed
            .map(|port| (port, port.groups.iter().copied().filter(|id| groups.contains_key(id)).collect()))
            .collect();
        let mut ports = Self { network, edition, here, regimes: BTreeMap::new(), groups };
        let sets: BTreeSet<_> = ports.here.iter().map(|(_, set)| set.clone()).chain(ports.shared_sets()).collect();
        let mut marks = BTreeSet::new();
        for set in sets {
            let regime = ports.regime_of(&set, &mut marks);
            ports.regimes.insert(set, regime);
        }
        ports
    }

    fn regime_of(&self, set: &BTreeSet<SecurityGroupId>, marks: &mut BTreeSet<u32>) -> Regime {
        let mut digest = Sha256::new();
        set.iter().for_each(|id| digest.update(id.0.as_bytes()));
        digest.update(self.edition.suffix());
        let digest: [u8; 32] = digest.finalize().into();
        let mut mark = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        while mark <= ELSEWHERE || !marks.insert(mark) {
            mark = mark.wrapping_add(1);
        }
        let groups = || set.iter().filter_map(|id| self.groups.get(id));
        Regime {
            name: hex::encode(&digest[..6]),
            mark,
            groups: set.clone(),
            stateful: set.is_empty() || groups().any(|group| group.stateful),
            closed_outbound: groups().flat_map(|group| &group.rules).any(|rule| rule.direction == Direction::Egress),
        }
    }

    pub(super) fn governed(&self) -> impl Iterator<Item = Governed<'_>> {
        self.here.iter().map(|(port, regime)| Governed { port, regime })
    }

    /// The ports that are here and not governed.
    pub(super) fn open(&self) -> impl Iterator<Item = &'a DesiredPort> + use<'a> {
        self.network.ports.iter().filter(|port| port.is_here() && !port.port_security)
    }

    pub(super) fn regimes(&self) -> impl Iterator<Item = &Regime> {
        self.regimes.values()
    }

    pub(super) fn regime(&self, port: Governed<'_>) -> &Regime {
        &self.regimes[port.regime]
    }

    pub(super) fn regime_of_set(&self, set: &BTreeSet<SecurityGroupId>) -> &Regime {
        &self.regimes[set]
    }

    /// The groups that ports here are in.
    pub(super) fn groups(&self) -> impl Iterator<Item = &'a DesiredGroup> + '_ {
        let used: BTreeSet<_> = self.regimes.keys().flatten().copied().collect();
        self.groups.values().copied().filter(move |group| used.contains(&group.id))
    }

    /// Whether a port in this group may send only what rules say.
    pub(super) fn closed_outbound(&self, id: SecurityGroupId) -> bool {
        self.regimes.values().any(|regime| regime.closed_outbound && regime.groups.contains(&id))
    }

    pub(super) fn group(&self, id: SecurityGroupId) -> Option<&'a DesiredGroup> {
        self.groups.get(&id).copied()
    }

    /// Ranges of addresses that ports here may hold beside their own, none overlapping another, each with the groups of
    /// all ports that may: whoever of them holds a shared address, what any of them lets in comes in.
    pub(super) fn shared(&self, family: Family) -> Vec<(String, BTreeSet<SecurityGroupId>)> {
        let spans: Vec<(u128, u128, &BTreeSet<SecurityGroupId>)> = self
            .here
            .iter()
            .flat_map(|(port, set)| port.allowed_pairs.iter().map(move |pair| (pair.addresses, set)))
            .filter(|(net, _)| Family::of(&net.addr()) == family)
            .map(|(net, set)| (number(net.network()), number(net.broadcast()), set))
            .collect();
        let starts = spans.iter().map(|(from, ..)| *from);
        let ends = spans.iter().filter_map(|(_, to, _)| to.checked_add(1));
        let cuts: BTreeSet<u128> = starts.chain(ends).collect();
        let mut pieces = Vec::new();
        for &from in &cuts {
            let holders: Vec<_> = spans.iter().filter(|(start, end, _)| *start <= from && from <= *end).collect();
            let Some(last) = holders.iter().map(|(_, end, _)| *end).min() else { continue };
            let to = cuts.range(from + 1..).next().map_or(last, |next| last.min(next - 1));
            let set = holders.iter().flat_map(|(_, _, set)| set.iter().copied()).collect();
            pieces.push((span(from, to, family), set));
        }
        pieces
    }

    fn shared_sets(&self) -> Vec<BTreeSet<SecurityGroupId>> {
        Family::BOTH.iter().flat_map(|&family| self.shared(family)).map(|(_, set)| set).collect()
    }
}

impl Governed<'_> {
    pub(super) fn tap(&self) -> String {
        tap_name(self.port.id)
    }

    /// Its addresses of a family: its own, and for IPv6 the link-local one of its MAC.
    pub(super) fn addresses(&self, family: Family) -> impl Iterator<Item = std::net::IpAddr> + '_ {
        let own = self.port.addresses.iter().copied().chain([link_local(self.port.mac).into()]);
        own.filter(move |address| Family::of(address) == family)
    }

    /// Its further addresses with the MAC they go with, none inside another.
    pub(super) fn pairs(&self, family: Family) -> Vec<(hull_types::network::Mac, IpNet)> {
        let mut by_mac: BTreeMap<_, Vec<IpNet>> = BTreeMap::new();
        for pair in self.port.allowed_pairs.iter().filter(|pair| Family::of(&pair.addresses.addr()) == family) {
            by_mac.entry(pair.mac.unwrap_or(self.port.mac)).or_default().push(pair.addresses.trunc());
        }
        by_mac
            .into_iter()
            .flat_map(|(mac, nets)| IpNet::aggregate(&nets).into_iter().map(move |net| (mac, net)))
            .collect()
    }
}

fn number(address: std::net::IpAddr) -> u128 {
    match address {
        std::net::IpAddr::V4(v4) => u32::from(v4).into(),
        std::net::IpAddr::V6(v6) => v6.into(),
    }
}

fn span(from: u128, to: u128, family: Family) -> String {
    let text = |number: u128| match family {
        // What came from an IPv4 address fits one.
        Family::Ipv4 => std::net::Ipv4Addr::from(number as u32).to_string(),
        Family::Ipv6 => std::net::Ipv6Addr::from(number).to_string(),
    };
    if from == to { text(from) } else { format!("{}-{}", text(from), text(to)) }
}
