//! One task keeps one network: it alone changes the network's namespace, so applying, repairing, opening taps and
//! removing never run at once.
//!
//! ```text
//!            apply                     apply, tick (repair)
//!   idle ──────────────► keeping ◄──────────────┐
//!     ▲                     │ └─────────────────┘
//!     └──── remove ─────────┘
//! ```
//!
//! Every pass is the same: look at what the kernel has, change what differs, in the order in which nothing unfiltered can
//! pass: namespace, settings, rules, bridge, taps, link to the host, services. When nothing differs nothing is touched,
//! so a pass over a network in use costs no packet. The task ending (Hull's exit) changes nothing in the kernel.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hull_types::{
    error::{Error, Result},
    id::{NetworkId, PortId},
    link::DesiredNetwork,
    network::Uplink,
};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};

use super::{
    host::{Host, quiet_link},
    layout::{
        BRIDGE, LinkRange, METADATA_V4, METADATA_V6, Prefix, RESOLVER_V4, RESOLVER_V6, TAP_PREFIX, TUNNEL, gateway_mac,
        has_v6, link_local, own_gateways, tap_name,
    },
    links::{Link, Links, MAIN, Route, Shape},
    metadata::TokenKey,
    netns::Netns,
    nft,
    rules::{self, Ruleset},
    serve::{Ground, Guests, Leases, Services, Stock},
    shaping::Shaper,
    tap,
    view::View,
};

/// What every keeper shares.
pub(crate) struct Common {
    pub(crate) host: Host,
    pub(crate) prefix: Prefix,
    pub(crate) range: LinkRange,
    pub(crate) state: PathBuf,
    pub(crate) resolv_conf: Arc<Path>,
    pub(crate) repair_every: Duration,
    pub(crate) guests: Guests,
    pub(crate) tokens: TokenKey,
}

/// What a keeper is asked to do.
pub(crate) enum Request {
    Apply(Box<DesiredNetwork>, oneshot::Sender<Result<()>>),
    Remove(oneshot::Sender<Result<()>>),
    Tap(PortId, oneshot::Sender<Result<OwnedFd>>),
    Desired(oneshot::Sender<Option<Arc<View>>>),
}

/// A network's keeper.
pub(crate) struct Keeper {
    common: Arc<Common>,
    network: NetworkId,
    leases: Leases,
    view: Option<Arc<View>>,
    namespace: Option<Netns>,
    services: Option<Services>,
    /// What the rules of a view are: worked out once.
    rules: Option<(Arc<View>, Arc<Ruleset>)>,
    /// The rules that are in the kernel.
    loaded: Option<nft::Loaded>,
    shaper: Shaper,
}

impl Keeper {
    pub(crate) fn new(common: Arc<Common>, network: NetworkId, leases: Leases) -> Self {
        Self {
            common,
            network,
            leases,
            view: None,
            namespace: None,
            services: None,
            rules: None,
            loaded: None,
            shaper: Shaper::default(),
        }
    }

