//! What the kernel holds in one network namespace: links, addresses, bridges' tables, neighbours, rules; and routes, which
//! the kernel itself is asked for, packet by packet. Read with `ip -j`, `bridge -j` and `nft -j`: a walk is rare, and
//! people who doubt it can run the same commands.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use hull_types::{
    error::{Error, Result},
    network::Mac,
};
use ipnet::IpNet;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    super::{command, layout::BRIDGE, netns::Netns},
    packet::Packet,
    rules::{By, Rules},
    words::Words,
};

/// A link, as `ip -j -d addr` tells it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Link {
    ifindex: u32,
    #[serde(rename = "ifname")]
    pub(super) name: String,
    #[serde(default)]
    pub(super) mtu: u32,
    #[serde(default)]
    address: String,
    #[serde(default)]
    pub(super) master: Option<String>,
    #[serde(default)]
    link_index: Option<u32>,
    #[serde(default)]
    link_netnsid: Option<i64>,
    #[serde(default)]
    linkinfo: LinkInfo,
    #[serde(default)]
    addr_info: Vec<Address>,
    #[serde(default)]
    flags: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct LinkInfo {
    #[serde(default)]
    info_kind: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Address {
    #[serde(default)]
    local: Option<IpAddr>,
    #[serde(default)]
    prefixlen: u8,
}

impl Link {
    pub(super) fn mac(&self) -> Option<Mac> {
        self.address.parse().ok()
    }

    pub(super) fn is(&self, kind: &str) -> bool {
        self.linkinfo.info_kind == kind
    }

    pub(super) fn is_up(&self) -> bool {
        self.flags.iter().any(|flag| flag == "UP")
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.addr_info.iter().filter_map(|address| IpNet::new(address.local?, address.prefixlen).ok())
    }
}

/// An entry of a bridge's or tunnel's table.
#[derive(Clone, Debug, Deserialize)]
struct Forwarding {
    mac: String,
    ifname: String,
    #[serde(default)]
    dst: Option<IpAddr>,
    #[serde(default)]
    master: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Neighbour {
    dst: IpAddr,
    dev: String,
    #[serde(default)]
    lladdr: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Peer {
    nsid: i64,
    #[serde(default)]
    name: Option<String>,
}

/// Where a packet goes next, by the kernel's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// To this namespace itself.
    Here,
    /// Out by a link, to a next hop (the destination itself where it is on the link).
    Out { link: String, next: IpAddr, gateway: bool },
    /// Nowhere; the kernel's word for it.
    Nowhere(String),
}

#[derive(Clone, Debug, Deserialize)]
struct RouteGot {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    dev: String,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    via: Option<Via>,
}

#[derive(Clone, Debug, Deserialize)]
struct Via {
    host: IpAddr,
}

/// One namespace.
pub(super) struct Space {
    namespace: Netns,
    pub(super) rules: Rules,
    /// Listed when the first rule is told of.
    words: OnceCell<Words>,
    links: Vec<Link>,
    table: Vec<Forwarding>,
    neighbours: Vec<Neighbour>,
    names: HashMap<i64, Option<String>>,
}

fn read<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    let text = if text.trim().is_empty() { "[]" } else { text };
    serde_json::from_str(text)
        .map_err(|error| Error::unavailable(format!("what `{what}` says cannot be read: {error}")))
}

/// The next of several answers in a row.
fn next_of<T: DeserializeOwned>(
    what: &str,
    told: &mut impl Iterator<Item = serde_json::Result<Value>>,
) -> Result<Vec<T>> {
    let bad = |why: String| Error::unavailable(format!("what `{what}` says cannot be read: {why}"));
    let next = told.next().ok_or_else(|| bad("it says nothing".to_owned()))?;
    serde_json::from_value(next.map_err(|error| bad(error.to_string()))?).map_err(|error| bad(error.to_string()))
}

impl Space {
    pub(super) async fn look(namespace: Netns) -> Result<Self> {
        let told = namespace
            .run(|| -> Result<[String; 3]> {
                Ok([
                    command::run("nft", &["-j", "-nnn", "list", "ruleset"], "")?,
                    command::run("ip", &["-j", "-d", "-batch", "-"], "addr\nneigh show\nnetns list-id\n")?,
                    command::run("bridge", &["-j", "fdb", "show"], "")?,
                ])
            })
            .await??;
        let [rules, told, table] = told;
        let mut told = serde_json::Deserializer::from_str(&told).into_iter::<Value>();
        let links = next_of("ip addr", &mut told)?;
        let neighbours = next_of("ip neigh show", &mut told)?;
        let peers: Vec<Peer> = next_of("ip netns list-id", &mut told)?;
        Ok(Self {
            namespace,
            rules: Rules::parse(&rules)?,
            words: OnceCell::new(),
            links,
            table: read("bridge fdb show", &table)?,
            neighbours,
            names: peers.into_iter().map(|peer| (peer.nsid, peer.name)).collect(),
        })
    }

    /// What decided, as people read it: the listing is another one than the rules', which people can take too.
    pub(super) async fn words(&self, by: &By, passes: bool) -> Result<String> {
        let list = || self.namespace.run(|| command::run("nft", &["-a", "list", "ruleset"], ""));
        let words = self.words.get_or_try_init(|| async { Ok::<_, Error>(Words::parse(&list().await??)) }).await?;
        Ok(words.of(by, passes))
    }

    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub(super) fn by_index(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.ifindex == index)
    }

    /// The ports of a bridge.
    pub(super) fn ports(&self, bridge: &str) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |link| link.master.as_deref() == Some(bridge))
    }

    /// The far end of a pair of links: the name of its namespace (none for one without a name) and its index there.
    pub(super) fn peer(&self, link: &Link) -> Option<(Option<&str>, u32)> {
        let (index, id) = (link.link_index?, link.link_netnsid?);
        Some((self.names.get(&id).and_then(|name| name.as_deref()), index))
    }

    /// The MAC of a next hop on the network's bridge: entered or learned, or that of the port which may have the address.
    pub(super) fn mac_on_bridge(&self, address: IpAddr) -> Option<Mac> {
        let holder = || {
            let holders = self.rules.holders(address);
            let up = |tap: &str| self.link(tap).is_some_and(|link| link.master.is_some() && link.is_up());
            holders.into_iter().find(|(tap, _)| up(tap)).map(|(_, mac)| mac)
        };
        self.neighbour(BRIDGE, address).or_else(holder)
    }

    /// The MAC of a next hop on a link.
    fn neighbour(&self, link: &str, address: IpAddr) -> Option<Mac> {
        let entry = self.neighbours.iter().find(|entry| entry.dev == link && entry.dst == address)?;
        entry.lladdr.as_deref()?.parse().ok()
    }

    /// The port of a bridge that leads to a MAC.
    pub(super) fn port_to(&self, bridge: &str, mac: Mac) -> Option<&str> {
        let mac = mac.to_string();
        let of_bridge = |entry: &&Forwarding| entry.master.as_deref() == Some(bridge) && entry.ifname != bridge;
        let told = self.table.iter().filter(of_bridge).find(|entry| entry.mac == mac);
        told.map(|entry| entry.ifname.as_str())
    }

    /// The node behind a tunnel that has a MAC.
    pub(super) fn node_of(&self, tunnel: &str, mac: Mac) -> Option<IpAddr> {
        let mac = mac.to_string();
        self.table.iter().filter(|entry| entry.ifname == tunnel && entry.mac == mac).find_map(|entry| entry.dst)
    }

    /// Whether the namespace itself has an address.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        self.links.iter().flat_map(Link::addresses).any(|own| own.addr() == address)
    }

    /// What a packet is masqueraded as on a link.
    pub(super) fn masquerade(&self, link: &str, v4: bool) -> Option<IpAddr> {
        self.link(link)?.addresses().map(|own| own.addr()).find(|own| own.is_ipv4() == v4 && !is_link_local(*own))
    }

    /// The link that leads from here to an address, by the kernel's word.
    pub(super) async fn link_towards(&self, address: IpAddr) -> Result<Option<&Link>> {
        let to = address.to_string();
        let asked = self.namespace.run(move || command::run("ip", &["-j", "route", "get", &to], "")).await?;
        let Ok(said) = asked else { return Ok(None) };
        let got: Vec<RouteGot> = read("ip route get", &said)?;
        Ok(got.first().and_then(|got| self.link(&got.dev)))
    }

    /// Where the kernel sends a packet that came by a link.
    pub(super) async fn route(&self, packet: &Packet) -> Result<Route> {
        let (to, from, by, mark) = (
            packet.destination.to_string(),
            packet.source.to_string(),
            packet.came_by.clone(),
            packet.mark.to_string(),
        );
        let destination = packet.destination;
        let asked = self.namespace.run(move || {
            let mut words = vec!["-j", "route", "get", &to, "from", &from, "iif", &by];
            if mark != "0" {
                words.extend(["mark", &mark]);
            }
            command::run("ip", &words, "")
        });
        let said = match asked.await? {
            Ok(said) => said,
            Err(error) => return Ok(Route::Nowhere(refusal(&error.detail))),
        };
        let got: Vec<RouteGot> = read("ip route get", &said)?;
        let Some(got) = got.into_iter().next() else { return Ok(Route::Nowhere("no route".to_owned())) };
        let gateway = got.gateway.or(got.via.map(|via| via.host));
        Ok(match got.kind.as_deref() {
            Some("local" | "anycast") => Route::Here,
            Some(kind @ ("blackhole" | "unreachable" | "prohibit" | "throw")) => Route::Nowhere(kind.to_owned()),
            _ => Route::Out { link: got.dev, next: gateway.unwrap_or(destination), gateway: gateway.is_some() },
        })
    }
}

/// The kernel's own words out of the command's.
fn refusal(said: &str) -> String {
    said.rsplit("answers: ").next().unwrap_or(said).trim().to_ascii_lowercase()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4 == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
