//! Floating IPs: where they come from, where they may lead, and the sentence for what is missing.

use hull_types::{
    id::{NetworkId, PortId, RouterId},
    network::{Network, Uplink},
    port::Bandwidth,
    router::RouterGateway,
};
use uuid::Uuid;

use super::*;
use crate::{
    ipam::NetworkUse,
    testing::{NETWORK, Seeded, call, meta, network, owner, project, subnets},
};

const INSIDE: NetworkId = NetworkId(Uuid::from_u128(0x23));

fn external() -> Network {
    Network { uplink: Uplink::Provider("ext".into()), external: true, vni: None, ..network(&["203.0.113.0/29"]) }
}

struct World {
    external: Network,
    outside: Vec<Subnet>,
    inside: Vec<Subnet>,
    router: Router,
    port: Port,
}

fn world() -> World {
    let mut inside = subnets(&["10.0.0.0/24"]);
    let id = RouterId(Uuid::from_u128(9));
    inside[0].network = INSIDE;
    inside[0].router = Some(id);
    let gateway = Some(RouterGateway { network: NETWORK, snat: true });
    let router = Router { id, meta: meta("r"), subnets: vec![inside[0].id], gateway, routes: vec![], reason: None };
    let port = Port {
        id: PortId(Uuid::from_u128(7)),
        meta: meta("p"),
        network: INSIDE,
        vm: None,
        goes_with_vm: false,
        router_gateway: None,
        mac: "52:54:00:00:00:01".parse().unwrap(),
        addresses: vec![FixedIp { subnet: inside[0].id, address: "10.0.0.5".parse().unwrap() }],
        hostname: "p".into(),
        security_groups: vec![],
        port_security: true,
        allowed_pairs: vec![],
        dhcp_options: vec![],
        bandwidth: Bandwidth::default(),
    };
    World { external: external(), outside: subnets(&["203.0.113.0/29"]), inside, router, port }
}

impl World {
    fn asked(&self, json: &str, present: &[&FloatingIp], used: &[&str], leads: bool) -> Result<Changes> {
        let request: FloatingIpCreate = serde_json::from_str(json).unwrap();
        let (outside, inside): (Vec<&Subnet>, Vec<&Subnet>) =
            (self.outside.iter().collect(), self.inside.iter().collect());
        let addresses = used.iter().map(|a| a.parse().unwrap()).collect();
        let used = NetworkUse { addresses, ..NetworkUse::default() };
        let on = On { network: &self.external, subnets: &outside, used: &used };
        let routers = [&self.router];
        let target = Target { port: &self.port, fixed: None, subnets: &inside, routers: &routers, present };
        let project = project();
        create(&request, on, leads.then_some(target), &owner(&project), &mut call(&mut Seeded::new(2)))
    }

    fn leads(&self, present: &[&FloatingIp]) -> Result<FloatingIp> {
        self.asked(r#"{"network":"ext"}"#, present, &[], true).map(|changes| put(&changes))
    }
}

fn put(changes: &Changes) -> FloatingIp {
    let put = changes
        .writes
        .iter()
        .find_map(|w| if let Write::PutFloatingIp(f) = w { Some(f.as_ref().clone()) } else { None });
    put.unwrap()
}

#[test]
fn an_address_is_taken_and_is_the_name() {
    let changes = world().asked(r#"{"network":"ext"}"#, &[], &["203.0.113.2"], false).unwrap();
    let floating = put(&changes);
    assert_eq!((floating.meta.name.as_str(), floating.target), ("203.0.113.3", None));
    let claim = Claim::Address { network: NETWORK, address: floating.address, holder: floating.id.0 };
    assert!(changes.writes.contains(&Write::Claim(claim)));
    let wanted = world().asked(r#"{"network":"ext","address":"203.0.113.6","name":"www"}"#, &[], &[], false).unwrap();
    assert_eq!((put(&wanted).meta.name.as_str(), put(&wanted).address), ("www", "203.0.113.6".parse().unwrap()));
}

#[test]
fn a_full_or_wrong_network_is_refused() {
    let all = ["203.0.113.2", "203.0.113.3", "203.0.113.4", "203.0.113.5", "203.0.113.6"];
    let full = world().asked(r#"{"network":"ext"}"#, &[], &all, false).unwrap_err();
    assert_eq!(full.kind, hull_types::error::ErrorKind::InsufficientResources);
    let taken = world().asked(r#"{"network":"ext","address":"203.0.113.2"}"#, &[], &all, false).unwrap_err();
    assert_eq!(taken.field.as_deref(), Some("/address"));
    let other = world().asked(r#"{"network":"ext","family":"ipv6"}"#, &[], &[], false).unwrap_err();
    assert!(other.detail.contains("no IPv6 subnet"), "{other}");
    let mut inner = world();
    inner.external.external = false;
    assert_eq!(inner.asked(r#"{"network":"n"}"#, &[], &[], false).unwrap_err().field.as_deref(), Some("/network"));
}

#[test]
fn it_leads_through_the_router_between_or_says_what_is_missing() {
    let good = world();
    let floating = good.leads(&[]).unwrap();
    let target = floating.target.unwrap();
    assert_eq!((target.router, target.fixed), (good.router.id, "10.0.0.5".parse().unwrap()));

    type Bend = fn(&mut World);
    let bends: [(Bend, &str); 5] = [
        (|w| w.inside[0].router = None, "is on no router; add it to one whose gateway is on network net"),
        (|w| w.router.gateway = None, "router r of subnet subnet-0 has no gateway on network net"),
        (|w| w.port.addresses.clear(), "has no IPv4 address"),
        (|w| w.port.meta.project = hull_types::id::ProjectId(Uuid::from_u128(99)), "another project's"),
        (
            |w| {
                let (router, node) = (w.router.id, hull_types::id::NodeId(Uuid::from_u128(2)));
                w.port.router_gateway = Some(hull_types::port::RouterGatewayOn { router, node });
            },
            "a router's own",
        ),
    ];
    for (bend, says) in bends {
        let mut world = world();
        bend(&mut world);
        let refused = world.leads(&[]).unwrap_err();
        assert!(refused.detail.contains(says), "{says}: {refused}");
        assert_eq!(refused.field.as_deref(), Some("/target"));
    }
    let other = FloatingIp { id: hull_types::id::FloatingIpId(Uuid::from_u128(77)), ..floating };
    assert!(good.leads(&[&other]).unwrap_err().detail.contains("leads to 10.0.0.5 already"));
}

#[test]
fn it_is_unassigned_and_given_back() {
    let (world, project) = (world(), project());
    let floating = world.leads(&[]).unwrap();
    let mut fresh = Seeded::new(1);
    let wanted = FloatingIpUpdate::default();
    let net = crate::testing::name("net");
    let off = update(&floating, &wanted, Some(None), &net, &owner(&project), &mut call(&mut fresh)).unwrap();
    assert_eq!(put(&off).target, None);
    let gone = delete(&floating, &owner(&project), &mut call(&mut fresh));
    assert_eq!(gone.writes.iter().filter(|w| matches!(w, Write::Release(_))).count(), 2, "name and address");
}
