//! Ports: made by users, or with VMs; changed, deleted, and let go of.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use hull_types::{
    error::{Error, Result},
    event::Event,
    id::{NetworkId, PortId, VmId},
    meta::Meta,
    name::Name,
    network::{Mac, Subnet},
    port::{AddressPair, Bandwidth, FixedIp, Port},
    router::FloatingIp,
    security_group::SecurityGroup,
    wire::network::{PortCreate, PortUpdate},
};

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Named, Write},
    check, event, floating_ip, head, hostname, ipam, mac,
    network::{Powers, unguarded, usable},
    owner::Owner,
    security_group::together,
    subnet::On,
};

/// The most addresses of a port.
pub const ADDRESSES_MAX: usize = 16;
/// The most further addresses of a port.
pub const PAIRS_MAX: usize = 32;
/// The least and the most that a port's bandwidth can be limited to, in kilobits a second.
pub const KBPS: std::ops::RangeInclusive<u64> = 64..=100_000_000;

/// A port as it shall be, with everything that was named found.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// Its network.
    pub on: On<'a>,
    /// Addresses wanted.
    pub addresses: &'a [IpAddr],
    /// Subnets to give an address each.
    pub from: &'a [&'a Subnet],
    /// MAC wanted.
    pub mac: Option<Mac>,
    /// Its groups.
    pub groups: &'a [&'a SecurityGroup],
}

/// What this very transaction has taken already, by network.
#[derive(Debug, Default)]
pub struct Taken {
    addresses: BTreeMap<NetworkId, BTreeSet<IpAddr>>,
    macs: BTreeMap<NetworkId, BTreeSet<Mac>>,
}

/// A new port: its addresses and MAC are free.
pub(crate) fn make(wish: &Wish<'_>, id: PortId, meta: Meta, taken: &mut Taken, call: &mut Call<'_>) -> Result<Port> {
    let On { network, subnets, used } = wish.on;
    if !usable(network, meta.project) {
        let detail = format!("network {} is another project's and not shared; name another", network.meta.name);
        return Err(Error::forbidden(detail).at("/network"));
    }
    let security_groups = together(wish.groups)?;
    let taken_addresses = taken.addresses.entry(network.id).or_default();
    let taken_macs = taken.macs.entry(network.id).or_default();
    let mut addresses = ipam::wanted(network, subnets, wish.addresses, &used.addresses, taken_addresses)
        .map_err(|error| error.at("/addresses"))?;
    taken_addresses.extend(addresses.iter().map(|fixed| fixed.address));
    addresses.extend(if wish.addresses.is_empty() && wish.from.is_empty() {
        ipam::next(network, subnets, &used.addresses, taken_addresses)?
    } else {
        ipam::from(network, wish.from, &used.addresses, taken_addresses).map_err(|error| error.at("/subnets"))?
    });
    few(&addresses)?;
    let mac = match wish.mac {
        Some(mac) => mac::check(mac, &used.macs, taken_macs).map_err(|error| error.at("/mac"))?,
        None => mac::draw(call.fresh, &used.macs, taken_macs)?,
    };
    taken_addresses.extend(addresses.iter().map(|fixed| fixed.address));
    taken_macs.insert(mac);
    Ok(Port {
        id,
        meta,
        network: network.id,
        vm: None,
        goes_with_vm: false,
        router_gateway: None,
        mac,
        addresses,
        hostname: String::new(),
        security_groups,
        port_security: network.port_security,
        allowed_pairs: Vec::new(),
        dhcp_options: Vec::new(),
        bandwidth: Bandwidth::default(),
    })
}

/// What a port's network and groups must be like when it comes: as they were read.
pub(crate) fn expect(changes: &mut Changes, wish: &Wish<'_>) {
    let on = wish.on;
    let subnets = on.subnets.iter().map(|subnet| Doc::Subnet(subnet.id));
    for doc in std::iter::once(Doc::Network(on.network.id)).chain(subnets) {
        changes.expect(crate::change::Expect::Unchanged(doc));
    }
    expect_groups(changes, wish.groups);
}

fn expect_groups(changes: &mut Changes, groups: &[&SecurityGroup]) {
    // A group that became of the other kind meanwhile has passed the turnstile.
    for group in groups {
        changes.expect(crate::change::Expect::Exists(Doc::SecurityGroup(group.id)));
    }
}

