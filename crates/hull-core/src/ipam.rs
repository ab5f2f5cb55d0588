//! Addresses: which one a port gets.
//!
//! Addresses are given in rising order, after the highest in use, so that a freed one is not at once another's (caches
//! and neighbours' tables forget in the meantime); when the end is reached, the lowest free one. The answer depends on
//! nothing but the sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Bound,
};

use hull_types::{
    error::{Error, ErrorKind, Result},
    network::{AddressRange, Mac, Network, Subnet},
    port::FixedIp,
};
use ipnet::IpNet;

/// What of a network is taken, as committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkUse {
    /// Addresses that ports and floating IPs hold.
    pub addresses: BTreeSet<IpAddr>,
    /// MACs ports hold.
    pub macs: BTreeSet<Mac>,
    /// Host names, and how many ports have each: NICs of one VM share theirs.
    pub hostnames: BTreeMap<String, u32>,
}

/// One address from each family the network has, the next free ones. A family whose subnets are all full is an error.
pub fn next(
    network: &Network,
    subnets: &[&Subnet],
    used: &BTreeSet<IpAddr>,
    taken: &BTreeSet<IpAddr>,
) -> Result<Vec<FixedIp>> {
    let mut addresses = Vec::new();
    for v6 in [false, true] {
        let mut subnets = subnets.iter().filter(|s| s.cidr.addr().is_ipv6() == v6).peekable();
        if subnets.peek().is_none() {
            continue;
        }
        let found = subnets.find_map(|s| free(s, used, taken).map(|address| FixedIp { subnet: s.id, address }));
        addresses.push(found.ok_or_else(|| full(network, v6))?);
    }
    Ok(addresses)
}

/// The addresses a caller wants, each checked: in a subnet, not the network's own, free.
pub fn wanted(
    network: &Network,
    subnets: &[&Subnet],
    wanted: &[IpAddr],
    used: &BTreeSet<IpAddr>,
    taken: &BTreeSet<IpAddr>,
) -> Result<Vec<FixedIp>> {
    let name = &network.meta.name;
    let mut addresses: Vec<FixedIp> = Vec::with_capacity(wanted.len());
    for &address in wanted {
        let subnet = subnets.iter().find(|s| s.cidr.contains(&address)).ok_or_else(|| {
            let ranges: Vec<_> = subnets.iter().map(|s| s.cidr.to_string()).collect();
            let ranges = if ranges.is_empty() {
                "it has no subnets".to_owned()
            } else {
                format!("its ranges are {}", ranges.join(", "))
            };
            Error::invalid(format!("{address} is not on network {name}; {ranges}"))
        })?;
        if reserved(subnet, address) {
            return Err(Error::invalid(format!("{address} is network {name}'s own address; choose another")));
        }
        if used.contains(&address) || taken.contains(&address) || addresses.iter().any(|a| a.address == address) {
            return Err(Error::already_exists(format!(
                "{address} is in use on network {name}; choose another, or none to get the next free one"
            )));
        }
        addresses.push(FixedIp { subnet: subnet.id, address });
    }
    Ok(addresses)
}

/// The next free address of each of these subnets.
pub fn from(
    network: &Network,
    subnets: &[&Subnet],
    used: &BTreeSet<IpAddr>,
    taken: &BTreeSet<IpAddr>,
) -> Result<Vec<FixedIp>> {
    let mut addresses: Vec<FixedIp> = Vec::with_capacity(subnets.len());
    for subnet in subnets {
        // A subnet named twice gives two.
        let own = taken.iter().copied().chain(addresses.iter().map(|fixed| fixed.address)).collect();
        let address = free(subnet, used, &own).ok_or_else(|| {
            Error::new(
                ErrorKind::InsufficientResources,
                format!(
                    "subnet {} of network {} has no free address left; delete ports on it, widen its pools, or use another",
                    subnet.meta.name, network.meta.name
                ),
            )
        })?;
        addresses.push(FixedIp { subnet: subnet.id, address });
    }
    Ok(addresses)
}

fn full(network: &Network, v6: bool) -> Error {
    let family = if v6 { "IPv6" } else { "IPv4" };
    Error::new(
        ErrorKind::InsufficientResources,
        format!(
            "network {} has no free {family} address left; delete VMs on it, add a subnet to it, or use another network",
            network.meta.name
        ),
    )
}

/// Whether an address of the subnet is never a port's.
fn reserved(subnet: &Subnet, address: IpAddr) -> bool {
    subnet.gateway == Some(address) || network_own(subnet.cidr, address)
}

/// Whether an address of a range names the network or all of it.
pub(crate) fn network_own(cidr: IpNet, address: IpAddr) -> bool {
    match cidr {
        // RFC 3021: both addresses of a /31 are hosts'; a /32 is one.
        IpNet::V4(net) if net.prefix_len() < 31 => address == net.network() || address == net.broadcast(),
        // RFC 4291 section 2.6.1: the subnet-router anycast address.
        IpNet::V6(net) if net.prefix_len() < 127 => address == net.network(),
        IpNet::V4(_) | IpNet::V6(_) => false,
    }
}

/// The next free address of a subnet, of the first pool that has one.
fn free(subnet: &Subnet, used: &BTreeSet<IpAddr>, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let whole = [AddressRange { first: subnet.cidr.network(), last: subnet.cidr.broadcast() }];
    let pools = if subnet.pools.is_empty() { &whole[..] } else { &subnet.pools };
    pools.iter().find_map(|pool| free_in(subnet, *pool, used, taken))
}

