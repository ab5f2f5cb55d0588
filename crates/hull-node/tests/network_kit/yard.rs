//! Two hosts on which one topology after another is built by the node's own code, and namespaces that play the VMs.
//!
//! ```text
//!   host 0 ─┬─ underlay ─┬─ host 1                     each end: a namespace ── tap ══ thread ══ tap of the network
//!      br-ext ── segment ── br-ext                     the thread tells of every packet that comes out of the network
//!                 └ the machine outside (an end)
//!      wan0 ══ the world beyond the host's own way out (an end for each host)
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hull_node::network::Networks;
use hull_types::{
    id::{NetworkId, PortId, RouterId},
    link::{DesiredNetwork, DesiredPort},
    network::Mac,
    path::{PathEnd, PathPacket, PathProtocol, PathQuery, PathReport, PathStart},
};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    net::{AddressFamily, Protocol, SendFlags, SocketType, sendto, socket},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{
    frames::{self, Heard, heard},
    open_tap,
    site::{OUTSIDE, OUTSIDE6, Site},
    topology::{Broken, From, Shot, Topology},
};

/// Much longer than anything takes here, neighbours that are asked for twice included.
const ARRIVAL: Duration = Duration::from_secs(10);
/// Frames are carried within this, mostly; what comes later is noticed with the next packets.
const GRACE: Duration = Duration::from_millis(4);

const OUTSIDE_MAC: Mac = Mac([0x02, 0xff, 0, 0, 0, 1]);
const WORLD_MAC: Mac = Mac([0x02, 0xff, 0, 0, 0, 2]);

/// Where a packet may come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spot {
    Port(PortId),
    Outside,
    World(usize),
}

struct Sighting {
    at: Spot,
    heard: Heard,
}

/// A namespace at the far end of a tap, or of none for a while.
struct End {
    name: String,
    raw: [OwnedFd; 2],
    far: Arc<OwnedFd>,
    carrier: Option<Carrier>,
}

