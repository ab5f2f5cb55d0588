//! Routing tables and the rules that choose among them, kept exactly as said.
//!
//! What Hull enters bears a protocol number of its own, so routes of the kernel's and of a person's are never touched.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt;
use hull_types::error::{Error, Result};
use ipnet::IpNet;
use rtnetlink::{
    IpVersion, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use super::{Links, failed, ip_of, unless_there};

/// `RT_TABLE_MAIN` of linux/rtnetlink.h.
pub(crate) const MAIN: u32 = 254;
/// Who entered a route: "H".
const OURS: RouteProtocol = RouteProtocol::Other(72);
/// Before the kernel's rules for the tables main and default, after the one for local.
const PRIORITY: u32 = 20_000;

/// A route as it shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) to: IpNet,
    /// The next hop, taken to be on the link whatever the link's addresses are; none where the range itself is on it.
    pub(crate) via: Option<IpAddr>,
    pub(crate) link: u32,
    /// Whose address the kernel speaks under when it sends something of its own this way (ICMP errors).
    pub(crate) source: Option<IpAddr>,
}

/// A rule: what comes in by this link (from this range) is looked up in a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    /// Gives the family too: length 0 is everything of a family.
    pub(crate) from: IpNet,
    pub(crate) link: String,
}

impl Links {
    /// Makes Hull's routes in this table be exactly these.
    pub(crate) async fn set_routes(&self, table: u32, wanted: &BTreeSet<Route>) -> Result<()> {
        let mut present = BTreeSet::new();
        for message in self.our_routes(table).await? {
            match route_of(&message).filter(|route| wanted.contains(route)) {
                Some(route) => drop(present.insert(route)),
                None => {
                    let deleted = self.handle.route().del(message).execute().await;
                    deleted.map_err(failed(format!("cannot take a route from table {table}")))?;
                }
            }
        }
        for route in wanted.difference(&present) {
            let added = unless_there(self.handle.route().add(message_of(table, route)?).execute().await);
            added.map_err(failed(format!("cannot add the route to {} to table {table}", route.to)))?;
        }
        Ok(())
    }

    async fn our_routes(&self, table: u32) -> Result<Vec<RouteMessage>> {
        let mut found = Vec::new();
        for filter in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()] {
            let listed = self.handle.route().get(filter).execute().try_collect::<Vec<RouteMessage>>().await;
            found.extend(listed.map_err(failed("cannot list routes".into()))?);
        }
        found.retain(|message| message.header.protocol == OURS && table_of(message) == table);
        Ok(found)
    }

    /// Makes the rules that lead to this table be exactly these.
    pub(crate) async fn set_rules(&self, table: u32, wanted: &BTreeSet<Rule>) -> Result<()> {
        let mut present = BTreeSet::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let listed = self.handle.rule().get(version).execute().try_collect::<Vec<RuleMessage>>().await;
            for message in listed.map_err(failed("cannot list routing rules".into()))? {
                if rule_table(&message) != table {
                    continue;
                }
                match rule_of(&message).filter(|rule| wanted.contains(rule) && !present.contains(rule)) {
                    Some(rule) => drop(present.insert(rule)),
                    None => {
                        let deleted = self.handle.rule().del(message).execute().await;
                        deleted.map_err(failed(format!("cannot take a routing rule for table {table} away")))?;
                    }
                }
            }
        }
        for rule in wanted.difference(&present) {
            let request = self
                .handle
                .rule()
                .add()
                .input_interface(&rule.link)
                .table_id(table)
                .priority(PRIORITY)
                .action(RuleAction::ToTable);
            let added = match rule.from {
                IpNet::V4(from) => request.v4().source_prefix(from.network(), from.prefix_len()).execute().await,
                IpNet::V6(from) => request.v6().source_prefix(from.network(), from.prefix_len()).execute().await,
            };
            unless_there(added).map_err(failed(format!("cannot add the routing rule for {}", rule.from)))?;
        }
        Ok(())
    }
}

fn message_of(table: u32, route: &Route) -> Result<RouteMessage> {
    let mixed = || Error::internal(format!("the route to {} mixes families", route.to));
    let scope = if route.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    let message = match route.to {
        IpNet::V4(to) => {
            let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .output_interface(route.link)
                .scope(scope);
            builder = match route.via {
                Some(IpAddr::V4(via)) => builder.gateway(via).onlink(),
                Some(IpAddr::V6(_)) => return Err(mixed()),
                None => builder,
            };
            match route.source {
                Some(IpAddr::V4(source)) => builder.pref_source(source),
                Some(IpAddr::V6(_)) => return Err(mixed()),
                None => builder,
            }
            .table_id(table)
            .protocol(OURS)
            .build()
        }
        IpNet::V6(to) => {
            let mut builder = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .output_interface(route.link);
            builder = match route.via {
                Some(IpAddr::V6(via)) => builder.gateway(via).onlink(),
                Some(IpAddr::V4(_)) => return Err(mixed()),
                None => builder,
            };
            match route.source {
                Some(IpAddr::V6(source)) => builder.pref_source(source),
                Some(IpAddr::V4(_)) => return Err(mixed()),
                None => builder,
            }
            .table_id(table)
            .protocol(OURS)
            .build()
        }
    };
    Ok(message)
}

fn table_of(message: &RouteMessage) -> u32 {
    let long = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    long.unwrap_or_else(|| message.header.table.into())
}

fn route_of(message: &RouteMessage) -> Option<Route> {
    let nowhere: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let (mut to, mut via, mut link, mut source) = (nowhere, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip_of(address)?,
            RouteAttribute::Gateway(address) => via = ip_of(address),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            _ => {}
        }
    }
    Some(Route { to: IpNet::new(to, message.header.destination_prefix_length).ok()?, via, link: link?, source })
}

fn rule_table(message: &RuleMessage) -> u32 {
    let long = message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    long.unwrap_or_else(|| message.header.table.into())
}

fn rule_of(message: &RuleMessage) -> Option<Rule> {
    let nowhere: IpAddr = match message.header.family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let (mut from, mut link, mut priority) = (nowhere, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => from = *address,
            RuleAttribute::Iifname(name) => link = Some(name.clone()),
            RuleAttribute::Priority(number) => priority = Some(*number),
            _ => {}
        }
    }
    let from = IpNet::new(from, message.header.src_len).ok()?;
    (priority == Some(PRIORITY)).then_some(Rule { from, link: link? })
}
