//! Networks and security groups as Hull makes them by itself: the default NAT network, and each project's default group.

use hull_types::{
    error::{Error, Result},
    id::{NetworkId, ProjectId, SubnetId},
    meta::Meta,
    name::Name,
    network::{Network, Subnet, Uplink},
    security_group::{Direction, Family, Remote, RuleMatch, SecurityGroup, SecurityRule},
};
use ipnet::IpNet;

use crate::{
    call::Call,
    change::{Changes, Claim, Named, Write},
    event,
};

/// The name of the network and the group that are there from the start.
pub const DEFAULT: &str = "default";

/// Makes the default network: NAT, shared by all projects, its gateway the first address of each range.
pub fn create_default(project: ProjectId, ranges: &[IpNet], mtu: u16, call: &mut Call<'_>) -> Result<Changes> {
    let id: NetworkId = call.id();
    let subnets =
        ranges.iter().map(|&cidr| default_subnet(project, id, cidr, call)).collect::<Result<Vec<Subnet>>>()?;
    let network = Network {
        id,
        meta: meta(project, "NAT out through the node; the node reaches in", call)?,
        subnets: subnets.iter().map(|subnet| subnet.id).collect(),
        uplink: Uplink::Nat,
        // Every node has a default network of its own: VMs of different nodes do not meet on it.
        vni: None,
        mtu,
        domain: "hull.internal".to_owned(),
        shared: true,
        external: false,
        port_security: true,
    };
    let resource = ("network", network.id.0, DEFAULT);
    let event = event::about(call, Some(project), resource, "network.create", "created");
    let name = network.meta.name.clone();
    let claim = Claim::Name { kind: Named::Network, project: Some(project), name, id: network.id.0 };
    let mut changes = Changes::none().and(Write::Claim(claim)).and(Write::PutNetwork(Box::new(network)));
    for subnet in subnets {
        let name = subnet.meta.name.clone();
        let claim = Claim::Name { kind: Named::Subnet, project: Some(project), name, id: subnet.id.0 };
        changes = changes.and(Write::Claim(claim)).and(Write::PutSubnet(Box::new(subnet)));
    }
    Ok(changes.event(event))
}

fn default_subnet(project: ProjectId, network: NetworkId, cidr: IpNet, call: &mut Call<'_>) -> Result<Subnet> {
    let gateway = cidr.hosts().find(|host| *host != cidr.network());
    let gateway = gateway.ok_or_else(|| Error::invalid(format!("{cidr} is too small for a network")))?;
    let family = if cidr.addr().is_ipv4() { "v4" } else { "v6" };
    let name = Name::new(&format!("{DEFAULT}-{family}")).map_err(|why| Error::internal(why.to_string()))?;
    Ok(Subnet {
        id: call.id::<SubnetId>(),
        meta: Meta::new(project, name, call.now),
        network,
        cidr,
        gateway: Some(gateway),
        dns: Vec::new(),
        pools: Vec::new(),
        dhcp: true,
        routes: Vec::new(),
        dhcp_options: Vec::new(),
        router: None,
    })
}

/// A project's default group: ssh and ICMP in, over IPv4 and IPv6, from anywhere.
pub(crate) fn default_group(project: ProjectId, call: &mut Call<'_>) -> Result<SecurityGroup> {
    let anywhere = [IpNet::from(ipnet::Ipv4Net::default()), IpNet::from(ipnet::Ipv6Net::default())];
    let lets_in = [RuleMatch::Tcp { from: 22, to: 22 }, RuleMatch::Icmp { kind: None, code: None }];
    let mut rules = Vec::new();
    for matches in lets_in {
        for remote in anywhere {
            rules.push(SecurityRule {
                id: call.id(),
                direction: Direction::Ingress,
                family: Family::of(&remote.addr()),
                matches,
                remote: Remote::Net(remote),
                description: String::new(),
            });
        }
    }
    Ok(SecurityGroup { id: call.id(), meta: meta(project, "lets ssh and ICMP in", call)?, stateful: true, rules })
}

/// The claim of a group's name.
pub(crate) fn group_claim(group: &SecurityGroup) -> Claim {
    let Meta { project, name, .. } = &group.meta;
    Claim::Name { kind: Named::SecurityGroup, project: Some(*project), name: name.clone(), id: group.id.0 }
}

fn meta(project: ProjectId, description: &str, call: &Call<'_>) -> Result<Meta> {
    let name = Name::new(DEFAULT).map_err(|why| Error::internal(why.to_string()))?;
    Ok(Meta { description: description.to_owned(), ..Meta::new(project, name, call.now) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{PROJECT, Seeded, call};

    #[test]
    fn gateways_are_the_first_addresses() {
        let ranges = ["10.90.0.0/16".parse().unwrap(), "fd90::/64".parse().unwrap()];
        let made = create_default(PROJECT, &ranges, 1500, &mut call(&mut Seeded::new(1))).unwrap();
        let subnets = made.writes.iter().filter_map(|w| if let Write::PutSubnet(s) = w { Some(s) } else { None });
        let gateways: Vec<_> = subnets.map(|s| s.gateway.unwrap().to_string()).collect();
        assert_eq!(gateways, ["10.90.0.1", "fd90::1"]);
    }
}
