//! Routers: a namespace on each node that hosts a VM of one of its networks, so packets leave from the VM's own node.
//!
//! ```text
//!   net 1: br0 ── (ip rule: from its range, in by br0 → the router's table) ── rt… ══ net… ┐
//!                                                                                           ├ router: routes, rules
//!   net 2: br0 ── rt… ═════════════════════════════════════════════════════════════ net… ┘
//!                                                              external network: br0 ── gw… ══ gw0 ┘
//! ```
//!
//! A guest's gateway is its own network's `br0`; a router has no MAC there. In a network's namespace what guests of a
//! range send is looked up in the table of the range's router, so the ranges of one network may be on several routers or
//! on none. Each link has the same link-local addresses, since every route names its link too. The gateways' addresses
//! are on the router's loopback as well: what it says itself (fragmentation needed, hop limit) it says as the gateway
//! that the guest knows.
//!
//! Between two nodes the way there and the way back differ: each sender's own node routes. So nothing east-west is
//! tracked here; security groups track at the guests' networks, where both ways pass.
//!
//! One task keeps one router, as `keeper` does a network, and alone changes what bears the router's name in the networks'
//! namespaces. A network that is not here yet is waited for; all else is done without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
};

use hull_types::{
    error::{Error, Result},
    id::{NetworkId, RouterId},
    link::{DesiredGateway, DesiredRouter, DesiredRouterSubnet},
};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use super::{
    announce,
    host::quiet_link,
    keeper::{Common, forget},
    layout::{
        BRIDGE, GATEWAY, NETWORK_PREFIX, ROUTER_LINK, UPLINK, gateway_link, link_local, network_link, router_link,
        router_tables,
    },
    links::{Link, Links, MAIN, Route, Rule, Shape},
    netns::Netns,
    nft, router_rules,
};

/// How many passes say that an address has come: once may be lost.
const ANNOUNCEMENTS: u8 = 2;

/// What a router's keeper is asked to do.
pub(crate) enum RouterRequest {
    Apply(Box<DesiredRouter>, oneshot::Sender<Result<()>>),
    Remove(oneshot::Sender<Result<()>>),
}

/// A router's keeper.
pub(crate) struct RouterKeeper {
    common: Arc<Common>,
    router: RouterId,
    desired: Option<Arc<DesiredRouter>>,
    namespace: Option<Netns>,
    /// Addresses to be announced, and how many times more.
    fresh: BTreeMap<IpAddr, u8>,
}

/// The router's namespace, open.
struct Ground {
    namespace: Netns,
    links: Links,
}

impl RouterKeeper {
    pub(crate) fn new(common: Arc<Common>, router: RouterId) -> Self {
        Self { common, router, desired: None, namespace: None, fresh: BTreeMap::new() }
    }

