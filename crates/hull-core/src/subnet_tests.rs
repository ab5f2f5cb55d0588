//! Subnets: every refusal at the door, and what one decision writes.

use std::net::IpAddr;

use hull_types::network::Uplink;
use proptest::prelude::*;

use super::*;
use crate::{
    change::Expect,
    testing::{NETWORK, Seeded, call, network, owner, project, subnets},
};

const MEMBER: Powers = Powers { system: false, owner: false };

fn own_network(cidrs: &[&str]) -> Network {
    Network { shared: false, uplink: Uplink::None, ..network(cidrs) }
}

fn asked(json: &str) -> Result<Changes> {
    made_on(&["10.0.0.0/24"], json)
}

fn made_on(cidrs: &[&str], json: &str) -> Result<Changes> {
    let request: SubnetCreate = serde_json::from_str(json).unwrap();
    let (network, all, project) = (own_network(cidrs), subnets(cidrs), project());
    let (all, used): (Vec<&Subnet>, _) = (all.iter().collect(), NetworkUse::default());
    let on = On { network: &network, subnets: &all, used: &used };
    create(&request, on, &owner(&project), MEMBER, &mut call(&mut Seeded::new(2)))
}

fn put(changes: &Changes) -> &Subnet {
    changes.writes.iter().find_map(|w| if let Write::PutSubnet(s) = w { Some(s.as_ref()) } else { None }).unwrap()
}