/// Makes a port without a VM.
pub fn create(
    request: &PortCreate,
    wish: &Wish<'_>,
    owner: &Owner<'_>,
    powers: Powers,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let meta = head::new(owner.id(), head::texts!(request), call)?;
    let id: PortId = call.id();
    let mut port = make(wish, id, meta, &mut Taken::default(), call)?;
    port.hostname = match &request.hostname {
        Some(wanted) => wanted.clone(),
        None => {
            hostname::free(request.name.to_hostname(&fallback(id)), |label| wish.on.used.hostnames.contains_key(label))
        }
    };
    free_hostname(&port.hostname, wish.on)?;
    port.port_security = request.port_security.unwrap_or(wish.on.network.port_security);
    if request.port_security.is_some() {
        unguarded(port.port_security, powers)?;
    }
    port.allowed_pairs.clone_from(&request.allowed_pairs);
    port.dhcp_options.clone_from(&request.dhcp_options);
    port.bandwidth = request.bandwidth;
    checked(&port, wish.on, owner, powers)?;
    let mut changes = owner.take(Named::Port)?;
    expect(&mut changes, wish);
    claims(&port).for_each(|claim| changes.push(Write::Claim(claim)));
    let event = told(&port, "port.create", &format!("created on network {}", wish.on.network.meta.name), call);
    Ok(changes.and(Write::PutPort(Box::new(port))).event(event))
}

/// A port that changes, with what its addresses depend on.
#[derive(Clone, Copy, Debug)]
pub struct Readdressing<'a> {
    /// The port.
    pub port: &'a Port,
    /// Its network.
    pub on: On<'a>,
    /// The floating IPs that lead to it.
    pub floating_ips: &'a [&'a FloatingIp],
}

/// Changes a port. `groups` are those the request names.
pub fn update(
    at: &Readdressing<'_>,
    wanted: &PortUpdate,
    groups: Option<&[&SecurityGroup]>,
    owner: &Owner<'_>,
    powers: Powers,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let Readdressing { port, on, .. } = *at;
    own(port)?;
    let mut after = port.clone();
    head::retold!(&mut after.meta, wanted)?;
    if let Some(hostname) = wanted.hostname.as_ref().filter(|wanted| **wanted != port.hostname) {
        if port.goes_with_vm {
            let detail = "a port that was made with its VM has the VM's host name; make a port of your own for another";
            return Err(Error::conflict(detail).at("/hostname"));
        }
        free_hostname(hostname, on)?;
        after.hostname.clone_from(hostname);
    }
    if let Some(groups) = groups {
        after.security_groups = together(groups)?;
    }
    if let Some(port_security) = wanted.port_security {
        unguarded(port_security, powers)?;
        after.port_security = port_security;
    }
    let PortUpdate { allowed_pairs, dhcp_options, bandwidth, .. } = wanted.clone();
    after.allowed_pairs = allowed_pairs.unwrap_or(after.allowed_pairs);
    after.dhcp_options = dhcp_options.unwrap_or(after.dhcp_options);
    after.bandwidth = bandwidth.unwrap_or(after.bandwidth);
    if let Some(addresses) = &wanted.addresses {
        after.addresses = readdress(at, addresses)?;
    }
    if after == *port {
        return Ok(Changes::none());
    }
    if (&after.allowed_pairs, &after.dhcp_options, after.bandwidth)
        != (&port.allowed_pairs, &port.dhcp_options, port.bandwidth)
    {
        checked(&after, on, owner, powers)?;
    }
    after.meta.updated_at = call.now;
    let refers = after.addresses != port.addresses || after.security_groups != port.security_groups;
    let mut changes = if refers { owner.pass() } else { Changes::none() }.unchanged(Doc::Port(port.id));
    if after.addresses != port.addresses {
        for doc in std::iter::once(Doc::Network(on.network.id)).chain(on.subnets.iter().map(|s| Doc::Subnet(s.id))) {
            changes = changes.unchanged(doc);
        }
        let claim = |fixed: &FixedIp| address_claim(port, fixed);
        for fixed in port.addresses.iter().filter(|fixed| !after.addresses.contains(fixed)) {
            changes.push(Write::Release(claim(fixed)));
        }
        for fixed in after.addresses.iter().filter(|fixed| !port.addresses.contains(fixed)) {
            changes.push(Write::Claim(claim(fixed)));
        }
    }
    expect_groups(&mut changes, groups.unwrap_or_default());
    if !port.goes_with_vm {
        head::reclaim(&mut changes, Named::Port, &port.meta, &after.meta, port.id.0);
        if after.hostname != port.hostname {
            changes.push(Write::Release(hostname_claim(port, port.id.0)));
            changes.push(Write::Claim(hostname_claim(&after, port.id.0)));
        }
    } else if after.meta.name != port.meta.name {
        let detail = "a port that was made with its VM has no name of its own; leave the name out";
        return Err(Error::conflict(detail).at("/name"));
    }
    let event = told(&after, "port.update", "changed", call);
    Ok(changes.and(Write::PutPort(Box::new(after))).event(event))
}

