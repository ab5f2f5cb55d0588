//! A host, a world outside it, networks on the host, and guests that are namespaces at the other end of a tap.
//!
//! ```text
//!   world ── switch ── host ── Hull's network ── tap ══ (frames carried by a thread) ══ eth0 of a guest namespace
//! ```
//!
//! The host is a namespace too: nothing of the machine's own network is touched.

#![allow(clippy::unwrap_used)]
// Each test program uses its part of this.
#![allow(dead_code, unreachable_pub)]

pub mod frames;
pub mod site;
pub mod topology;
pub mod wire;
pub mod yard;

use std::{
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use hull_node::network::{GuestMetadata, LinuxNetworks, Networks, NetworksConfig, Prefix};
use hull_testkit::{TestHost, TestNet};
use hull_types::{
    id::{NetworkId, PortId, RouterId, SecurityGroupId, SecurityRuleId, VmId},
    link::{DesiredGroup, DesiredNetwork, DesiredPort, DesiredSubnet, PortPlace},
    network::{Mac, Uplink},
    port::Bandwidth,
    security_group::{Direction, Family, Remote, RuleMatch, SecurityRule},
};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    ioctl::{Setter, ioctl, opcode},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tempfile::TempDir;
use uuid::Uuid;

/// Generous: the machine may be loaded.
pub const SOON: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(0);
static BENCHES: AtomicU32 = AtomicU32::new(0);

/// A host with networks, and the world beyond it.
pub struct Bench {
    pub networks: LinuxNetworks,
    pub host: TestHost,
    pub world: Arc<TestHost>,
    pub prefix: Prefix,
    pub state: TempDir,
    config: NetworksConfig,
    namespaces: Namespaces,
}

/// Everything that bears this prefix and a dash. The namespaces among it go with the bench: after its `networks`, which
/// would repair them, as fields are dropped in order.
struct Namespaces(String);

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in namespaces().into_iter().filter(|name| name.starts_with(&self.0)) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

impl Bench {
    pub fn new() -> Self {
        let switch = TestNet::new().unwrap();
        let (host, world) = (switch.host("host").unwrap(), switch.host("world").unwrap());
        Self::on(host, Arc::new(world), |_| ())
    }

    /// A host and a world that are on one switch.
    pub fn on(host: TestHost, world: Arc<TestHost>, tell: impl FnOnce(&mut NetworksConfig)) -> Self {
        host.run(&format!("ip route add default via {}", world.address())).unwrap();
        host.run(&format!("ip -6 route add default via {}", world.address6())).unwrap();
        // Five characters, of this process and bench alone: tests run side by side.
        let bench = BENCHES.fetch_add(1, Ordering::Relaxed) % 16;
        let number = (std::process::id() * 16 + bench) % 36u32.pow(4);
        let digits: String =
            (0..4).map(|place| char::from_digit(number / 36u32.pow(place) % 36, 36).unwrap()).collect();
        let prefix = Prefix::new(&format!("t{digits}")).unwrap();
        let state = tempfile::tempdir().unwrap();
        let mut config = NetworksConfig::new(state.path().join("networks"));
        config.prefix = prefix.clone();
        config.host_namespace = Some(host.namespace_path());
        config.repair_every = Duration::from_secs(1);
        config.resolv_conf = state.path().join("resolv.conf");
        std::fs::write(&config.resolv_conf, format!("nameserver {}\n", world.address())).unwrap();
        tell(&mut config);
        let networks = LinuxNetworks::new(config.clone()).unwrap();
        let namespaces = Namespaces(format!("{}-", prefix.as_str()));
        Self { networks, host, world, prefix, state, config, namespaces }
    }

    /// What happens when Hull dies and starts again.
    pub fn restart(&mut self) {
        self.networks = LinuxNetworks::new(self.config.clone()).unwrap();
    }

    pub fn router_namespace(&self, router: RouterId) -> String {
        format!("{}r-{}", self.namespaces.0, router.0.simple())
    }

    /// Runs a shell line inside a router's own namespace.
    pub fn inside_router(&self, router: RouterId, line: &str) -> String {
        said(&in_namespace(&self.router_namespace(router), line))
    }

    pub fn namespace(&self, network: NetworkId) -> String {
        format!("{}{}", self.namespaces.0, network.0.simple())
    }

    /// Runs a shell line inside a network's own namespace.
    pub fn inside(&self, network: NetworkId, line: &str) -> String {
        said(&in_namespace(&self.namespace(network), line))
    }

    /// Names of everything on the host that bears this Hull's prefix.
    pub fn traces(&self) -> Vec<String> {
        let mut traces: Vec<String> =
            namespaces().into_iter().filter(|name| name.starts_with(&self.namespaces.0)).collect();
        let links = self.host.run("ip -o link; nft list tables").unwrap();
        traces.extend(links.lines().filter(|line| line.contains(self.prefix.as_str())).map(str::to_owned));
        traces
    }

    /// Plugs a guest into its port.
    pub async fn guest(&self, network: &DesiredNetwork, port: usize) -> Guest {
        let port = &network.ports[port];
        let tap = self.networks.tap(network.id, port.id).await.unwrap();
        Guest::new(tap, port.mac, network.mtu)
    }
}

fn namespaces() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn in_namespace(namespace: &str, line: &str) -> Output {
    Command::new("ip").args(["netns", "exec", namespace, "sh", "-c", line]).output().unwrap()
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A VM without a VM: a namespace whose `eth0` is the far end of a tap.
pub struct Guest {
    name: String,
    scripts: TempDir,
    stop: OwnedFd,
    carrier: Option<JoinHandle<OwnedFd>>,
}

impl Guest {
    pub fn new(tap: OwnedFd, mac: Mac, mtu: u16) -> Self {
        let name = format!("hg-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("ip").args(["netns", "add", &name]).status().unwrap();
        assert!(made.success());
        let far = open_tap(&name, "eth0");
        let stop = eventfd(0, EventfdFlags::empty()).unwrap();
        let ended = stop.try_clone().unwrap();
        let carrier = std::thread::spawn(move || carry(tap, &far, &ended));
        let guest = Self { name, scripts: tempfile::tempdir().unwrap(), stop, carrier: Some(carrier) };
        // As a guest without address-generation privacy: the link-local address is the MAC's own.
        guest.run(&format!("ip link set lo up; ip link set eth0 address {mac} mtu {mtu}"));
        guest.run("sysctl -qw net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.eth0.addr_gen_mode=0");
        guest.run("ip link set eth0 up");
        guest
    }

    /// The file that stands for its namespace, for `setns`.
    pub fn namespace_path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs a shell line in the guest; what it printed.
    pub fn run(&self, line: &str) -> String {
        said(&in_namespace(&self.name, line))
    }

    /// Runs a shell line that may fail.
    pub fn attempt(&self, line: &str) -> Result<String, String> {
        let output = in_namespace(&self.name, line);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&output.stderr)) }
    }

    /// Starts a program and leaves it running.
    pub fn start(&self, line: &str) -> Running {
        let mut command = Command::new("ip");
        // Without a shell in between, so that a signal reaches the program itself.
        command.args(["netns", "exec", &self.name]).args(line.split(' '));
        Running::start(command)
    }

    /// Gives the guest an address by hand.
    pub fn address(&self, address: &str) {
        self.run(&format!("ip addr add {address} dev eth0 nodad 2>/dev/null || ip addr add {address} dev eth0"));
    }

    /// Asks DHCP, configures what it says, and returns what it said as `key=value` lines.
    pub fn dhcp(&self) -> Result<String, String> {
        let script = self.scripts.path().join("udhcpc");
        std::fs::write(&script, DHCP_SCRIPT).unwrap();
        said(&Command::new("chmod").arg("+x").arg(&script).output().unwrap());
        let told = self.scripts.path().join("told");
        let _ = std::fs::remove_file(&told);
        self.attempt(&format!(
            "TOLD={} busybox udhcpc -i eth0 -n -q -f -t 8 -T 1 -O staticroutes -O mtu -O domain -O broadcast -s {} 2>&1",
            told.display(),
            script.display()
        ))?;
        Ok(std::fs::read_to_string(&told).unwrap())
    }

    /// Ends it and gives the tap back, as a hypervisor that hands its descriptor on.
    pub fn unplug(mut self) -> OwnedFd {
        rustix::io::write(&self.stop, &1u64.to_ne_bytes()).unwrap();
        self.carrier.take().unwrap().join().unwrap()
    }
}

