//! `hull role`: who may do what, where.

use clap::{Args, Subcommand};
use hull_types::{
    error::{Error, Result},
    role_assignment::Subject,
    token::Scope,
    wire::{RoleAssignmentCreate, RoleAssignmentUpdate, RoleAssignmentView},
};

use super::{Session, token::RoleArg};
use crate::output::{self, Show, word};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List who has which role in the project
    #[command(visible_alias = "ls")]
    List {
        /// In all projects, and on the system
        #[arg(long)]
        all_projects: bool,
    },
    /// Show a role given
    Show {
        /// Id
        assignment: String,
    },
    /// Give a user or a group a role on the project, or on the system
    Grant {
        /// What they may do
        #[arg(value_enum)]
        role: RoleArg,
        #[command(flatten)]
        to: To,
    },
    /// Change a role given
    Update {
        /// Id
        assignment: String,
        /// What they may do from now
        #[arg(value_enum)]
        role: RoleArg,
    },
    /// Take a role away: by id, or by who has it where
    #[command(visible_alias = "rm")]
    Revoke {
        /// Ids
        assignments: Vec<String>,
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Debug, Args)]
pub(crate) struct To {
    /// Name or id of the user
    #[arg(long, required_unless_present = "user_group", conflicts_with = "user_group")]
    user: Option<String>,
    /// Name or id of the group
    #[arg(long)]
    user_group: Option<String>,
    /// On the system and so everywhere, instead of the project
    #[arg(long)]
    system: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Of {
    /// Name or id of the user
    #[arg(long, conflicts_with_all = ["assignments", "user_group"])]
    user: Option<String>,
    /// Name or id of the group
    #[arg(long, conflicts_with = "assignments")]
    user_group: Option<String>,
    /// On the system instead of the project
    #[arg(long, conflicts_with = "assignments")]
    system: bool,
}

impl Show for RoleAssignmentView {
    const COLUMNS: &'static [&'static str] = &["role", "of", "on", "id"];
    fn row(&self) -> Vec<String> {
        let of = match self.assignment.subject {
            Subject::User(_) => format!("user {}", self.subject_name),
            Subject::UserGroup(_) => format!("user-group {}", self.subject_name),
        };
        let on = self.project_name.as_ref().map_or_else(|| "the system".to_owned(), |name| format!("project {name}"));
        vec![word(&self.assignment.role), of, on, self.assignment.id.to_string()]
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let roles = session.client.nouns("role-assignments");
        match self {
            Self::List { all_projects } => {
                let query: Vec<_> = all_projects.then(|| ("all-projects", "true".to_owned())).into_iter().collect();
                output::list(&roles.list::<RoleAssignmentView>(&query).await?, session.format);
            }
            Self::Show { assignment } => {
                output::one(&roles.show::<RoleAssignmentView>(&assignment).await?, session.format);
            }
            Self::Grant { role, to } => {
                let To { user, user_group, system } = to;
                let body = RoleAssignmentCreate { role: role.into(), user, user_group, system };
                output::one(&roles.create::<_, RoleAssignmentView>(&body).await?, session.format);
            }
            Self::Update { assignment, role } => {
                let body = RoleAssignmentUpdate { role: role.into() };
                output::one(&roles.update::<_, RoleAssignmentView>(&assignment, &body).await?, session.format);
            }
            Self::Revoke { assignments, of } => {
                let ids = if assignments.is_empty() { vec![of.find(session).await?] } else { assignments };
                for id in ids {
                    roles.delete(&id).await?;
                }
            }
        }
        Ok(0)
    }
}

impl Of {
    /// The id of the role that someone has there.
    async fn find(&self, session: &Session) -> Result<String> {
        let (name, is_user) = match (&self.user, &self.user_group) {
            (Some(name), _) => (name, true),
            (None, Some(name)) => (name, false),
            (None, None) => return Err(Error::invalid("say which role: by id, or with --user or --user-group")),
        };
        let query: Vec<_> = self.system.then(|| ("all-projects", "true".to_owned())).into_iter().collect();
        let all: Vec<RoleAssignmentView> = session.client.nouns("role-assignments").list(&query).await?;
        let found = all.into_iter().find(|view| {
            let (id, of_user) = match view.assignment.subject {
                Subject::User(id) => (id.to_string(), true),
                Subject::UserGroup(id) => (id.to_string(), false),
            };
            let here = (view.assignment.scope == Scope::System) == self.system;
            here && of_user == is_user && (view.subject_name == *name || id == *name)
        });
        let found = found
            .ok_or_else(|| Error::not_found(format!("{name} has no role there; `hull role list` shows who has")))?;
        Ok(found.assignment.id.to_string())
    }
}
