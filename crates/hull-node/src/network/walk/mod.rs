//! Where a packet gets to on this node, hop by hop, by what the kernel holds now: not by what was wished.
//!
//! ```text
//!            frame at a bridge's port                        packet at a link
//!                     │                                            │
//!      bridge prerouting, inet prerouting               inet prerouting (unless done)
//!          │                      │                                │
//!     to the bridge itself   to another port                 the kernel's route
//!          │                      │                        │               │
//!          │              bridge forward, inet forward   to itself      out by a link
//!          ▼                      ▼                        ▼               │
//!     packet at a link       out by the port          inet input      inet forward, MTU,
//!                                 │                                   inet postrouting
//!             ┌───────────┬───────┴─────────┐                              │
//!            tap        tunnel        pair of links ◄──────────────────────┘
//!         delivered   other node    next namespace: again
//! ```
//!
//! Each part tells one sentence. The walk ends at the first part that stops the packet.

mod packet;
mod rules;
mod seen;
mod space;
mod words;

use std::{collections::HashMap, net::IpAddr};

use hull_types::{
    error::{Error, Result},
    id::{NetworkId, RouterId},
    link::DesiredNetwork,
    network::Mac,
    path::{PathEnd, PathHop, PathQuery, PathReport, PathStart},
};

use self::{
    packet::Packet,
    rules::{Decision, Layer},
    space::{Link, Route, Space},
};
use super::{
    layout::{BRIDGE, TAP_PREFIX, tap_name},
    netns::Netns,
    vxlan,
};

/// What becomes of a link that is not as it shall be.
const REPAIRED: &str = "; the node repairs it within seconds, or says why not in its log";
/// A packet that has passed so many parts goes in circles.
const FARTHEST: usize = 64;

/// What the walk must know beyond the kernel: whose each namespace is, and which is the host's own.
pub(crate) struct Surroundings {
    host: Netns,
    networks: HashMap<String, DesiredNetwork>,
    routers: HashMap<String, RouterId>,
}

impl Surroundings {
    /// Only the host.
    pub(crate) fn new(host: Netns) -> Self {
        Self { host, networks: HashMap::new(), routers: HashMap::new() }
    }

    /// A network's namespace.
    pub(crate) fn network(&mut self, namespace: String, network: DesiredNetwork) {
        self.networks.insert(namespace, network);
    }

    /// A router's namespace.
    pub(crate) fn router(&mut self, namespace: String, router: RouterId) {
        self.routers.insert(namespace, router);
    }

    fn namespace_of(&self, network: NetworkId) -> Option<&str> {
        let found = self.networks.iter().find(|(_, known)| known.id == network);
        found.map(|(namespace, _)| namespace.as_str())
    }

    fn knows(&self, namespace: &str) -> bool {
        self.networks.contains_key(namespace) || self.routers.contains_key(namespace)
    }
}

/// Where a packet is.
enum At {
    /// A frame that came in by a port of a bridge, to this next hop.
    Port { space: String, link: String, next: IpAddr },
    /// A packet that came in by a link; inbound rules were seen already where it came over the bridge.
    Link { space: String, link: String, seen: bool },
}

/// What happened at one place.
enum Step {
    On(At),
    End(PathEnd),
}

struct Walk<'a> {
    around: &'a Surroundings,
    spaces: HashMap<String, Space>,
    hops: Vec<PathHop>,
    packet: Packet,
}

/// The host's namespace, which has no name of its own.
const HOST: &str = "";

/// Walks the packet.
pub(crate) async fn walk(around: &Surroundings, query: PathQuery) -> Result<PathReport> {
    let mut walk = Walk { around, spaces: HashMap::new(), hops: Vec::new(), packet: Packet::new(&query.packet) };
    let end = walk.run(query.start).await?;
    Ok(PathReport { hops: walk.hops, end, packet: walk.packet.shown(query.packet.protocol) })
}

