//! Networks and security groups as Hull makes them by itself: the default NAT network, and each project's default group.

use hull_types::{
    error::{Error, Result},
    id::{ProjectId, SubnetId},
    meta::Meta,
    name::Name,
    network::{Direction, Network, RuleMatch, SecurityGroup, SecurityRule, Subnet, Uplink},
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
    let subnets = ranges
        .iter()
        .map(|&cidr| {
            let gateway = cidr.hosts().find(|host| *host != cidr.network());
            let gateway = gateway.ok_or_else(|| Error::invalid(format!("{cidr} is too small for a network")))?;
            Ok(Subnet { id: call.id::<SubnetId>(), cidr, gateway, dns: Vec::new() })
        })
        .collect::<Result<Vec<_>>>()?;
    let network = Network {
        id: call.id(),
        meta: meta(project, "NAT out through the node; the node reaches in", call)?,
        subnets,
        uplink: Uplink::Nat,
        mtu,
        domain: "hull.internal".to_owned(),
        shared: true,
    };
    let resource = ("network", network.id.0, DEFAULT);
    let event = event::about(call, Some(project), resource, "network.create", "created");
    let name = network.meta.name.clone();
    let claim = Claim::Name { kind: Named::Network, project: Some(project), name, id: network.id.0 };
    Ok(Changes::none().and(Write::Claim(claim)).and(Write::PutNetwork(Box::new(network))).event(event))
}

/// A project's default group: ssh and ICMP in, over IPv4 and IPv6, from anywhere.
pub(crate) fn default_group(project: ProjectId, call: &mut Call<'_>) -> Result<SecurityGroup> {
    let anywhere = [IpNet::from(ipnet::Ipv4Net::default()), IpNet::from(ipnet::Ipv6Net::default())];
    let lets_in = [RuleMatch::Tcp { from: 22, to: 22 }, RuleMatch::Icmp { kind: None }];
    let rules = lets_in
        .iter()
        .flat_map(|&matches| anywhere.map(|remote| SecurityRule { direction: Direction::Ingress, matches, remote }));
    Ok(SecurityGroup { id: call.id(), meta: meta(project, "lets ssh and ICMP in", call)?, rules: rules.collect() })
}

/// The claim of a group's name.
pub(crate) fn group_claim(group: &SecurityGroup) -> Claim {
    let Meta { project, name, .. } = &group.meta;
    Claim::Name { kind: Named::SecurityGroup, project: Some(*project), name: name.clone(), id: group.id.0 }
}

fn meta(project: ProjectId, description: &str, call: &Call<'_>) -> Result<Meta> {
    Ok(Meta {
        v: 1,
        project,
        name: Name::new(DEFAULT).map_err(|why| Error::internal(why.to_string()))?,
        description: description.to_owned(),
        metadata: Default::default(),
        created_at: call.now,
        updated_at: call.now,
    })
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
        let network =
            made.writes.iter().find_map(|w| if let Write::PutNetwork(n) = w { Some(n) } else { None }).unwrap();
        let gateways: Vec<_> = network.subnets.iter().map(|s| s.gateway.to_string()).collect();
        assert_eq!(gateways, ["10.90.0.1", "fd90::1"]);
    }
}
