//! The border to networks: namespaces, bridges, taps, rules, and the small services each network has.
//!
//! ```text
//!            host namespace                │        a network's namespace (hull-<id>)
//!                                          │
//!   eth0 ◄─ masquerade ── hull-<id> ◄──────┼─ veth ─► up0 ◄─ masquerade ── br0 (gateway, DHCP, DNS, metadata)
//!           (host.rs)                      │                                │ │
//!                                          │      rules/: who may what      tap… ──► QEMU, as a descriptor
//! ```
//!
//! Between networks and between nodes:
//!
//! ```text
//!   net 1 (hull-<id>)     router (hull-r-<id>)     net 2 (hull-<id>)             another node
//!   tap… ── br0 ── rt… ════ net…      net… ════ rt… ── br0 ── vx0 ═══ VXLAN ═══ vx0 ── br0 ── tap…
//!                                 gw0 ════ gw… ── br0 (external network) ── pv0 ════ the host's bridge ── outside
//! ```
//!
//! [`LinuxNetworks`] is the real one: `keeper` brings a network about and repairs it, `router` a router, `vxlan` and
//! `provider` what is beyond the bridge; `links`, `nft`, `netns`, `tap`, `announce` are their hands, `router_rules`, `rules` and the responders (`dhcp4`, `dhcp6`, `ra`, `dns`, `metadata`) are pure, `serve` has their sockets.

mod announce;
mod command;
mod dhcp4;
mod dhcp6;
mod dns;
mod explain;
#[cfg(test)]
mod fixture;
mod forwarding;
mod host;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod hostile_tests;
mod keeper;
mod layout;
mod links;
mod linux;
mod metadata;
mod netns;
mod nft;
mod provider;
mod ra;
mod reload;
mod router;
mod router_rules;
mod rules;
mod serve;
mod shaping;
mod tap;
mod view;
mod vxlan;
mod walk;

pub use layout::{LinkRange, Prefix};
pub use linux::{LinuxNetworks, NetworksConfig};
pub(crate) use tap::loose as loose_tap;

use std::os::fd::OwnedFd;

use async_trait::async_trait;
use hull_types::{
    error::Result,
    id::{NetworkId, PortId, RouterId, VmId},
    link::{DesiredNetwork, DesiredRouter},
    path::{PathQuery, PathReport},
};

use crate::hypervisor::ByteStream;

/// What the metadata service tells a VM of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestMetadata {
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// Its project's id, as text.
    pub project: String,
    /// The node's zone.
    pub zone: String,
    /// The flavor's name, or `custom`.
    pub flavor: String,
    /// Public keys, with names.
    pub ssh_keys: Vec<(String, String)>,
    /// User data, decoded.
    pub user_data: Option<Vec<u8>>,
    /// Free labels.
    pub metadata: std::collections::BTreeMap<String, String>,
}

/// The host's networks.
#[async_trait]
pub trait Networks: Send + Sync + 'static {
    /// Makes the network be as said: namespace, bridge, gateway, uplink, rules, DHCP, DNS, metadata. Idempotent, and
    /// repairs what was damaged without touching what is right.
    async fn apply(&self, network: &DesiredNetwork) -> Result<()>;

    /// Removes a network and everything of it. Nothing happens where there is none.
    async fn remove(&self, network: NetworkId) -> Result<()>;

    /// Networks of Hull's that are on the host, known or not.
    async fn list(&self) -> Result<Vec<NetworkId>>;

    /// Makes the router be as said: namespace, links to its networks, routes, its way out, translation. Its networks must
    /// have been applied; what could be done without those that were not is done. Idempotent, and repairs like
    /// [`Networks::apply`].
    async fn apply_router(&self, router: &DesiredRouter) -> Result<()>;

    /// Removes a router and everything of it. Nothing happens where there is none.
    async fn remove_router(&self, router: RouterId) -> Result<()>;

    /// Routers of Hull's that are on the host, known or not.
    async fn routers(&self) -> Result<Vec<RouterId>>;

    /// Opens the port's tap on the network's bridge (multi-queue off), making it where needed. The tap lives as long as
    /// a descriptor of it does.
    async fn tap(&self, network: NetworkId, port: PortId) -> Result<OwnedFd>;

    /// What the metadata service shall tell this VM; replaces what it told before.
    async fn set_metadata(&self, metadata: GuestMetadata) -> Result<()>;

    /// Forgets a VM's metadata.
    async fn forget_metadata(&self, vm: VmId) -> Result<()>;

    /// A TCP connection to a port of the VM, made from inside its network.
    async fn connect(&self, network: NetworkId, address: std::net::IpAddr, port: u16) -> Result<Box<dyn ByteStream>>;

    /// What the kernel holds for this port, for people: rules, counters, lease.
    async fn explain(&self, network: NetworkId, port: PortId) -> Result<Vec<String>>;

    /// What of the networks here works less well than it should, and what mends it. Nothing, where that cannot be known.
    fn troubles(&self) -> Vec<String> {
        Vec::new()
    }

    /// How far a packet gets on this host, computed from what the kernel holds.
    async fn explain_path(&self, query: PathQuery) -> Result<PathReport>;
}
