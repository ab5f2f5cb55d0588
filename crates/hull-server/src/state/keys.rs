//! Where each document lies in the store. The table in `ARCHITECTURE.md` is made of these.

use std::net::IpAddr;

use hull_types::{
    id::{NetworkId, ProjectId},
    name::Name,
    network::{Mac, Vni},
};
use uuid::Uuid;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $prefix:literal;)*) => {
        /// The kinds of documents kept one per id.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind {$(
            $(#[$doc])*
            $kind,
        )*}

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The first segment of its keys.
            pub const fn prefix(self) -> &'static str {
                match self {$(Self::$kind => $prefix,)*}
            }
        }
    };
}

kinds! {
    /// Projects.
    Project = "project";
    /// Flavors.
    Flavor = "flavor";
    /// Keypairs.
    Keypair = "keypair";
    /// Images.
    Image = "image";
    /// What was said of an image's bytes before they came, by image.
    Promise = "image-promise";
    /// Networks.
    Network = "network";
    /// Subnets.
    Subnet = "subnet";
    /// Routers.
    Router = "router";
    /// Floating IPs.
    FloatingIp = "floating-ip";
    /// Security groups.
    SecurityGroup = "security-group";
    /// Ports.
    Port = "port";
    /// What users want of VMs.
    Vm = "vm";
    /// Where VMs shall be, by VM.
    Placement = "placement";
    /// What nodes say of VMs, by VM.
    VmStatus = "vm-status";
    /// Migrations.
    Migration = "migration";
    /// Nodes.
    Node = "node";
    /// What nodes say of themselves, by node.
    NodeStatus = "node-status";
    /// Nodes that answer, by node; under leases.
    NodeLease = "node-lease";
    /// What projects hold, by project.
    Usage = "usage";
    /// History.
    Event = "event";
    /// API tokens.
    Token = "token";
    /// Join tokens.
    Join = "join";
    /// Users.
    User = "user";
    /// The hashes of users' passwords, by user.
    UserPassword = "user-password";
    /// Groups of users.
    UserGroup = "user-group";
    /// Roles given to users and groups.
    RoleAssignment = "role-assignment";
    /// Application credentials.
    AppCredential = "app-credential";
    /// Keys that sign tokens.
    SigningKey = "signing-key";
    /// Signed tokens given back before their time.
    EndedSession = "ended-session";
}

impl Kind {
    /// The key of one document.
    pub fn key(self, id: Uuid) -> String {
        format!("{}/{id}", self.prefix())
    }

    /// Takes a key apart; `None` for keys that are not documents (names, addresses, replays).
    pub fn parse(key: &str) -> Option<(Self, Uuid)> {
        let (prefix, id) = key.split_once('/')?;
        let kind = Self::ALL.iter().copied().find(|kind| kind.prefix() == prefix)?;
        Some((kind, Uuid::parse_str(id).ok()?))
    }
}

/// The key that keeps a name unique in its project, or in the cloud for nouns without one.
pub fn name(kind: &str, project: Option<ProjectId>, name: &Name) -> String {
    match project {
        Some(project) => format!("name/{kind}/{project}/{name}"),
        None => format!("name/{kind}/-/{name}"),
    }
}

/// The key that keeps an address unique in its network.
pub fn address(network: NetworkId, address: IpAddr) -> String {
    format!("address/{network}/{address}")
}

/// The key that keeps a MAC unique in its network.
pub fn mac(network: NetworkId, mac: Mac) -> String {
    format!("mac/{network}/{mac}")
}

/// The key that keeps a network's number unique in the cloud.
pub fn vni(vni: Vni) -> String {
    format!("vni/{vni}")
}

/// The key that keeps a router's number unique in the cloud.
pub fn router_number(number: u32) -> String {
    format!("router-number/{number}")
}

/// The key that keeps a host name unique in its network.
pub fn hostname(network: NetworkId, hostname: &str) -> String {
    format!("hostname/{network}/{hostname}")
}

/// The prefix of the index over all audit records, by time.
pub const AUDIT_AT: &str = "audit-at/";

/// The prefix of a project's audit records, or of those that are no project's.
pub fn audits(project: Option<ProjectId>) -> String {
    match project {
        Some(project) => format!("audit/{project}/"),
        None => "audit/-/".to_owned(),
    }
}

/// The key of an audit record.
pub fn audit(project: Option<ProjectId>, id: Uuid) -> String {
    format!("{}{id}", audits(project))
}

/// The key in the index over all audit records; it holds whose the record is.
pub fn audit_at(id: Uuid) -> String {
    format!("{AUDIT_AT}{id}")
}

/// The prefix of all replays.
pub const REPLAYS: &str = "idempotency/";

/// When the server last looked for what is old, by the clock of then.
pub const LOOKED: &str = "retention/looked";

/// The key of one replay, by who calls. Callers over the local socket share one space.
pub fn replay(caller: Option<Uuid>, key: &str) -> String {
    match caller {
        Some(caller) => format!("{REPLAYS}{caller}/{key}"),
        None => format!("{REPLAYS}-/{key}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn document_keys_come_apart_as_they_were_made() {
        let id = Uuid::now_v7();
        for &kind in Kind::ALL {
            assert_eq!(Kind::parse(&kind.key(id)), Some((kind, id)));
        }
        assert_eq!(Kind::parse("name/vm/-/a"), None);
        assert_eq!(Kind::parse("vm/not-an-id"), None);
        assert_eq!(Kind::parse("vm"), None);
    }
}
