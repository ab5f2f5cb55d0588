//! Routers: which subnets they join, where they lead out, and the addresses they have there, one on each node that needs
//! the router.
//!
//! A router has no ports on the subnets it joins: the subnet's gateway is its address there, on every node. So a subnet is
//! on one router at most; what should go another way is said by routes. A router that leads out has one [`Port`] on the
//! external network for each node, made and removed by [`gateways`] as VMs come and go. An external network that is full
//! fails no VM: the router says what is missing.

use std::{collections::BTreeSet, net::IpAddr};

use hull_types::{
    error::{Error, Result},
    event::Event,
    id::NodeId,
    meta::Meta,
    name::Name,
    network::{Network, Route, Subnet, Uplink},
    port::{Bandwidth, FixedIp, Port, RouterGatewayOn},
    reason::{Reason, ReasonCode},
    router::{Router, RouterGateway},
    wire::network::{RouterCreate, RouterUpdate},
};

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Expect, Named, Write},
    event, head, ipam, mac,
    network::count,
    owner::Owner,
    port,
    subnet::{On, checked_routes, overlap},
};

/// The most subnets of a router.
pub const SUBNETS_MAX: usize = 64;

/// A subnet that a router joins, with its network.
#[derive(Clone, Copy, Debug)]
pub struct Joined<'a> {
    /// The subnet.
    pub subnet: &'a Subnet,
    /// Its network.
    pub network: &'a Network,
}

/// A way out as it was asked for, found.
#[derive(Clone, Copy, Debug)]
pub struct Out<'a> {
    /// The external network.
    pub network: &'a Network,
    /// Its subnets.
    pub subnets: &'a [&'a Subnet],
    /// Whether VMs without a floating IP go out under an address of the router's.
    pub snat: bool,
}

/// Makes a router.
pub fn create(
    request: &RouterCreate,
    joins: &[Joined<'_>],
    out: Option<Out<'_>>,
    owner: &Owner<'_>,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let mut router = Router {
        id: call.id(),
        meta: head::new(owner.id(), head::texts!(request), call)?,
        subnets: Vec::new(),
        gateway: None,
        routes: Vec::new(),
        reason: None,
    };
    let mut changes = owner.take(Named::Router)?;
    if let Some(out) = out {
        router.gateway = Some(lead_out(out, &[], &mut changes)?);
    }
    let mut present: Vec<Joined<'_>> = Vec::new();
    for (at, joined) in joins.iter().enumerate() {
        let field = format!("/subnets/{at}");
        join(&mut router, *joined, &present, out, &mut changes, call).map_err(|error| error.at(field))?;
        present.push(*joined);
    }
    router.routes.clone_from(&request.routes);
    check_routes(&router.routes, &present, out)?;
    let event = told(&router, "router.create", "created", call);
    changes.push(Write::Claim(head::claim(Named::Router, &router.meta, router.id.0)));
    changes.push(Write::Claim(Claim::RouterNumber { router: router.id }));
    Ok(changes.and(Write::PutRouter(Box::new(router))).event(event))
}

/// A router with all it is tied to.
#[derive(Clone, Copy, Debug)]
pub struct Tied<'a> {
    /// The router.
    pub router: &'a Router,
    /// The subnets it joins.
    pub joins: &'a [Joined<'a>],
    /// Its way out.
    pub out: Option<Out<'a>>,
    /// Its ends on the external network.
    pub gateways: &'a [&'a Port],
    /// How many floating IPs lead through it; to the subnet in question, where there is one.
    pub through: usize,
}