#[test]
fn a_subnet_comes_with_its_network_s_list_and_the_first_address_as_gateway() {
    let changes = asked(r#"{"name":"s","network":"n","cidr":"10.1.0.0/24"}"#).unwrap();
    let subnet = put(&changes);
    assert_eq!(subnet.gateway, Some("10.1.0.1".parse().unwrap()));
    let listed = changes.writes.iter().find_map(|w| if let Write::PutNetwork(n) = w { Some(&n.subnets) } else { None });
    assert_eq!(listed.unwrap().last(), Some(&subnet.id));
    assert!(changes.expect.contains(&Expect::Unchanged(Doc::Network(NETWORK))), "two cannot come at once");
    let none = asked(r#"{"name":"s","network":"n","cidr":"fd00:1::/64","gateway":null}"#).unwrap();
    assert_eq!(put(&none).gateway, None);
}

#[test]
fn what_cannot_be_a_subnet_is_refused_naming_the_field() {
    for (rest, field) in [
        (r#""cidr":"10.0.0.128/25""#, "/cidr"),
        (r#""cidr":"10.0.0.0/16""#, "/cidr"),
        (r#""cidr":"10.1.0.5/24""#, "/cidr"),
        (r#""cidr":"10.1.0.0/31""#, "/cidr"),
        (r#""cidr":"10.0.0.0/7""#, "/cidr"),
        (r#""cidr":"127.0.0.0/24""#, "/cidr"),
        (r#""cidr":"169.254.169.0/24""#, "/cidr"),
        (r#""cidr":"224.0.0.0/24""#, "/cidr"),
        (r#""cidr":"fd00::/48""#, "/cidr"),
        (r#""cidr":"fe80::/64""#, "/cidr"),
        (r#""cidr":"fd00:ec2::/64""#, "/cidr"),
        (r#""cidr":"10.1.0.0/24","gateway":"10.2.0.1""#, "/gateway"),
        (r#""cidr":"10.1.0.0/24","gateway":"10.1.0.255""#, "/gateway"),
        (r#""cidr":"10.1.0.0/24","dns":["fd00::1"]"#, "/dns"),
        (r#""cidr":"10.1.0.0/24","pools":[{"first":"10.1.0.9","last":"10.1.0.5"}]"#, "/pools"),
        (r#""cidr":"10.1.0.0/24","pools":[{"first":"10.1.0.9","last":"10.1.1.5"}]"#, "/pools"),
        (
            r#""cidr":"10.1.0.0/24","pools":[{"first":"10.1.0.5","last":"10.1.0.9"},{"first":"10.1.0.9","last":"10.1.0.20"}]"#,
            "/pools",
        ),
        (r#""cidr":"10.1.0.0/24","routes":[{"to":"10.9.0.0/16","via":"10.2.0.1"}]"#, "/routes"),
        (r#""cidr":"10.1.0.0/24","routes":[{"to":"fd09::/64","via":"10.1.0.1"}]"#, "/routes"),
        (r#""cidr":"10.1.0.0/24","dhcp_options":[{"code":3,"value":"x"}]"#, "/dhcp_options"),
    ] {
        let refused = asked(&format!(r#"{{"name":"s","network":"n",{rest}}}"#)).unwrap_err();
        assert_eq!(refused.field.as_deref(), Some(field), "{rest}: {refused}");
    }
}

#[test]
fn a_gateway_stays_on_a_router_and_off_others_addresses() {
    let (network, project) = (own_network(&["10.0.0.0/24"]), project());
    let mut subnet = subnets(&["10.0.0.0/24"]).remove(0);
    let used = NetworkUse { addresses: ["10.0.0.9".parse().unwrap()].into(), ..NetworkUse::default() };
    let moved = |subnet: &Subnet, to: &str| {
        let wanted: SubnetUpdate = serde_json::from_str(&format!(r#"{{"gateway":{to}}}"#)).unwrap();
        let on = On { network: &network, subnets: &[subnet], used: &used };
        update(subnet, &wanted, on, &owner(&project), MEMBER, &mut call(&mut Seeded::new(1))).map_err(|e| e.detail)
    };
    assert!(moved(&subnet, "\"10.0.0.9\"").unwrap_err().contains("choose a free address"));
    assert_eq!(put(&moved(&subnet, "null").unwrap()).gateway, None);
    assert!(moved(&subnet, "\"10.0.0.1\"").unwrap().is_empty(), "as it is");
    subnet.router = Some(hull_types::id::RouterId(uuid::Uuid::from_u128(5)));
    assert!(moved(&subnet, "\"10.0.0.7\"").unwrap_err().contains("on a router"));
}

#[test]
fn a_subnet_in_use_stays() {
    let (network, project) = (own_network(&["10.0.0.0/24"]), project());
    let subnet = subnets(&["10.0.0.0/24"]).remove(0);
    let gone = |used: &[&str]| {
        let addresses = used.iter().map(|a| a.parse::<IpAddr>().unwrap()).collect();
        let used = NetworkUse { addresses, ..NetworkUse::default() };
        let on = On { network: &network, subnets: &[&subnet], used: &used };
        delete(&subnet, on, &owner(&project), &[project.id], MEMBER, &mut call(&mut Seeded::new(1)))
    };
    let detail = gone(&["10.0.0.5", "10.1.0.5"]).unwrap_err().detail;
    assert!(detail.contains("1 of its addresses is taken"), "{detail}");
    let changes = gone(&["10.1.0.5"]).unwrap();
    assert!(changes.expect.contains(&Expect::Unchanged(Doc::Usage(project.id))), "the turnstile");
    assert!(changes.writes.contains(&Write::DeleteSubnet(subnet.id)));
}

#[test]
fn what_serves_the_whole_cloud_is_not_a_member_s_to_change() {
    let (network, project) = (network(&[]), project());
    let request: SubnetCreate = serde_json::from_str(r#"{"name":"s","network":"n","cidr":"10.1.0.0/24"}"#).unwrap();
    let used = NetworkUse::default();
    let on = On { network: &network, subnets: &[], used: &used };
    let by = |powers| create(&request, on, &owner(&project), powers, &mut call(&mut Seeded::new(1)));
    assert_eq!(by(MEMBER).unwrap_err().kind, hull_types::error::ErrorKind::Forbidden);
    assert!(by(Powers { system: true, owner: true }).is_ok());
}

proptest! {
    #[test]
    fn ranges_overlap_exactly_where_they_share_an_address(a in 0u32.., pa in 8u8..=30, b in 0u32.., pb in 8u8..=30, near: bool) {
        let net = |bits: u32, prefix| Ipv4Net::new(Ipv4Addr::from(bits), prefix).unwrap().trunc();
        let a = net(a, pa);
        // Random ranges rarely meet: half of them begin within the first.
        let b = net(if near { u32::from(a.addr()) | (b & u32::from(a.hostmask())) } else { b }, pb);
        let share = a.network() <= b.broadcast() && b.network() <= a.broadcast();
        prop_assert_eq!(overlap(a.into(), b.into()), share);
    }
}
