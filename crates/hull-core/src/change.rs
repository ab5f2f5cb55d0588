//! What a decision asks the store to do, without knowing how it is stored.
//!
//! The server turns [`Changes`] into one transaction by an exhaustive match:
//!
//! | here | in the store |
//! |---|---|
//! | [`Expect::Unchanged`] | the key was last changed at the revision it was read at; absent, if it was absent then |
//! | [`Expect::Exists`] | the key is there |
//! | [`Write::Claim`] | the key is absent, and is put with the owner's id |
//! | other [`Write`]s | put or delete of the document's key |
//!
//! When a comparison fails the whole decision is made again on fresh documents, with one exception: a [`Claim`] of a
//! name that is held by something else is refused for good ([`Claim::taken`]).

use std::net::IpAddr;

use hull_types::{
    app_credential::AppCredential,
    error::Error,
    event::Event,
    flavor::Flavor,
    id::{
        AppCredentialId, FlavorId, FloatingIpId, ImageId, KeypairId, MigrationId, NetworkId, NodeId, PortId, ProjectId,
        RoleAssignmentId, RouterId, SecurityGroupId, SubnetId, TokenId, UserGroupId, UserId, VmId,
    },
    image::Image,
    keypair::Keypair,
    migration::Migration,
    name::Name,
    network::{Mac, Network, Subnet, Vni},
    node::{Node, NodeStatus},
    port::Port,
    project::{Project, Usage},
    role_assignment::RoleAssignment,
    router::{FloatingIp, Router},
    security_group::SecurityGroup,
    user::{User, UserPassword},
    user_group::UserGroup,
    vm::{Placement, Vm, VmStatus},
};
use uuid::Uuid;

/// A document, by its noun and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doc {
    /// A project.
    Project(ProjectId),
    /// A project's usage.
    Usage(ProjectId),
    /// A flavor.
    Flavor(FlavorId),
    /// A keypair.
    Keypair(KeypairId),
    /// An image.
    Image(ImageId),
    /// A network.
    Network(NetworkId),
    /// A subnet.
    Subnet(SubnetId),
    /// A router.
    Router(RouterId),
    /// A floating IP.
    FloatingIp(FloatingIpId),
    /// A security group.
    SecurityGroup(SecurityGroupId),
    /// A port.
    Port(PortId),
    /// A VM as its user wants it.
    Vm(VmId),
    /// Where a VM shall be.
    Placement(VmId),
    /// What its node says of a VM.
    VmStatus(VmId),
    /// A migration.
    Migration(MigrationId),
    /// A node.
    Node(NodeId),
    /// What a node says of itself.
    NodeStatus(NodeId),
    /// A user.
    User(UserId),
    /// A group of users.
    UserGroup(UserGroupId),
    /// A role given to someone.
    RoleAssignment(RoleAssignmentId),
    /// An application credential.
    AppCredential(AppCredentialId),
}

/// What must still hold when the changes are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expect {
    /// The document is exactly as the decision read it, or still absent if it was absent.
    Unchanged(Doc),
    /// The document is there, in whatever form.
    Exists(Doc),
}

/// The nouns whose names are unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Named {
    /// Projects, in the cloud.
    Project,
    /// Flavors, in the cloud.
    Flavor,
    /// Nodes, in the cloud.
    Node,
    /// Keypairs, in a project.
    Keypair,
    /// Images, in a project.
    Image,
    /// Networks, in a project.
    Network,
    /// Subnets, in a project.
    Subnet,
    /// Ports that users made, in a project.
    Port,
    /// Routers, in a project.
    Router,
    /// Floating IPs, in a project.
    FloatingIp,
    /// Security groups, in a project.
    SecurityGroup,
    /// VMs, in a project.
    Vm,
    /// Users, in the cloud.
    User,
    /// Groups of users, in the cloud.
    UserGroup,
    /// Roles: one for each subject in each scope.
    RoleAssignment,
}

impl Named {
    /// The noun, as keys and sentences spell it.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Flavor => "flavor",
            Self::Node => "node",
            Self::Keypair => "keypair",
            Self::Image => "image",
            Self::Network => "network",
            Self::Subnet => "subnet",
            Self::Port => "port",
            Self::Router => "router",
            Self::FloatingIp => "floating-ip",
            Self::SecurityGroup => "security-group",
            Self::Vm => "vm",
            Self::User => "user",
            Self::UserGroup => "user-group",
            Self::RoleAssignment => "role-assignment",
        }
    }
}

/// Something only one resource may hold at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claim {
    /// A name.
    Name {
        /// Of what kind of thing.
        kind: Named,
        /// In which project; none for kinds that are unique in the cloud.
        project: Option<ProjectId>,
        /// The name.
        name: Name,
        /// The holder.
        id: Uuid,
    },
    /// An address.
    Address {
        /// On which network.
        network: NetworkId,
        /// The address.
        address: IpAddr,
        /// The holder: a port or a floating IP.
        holder: Uuid,
    },
    /// A MAC address.
    Mac {
        /// On which network.
        network: NetworkId,
        /// The address.
        mac: Mac,
        /// The holder.
        port: PortId,
    },
    /// A network's number between nodes.
    Vni {
        /// The number.
        vni: Vni,
        /// The holder.
        network: NetworkId,
    },
    /// A router's number on nodes.
    RouterNumber {
        /// The holder, whose id tells the number.
        router: RouterId,
    },
    /// A host name.
    Hostname {
        /// On which network.
        network: NetworkId,
        /// The name, a label.
        hostname: String,
        /// The holder: a port that a user made, or a VM with as many ports there as were made with it.
        holder: Uuid,
    },
}

