//! `hull migration`, and `hull vm migrate`, which begins one.

use std::time::Duration;

use clap::{Args, Subcommand};
use hull_types::{error::Result, migration::Migration, wire::MigrationCreate};

use super::{Session, Waiting};
use crate::{
    output::{Show, ago, word},
    wait,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List migrations, oldest first
    #[command(visible_alias = "ls")]
    List {
        /// Only those of this VM
        #[arg(long)]
        vm: Option<String>,
        /// Only those from or to this node
        #[arg(long)]
        node: Option<String>,
        /// Only those in this phase: preparing, releasing, copying, starting, done, failed, cancelled
        #[arg(long)]
        phase: Option<String>,
    },
    /// Show a migration
    Show {
        /// Id
        migration: String,
    },
    /// End migrations whose VMs are not on their new nodes yet; they go on where they are
    Cancel {
        /// Ids
        #[arg(required = true)]
        migrations: Vec<String>,
    },
}

/// `hull vm migrate`.
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// Name or id
    vm: String,
    /// Name or id of the node it shall go to; the emptiest that can take it where absent
    #[arg(long)]
    node: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
}

impl Show for Migration {
    const COLUMNS: &'static [&'static str] = &["vm", "from", "to", "phase", "age", "downtime", "id", "reason"];

    fn row(&self) -> Vec<String> {
        vec![
            self.vm_name.to_string(),
            self.from.to_string(),
            self.to.to_string(),
            word(&self.phase),
            ago(self.began_at),
            self.downtime_ms.map_or_else(|| "-".to_owned(), |ms| format!("{:.1?}", Duration::from_millis(ms))),
            self.id.to_string(),
            self.reason.as_ref().map(|reason| reason.message.clone()).unwrap_or_default(),
        ]
    }

    fn page(&self) -> Vec<(&'static str, String)> {
        let mut page: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        page.push(("began", self.began_at.to_string()));
        for (label, at) in [("halted", self.halted_at), ("moved", self.moved_at), ("ended", self.ended_at)] {
            page.extend(at.map(|at| (label, at.to_string())));
        }
        if self.phase.can_be_undone() {
            page.push(("given up", self.deadline.to_string()));
        }
        page.retain(|(_, value)| !value.is_empty());
        page
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let migrations = session.client.migrations();
        match self {
            Self::List { vm, node, phase } => {
                let filters = [("vm", vm), ("node", node), ("phase", phase)];
                let query: Vec<_> = filters.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
                session.list(&migrations.list(&query).await?).await;
            }
            Self::Show { migration } => session.one(&migrations.show(&migration).await?).await,
            Self::Cancel { migrations: ids } => {
                let mut ended = Vec::new();
                for id in ids {
                    ended.push(migrations.cancel(&id).await?);
                }
                match ended.as_slice() {
                    [one] => session.one(one).await,
                    many => session.list(many).await,
                }
            }
        }
        Ok(0)
    }
}

impl Migrate {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let Self { vm, node, waiting } = self;
        let mut migration = session.client.migrations().begin(&MigrationCreate { vm, node }).await?;
        if waiting.wait {
            migration = wait::moved(&session.client, &migration.id.to_string(), waiting.deadline()).await?;
        }
        session.one(&migration).await;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_types::{
        Timestamp,
        id::{MigrationId, NodeId, ProjectId, VmId},
        migration::MigrationPhase,
        reason::{Reason, ReasonCode},
    };
    use uuid::Uuid;

    use super::*;

    fn migration(phase: MigrationPhase, reason: Option<&str>) -> Migration {
        let now = Timestamp::now();
        Migration {
            id: MigrationId(Uuid::nil()),
            vm: VmId(Uuid::nil()),
            vm_name: "web".parse().unwrap(),
            project: ProjectId(Uuid::nil()),
            from: NodeId(Uuid::from_u128(1)),
            to: NodeId(Uuid::from_u128(2)),
            phase,
            reason: reason.map(|why| Reason::new(ReasonCode::DiskFull, why, now)),
            began_at: now,
            deadline: now,
            halted_at: Some(now),
            moved_at: None,
            ended_at: None,
            downtime_ms: Some(1_250),
        }
    }

    #[test]
    fn a_row_has_a_cell_for_each_column_and_a_page_leaves_out_what_is_not() {
        let going = migration(MigrationPhase::Copying, None);
        assert_eq!(going.row().len(), Migration::COLUMNS.len());
        assert_eq!(going.row()[5], "1.2s");
        let labels = |it: &Migration| it.page().into_iter().map(|(label, _)| label).collect::<Vec<_>>();
        assert!(labels(&going).contains(&"given up") && !labels(&going).contains(&"reason"));
        let failed = migration(MigrationPhase::Failed, Some("the disk is full"));
        assert!(!labels(&failed).contains(&"given up") && labels(&failed).contains(&"reason"));
    }

    #[test]
    fn who_waits_is_told_what_became_of_it() {
        let judged = |phase, reason| wait::judge(migration(phase, reason));
        assert!(judged(MigrationPhase::Done, None).is_ok());
        for (phase, says) in [
            (MigrationPhase::Failed, "web was not moved, the migration is failed: full; it stays on its node"),
            (MigrationPhase::Cancelled, "web was not moved, the migration is cancelled: full; it stays on its node"),
            (MigrationPhase::Done, "web is on its new node and failed there: full; see"),
        ] {
            let refusal = judged(phase, Some("full")).unwrap_err();
            assert!(refusal.detail.contains(says), "{refusal}");
        }
    }
}
