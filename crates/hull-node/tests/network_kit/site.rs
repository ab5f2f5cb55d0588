//! Several hosts on one underlay, each with a bridge into one segment outside, and networks that span them.
//!
//! ```text
//!   host 0 ─┬─ underlay ─┬─ host 1
//!      br-ext ── segment (203.0.113.0/24, 2001:db8:ff::/64) ── br-ext
//! ```

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use hull_node::network::Networks;
use hull_testkit::{TestHost, TestNet};
use hull_types::{
    id::{FloatingIpId, NetworkId, PortId, RouterId},
    link::{
        DesiredFloatingIp, DesiredGateway, DesiredNetwork, DesiredRouter, DesiredRouterSubnet, DesiredSubnet, PortPlace,
    },
    network::{Mac, Uplink, Vni},
};
use uuid::Uuid;

use super::{Bench, Guest, network};

/// The outside machine's addresses on the segment: a gateway, and something to reach.
pub const OUTSIDE: &str = "203.0.113.1";
pub const OUTSIDE6: &str = "2001:db8:ff::1";

/// By which of their addresses hosts reach each other's networks.
type Underlay = fn(&TestHost) -> IpAddr;

/// Hosts, and the segment outside.
pub struct Site {
    pub hosts: Vec<Bench>,
    underlay: Underlay,
    pub segment: TestHost,
    /// The external network.
    pub external: DesiredNetwork,
}

impl Site {
    pub fn new(hosts: usize) -> Self {
        Self::repaired(hosts, Duration::from_secs(1))
    }

    /// With tunnels over IPv6.
    pub fn over6(hosts: usize) -> Self {
        Self::made(hosts, Duration::from_secs(1), |host| host.address6().into())
    }

    /// With hosts that look their networks over so often.
    pub fn repaired(hosts: usize, every: Duration) -> Self {
        Self::made(hosts, every, |host| host.address().into())
    }

    fn made(hosts: usize, every: Duration, underlay: Underlay) -> Self {
        let switch = TestNet::new().unwrap();
        let world = Arc::new(switch.host("world").unwrap());
        let segment = TestHost::new("segment").unwrap();
        segment.run("ip link add seg type bridge; ip link set seg up").unwrap();
        segment.run(&format!("ip addr add {OUTSIDE}/24 dev seg; ip -6 addr add {OUTSIDE6}/64 dev seg nodad")).unwrap();
        let host = |number| Self::host(&switch, &world, &segment, number, every, underlay);
        let hosts = (0..hosts).map(host).collect();
        let mut external = network(250);
        external.name = "outside".to_owned();
        external.uplink = Uplink::Provider("physnet1".to_owned());
        external.mtu = 1500;
        external.ports.clear();
        external.subnets = vec![foreign("203.0.113.0/24", OUTSIDE), foreign("2001:db8:ff::/64", OUTSIDE6)];
        Self { hosts, underlay, segment, external }
    }

    fn host(
        switch: &TestNet,
        world: &Arc<TestHost>,
        segment: &TestHost,
        number: usize,
        every: Duration,
        underlay: Underlay,
    ) -> Bench {
        let host = switch.host(&format!("host{number}")).unwrap();
        host.run("ip link add br-ext type bridge; ip link set br-ext up").unwrap();
        host.run(&format!("ip link add ext0 type veth peer name e{number} netns {}", segment.namespace())).unwrap();
        host.run("ip link set ext0 master br-ext up").unwrap();
        segment.run(&format!("ip link set e{number} master seg up")).unwrap();
        let underlay = underlay(&host);
        Bench::on(host, Arc::clone(world), |config| {
            config.underlay = Some(underlay);
            config.repair_every = every;
            config.providers = [("physnet1".to_owned(), "br-ext".to_owned())].into();
        })
    }