    /// Serves requests and repairs in between, until nobody can ask any more.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<RouterRequest>) {
        let mut tick = tokio::time::interval(self.common.repair_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    // Who asked may have stopped waiting, so answers may be lost.
                    Some(RouterRequest::Apply(desired, answer)) => {
                        self.desired = Some(Arc::from(desired));
                        let _ = answer.send(self.converge().await);
                    }
                    Some(RouterRequest::Remove(answer)) => {
                        let _ = answer.send(self.remove().await);
                    }
                    None => return,
                },
                _ = tick.tick(), if self.desired.is_some() => {
                    if let Err(error) = self.converge().await {
                        tracing::warn!(router = %self.router, %error, "the router cannot be repaired yet");
                    }
                }
            }
        }
    }

    async fn converge(&mut self) -> Result<()> {
        let Some(router) = self.desired.clone() else { return Ok(()) };
        let name = self.common.prefix.router_namespace(self.router);
        let namespace = Netns::keep(name, self.namespace.take(), &self.common.host.namespace).await?;
        self.namespace = Some(namespace.clone());
        namespace.sysctl(settings()).await?;
        // Before any link, so that nothing passes untranslated.
        let text = router_rules::router_rules(&router);
        nft::keep(&namespace, vec!["inet hull".to_owned()], text, self.rules_memory()).await?;
        let links = Links::open(&namespace).await?;
        let ground = Ground { namespace, links };
        speak_as_gateways(&router, &ground.links).await?;

        let mut networks: BTreeMap<NetworkId, Vec<&DesiredRouterSubnet>> = BTreeMap::new();
        for subnet in &router.subnets {
            networks.entry(subnet.network).or_default().push(subnet);
        }
        self.part(&ground.links, &networks.keys().copied().collect(), router.gateway.as_ref()).await?;
        let mut routes = BTreeSet::new();
        let mut missing = None;
        for (network, subnets) in networks {
            match self.join(&router, &ground, network, &subnets).await {
                Ok(link) => routes.extend(inward(&router, &subnets, link.index)),
                Err(error) => missing = Some(error),
            }
        }
        if let Some(gateway) = &router.gateway {
            match self.lead_out(gateway, &ground).await {
                Ok(link) => routes.extend(outward(&router, gateway, link.index)),
                Err(error) => missing = Some(error),
            }
        }
        ground.links.set_routes(MAIN, &routes).await?;
        missing.map_or(Ok(()), Err)
    }

    /// A network's namespace with its bridge.
    async fn network(&self, network: NetworkId) -> Result<(Netns, Links, Link)> {
        let absent = || Error::unavailable(format!("the router's network {network} is not on this node yet"));
        let inside = Netns::named(&self.common.prefix.namespace(network))?.ok_or_else(absent)?;
        let inner = Links::open(&inside).await?;
        let bridge = inner.get(BRIDGE).await?.ok_or_else(absent)?;
        Ok((inside, inner, bridge))
    }

    /// The link between the router and a network, both ends, and how the network's guests come to it.
    async fn join(
        &self,
        router: &DesiredRouter,
        ground: &Ground,
        network: NetworkId,
        subnets: &[&DesiredRouterSubnet],
    ) -> Result<Link> {
        let (inside, inner, bridge) = self.network(network).await?;
        let (near_name, far_name) = (network_link(network), router_link(router.id));
        let (near, far) = ground.links.pair(&near_name, &inner, &far_name, &inside, bridge.mtu).await?;
        ground.namespace.sysctl(quiet_link(&near_name)).await?;
        inside.sysctl(quiet_link(&far_name)).await?;
        // What the router says as the gateway comes from an address that is the bridge's own.
        inside.sysctl(vec![(format!("ipv4/conf/{far_name}/accept_local"), "1")]).await?;
        let ends = ROUTER_LINK;
        ground.links.set_addresses(&near, &numbered(ends.router4.into(), ends.router6.into())).await?;
        inner.set_addresses(&far, &numbered(ends.network4.into(), ends.network6.into())).await?;
        let shape = Shape { mac: None, mtu: bridge.mtu, master: None };
        ground.links.shape(&near, shape).await?;
        inner.shape(&far, shape).await?;

        let (out, back) = router_tables(router.id);
        let mut routes: BTreeSet<Route> = subnets
            .iter()
            .flat_map(|subnet| {
                [on(subnet.cidr, bridge.index), by(everything(subnet.gateway), ends.router(subnet.gateway), far.index)]
            })
            .collect();
        // The host reaches in by the network's own link, and gets its answers there.
        if let Some(uplink) = inner.get(UPLINK).await? {
            let reach = inner.addresses(Some(uplink.index)).await?;
            routes.extend(reach.iter().map(|(_, net)| on(*net, uplink.index)));
        }
        inner.set_routes(out, &routes).await?;
        let rule = |from, link: &str| Rule { from, link: link.to_owned() };
        inner.set_rules(out, &subnets.iter().map(|subnet| rule(subnet.cidr.trunc(), BRIDGE)).collect()).await?;

        let beyond: Vec<_> = router
            .routes
            .iter()
            .filter(|route| subnets.iter().any(|subnet| subnet.cidr.contains(&route.via)))
            .collect();
        inner.set_routes(back, &beyond.iter().map(|route| by(route.to, route.via, bridge.index)).collect()).await?;
        inner.set_rules(back, &beyond.iter().map(|route| rule(everything(route.via), &far_name)).collect()).await?;
        Ok(near)
    }

    /// The link to the external network, with this node's addresses and the floating IPs of its VMs.
    async fn lead_out(&mut self, gateway: &DesiredGateway, ground: &Ground) -> Result<Link> {
        let (inside, inner, bridge) = self.network(gateway.network).await?;
        let (near, far) = ground.links.pair(GATEWAY, &inner, &gateway_link(self.router), &inside, bridge.mtu).await?;
        ground.namespace.sysctl(quiet_link(GATEWAY)).await?;
        let mut addresses: BTreeSet<IpNet> = gateway.addresses.iter().copied().collect();
        addresses.extend(gateway.floating_ips.iter().map(|floating| IpNet::from(floating.address)));
        // Its own among those of the segment: neighbours are asked under it where there is no other.
        addresses.insert(IpNet::new_assert(link_local(gateway.mac).into(), 64));
        let present = ground.links.addresses(Some(near.index)).await?;
        for address in addresses.iter().filter(|address| !present.contains(&(near.index, **address))) {
            self.fresh.insert(address.addr(), ANNOUNCEMENTS);
        }
        ground.links.set_addresses(&near, &addresses).await?;
        inner.shape(&far, Shape { mac: None, mtu: bridge.mtu, master: Some(bridge.index) }).await?;
        ground.links.shape(&near, Shape { mac: Some(gateway.mac), mtu: bridge.mtu, master: None }).await?;

        self.fresh.retain(|address, left| *left > 0 && addresses.iter().any(|held| held.addr() == *address));
        if !self.fresh.is_empty() {
            let all = self.fresh.keys().copied().collect();
            announce::announce(&ground.namespace, near.index, gateway.mac, all).await?;
            self.fresh.values_mut().for_each(|left| *left -= 1);
        }
        Ok(near)
    }

    /// Takes links away that lead where the router no longer leads.
    async fn part(&self, links: &Links, joined: &BTreeSet<NetworkId>, gateway: Option<&DesiredGateway>) -> Result<()> {
        let wanted: BTreeSet<String> = joined.iter().map(|network| network_link(*network)).collect();
        let stray: Vec<Link> = links
            .all()
            .await?
            .into_iter()
            .filter(|link| link.name.starts_with(NETWORK_PREFIX) && !wanted.contains(&link.name))
            .collect();
        if !stray.is_empty() {
            self.leave(|network| !joined.contains(&network)).await?;
        }
        for link in stray {
            links.delete(&link.name).await?;
        }
        let external = match gateway {
            Some(gateway) => Netns::named(&self.common.prefix.namespace(gateway.network))?,
            None => None,
        };
        // A way out that leads to another network than it shall is made anew.
        let leads_there = match external {
            Some(external) => Links::open(&external).await?.get(&gateway_link(self.router)).await?.is_some(),
            None => false,
        };
        if leads_there { Ok(()) } else { links.delete(GATEWAY).await }
    }

    /// Takes everything of the router out of these networks: links, rules, routes.
    async fn leave(&self, which: impl Fn(NetworkId) -> bool) -> Result<()> {
        let (out, back) = router_tables(self.router);
        for name in Netns::names() {
            let Some(network) = self.common.prefix.network_of(&name).filter(|network| which(*network)) else {
                continue;
            };
            // It may go at any moment; then there is nothing to take away.
            let Some(inside) = Netns::named(&self.common.prefix.namespace(network))? else { continue };
            let inner = Links::open(&inside).await?;
            for table in [out, back] {
                inner.set_rules(table, &BTreeSet::new()).await?;
                inner.set_routes(table, &BTreeSet::new()).await?;
            }
            inner.delete(&router_link(self.router)).await?;
        }
        Ok(())
    }

    async fn remove(&mut self) -> Result<()> {
        self.desired = None;
        self.namespace = None;
        self.fresh.clear();
        let name = self.common.prefix.router_namespace(self.router);
        self.leave(|_| true).await?;
        if let Some(namespace) = Netns::named(&name)? {
            // Neighbours must not be answered until the kernel gets round to ending the namespace.
            Links::open(&namespace).await?.delete(GATEWAY).await?;
        }
        Netns::delete(&name)?;
        forget(&self.rules_memory())
    }

    fn rules_memory(&self) -> PathBuf {
        self.common.state.join(format!("{}.router", self.router))
    }
}

