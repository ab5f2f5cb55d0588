//! `hull token`.

use clap::{Subcommand, ValueEnum};
use hull_types::{
    error::Result,
    name::Name,
    token::{Role, Scope, Token},
    wire::{Secret, TokenCreate},
};

use super::Session;
use crate::output::{self, Show, word};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List tokens; secrets are shown only when made
    #[command(visible_alias = "ls")]
    List,
    /// Make a token and print its secret, once
    Create {
        /// What it is for
        name: Name,
        /// What its bearer may do
        #[arg(long, value_enum, default_value_t = RoleArg::Member)]
        role: RoleArg,
        /// On the whole cloud instead of the project
        #[arg(long)]
        system: bool,
        /// Days until it stops working; never where absent
        #[arg(long)]
        days: Option<u32>,
    },
    /// Revoke tokens
    #[command(visible_alias = "rm")]
    Delete {
        /// Ids
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RoleArg {
    /// Reads
    Reader,
    /// Reads and changes
    Member,
    /// Everything in its scope
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Reader => Self::Reader,
            RoleArg::Member => Self::Member,
            RoleArg::Admin => Self::Admin,
        }
    }
}

/// A scope as people read it.
pub(crate) fn scope(scope: Scope) -> String {
    match scope {
        Scope::System => "the system".to_owned(),
        Scope::Project(project) => format!("project {project}"),
    }
}

impl Show for Token {
    const COLUMNS: &'static [&'static str] = &["name", "role", "scope", "expires", "id"];
    fn row(&self) -> Vec<String> {
        let scope = scope(self.scope);
        let expires = self.expires_at.map_or_else(|| "never".to_owned(), |at| at.to_string());
        vec![self.name.to_string(), word(&self.role), scope, expires, self.id.to_string()]
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let tokens = session.client.nouns("tokens");
        match self {
            Self::List => output::list(&tokens.list::<Token>(&[]).await?, session.format),
            Self::Create { name, role, system, days } => {
                let body = TokenCreate { name, role: role.into(), system, expires_in_days: days };
                output::line(tokens.create::<_, Secret>(&body).await?.secret.expose());
            }
            Self::Delete { tokens: ids } => {
                for id in ids {
                    tokens.delete(&id).await?;
                }
            }
        }
        Ok(0)
    }
}
