//! How far a packet gets, over all nodes: each walks it through its own kernel, the server goes on at the next.

use std::{net::IpAddr, time::Duration};

use hull_core::path::{Asked, To, packet};
use hull_types::{
    error::{Error, Result},
    id::{NetworkId, NodeId, PortId, ProjectId, SecurityGroupId, VmId},
    link::{NodeCall, NodeReply},
    network::Uplink,
    path::{NodeHop, PathEnd, PathExplanation, PathHop, PathPacket, PathQuery, PathReport, PathStart},
    port::Port,
    vm::Vm,
};

use super::{App, ctx::Ctx};
use crate::state::{table::Doc, view::State};

/// How long a node may take to walk a packet.
const WALK: Duration = Duration::from_secs(20);
/// A packet that has been on so many nodes goes in circles.
const NODES_MAX: usize = 8;
/// How people name what is outside of the cloud.
const INTERNET: &str = "internet";

/// What begins a hop that a security group's rule decided; its id follows.
const GROUP: &str = "security group ";

/// What a path is asked between.
#[derive(Clone, Debug)]
pub struct PathAsked {
    /// A VM's name or id, an address, or `internet`.
    pub to: String,
    /// The packet.
    pub packet: Asked,
}

/// The walk's beginning.
struct Begin {
    vm: VmId,
    node: NodeId,
    query: PathQuery,
    /// The ports it shall get to; none where it shall leave the cloud or reach an address.
    targets: Vec<PortId>,
    outward: bool,
}

/// What became of it.
struct Outcome {
    hops: Vec<NodeHop>,
    end: PathEnd,
    packet: PathPacket,
}

impl App {
    /// Explains how far a packet from a VM gets.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` where the VM is on no node; `Invalid` where no packet can go between the two; the nodes'.
    pub async fn explain_path(&self, ctx: &Ctx, from: &str, asked: &PathAsked) -> Result<PathExplanation> {
        let (node, _) = self.node_of(ctx, from)?;
        let begin = self.cache.read(|state| begin(ctx, state, from, node, asked))?;
        let outcome = self.walk(&begin).await?;
        Ok(self.cache.read(|state| told(ctx, state, &begin, outcome)))
    }

    async fn walk(&self, begin: &Begin) -> Result<Outcome> {
        let (mut node, mut query, mut hops) = (begin.node, begin.query, Vec::new());
        for _ in 0..NODES_MAX {
            let PathReport { hops: more, end, packet } = self.walk_on(begin.vm, node, query).await?;
            let name = self.cache.read(|state| state.nodes.get(node).map(|node| node.name.to_string()));
            let name = name.unwrap_or_else(|| node.to_string());
            hops.extend(more.into_iter().map(|hop| NodeHop { node: name.clone(), hop }));
            match self.cache.read(|state| further(state, end, &packet, node)) {
                Some((next, start)) => (node, query) = (next, PathQuery { start, packet }),
                None => return Ok(Outcome { hops, end, packet }),
            }
        }
        Err(Error::internal(format!(
            "the packet goes in circles between nodes: {NODES_MAX} of them did not end its way"
        )))
    }

    async fn walk_on(&self, vm: VmId, node: NodeId, query: PathQuery) -> Result<PathReport> {
        match self.hub.call(node, NodeCall::ExplainPath { vm, query }, WALK).await? {
            NodeReply::Path(report) => Ok(*report),
            _ => Err(Error::internal("the node answered something else than a path")),
        }
    }
}

fn ports<'a>(state: &'a State, vm: &'a Vm) -> Vec<&'a Port> {
    vm.ports.iter().filter_map(|&port| state.ports.get(port)).map(|port| &*port.value).collect()
}

fn begin(ctx: &Ctx, state: &State, from: &str, node: NodeId, asked: &PathAsked) -> Result<Begin> {
    let vm = ctx.find(&state.vms, from, state)?;
    let near = ports(state, vm);
    let address: Option<IpAddr> = asked.to.parse().ok();
    let target: Option<&Doc<Vm>> = match address {
        Some(_) => None,
        None if asked.to == INTERNET => None,
        None => Some(ctx.find(&state.vms, &asked.to, state).map_err(|error| error.at("?to"))?),
    };
    let far = target.map(|target| ports(state, target)).unwrap_or_default();
    let to = match (address, target) {
        (Some(address), _) => To::Address(address),
        (None, Some(_)) => To::Vm(&far),
        (None, None) => To::Internet,
    };
    let (port, packet) = packet(&near, to, asked.packet)?;
    let network = near.iter().find(|near| near.id == port).map(|near| near.network);
    let network = network.ok_or_else(|| Error::internal("the packet leaves by a port that is not there"))?;
    Ok(Begin {
        vm: vm.id,
        node,
        query: PathQuery { start: PathStart::Port { network, port }, packet },
        targets: far.iter().map(|port| port.id).collect(),
        outward: target.is_none(),
    })
}

