//! `hull flavor`.

use clap::Subcommand;
use hull_types::{
    error::Result,
    flavor::{Flavor, Resources},
    name::Name,
    units::Bytes,
    wire::FlavorCreate,
};

use super::Session;
use crate::output::{self, Show};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List flavors
    #[command(visible_alias = "ls")]
    List,
    /// Show a flavor
    Show {
        /// Name or id
        flavor: String,
    },
    /// Create a flavor
    Create {
        /// Its name
        name: Name,
        /// Virtual CPUs
        #[arg(long)]
        vcpus: u16,
        /// Memory, like 2GiB
        #[arg(long)]
        memory: Bytes,
        /// Root disk, like 20GiB
        #[arg(long, default_value = "10GiB")]
        disk: Bytes,
        /// Free text
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Delete flavors; VMs made with them keep their size
    #[command(visible_alias = "rm")]
    Delete {
        /// Names or ids
        #[arg(required = true)]
        flavors: Vec<String>,
    },
}

impl Show for Flavor {
    const COLUMNS: &'static [&'static str] = &["name", "vcpus", "memory", "disk", "id"];
    fn row(&self) -> Vec<String> {
        let Resources { vcpus, memory, disk } = self.resources;
        vec![self.name.to_string(), vcpus.to_string(), memory.to_string(), disk.to_string(), self.id.to_string()]
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let flavors = session.client.nouns("flavors");
        match self {
            Self::List => output::list(&flavors.list::<Flavor>(&[]).await?, session.format),
            Self::Show { flavor } => output::one(&flavors.show::<Flavor>(&flavor).await?, session.format),
            Self::Create { name, vcpus, memory, disk, description } => {
                let body = FlavorCreate { name, description, resources: Resources { vcpus, memory, disk } };
                output::one(&flavors.create::<_, Flavor>(&body).await?, session.format);
            }
            Self::Delete { flavors: names } => {
                for name in names {
                    flavors.delete(&name).await?;
                }
            }
        }
        Ok(0)
    }
}
