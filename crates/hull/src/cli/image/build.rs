//! build
use clap::Args;
use hull_types::error::Result;
use crate::cli::Session;
#[derive(Debug, Args)]
pub(crate) struct Build {}
impl Build { pub(crate) async fn run(self, _s: &Session) -> Result<()> { Ok(()) } }