impl Walk<'_> {
    async fn run(&mut self, start: PathStart) -> Result<PathEnd> {
        let mut at = match self.begin(start).await? {
            Step::On(at) => at,
            Step::End(end) => return Ok(end),
        };
        for _ in 0..FARTHEST {
            let step = match at {
                At::Port { space, link, next } => self.port(&space, &link, next).await?,
                At::Link { space, link, seen } => self.link(&space, &link, seen).await?,
            };
            match step {
                Step::On(further) => at = further,
                Step::End(end) => return Ok(end),
            }
        }
        Err(Error::internal(format!("the packet goes in circles: {FARTHEST} parts did not end its way")))
    }

    async fn begin(&mut self, start: PathStart) -> Result<Step> {
        let (PathStart::Port { network, .. } | PathStart::Tunnel { network } | PathStart::Outside { network }) = start;
        let space = self.around.namespace_of(network).map(str::to_owned).ok_or_else(|| {
            Error::not_found(format!("the network {network} is not on this node, so no packet of it can be followed"))
        })?;
        self.enter(&space).await?;
        let known = self.around.networks.get(&space).ok_or_else(|| {
            Error::unavailable(format!("the network {network} is still being made on this node; try again in a moment"))
        })?;
        match start {
            PathStart::Port { port, .. } => {
                let port = known
                    .ports
                    .iter()
                    .find(|own| own.id == port && own.is_here())
                    .ok_or_else(|| Error::not_found(format!("the port {port} has no VM on this node")))?;
                let tap = tap_name(port.id);
                self.packet.from_mac = port.mac;
                if self.space(&space)?.link(&tap).is_none_or(|link| link.master.is_none() || !link.is_up()) {
                    let told = format!(
                        "the tap {tap} of the sender is not on the bridge, or down: start its VM if it does not run"
                    );
                    return Ok(self.stop(&space, "tap", told));
                }
                let Some(next) = next_hop(known, self.packet.source, self.packet.destination) else {
                    let told = format!(
                        "the sender has no gateway to reach {} by; put its subnet on a router",
                        self.packet.destination
                    );
                    return Ok(self.stop(&space, "route", told));
                };
                Ok(Step::On(At::Port { space, link: tap, next }))
            }
            PathStart::Tunnel { .. } => {
                let tunnel = self.space(&space)?.ports(BRIDGE).find(|link| link.is("vxlan") && link.is_up());
                let tunnel = tunnel.map(|link| link.name.clone());
                let Some(link) = tunnel else {
                    return Ok(self.stop(
                        &space,
                        "tunnel",
                        format!("the network has no tunnel on this node, or it is down{REPAIRED}"),
                    ));
                };
                let next = self.packet.destination;
                Ok(Step::On(At::Port { space, link, next }))
            }
            PathStart::Outside { .. } => {
                let Some(link) = self.provider(&space).await? else {
                    let told = "the network is not plugged into a provider's network here".to_owned();
                    return Ok(self.stop(&space, "provider", told));
                };
                let next = self.packet.destination;
                Ok(Step::On(At::Port { space, link, next }))
            }
        }
    }

    /// A frame at a port of the bridge.
    async fn port(&mut self, space: &str, link: &str, next: IpAddr) -> Result<Step> {
        self.enter(space).await?;
        let from_vm = link.starts_with(TAP_PREFIX);
        let own = self.space(space)?.holds(next);
        let bridge_mac = self.space(space)?.link(BRIDGE).and_then(Link::mac);
        let known = if own { bridge_mac } else { self.space(space)?.mac_on_bridge(next) };
        self.packet.to_mac = known.unwrap_or(Mac([0; 6]));
        link.clone_into(&mut self.packet.came_by);
        let decision = self.rules(space, Layer::Bridge, "prerouting")?;
        if !decision.passes {
            return self.refused(space, "anti-spoofing", decision).await;
        }
        if from_vm {
            let told = format!("{} from {} is the port's own", self.packet.source, self.packet.from_mac);
            self.pass(space, "anti-spoofing", told);
        }
        // Over the bridge, what inet rules see came by the bridge itself.
        BRIDGE.clone_into(&mut self.packet.came_by);
        let decision = self.rules(space, Layer::Inet, "prerouting")?;
        if !decision.passes {
            return self.refused(space, "security groups", decision).await;
        }
        let to_bridge = own || self.packet.claimed || Some(self.packet.to_mac) == bridge_mac;
        if to_bridge || self.packet.asked != self.packet.destination {
            link.clone_into(&mut self.packet.came_by);
            let decision = self.rules(space, Layer::Bridge, "input")?;
            if !decision.passes {
                return self.refused(space, "bridge", decision).await;
            }
            return Ok(Step::On(At::Link { space: space.to_owned(), link: BRIDGE.to_owned(), seen: true }));
        }
        let Some(out) = self.out_port(space, link, next).await? else {
            let told = format!(
                "nobody on this network is known to have {next}: no port has that address, here or on a node it could be sent to"
            );
            return Ok(self.stop(space, "bridge", told));
        };
        for (layer, by, to, part) in [
            (Layer::Bridge, link, out.as_str(), "anti-spoofing"),
            (Layer::Inet, BRIDGE, BRIDGE, "security groups"),
            (Layer::Bridge, "", out.as_str(), "bridge"),
        ] {
            let hook = if part == "bridge" { "postrouting" } else { "forward" };
            by.clone_into(&mut self.packet.came_by);
            to.clone_into(&mut self.packet.leaves_by);
            let decision = self.rules(space, layer, hook)?;
            if !decision.passes {
                return self.refused(space, part, decision).await;
            }
            self.let_through(space, part, decision).await?;
        }
        self.leave_port(space, &out, next).await
    }

    /// A packet at a link of the namespace, for its own IP.
    async fn link(&mut self, space: &str, link: &str, seen: bool) -> Result<Step> {
        self.enter(space).await?;
        if seen {
            link.clone_into(&mut self.packet.came_by);
        } else {
            self.packet.enter(link);
            let decision = self.rules(space, Layer::Inet, "prerouting")?;
            if !decision.passes {
                return self.refused(space, "rules", decision).await;
            }
        }
        if self.packet.asked != self.packet.destination {
            let told = format!("{} leads to {}", self.packet.asked, self.packet.destination);
            self.pass(space, "floating ip", told);
        }
        let route = self.space(space)?.route(&self.packet).await?;
        let (out, next, gateway) = match route {
            Route::Here => {
                let decision = self.rules(space, Layer::Inet, "input")?;
                if !decision.passes {
                    return self.refused(space, "service", decision).await;
                }
                self.pass(space, "service", format!("{} is this place's own address", self.packet.destination));
                return Ok(Step::End(PathEnd::Service));
            }
            Route::Nowhere(why) => {
                let told = format!(
                    "no route to {}: {why}; a router with a gateway, or with that network on it, would have one",
                    self.packet.destination
                );
                return Ok(self.stop(space, "route", told));
            }
            Route::Out { link, next, gateway } => (link, next, gateway),
        };
        let by = if gateway { format!(" by {next}") } else { String::new() };
        self.pass(space, "route", format!("to {}{by}, out by {out}", self.packet.destination));
        self.forward(space, &out, next).await
    }

    /// Forwards a packet out by a link.
    async fn forward(&mut self, space: &str, out: &str, next: IpAddr) -> Result<Step> {
        out.clone_into(&mut self.packet.leaves_by);
        let decision = self.rules(space, Layer::Inet, "forward")?;
        if !decision.passes {
            return self.refused(space, "security groups", decision).await;
        }
        self.let_through(space, "security groups", decision).await?;
        let mtu = self.space(space)?.link(out).map_or(0, |link| link.mtu);
        if u32::from(self.packet.size) > mtu {
            let told = format!(
                "{} bytes are too large for {out} (MTU {mtu}); the sender is told to send less at once",
                self.packet.size
            );
            return Ok(self.stop(space, "mtu", told));
        }
        let before = self.packet.source;
        if !self.rules(space, Layer::Inet, "postrouting")?.passes {
            return Ok(self.stop(space, "rules", "outbound rules drop it".to_owned()));
        }
        if self.packet.source.is_unspecified() {
            let masked = self.space(space)?.masquerade(out, self.packet.is_v4());
            self.packet.source = masked.unwrap_or(self.packet.source);
        }
        if self.packet.source != before {
            self.pass(space, "snat", format!("it leaves as {}", self.packet.source));
        }
        if self.space(space)?.link(out).is_some_and(|link| link.is("bridge")) {
            return self.out_by_bridge(space, out, next).await;
        }
        self.leave(space, out, next).await
    }

    /// A packet that the namespace itself sends out over its bridge.
    async fn out_by_bridge(&mut self, space: &str, bridge: &str, next: IpAddr) -> Result<Step> {
        if space == HOST {
            self.pass(space, "host", format!("it leaves this node over {bridge}"));
            return Ok(Step::End(PathEnd::Outside));
        }
        self.packet.from_mac = self.space(space)?.link(bridge).and_then(Link::mac).unwrap_or(Mac([0; 6]));
        self.packet.to_mac = self.space(space)?.mac_on_bridge(next).unwrap_or(Mac([0; 6]));
        let Some(out) = self.out_port(space, "", next).await? else {
            let told = format!(
                "nobody on this network is known to have {next}: no port has that address, here or on a node it could be sent to"
            );
            return Ok(self.stop(space, "bridge", told));
        };
        for hook in ["output", "postrouting"] {
            out.clone_into(&mut self.packet.leaves_by);
            let decision = self.rules(space, Layer::Bridge, hook)?;
            if !decision.passes {
                return self.refused(space, "bridge", decision).await;
            }
        }
        self.leave_port(space, &out, next).await
    }

    /// The port of the bridge that leads to a next hop.
    async fn out_port(&mut self, space: &str, came_by: &str, next: IpAddr) -> Result<Option<String>> {
        let here = self.space(space)?;
        if let Some(port) = here.port_to(BRIDGE, self.packet.to_mac) {
            return Ok((port != came_by).then(|| port.to_owned()));
        }
        // A tap's MAC is its guest's: the bridge learns it from the first frame, the rules knew it before.
        if let Some(tap) = self.tap_of(space, self.packet.to_mac) {
            return Ok((tap != came_by).then_some(tap));
        }
        // What answers for addresses at the far end of a pair of links is asked there.
        let pairs: Vec<Link> = here.ports(BRIDGE).filter(|link| link.is("veth")).cloned().collect();
        for pair in pairs.iter().filter(|pair| pair.name != came_by) {
            let Some((far, index)) = self.peer_of(space, pair) else { continue };
            if far == HOST {
                continue;
            }
            self.enter(&far).await?;
            let there = self.space(&far)?;
            if there.by_index(index).is_some_and(|link| link.addresses().any(|own| own.addr() == next)) {
                return Ok(Some(pair.name.clone()));
            }
        }
        // Everything else is a provider's network's.
        Ok(self.provider(space).await?.filter(|port| port != came_by))
    }

    fn tap_of(&self, space: &str, mac: Mac) -> Option<String> {
        let known = self.around.networks.get(space)?;
        let port = known.ports.iter().find(|port| port.is_here() && port.mac == mac)?;
        let tap = tap_name(port.id);
        let plugged = self.spaces.get(space)?.link(&tap).is_some_and(|link| link.master.is_some() && link.is_up());
        plugged.then_some(tap)
    }

    /// The port that leads out of a provider's network's namespace, to the host.
    async fn provider(&mut self, space: &str) -> Result<Option<String>> {
        self.enter(space).await?;
        let pairs: Vec<Link> = self.space(space)?.ports(BRIDGE).filter(|link| link.is("veth")).cloned().collect();
        Ok(pairs.into_iter().find(|pair| self.peer_of(space, pair).is_some_and(|(far, _)| far == HOST)).map(|l| l.name))
    }

    /// Out by a port of the bridge.
    async fn leave_port(&mut self, space: &str, out: &str, next: IpAddr) -> Result<Step> {
        let link = self.space(space)?.link(out).filter(|link| link.is_up());
        let Some(mtu) = link.map(|link| link.mtu) else {
            return Ok(self.stop(space, "link", format!("{out} is not there, or down{REPAIRED}")));
        };
        if u32::from(self.packet.size) > mtu {
            let told = format!(
                "{} bytes are too large for {out} (MTU {mtu}); nobody tells the sender: the guest shall keep to the MTU that DHCP says",
                self.packet.size
            );
            return Ok(self.stop(space, "mtu", told));
        }
        if out.starts_with(TAP_PREFIX) {
            let port = self.around.networks.get(space).and_then(|known| {
                known.ports.iter().find(|port| tap_name(port.id) == out).map(|port| (port.id, port.hostname.clone()))
            });
            let Some((port, name)) = port else {
                return Ok(self.stop(space, "bridge", format!("{out} is the tap of no port that is known")));
            };
            self.pass(space, "tap", format!("delivered to {name}"));
            return Ok(Step::End(PathEnd::Delivered { port }));
        }
        let is_tunnel = self.space(space)?.link(out).is_some_and(|link| link.is("vxlan"));
        if !is_tunnel {
            return self.leave(space, out, next).await;
        }
        let Some(node) = self.space(space)?.node_of(out, self.packet.to_mac) else {
            let told =
                format!("the tunnel knows no node for {}: its VM is on none that this one reaches", self.packet.to_mac);
            return Ok(self.stop(space, "tunnel", told));
        };
        if let Some(most) = self.most_to(node).await?.filter(|most| u32::from(self.packet.size) > *most) {
            let told = format!(
                "{} bytes do not fit the tunnel to {node} (at most {most}); give the network an MTU that does, or the nodes' links a larger one",
                self.packet.size
            );
            return Ok(self.stop(space, "mtu", told));
        }
        let network = self.around.networks.get(space).map(|known| known.id);
        let network = network.ok_or_else(|| Error::internal("a tunnel without a network"))?;
        self.pass(space, "tunnel", format!("over VXLAN to the node at {node}"));
        Ok(Step::End(PathEnd::Tunnel { node, network }))
    }

    /// The largest packet that a tunnel to this node takes.
    async fn most_to(&mut self, node: IpAddr) -> Result<Option<u32>> {
        self.enter(HOST).await?;
        let link = self.space(HOST)?.link_towards(node).await?;
        Ok(link.map(|link| link.mtu.saturating_sub(vxlan::overhead(node))))
    }

    /// Over a pair of links into another namespace, or out of the node.
    async fn leave(&mut self, space: &str, out: &str, next: IpAddr) -> Result<Step> {
        let link = self.space(space)?.link(out).cloned();
        let Some(link) = link.filter(Link::is_up) else {
            return Ok(self.stop(space, "link", format!("{out} is not there, or down{REPAIRED}")));
        };
        let Some((far, index)) = self.peer_of(space, &link) else {
            self.pass(space, "host", format!("it leaves this node by {out}"));
            return Ok(Step::End(PathEnd::Outside));
        };
        self.enter(&far).await?;
        let there = self.space(&far)?.by_index(index).filter(|link| link.is_up());
        let Some((name, master)) = there.map(|link| (link.name.clone(), link.master.clone())) else {
            return Ok(self.stop(space, "link", format!("the far end of {out} is not there, or down{REPAIRED}")));
        };
        self.packet.enter(&name);
        match master {
            Some(_) if far == HOST => {
                self.pass(space, "provider", format!("it leaves onto the provider's network by {name}"));
                Ok(Step::End(PathEnd::Outside))
            }
            Some(_) => {
                self.packet.from_mac = link.mac().unwrap_or(Mac([0; 6]));
                Ok(Step::On(At::Port { space: far, link: name, next }))
            }
            None => Ok(Step::On(At::Link { space: far, link: name, seen: false })),
        }
    }

    fn peer_of(&self, space: &str, link: &Link) -> Option<(String, u32)> {
        let (name, index) = self.spaces.get(space)?.peer(link)?;
        let ours = name.filter(|name| self.around.knows(name));
        Some((ours.unwrap_or(HOST).to_owned(), index))
    }

    async fn enter(&mut self, space: &str) -> Result<()> {
        if self.spaces.contains_key(space) {
            return Ok(());
        }
        let namespace = match space {
            HOST => self.around.host.clone(),
            name => Netns::named(name)?
                .ok_or_else(|| Error::unavailable(format!("the namespace {name} is missing; it will be repaired")))?,
        };
        self.spaces.insert(space.to_owned(), Space::look(namespace).await?);
        Ok(())
    }

    fn space(&self, name: &str) -> Result<&Space> {
        self.spaces.get(name).ok_or_else(|| Error::internal(format!("the namespace {name} was not looked at")))
    }

    fn rules(&mut self, space: &str, layer: Layer, hook: &str) -> Result<Decision> {
        let here = self
            .spaces
            .get(space)
            .ok_or_else(|| Error::internal(format!("the namespace {space} was not looked at")))?;
        self.packet.arrived = here.holds(self.packet.destination);
        here.rules.run(layer, hook, &mut self.packet)
    }

    fn hop(&mut self, space: &str, part: &str, told: String, passes: bool) {
        let network = self.around.networks.get(space);
        let router = self.around.routers.get(space);
        let place = match (network, router) {
            (Some(network), _) => format!("network {}", network.name),
            // Its name is the server's to tell.
            (None, Some(id)) => format!("router {id}"),
            (None, None) => "host".to_owned(),
        };
        let (network, router) = (network.map(|network| network.id), router.copied());
        self.hops.push(PathHop { place, network, router, part: part.to_owned(), told, passes });
    }

    fn pass(&mut self, space: &str, part: &str, told: String) {
        self.hop(space, part, told, true);
    }

    /// Tells of a rule that let it through; a policy that lets all through is not worth a word.
    async fn let_through(&mut self, space: &str, part: &str, decision: Decision) -> Result<()> {
        if let Some(by) = decision.by {
            let told = self.space(space)?.words(&by, true).await?;
            self.pass(space, part, told);
        }
        Ok(())
    }

    fn stop(&mut self, space: &str, part: &str, told: String) -> Step {
        self.hop(space, part, told, false);
        Step::End(PathEnd::Dropped)
    }

    async fn refused(&mut self, space: &str, part: &str, decision: Decision) -> Result<Step> {
        let told = match decision.by {
            Some(by) => self.space(space)?.words(&by, false).await?,
            None => "dropped".to_owned(),
        };
        Ok(self.stop(space, part, told))
    }
}

/// Whom a guest on this network sends a packet to: its destination where that is on the network, its gateway where not.
fn next_hop(network: &DesiredNetwork, source: IpAddr, destination: IpAddr) -> Option<IpAddr> {
    let on_link =
        network.subnets.iter().any(|subnet| subnet.cidr.contains(&source) && subnet.cidr.contains(&destination));
    if on_link || is_metadata(destination) {
        return Some(destination);
    }
    let own = network.subnets.iter().filter(|subnet| subnet.cidr.contains(&source));
    // The narrowest route that DHCP told to the guest, else its gateway.
    let routes = own.clone().flat_map(|subnet| &subnet.routes).filter(|route| route.to.contains(&destination));
    let route = routes.max_by_key(|route| route.to.prefix_len()).map(|route| route.via);
    route.or_else(|| own.filter_map(|subnet| subnet.gateway).next())
}

fn is_metadata(address: IpAddr) -> bool {
    address == IpAddr::from(super::layout::METADATA_V4) || address == IpAddr::from(super::layout::METADATA_V6)
}
