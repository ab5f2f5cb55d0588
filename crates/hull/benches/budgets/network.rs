//! One network with 1,000 ports on one node, each in a group of its own with 200 rules; and what Hull's path costs a packet.
//!
//! The networks are Hull's own (`LinuxNetworks`), in this process, on a host that is a namespace. A guest is a namespace whose
//! cable is named like its port's tap, so that no hypervisor and no program stands between two guests: what is measured is
//! the kernel's path through Hull's rules. The peer is the same two ends on a bridge without any.

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use hull_node::network::{GuestMetadata, LinuxNetworks, Networks, NetworksConfig, Prefix};
use hull_testkit::{TestHost, TestNet};
use hull_types::{
    id::{NetworkId, PortId, SecurityGroupId, SecurityRuleId, VmId},
    link::{DesiredGroup, DesiredNetwork, DesiredPort, DesiredSubnet, PortPlace},
    network::{Mac, Uplink},
    port::Bandwidth,
    security_group::{Direction, Family, Remote, RuleMatch, SecurityRule},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use uuid::Uuid;

use crate::{
    Effort,
    table::{Row, Samples, number},
};

const PORTS: u16 = 1000;
const RULES: u16 = 200;
/// What the two ends talk on; every group lets it in.
const OPEN: u16 = 5001;

pub(crate) async fn rows(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let host = Host::new()?;
    let network = network(PORTS, RULES)?;
    scale(&host, &network, effort, &mut rows).await?;
    let guests = Guests::plug(&host, &network)?;
    path(&guests, effort, &mut rows).await?;
    services(&host, &network, effort, &mut rows).await?;
    host.networks.remove(network.id).await?;
    Ok(rows)
}

/// A host with Hull's networks on it.
struct Host {
    networks: LinuxNetworks,
    config: NetworksConfig,
    prefix: Prefix,
    _namespace: TestHost,
    _state: tempfile::TempDir,
}

impl Host {
    fn new() -> anyhow::Result<Self> {
        let namespace = TestHost::new("bench")?;
        let state = tempfile::tempdir()?;
        let prefix = Prefix::new(&format!("b{:04}", std::process::id() % 10_000))?;
        let mut config = NetworksConfig::new(state.path().join("networks"));
        config.prefix = prefix.clone();
        config.host_namespace = Some(namespace.namespace_path());
        let networks = LinuxNetworks::new(config.clone())?;
        Ok(Self { networks, config, prefix, _namespace: namespace, _state: state })
    }

    fn namespace(&self, network: &DesiredNetwork) -> String {
        format!("{}-{}", self.prefix.as_str(), network.id.0.simple())
    }
}

async fn scale(host: &Host, network: &DesiredNetwork, effort: Effort, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let what = format!("{PORTS} ports, {RULES} rules each");
    let (resident, slab) = (kib("/proc/self/status", "VmRSS:"), kib("/proc/meminfo", "SUnreclaim:"));
    let begin = Instant::now();
    host.networks.apply(network).await?;
    let loaded = begin.elapsed();
    let grown = |path, key, before: u64| number(kib(path, key).saturating_sub(before) as f64 / 1024.0);
    let memory = format!(
        "Hull +{} MiB, kernel +{} MiB",
        grown("/proc/self/status", "VmRSS:", resident),
        grown("/proc/meminfo", "SUnreclaim:", slab)
    );
    rows.push(Row::new(
        format!("network of {what}: all loaded"),
        "",
        format!("{} s; {memory}", number(loaded.as_secs_f64())),
    ));

    let mut each = Samples::default();
    let mut changed = network.clone();
    for run in 0..effort.runs(15, 5) {
        let port = 10_000 + u16::try_from(run)?;
        changed.groups[run].rules[0].matches = RuleMatch::Tcp { from: port, to: port };
        let begin = Instant::now();
        host.networks.apply(&changed).await?;
        each.took(begin.elapsed());
    }
    let listed = inside(&host.namespace(network), "nft list table inet hull")?;
    ensure!(listed.contains("10000"), "the changed rule is not in the kernel");
    rows.push(Row::new(format!("rule change until in the kernel, {what}"), "", each.spread("ms")));

    let again = LinuxNetworks::new(host.config.clone())?;
    let begin = Instant::now();
    again.apply(&changed).await?;
    let adopted = begin.elapsed();
    inside(&host.namespace(network), "nft flush ruleset")?;
    let begin = Instant::now();
    again.apply(&changed).await?;
    let rebuilt = begin.elapsed();
    let measured =
        format!("{} s; {} s where all rules are gone", number(adopted.as_secs_f64()), number(rebuilt.as_secs_f64()));
    rows.push(Row::new(format!("restart until all is as said, {what}"), "", measured));
    Ok(())
}

/// Two guests on Hull's network and the same two on a plain bridge.
struct Guests {
    ours: [TestHost; 2],
    plain: [TestHost; 2],
    /// The first two ports' addresses.
    addresses: [IpAddr; 2],
}

impl Guests {
    fn plug(host: &Host, network: &DesiredNetwork) -> anyhow::Result<Self> {
        let inside_name = host.namespace(network);
        let plug = |index: usize| -> anyhow::Result<TestHost> {
            let port = &network.ports[index];
            let guest = TestHost::new("guest")?;
            let tap = format!("tap{}", &port.id.0.simple().to_string()[20..]);
            for line in [
                format!("ip link add g0 type veth peer name {tap} netns {inside_name}"),
                format!("ip link set g0 address {} mtu {} up", port.mac, network.mtu),
                format!("ip addr add {}/16 dev g0", port.addresses[0]),
                "ip route add 169.254.169.254 dev g0".to_owned(),
            ] {
                guest.run(&line).with_context(|| line.clone())?;
            }
            inside(&inside_name, &format!("ip link set {tap} master br0 mtu {} up", network.mtu))?;
            Ok(guest)
        };
        let switch = TestNet::new()?;
        let plain = [switch.host("one")?, switch.host("two")?];
        for end in &plain {
            end.run(&format!("ip link set eth0 mtu {}", network.mtu))?;
        }
        let addresses = [network.ports[0].addresses[0], network.ports[1].addresses[0]];
        Ok(Self { ours: [plug(0)?, plug(1)?], plain, addresses })
    }
}

async fn path(guests: &Guests, effort: Effort, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let [mut ours, mut plain] = [[Samples::default(), Samples::default()], [Samples::default(), Samples::default()]];
    for _ in 0..effort.runs(7, 3) {
        let plain_to = IpAddr::V4(guests.plain[1].address());
        for (samples, ends, to) in
            [(&mut ours, &guests.ours, guests.addresses[1]), (&mut plain, &guests.plain, plain_to)]
        {
            let paths = [ends[0].namespace_path(), ends[1].namespace_path()];
            let (rate, trip) = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
                Ok((throughput(&paths, to)?, round_trip(&paths, to)?))
            })
            .await??;
            samples[0].push(rate);
            samples[1].push(trip);
        }
    }
    for (index, (what, unit)) in
        [("throughput, one TCP stream", "Gbit/s"), ("round trip, UDP", "µs")].into_iter().enumerate()
    {
        let peer = ours[index].ratio(&plain[index], "plain bridge", unit);
        rows.push(Row::new(format!("guest to guest: {what}"), "", ours[index].spread(unit)).against(peer));
    }
    Ok(())
}

