//! Subnets: ranges of addresses on a network. The network's document lists them, so that two ranges that overlap cannot
//! come at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hull_types::{
    error::{Error, Result},
    event::Event,
    id::ProjectId,
    network::{AddressRange, Network, Route, Subnet},
    wire::network::{SubnetCreate, SubnetUpdate},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    call::Call,
    change::{Changes, Doc, Named, Write},
    check, event, head,
    ipam::{self, NetworkUse},
    network::{Powers, count, manageable},
    owner::Owner,
};

/// The most subnets of a network.
pub const SUBNETS_MAX: usize = 32;
/// The most name servers, pools and routes of a subnet.
pub const LIST_MAX: usize = 32;

/// A network with its subnets and what is taken of it.
#[derive(Clone, Copy, Debug)]
pub struct On<'a> {
    /// The network.
    pub network: &'a Network,
    /// Its subnets, oldest first.
    pub subnets: &'a [&'a Subnet],
    /// What of it is taken.
    pub used: &'a NetworkUse,
}

/// Makes a subnet.
pub fn create(
    request: &SubnetCreate,
    on: On<'_>,
    owner: &Owner<'_>,
    powers: Powers,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let network = on.network;
    manageable(network, powers)?;
    let cidr = range(request.cidr)?;
    if let Some(other) = on.subnets.iter().find(|other| overlap(other.cidr, cidr)) {
        let detail = format!(
            "{cidr} overlaps subnet {} ({}) of network {}; choose a range apart from it, or another network",
            other.meta.name, other.cidr, network.meta.name
        );
        return Err(Error::conflict(detail).at("/cidr"));
    }
    if on.subnets.len() >= SUBNETS_MAX {
        let detail = format!("network {} has {SUBNETS_MAX} subnets already, the most there can be", network.meta.name);
        return Err(Error::conflict(detail).at("/network"));
    }
    let subnet = Subnet {
        id: call.id(),
        meta: head::new(network.meta.project, head::texts!(request), call)?,
        network: network.id,
        cidr,
        gateway: request.gateway.unwrap_or_else(|| cidr.hosts().find(|host| *host != cidr.network())),
        dns: request.dns.clone(),
        pools: request.pools.clone(),
        dhcp: request.dhcp,
        routes: request.routes.clone(),
        dhcp_options: request.dhcp_options.clone(),
        router: None,
    };
    checked(&subnet)?;
    let mut after = network.clone();
    after.subnets.push(subnet.id);
    let event = told(&subnet, "subnet.create", &format!("{cidr} created on network {}", network.meta.name), call);
    Ok(owner
        .take(Named::Subnet)?
        .unchanged(Doc::Network(network.id))
        .and(Write::Claim(head::claim(Named::Subnet, &subnet.meta, subnet.id.0)))
        .and(Write::PutNetwork(Box::new(after)))
        .and(Write::PutSubnet(Box::new(subnet)))
        .event(event))
}

/// Changes a subnet. Its range stays.
pub fn update(
    subnet: &Subnet,
    wanted: &SubnetUpdate,
    on: On<'_>,
    owner: &Owner<'_>,
    powers: Powers,
    call: &mut Call<'_>,
) -> Result<Changes> {
    manageable(on.network, powers)?;
    let mut after = subnet.clone();
    head::retold!(&mut after.meta, wanted)?;
    let SubnetUpdate { gateway, dns, pools, dhcp, routes, dhcp_options, .. } = wanted.clone();
    after.gateway = gateway.unwrap_or(after.gateway);
    after.dns = dns.unwrap_or(after.dns);
    after.pools = pools.unwrap_or(after.pools);
    after.dhcp = dhcp.unwrap_or(after.dhcp);
    after.routes = routes.unwrap_or(after.routes);
    after.dhcp_options = dhcp_options.unwrap_or(after.dhcp_options);
    if after == *subnet {
        return Ok(Changes::none());
    }
    checked(&after)?;
    let mut changes = Changes::none();
    if after.gateway != subnet.gateway {
        let name = &subnet.meta.name;
        if subnet.router.is_some() {
            let detail =
                format!("subnet {name} is on a router, which answers at its gateway; take it from the router first");
            return Err(Error::conflict(detail).at("/gateway"));
        }
        if let Some(taken) = after.gateway.filter(|gateway| on.used.addresses.contains(gateway)) {
            let detail =
                format!("{taken} is a port's or a floating IP's; choose a free address as subnet {name}'s gateway");
            return Err(Error::conflict(detail).at("/gateway"));
        }
        // A port that is just being given this address passes here too.
        changes = owner.pass();
    }
    after.meta.updated_at = call.now;
    let event = told(&after, "subnet.update", "changed", call);
    changes = changes.unchanged(Doc::Subnet(subnet.id));
    head::reclaim(&mut changes, Named::Subnet, &subnet.meta, &after.meta, subnet.id.0);
    Ok(changes.and(Write::PutSubnet(Box::new(after))).event(event))
}

