//! `hull user-group`.

use clap::Subcommand;
use hull_types::{
    error::Result,
    name::Name,
    user_group::UserGroup,
    wire::{UserGroupCreate, UserGroupUpdate},
};

use super::Session;
use crate::output::{self, Show};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List groups of users
    #[command(visible_alias = "ls")]
    List,
    /// Show a group
    Show {
        /// Name or id
        group: String,
    },
    /// Create a group
    Create {
        /// Its name
        name: Name,
        /// Free text
        #[arg(long, default_value = "")]
        description: String,
        /// Its first members (names or ids)
        #[arg(long = "member")]
        members: Vec<String>,
    },
    /// Change a group
    Update {
        /// Name or id
        group: String,
        /// A new name
        #[arg(long)]
        name: Option<Name>,
        /// Free text
        #[arg(long)]
        description: Option<String>,
    },
    /// Take users into a group
    Add {
        /// Name or id of the group
        group: String,
        /// Names or ids
        #[arg(required = true)]
        users: Vec<String>,
    },
    /// Put users out of a group
    Remove {
        /// Name or id of the group
        group: String,
        /// Names or ids
        #[arg(required = true)]
        users: Vec<String>,
    },
    /// Delete groups with the roles they were given
    #[command(visible_alias = "rm")]
    Delete {
        /// Names or ids
        #[arg(required = true)]
        groups: Vec<String>,
    },
}

impl Show for UserGroup {
    const COLUMNS: &'static [&'static str] = &["name", "members", "description", "id"];
    fn row(&self) -> Vec<String> {
        vec![self.name.to_string(), self.members.len().to_string(), self.description.clone(), self.id.to_string()]
    }
    fn page(&self) -> Vec<(&'static str, String)> {
        let members: Vec<String> = self.members.iter().map(ToString::to_string).collect();
        let row = [self.name.to_string(), members.join("\n"), self.description.clone(), self.id.to_string()];
        Self::COLUMNS.iter().copied().zip(row).collect()
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let groups = session.client.nouns("user-groups");
        let (group, change) = match self {
            Self::List => {
                output::list(&groups.list::<UserGroup>(&[]).await?, session.format);
                return Ok(0);
            }
            Self::Show { group } => {
                output::one(&groups.show::<UserGroup>(&group).await?, session.format);
                return Ok(0);
            }
            Self::Create { name, description, members } => {
                let body = UserGroupCreate { name, description, members };
                output::one(&groups.create::<_, UserGroup>(&body).await?, session.format);
                return Ok(0);
            }
            Self::Delete { groups: names } => {
                for name in names {
                    groups.delete(&name).await?;
                }
                return Ok(0);
            }
            Self::Update { group, name, description } => {
                (group, UserGroupUpdate { name, description, ..UserGroupUpdate::default() })
            }
            Self::Add { group, users } => (group, UserGroupUpdate { add: users, ..UserGroupUpdate::default() }),
            Self::Remove { group, users } => (group, UserGroupUpdate { remove: users, ..UserGroupUpdate::default() }),
        };
        output::one(&groups.update::<_, UserGroup>(&group, &change).await?, session.format);
        Ok(0)
    }
}
