//! Floating IPs: addresses of an external network that lead to a port, through the router between.

use std::{collections::BTreeSet, net::IpAddr};

use hull_types::{
    error::{Error, Result},
    event::Event,
    name::Name,
    network::Subnet,
    port::{FixedIp, Port},
    router::{FloatingIp, FloatingIpTarget, Router},
    security_group::Family,
    wire::network::{FloatingIpCreate, FloatingIpUpdate},
};

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Expect, Named, Write},
    event, head, ipam,
    owner::Owner,
    subnet::On,
};

/// Where a floating IP shall lead, found.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The port.
    pub port: &'a Port,
    /// Which of its addresses.
    pub fixed: Option<IpAddr>,
    /// The subnets of the port's network.
    pub subnets: &'a [&'a Subnet],
    /// The routers those are on.
    pub routers: &'a [&'a Router],
    /// The floating IPs that lead to the port already.
    pub present: &'a [&'a FloatingIp],
}

/// Takes an address of an external network.
pub fn create(
    request: &FloatingIpCreate,
    on: On<'_>,
    target: Option<Target<'_>>,
    owner: &Owner<'_>,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let network = on.network;
    if !network.external {
        let detail = format!(
            "network {} leads nowhere outside; floating IPs come from external networks (`hull network list` shows them)",
            network.meta.name
        );
        return Err(Error::invalid(detail).at("/network"));
    }
    let FixedIp { subnet, address } = address(request, on)?;
    let name = match &request.name {
        Some(name) => name.clone(),
        None => {
            Name::new(&address.to_string()).map_err(|why| Error::internal(format!("an address as a name: {why}")))?
        }
    };
    let mut floating = FloatingIp {
        id: call.id(),
        meta: head::new(owner.id(), head::texts!(request, name), call)?,
        network: network.id,
        subnet,
        address,
        target: None,
    };
    let mut changes = owner.take(Named::FloatingIp)?.unchanged(Doc::Network(network.id)).unchanged(Doc::Subnet(subnet));
    let mut message = format!("{address} taken from network {}", network.meta.name);
    if let Some(target) = target {
        let found = resolve(&floating, target, &network.meta.name)?;
        expect(&mut changes, found);
        floating.target = Some(found);
        message = format!("{message}, leading to {}", found.fixed);
    }
    let event = told(&floating, "floating-ip.create", &message, call);
    claims(&floating).into_iter().for_each(|claim| changes.push(Write::Claim(claim)));
    Ok(changes.and(Write::PutFloatingIp(Box::new(floating))).event(event))
}

/// Changes texts, and where it leads: `target` is none where that stays.
pub fn update(
    floating: &FloatingIp,
    wanted: &FloatingIpUpdate,
    target: Option<Option<Target<'_>>>,
    network: &Name,
    owner: &Owner<'_>,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let mut after = floating.clone();
    head::retold!(&mut after.meta, wanted)?;
    after.target = match target {
        None => floating.target,
        Some(None) => None,
        Some(Some(target)) => Some(resolve(floating, target, network)?),
    };
    if after == *floating {
        return Ok(Changes::none());
    }
    let (action, message) = match after.target {
        target if target == floating.target => ("floating-ip.update", "changed".to_owned()),
        Some(target) => ("floating-ip.assign", format!("leads to {} of port {}", target.fixed, target.port)),
        None => ("floating-ip.unassign", "leads nowhere".to_owned()),
    };
    let mut changes = Changes::none();
    if let Some(target) = after.target.filter(|target| Some(*target) != floating.target) {
        changes = owner.pass();
        expect(&mut changes, target);
    }
    changes.expect(Expect::Unchanged(Doc::FloatingIp(floating.id)));
    after.meta.updated_at = call.now;
    head::reclaim(&mut changes, Named::FloatingIp, &floating.meta, &after.meta, floating.id.0);
    let event = told(&after, action, &message, call);
    Ok(changes.and(Write::PutFloatingIp(Box::new(after))).event(event))
}

/// Gives the address back.
pub fn delete(floating: &FloatingIp, owner: &Owner<'_>, call: &mut Call<'_>) -> Changes {
    let event = told(floating, "floating-ip.delete", &format!("{} given back", floating.address), call);
    let mut changes =
        owner.give(Named::FloatingIp).unchanged(Doc::FloatingIp(floating.id)).and(Write::DeleteFloatingIp(floating.id));
    claims(floating).into_iter().for_each(|claim| changes.push(Write::Release(claim)));
    changes.event(event)
}

/// What it led to goes.
pub(crate) fn lead_nowhere(changes: &mut Changes, floating: &FloatingIp, call: &Call<'_>) {
    let mut after = floating.clone();
    after.target = None;
    after.meta.updated_at = call.now;
    changes.expect(Expect::Unchanged(Doc::FloatingIp(floating.id)));
    changes.push(Write::PutFloatingIp(Box::new(after)));
}

fn claims(floating: &FloatingIp) -> [Claim; 2] {
    let FloatingIp { network, address, id, .. } = *floating;
    [head::claim(Named::FloatingIp, &floating.meta, id.0), Claim::Address { network, address, holder: id.0 }]
}