/// Deletes a subnet no address of which is in use. `users` are the projects that may begin to use it.
pub fn delete(
    subnet: &Subnet,
    on: On<'_>,
    owner: &Owner<'_>,
    users: &[ProjectId],
    powers: Powers,
    call: &mut Call<'_>,
) -> Result<Changes> {
    manageable(on.network, powers)?;
    let name = &subnet.meta.name;
    if subnet.router.is_some() {
        return Err(Error::conflict(format!("subnet {name} is on a router; take it from the router first")));
    }
    let used = on.used.addresses.range(subnet.cidr.network()..=subnet.cidr.broadcast()).count();
    if used > 0 {
        return Err(Error::conflict(format!(
            "subnet {name} is in use: {} taken (`hull port list --network {}`); delete those ports and floating IPs first",
            count(used, "of its addresses is", "of its addresses are"),
            on.network.meta.name
        )));
    }
    let mut after = on.network.clone();
    after.subnets.retain(|id| *id != subnet.id);
    let event = told(subnet, "subnet.delete", "deleted", call);
    Ok(owner
        .give(Named::Subnet)
        .unreferred(users)
        .unchanged(Doc::Network(on.network.id))
        .unchanged(Doc::Subnet(subnet.id))
        .and(Write::PutNetwork(Box::new(after)))
        .and(Write::DeleteSubnet(subnet.id))
        .and(Write::Release(head::claim(Named::Subnet, &subnet.meta, subnet.id.0)))
        .event(event))
}

/// Whether two ranges share an address.
pub(crate) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Ranges that hosts give another meaning, or that carry Hull's own services.
fn reserved() -> [(IpNet, &'static str); 6] {
    let v4 = |a, b, c, d, prefix| IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix));
    let metadata = Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0), 64);
    [
        (v4(0, 0, 0, 0, 8), "this host's own"),
        (v4(127, 0, 0, 0, 8), "every host's loopback"),
        (v4(169, 254, 0, 0, 16), "link-local, and the metadata service's"),
        (v4(224, 0, 0, 0, 4), "multicast"),
        (v4(240, 0, 0, 0, 4), "reserved"),
        (metadata.into(), "the metadata service's"),
    ]
}

fn range(cidr: IpNet) -> Result<IpNet> {
    let refuse = |detail: String| Err(Error::invalid(detail).at("/cidr"));
    if cidr != cidr.trunc() {
        return refuse(format!("{cidr} is an address within a range; the range is {}", cidr.trunc()));
    }
    match cidr {
        IpNet::V4(net) if !(8..=30).contains(&net.prefix_len()) => {
            return refuse(format!("{cidr}: an IPv4 subnet is a /8 to a /30; choose another length"));
        }
        IpNet::V6(net) if net.prefix_len() != 64 => {
            return refuse(format!("{cidr}: an IPv6 subnet is a /64, so that guests can take their addresses from it"));
        }
        IpNet::V6(net) if !unicast(net.addr()) => {
            return refuse(format!(
                "{cidr} is not for unicast: choose from 2000::/3, or from fd00::/8 for private use"
            ));
        }
        IpNet::V4(_) | IpNet::V6(_) => {}
    }
    match reserved().into_iter().find(|(range, _)| overlap(*range, cidr)) {
        Some((range, whose)) => refuse(format!("{cidr} touches {range}, which is {whose}; choose another range")),
        None => Ok(cidr),
    }
}

