//! `hull node local`: the mechanism by hand.
use crate::output::Format;
use clap::Subcommand;
use hull_types::error::Result;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List
    List,
}
impl Verb {
    pub(crate) fn run(self, _data: PathBuf, _format: Format) -> Result<u8> {
        Ok(0)
    }
}
pub(crate) fn join(_data: PathBuf, _token: &str, _name: Option<String>) -> Result<u8> {
    Ok(0)
}