/// Changes a router. `out` is the way out that the request names, found; none where it leaves that alone.
pub fn update(
    tied: &Tied<'_>,
    wanted: &RouterUpdate,
    out: Option<Option<Out<'_>>>,
    owner: &Owner<'_>,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let Tied { router, joins, through, .. } = *tied;
    let mut after = router.clone();
    let mut changes = Changes::none();
    head::retold!(&mut after.meta, wanted)?;
    if let Some(out) = out {
        let elsewhere = router.gateway.map(|gateway| gateway.network) != out.map(|out| out.network.id);
        if through > 0 && elsewhere {
            return Err(Error::conflict(format!(
                "router {}'s gateway stays: {} through it; unassign them first",
                router.meta.name,
                count(through, "floating IP leads", "floating IPs lead")
            ))
            .at("/gateway"));
        }
        changes = owner.pass();
        after.gateway = out.map(|out| lead_out(out, joins, &mut changes)).transpose()?;
        if elsewhere {
            tied.gateways.iter().for_each(|gateway| port::remove(&mut changes, gateway, &[], call));
        }
    }
    let out = out.unwrap_or(tied.out);
    if let Some(routes) = &wanted.routes {
        after.routes.clone_from(routes);
    }
    if after == *router {
        return Ok(Changes::none());
    }
    check_routes(&after.routes, joins, out)?;
    after.meta.updated_at = call.now;
    changes.expect(Expect::Unchanged(Doc::Router(router.id)));
    head::reclaim(&mut changes, Named::Router, &router.meta, &after.meta, router.id.0);
    let (action, message) = match (router.gateway, after.gateway) {
        (before, after) if before == after => ("router.update", "changed".to_owned()),
        (_, Some(_)) => {
            ("router.set-gateway", out.map(|out| format!("leads out by {}", out.network.meta.name)).unwrap_or_default())
        }
        (_, None) => ("router.clear-gateway", "leads nowhere outside".to_owned()),
    };
    let event = told(&after, action, &message, call);
    Ok(changes.and(Write::PutRouter(Box::new(after))).event(event))
}

/// Joins one more subnet. Joining it again changes nothing.
pub fn add_subnet(tied: &Tied<'_>, joined: Joined<'_>, call: &mut Call<'_>) -> Result<Changes> {
    let router = tied.router;
    if joined.subnet.router == Some(router.id) {
        return Ok(Changes::none());
    }
    let mut after = router.clone();
    let mut changes = Changes::none().unchanged(Doc::Router(router.id));
    join(&mut after, joined, tied.joins, tied.out, &mut changes, call).map_err(|error| error.at("/subnet"))?;
    after.meta.updated_at = call.now;
    let Subnet { meta, cidr, .. } = joined.subnet;
    let event = told(&after, "router.add-subnet", &format!("joins subnet {} ({cidr})", meta.name), call);
    Ok(changes.and(Write::PutRouter(Box::new(after))).event(event))
}

/// Leaves a subnet.
pub fn remove_subnet(tied: &Tied<'_>, subnet: &Subnet, call: &mut Call<'_>) -> Result<Changes> {
    let (router, through) = (tied.router, tied.through);
    let (name, of) = (&router.meta.name, &subnet.meta.name);
    if subnet.router != Some(router.id) {
        return Err(Error::not_found(format!(
            "router {name} does not join subnet {of}; `hull router show {name}` says which"
        )));
    }
    if through > 0 {
        return Err(Error::conflict(format!(
            "subnet {of} stays on router {name}: {} to it; unassign them first",
            count(through, "floating IP leads", "floating IPs lead")
        )));
    }
    let left: Vec<Joined<'_>> = tied.joins.iter().filter(|joined| joined.subnet.id != subnet.id).copied().collect();
    check_routes(&router.routes, &left, tied.out).map_err(|error| {
        Error::conflict(format!("subnet {of} stays on router {name}: {}; remove that route first", error.detail))
    })?;
    let mut after = router.clone();
    after.subnets.retain(|id| *id != subnet.id);
    after.meta.updated_at = call.now;
    let mut alone = subnet.clone();
    alone.router = None;
    let event = told(&after, "router.remove-subnet", &format!("leaves subnet {of}"), call);
    Ok(Changes::none()
        .unchanged(Doc::Router(router.id))
        .unchanged(Doc::Subnet(subnet.id))
        // A floating IP that is just being led through it.
        .unreferred(&[router.meta.project])
        .and(Write::PutSubnet(Box::new(alone)))
        .and(Write::PutRouter(Box::new(after)))
        .event(event))
}

/// Deletes a router that joins nothing. `gateways` are its ends on the external network, which go with it.
pub fn delete(router: &Router, gateways: &[&Port], owner: &Owner<'_>, call: &mut Call<'_>) -> Result<Changes> {
    let name = &router.meta.name;
    if !router.subnets.is_empty() {
        return Err(Error::conflict(format!(
            "router {name} still joins {}; remove them from it first (`hull router remove-subnet {name} SUBNET`)",
            count(router.subnets.len(), "subnet", "subnets")
        )));
    }
    let event = told(router, "router.delete", "deleted", call);
    let mut changes = owner.give(Named::Router).unchanged(Doc::Router(router.id));
    gateways.iter().for_each(|gateway| port::remove(&mut changes, gateway, &[], call));
    changes.push(Write::DeleteRouter(router.id));
    changes.push(Write::Release(head::claim(Named::Router, &router.meta, router.id.0)));
    changes.push(Write::Release(Claim::RouterNumber { router: router.id }));
    Ok(changes.event(event))
}

