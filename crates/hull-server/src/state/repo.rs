//! How a decision becomes one transaction.
//!
//! ```text
//!   State ──decide──> Changes ──txn──> compares + ops ──commit──> durable
//!     ^                                    │
//!     └── wait for the newest revision <── conflict: something read has changed
//! ```

use std::sync::Arc;

use hull_core::change::{Changes, Claim, Doc, Expect, Write};
use hull_store::{Compare, Key, Op, Outcome, Revision, Store, StoreError, Txn};
use hull_types::{
    error::{Error, Result},
    event::Event,
};
use serde::Serialize;

use super::{
    keys::{self, Kind},
    view::State,
};

/// A transaction with, beside each condition, the refusal it means where deciding again cannot help.
#[derive(Debug, Default)]
pub struct Plan {
    txn: Txn,
    refusals: Vec<Option<Error>>,
}

/// What became of a plan.
#[derive(Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is durable, at this revision.
    At(u64),
    /// What was read has changed meanwhile: read and decide again.
    Stale,
}

impl Plan {
    /// The transaction of a decision made on `state`.
    ///
    /// # Errors
    /// Where a document has no JSON form.
    pub fn new(changes: Changes, state: &State) -> Result<Self> {
        let mut plan = Self::default();
        for expect in &changes.expect {
            plan.expect(expect, state);
        }
        for write in changes.writes {
            plan.write(write)?;
        }
        Ok(plan)
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.txn.ops.is_empty()
    }

    /// Adds a condition; `refusal` where it means that the call is refused for good.
    pub fn when(&mut self, compare: Compare, refusal: Option<Error>) {
        self.txn.compares.push(compare);
        self.refusals.push(refusal);
    }

    /// Adds a document of the server's own.
    ///
    /// # Errors
    /// Where it has no JSON form.
    pub fn put(&mut self, key: impl Into<Key>, document: &impl Serialize) -> Result<()> {
        let key = key.into();
        let value =
            serde_json::to_vec(document).map_err(|e| Error::internal(format!("{key} has no JSON form: {e}")))?;
        self.txn.ops.push(Op::Put { key, value: value.into(), lease: None });
        Ok(())
    }

    /// Deletes a key of the server's own.
    pub fn delete(&mut self, key: impl Into<Key>) {
        self.txn.ops.push(Op::Delete(key.into()));
    }

    /// The events among its documents.
    pub fn events(&self) -> Vec<Event> {
        let puts = self.txn.ops.iter().filter_map(|op| match op {
            Op::Put { key, value, .. } => Some((Kind::parse(key)?.0, value)),
            Op::Delete(_) => None,
        });
        let events = puts.filter(|(kind, _)| *kind == Kind::Event);
        events.filter_map(|(_, value)| serde_json::from_slice(value).ok()).collect()
    }

    /// Commits.
    ///
    /// # Errors
    /// The refusal of the condition that failed, or the store's failure.
    #[tracing::instrument(name = "commit", skip_all)]
    pub async fn commit(mut self, store: &Arc<dyn Store>) -> Result<Committed> {
        match store.txn(self.txn).await.map_err(store_error)? {
            Outcome::Committed(Revision(revision)) => Ok(Committed::At(revision)),
            Outcome::Conflict(at) => match self.refusals.get_mut(at).and_then(Option::take) {
                Some(refusal) => Err(refusal),
                None => Ok(Committed::Stale),
            },
        }
    }

    fn expect(&mut self, expect: &Expect, state: &State) {
        let compare = match *expect {
            Expect::Exists(doc) => Compare::Exists(doc_key(doc).into()),
            Expect::Unchanged(doc) => match revision(doc, state) {
                Some(revision) => Compare::Modified(doc_key(doc).into(), Revision(revision)),
                None => Compare::Absent(doc_key(doc).into()),
            },
        };
        self.when(compare, None);
    }

