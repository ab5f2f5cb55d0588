//! `hull explain`.

use clap::Subcommand;
use hull_types::error::Result;

use super::Session;
use crate::output::{self, Format};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Why a VM is where and how it is: placement, node, network, history
    Vm {
        /// Name or id
        vm: String,
    },
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let Self::Vm { vm } = self;
        let explanation = session.client.vms().explain(&vm).await?;
        if session.format != Format::Table {
            output::document(&explanation, session.format);
            return Ok(0);
        }
        output::line(&explanation.summary);
        for section in &explanation.sections {
            output::line(format!("\n{}", section.title));
            for line in &section.lines {
                output::line(format!("  {line}"));
            }
        }
        Ok(0)
    }
}