/// Runs something inside a namespace, on a thread of its own.
fn within<T: Send + 'static>(
    namespace: &Path,
    what: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> std::thread::JoinHandle<anyhow::Result<T>> {
    let namespace = namespace.to_owned();
    std::thread::spawn(move || {
        let file = File::open(&namespace)?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        what()
    })
}

fn joined<T>(thread: std::thread::JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("an end of the path panicked"))?
}

/// Gbit/s of one second of a TCP stream.
fn throughput(ends: &[PathBuf; 2], to: IpAddr) -> anyhow::Result<f64> {
    let (ready, opened) = std::sync::mpsc::channel();
    let sink = within(&ends[1], move || {
        let listener = TcpListener::bind((to, OPEN))?;
        ready.send(())?;
        let (mut stream, _) = listener.accept()?;
        let (mut total, mut buffer, begin) = (0, vec![0; 256 << 10], Instant::now());
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(total as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e9),
                length => total += length,
            }
        }
    });
    opened.recv().context("the far end could not listen")?;
    joined(within(&ends[0], move || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, OPEN), Duration::from_secs(10))?;
        let (block, begin) = (vec![7; 256 << 10], Instant::now());
        while begin.elapsed() < Duration::from_secs(1) {
            stream.write_all(&block)?;
        }
        Ok(())
    }))?;
    joined(sink)
}