/// What carries frames between an end and a tap of a network.
struct Carrier {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Carrier {
    fn new(near: OwnedFd, far: Arc<OwnedFd>, mac: Mac, at: Spot, told: Sender<Sighting>) -> Self {
        let stop = eventfd(0, EventfdFlags::empty()).unwrap();
        let ended = stop.try_clone().unwrap();
        let thread = std::thread::spawn(move || carry(&near, &far, &ended, mac, at, &told));
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Carrier {
    /// The tap goes with it.
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl End {
    fn new(name: String) -> Self {
        run("ip", &["netns", "add", &name]);
        let far = open_tap(&name, "eth0");
        let path = format!("/run/netns/{name}");
        let opened = std::thread::spawn(move || {
            let file = std::fs::File::open(path).unwrap();
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            // As a guest without address-generation privacy, at once: the link-local address is the MAC's own.
            for (key, value) in [("accept_dad", "0"), ("addr_gen_mode", "0"), ("accept_ra", "0")] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/eth0/{key}"), value).unwrap();
            }
            // IPPROTO_RAW: whole packets, with their headers.
            let whole = Some(Protocol::from_raw(255.try_into().unwrap()));
            [AddressFamily::INET, AddressFamily::INET6].map(|family| socket(family, SocketType::RAW, whole).unwrap())
        });
        let raw = opened.join().unwrap();
        Self { name, raw, far: Arc::new(far), carrier: None }
    }

    fn plug(mut self, near: OwnedFd, mac: Mac, at: Spot, told: &Sender<Sighting>) -> Self {
        self.carrier = Some(Carrier::new(near, Arc::clone(&self.far), mac, at, told.clone()));
        self
    }

    fn unplug(mut self) -> Self {
        self.carrier = None;
        self
    }

    /// Runs `ip` lines inside, all in one process.
    fn ip(&self, lines: &str) {
        batch(&self.name, lines);
    }

    /// Sends a whole packet; false where the end itself has no way to send it.
    fn send(&self, packet: &[u8], to: IpAddr) -> bool {
        let socket = &self.raw[usize::from(to.is_ipv6())];
        sendto(socket, packet, SendFlags::empty(), &SocketAddr::new(to, 0)).is_ok()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.carrier = None;
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Lines that fail are passed over: what shall be taken away may not be there.
fn batch(namespace: &str, lines: &str) {
    let mut child = Command::new("ip")
        .args(["-n", namespace, "-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines.as_bytes()).unwrap();
    child.wait().unwrap();
}

fn carry(near: &OwnedFd, far: &OwnedFd, stop: &OwnedFd, mac: Mac, at: Spot, told: &Sender<Sighting>) {
    /// A virtio header without offloads comes before each frame of a tap (`IFF_VNET_HDR`).
    const HEADER: usize = 10;
    for tap in [near, far] {
        rustix::io::ioctl_fionbio(tap, true).unwrap();
    }
    let mut frame = vec![0; 70_000];
    loop {
        let mut ready =
            [PollFd::new(near, PollFlags::IN), PollFd::new(far, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        if poll(&mut ready, None).is_err() {
            continue;
        }
        let [from_near, from_far, ended] = ready.map(|fd| !fd.revents().is_empty());
        if ended {
            return;
        }
        while let Some(length) = from_near.then(|| rustix::io::read(near, &mut frame).ok()).flatten() {
            if let Some(heard) = heard(&frame[HEADER..length], mac) {
                let _ = told.send(Sighting { at, heard });
            }
            let _ = rustix::io::write(far, &frame[..length]);
        }
        while let Some(length) = from_far.then(|| rustix::io::read(far, &mut frame).ok()).flatten() {
            let _ = rustix::io::write(near, &frame[..length]);
        }
    }
}

/// A packet, what was said of it, and what became of it.
pub struct Outcome {
    pub shot: Shot,
    pub number: u16,
    pub report: PathReport,
    /// Where it came out.
    pub arrived: BTreeSet<Spot>,
    pub answered: bool,
}

/// The hosts.
pub struct Yard {
    site: Site,
    // Before the hosts go, their guests do.
    ends: BTreeMap<(usize, PortId), End>,
    idle: Vec<End>,
    outside: End,
    worlds: Vec<End>,
    told: Sender<Sighting>,
    sightings: Mutex<Receiver<Sighting>>,
    seen: BTreeMap<u16, (BTreeSet<Spot>, bool)>,
    networks: BTreeSet<(usize, NetworkId)>,
    routers: BTreeSet<(usize, RouterId)>,
    name: String,
    shots: u16,
    made: u32,
}

impl Yard {
    pub fn new(number: usize) -> Self {
        // What is broken by hand shall stay so until the next topology.
        let site = Site::repaired(2, Duration::from_secs(3600));
        let (told, sightings) = channel();
        let name = format!("hy-{}-{number}", std::process::id());
        let tap = open_tap(site.segment.namespace(), "out0");
        site.segment.run("ip link set seg mtu 1500; ip link set out0 master seg up; ip addr flush dev seg").unwrap();
        let outside = End::new(format!("{name}-outside")).plug(tap, OUTSIDE_MAC, Spot::Outside, &told);
        outside.ip(&format!(
            "link set eth0 address {OUTSIDE_MAC} mtu 9000 up\n\
             addr add {OUTSIDE}/24 dev eth0\naddr add {OUTSIDE6}/64 dev eth0 nodad\n"
        ));
        let worlds = (0..2).map(|host| {
            let bench = &site.hosts[host];
            let tap = open_tap(bench.host.namespace(), "wan0");
            let lines = "ip link set wan0 up; ip addr add 198.51.100.1/24 dev wan0; \
                ip addr add 2001:db8:fe::1/64 dev wan0 nodad; ip route replace default via 198.51.100.2; \
                ip -6 route replace default via 2001:db8:fe::2";
            let end = End::new(format!("{name}-world{host}")).plug(tap, WORLD_MAC, Spot::World(host), &told);
            end.ip(&format!(
                "link set eth0 address {WORLD_MAC} mtu 9000 up\n\
                 addr add 198.51.100.2/24 dev eth0\naddr add 2001:db8:fe::2/64 dev eth0 nodad\n"
            ));
            bench.host.run(lines).unwrap();
            end
        });
        let worlds = worlds.collect();
        Self {
            site,
            ends: BTreeMap::new(),
            idle: vec![],
            outside,
            worlds,
            told,
            sightings: Mutex::new(sightings),
            seen: BTreeMap::new(),
            networks: BTreeSet::new(),
            routers: BTreeSet::new(),
            name,
            shots: 10_000,
            made: 0,
        }
    }

    /// Makes the hosts hold this topology instead of what they hold, as a node does it, and then breaks what it says.
    pub async fn build(&mut self, topology: &Topology) {
        let hosts = 0..topology.hosts;
        let routers = hosts.clone().flat_map(|host| topology.routers.iter().map(move |router| (host, router.id)));
        let routers: BTreeSet<_> = routers.collect();
        for (host, router) in self.routers.difference(&routers) {
            self.site.hosts[*host].networks.remove_router(*router).await.unwrap();
        }
        self.routers = routers;
        let stays = |(host, port): &(usize, PortId)| topology.places.get(port) == Some(host);
        let gone = self.ends.keys().copied().filter(|end| !stays(end)).collect::<Vec<_>>();
        self.idle.extend(gone.iter().filter_map(|end| self.ends.remove(end)).map(End::unplug));
        let there = |network: &&DesiredNetwork| network.id != topology.external().id || topology.leads_out();
        let on = |host| topology.networks.iter().filter(there).map(move |network| (host, network.id));
        let networks = hosts.clone().flat_map(on);
        let networks: BTreeSet<_> = networks.collect();
        for (host, network) in self.networks.difference(&networks) {
            self.site.hosts[*host].networks.remove(*network).await.unwrap();
        }
        self.networks = networks;
        let places = topology.places.iter().map(|(port, host)| (*port, *host)).collect();
        for host in hosts {
            let bench = &self.site.hosts[host];
            for network in topology.networks.iter().filter(there) {
                bench.networks.apply(&self.site.seen(network, &places, host)).await.unwrap();
            }
            for router in &topology.routers {
                bench.networks.apply_router(&topology.router_on(router, host)).await.unwrap();
            }
        }
        for (network, port) in topology.ports() {
            self.plug(&topology.networks[network], port, topology.places[&port.id]).await;
        }
        // What the outside knows of neighbours is of another topology, and so is what it heard of sizes.
        self.outside.ip("neigh flush dev eth0\nroute flush cache\n");
        if let Some(broken) = &topology.broken {
            self.break_it(broken);
        }
    }

    async fn plug(&mut self, network: &DesiredNetwork, port: &DesiredPort, host: usize) {
        let key = (host, port.id);
        if !self.ends.contains_key(&key) {
            let tap = self.site.hosts[host].networks.tap(network.id, port.id).await.unwrap();
            self.made += 1;
            let end = self.idle.pop().unwrap_or_else(|| End::new(format!("{}-{}", self.name, self.made)));
            self.ends.insert(key, end.plug(tap, port.mac, Spot::Port(port.id), &self.told));
        }
        // Whatever fits the guest: what is too large is for the network to say. Down first: its link-local address is then
        // made of its MAC anew, and what it knew of neighbours is gone.
        let mut lines = format!(
            "addr flush dev eth0\nlink set eth0 down\nlink set eth0 address {} mtu 9000\nlink set eth0 up\n\
             route flush cache\n",
            port.mac
        );
        for address in &port.addresses {
            let subnet = network.subnets.iter().find(|subnet| subnet.cidr.contains(address)).unwrap();
            let (nodad, metadata) =
                if address.is_ipv4() { ("", "169.254.169.254") } else { (" nodad", "fd00:ec2::254") };
            let _ = writeln!(lines, "addr add {address}/{} dev eth0{nodad}", subnet.cidr.prefix_len());
            let _ = writeln!(lines, "route replace default via {} dev eth0", subnet.gateway.unwrap());
            let way = if subnet.gateway_is_ours { format!("via {} ", subnet.gateway.unwrap()) } else { String::new() };
            let _ = writeln!(lines, "route replace {metadata} {way}dev eth0");
        }
        for pair in &port.allowed_pairs {
            let nodad = if pair.addresses.addr().is_ipv4() { "" } else { " nodad" };
            let _ = writeln!(lines, "addr add {} dev eth0{nodad}", pair.addresses);
        }
        self.ends[&key].ip(&lines);
    }

    fn break_it(&self, broken: &Broken) {
        let tail = |id: uuid::Uuid| id.simple().to_string()[20..].to_owned();
        let (namespace, lines) = match broken {
            Broken::NoWayOut { host, router } => {
                (self.site.hosts[*host].router_namespace(*router), "route del default\nroute del ::/0\n".to_owned())
            }
            Broken::NoRange { host, router, range } => {
                (self.site.hosts[*host].router_namespace(*router), format!("route del {range}\n"))
            }
            Broken::RouterEnd { host, router, network } => {
                (self.site.hosts[*host].router_namespace(*router), format!("link set net{} down\n", tail(network.0)))
            }
            Broken::NetworkEnd { host, router, network } => {
                (self.site.hosts[*host].namespace(*network), format!("link set rt{} down\n", tail(router.0)))
            }
            Broken::Tap { host, network, port } => {
                (self.site.hosts[*host].namespace(*network), format!("link set tap{} down\n", tail(port.0)))
            }
            Broken::Tunnel { host, network } => {
                (self.site.hosts[*host].namespace(*network), "link set vx0 down\n".to_owned())
            }
        };
        batch(&namespace, &lines);
    }

    /// Asks where the packet gets to, then sends it and sees where it does.
    pub async fn fire(&mut self, topology: &Topology, shot: Shot) -> Outcome {
        let report = self.walk(topology, shot).await;
        self.shots += 1;
        let number = self.shots;
        let bytes = packet(shot, number);
        self.sender(topology, shot).send(&bytes, shot.destination);
        let wanted = expected(topology, shot, &report);
        let patience = if matches!(wanted, Expected::Nothing | Expected::AtMostAnswer) { GRACE } else { ARRIVAL };
        let deadline = Instant::now() + patience;
        loop {
            let (arrived, answered) = self.seen.get(&number).cloned().unwrap_or_default();
            let outcome = Outcome { shot, number, report: report.clone(), arrived, answered };
            if (outcome.agrees(topology) && patience == ARRIVAL) || Instant::now() >= deadline {
                return outcome;
            }
            // Services of a network that was made just now may still be opening their sockets.
            let again = Instant::now() + if wanted == Expected::Answer { Duration::from_millis(300) } else { patience };
            if !self.hear(again.min(deadline)) && wanted == Expected::Answer {
                self.sender(topology, shot).send(&bytes, shot.destination);
            }
        }
    }

    fn sender(&self, topology: &Topology, shot: Shot) -> &End {
        match shot.from {
            From::Outside => &self.outside,
            From::Vm { network, port } => {
                let port = topology.networks[network].ports[port].id;
                &self.ends[&(topology.places[&port], port)]
            }
        }
    }

    /// What was seen of a packet until now.
    pub fn later(&mut self, outcome: &mut Outcome) {
        let now = Instant::now();
        while self.hear(now + GRACE) {}
        let (arrived, answered) = self.seen.get(&outcome.number).cloned().unwrap_or_default();
        (outcome.arrived, outcome.answered) = (arrived, answered);
    }

    /// Takes the next sighting in; false where none comes in time.
    fn hear(&mut self, deadline: Instant) -> bool {
        match self.sightings.get_mut().unwrap().recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Sighting { at, heard: Heard::Request(number) }) => {
                self.seen.entry(number).or_default().0.insert(at);
                true
            }
            Ok(Sighting { heard: Heard::Answer(number), .. }) => {
                self.seen.entry(number).or_default().1 = true;
                true
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => panic!("nobody carries frames any more"),
        }
    }

    /// Asks hosts one after another, as the server does, until the packet's way ends.
    async fn walk(&self, topology: &Topology, shot: Shot) -> PathReport {
        let Shot { source, destination, protocol, size, .. } = shot;
        let external = topology.external().id;
        let (mut host, start) = match shot.from {
            From::Outside => {
                (topology.host_of_floating(destination).unwrap_or(0), PathStart::Outside { network: external })
            }
            From::Vm { network, port } => {
                let (network, port) = (topology.networks[network].id, topology.networks[network].ports[port].id);
                (topology.places[&port], PathStart::Port { network, port })
            }
        };
        let mut query = PathQuery { start, packet: PathPacket { source, destination, protocol, size } };
        let mut hops = Vec::new();
        loop {
            let mut report = self.site.hosts[host].networks.explain_path(query).await.unwrap();
            hops.append(&mut report.hops);
            let start = match report.end {
                PathEnd::Tunnel { node, network } => {
                    let at = |bench: &super::Bench| IpAddr::from(bench.host.address()) == node;
                    let Some(next) = self.site.hosts.iter().position(at) else { return PathReport { hops, ..report } };
                    host = next;
                    PathStart::Tunnel { network }
                }
                PathEnd::Outside => match topology.host_of_floating(report.packet.destination) {
                    Some(next) if next != host => {
                        host = next;
                        PathStart::Outside { network: external }
                    }
                    _ => return PathReport { hops, ..report },
                },
                _ => return PathReport { hops, ..report },
            };
            query = PathQuery { start, packet: report.packet };
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    At(PortId),
    /// Out of the cloud.
    Beyond,
    Answer,
    /// Whoever is spoken for would get the answer.
    AtMostAnswer,
    Nothing,
}

/// What an explanation says will be seen.
fn expected(topology: &Topology, shot: Shot, report: &PathReport) -> Expected {
    match report.end {
        PathEnd::Delivered { port } => Expected::At(port),
        PathEnd::Service => match shot.from {
            From::Vm { network, port } if topology.answerable(network, port, shot.source) => Expected::Answer,
            From::Vm { .. } | From::Outside => Expected::AtMostAnswer,
        },
        PathEnd::Outside => {
            // On the segment outside there is one machine; beyond the host's own way out, everything.
            let to = report.packet.destination;
            let on_segment = topology.external().subnets.iter().any(|subnet| subnet.cidr.contains(&to));
            let is_machine = [OUTSIDE, OUTSIDE6].contains(&to.to_string().as_str());
            let by_host = report.hops.last().is_some_and(|hop| hop.part == "host");
            if is_machine || !on_segment || by_host { Expected::Beyond } else { Expected::Nothing }
        }
        PathEnd::Dropped | PathEnd::Tunnel { .. } => Expected::Nothing,
    }
}

impl Outcome {
    /// Whether what was seen is what was said.
    pub fn agrees(&self, topology: &Topology) -> bool {
        let arrived: Vec<Spot> = self.arrived.iter().copied().collect();
        match expected(topology, self.shot, &self.report) {
            Expected::At(port) => arrived == [Spot::Port(port)],
            Expected::Beyond => matches!(arrived[..], [Spot::Outside | Spot::World(_)]),
            Expected::Answer => self.answered && arrived.is_empty(),
            Expected::AtMostAnswer => arrived.is_empty(),
            Expected::Nothing => arrived.is_empty() && !self.answered,
        }
    }

    pub fn passes(&self) -> bool {
        !self.arrived.is_empty() || self.answered
    }
}

/// The packet's bytes, from its IP header on.
fn packet(shot: Shot, number: u16) -> Vec<u8> {
    let Shot { source, destination, protocol, size, .. } = shot;
    let nobody = Mac([0; 6]);
    let path = frames::Path { from_mac: nobody, to_mac: nobody, from: source, to: destination };
    let ip = if source.is_ipv4() { 20 } else { 40 };
    let fill = |header: u16| vec![7; usize::from(size - ip - header)];
    let [high, low] = number.to_be_bytes();
    let frame = match protocol {
        PathProtocol::Tcp { port } => frames::tcp_syn_with(path, number, port, &fill(20)),
        // A question for names, which is answered with something whatever follows it.
        PathProtocol::Udp { port } => {
            let mut question =
                [&[high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x', 0, 0, 1, 0, 1][..], &fill(8)].concat();
            question.truncate(fill(8).len());
            frames::datagram(path, number, port, &question)
        }
        PathProtocol::Icmp => {
            let kind = if source.is_ipv4() { 8 } else { 128 };
            frames::icmp(path, kind, &[&[high, low, 0, 1][..], &fill(8)].concat())
        }
    };
    frame[14..].to_vec()
}
