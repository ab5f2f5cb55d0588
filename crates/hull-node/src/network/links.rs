//! Links, addresses, routes and neighbours of one namespace, over netlink. The only user of `rtnetlink`.
//!
//! Every call says what shall be and changes only what differs.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::RawFd,
};

use futures::TryStreamExt;
use hull_types::{
    error::{Error, Result},
    network::Mac,
};
use ipnet::IpNet;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
        link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage},
    },
};

mod overlay;
mod tables;

pub(crate) use overlay::{PORT as TUNNEL_PORT, Tunnel};
pub(crate) use tables::{MAIN, Route, Rule};

use super::netns::Netns;

/// The kernel's errno of a refused request, without its sign.
const EEXIST: i32 = 17;

/// A link as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) master: Option<u32>,
    pub(crate) up: bool,
}

/// What a link shall be like.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    pub(crate) master: Option<u32>,
}

/// A netlink socket in one namespace.
pub(crate) struct Links {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn failed(act: String) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |error| Error::unavailable(format!("{act}: {error}"))
}

/// Takes "it is there already" for success.
fn unless_there(result: Result<(), rtnetlink::Error>) -> Result<bool, rtnetlink::Error> {
    match result {
        Ok(()) => Ok(true),
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -EEXIST => Ok(false),
        Err(error) => Err(error),
    }
}

impl Links {
    pub(crate) async fn open(namespace: &Netns) -> Result<Self> {
        let (connection, handle, _messages) = namespace
            .run(rtnetlink::new_connection)
            .await?
            .map_err(|error| Error::unavailable(format!("no netlink socket: {error}")))?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// All links.
    pub(crate) async fn all(&self) -> Result<Vec<Link>> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(failed("cannot list links".into()))?;
        Ok(messages.into_iter().map(link_of).collect())
    }

    /// The link of this name.
    pub(crate) async fn get(&self, name: &str) -> Result<Option<Link>> {
        Ok(self.all().await?.into_iter().find(|link| link.name == name))
    }

    /// Makes a bridge that neither speaks STP nor snoops multicast: neighbour discovery must reach everybody.
    pub(crate) async fn add_bridge(&self, name: &str, mac: Mac, mtu: u32) -> Result<()> {
        let bridge = LinkBridge::new(name).address(mac.0.to_vec()).mtu(mtu).mcast_snooping(false).forward_delay(0);
        let added = self.handle.link().add(bridge.build()).execute().await;
        unless_there(added).map(drop).map_err(failed(format!("cannot make the bridge {name}")))
    }

    /// Makes a pair of links, the peer in another namespace from its first moment.
    pub(crate) async fn add_pair(&self, name: &str, peer: &str, peer_namespace: RawFd, mtu: u32) -> Result<()> {
        let far = LinkMessageBuilder::<LinkUnspec>::new().name(peer).mtu(mtu).setns_by_fd(peer_namespace).build();
        let near = LinkVeth::new(name, peer).mtu(mtu).set_info_data(InfoData::Veth(InfoVeth::Peer(far)));
        let added = self.handle.link().add(near.build()).execute().await;
        unless_there(added).map(drop).map_err(failed(format!("cannot make the links {name} and {peer}")))
    }

    /// The two ends of a pair between two namespaces, made where one or both are missing. Nothing of them is set yet.
    pub(crate) async fn pair(
        &self,
        name: &str,
        far: &Links,
        far_name: &str,
        far_namespace: &Netns,
        mtu: u32,
    ) -> Result<(Link, Link)> {
        if self.get(name).await?.is_none() || far.get(far_name).await?.is_none() {
            self.delete(name).await?;
            far.delete(far_name).await?;
            self.add_pair(name, far_name, far_namespace.as_raw_fd(), mtu).await?;
        }
        let vanished =
            || Error::unavailable(format!("the link {name} vanished while it was set up; trying again helps"));
        Ok((self.get(name).await?.ok_or_else(vanished)?, far.get(far_name).await?.ok_or_else(vanished)?))
    }

    /// Gives a link its shape and brings it up.
    pub(crate) async fn shape(&self, link: &Link, shape: Shape) -> Result<()> {
        let mut message = LinkUnspec::new_with_index(link.index);
        let mut differs = false;
        if let Some(mac) = shape.mac.filter(|mac| mac.0[..] != link.mac[..]) {
            (message, differs) = (message.address(mac.0.to_vec()), true);
        }
        if shape.mtu != link.mtu {
            (message, differs) = (message.mtu(shape.mtu), true);
        }
        if let Some(master) = shape.master.filter(|&master| link.master != Some(master)) {
            (message, differs) = (message.controller(master), true);
        }
        if !link.up {
            (message, differs) = (message.up(), true);
        }
        if !differs {
            return Ok(());
        }
        let set = self.handle.link().set(message.build()).execute().await;
        set.map_err(failed(format!("cannot set the link {} up", link.name)))
    }