/// The median of 2,000 round trips, in µs.
fn round_trip(ends: &[PathBuf; 2], to: IpAddr) -> anyhow::Result<f64> {
    const TRIPS: usize = 2000;
    let (ready, opened) = std::sync::mpsc::channel();
    let echo = within(&ends[1], move || {
        let socket = UdpSocket::bind((to, OPEN))?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        ready.send(())?;
        let mut packet = [0; 64];
        for _ in 0..TRIPS {
            let (length, peer) = socket.recv_from(&mut packet)?;
            socket.send_to(&packet[..length], peer)?;
        }
        Ok(())
    });
    opened.recv().context("the far end could not listen")?;
    let median = joined(within(&ends[0], move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        socket.connect((to, OPEN))?;
        let (mut packet, mut each) = ([0; 64], Samples::default());
        for _ in 0..TRIPS {
            let begin = Instant::now();
            socket.send(&packet)?;
            socket.recv(&mut packet)?;
            each.push(begin.elapsed().as_secs_f64() * 1e6);
        }
        Ok(each.median())
    }))?;
    joined(echo)?;
    Ok(median)
}

/// A client behind none of a port's own limits: on the bridge, but not by a tap.
async fn services(host: &Host, network: &DesiredNetwork, effort: Effort, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let port = &network.ports[2];
    let client = TestHost::new("client")?;
    let inside_name = host.namespace(network);
    client.run(&format!("ip link add g0 type veth peer name client netns {inside_name}"))?;
    client.run(&format!("ip link set g0 address {} mtu {} up", port.mac, network.mtu))?;
    client.run(&format!("ip addr add {}/16 dev g0", port.addresses[0]))?;
    client.run("ip route add 169.254.169.254 dev g0; ip route add 255.255.255.255 dev g0")?;
    inside(&inside_name, "ip link set client master br0 up")?;
    let vm = port.vm.context("the port has no VM")?;
    host.networks.set_metadata(guest(vm)).await?;
    let (path, mac) = (client.namespace_path(), port.mac);
    let (mut leases, mut documents) = (Samples::default(), Samples::default());
    for _ in 0..effort.runs(5, 2) {
        let here = path.clone();
        leases.push(tokio::task::spawn_blocking(move || joined(within(&here, move || discover(mac)))).await??);
        let here = path.clone();
        documents.push(tokio::task::spawn_blocking(move || joined(within(&here, ask_metadata))).await??);
    }
    rows.push(Row::new("DHCP: offers a second, one network", "", leases.spread("/s")));
    rows.push(Row::new("metadata: documents a second, 8 connections", "", documents.spread("/s")));
    Ok(())
}

/// Offers a second, some questions under way at a time.
fn discover(mac: Mac) -> anyhow::Result<f64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
    socket.set_broadcast(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut question = vec![1, 1, 6, 0, 0, 0, 0, 7, 0, 0, 0x80, 0];
    question.resize(28, 0);
    question.extend(mac.0);
    question.resize(236, 0);
    question.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    let (mut answer, mut offers, begin) = ([0; 1500], 0u32, Instant::now());
    for _ in 0..16 {
        socket.send_to(&question, (Ipv4Addr::BROADCAST, 67))?;
    }
    while begin.elapsed() < Duration::from_secs(2) {
        socket.recv(&mut answer).context("no offer came")?;
        offers += 1;
        socket.send_to(&question, (Ipv4Addr::BROADCAST, 67))?;
    }
    Ok(f64::from(offers) / begin.elapsed().as_secs_f64())
}