/// The settings of a router's namespace.
fn settings() -> Vec<(String, &'static str)> {
    [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/accept_redirects", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        // Each link answers for its own addresses only, and asks under one of them.
        ("ipv4/conf/all/arp_ignore", "1"),
        ("ipv4/conf/all/arp_announce", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/all/accept_ra", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Gives the router's loopback the gateways' addresses.
async fn speak_as_gateways(router: &DesiredRouter, links: &Links) -> Result<()> {
    let lost = || Error::unavailable("the router's namespace has no loopback");
    let loopback = links.get("lo").await?.ok_or_else(lost)?;
    let own = [
        IpNet::new_assert(std::net::Ipv4Addr::LOCALHOST.into(), 8),
        IpNet::new_assert(std::net::Ipv6Addr::LOCALHOST.into(), 128),
    ];
    let gateways = router.subnets.iter().map(|subnet| IpNet::from(subnet.gateway));
    links.set_addresses(&loopback, &gateways.chain(own).collect()).await?;
    links.shape(&loopback, Shape { mtu: loopback.mtu, ..Shape::default() }).await
}

/// The ends of a link, of each family.
fn numbered(v4: IpAddr, v6: IpAddr) -> BTreeSet<IpNet> {
    [IpNet::new_assert(v4, 31), IpNet::new_assert(v6, 64)].into()
}

fn everything(like: IpAddr) -> IpNet {
    match like {
        IpAddr::V4(_) => IpNet::new_assert(std::net::Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => IpNet::new_assert(std::net::Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

fn on(range: IpNet, link: u32) -> Route {
    Route { to: range.trunc(), via: None, link, source: None }
}

fn by(range: IpNet, via: IpAddr, link: u32) -> Route {
    Route { to: range.trunc(), via: Some(via), link, source: None }
}

/// The router's routes by its link to a network: the ranges there, and those that machines there lead to.
fn inward(router: &DesiredRouter, subnets: &[&DesiredRouterSubnet], link: u32) -> Vec<Route> {
    let hop = |like: IpAddr| ROUTER_LINK.network(like);
    let ranges = subnets
        .iter()
        .map(|subnet| Route { source: Some(subnet.gateway), ..by(subnet.cidr, hop(subnet.gateway), link) });
    let beyond = router.routes.iter().filter(|route| subnets.iter().any(|subnet| subnet.cidr.contains(&route.via)));
    ranges.chain(beyond.map(|route| by(route.to, hop(route.via), link))).collect()
}

/// The router's routes by its way out: those that machines there lead to, and everything else.
fn outward(router: &DesiredRouter, gateway: &DesiredGateway, link: u32) -> Vec<Route> {
    let source = |like: IpAddr| gateway.addresses.iter().map(|net| net.addr()).find(|a| a.is_ipv4() == like.is_ipv4());
    let joined = |via: &IpAddr| router.subnets.iter().any(|subnet| subnet.cidr.contains(via));
    let mut routes: BTreeMap<IpNet, Route> = BTreeMap::new();
    for route in router.routes.iter().filter(|route| !joined(&route.via)) {
        routes.insert(route.to.trunc(), Route { source: source(route.via), ..by(route.to, route.via, link) });
    }
    let elsewhere = |range: IpNet| router.routes.iter().any(|route| route.to.trunc() == range && joined(&route.via));
    for &hop in gateway.next_hops.iter().filter(|hop| !elsewhere(everything(**hop))) {
        let range = everything(hop);
        routes.entry(range).or_insert_with(|| Route { source: source(hop), ..by(range, hop, link) });
    }
    routes.into_values().collect()
}