/// Deletes a port that no VM has.
pub fn delete(port: &Port, floating: &[&FloatingIp], owner: &Owner<'_>, call: &mut Call<'_>) -> Result<Changes> {
    own(port)?;
    if let Some(vm) = port.vm {
        return Err(Error::conflict(format!(
            "port {0} belongs to VM {vm}; unplug it first (`hull vm detach-nic {vm} {0}`), or delete the VM",
            port.meta.name
        )));
    }
    let event = told(port, "port.delete", "deleted", call);
    let mut changes = owner.give(Named::Port);
    remove(&mut changes, port, floating, call);
    Ok(changes.event(event))
}

/// A port goes, and floating IPs that led to it lead nowhere. Usage is the caller's to write.
pub(crate) fn remove(changes: &mut Changes, port: &Port, floating: &[&FloatingIp], call: &Call<'_>) {
    changes.expect(crate::change::Expect::Unchanged(Doc::Port(port.id)));
    changes.push(Write::DeletePort(port.id));
    claims(port).for_each(|claim| changes.push(Write::Release(claim)));
    for floating in floating.iter().filter(|floating| floating.target.is_some_and(|target| target.port == port.id)) {
        floating_ip::lead_nowhere(changes, floating, call);
    }
}

/// A port without its VM: it stays for another.
pub(crate) fn let_go(changes: &mut Changes, port: &Port, call: &Call<'_>) {
    let mut after = port.clone();
    after.vm = None;
    after.meta.updated_at = call.now;
    changes.expect(crate::change::Expect::Unchanged(Doc::Port(port.id)));
    changes.push(Write::PutPort(Box::new(after)));
}

/// A port that is there already becomes a VM's.
pub(crate) fn take(port: &Port, vm: VmId, owner: &Owner<'_>, call: &Call<'_>) -> Result<Port> {
    own(port)?;
    if port.meta.project != owner.id() {
        let detail = format!("port {} is another project's; name one of the VM's own project", port.meta.name);
        return Err(Error::forbidden(detail).at("/port"));
    }
    if let Some(other) = port.vm {
        let detail = format!("port {} belongs to VM {other} already; unplug it there first", port.meta.name);
        return Err(Error::conflict(detail).at("/port"));
    }
    let mut after = port.clone();
    after.vm = Some(vm);
    after.meta.updated_at = call.now;
    Ok(after)
}

/// The name of a port that was made with its VM.
pub(crate) fn name_with_vm(id: PortId) -> Result<Name> {
    Name::new(&format!("port-{}", id.0.simple()))
        .map_err(|why| Error::internal(format!("a port's name was refused: {why}")))
}

/// What a port holds: its MAC and addresses, and its name and host name where a user made it.
pub fn claims(port: &Port) -> impl Iterator<Item = Claim> + use<'_> {
    let named = !port.goes_with_vm && port.router_gateway.is_none();
    let name = named.then(|| [head::claim(Named::Port, &port.meta, port.id.0), hostname_claim(port, port.id.0)]);
    let mac = Claim::Mac { network: port.network, mac: port.mac, port: port.id };
    name.into_iter()
        .flatten()
        .chain(std::iter::once(mac))
        .chain(port.addresses.iter().map(|fixed| address_claim(port, fixed)))
}

/// The host names that a VM holds for the ports that were made with it, one for each network.
pub fn hostname_claims(vm: VmId, ports: &[&Port]) -> impl Iterator<Item = Claim> + use<> {
    let made = ports.iter().filter(|port| port.goes_with_vm);
    let names: BTreeSet<(NetworkId, String)> = made.map(|port| (port.network, port.hostname.clone())).collect();
    names.into_iter().map(move |(network, hostname)| Claim::Hostname { network, hostname, holder: vm.0 })
}

fn hostname_claim(port: &Port, holder: uuid::Uuid) -> Claim {
    Claim::Hostname { network: port.network, hostname: port.hostname.clone(), holder }
}

fn address_claim(port: &Port, fixed: &FixedIp) -> Claim {
    Claim::Address { network: port.network, address: fixed.address, holder: port.id.0 }
}

