//! `hull keypair`.

use std::path::PathBuf;

use clap::Subcommand;
use hull_types::{
    error::{Error, Result},
    keypair::{Keypair, PublicKey},
    name::Name,
    wire::KeypairCreate,
};

use super::Session;
use crate::output::{self, Show};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List keypairs
    #[command(visible_alias = "ls")]
    List,
    /// Show a keypair
    Show {
        /// Name or id
        keypair: String,
    },
    /// Register a public key
    Create {
        /// Its name
        name: Name,
        /// File with the public key (`-` for standard input)
        #[arg(long, default_value = "~/.ssh/id_ed25519.pub")]
        public_key: PathBuf,
    },
    /// Delete keypairs; VMs made with them keep their keys
    #[command(visible_alias = "rm")]
    Delete {
        /// Names or ids
        #[arg(required = true)]
        keypairs: Vec<String>,
    },
}

impl Show for Keypair {
    const COLUMNS: &'static [&'static str] = &["name", "fingerprint", "id"];
    fn row(&self) -> Vec<String> {
        vec![self.meta.name.to_string(), self.fingerprint.clone(), self.id.to_string()]
    }
}

/// Reads a public key from a file, `~/` being the home directory.
pub(crate) fn public_key(path: &std::path::Path) -> Result<PublicKey> {
    let path = match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path.to_path_buf(),
    };
    let text = super::read(&path)?;
    String::from_utf8_lossy(&text).parse().map_err(|e| Error::invalid(format!("{}: {e}", path.display())))
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let keypairs = session.client.nouns("keypairs");
        match self {
            Self::List => output::list(&keypairs.list::<Keypair>(&[]).await?, session.format),
            Self::Show { keypair } => output::one(&keypairs.show::<Keypair>(&keypair).await?, session.format),
            Self::Create { name, public_key: path } => {
                let body = KeypairCreate { name, public_key: public_key(&path)? };
                output::one(&keypairs.create::<_, Keypair>(&body).await?, session.format);
            }
            Self::Delete { keypairs: names } => {
                for name in names {
                    keypairs.delete(&name).await?;
                }
            }
        }
        Ok(0)
    }
}
