//! `hull security-group`.

use clap::{ArgGroup, Args, Subcommand};
use hull_types::{
    error::Result,
    name::Name,
    security_group::{Direction, Family, Remote, RuleMatch, SecurityGroup, SecurityRule},
    wire::network::{RemoteRequest, RuleProtocol, SecurityGroupCreate, SecurityGroupUpdate, SecurityRuleCreate},
};
use ipnet::IpNet;

use super::{
    Session,
    named::{Described, Filtered, Redescribed, Settings, settings},
};
use crate::output::Show;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List security groups
    #[command(visible_alias = "ls")]
    List(Filtered),
    /// Show a security group's rules
    Show {
        /// Name or id
        group: String,
    },
    /// Create a security group: nothing inbound passes until rules let it, everything outbound does
    Create {
        /// Its name
        name: Name,
        #[command(flatten)]
        described: Described,
        /// Answers do not pass by themselves: each direction needs its rules
        #[arg(long)]
        stateless: bool,
    },
    /// Change a security group
    Update {
        /// Name or id
        group: String,
        #[command(flatten)]
        described: Redescribed,
        /// Whether answers pass by themselves
        #[arg(long)]
        stateful: Option<bool>,
    },
    /// Delete security groups that no port is in
    #[command(visible_alias = "rm")]
    Delete {
        /// Names or ids
        #[arg(required = true)]
        groups: Vec<String>,
    },
    /// Let something through: `hull security-group add-rule web --tcp 80-443 --from 0.0.0.0/0`
    AddRule(AddRule),
    /// Take rules back
    RemoveRule {
        /// Name or id of the group
        group: String,
        /// Ids of rules, as `show` prints them
        #[arg(required = true)]
        rules: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what")), group(ArgGroup::new("where")))]
pub(crate) struct AddRule {
    /// Name or id of the group
    group: String,
    /// TCP to a port or range (80, 8000-8999, or all)
    #[arg(long, value_name = "PORTS", group = "what", value_parser = ports)]
    tcp: Option<Ports>,
    /// UDP to a port or range
    #[arg(long, value_name = "PORTS", group = "what", value_parser = ports)]
    udp: Option<Ports>,
    /// ICMP of a type, or TYPE/CODE, or all
    #[arg(long, value_name = "TYPE", group = "what", value_parser = icmp)]
    icmp: Option<Icmp>,
    /// Another protocol by its number
    #[arg(long, value_name = "NUMBER", group = "what")]
    protocol: Option<u8>,
    /// Everything
    #[arg(long, group = "what")]
    any: bool,
    /// Inbound, from these addresses [default: from everywhere]
    #[arg(long, value_name = "RANGE", group = "where", value_parser = range)]
    from: Option<IpNet>,
    /// Inbound, from the ports in this group
    #[arg(long, value_name = "GROUP", group = "where")]
    from_group: Option<String>,
    /// Outbound, to these addresses
    #[arg(long, value_name = "RANGE", group = "where", value_parser = range)]
    to: Option<IpNet>,
    /// Outbound, to the ports in this group
    #[arg(long, value_name = "GROUP", group = "where")]
    to_group: Option<String>,
    /// Of IPv6 packets, where no addresses say it
    #[arg(long)]
    ipv6: bool,
    /// Free text
    #[arg(long, default_value = "")]
    description: String,
}

type Ports = (Option<u16>, Option<u16>);
type Icmp = (Option<u8>, Option<u8>);

/// `80`, `8000-8999`, `all`
fn ports(text: &str) -> std::result::Result<Ports, String> {
    let port = |text: &str| {
        text.parse::<u16>().map(Some).map_err(|_| format!("{text:?} is no port; give 80, 8000-8999, or all"))
    };
    match (text, text.split_once('-')) {
        ("all", _) => Ok((None, None)),
        (_, Some((from, to))) => Ok((port(from)?, port(to)?)),
        (one, None) => Ok((port(one)?, None)),
    }
}

/// `8`, `3/4`, `all`
fn icmp(text: &str) -> std::result::Result<Icmp, String> {
    let number =
        |text: &str| text.parse::<u8>().map(Some).map_err(|_| format!("{text:?} is no ICMP type; give 8, 3/4, or all"));
    match (text, text.split_once('/')) {
        ("all", _) => Ok((None, None)),
        (_, Some((kind, code))) => Ok((number(kind)?, number(code)?)),
        (one, None) => Ok((number(one)?, None)),
    }
}

/// `10.0.0.0/8`, or one address.
fn range(text: &str) -> std::result::Result<IpNet, String> {
    let one = |_| text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse().or_else(one).map_err(|_| format!("{text:?} is neither an address nor a range"))
}

impl AddRule {
    fn request(self) -> (String, SecurityRuleCreate) {
        let outbound = self.to.is_some() || self.to_group.is_some();
        let (protocol, (from, to), (kind, code)) = match (self.tcp, self.udp, self.icmp, self.protocol) {
            (Some(ports), ..) => (RuleProtocol::Tcp, ports, (None, None)),
            (_, Some(ports), ..) => (RuleProtocol::Udp, ports, (None, None)),
            (_, _, Some(icmp), _) => (RuleProtocol::Icmp, (None, None), icmp),
            (_, _, _, Some(_)) => (RuleProtocol::Other, (None, None), (None, None)),
            (None, None, None, None) => (RuleProtocol::Any, (None, None), (None, None)),
        };
        let net = self.from.or(self.to).map(RemoteRequest::Net);
        let remote = net.or(self.from_group.or(self.to_group).map(RemoteRequest::Group));
        let rule = SecurityRuleCreate {
            direction: if outbound { Direction::Egress } else { Direction::Ingress },
            family: self.ipv6.then_some(Family::Ipv6),
            protocol,
            from,
            to,
            kind,
            code,
            number: self.protocol,
            remote,
            description: self.description,
        };
        (self.group, rule)
    }
}

/// `tcp 80-443 in from 10.0.0.0/8`, as the command takes it.
fn said(rule: &SecurityRule) -> String {
    let range = |from: u16, to: u16| match (from, to) {
        (1, u16::MAX) => String::new(),
        (from, to) if from == to => format!(" {from}"),
        (from, to) => format!(" {from}-{to}"),
    };
    let what = match rule.matches {
        RuleMatch::Any => "any".to_owned(),
        RuleMatch::Tcp { from, to } => format!("tcp{}", range(from, to)),
        RuleMatch::Udp { from, to } => format!("udp{}", range(from, to)),
        RuleMatch::Icmp { kind: None, .. } => "icmp".to_owned(),
        RuleMatch::Icmp { kind: Some(kind), code: None } => format!("icmp {kind}"),
        RuleMatch::Icmp { kind: Some(kind), code: Some(code) } => format!("icmp {kind}/{code}"),
        RuleMatch::Other { number } => format!("protocol {number}"),
    };
    let way = match rule.direction {
        Direction::Ingress => "in from",
        Direction::Egress => "out to",
    };
    match (rule.remote, rule.family) {
        (Remote::Net(net), _) => format!("{what} {way} {net}"),
        (Remote::Group(group), Family::Ipv4) => format!("{what} {way} group {group}"),
        (Remote::Group(group), Family::Ipv6) => format!("{what} {way} group {group} over IPv6"),
    }
}

impl Show for SecurityGroup {
    const COLUMNS: &'static [&'static str] = &["name", "rules", "stateful", "description", "id"];
    fn row(&self) -> Vec<String> {
        vec![
            self.meta.name.to_string(),
            self.rules.len().to_string(),
            if self.stateful { "yes" } else { "no" }.to_owned(),
            self.meta.description.clone(),
            self.id.to_string(),
        ]
    }

    fn page(&self) -> Vec<(&'static str, String)> {
        let mut page: Settings = vec![("name", self.meta.name.to_string()), ("id", self.id.to_string())];
        page.push(("stateful", if self.stateful { "yes" } else { "no" }.to_owned()));
        page.extend(self.rules.iter().map(|rule| {
            let why = if rule.description.is_empty() { String::new() } else { format!("  # {}", rule.description) };
            ("rule", format!("{}  {}{why}", rule.id, said(rule)))
        }));
        settings(page, &self.meta)
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let groups = session.client.nouns("security-groups");
        match self {
            Self::List(filtered) => session.list(&groups.list::<SecurityGroup>(&filtered.query()).await?).await,
            Self::Show { group } => session.one(&groups.show::<SecurityGroup>(&group).await?).await,
            Self::Create { name, described, stateless } => {
                let (description, metadata, tags) = described.parts();
                let rules = Vec::new();
                let body = SecurityGroupCreate { name, description, metadata, tags, stateful: !stateless, rules };
                session.one(&groups.create::<_, SecurityGroup>(&body).await?).await;
            }
            Self::Update { group, described, stateful } => {
                let (name, description, metadata, tags) = described.parts();
                let body = SecurityGroupUpdate { name, description, metadata, tags, stateful };
                session.one(&groups.update::<_, SecurityGroup>(&group, &body).await?).await;
            }
            Self::Delete { groups: names } => {
                for name in names {
                    groups.delete(&name).await?;
                }
            }
            Self::AddRule(add) => {
                let (group, body) = add.request();
                session.one(&groups.add::<_, SecurityGroup>(&group, "rules", &body).await?).await;
            }
            Self::RemoveRule { group, rules } => {
                for rule in rules {
                    groups.remove(&group, "rules", &rule).await?;
                }
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_types_are_read() {
        assert_eq!(ports("80"), Ok((Some(80), None)));
        assert_eq!(ports("80-443"), Ok((Some(80), Some(443))));
        assert_eq!(ports("all"), Ok((None, None)));
        assert!(ports("http").is_err() && ports("80-").is_err() && ports("70000").is_err());
        assert_eq!(icmp("3/4"), Ok((Some(3), Some(4))));
        assert!(icmp("ping").is_err());
        assert_eq!(range("10.0.0.1").map(|net| net.to_string()), Ok("10.0.0.1/32".to_owned()));
    }
}