impl Claim {
    /// The refusal, where this claim is held by another and deciding again cannot help. Addresses, MACs and
    /// host names are drawn anew (or refused by the decision, where the caller named them), so they give none.
    pub fn taken(&self) -> Option<Error> {
        match self {
            Self::Name { kind, project, name, .. } => {
                let place = if project.is_some() { " in this project" } else { "" };
                let noun = kind.noun();
                Some(Error::already_exists(format!(
                    "there is already a {noun} named {name:?}{place}; choose another name, or delete that one first"
                )))
            }
            Self::Address { .. }
            | Self::Mac { .. }
            | Self::Vni { .. }
            | Self::RouterNumber { .. }
            | Self::Hostname { .. } => None,
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Puts a project.
    PutProject(Box<Project>),
    /// Deletes a project.
    DeleteProject(ProjectId),
    /// Puts what a project holds.
    PutUsage {
        /// The project.
        project: ProjectId,
        /// What it holds from now.
        usage: Usage,
    },
    /// Deletes a project's usage.
    DeleteUsage(ProjectId),
    /// Puts a flavor.
    PutFlavor(Box<Flavor>),
    /// Deletes a flavor.
    DeleteFlavor(FlavorId),
    /// Puts a keypair.
    PutKeypair(Box<Keypair>),
    /// Deletes a keypair.
    DeleteKeypair(KeypairId),
    /// Puts an image.
    PutImage(Box<Image>),
    /// Deletes an image's record. Its bytes go when nothing names their digest any more.
    DeleteImage(ImageId),
    /// Puts a network.
    PutNetwork(Box<Network>),
    /// Deletes a network.
    DeleteNetwork(NetworkId),
    /// Puts a subnet.
    PutSubnet(Box<Subnet>),
    /// Deletes a subnet.
    DeleteSubnet(SubnetId),
    /// Puts a router.
    PutRouter(Box<Router>),
    /// Deletes a router.
    DeleteRouter(RouterId),
    /// Puts a floating IP.
    PutFloatingIp(Box<FloatingIp>),
    /// Deletes a floating IP.
    DeleteFloatingIp(FloatingIpId),
    /// Puts a security group.
    PutSecurityGroup(Box<SecurityGroup>),
    /// Deletes a security group.
    DeleteSecurityGroup(SecurityGroupId),
    /// Puts a port.
    PutPort(Box<Port>),
    /// Deletes a port.
    DeletePort(PortId),
    /// Puts a VM.
    PutVm(Box<Vm>),
    /// Deletes a VM.
    DeleteVm(VmId),
    /// Puts a placement.
    PutPlacement(Box<Placement>),
    /// Deletes a placement.
    DeletePlacement(VmId),
    /// Puts a VM's status.
    PutVmStatus(Box<VmStatus>),
    /// Deletes a VM's status.
    DeleteVmStatus(VmId),
    /// Puts a migration.
    PutMigration(Box<Migration>),
    /// Puts a node.
    PutNode(Box<Node>),
    /// Deletes a node.
    DeleteNode(NodeId),
    /// Puts a node's status.
    PutNodeStatus(Box<NodeStatus>),
    /// Deletes a node's status.
    DeleteNodeStatus(NodeId),
    /// Puts a user.
    PutUser(Box<User>),
    /// Deletes a user.
    DeleteUser(UserId),
    /// Puts the hash of a user's password.
    PutUserPassword(Box<UserPassword>),
    /// Deletes it.
    DeleteUserPassword(UserId),
    /// Puts a group of users.
    PutUserGroup(Box<UserGroup>),
    /// Deletes a group of users.
    DeleteUserGroup(UserGroupId),
    /// Puts a role assignment.
    PutRoleAssignment(Box<RoleAssignment>),
    /// Deletes a role assignment.
    DeleteRoleAssignment(RoleAssignmentId),
    /// Puts an application credential.
    PutAppCredential(Box<AppCredential>),
    /// Deletes an application credential.
    DeleteAppCredential(AppCredentialId),
    /// Deletes an API token.
    DeleteToken(TokenId),
    /// Takes what must be free.
    Claim(Claim),
    /// Gives it back.
    Release(Claim),
    /// Adds to history.
    Event(Box<Event>),
}

/// Everything one transaction shall do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What must still hold.
    pub expect: Vec<Expect>,
    /// What changes.
    pub writes: Vec<Write>,
}

impl Changes {
    /// Nothing to do: the wish is already fulfilled.
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Requires a document to be as it was read.
    #[must_use]
    pub fn unchanged(mut self, doc: Doc) -> Self {
        self.expect(Expect::Unchanged(doc));
        self
    }

    /// Requires a document to be there.
    #[must_use]
    pub fn exists(mut self, doc: Doc) -> Self {
        self.expect(Expect::Exists(doc));
        self
    }

    /// Adds a write.
    #[must_use]
    pub fn and(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    /// Adds an event.
    #[must_use]
    pub fn event(self, event: Event) -> Self {
        self.and(Write::Event(Box::new(event)))
    }

    /// Adds all of another decision.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        other.expect.into_iter().for_each(|expect| self.expect(expect));
        self.writes.extend(other.writes);
        self
    }

    /// Adds a condition, once.
    pub fn expect(&mut self, expect: Expect) {
        if !self.expect.contains(&expect) {
            self.expect.push(expect);
        }
    }

    /// Adds a write.
    pub fn push(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// The VMs this puts, in order.
    pub fn vms(&self) -> impl Iterator<Item = &Vm> {
        self.writes.iter().filter_map(|write| match write {
            Write::PutVm(vm) => Some(vm.as_ref()),
            _ => None,
        })
    }
}
