//! `hull token`.

use clap::{Subcommand, ValueEnum};
use hull_types::{
    error::Result,
    name::Name,
    token::{Role, Token},
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

impl Show for Token {
    const COLUMNS: &'static [&'static str] = &["name", "role", "scope", "expires", "id"];
    fn row(&self) -> Vec<String> {
        let scope = serde_json::to_value(self.scope).unwrap_or_default();
        let scope = scope
            .get("project")
            .map_or_else(|| "system".to_owned(), |id| format!("project {}", id.as_str().unwrap_or_default()));
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
                let role = match role {
                    RoleArg::Reader => Role::Reader,
                    RoleArg::Member => Role::Member,
                    RoleArg::Admin => Role::Admin,
                };
                let body = TokenCreate { name, role, system, expires_in_days: days };
                output::line(tokens.create::<_, Secret>(&body).await?.secret);
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
