//! Hosts made of network namespaces: each [`TestHost`] has its own interfaces, routes and nftables, and a cable to
//! a [`TestNet`], which is a bridge in a namespace of its own. Nothing of the machine's own network is touched, and
//! everything goes when the values are dropped, after a panic too.
//!
//! ```text
//!   TestHost a [eth0 10.99.0.1, fd99::1] ──┐
//!                                           ├── TestNet [br0]
//!   TestHost b [eth0 10.99.0.2, fd99::2] ──┘
//! ```

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use crate::guest::packages::run;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A switch that hosts are plugged into.
#[derive(Clone, Debug)]
pub struct TestNet {
    inner: Arc<Switch>,
}

#[derive(Debug)]
struct Switch {
    namespace: Namespace,
    hosts: AtomicU16,
}

/// A namespace with one cable; processes in it are killed when it is dropped.
#[derive(Debug)]
pub struct TestHost {
    namespace: Namespace,
    net: TestNet,
    number: u16,
}

impl TestNet {
    /// An empty switch.
    ///
    /// # Errors
    /// Without root or iproute2.
    pub fn new() -> anyhow::Result<Self> {
        let namespace = Namespace::new("net")?;
        namespace.ip("link add br0 type bridge")?;
        namespace.ip("link set br0 up")?;
        Ok(Self { inner: Arc::new(Switch { namespace, hosts: AtomicU16::new(0) }) })
    }

    /// Plugs a new host in; the name only helps to read `ip netns` while a test runs.
    ///
    /// # Errors
    /// Without root or iproute2.
    pub fn host(&self, name: &str) -> anyhow::Result<TestHost> {
        let number = self.inner.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let host = TestHost { namespace: Namespace::new(name)?, net: self.clone(), number };
        let (switch, own) = (&self.inner.namespace, &host.namespace);
        switch.ip(&format!("link add p{number} type veth peer name eth0 netns {}", own.name))?;
        switch.ip(&format!("link set p{number} master br0 up"))?;
        own.ip(&format!("addr add {}/24 dev eth0", host.address()))?;
        own.ip(&format!("addr add {}/64 dev eth0 nodad", host.address6()))?;
        own.ip("link set eth0 up")?;
        Ok(host)
    }
}

impl TestHost {
    /// A host on a switch of its own.
    ///
    /// # Errors
    /// Without root or iproute2.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        TestNet::new()?.host(name)
    }

    /// The namespace's name, as in `ip netns`.
    pub fn namespace(&self) -> &str {
        &self.namespace.name
    }

    /// The file that stands for the namespace, for `setns`.
    pub fn namespace_path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.namespace.name)
    }

    /// Its IPv4 address on the switch.
    pub fn address(&self) -> Ipv4Addr {
        let [high, low] = self.number.to_be_bytes();
        Ipv4Addr::new(10, 99, high, low)
    }

    /// Its IPv6 address on the switch.
    pub fn address6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, self.number)
    }

    /// A command that will run in the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.namespace.command(program)
    }

    /// Runs a shell line in the namespace and returns what it printed.
    ///
    /// # Errors
    /// When it ends with another code than zero, with what it said.
    pub fn run(&self, line: &str) -> anyhow::Result<String> {
        run(self.command("sh").args(["-c", line]))
    }

    /// Pulls the cable at the switch's end.
    ///
    /// # Errors
    /// When the namespace was taken away meanwhile.
    pub fn unplug(&self) -> anyhow::Result<()> {
        self.net.inner.namespace.ip(&format!("link set p{} down", self.number))
    }

    /// Puts the cable back.
    ///
    /// # Errors
    /// When the namespace was taken away meanwhile.
    pub fn plug(&self) -> anyhow::Result<()> {
        self.net.inner.namespace.ip(&format!("link set p{} up", self.number))
    }
}

/// A named network namespace with its loopback up.
#[derive(Debug)]
struct Namespace {
    name: String,
}

impl Namespace {
    fn new(label: &str) -> anyhow::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ht-{}-{number}-{label}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    fn ip(&self, words: &str) -> anyhow::Result<()> {
        run(Command::new("ip").args(["-n", &self.name]).args(words.split(' '))).map(drop)
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Whoever still lives inside would keep the namespace alive. Errors mean it is gone already.
        let pids = run(Command::new("ip").args(["netns", "pids", &self.name])).unwrap_or_default();
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            drop(crate::host::KillOnDrop::new(pid));
        }
        let _ = run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}