    fn write(&mut self, write: Write) -> Result<()> {
        match write {
            Write::PutProject(it) => self.put(Kind::Project.key(it.id.0), &it)?,
            Write::PutUsage { project, usage } => self.put(Kind::Usage.key(project.0), &usage)?,
            Write::PutFlavor(it) => self.put(Kind::Flavor.key(it.id.0), &it)?,
            Write::PutKeypair(it) => self.put(Kind::Keypair.key(it.id.0), &it)?,
            Write::PutImage(it) => self.put(Kind::Image.key(it.id.0), &it)?,
            Write::PutNetwork(it) => self.put(Kind::Network.key(it.id.0), &it)?,
            Write::PutSubnet(it) => self.put(Kind::Subnet.key(it.id.0), &it)?,
            Write::PutRouter(it) => self.put(Kind::Router.key(it.id.0), &it)?,
            Write::PutFloatingIp(it) => self.put(Kind::FloatingIp.key(it.id.0), &it)?,
            Write::PutSecurityGroup(it) => self.put(Kind::SecurityGroup.key(it.id.0), &it)?,
            Write::PutPort(it) => self.put(Kind::Port.key(it.id.0), &it)?,
            Write::PutVm(it) => self.put(Kind::Vm.key(it.id.0), &it)?,
            Write::PutPlacement(it) => self.put(Kind::Placement.key(it.vm.0), &it)?,
            Write::PutVmStatus(it) => self.put(Kind::VmStatus.key(it.vm.0), &it)?,
            Write::PutMigration(it) => self.put(Kind::Migration.key(it.id.0), &it)?,
            Write::PutNode(it) => self.put(Kind::Node.key(it.id.0), &it)?,
            Write::PutNodeStatus(it) => self.put(Kind::NodeStatus.key(it.node.0), &it)?,
            Write::Event(it) => self.put(Kind::Event.key(it.id.0), &it)?,
            Write::DeleteProject(id) => self.delete(Kind::Project.key(id.0)),
            Write::DeleteUsage(id) => self.delete(Kind::Usage.key(id.0)),
            Write::DeleteFlavor(id) => self.delete(Kind::Flavor.key(id.0)),
            Write::DeleteKeypair(id) => self.delete(Kind::Keypair.key(id.0)),
            Write::DeleteImage(id) => self.delete(Kind::Image.key(id.0)),
            Write::DeleteNetwork(id) => self.delete(Kind::Network.key(id.0)),
            Write::DeleteSubnet(id) => self.delete(Kind::Subnet.key(id.0)),
            Write::DeleteRouter(id) => self.delete(Kind::Router.key(id.0)),
            Write::DeleteFloatingIp(id) => self.delete(Kind::FloatingIp.key(id.0)),
            Write::DeleteSecurityGroup(id) => self.delete(Kind::SecurityGroup.key(id.0)),
            Write::DeletePort(id) => self.delete(Kind::Port.key(id.0)),
            Write::DeleteVm(id) => self.delete(Kind::Vm.key(id.0)),
            Write::DeletePlacement(id) => self.delete(Kind::Placement.key(id.0)),
            Write::DeleteVmStatus(id) => self.delete(Kind::VmStatus.key(id.0)),
            Write::DeleteNode(id) => self.delete(Kind::Node.key(id.0)),
            Write::DeleteNodeStatus(id) => self.delete(Kind::NodeStatus.key(id.0)),
            Write::PutUser(it) => self.put(Kind::User.key(it.id.0), &it)?,
            Write::PutUserPassword(it) => self.put(Kind::UserPassword.key(it.user.0), &it)?,
            Write::PutUserGroup(it) => self.put(Kind::UserGroup.key(it.id.0), &it)?,
            Write::PutRoleAssignment(it) => self.put(Kind::RoleAssignment.key(it.id.0), &it)?,
            Write::PutAppCredential(it) => self.put(Kind::AppCredential.key(it.id.0), &it)?,
            Write::DeleteUser(id) => self.delete(Kind::User.key(id.0)),
            Write::DeleteUserPassword(id) => self.delete(Kind::UserPassword.key(id.0)),
            Write::DeleteUserGroup(id) => self.delete(Kind::UserGroup.key(id.0)),
            Write::DeleteRoleAssignment(id) => self.delete(Kind::RoleAssignment.key(id.0)),
            Write::DeleteAppCredential(id) => self.delete(Kind::AppCredential.key(id.0)),
            Write::DeleteToken(id) => self.delete(Kind::Token.key(id.0)),
            Write::Claim(claim) => {
                let (key, owner) = claim_key(&claim);
                self.when(Compare::Absent(key.clone().into()), claim.taken());
                self.put(key, &owner)?;
            }
            Write::Release(claim) => self.delete(claim_key(&claim).0),
        }
        Ok(())
    }
}