    /// Serves requests and repairs in between, until nobody can ask any more.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut tick = tokio::time::interval(self.common.repair_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.serve(request).await,
                    None => return,
                },
                _ = tick.tick(), if self.view.is_some() => {
                    if let Err(error) = self.converge().await {
                        tracing::warn!(network = %self.network, %error, "the network cannot be repaired yet");
                    }
                }
            }
        }
    }

    /// Who asked may have stopped waiting, so answers may be lost.
    async fn serve(&mut self, request: Request) {
        match request {
            Request::Apply(desired, answer) => {
                if self.view.as_ref().is_none_or(|view| *view.network() != *desired) {
                    self.view = Some(Arc::new(View::new(*desired)));
                }
                let _ = answer.send(self.converge().await);
            }
            Request::Remove(answer) => {
                let _ = answer.send(self.remove().await);
            }
            Request::Tap(port, answer) => {
                let _ = answer.send(self.tap(port).await);
            }
            Request::Desired(answer) => {
                let _ = answer.send(self.view.clone());
            }
        }
    }

    async fn converge(&mut self) -> Result<()> {
        let Some(view) = self.view.clone() else { return Ok(()) };
        let network = view.network();
        let namespace = self.namespace().await?;
        namespace.sysctl(settings()).await?;
        self.keep_rules(&view, &namespace).await?;
        let links = Links::open(&namespace).await?;
        let bridge = bridge(network, &namespace, &links).await?;
        shape_taps(network, &links, &bridge).await?;
        self.shaper.shape(network, &namespace).await?;
        links.set_neighbours(&bridge, &neighbours(network)).await?;
        self.reach_out(network, &namespace, &links, &bridge).await?;
        match network.uplink {
            Uplink::Nat => self.common.host.link_up(network, &namespace, &links).await?,
            Uplink::None | Uplink::Provider(_) => self.common.host.link_down(self.network).await?,
        }
        self.serve_guests(&view, namespace, bridge.index);
        Ok(())
    }

    /// What is beyond the bridge: other nodes, a provider's segment.
    async fn reach_out(&self, network: &DesiredNetwork, inside: &Netns, links: &Links, bridge: &Link) -> Result<()> {
        let host = &self.common.host;
        host.tunnels.keep(&host.namespace, network, inside, links, bridge).await?;
        host.providers.keep(&host.namespace, network, inside, links, bridge).await
    }

    async fn keep_rules(&mut self, view: &Arc<View>, namespace: &Netns) -> Result<()> {
        let known = self.rules.as_ref().filter(|(of, _)| Arc::ptr_eq(of, view)).map(|(_, rules)| Arc::clone(rules));
        let rules = match known {
            Some(rules) => rules,
            None => self.rules_of(view).await?,
        };
        let (loaded, done) = nft::keep_rules(namespace, rules, self.loaded.clone(), self.rules_memory()).await?;
        if done != nft::Done::Nothing {
            tracing::debug!(network = %view.network().name, ?done, "rules");
        }
        self.loaded = Some(loaded);
        Ok(())
    }

    /// The rules of a view, under names that let them take the place of what is loaded.
    async fn rules_of(&mut self, view: &Arc<View>) -> Result<Arc<Ruleset>> {
        let (of, range) = (Arc::clone(view), self.common.range);
        let (loaded, memory) = (self.loaded.as_ref().map(|loaded| Arc::clone(loaded.rules())), self.rules_memory());
        let work = move || {
            let edition = loaded.as_ref().map_or_else(|| nft::edition(&memory), |loaded| loaded.edition);
            let rules = rules::network_rules(of.network(), &range, edition);
            match loaded {
                Some(loaded) if rules.mixes_with(&loaded) => {
                    rules::network_rules(of.network(), &range, edition.other())
                }
                _ => rules,
            }
        };
        let rules = tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::internal(format!("working out a network's rules failed: {error}")))?;
        let rules = Arc::new(rules);
        self.rules = Some((Arc::clone(view), Arc::clone(&rules)));
        Ok(rules)
    }

    /// The network's namespace, under its name.
    async fn namespace(&mut self) -> Result<Netns> {
        let name = self.common.prefix.namespace(self.network);
        let namespace = Netns::keep(name, self.namespace.take(), &self.common.host.namespace).await?;
        self.namespace = Some(namespace.clone());
        Ok(namespace)
    }

    fn serve_guests(&mut self, view: &Arc<View>, namespace: Netns, bridge: u32) {
        let network = view.network();
        let with_v6 = has_v6(network);
        let mut resolvers: Vec<IpAddr> = own_gateways(network).map(|(gateway, _)| gateway).collect();
        resolvers.push(RESOLVER_V4.into());
        resolvers.extend(with_v6.then_some(IpAddr::V6(RESOLVER_V6)));
        let ground = Ground { namespace: namespace.identity(), bridge, resolvers, with_v6 };
        if self.services.as_ref().is_some_and(|services| services.update(&ground, view)) {
            return;
        }
        // The old sockets close before the new ones are opened.
        self.services = None;
        let stock = Stock {
            namespace,
            host: self.common.host.namespace.clone(),
            resolv_conf: Arc::clone(&self.common.resolv_conf),
            view: Arc::clone(view),
            guests: self.common.guests.clone(),
            leases: Arc::clone(&self.leases),
            tokens: self.common.tokens.clone(),
        };
        self.services = Some(Services::start(ground, stock));
    }

    async fn remove(&mut self) -> Result<()> {
        self.view = None;
        self.services = None;
        (self.rules, self.loaded) = (None, None);
        self.namespace = None;
        let host = &self.common.host;
        host.link_down(self.network).await?;
        host.providers.remove(&host.namespace, self.network).await?;
        let name = self.common.prefix.namespace(self.network);
        if let Some(namespace) = Netns::named(&name)? {
            // The kernel ends a namespace some time after its name is gone; its VNI is free at once this way.
            Links::open(&namespace).await?.delete(TUNNEL).await?;
        }
        host.tunnels.remove(&host.namespace, self.network).await?;
        Netns::delete(&name)?;
        forget(&self.rules_memory())
    }

    async fn tap(&mut self, port: PortId) -> Result<OwnedFd> {
        let known =
            self.view.as_ref().is_some_and(|view| view.network().ports.iter().any(|p| p.id == port && p.is_here()));
        if !known {
            return Err(Error::not_found(format!(
                "the network {} on this node has no port {port}; it must be applied first",
                self.network
            )));
        }
        let namespace = self.namespace().await?;
        let name = tap_name(port);
        let tap = namespace.run(move || tap::open(&name)).await??;
        // Puts the tap on the bridge and brings it up; the rules for it are there already.
        self.converge().await?;
        Ok(tap)
    }

    fn rules_memory(&self) -> PathBuf {
        self.common.state.join(format!("{}.rules", self.network))
    }
}

