//! `hull node drain`: a node is taken out of service, and its VMs go to others, a few at once. What is decided here is only
//! their order; each goes by a migration of its own, which goes on by itself.
//!
//! ```text
//!   maintenance ─► who is here, who is on the way? ─► begin, up to AT_ONCE ─► wait for one to go ──┐
//!                        ▲                                                                         │
//!                        └─────────────────── until nobody is on the way ──────────────────────────┘
//! ```

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use futures::future::select_all;
use hull_types::{
    error::{Error, ErrorKind, Result},
    id::VmId,
    migration::Migration,
    name::Name,
    wire::{MigrationCreate, NodeUpdate, NodeView, VmView},
};

use crate::{cli::Session, output, wait};

/// Migrations of one node under way at once: they share its disk and its link.
const AT_ONCE: usize = 2;

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Name or id
    node: String,
    /// Go on until the node is empty, or no VM more can go
    #[arg(short, long)]
    wait: bool,
    /// Seconds to wait at most; as long as it takes where absent
    #[arg(long, requires = "wait")]
    timeout: Option<u64>,
}

impl Drain {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let update = NodeUpdate { maintenance: Some(true) };
        let node: NodeView = session.client.nouns("nodes").update(&self.node, &update).await?;
        let mut draining = Draining { session, node, stuck: BTreeMap::new() };
        if !self.wait {
            return draining.first().await;
        }
        match self.timeout {
            None => draining.all().await?,
            Some(seconds) => {
                let in_time = tokio::time::timeout(Duration::from_secs(seconds), draining.all()).await;
                in_time.unwrap_or_else(|_| Err(draining.late(seconds)))?;
            }
        }
        draining.end().await
    }
}

struct Draining<'a> {
    session: &'a Session,
    node: NodeView,
    /// The VMs that cannot go, and why.
    stuck: BTreeMap<VmId, (Name, String)>,
}

/// How things stand.
struct Round {
    moving: Vec<Migration>,
    /// The VMs here that are not on their way and may go.
    left: Vec<VmView>,
}

impl Draining<'_> {
    /// Begins the first ones, and says how to go on.
    async fn first(&mut self) -> Result<()> {
        let Round { moving, left } = self.round().await?;
        self.session.list(&moving).await;
        let name = &self.node.node.name;
        if !left.is_empty() {
            let many = left.len();
            output::note(format!("{many} more to go: `hull node drain {name} --wait` moves them all, two at once"));
        }
        self.verdict()
    }

    /// Moves all that can go.
    async fn all(&mut self) -> Result<()> {
        loop {
            let Round { moving, .. } = self.round().await?;
            if moving.is_empty() {
                return Ok(());
            }
            let migrations = self.session.client.migrations();
            let ids: Vec<String> = moving.iter().map(|migration| migration.id.to_string()).collect();
            let decided = |migration: &Migration| !migration.phase.can_be_undone();
            let (ended, ..) = select_all(ids.iter().map(|id| Box::pin(migrations.until(id, decided)))).await;
            let ended = ended?;
            match wait::judge(ended.clone()) {
                Ok(_) => output::note(format!("{} has moved", ended.vm_name)),
                Err(why) => {
                    output::note(&why.detail);
                    if ended.from == self.node.node.id && ended.moved_at.is_none() {
                        self.stuck.insert(ended.vm, (ended.vm_name, why.detail));
                    }
                }
            }
        }
    }

    /// Looks who is here and who is on the way, and begins as many migrations as there may be.
    async fn round(&mut self) -> Result<Round> {
        let id = self.node.node.id.to_string();
        let migrations = self.session.client.migrations();
        let mut moving = migrations.list(&[("node", id.clone())]).await?;
        // Once a VM is its new node's, this one is rid of it; each comes so far, or is given up by its deadline.
        moving.retain(|migration| migration.phase.can_be_undone());
        let mut left = self.here().await?;
        left.retain(|it| it.vm.deleted_at.is_none());
        self.stuck.retain(|vm, _| left.iter().any(|it| it.vm.id == *vm));
        left.retain(|it| {
            !self.stuck.contains_key(&it.vm.id) && !moving.iter().any(|migration| migration.vm == it.vm.id)
        });
        let mut next = left.into_iter();
        while moving.len() < AT_ONCE
            && let Some(it) = next.next()
        {
            match migrations.begin(&MigrationCreate { vm: it.vm.id.to_string(), node: None }).await {
                Ok(begun) => moving.push(begun),
                Err(why) if excuses(why.kind) => _ = self.stuck.insert(it.vm.id, (it.vm.meta.name, why.detail)),
                Err(why) => return Err(why),
            }
        }
        Ok(Round { moving, left: next.collect() })
    }

    async fn here(&self) -> Result<Vec<VmView>> {
        let query = [("node", self.node.node.id.to_string()), ("all-projects", "true".to_owned())];
        self.session.client.vms().list(&query).await
    }

    /// Those being deleted go as well; then the node is empty, or holds those that cannot go.
    async fn end(&self) -> Result<()> {
        self.verdict()?;
        for it in self.here().await?.iter().filter(|it| it.vm.deleted_at.is_some()) {
            wait::settled(&self.session.client, &it.vm.id.to_string(), wait::DELETION).await?;
        }
        output::one(
            &self.session.client.nouns("nodes").show::<NodeView>(&self.node.node.id.to_string()).await?,
            self.session.format,
        );
        Ok(())
    }

    fn verdict(&self) -> Result<()> {
        match sentence(&self.node.node.name, &self.stuck) {
            None => Ok(()),
            Some(detail) => Err(Error::conflict(detail)),
        }
    }

    fn late(&self, seconds: u64) -> Error {
        let name = &self.node.node.name;
        Error::timeout(format!(
            "node {name} is not empty after {seconds} s; what is on its way goes on by itself, `hull node drain {name} --wait` goes on with the rest"
        ))
    }
}

/// Whether one VM's refusal is that VM's affair: the others may go.
fn excuses(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Conflict | ErrorKind::InsufficientResources | ErrorKind::NotFound)
}

fn sentence(node: &Name, stuck: &BTreeMap<VmId, (Name, String)>) -> Option<String> {
    let why: Vec<String> = stuck.values().map(|(vm, why)| format!("\n  {vm}: {why}")).collect();
    let many = why.len();
    (many > 0).then(|| format!("node {node} takes no new VMs, and {many} of its own cannot go now:{}", why.concat()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn vms_that_cannot_go_are_told_with_why() {
        let node: Name = "n1".parse().unwrap();
        assert_eq!(sentence(&node, &BTreeMap::new()), None);
        let why = ("web".parse().unwrap(), "no other node has room".to_owned());
        let stuck = BTreeMap::from([(VmId(Uuid::nil()), why)]);
        let told = sentence(&node, &stuck).unwrap();
        assert!(told.contains("1 of its own cannot go now") && told.contains("web: no other node has room"), "{told}");
    }

    #[test]
    fn one_vms_trouble_is_its_own_and_a_lost_right_or_server_ends_it_all() {
        assert!(excuses(ErrorKind::Conflict) && excuses(ErrorKind::InsufficientResources));
        assert!(!excuses(ErrorKind::Forbidden) && !excuses(ErrorKind::Unavailable));
    }
}