/// What a router's ends outside depend on.
#[derive(Clone, Copy, Debug)]
pub struct Gateways<'a> {
    /// The router.
    pub router: &'a Router,
    /// Its external network; none where it leads nowhere.
    pub out: Option<On<'a>>,
    /// The ends there are.
    pub present: &'a [&'a Port],
    /// The nodes that hold the router, with their names.
    pub nodes: &'a [(NodeId, &'a Name)],
}

/// Makes and removes a router's ends on its external network until each node that holds it has one, or the router says
/// why not. Asked again it changes nothing.
pub fn gateways(plan: &Gateways<'_>, owner: &Owner<'_>, call: &mut Call<'_>) -> Result<Changes> {
    let router = plan.router;
    let stays = |port: &Port| {
        let on = port.router_gateway.map(|on| on.node);
        plan.out.is_some_and(|out| out.network.id == port.network)
            && plan.nodes.iter().any(|(node, _)| Some(*node) == on)
    };
    let (kept, gone): (Vec<&Port>, Vec<&Port>) = plan.present.iter().partition(|port| stays(port));
    let has = |node: NodeId| kept.iter().any(|port| port.router_gateway.is_some_and(|on| on.node == node));
    let mut changes = Changes::none();
    gone.iter().for_each(|port| port::remove(&mut changes, port, &[], call));
    let mut taken = BTreeSet::new();
    let mut made = Vec::new();
    let mut lacking = None;
    for &(node, name) in plan.nodes.iter().filter(|(node, _)| !has(*node)) {
        let Some(out) = plan.out else { break };
        match end(router, node, out, &taken, call) {
            Ok(port) => {
                taken.extend(port.ips());
                made.push((port, name));
            }
            Err(error) => {
                lacking = Some(format!("it does not lead out from node {name}: {}", error.detail));
                break;
            }
        }
    }
    for (port, node) in made {
        let addresses: Vec<String> = port.ips().map(|address| address.to_string()).collect();
        let event =
            told(router, "router.gateway", &format!("leads out from node {node} as {}", addresses.join(" and ")), call);
        port::claims(&port).for_each(|claim| changes.push(Write::Claim(claim)));
        changes = changes.and(Write::PutPort(Box::new(port))).event(event);
    }
    if !taken.is_empty() {
        changes.writes.splice(0..0, owner.pass().writes);
        changes.expect(Expect::Unchanged(Doc::Usage(owner.id())));
    }
    // What goes in this round is free in the next, which then says what is lacking.
    let known = lacking.is_none() || gone.is_empty();
    if known && router.reason.as_ref().map(|reason| &reason.message) != lacking.as_ref() {
        let mut after = router.clone();
        after.reason = lacking.map(|message| Reason::new(ReasonCode::AddressesExhausted, message, call.now));
        if let Some(reason) = &after.reason {
            let event = told(router, "router.gateway", &reason.message.clone(), call);
            changes = changes.event(event);
        }
        changes.push(Write::PutRouter(Box::new(after)));
    }
    if changes.is_empty() {
        return Ok(changes);
    }
    if let Some(out) = plan.out {
        changes = changes.unchanged(Doc::Network(out.network.id));
        for subnet in out.subnets {
            changes = changes.unchanged(Doc::Subnet(subnet.id));
        }
    }
    Ok(changes.unchanged(Doc::Router(router.id)))
}

/// A router's end on its external network, on one node. It counts for no quota: VMs that come must not fail by it.
fn end(router: &Router, node: NodeId, out: On<'_>, taken: &BTreeSet<IpAddr>, call: &mut Call<'_>) -> Result<Port> {
    let On { network, subnets, used } = out;
    let addresses: Vec<FixedIp> = ipam::next(network, subnets, &used.addresses, taken)?;
    if addresses.is_empty() {
        return Err(Error::conflict(format!("network {} has no subnet to give it an address from", network.meta.name)));
    }
    let mac = mac::of_router(router.id, node);
    if used.macs.contains(&mac) {
        return Err(Error::conflict(format!(
            "{mac}, its MAC there, is another port's on network {}",
            network.meta.name
        )));
    }
    let id = call.id();
    let name = port::name_with_vm(id)?;
    Ok(Port {
        id,
        meta: Meta::new(router.meta.project, name, call.now),
        network: network.id,
        vm: None,
        goes_with_vm: false,
        router_gateway: Some(RouterGatewayOn { router: router.id, node }),
        mac,
        addresses,
        // It has no name: nobody asks for it, and DNS of the external network is not Hull's.
        hostname: String::new(),
        security_groups: Vec::new(),
        port_security: true,
        allowed_pairs: Vec::new(),
        dhcp_options: Vec::new(),
        bandwidth: Bandwidth::default(),
    })
}

