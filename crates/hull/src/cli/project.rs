//! `hull project`.

use clap::Subcommand;
use hull_types::{
    error::Result,
    name::Name,
    project::Quota,
    units::Bytes,
    wire::{ProjectCreate, ProjectView},
};

use super::Session;
use crate::output::{self, Show};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List projects
    #[command(visible_alias = "ls")]
    List,
    /// Show a project with its quota and usage
    Show {
        /// Name or id
        project: String,
    },
    /// Create a project
    Create {
        /// Its name
        name: Name,
        /// Free text
        #[arg(long, default_value = "")]
        description: String,
        /// At most so many VMs
        #[arg(long)]
        vms: Option<u64>,
        /// At most so many virtual CPUs
        #[arg(long)]
        vcpus: Option<u64>,
        /// At most so much memory
        #[arg(long)]
        memory: Option<Bytes>,
        /// At most so much disk
        #[arg(long)]
        disk: Option<Bytes>,
    },
    /// Delete an empty project
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id
        project: String,
    },
}

impl Show for ProjectView {
    const COLUMNS: &'static [&'static str] = &["name", "vms", "vcpus", "memory", "disk", "images", "id"];
    fn row(&self) -> Vec<String> {
        let of = |used: String, limit: Option<String>| limit.map_or(used.clone(), |limit| format!("{used} of {limit}"));
        let (usage, quota) = (&self.usage, &self.project.quota);
        vec![
            self.project.name.to_string(),
            of(usage.vms.to_string(), quota.vms.map(|n| n.to_string())),
            of(usage.vcpus.to_string(), quota.vcpus.map(|n| n.to_string())),
            of(usage.memory.to_string(), quota.memory.map(|n| n.to_string())),
            of(usage.disk.to_string(), quota.disk.map(|n| n.to_string())),
            of(usage.images.to_string(), quota.images.map(|n| n.to_string())),
            self.project.id.to_string(),
        ]
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let projects = session.client.nouns("projects");
        match self {
            Self::List => output::list(&projects.list::<ProjectView>(&[]).await?, session.format),
            Self::Show { project } => output::one(&projects.show::<ProjectView>(&project).await?, session.format),
            Self::Create { name, description, vms, vcpus, memory, disk } => {
                let limited = vms.is_some() || vcpus.is_some() || memory.is_some() || disk.is_some();
                let quota = limited.then_some(Quota { vms, vcpus, memory, disk, ..Quota::default() });
                let body = ProjectCreate { name, description, quota };
                output::one(&projects.create::<_, ProjectView>(&body).await?, session.format);
            }
            Self::Delete { project } => projects.delete(&project).await?,
        }
        Ok(0)
    }
}
