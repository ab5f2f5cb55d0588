//! `hull network`.

use clap::Subcommand;
use hull_types::{
    error::Result,
    network::Network,
    port::Port,
    security_group::{Remote, SecurityGroup},
};

use super::Session;
use crate::output::{self, Show, word};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List networks
    #[command(visible_alias = "ls")]
    List,
    /// Show a network
    Show {
        /// Name or id
        network: String,
    },
    /// List ports: VMs' ends on networks
    Ports,
    /// List security groups
    SecurityGroups,
    /// Show a security group's rules
    SecurityGroup {
        /// Name or id
        group: String,
    },
}

impl Show for Network {
    const COLUMNS: &'static [&'static str] = &["name", "subnets", "uplink", "mtu", "domain", "id"];
    fn row(&self) -> Vec<String> {
        let subnets: Vec<_> = self.subnets.iter().map(ToString::to_string).collect();
        vec![
            self.meta.name.to_string(),
            subnets.join(" "),
            word(&self.uplink),
            self.mtu.to_string(),
            self.domain.clone(),
            self.id.to_string(),
        ]
    }
}

impl Show for Port {
    const COLUMNS: &'static [&'static str] = &["host name", "mac", "addresses", "id"];
    fn row(&self) -> Vec<String> {
        let addresses: Vec<_> = self.addresses.iter().map(|fixed| fixed.address.to_string()).collect();
        vec![self.hostname.clone(), self.mac.to_string(), addresses.join(" "), self.id.to_string()]
    }
}

impl Show for SecurityGroup {
    const COLUMNS: &'static [&'static str] = &["name", "rules", "id"];
    fn row(&self) -> Vec<String> {
        let rules: Vec<_> = self
            .rules
            .iter()
            .map(|rule| {
                let matches = serde_json::to_value(rule.matches).unwrap_or_default();
                let part = |name: &str| matches.get(name).map(ToString::to_string);
                let ports = part("from").zip(part("to")).map(|(from, to)| format!(" {from}-{to}")).unwrap_or_default();
                let protocol = matches.get("protocol").and_then(|p| p.as_str()).unwrap_or_default();
                let remote = match rule.remote {
                    Remote::Net(net) => net.to_string(),
                    Remote::Group(group) => format!("group {group}"),
                };
                format!("{} {protocol}{ports} {remote}", word(&rule.direction))
            })
            .collect();
        vec![self.meta.name.to_string(), rules.join("; "), self.id.to_string()]
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let nouns = |plural| session.client.nouns(plural);
        match self {
            Self::List => output::list(&nouns("networks").list::<Network>(&[]).await?, session.format),
            Self::Show { network } => output::one(&nouns("networks").show::<Network>(&network).await?, session.format),
            Self::Ports => output::list(&nouns("ports").list::<Port>(&[]).await?, session.format),
            Self::SecurityGroups => {
                output::list(&nouns("security-groups").list::<SecurityGroup>(&[]).await?, session.format);
            }
            Self::SecurityGroup { group } => {
                output::one(&nouns("security-groups").show::<SecurityGroup>(&group).await?, session.format);
            }
        }
        Ok(0)
    }
}