/// The addresses wanted, those kept among them.
fn readdress(at: &Readdressing<'_>, wanted: &[IpAddr]) -> Result<Vec<FixedIp>> {
    let Readdressing { port, on, floating_ips } = *at;
    let kept = |address: &IpAddr| port.addresses.iter().find(|fixed| fixed.address == *address).copied();
    let mut addresses: Vec<FixedIp> = Vec::new();
    for address in wanted {
        let before: BTreeSet<IpAddr> = addresses.iter().map(|fixed| fixed.address).collect();
        let given = match kept(address).filter(|_| !before.contains(address)) {
            Some(fixed) => vec![fixed],
            None => ipam::wanted(on.network, on.subnets, &[*address], &on.used.addresses, &before)
                .map_err(|error| error.at("/addresses"))?,
        };
        addresses.extend(given);
    }
    few(&addresses)?;
    let mut led = floating_ips.iter().filter_map(|floating| Some((floating, floating.target?)));
    if let Some((floating, target)) =
        led.find(|(_, t)| t.port == port.id && !addresses.iter().any(|fixed| fixed.address == t.fixed))
    {
        return Err(Error::conflict(format!(
            "floating IP {} leads to {} of port {}; point it elsewhere first",
            floating.address, target.fixed, port.meta.name
        ))
        .at("/addresses"));
    }
    Ok(addresses)
}

fn few(addresses: &[FixedIp]) -> Result<()> {
    if addresses.len() <= ADDRESSES_MAX {
        return Ok(());
    }
    let detail = format!("a port has at most {ADDRESSES_MAX} addresses, {} were asked", addresses.len());
    Err(Error::invalid(detail).at("/addresses"))
}

fn own(port: &Port) -> Result<()> {
    match port.router_gateway {
        None => Ok(()),
        Some(on) => Err(Error::conflict(format!(
            "port {} is router {}'s end on its external network; it comes and goes with the router's gateway",
            port.meta.name, on.router
        ))),
    }
}

fn free_hostname(hostname: &str, on: On<'_>) -> Result<()> {
    check::hostname(hostname)?;
    if !on.used.hostnames.contains_key(hostname) {
        return Ok(());
    }
    let detail = format!("host name {hostname} is in use on this network; choose another");
    Err(Error::already_exists(detail).at("/hostname"))
}

/// A host name where the name holds nothing a host name may.
pub(crate) fn fallback(id: PortId) -> String {
    format!("port-{}", &id.0.simple().to_string()[20..])
}

/// What a port says beyond its addresses.
fn checked(port: &Port, on: On<'_>, owner: &Owner<'_>, powers: Powers) -> Result<()> {
    check::dhcp_options(&port.dhcp_options)?;
    let pairs = &port.allowed_pairs;
    let refuse = |detail: String| Err(Error::invalid(detail).at("/allowed_pairs"));
    if !pairs.is_empty() && on.network.meta.project != owner.id() && !powers.system {
        let detail = "on another project's network that project's members allow further addresses; ask them";
        return Err(Error::forbidden(detail).at("/allowed_pairs"));
    }
    if pairs.len() > PAIRS_MAX {
        return refuse(format!("at most {PAIRS_MAX} allowed pairs, {} were given; remove some", pairs.len()));
    }
    for (at, AddressPair { addresses, mac }) in pairs.iter().enumerate() {
        if *addresses != addresses.trunc() {
            return refuse(format!("{addresses} is an address within a range; the range is {}", addresses.trunc()));
        }
        if mac.is_some_and(|mac| mac.0[0] & 1 == 1 || mac.0 == [0; 6]) {
            return refuse("a pair's MAC is one station's; give a unicast MAC, or none".to_owned());
        }
        if pairs[..at].contains(&pairs[at]) {
            return refuse(format!("{addresses} is allowed twice; leave one out"));
        }
    }
    let Bandwidth { ingress_kbps, egress_kbps } = port.bandwidth;
    for (limit, field) in [(ingress_kbps, "/bandwidth/ingress_kbps"), (egress_kbps, "/bandwidth/egress_kbps")] {
        if let Some(limit) = limit.filter(|limit| !KBPS.contains(limit)) {
            let (least, most) = (KBPS.start(), KBPS.end());
            let detail =
                format!("a port is limited to {least} to {most} kilobits a second, not {limit}; none is no limit");
            return Err(Error::invalid(detail).at(field));
        }
    }
    Ok(())
}

fn told(port: &Port, action: &str, message: &str, call: &mut Call<'_>) -> Event {
    let resource = ("port", port.id.0, port.meta.name.as_str());
    event::about(call, Some(port.meta.project), resource, action, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "port_tests.rs"]
mod tests;
