//! Typed ids. One type per noun, so that a port's id cannot be passed where a VM's is wanted.
//!
//! Ids are UUIDs of version 7: they sort by creation, which is what keyset pagination walks along.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $noun:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, format = Uuid)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The noun this id names, as the API and the command line spell it.
            pub const NOUN: &'static str = $noun;
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}:{}", $noun, self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    )*};
}

ids! {
    /// A project: the tenant that owns resources.
    ProjectId = "project";
    /// A user who signs in.
    UserId = "user";
    /// A group of users.
    UserGroupId = "user-group";
    /// A role given to someone somewhere.
    RoleAssignmentId = "role-assignment";
    /// An application credential.
    AppCredentialId = "app-credential";
    /// A key that signs tokens.
    SigningKeyId = "signing-key";
    /// A signed token.
    SessionId = "session";
    /// An API token.
    TokenId = "token";
    /// An image record (its bytes are named by a [`crate::digest::Digest`]).
    ImageId = "image";
    /// A flavor.
    FlavorId = "flavor";
    /// A keypair.
    KeypairId = "keypair";
    /// A virtual machine, as its user owns it.
    VmId = "vm";
    /// A network.
    NetworkId = "network";
    /// A subnet of a network.
    SubnetId = "subnet";
    /// A port: a VM's end on a network.
    PortId = "port";
    /// A security group.
    SecurityGroupId = "security-group";
    /// A rule of a security group.
    SecurityRuleId = "security-rule";
    /// A router.
    RouterId = "router";
    /// A floating IP.
    FloatingIpId = "floating-ip";
    /// A node: a host that runs VMs.
    NodeId = "node";
    /// A migration of a VM from one node to another.
    MigrationId = "migration";
    /// An event in the history.
    EventId = "event";
    /// A record of the audit.
    AuditId = "audit";
    /// A byte stream between server and node (console, VNC, TCP).
    StreamId = "stream";
}
