//! `hull explain`.

use clap::{Args, Subcommand, ValueEnum};
use hull_types::{error::Result, path::PathExplanation, wire::Explanation};

use super::Session;
use crate::output::{self, Format};

/// What the command ends with where the packet does not get there.
const NOT_REACHED: u8 = 1;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Why a VM is where and how it is: placement, node, network, history
    Vm {
        /// Name or id
        vm: String,
    },
    /// How far a packet from a VM gets, hop by hop, and what stops it; exits with 1 where it does not get there
    Path(Path),
}

#[derive(Debug, Args)]
pub(crate) struct Path {
    /// The VM that sends it: name or id
    from: String,
    /// Where it goes: a VM's name or id, an address, or `internet`
    to: String,
    /// The destination's port
    #[arg(long)]
    port: Option<u16>,
    /// What it carries; tcp with a port, icmp (ping) without
    #[arg(long)]
    protocol: Option<Protocol>,
    /// The family of its addresses; the first that both ends have where absent
    #[arg(long)]
    family: Option<Family>,
    /// Its size in bytes, with the IP header, to see whether it fits
    #[arg(long)]
    size: Option<u16>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Family {
    Ipv4,
    Ipv6,
}

impl Path {
    fn query(&self) -> Vec<(&'static str, String)> {
        let word = |value: Option<clap::builder::PossibleValue>| value.map(|value| value.get_name().to_owned());
        let given = [
            ("to", Some(self.to.clone())),
            ("port", self.port.map(|port| port.to_string())),
            ("protocol", self.protocol.and_then(|protocol| word(protocol.to_possible_value()))),
            ("family", self.family.and_then(|family| word(family.to_possible_value()))),
            ("size", self.size.map(|size| size.to_string())),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        match self {
            Self::Vm { vm } => {
                let explanation = session.client.vms().explain(&vm).await?;
                match session.format {
                    Format::Table => told(&explanation),
                    format => output::document(&explanation, format),
                }
                Ok(0)
            }
            Self::Path(path) => {
                let explanation = session.client.vms().path_to(&path.from, &path.query()).await?;
                match session.format {
                    Format::Table => walked(&explanation),
                    format => output::document(&explanation, format),
                }
                Ok(if explanation.reaches { 0 } else { NOT_REACHED })
            }
        }
    }
}

fn told(explanation: &Explanation) {
    output::line(&explanation.summary);
    for section in &explanation.sections {
        output::line(format!("\n{}", section.title));
        for line in &section.lines {
            output::line(format!("  {line}"));
        }
    }
}

/// Each place once, what happened there below it.
fn walked(explanation: &PathExplanation) {
    output::line(&explanation.summary);
    let mut last = None;
    for node_hop in &explanation.hops {
        let (node, hop) = (&node_hop.node, &node_hop.hop);
        if last != Some((node, &hop.place)) {
            output::line(format!("\n{} (node {node})", hop.place));
            last = Some((node, &hop.place));
        }
        let mark = if hop.passes { "passes" } else { "STOPS " };
        output::line(format!("  {mark}  {}: {}", hop.part, hop.told));
    }
}