    /// The network as this host is told it: its ports are where `places` says, by their numbers.
    pub fn seen(&self, network: &DesiredNetwork, places: &HashMap<PortId, usize>, host: usize) -> DesiredNetwork {
        let mut seen = network.clone();
        for port in &mut seen.ports {
            port.place = match places.get(&port.id) {
                Some(&place) if place == host => PortPlace::Here,
                Some(&place) => PortPlace::There { node: (self.underlay)(&self.hosts[place].host) },
                None => PortPlace::Nowhere,
            };
        }
        seen
    }

    /// Tells every host these networks, and the router as each has it.
    pub async fn tell(
        &self,
        networks: &[&DesiredNetwork],
        places: &HashMap<PortId, usize>,
        router: impl Fn(usize) -> DesiredRouter,
    ) {
        for (number, bench) in self.hosts.iter().enumerate() {
            for network in networks {
                bench.networks.apply(&self.seen(network, places, number)).await.unwrap();
            }
            bench.networks.apply(&self.external).await.unwrap();
            bench.networks.apply_router(&router(number)).await.unwrap();
        }
    }

    /// Plugs a guest in and gives it its addresses and the gateways as routers.
    pub async fn guest(&self, host: usize, network: &DesiredNetwork, port: usize) -> Guest {
        let guest = self.hosts[host].guest(network, port).await;
        configure(&guest, network, port);
        guest
    }
}

/// Addresses by hand: DHCP is not what these tests are about, and it is slow.
pub fn configure(guest: &Guest, network: &DesiredNetwork, port: usize) {
    for address in &network.ports[port].addresses {
        let subnet = network.subnets.iter().find(|subnet| subnet.cidr.contains(address)).unwrap();
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        let nodad = if address.is_ipv4() { "" } else { "nodad" };
        guest.run(&format!("ip {family} addr add {address}/{} dev eth0 {nodad}", subnet.cidr.prefix_len()));
        guest.run(&format!("ip {family} route replace default via {}", subnet.gateway.unwrap()));
    }
}

fn foreign(cidr: &str, gateway: &str) -> DesiredSubnet {
    DesiredSubnet {
        cidr: cidr.parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
        gateway_is_ours: false,
        dns: vec![],
        dhcp: false,
        routes: vec![],
        dhcp_options: vec![],
        router: None,
    }
}

/// A tenant's network on a router: numbered as [`network`], spanning nodes.
pub fn tenant(number: u8, router: RouterId) -> DesiredNetwork {
    let mut tenant = network(number);
    tenant.uplink = Uplink::None;
    tenant.vni = Some(Vni(u32::from(number) + 1000));
    for subnet in &mut tenant.subnets {
        subnet.router = Some(router);
    }
    tenant
}

/// A router that joins these networks' subnets, without a way out.
pub fn router(id: RouterId, networks: &[&DesiredNetwork]) -> DesiredRouter {
    let subnets = networks.iter().flat_map(|network| {
        network.subnets.iter().filter(|subnet| subnet.router == Some(id)).map(|subnet| DesiredRouterSubnet {
            network: network.id,
            cidr: subnet.cidr,
            gateway: subnet.gateway.unwrap(),
        })
    });
    DesiredRouter { id, name: "router".to_owned(), subnets: subnets.collect(), routes: vec![], gateway: None }
}

/// A way out with this host's own addresses, 203.0.113.1xx and 2001:db8:ff::1xx.
pub fn gateway(external: NetworkId, host: usize, floating: &[(&str, IpAddr)]) -> DesiredGateway {
    DesiredGateway {
        network: external,
        mac: Mac([0x02, 0xee, 0, 0, 0, u8::try_from(host).unwrap()]),
        addresses: vec![
            format!("203.0.113.{}/24", 100 + host).parse().unwrap(),
            format!("2001:db8:ff::{}/64", 100 + host).parse().unwrap(),
        ],
        next_hops: vec![OUTSIDE.parse().unwrap(), OUTSIDE6.parse().unwrap()],
        snat: true,
        floating_ips: floating
            .iter()
            .map(|(address, fixed)| DesiredFloatingIp {
                id: FloatingIpId(Uuid::now_v7()),
                address: address.parse().unwrap(),
                fixed: *fixed,
            })
            .collect(),
    }
}