fn free_in(
    subnet: &Subnet,
    AddressRange { first, last }: AddressRange,
    used: &BTreeSet<IpAddr>,
    taken: &BTreeSet<IpAddr>,
) -> Option<IpAddr> {
    let is_free = |a: IpAddr| !reserved(subnet, a) && !used.contains(&a) && !taken.contains(&a);
    let inside = (Bound::Included(first), Bound::Included(last));
    let highest = used.range(inside).next_back().max(taken.range(inside).next_back()).copied();
    // Reserved addresses are at most three, so a few steps beyond the highest decide.
    let mut candidate = highest.map_or(Some(first), successor);
    for _ in 0..4 {
        match candidate.filter(|a| *a <= last) {
            Some(address) if is_free(address) => return Some(address),
            Some(address) => candidate = successor(address),
            None => break,
        }
    }
    // The end is reached: the lowest gap. At most one step more than addresses are taken.
    let mut candidate = Some(first);
    while let Some(address) = candidate.filter(|a| *a <= last) {
        if is_free(address) {
            return Some(address);
        }
        candidate = successor(address);
    }
    None
}

fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => u32::from(a).checked_add(1).map(|n| IpAddr::V4(Ipv4Addr::from(n))),
        IpAddr::V6(a) => u128::from(a).checked_add(1).map(|n| IpAddr::V6(Ipv6Addr::from(n))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{network, subnets};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn set(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|t| ip(t)).collect()
    }

    fn nexts(cidrs: &[&str], used: &[&str]) -> Vec<String> {
        let all = subnets(cidrs);
        next(&network(cidrs), &all.iter().collect::<Vec<_>>(), &set(used), &BTreeSet::new())
            .map(|all| all.iter().map(|a| a.address.to_string()).collect())
            .unwrap_or_default()
    }

    #[test]
    fn each_family_gives_one_in_rising_order() {
        assert_eq!(nexts(&["10.0.0.0/24", "fd00::/64"], &[]), ["10.0.0.2", "fd00::2"], "the gateways hold .1");
        assert_eq!(nexts(&["10.0.0.0/24"], &["10.0.0.2", "10.0.0.7"]), ["10.0.0.8"], "after the highest");
        assert_eq!(nexts(&["10.0.0.0/29"], &["10.0.0.2", "10.0.0.6"]), ["10.0.0.3"], "never the broadcast; then gaps");
        assert_eq!(nexts(&["10.0.0.0/30"], &["10.0.0.2"]), [""; 0], "full");
        assert_eq!(nexts(&["10.0.0.0/30", "10.1.0.0/30"], &["10.0.0.2"]), ["10.1.0.2"], "the next subnet");
    }

    #[test]
    fn pools_bound_what_is_given_and_not_what_is_asked_for() {
        let net = network(&["10.0.0.0/24"]);
        let mut subnet = subnets(&["10.0.0.0/24"]).remove(0);
        let pool = |first, last| AddressRange { first: ip(first), last: ip(last) };
        subnet.pools = vec![pool("10.0.0.10", "10.0.0.11"), pool("10.0.0.1", "10.0.0.2")];
        let mut used = BTreeSet::new();
        for given in ["10.0.0.10", "10.0.0.11", "10.0.0.2"] {
            let next = next(&net, &[&subnet], &used, &BTreeSet::new()).unwrap();
            assert_eq!(next[0].address, ip(given), "pool after pool, never the gateway");
            used.insert(ip(given));
        }
        let full = from(&net, &[&subnet], &used, &BTreeSet::new()).unwrap_err();
        assert_eq!(full.kind, ErrorKind::InsufficientResources);
        assert!(full.detail.contains("subnet subnet-0 of network net has no free address left"), "{full}");
        let asked = wanted(&net, &[&subnet], &[ip("10.0.0.99")], &used, &BTreeSet::new()).unwrap();
        assert_eq!(asked[0].address, ip("10.0.0.99"));
    }

    #[test]
    fn wanted_addresses_are_checked() {
        let net = network(&["10.0.0.0/24"]);
        let all = subnets(&["10.0.0.0/24"]);
        let used = set(&["10.0.0.9"]);
        let want = |a: &[&str]| {
            wanted(&net, &[&all[0]], &a.iter().map(|t| ip(t)).collect::<Vec<_>>(), &used, &BTreeSet::new())
                .map_err(|e| e.detail)
        };
        assert_eq!(want(&["10.0.0.5"]).unwrap()[0].address, ip("10.0.0.5"));
        for (addresses, says) in [
            (&["10.0.1.1"][..], "its ranges are 10.0.0.0/24"),
            (&["10.0.0.0"], "own address"),
            (&["10.0.0.1"], "own address"),
            (&["10.0.0.255"], "own address"),
            (&["10.0.0.9"], "in use"),
            (&["10.0.0.5", "10.0.0.5"], "in use"),
        ] {
            assert!(want(addresses).unwrap_err().contains(says), "{addresses:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_given_is_free_and_a_subnet_is_filled_to_the_last(prefix in 24u8..=30, frees in prop::collection::vec(any::<u8>(), 0..40)) {
            let net = network(&[&format!("10.0.0.0/{prefix}")]);
            let subnet = subnets(&[&format!("10.0.0.0/{prefix}")]).remove(0);
            let mut used = BTreeSet::new();
            let hosts = (1usize << (32 - prefix)) - 3;
            for _ in 0..hosts {
                let given = next(&net, &[&subnet], &used, &BTreeSet::new()).unwrap()[0].address;
                prop_assert!(!reserved(&subnet, given));
                prop_assert!(used.insert(given));
            }
            prop_assert!(next(&net, &[&subnet], &used, &BTreeSet::new()).is_err());
            for free in frees {
                let back = ip(&format!("10.0.0.{free}"));
                if used.remove(&back) {
                    prop_assert_eq!(next(&net, &[&subnet], &used, &BTreeSet::new()).unwrap()[0].address, back);
                    used.insert(back);
                }
            }
        }
    }
}