fn address(request: &FloatingIpCreate, on: On<'_>) -> Result<FixedIp> {
    let On { network, subnets, used } = on;
    let none = BTreeSet::new();
    if let Some(address) = request.address {
        let found = ipam::wanted(network, subnets, &[address], &used.addresses, &none);
        let found = found.map_err(|error| error.at("/address"))?;
        return found.first().copied().ok_or_else(|| Error::internal("a wanted address was not given"));
    }
    let has = |family: Family| subnets.iter().any(|subnet| Family::of(&subnet.cidr.addr()) == family);
    let family = request.family.unwrap_or(if has(Family::Ipv4) { Family::Ipv4 } else { Family::Ipv6 });
    if !has(family) {
        let detail = format!(
            "network {} has no {} subnet to take a floating IP from; ask for the other family, or name another network",
            network.meta.name,
            if family == Family::Ipv4 { "IPv4" } else { "IPv6" }
        );
        return Err(Error::invalid(detail).at("/family"));
    }
    let own: Vec<&Subnet> = subnets.iter().copied().filter(|s| Family::of(&s.cidr.addr()) == family).collect();
    let found = ipam::next(network, &own, &used.addresses, &none)?;
    found.first().copied().ok_or_else(|| Error::internal("a free address was not given"))
}

fn expect(changes: &mut Changes, target: FloatingIpTarget) {
    changes.expect(Expect::Unchanged(Doc::Port(target.port)));
    changes.expect(Expect::Unchanged(Doc::Router(target.router)));
}

/// The address and the router by which a floating IP reaches a port, or what is missing.
fn resolve(floating: &FloatingIp, target: Target<'_>, external: &Name) -> Result<FloatingIpTarget> {
    let Target { port, fixed, subnets, routers, present } = target;
    let name = &port.meta.name;
    let refuse = |detail: String| Err(Error::conflict(detail).at("/target"));
    if port.router_gateway.is_some() {
        return refuse(format!("port {name} is a router's own; a floating IP leads to a VM's"));
    }
    if port.meta.project != floating.meta.project {
        return refuse(format!("port {name} is another project's; a floating IP leads to a port of its own project"));
    }
    let ours = |address: &IpAddr| address.is_ipv4() == floating.address.is_ipv4();
    let candidates: Vec<FixedIp> = match fixed {
        Some(fixed) => port.addresses.iter().copied().filter(|own| own.address == fixed).collect(),
        None => port.addresses.iter().copied().filter(|own| ours(&own.address)).collect(),
    };
    match (candidates.first(), fixed) {
        (None, Some(fixed)) => {
            return refuse(format!("{fixed} is no address of port {name}; leave it out to choose one"));
        }
        (None, None) => {
            let family = if floating.address.is_ipv4() { "IPv4" } else { "IPv6" };
            return refuse(format!("port {name} has no {family} address for {} to lead to", floating.address));
        }
        (Some(first), _) if !ours(&first.address) => {
            return refuse(format!(
                "{} cannot lead to {}: one is IPv4, the other IPv6",
                floating.address, first.address
            ));
        }
        (Some(_), _) => {}
    }
    let mut missing = None;
    for FixedIp { subnet: id, address } in candidates {
        let subnet = subnets.iter().find(|subnet| subnet.id == id);
        let on = subnet.and_then(|subnet| subnet.router);
        let router = on.and_then(|on| routers.iter().find(|router| router.id == on));
        let said = subnet.map_or_else(|| id.to_string(), |subnet| subnet.meta.name.to_string());
        match router {
            None => {
                missing = missing.or(Some(format!(
                    "subnet {said} of {address} is on no router; add it to one whose gateway is on network {external}"
                )))
            }
            Some(router) if router.gateway.is_none_or(|gateway| gateway.network != floating.network) => {
                let router = &router.meta.name;
                missing = missing.or(Some(format!(
                    "router {router} of subnet {said} has no gateway on network {external}; set it (`hull router set-gateway {router} {external}`)"
                )));
            }
            Some(router) => {
                let taken = |other: &&&FloatingIp| {
                    other.id != floating.id && other.target.is_some_and(|t| t.port == port.id && t.fixed == address)
                };
                if let Some(other) = present.iter().find(taken) {
                    missing = missing.or(Some(format!(
                        "floating IP {} leads to {address} already; an address answers under one floating IP",
                        other.address
                    )));
                    continue;
                }
                return Ok(FloatingIpTarget { port: port.id, fixed: address, router: router.id });
            }
        }
    }
    refuse(missing.unwrap_or_else(|| format!("{} does not reach port {name}", floating.address)))
}

fn told(floating: &FloatingIp, action: &str, message: &str, call: &mut Call<'_>) -> Event {
    let resource = ("floating-ip", floating.id.0, floating.meta.name.as_str());
    event::about(call, Some(floating.meta.project), resource, action, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "floating_ip_tests.rs"]
mod tests;