/// Removes a file that may be gone.
pub(crate) fn forget(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::unavailable(format!("{} cannot be removed: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// The settings of a network's namespace.
fn settings() -> Vec<(String, &'static str)> {
    [
        // Bridged packets pass the inet hooks of this namespace, where connections are tracked.
        ("bridge/bridge-nf-call-iptables", "1"),
        ("bridge/bridge-nf-call-ip6tables", "1"),
        ("bridge/bridge-nf-call-arptables", "0"),
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/accept_redirects", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        // The bridge answers ARP for its own addresses only, not for the link's to the host.
        ("ipv4/conf/all/arp_ignore", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/all/accept_ra", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        // Taps have no addresses of their own; the bridge and the link to the host turn it on for themselves.
        ("ipv6/conf/default/disable_ipv6", "1"),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The bridge with the gateway's addresses, made where it is missing.
async fn bridge(network: &DesiredNetwork, namespace: &Netns, links: &Links) -> Result<Link> {
    let (mac, mtu) = (gateway_mac(network.id), u32::from(network.mtu));
    if links.get(BRIDGE).await?.is_none() {
        links.add_bridge(BRIDGE, mac, mtu).await?;
    }
    let bridge =
        links.get(BRIDGE).await?.ok_or_else(|| Error::unavailable("the bridge vanished while it was set up"))?;
    namespace.sysctl(quiet_link(BRIDGE)).await?;
    links.shape(&bridge, Shape { mac: Some(mac), mtu, master: None }).await?;
    links.set_addresses(&bridge, &gateway_addresses(network)).await?;
    links.set_routes(MAIN, &guest_ranges(network, &bridge)).await?;
    Ok(bridge)
}

/// What the bridge answers for: gateways, the metadata addresses, its link-local address.
fn gateway_addresses(network: &DesiredNetwork) -> BTreeSet<IpNet> {
    let mut addresses: BTreeSet<IpNet> = own_gateways(network)
        .filter_map(|(gateway, subnet)| IpNet::new(gateway, subnet.cidr.prefix_len()).ok())
        .collect();
    addresses.extend([METADATA_V4, RESOLVER_V4].map(|address| IpNet::new_assert(address.into(), 32)));
    if has_v6(network) {
        addresses.extend([METADATA_V6, RESOLVER_V6].map(|address| IpNet::new_assert(address.into(), 128)));
    }
    addresses.insert(IpNet::new_assert(link_local(gateway_mac(network.id)).into(), 64));
    addresses
}

/// Ranges whose gateway is not ours: guests there are reached (for metadata, DNS) without an address of their range.
fn guest_ranges(network: &DesiredNetwork, bridge: &Link) -> BTreeSet<Route> {
    let foreign = network.subnets.iter().filter(|subnet| !subnet.gateway_is_ours || subnet.gateway.is_none());
    foreign.map(|subnet| Route { to: subnet.cidr.trunc(), via: None, link: bridge.index, source: None }).collect()
}

/// Where every port is: told, not learned.
fn neighbours(network: &DesiredNetwork) -> BTreeSet<(IpAddr, hull_types::network::Mac)> {
    let of_port = |port: &hull_types::link::DesiredPort| {
        let own = [IpAddr::V6(link_local(port.mac))];
        let mac = port.mac;
        port.addresses.iter().copied().chain(own).map(move |address| (address, mac)).collect::<Vec<_>>()
    };
    network.ports.iter().flat_map(of_port).collect()
}

/// Puts the taps that exist on the bridge: after somebody deleted the bridge they are still held by their VMs.
async fn shape_taps(network: &DesiredNetwork, links: &Links, bridge: &Link) -> Result<()> {
    let ours: BTreeSet<String> =
        network.ports.iter().filter(|port| port.is_here()).map(|port| tap_name(port.id)).collect();
    for tap in links.all().await?.into_iter().filter(|link| link.name.starts_with(TAP_PREFIX)) {
        if ours.contains(&tap.name) {
            let shape = Shape { mac: None, mtu: u32::from(network.mtu), master: Some(bridge.index) };
            links.shape(&tap, shape).await?;
        }
    }
    Ok(())
}