/// Where the packet goes on, if it does.
fn further(state: &State, end: PathEnd, packet: &PathPacket, here: NodeId) -> Option<(NodeId, PathStart)> {
    match end {
        PathEnd::Tunnel { node, network } => {
            let at = |id: NodeId| state.node_status(id).and_then(|status| status.facts.underlay);
            let next = state.nodes.iter().map(|known| known.id).find(|&id| at(id) == Some(node))?;
            Some((next, PathStart::Tunnel { network }))
        }
        // A floating IP that is answered on another node, or a VM's own address there on the provider's network.
        PathEnd::Outside => {
            let floating = || {
                let floating = state.floating_ips.iter().find(|floating| floating.address == packet.destination)?;
                Some((state.ports.get(floating.target?.port)?, floating.network))
            };
            let own = || {
                let has = |port: &Port| port.ips().any(|address| address == packet.destination);
                let outside = |id: NetworkId| {
                    state.networks.get(id).is_some_and(|network| matches!(network.uplink, Uplink::Provider(_)))
                };
                let port = state.ports.iter().find(|port| has(port) && outside(port.network))?;
                Some((port, port.network))
            };
            let (port, network) = floating().or_else(own)?;
            let next = state.placement(port.vm?)?.node?;
            (next != here).then_some((next, PathStart::Outside { network }))
        }
        PathEnd::Dropped | PathEnd::Delivered { .. } | PathEnd::Service => None,
    }
}

fn told(ctx: &Ctx, state: &State, begin: &Begin, outcome: Outcome) -> PathExplanation {
    let reaches = match outcome.end {
        PathEnd::Delivered { port } => begin.outward || begin.targets.contains(&port),
        PathEnd::Outside | PathEnd::Service => begin.outward,
        PathEnd::Dropped | PathEnd::Tunnel { .. } => false,
    };
    let shown = |hop: PathHop| if sees(ctx, state, &hop) { named(state, hop) } else { hidden(hop) };
    let hops: Vec<NodeHop> =
        outcome.hops.into_iter().map(|hop| NodeHop { hop: shown(hop.hop), node: hop.node }).collect();
    let PathPacket { source, destination, .. } = begin.query.packet;
    let ended = match outcome.end {
        PathEnd::Dropped => hops.last().map_or_else(
            || "is dropped".to_owned(),
            |last| format!("stops at {}, {} (node {}): {}", last.hop.place, last.hop.part, last.node, last.hop.told),
        ),
        PathEnd::Delivered { .. } if reaches => "arrives".to_owned(),
        PathEnd::Delivered { .. } => "arrives at another VM".to_owned(),
        PathEnd::Service => "is answered by the network itself".to_owned(),
        PathEnd::Outside => format!("leaves the cloud as {}", outcome.packet.source),
        PathEnd::Tunnel { node, .. } => format!("is sent to {node}, which is no node that is known"),
    };
    PathExplanation { summary: format!("a packet from {source} to {destination} {ended}"), reaches, hops }
}

/// Whether the caller may know what is in this place: rules of other tenants are none of theirs.
fn sees(ctx: &Ctx, state: &State, hop: &PathHop) -> bool {
    let own = |project: ProjectId| ctx.caller.sees(project);
    let network = |id: NetworkId| state.networks.get(id).is_some_and(|it| it.shared || own(it.meta.project));
    let router = hop.router.is_none_or(|id| state.routers.get(id).is_some_and(|it| own(it.meta.project)));
    hop.network.is_none_or(network) && router
}

/// Nodes know routers and security groups by their ids only.
fn named(state: &State, mut hop: PathHop) -> PathHop {
    if let Some(router) = hop.router.and_then(|id| state.routers.get(id)) {
        hop.place = format!("router {}", router.meta.name);
    }
    let group = || {
        let (id, what) = hop.told.strip_prefix(GROUP)?.split_once(' ')?;
        let group = state.groups.get(id.parse::<SecurityGroupId>().ok()?)?;
        Some(format!("{GROUP}{} {what}", group.meta.name))
    };
    if let Some(told) = group() {
        hop.told = told;
    }
    hop
}

fn hidden(hop: PathHop) -> PathHop {
    let told = if hop.passes { "passes" } else { "does not let it through" };
    PathHop { place: "another project".to_owned(), network: None, router: None, told: told.to_owned(), ..hop }
}