/// The store's failures, for people.
pub fn store_error(error: StoreError) -> Error {
    match error {
        StoreError::Full(_) => Error::insufficient(error.to_string()),
        StoreError::Closed => Error::unavailable("Hull is shutting down; try again in a moment"),
        StoreError::Malformed(why) => {
            Error::invalid(format!("this is too much for one transaction ({why}); ask for less at once"))
        }
        error => Error::internal(error.to_string()),
    }
}

fn doc_key(doc: Doc) -> String {
    match doc {
        Doc::Project(id) => Kind::Project.key(id.0),
        Doc::Usage(id) => Kind::Usage.key(id.0),
        Doc::Flavor(id) => Kind::Flavor.key(id.0),
        Doc::Keypair(id) => Kind::Keypair.key(id.0),
        Doc::Image(id) => Kind::Image.key(id.0),
        Doc::Network(id) => Kind::Network.key(id.0),
        Doc::Subnet(id) => Kind::Subnet.key(id.0),
        Doc::Router(id) => Kind::Router.key(id.0),
        Doc::FloatingIp(id) => Kind::FloatingIp.key(id.0),
        Doc::SecurityGroup(id) => Kind::SecurityGroup.key(id.0),
        Doc::Port(id) => Kind::Port.key(id.0),
        Doc::Vm(id) => Kind::Vm.key(id.0),
        Doc::Placement(id) => Kind::Placement.key(id.0),
        Doc::VmStatus(id) => Kind::VmStatus.key(id.0),
        Doc::Migration(id) => Kind::Migration.key(id.0),
        Doc::Node(id) => Kind::Node.key(id.0),
        Doc::NodeStatus(id) => Kind::NodeStatus.key(id.0),
        Doc::User(id) => Kind::User.key(id.0),
        Doc::UserGroup(id) => Kind::UserGroup.key(id.0),
        Doc::RoleAssignment(id) => Kind::RoleAssignment.key(id.0),
        Doc::AppCredential(id) => Kind::AppCredential.key(id.0),
    }
}

fn revision(doc: Doc, state: &State) -> Option<u64> {
    match doc {
        Doc::Project(id) => state.projects.get(id).map(|it| it.revision),
        Doc::Usage(id) => state.usage(id).map(|it| it.revision),
        Doc::Flavor(id) => state.flavors.get(id).map(|it| it.revision),
        Doc::Keypair(id) => state.keypairs.get(id).map(|it| it.revision),
        Doc::Image(id) => state.images.get(id).map(|it| it.revision),
        Doc::Network(id) => state.networks.get(id).map(|it| it.revision),
        Doc::Subnet(id) => state.subnets.get(id).map(|it| it.revision),
        Doc::Router(id) => state.routers.get(id).map(|it| it.revision),
        Doc::FloatingIp(id) => state.floating_ips.get(id).map(|it| it.revision),
        Doc::SecurityGroup(id) => state.groups.get(id).map(|it| it.revision),
        Doc::Port(id) => state.ports.get(id).map(|it| it.revision),
        Doc::Vm(id) => state.vms.get(id).map(|it| it.revision),
        Doc::Placement(id) => state.placement(id).map(|it| it.revision),
        Doc::VmStatus(id) => state.status(id).map(|it| it.revision),
        Doc::Migration(id) => state.migrations.get(id).map(|it| it.revision),
        Doc::Node(id) => state.nodes.get(id).map(|it| it.revision),
        Doc::NodeStatus(id) => state.node_status(id).map(|it| it.revision),
        Doc::User(id) => state.people.users.get(id).map(|it| it.revision),
        Doc::UserGroup(id) => state.people.groups.get(id).map(|it| it.revision),
        Doc::RoleAssignment(id) => state.people.assignments.get(id).map(|it| it.revision),
        Doc::AppCredential(id) => state.people.credentials.get(id).map(|it| it.revision),
    }
}

fn claim_key(claim: &Claim) -> (String, uuid::Uuid) {
    match claim {
        Claim::Name { kind, project, name, id } => (keys::name(kind.noun(), *project, name), *id),
        Claim::Address { network, address, holder } => (keys::address(*network, *address), *holder),
        Claim::Mac { network, mac, port } => (keys::mac(*network, *mac), port.0),
        Claim::Vni { vni, network } => (keys::vni(*vni), network.0),
        Claim::RouterNumber { router } => (keys::router_number(router.number()), router.0),
        Claim::Hostname { network, hostname, holder } => (keys::hostname(*network, hostname), *holder),
    }
}