/// Global unicast (2000::/3) or unique local (fc00::/7).
fn unicast(address: Ipv6Addr) -> bool {
    let [first, ..] = address.segments();
    first & 0xe000 == 0x2000 || first & 0xfe00 == 0xfc00
}

/// What a subnet says, apart from its range.
fn checked(subnet: &Subnet) -> Result<()> {
    let Subnet { cidr, gateway, dns, pools, routes, .. } = subnet;
    for (field, length) in [("/dns", dns.len()), ("/pools", pools.len()), ("/routes", routes.len())] {
        if length > LIST_MAX {
            let detail = format!("at most {LIST_MAX} of these, {length} were given; remove some");
            return Err(Error::invalid(detail).at(field));
        }
    }
    if let Some(gateway) = gateway {
        if !cidr.contains(gateway) {
            return Err(
                Error::invalid(format!("gateway {gateway} is not in {cidr}; choose an address of it")).at("/gateway")
            );
        }
        if ipam::network_own(*cidr, *gateway) {
            return Err(Error::invalid(format!("{gateway} is no host's address in {cidr}; choose another gateway"))
                .at("/gateway"));
        }
    }
    if let Some(server) = dns.iter().find(|server| server.is_ipv4() != cidr.addr().is_ipv4()) {
        return Err(Error::invalid(format!("name server {server} is of the other family than {cidr}")).at("/dns"));
    }
    checked_pools(*cidr, pools)?;
    checked_routes(routes, |via| cidr.contains(&via), &format!("in {cidr}"))?;
    check::dhcp_options(&subnet.dhcp_options)?;
    if cidr.addr().is_ipv6() && !subnet.dhcp_options.is_empty() {
        let detail = "further DHCP options are sent over IPv4 only; give them to an IPv4 subnet";
        return Err(Error::invalid(detail).at("/dhcp_options"));
    }
    Ok(())
}

fn checked_pools(cidr: IpNet, pools: &[AddressRange]) -> Result<()> {
    let refuse = |detail: String| Err(Error::invalid(detail).at("/pools"));
    for (at, AddressRange { first, last }) in pools.iter().enumerate() {
        if !cidr.contains(first) || !cidr.contains(last) {
            return refuse(format!("the pool {first} to {last} is not in {cidr}; choose addresses of it"));
        }
        if first > last {
            return refuse(format!("the pool {first} to {last} ends before it begins; swap the two"));
        }
        if let Some(other) = pools[..at].iter().find(|other| other.first <= *last && *first <= other.last) {
            return refuse(format!("the pools {} to {} and {first} to {last} overlap", other.first, other.last));
        }
    }
    Ok(())
}

/// Routes go to ranges, by next hops that can be reached, each range once.
pub(crate) fn checked_routes(routes: &[Route], reaches: impl Fn(IpAddr) -> bool, place: &str) -> Result<()> {
    let refuse = |detail: String| Err(Error::invalid(detail).at("/routes"));
    if routes.len() > LIST_MAX {
        return refuse(format!("at most {LIST_MAX} routes, {} were given; remove some", routes.len()));
    }
    for (at, Route { to, via }) in routes.iter().enumerate() {
        if *to != to.trunc() {
            return refuse(format!("{to} is an address within a range; the range is {}", to.trunc()));
        }
        if to.addr().is_ipv4() != via.is_ipv4() {
            return refuse(format!("the route to {to} by {via} mixes IPv4 and IPv6"));
        }
        if !reaches(*via) {
            return refuse(format!("the next hop {via} of the route to {to} is not {place}; choose one that is"));
        }
        if routes[..at].iter().any(|other| other.to == *to) {
            return refuse(format!("there are two routes to {to}; leave one out"));
        }
    }
    Ok(())
}

fn told(subnet: &Subnet, action: &str, message: &str, call: &mut Call<'_>) -> Event {
    let resource = ("subnet", subnet.id.0, subnet.meta.name.as_str());
    event::about(call, Some(subnet.meta.project), resource, action, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "subnet_tests.rs"]
mod tests;