    /// Deletes a link, if it is there.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        let Some(link) = self.get(name).await? else { return Ok(()) };
        let deleted = self.handle.link().del(link.index).execute().await;
        deleted.map_err(failed(format!("cannot delete the link {name}")))
    }

    /// The addresses of a link, or of all links.
    pub(crate) async fn addresses(&self, link: Option<u32>) -> Result<BTreeSet<(u32, IpNet)>> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed("cannot list addresses".into()))?;
        let wanted = messages.iter().filter(|message| link.is_none_or(|index| message.header.index == index));
        Ok(wanted.filter_map(|message| Some((message.header.index, address_of(message)?))).collect())
    }

    /// Makes a link have exactly these addresses, all usable at once (no duplicate address detection).
    pub(crate) async fn set_addresses(&self, link: &Link, wanted: &BTreeSet<IpNet>) -> Result<()> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed("cannot list addresses".into()))?;
        let mut present = BTreeSet::new();
        for message in messages.into_iter().filter(|message| message.header.index == link.index) {
            let Some(address) = address_of(&message) else { continue };
            if wanted.contains(&address) {
                present.insert(address);
            } else {
                let deleted = self.handle.address().del(message).execute().await;
                deleted.map_err(failed(format!("cannot take {address} from the link {}", link.name)))?;
            }
        }
        for address in wanted.difference(&present) {
            let mut request = self.handle.address().add(link.index, address.addr(), address.prefix_len());
            if address.addr().is_ipv6() {
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            let added = unless_there(request.execute().await);
            added.map_err(failed(format!("cannot give the link {} the address {address}", link.name)))?;
        }
        Ok(())
    }

    /// Routes a range over a link; the default route is the range of length 0. Says whether this link has the route
    /// now: another link may have had one for the same range before, which is left as it is.
    pub(crate) async fn route(&self, to: IpNet, via: IpAddr, link: u32) -> Result<bool> {
        if self.routes(to).await?.contains(&(Some(via), Some(link))) {
            return Ok(true);
        }
        let request = match (to, via) {
            (IpNet::V4(to), IpAddr::V4(via)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .gateway(via)
                .output_interface(link)
                .build(),
            (IpNet::V6(to), IpAddr::V6(via)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .gateway(via)
                .output_interface(link)
                .build(),
            _ => return Err(Error::internal(format!("a route to {to} cannot go by {via}"))),
        };
        let added = self.handle.route().add(request).execute().await;
        unless_there(added).map_err(failed(format!("cannot add the route to {to} by {via}")))
    }

    /// The next hops (gateway, link) of the routes in the main table to exactly this range.
    pub(crate) async fn routes(&self, to: IpNet) -> Result<Vec<(Option<IpAddr>, Option<u32>)>> {
        let filter = match to {
            IpNet::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpNet::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let messages: Vec<RouteMessage> = self
            .handle
            .route()
            .get(filter)
            .execute()
            .try_collect()
            .await
            .map_err(failed("cannot list routes".into()))?;
        Ok(messages.iter().filter(|message| leads_to(message, to)).map(next_hop).collect())
    }

    /// Makes the permanent neighbours of a link be exactly these: guests cannot poison what is not learned.
    pub(crate) async fn set_neighbours(&self, link: &Link, wanted: &BTreeSet<(IpAddr, Mac)>) -> Result<()> {
        let messages: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed("cannot list neighbours".into()))?;
        let mut present = BTreeSet::new();
        for message in messages {
            let ours = message.header.ifindex == link.index && message.header.state == NeighbourState::Permanent;
            let Some(entry) = ours.then(|| neighbour_of(&message)).flatten() else { continue };
            if wanted.contains(&entry) {
                present.insert(entry);
            } else if !wanted.iter().any(|(address, _)| *address == entry.0) {
                let deleted = self.handle.neighbours().del(message).execute().await;
                deleted.map_err(failed(format!("cannot forget the neighbour {}", entry.0)))?;
            }
        }
        for (address, mac) in wanted.difference(&present) {
            let request = self.handle.neighbours().add(link.index, *address).link_layer_address(&mac.0).replace();
            request.execute().await.map_err(failed(format!("cannot enter the neighbour {address} ({mac})")))?;
        }
        Ok(())
    }
}

fn link_of(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: Vec::new(),
        mtu: 0,
        master: None,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master),
            _ => {}
        }
    }
    link
}

/// `IFA_LOCAL` where there is one: on a point-to-point link `IFA_ADDRESS` is the other side's.
fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let attribute = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    IpNet::new(attribute(true).or_else(|| attribute(false))?, message.header.prefix_len).ok()
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn leads_to(message: &RouteMessage, to: IpNet) -> bool {
    /// `RT_TABLE_MAIN` of linux/rtnetlink.h.
    const MAIN: u8 = 254;
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip_of(address),
        _ => None,
    });
    message.header.table == MAIN
        && message.header.destination_prefix_length == to.prefix_len()
        && destination.map_or(to.prefix_len() == 0, |address| address == to.network())
}

fn next_hop(message: &RouteMessage) -> (Option<IpAddr>, Option<u32>) {
    let mut hop = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => hop.0 = ip_of(address),
            RouteAttribute::Oif(link) => hop.1 = Some(*link),
            _ => {}
        }
    }
    hop
}

fn neighbour_of(message: &NeighbourMessage) -> Option<(IpAddr, Mac)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(&bytes[..]).ok().map(Mac),
            _ => {}
        }
    }
    Some((address?, mac?))
}