/// Documents a second over connections that stay.
fn ask_metadata() -> anyhow::Result<f64> {
    let begin = Instant::now();
    let connection = || -> anyhow::Result<u32> {
        let mut stream = TcpStream::connect_timeout(&"169.254.169.254:80".parse()?, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let (mut documents, mut answer) = (0, [0; 4096]);
        while begin.elapsed() < Duration::from_secs(2) {
            stream.write_all(b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: m\r\n\r\n")?;
            let length = stream.read(&mut answer)?;
            ensure!(answer[..length].starts_with(b"HTTP/1.1 200"), "metadata refused the question");
            documents += 1;
        }
        Ok(documents)
    };
    let total: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(connection)).collect();
        let counts =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?);
        counts.sum::<anyhow::Result<u32>>()
    })?;
    Ok(f64::from(total) / begin.elapsed().as_secs_f64())
}

/// A network whose ports have a group each.
fn network(ports: u16, rules: u16) -> anyhow::Result<DesiredNetwork> {
    let port = |number: u16| {
        let [high, low] = (number + 10).to_be_bytes();
        DesiredPort {
            id: PortId(Uuid::now_v7()),
            vm: Some(VmId(Uuid::now_v7())),
            place: PortPlace::Here,
            mac: Mac([0x52, 0x54, 0, 0, high, low]),
            addresses: vec![IpAddr::from([10, 90, high, low])],
            allowed_pairs: vec![],
            port_security: true,
            hostname: format!("vm{number}"),
            groups: vec![SecurityGroupId(Uuid::from_u128(number.into()))],
            dhcp_options: vec![],
            bandwidth: Bandwidth::default(),
        }
    };
    let group = |number: u16| -> anyhow::Result<DesiredGroup> {
        Ok(DesiredGroup {
            id: SecurityGroupId(Uuid::from_u128(number.into())),
            stateful: true,
            rules: (0..rules).map(|rule| security_rule(number, rule)).collect::<anyhow::Result<_>>()?,
            members: vec![],
        })
    };
    Ok(DesiredNetwork {
        id: NetworkId(Uuid::now_v7()),
        name: "bench".to_owned(),
        subnets: vec![DesiredSubnet {
            cidr: "10.90.0.0/16".parse()?,
            gateway: Some(IpAddr::from([10, 90, 0, 1])),
            gateway_is_ours: true,
            dns: vec![],
            dhcp: true,
            routes: vec![],
            dhcp_options: vec![],
            router: None,
        }],
        uplink: Uplink::Nat,
        vni: None,
        mtu: 1500,
        domain: "hull.internal".to_owned(),
        ports: (0..ports).map(port).collect(),
        groups: (0..ports).map(group).collect::<anyhow::Result<_>>()?,
    })
}

/// The last of a group's rules lets the ends talk; the others are ports and ranges that no other group has.
fn security_rule(group: u16, number: u16) -> anyhow::Result<SecurityRule> {
    let port = 20_000 + number * 20 + group % 10;
    let [high, low] = (group * 7 + number).to_be_bytes();
    let (matches, remote) = match number {
        0 => (RuleMatch::Tcp { from: port, to: port + 5 }, "0.0.0.0/0".to_owned()),
        1 => (RuleMatch::Udp { from: OPEN, to: OPEN }, "10.90.0.0/16".to_owned()),
        2 => (RuleMatch::Tcp { from: OPEN, to: OPEN }, "10.90.0.0/16".to_owned()),
        n if n % 2 == 0 => (RuleMatch::Tcp { from: port, to: port + 5 }, format!("10.{high}.{low}.0/24")),
        _ => (RuleMatch::Udp { from: port, to: port }, format!("10.{high}.{low}.0/24")),
    };
    Ok(SecurityRule {
        id: SecurityRuleId(Uuid::nil()),
        direction: Direction::Ingress,
        family: Family::Ipv4,
        matches,
        remote: Remote::Net(remote.parse()?),
        description: String::new(),
    })
}

fn guest(vm: VmId) -> GuestMetadata {
    GuestMetadata {
        vm,
        name: "bench".to_owned(),
        hostname: "bench".to_owned(),
        project: "bench".to_owned(),
        zone: "z1".to_owned(),
        flavor: "small".to_owned(),
        ssh_keys: vec![],
        user_data: None,
        metadata: std::collections::BTreeMap::new(),
    }
}

/// A line of a file of the kernel's, in KiB.
fn kib(path: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Runs a command line inside a namespace.
fn inside(namespace: &str, line: &str) -> anyhow::Result<String> {
    let output = Command::new("ip").args(["netns", "exec", namespace, "sh", "-c", line]).output()?;
    ensure!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