fn lead_out(out: Out<'_>, joins: &[Joined<'_>], changes: &mut Changes) -> Result<RouterGateway> {
    let Out { network, subnets, snat } = out;
    let name = &network.meta.name;
    if !network.external {
        let detail = format!("network {name} leads nowhere outside; a router's gateway is on an external network");
        return Err(Error::invalid(detail).at("/gateway/network"));
    }
    let clash = |joined: &&Joined<'_>| subnets.iter().any(|outside| overlap(outside.cidr, joined.subnet.cidr));
    if let Some(joined) = joins.iter().find(clash) {
        let (subnet, cidr) = (&joined.subnet.meta.name, joined.subnet.cidr);
        let detail =
            format!("network {name} overlaps subnet {subnet} ({cidr}) of the router, which could not tell them apart");
        return Err(Error::conflict(detail).at("/gateway/network"));
    }
    changes.expect(Expect::Unchanged(Doc::Network(network.id)));
    Ok(RouterGateway { network: network.id, snat })
}

fn join(
    router: &mut Router,
    joined: Joined<'_>,
    present: &[Joined<'_>],
    out: Option<Out<'_>>,
    changes: &mut Changes,
    call: &Call<'_>,
) -> Result<()> {
    let Joined { subnet, network } = joined;
    let (name, cidr) = (&subnet.meta.name, subnet.cidr);
    if subnet.meta.project != router.meta.project {
        return Err(Error::forbidden(format!(
            "subnet {name} is another project's; only its owner puts it on a router"
        )));
    }
    match network.uplink {
        Uplink::None => {}
        Uplink::Nat => {
            return Err(Error::conflict(format!(
                "network {} of subnet {name} leads out by NAT, at the same gateway; use a network without an uplink",
                network.meta.name
            )));
        }
        Uplink::Provider(_) => {
            return Err(Error::conflict(format!(
                "network {} of subnet {name} is a provider's, whose gateway is a machine outside of Hull; a router leads to it by its own gateway",
                network.meta.name
            )));
        }
    }
    if subnet.router.is_some() {
        return Err(Error::conflict(format!(
            "subnet {name} is on another router, which answers at its gateway; a subnet is on one router at most: take it from that one first"
        )));
    }
    if subnet.gateway.is_none() {
        return Err(Error::conflict(format!(
            "subnet {name} has no gateway for the router to answer at; give it one first"
        )));
    }
    if let Some(other) = present.iter().find(|other| overlap(other.subnet.cidr, cidr)) {
        return Err(Error::conflict(format!(
            "subnet {name} ({cidr}) overlaps subnet {} ({}) of the same router, which could not tell them apart",
            other.subnet.meta.name, other.subnet.cidr
        )));
    }
    if let Some(outside) = out.and_then(|out| out.subnets.iter().find(|outside| overlap(outside.cidr, cidr))) {
        return Err(Error::conflict(format!(
            "subnet {name} ({cidr}) overlaps {} of the router's external network; it could not tell them apart",
            outside.cidr
        )));
    }
    if router.subnets.len() >= SUBNETS_MAX {
        return Err(Error::conflict(format!(
            "router {} joins {SUBNETS_MAX} subnets, the most there can be",
            router.meta.name
        )));
    }
    let mut on = subnet.clone();
    on.router = Some(router.id);
    on.meta.updated_at = call.now;
    router.subnets.push(subnet.id);
    changes.expect(Expect::Unchanged(Doc::Subnet(subnet.id)));
    changes.expect(Expect::Unchanged(Doc::Network(network.id)));
    changes.push(Write::PutSubnet(Box::new(on)));
    Ok(())
}

fn check_routes(routes: &[Route], joins: &[Joined<'_>], out: Option<Out<'_>>) -> Result<()> {
    let outside = out.map_or(&[][..], |out| out.subnets);
    let reaches = |via: IpAddr| {
        joins.iter().any(|joined| joined.subnet.cidr.contains(&via))
            || outside.iter().any(|subnet| subnet.cidr.contains(&via))
    };
    checked_routes(routes, reaches, "on a subnet of the router, nor on its external network")
}

fn told(router: &Router, action: &str, message: &str, call: &mut Call<'_>) -> Event {
    let resource = ("router", router.id.0, router.meta.name.as_str());
    event::about(call, Some(router.meta.project), resource, action, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "router_tests.rs"]
mod tests;
