//! `hull context`.

use std::path::PathBuf;

use clap::Subcommand;
use hull_types::error::{Error, Result};
use serde::Serialize;
use url::Url;

use super::Global;
use crate::{
    config::{Config, Context},
    output::{self, Show},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List contexts
    #[command(visible_alias = "ls")]
    List,
    /// Add or replace a context, and use it
    Add {
        /// Its name
        name: String,
        /// `https://host:port`
        #[arg(long)]
        server: Url,
        /// File with the CA's certificate (`pki/ca.pem` in the server's data directory)
        #[arg(long)]
        ca: PathBuf,
        /// File with the token; `-` for standard input
        #[arg(long)]
        token_file: PathBuf,
    },
    /// Use a context from now on
    Use {
        /// Its name
        name: String,
    },
    /// Use this host's Hull from now on
    Local,
    /// Forget a context
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Serialize)]
struct Row {
    name: String,
    server: Url,
    project: Option<String>,
    current: bool,
}

impl Show for Row {
    const COLUMNS: &'static [&'static str] = &["", "name", "server", "project"];
    fn row(&self) -> Vec<String> {
        let mark = if self.current { "*" } else { " " };
        vec![mark.to_owned(), self.name.clone(), self.server.to_string(), self.project.clone().unwrap_or_default()]
    }
}

impl Verb {
    pub(crate) fn run(self, global: &Global) -> Result<u8> {
        let mut config = Config::load()?;
        match self {
            Self::List => {
                let row = |(name, context): (&String, &Context)| Row {
                    name: name.clone(),
                    server: context.server.clone(),
                    project: context.project.clone(),
                    current: config.current.as_ref() == Some(name),
                };
                output::list(&config.contexts.iter().map(row).collect::<Vec<_>>(), global.output);
                return Ok(0);
            }
            Self::Add { name, server, ca, token_file } => {
                let text = |path| {
                    let bytes = super::read(path)?;
                    String::from_utf8(bytes).map_err(|_| Error::invalid(format!("{} is not text", path.display())))
                };
                let token = text(&token_file)?.trim().to_owned().into();
                let context = Context { server, ca: text(&ca)?, token, project: global.project.clone(), login: None };
                config.contexts.insert(name.clone(), context);
                config.current = Some(name);
            }
            Self::Use { name } => {
                config.context(Some(&name))?;
                config.current = Some(name);
            }
            Self::Local => config.current = None,
            Self::Delete { name } => {
                config.context(Some(&name))?;
                config.contexts.remove(&name);
                config.current.take_if(|current| *current == name);
            }
        }
        config.save().map(|()| 0)
    }
}