const DHCP_SCRIPT: &str = r#"#!/bin/sh
[ "$1" = bound ] || exit 0
set -e
ip addr replace "$ip/$mask" broadcast "$broadcast" dev "$interface"
ip link set "$interface" mtu "$mtu"
[ -z "$router" ] || ip route replace default via "$router"
env | sort > "$TOLD"
"#;

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A process that is ended with the test.
pub struct Running(Option<std::process::Child>);

impl Running {
    /// Starts it; what it prints can be had at its end.
    pub fn start(mut command: Command) -> Self {
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        Self(Some(command.spawn().unwrap()))
    }

    /// Waits for its end; what it printed.
    pub fn output(mut self) -> String {
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Asks it to end (`ping` prints its summary then) and waits.
    pub fn interrupt(self) -> String {
        let pid = rustix::process::Pid::from_child(self.0.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        self.output()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// A tap in a namespace, framed like the network's own (`IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`).
pub fn open_tap(namespace: &str, name: &str) -> OwnedFd {
    let (path, name) = (PathBuf::from("/run/netns").join(namespace), name.to_owned());
    let opened = std::thread::spawn(move || {
        let file = std::fs::File::open(path).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        let mut request = InterfaceRequest { name: [0; 16], flags: 0x5002, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: TUNSETIFF reads a `struct ifreq`, which this is laid out as.
        unsafe { ioctl(&tun, Setter::<{ opcode::write::<i32>(b'T', 202) }, InterfaceRequest>::new(request)) }.unwrap();
        OwnedFd::from(tun)
    });
    opened.join().unwrap()
}

/// Carries frames between two taps until told to stop; gives the first back.
fn carry(near: OwnedFd, far: &OwnedFd, stop: &OwnedFd) -> OwnedFd {
    for tap in [&near, far] {
        rustix::io::ioctl_fionbio(tap, true).unwrap();
    }
    let mut frame = vec![0; 70_000];
    loop {
        let mut ready =
            [PollFd::new(&near, PollFlags::IN), PollFd::new(far, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        if poll(&mut ready, None).is_err() {
            continue;
        }
        let [from_near, from_far, told] = ready.map(|fd| !fd.revents().is_empty());
        if told {
            return near;
        }
        for (readable, from, to) in [(from_near, &near, far), (from_far, far, &near)] {
            if !readable {
                continue;
            }
            while let Ok(length) = rustix::io::read(from, &mut frame) {
                // A tap that is down takes nothing, like a cable that is out.
                let _ = rustix::io::write(to, &frame[..length]);
            }
        }
    }
}

/// A network with two local ports and the rules of Hull's default group: ssh and ICMP in, everything out.
pub fn network(number: u8) -> DesiredNetwork {
    let v4 = |host: u8| IpAddr::from([10, 90, number, host]);
    let v6 = |host: u8| -> IpAddr { format!("fd00:90:{number}::{host:x}").parse().unwrap() };
    let port = |host: u8| DesiredPort {
        id: PortId(Uuid::now_v7()),
        vm: Some(VmId(Uuid::now_v7())),
        place: PortPlace::Here,
        mac: Mac([0x52, 0x54, 0, 0, number, host]),
        addresses: vec![v4(host), v6(host)],
        allowed_pairs: vec![],
        port_security: true,
        hostname: format!("vm{host}"),
        groups: vec![DEFAULT_GROUP],
        dhcp_options: vec![],
        bandwidth: Bandwidth::default(),
    };
    let subnet = |cidr: String, gateway| DesiredSubnet {
        cidr: cidr.parse().unwrap(),
        gateway: Some(gateway),
        gateway_is_ours: true,
        dns: vec![],
        dhcp: true,
        routes: vec![],
        dhcp_options: vec![],
        router: None,
    };
    DesiredNetwork {
        id: NetworkId(Uuid::now_v7()),
        name: format!("net{number}"),
        subnets: vec![subnet(format!("10.90.{number}.0/24"), v4(1)), subnet(format!("fd00:90:{number}::/64"), v6(1))],
        uplink: Uplink::Nat,
        vni: None,
        mtu: 1400,
        domain: "hull.internal".to_owned(),
        ports: vec![port(10), port(11)],
        groups: vec![group(DEFAULT_GROUP, default_rules())],
    }
}

pub fn rule(matches: RuleMatch, remote: &str) -> SecurityRule {
    let remote: ipnet::IpNet = remote.parse().unwrap();
    SecurityRule {
        id: SecurityRuleId(Uuid::now_v7()),
        direction: Direction::Ingress,
        family: Family::of(&remote.addr()),
        matches,
        remote: Remote::Net(remote),
        description: String::new(),
    }
}

/// The group every port of [`network`] begins in.
pub const DEFAULT_GROUP: SecurityGroupId = SecurityGroupId(Uuid::from_u128(1));

pub fn group(id: SecurityGroupId, rules: Vec<SecurityRule>) -> DesiredGroup {
    DesiredGroup { id, stateful: true, rules, members: vec![] }
}

/// Puts a port into a group of its own with these rules.
pub fn set_rules(network: &mut DesiredNetwork, port: usize, rules: Vec<SecurityRule>) {
    let id = SecurityGroupId(network.ports[port].id.0);
    network.groups.retain(|group| group.id != id);
    network.groups.push(group(id, rules));
    network.ports[port].groups = vec![id];
}

pub fn default_rules() -> Vec<SecurityRule> {
    ["0.0.0.0/0", "::/0"]
        .into_iter()
        .flat_map(|all| {
            [rule(RuleMatch::Tcp { from: 22, to: 22 }, all), rule(RuleMatch::Icmp { kind: None, code: None }, all)]
        })
        .collect()
}

pub fn metadata(port: &DesiredPort) -> GuestMetadata {
    GuestMetadata {
        vm: port.vm.unwrap(),
        name: format!("{} of a test", port.hostname),
        hostname: port.hostname.clone(),
        project: "p1".to_owned(),
        zone: "z1".to_owned(),
        flavor: "small".to_owned(),
        ssh_keys: vec![("laptop".to_owned(), "ssh-ed25519 AAAA laptop".to_owned())],
        user_data: Some(b"#cloud-config\n".to_vec()),
        metadata: [("role".to_owned(), "web".to_owned())].into(),
    }
}
