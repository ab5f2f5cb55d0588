//! `hull app-credential`.

use clap::Subcommand;
use hull_types::{
    app_credential::AppCredential,
    error::Result,
    name::Name,
    wire::{AppCredentialCreate, Secret},
};

use super::{Session, token::RoleArg};
use crate::output::{self, Show, word};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List your application credentials; secrets are shown only when made
    #[command(visible_alias = "ls")]
    List,
    /// Show an application credential
    Show {
        /// Name or id
        credential: String,
    },
    /// Make a credential for a program that acts for you in the project, and print its secret, once
    Create {
        /// What it is for
        name: Name,
        /// The most it may do
        #[arg(long, value_enum, default_value_t = RoleArg::Member)]
        role: RoleArg,
        /// Days until it stops working; never where absent
        #[arg(long)]
        days: Option<u32>,
    },
    /// Delete credentials; they stop working at once
    #[command(visible_alias = "rm")]
    Delete {
        /// Names or ids
        #[arg(required = true)]
        credentials: Vec<String>,
    },
}

impl Show for AppCredential {
    const COLUMNS: &'static [&'static str] = &["name", "role", "project", "expires", "id"];
    fn row(&self) -> Vec<String> {
        let expires = self.expires_at.map_or_else(|| "never".to_owned(), |at| at.to_string());
        vec![self.name.to_string(), word(&self.role), self.project.to_string(), expires, self.id.to_string()]
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let credentials = session.client.nouns("app-credentials");
        match self {
            Self::List => output::list(&credentials.list::<AppCredential>(&[]).await?, session.format),
            Self::Show { credential } => {
                output::one(&credentials.show::<AppCredential>(&credential).await?, session.format);
            }
            Self::Create { name, role, days } => {
                let body = AppCredentialCreate { name, role: role.into(), expires_in_days: days };
                output::line(credentials.create::<_, Secret>(&body).await?.secret.expose());
            }
            Self::Delete { credentials: names } => {
                for name in names {
                    credentials.delete(&name).await?;
                }
            }
        }
        Ok(0)
    }
}
