//! Routers: what may be joined, and that each node that needs an end outside gets one.

use std::collections::BTreeMap;

use hull_types::id::{NetworkId, RouterId, SubnetId};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    ipam::NetworkUse,
    testing::{NETWORK, NOW, Seeded, call, meta, name, network, owner, project, subnets},
};

fn router() -> Router {
    let id = RouterId(Uuid::from_u128(9));
    Router { id, meta: meta("r"), subnets: vec![], gateway: None, routes: vec![], reason: None }
}

fn inner() -> Network {
    Network { id: NetworkId(Uuid::from_u128(0x23)), uplink: Uplink::None, shared: false, ..network(&[]) }
}

fn external() -> Network {
    Network { uplink: Uplink::Provider("ext".into()), external: true, vni: None, ..network(&["203.0.113.0/29"]) }
}

fn subnet(cidr: &str, number: u128) -> Subnet {
    Subnet { id: SubnetId(Uuid::from_u128(number)), network: inner().id, ..subnets(&[cidr]).remove(0) }
}

fn tied<'a>(router: &'a Router, joins: &'a [Joined<'a>], through: usize) -> Tied<'a> {
    Tied { router, joins, out: None, gateways: &[], through }
}

#[test]
fn a_routers_number_is_its_own_until_it_is_gone() {
    let request = serde_json::from_str(r#"{"name": "r"}"#).unwrap();
    let project = project();
    let made = create(&request, &[], None, &owner(&project), &mut call(&mut Seeded::new(1))).unwrap();
    let router = made.writes.iter().find_map(|w| if let Write::PutRouter(r) = w { Some(r.clone()) } else { None });
    let router = router.unwrap();
    let number = Claim::RouterNumber { router: router.id };
    assert!(made.writes.contains(&Write::Claim(number.clone())) && number.taken().is_none(), "it is drawn anew");
    let gone = delete(&router, &[], &owner(&project), &mut call(&mut Seeded::new(2))).unwrap();
    assert!(gone.writes.contains(&Write::Release(number)));
    let id = |number: u128| RouterId(Uuid::from_u128(number)).number();
    assert_eq!((id(0x8000_0000_0000_0006), id(0xffff_ffff_c000_0007)), (3, 3), "29 bits of the random part");
    assert!(id(u128::MAX) < 1 << 29);
}

#[test]
fn a_subnet_is_joined_once_and_knows_its_router() {
    let (network, one) = (inner(), subnet("10.0.0.0/24", 1));
    let joined = Joined { subnet: &one, network: &network };
    let changes = add_subnet(&tied(&router(), &[], 0), joined, &mut call(&mut Seeded::new(1))).unwrap();
    let on = changes.writes.iter().find_map(|w| if let Write::PutSubnet(s) = w { s.router } else { None });
    assert_eq!(on, Some(router().id));
    let again = Subnet { router: on, ..one };
    let joined = Joined { subnet: &again, network: &network };
    assert!(add_subnet(&tied(&router(), &[], 0), joined, &mut call(&mut Seeded::new(1))).unwrap().is_empty());
}

#[test]
fn what_a_router_cannot_join_is_refused_saying_why() {
    type Bend = fn(&mut Subnet, &mut Network);
    let bends: [(Bend, &str); 6] = [
        (|s, _| s.cidr = "10.1.0.128/25".parse().unwrap(), "overlaps subnet subnet-0 (10.1.0.0/24) of the same router"),
        (|s, _| s.router = Some(RouterId(Uuid::from_u128(1))), "on another router"),
        (|s, _| s.gateway = None, "no gateway"),
        (|_, n| n.uplink = Uplink::Nat, "leads out by NAT"),
        (|_, n| n.uplink = Uplink::Provider("x".into()), "a provider's"),
        (|s, _| s.meta.project = hull_types::id::ProjectId(Uuid::from_u128(99)), "another project's"),
    ];
    let present = subnet("10.1.0.0/24", 2);
    for (bend, says) in bends {
        let (mut one, mut network) = (subnet("10.0.0.0/24", 1), inner());
        bend(&mut one, &mut network);
        let joins = [Joined { subnet: &present, network: &network }];
        let joined = Joined { subnet: &one, network: &network };
        let refused = add_subnet(&tied(&router(), &joins, 0), joined, &mut call(&mut Seeded::new(1))).unwrap_err();
        assert!(refused.detail.contains(says), "{says}: {refused}");
    }
}

#[test]
fn a_router_in_use_stays_and_says_what_to_do() {
    let (project, network) = (project(), inner());
    let mut on = router();
    let one = Subnet { router: Some(on.id), ..subnet("10.0.0.0/24", 1) };
    on.subnets.push(one.id);
    let joins = [Joined { subnet: &one, network: &network }];
    let mut fresh = Seeded::new(1);
    assert!(
        delete(&on, &[], &owner(&project), &mut call(&mut fresh)).unwrap_err().detail.contains("still joins 1 subnet")
    );
    let through = remove_subnet(&tied(&on, &joins, 2), &one, &mut call(&mut fresh)).unwrap_err();
    assert!(through.detail.contains("2 floating IPs lead to it"), "{through}");
    on.routes.push(Route { to: "10.9.0.0/16".parse().unwrap(), via: "10.0.0.7".parse().unwrap() });
    let by_route = remove_subnet(&tied(&on, &joins, 0), &one, &mut call(&mut fresh)).unwrap_err();
    assert!(by_route.detail.contains("remove that route first"), "{by_route}");
    on.routes.clear();
    assert!(remove_subnet(&tied(&on, &joins, 0), &one, &mut call(&mut fresh)).is_ok());
}

#[test]
fn a_gateway_is_on_an_external_network_apart_from_the_subnets() {
    let (project, inner, outer) = (project(), inner(), external());
    let mut fresh = Seeded::new(1);
    let one = subnet("203.0.112.0/22", 1);
    let outside = subnets(&["203.0.113.0/29"]);
    let outside: Vec<&Subnet> = outside.iter().collect();
    let mut set = |network: &Network, joins: &[Joined<'_>]| {
        let out = Out { network, subnets: &outside, snat: true };
        let router = router();
        update(
            &tied(&router, joins, 0),
            &RouterUpdate::default(),
            Some(Some(out)),
            &owner(&project),
            &mut call(&mut fresh),
        )
    };
    assert_eq!(set(&inner, &[]).unwrap_err().field.as_deref(), Some("/gateway/network"));
    let clash = set(&outer, &[Joined { subnet: &one, network: &inner }]).unwrap_err();
    assert!(clash.detail.contains("could not tell them apart"), "{clash}");
    assert!(set(&outer, &[]).is_ok());
}

/// Nodes come and go; after each round the ends are those of the nodes, or the router says what it lacks.
#[derive(Default)]
struct World {
    ports: BTreeMap<Uuid, Port>,
    router: Option<Router>,
}

impl World {
    fn round(&mut self, nodes: &[(NodeId, &Name)], leads: bool, fresh: &mut Seeded) -> Changes {
        let (network, all, project) = (external(), subnets(&["203.0.113.0/29"]), project());
        let all: Vec<&Subnet> = all.iter().collect();
        let addresses = self.ports.values().flat_map(|port| port.ips().collect::<Vec<_>>()).collect();
        let macs = self.ports.values().map(|port| port.mac).collect();
        let used = NetworkUse { addresses, macs, ..NetworkUse::default() };
        let on = On { network: &network, subnets: &all, used: &used };
        let router = self.router.get_or_insert_with(router).clone();
        let present: Vec<&Port> = self.ports.values().collect();
        let plan = Gateways { router: &router, out: leads.then_some(on), present: &present, nodes };
        let changes = gateways(&plan, &owner(&project), &mut call(fresh)).unwrap();
        drop(present);
        for write in &changes.writes {
            match write {
                Write::PutPort(port) => _ = self.ports.insert(port.id.0, port.as_ref().clone()),
                Write::DeletePort(id) => _ = self.ports.remove(&id.0),
                Write::PutRouter(router) => self.router = Some(router.as_ref().clone()),
                _ => {}
            }
        }
        changes
    }
}

proptest! {
    #[test]
    fn every_node_has_one_end_or_the_router_says_what_it_lacks(rounds in prop::collection::vec((0u8..=255, any::<bool>()), 1..12)) {
        let (mut world, mut fresh) = (World::default(), Seeded::new(5));
        let names: Vec<Name> = (0..8).map(|n| name(&format!("n{n}"))).collect();
        for (bits, leads) in rounds {
            let nodes: Vec<(NodeId, &Name)> = (0..8u128)
                .filter(|n| bits >> n & 1 == 1)
                .map(|n| (NodeId(Uuid::from_u128(n + 1)), &names[n as usize]))
                .collect();
            // Addresses that one round gives back are given again by the next.
            world.round(&nodes, leads, &mut fresh);
            world.round(&nodes, leads, &mut fresh);
            let wanted = if leads { nodes.len() } else { 0 };
            // A /29 has five addresses beside its own three.
            prop_assert_eq!(world.ports.len(), wanted.min(5));
            let reason = world.router.as_ref().unwrap().reason.clone();
            prop_assert_eq!(reason.is_some(), wanted > 5, "{:?}", reason);
            for port in world.ports.values() {
                let on = port.router_gateway.unwrap();
                prop_assert!(nodes.iter().any(|(node, _)| *node == on.node));
                prop_assert_eq!(port.mac, mac::of_router(on.router, on.node));
            }
            prop_assert!(world.round(&nodes, leads, &mut fresh).is_empty(), "asked again it changes nothing");
        }
    }
}

#[test]
fn a_full_external_network_is_told_of_and_forgotten() {
    let (mut world, mut fresh) = (World::default(), Seeded::new(5));
    let names: Vec<Name> = (0..6).map(|n| name(&format!("n{n}"))).collect();
    let nodes: Vec<(NodeId, &Name)> =
        names.iter().enumerate().map(|(n, name)| (NodeId(Uuid::from_u128(n as u128 + 1)), name)).collect();
    world.round(&nodes, true, &mut fresh);
    let reason = world.router.clone().unwrap().reason.unwrap();
    assert_eq!((reason.code, reason.since), (ReasonCode::AddressesExhausted, NOW));
    assert!(reason.message.contains("node n5: network net has no free IPv4 address left"), "{}", reason.message);
    world.round(&nodes[..3], true, &mut fresh);
    assert_eq!(world.router.unwrap().reason, None);
    assert!(world.ports.values().all(|port| port.network == NETWORK));
}
