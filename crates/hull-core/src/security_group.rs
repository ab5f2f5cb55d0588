//! Security groups: rules checked one by one and against each other, groups of one kind on a port.

use hull_types::{
    error::{Error, Result},
    event::Event,
    id::{ProjectId, SecurityGroupId, SecurityRuleId},
    meta::Meta,
    name::Name,
    security_group::{Direction, Family, Remote, RuleMatch, SecurityGroup, SecurityRule},
    wire::network::{RuleProtocol, SecurityGroupCreate, SecurityGroupUpdate, SecurityRuleCreate},
};
use ipnet::IpNet;

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Named, Write},
    check, event, head,
    network::{DEFAULT, count},
    owner::Owner,
};

/// The most rules of a group.
pub const RULES_MAX: usize = 1_000;
/// The most groups of a port.
pub const GROUPS_MAX: usize = 16;

/// A rule as it was asked for, with the group it names as remote found.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The request.
    pub request: &'a SecurityRuleCreate,
    /// Its other side; everything where absent.
    pub remote: Option<Remote>,
}

/// A project's default group: ssh and ICMP in, over IPv4 and IPv6, from anywhere.
pub(crate) fn default(project: ProjectId, call: &mut Call<'_>) -> Result<SecurityGroup> {
    let lets_in = [RuleMatch::Tcp { from: 22, to: 22 }, RuleMatch::Icmp { kind: None, code: None }];
    let mut rules = Vec::new();
    for matches in lets_in {
        for family in Family::BOTH {
            rules.push(SecurityRule {
                id: call.id(),
                direction: Direction::Ingress,
                family,
                matches,
                remote: Remote::Net(everything(family)),
                description: String::new(),
            });
        }
    }
    let name = Name::new(DEFAULT).map_err(|why| Error::internal(why.to_string()))?;
    let meta = Meta { description: "lets ssh and ICMP in".to_owned(), ..Meta::new(project, name, call.now) };
    Ok(SecurityGroup { id: call.id(), meta, stateful: true, rules })
}

/// The claim of a group's name.
pub(crate) fn claim(group: &SecurityGroup) -> Claim {
    head::claim(Named::SecurityGroup, &group.meta, group.id.0)
}

/// Makes a group. Rules without a group as remote only: another group is named by adding a rule.
pub fn create(
    request: &SecurityGroupCreate,
    rules: &[Asked<'_>],
    owner: &Owner<'_>,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let mut group = SecurityGroup {
        id: call.id(),
        meta: head::new(owner.id(), head::texts!(request), call)?,
        stateful: request.stateful,
        rules: Vec::new(),
    };
    let mut changes = owner.take(Named::SecurityGroup)?;
    for (at, asked) in rules.iter().enumerate() {
        let rule = rule(&group, *asked, call).map_err(|error| {
            let field = error.field.clone().unwrap_or_default();
            error.at(format!("/rules/{at}{field}"))
        })?;
        expect_remote(&mut changes, &rule, group.id);
        group.rules.push(rule);
    }
    let event = told(&group, "security-group.create", "created", call);
    Ok(changes.and(Write::Claim(claim(&group))).and(Write::PutSecurityGroup(Box::new(group))).event(event))
}

/// Changes a group's texts and kind. `ports` are how many are in it.
pub fn update(
    group: &SecurityGroup,
    wanted: &SecurityGroupUpdate,
    ports: usize,
    owner: &Owner<'_>,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let mut after = group.clone();
    head::retold!(&mut after.meta, wanted)?;
    let name = &group.meta.name;
    if name.as_str() == DEFAULT && after.meta.name != *name {
        let detail = "every project has a group named default, which ports are in that name none; it keeps its name";
        return Err(Error::conflict(detail).at("/name"));
    }
    after.stateful = wanted.stateful.unwrap_or(group.stateful);
    if after == *group {
        return Ok(Changes::none());
    }
    let mut changes = Changes::none();
    if after.stateful != group.stateful {
        if ports > 0 {
            let detail = format!(
                "security group {name} keeps its kind while {} in it; make another group of the other kind",
                count(ports, "port is", "ports are")
            );
            return Err(Error::conflict(detail).at("/stateful"));
        }
        changes = owner.pass();
    }
    after.meta.updated_at = call.now;
    let event = told(&after, "security-group.update", "changed", call);
    changes = changes.unchanged(Doc::SecurityGroup(group.id));
    head::reclaim(&mut changes, Named::SecurityGroup, &group.meta, &after.meta, group.id.0);
    Ok(changes.and(Write::PutSecurityGroup(Box::new(after))).event(event))
}

/// Adds a rule; answers with its id.
pub fn add_rule(
    group: &SecurityGroup,
    asked: Asked<'_>,
    owner: &Owner<'_>,
    call: &mut Call<'_>,
) -> Result<(Changes, SecurityRuleId)> {
    let rule = rule(group, asked, call)?;
    let id = rule.id;
    let mut changes = match rule.remote {
        // It begins to refer to a group.
        Remote::Group(_) => owner.pass(),
        Remote::Net(_) => Changes::none(),
    };
    expect_remote(&mut changes, &rule, group.id);
    let said = say(&rule);
    let mut after = group.clone();
    after.rules.push(rule);
    after.meta.updated_at = call.now;
    let event = told(&after, "security-group.add-rule", &format!("lets {said}"), call);
    let changes = changes.unchanged(Doc::SecurityGroup(group.id));
    Ok((changes.and(Write::PutSecurityGroup(Box::new(after))).event(event), id))
}

/// Removes a rule.
pub fn remove_rule(group: &SecurityGroup, id: SecurityRuleId, call: &mut Call<'_>) -> Result<Changes> {
    let name = &group.meta.name;
    let Some(rule) = group.rules.iter().find(|rule| rule.id == id) else {
        return Err(Error::not_found(format!(
            "security group {name} has no rule {id}; `hull security-group show {name}` shows its rules"
        )));
    };
    let said = say(rule);
    let mut after = group.clone();
    after.rules.retain(|rule| rule.id != id);
    after.meta.updated_at = call.now;
    let event = told(&after, "security-group.remove-rule", &format!("no longer lets {said}"), call);
    Ok(Changes::none()
        .unchanged(Doc::SecurityGroup(group.id))
        .and(Write::PutSecurityGroup(Box::new(after)))
        .event(event))
}

/// Deletes a group that no port is in and no other group's rule names.
pub fn delete(
    group: &SecurityGroup,
    ports: usize,
    named_by: &[&Name],
    owner: &Owner<'_>,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let name = &group.meta.name;
    if name.as_str() == DEFAULT {
        let detail = "the group default goes with its project only; remove its rules where it should let nothing in";
        return Err(Error::conflict(detail));
    }
    if ports > 0 {
        return Err(Error::conflict(format!(
            "security group {name} is in use: {} in it; take them out of it first",
            count(ports, "port is", "ports are")
        )));
    }
    if let Some(by) = named_by.first() {
        return Err(Error::conflict(format!(
            "security group {name} is in use: a rule of group {by} names it; remove that rule first"
        )));
    }
    let event = told(group, "security-group.delete", "deleted", call);
    Ok(owner
        .give(Named::SecurityGroup)
        .unchanged(Doc::SecurityGroup(group.id))
        .and(Write::DeleteSecurityGroup(group.id))
        .and(Write::Release(claim(group)))
        .event(event))
}

/// Whether these may all be one port's.
pub(crate) fn together(groups: &[&SecurityGroup]) -> Result<Vec<SecurityGroupId>> {
    let refuse = |detail: String| Err(Error::invalid(detail).at("/security_groups"));
    if groups.len() > GROUPS_MAX {
        return refuse(format!("a port has at most {GROUPS_MAX} security groups, {} were given", groups.len()));
    }
    if let [first, rest @ ..] = groups
        && let Some(other) = rest.iter().find(|other| other.stateful != first.stateful)
    {
        return refuse(format!(
            "security groups {} and {} cannot be on one port: one is stateful, the other is not",
            first.meta.name, other.meta.name
        ));
    }
    let mut ids: Vec<SecurityGroupId> = Vec::new();
    for group in groups {
        if !ids.contains(&group.id) {
            ids.push(group.id);
        }
    }
    Ok(ids)
}

fn expect_remote(changes: &mut Changes, rule: &SecurityRule, own: SecurityGroupId) {
    if let Remote::Group(other) = rule.remote
        && other != own
    {
        changes.expect(crate::change::Expect::Exists(Doc::SecurityGroup(other)));
    }
}

/// A rule that goes into a group.
fn rule(group: &SecurityGroup, asked: Asked<'_>, call: &mut Call<'_>) -> Result<SecurityRule> {
    let Asked { request, remote } = asked;
    if group.rules.len() >= RULES_MAX {
        let detail = format!("security group {} has {RULES_MAX} rules, the most there can be", group.meta.name);
        return Err(Error::conflict(detail));
    }
    check::description(&request.description)?;
    let family = match remote {
        Some(Remote::Net(net)) => {
            if net != net.trunc() {
                let detail = format!("{net} is an address within a range; the range is {}", net.trunc());
                return Err(Error::invalid(detail).at("/remote"));
            }
            let own = Family::of(&net.addr());
            if request.family.is_some_and(|family| family != own) {
                let detail = format!("the rule's family is not that of {net}; leave the family out");
                return Err(Error::invalid(detail).at("/family"));
            }
            own
        }
        Some(Remote::Group(_)) | None => request.family.unwrap_or(Family::Ipv4),
    };
    let rule = SecurityRule {
        id: call.id(),
        direction: request.direction,
        family,
        matches: matches(request)?,
        remote: remote.unwrap_or(Remote::Net(everything(family))),
        description: request.description.clone(),
    };
    let same = |other: &&SecurityRule| {
        (other.direction, other.family, other.matches, other.remote)
            == (rule.direction, rule.family, rule.matches, rule.remote)
    };
    match group.rules.iter().find(same) {
        Some(other) => {
            let detail =
                format!("security group {} lets {} already, by rule {}", group.meta.name, say(&rule), other.id);
            Err(Error::already_exists(detail))
        }
        None => Ok(rule),
    }
}

fn matches(request: &SecurityRuleCreate) -> Result<RuleMatch> {
    let SecurityRuleCreate { protocol, from, to, kind, code, number, .. } = *request;
    let stray = |field: &str, given: bool, of: &str| {
        if given { Err(Error::invalid(format!("this belongs to {of} only; leave it out")).at(field)) } else { Ok(()) }
    };
    let ported = matches!(protocol, RuleProtocol::Tcp | RuleProtocol::Udp);
    stray("/from", from.is_some() && !ported, "TCP and UDP")?;
    stray("/to", to.is_some() && !ported, "TCP and UDP")?;
    stray("/kind", kind.is_some() && protocol != RuleProtocol::Icmp, "ICMP")?;
    stray("/code", code.is_some() && protocol != RuleProtocol::Icmp, "ICMP")?;
    stray("/number", number.is_some() && protocol != RuleProtocol::Other, "the protocol `other`")?;
    match protocol {
        RuleProtocol::Any => Ok(RuleMatch::Any),
        RuleProtocol::Tcp => ports(from, to).map(|(from, to)| RuleMatch::Tcp { from, to }),
        RuleProtocol::Udp => ports(from, to).map(|(from, to)| RuleMatch::Udp { from, to }),
        RuleProtocol::Icmp if code.is_some() && kind.is_none() => {
            Err(Error::invalid("an ICMP code means something with its type only; give the type (kind)").at("/kind"))
        }
        RuleProtocol::Icmp => Ok(RuleMatch::Icmp { kind, code }),
        RuleProtocol::Other => match number {
            None => Err(Error::invalid("give the protocol's number (IANA's registry)").at("/number")),
            Some(1 | 6 | 17 | 58) => {
                Err(Error::invalid("this protocol has a name: give tcp, udp or icmp").at("/protocol"))
            }
            Some(number) => Ok(RuleMatch::Other { number }),
        },
    }
}

fn ports(from: Option<u16>, to: Option<u16>) -> Result<(u16, u16)> {
    match (from, to) {
        (None, None) => Ok((1, u16::MAX)),
        (None, Some(_)) => Err(Error::invalid("give the first port too").at("/from")),
        (Some(0), _) => Err(Error::invalid("ports are 1 to 65535").at("/from")),
        (Some(from), to) => {
            let to = to.unwrap_or(from);
            if from <= to {
                return Ok((from, to));
            }
            Err(Error::invalid(format!("the ports {from} to {to} end before they begin; swap the two")).at("/to"))
        }
    }
}

fn everything(family: Family) -> IpNet {
    match family {
        Family::Ipv4 => ipnet::Ipv4Net::default().into(),
        Family::Ipv6 => ipnet::Ipv6Net::default().into(),
    }
}

/// `tcp 80-443 in from 10.0.0.0/8`
pub fn say(rule: &SecurityRule) -> String {
    let range = |from: u16, to: u16| if from == to { from.to_string() } else { format!("{from}-{to}") };
    let what = match rule.matches {
        RuleMatch::Any => "everything".to_owned(),
        RuleMatch::Tcp { from: 1, to: u16::MAX } => "tcp".to_owned(),
        RuleMatch::Udp { from: 1, to: u16::MAX } => "udp".to_owned(),
        RuleMatch::Tcp { from, to } => format!("tcp {}", range(from, to)),
        RuleMatch::Udp { from, to } => format!("udp {}", range(from, to)),
        RuleMatch::Icmp { kind: None, .. } => "icmp".to_owned(),
        RuleMatch::Icmp { kind: Some(kind), code: None } => format!("icmp {kind}"),
        RuleMatch::Icmp { kind: Some(kind), code: Some(code) } => format!("icmp {kind}/{code}"),
        RuleMatch::Other { number } => format!("protocol {number}"),
    };
    let way = match rule.direction {
        Direction::Ingress => "in from",
        Direction::Egress => "out to",
    };
    let other = match rule.remote {
        Remote::Net(net) => net.to_string(),
        Remote::Group(group) => {
            let family = if rule.family == Family::Ipv4 { "IPv4" } else { "IPv6" };
            format!("group {group} ({family})")
        }
    };
    format!("{what} {way} {other}")
}

fn told(group: &SecurityGroup, action: &str, message: &str, call: &mut Call<'_>) -> Event {
    let resource = ("security-group", group.id.0, group.meta.name.as_str());
    event::about(call, Some(group.meta.project), resource, action, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, call, meta, owner, project};

    fn group() -> SecurityGroup {
        SecurityGroup {
            id: SecurityGroupId(uuid::Uuid::from_u128(9)),
            meta: meta("web"),
            stateful: true,
            rules: vec![],
        }
    }

    fn asked(json: &str) -> SecurityRuleCreate {
        serde_json::from_str(json).unwrap()
    }

    fn added(group: &SecurityGroup, json: &str) -> Result<SecurityGroup> {
        let request = asked(json);
        let remote = match &request.remote {
            Some(hull_types::wire::network::RemoteRequest::Net(net)) => Some(Remote::Net(*net)),
            _ => None,
        };
        let project = project();
        let done =
            add_rule(group, Asked { request: &request, remote }, &owner(&project), &mut call(&mut Seeded::new(3)));
        done.map(|(changes, _)| {
            let put =
                changes.writes.iter().find_map(|w| if let Write::PutSecurityGroup(g) = w { Some(g) } else { None });
            SecurityGroup::clone(put.unwrap())
        })
    }

    #[test]
    fn rules_are_what_they_say() {
        for (json, said) in [
            (r#"{"protocol":"tcp","from":80,"to":443}"#, "tcp 80-443 in from 0.0.0.0/0"),
            (r#"{"protocol":"tcp","from":22}"#, "tcp 22 in from 0.0.0.0/0"),
            (r#"{"protocol":"udp","remote":{"net":"fd00::/8"}}"#, "udp in from fd00::/8"),
            (r#"{"protocol":"icmp","kind":8,"family":"ipv4","direction":"egress"}"#, "icmp 8 out to 0.0.0.0/0"),
            (r#"{"family":"ipv6"}"#, "everything in from ::/0"),
            (r#"{"protocol":"other","number":89}"#, "protocol 89 in from 0.0.0.0/0"),
        ] {
            let after = added(&group(), json).unwrap();
            assert_eq!(say(&after.rules[0]), said);
            assert_eq!(
                added(&after, json).unwrap_err().kind,
                hull_types::error::ErrorKind::AlreadyExists,
                "twice: {json}"
            );
        }
    }

    #[test]
    fn rules_that_mean_nothing_are_refused_naming_the_field() {
        for (json, field) in [
            (r#"{"protocol":"tcp","from":443,"to":80}"#, "/to"),
            (r#"{"protocol":"tcp","to":80}"#, "/from"),
            (r#"{"protocol":"tcp","from":0}"#, "/from"),
            (r#"{"protocol":"icmp","code":0}"#, "/kind"),
            (r#"{"protocol":"icmp","from":1}"#, "/from"),
            (r#"{"protocol":"any","kind":8}"#, "/kind"),
            (r#"{"protocol":"other"}"#, "/number"),
            (r#"{"protocol":"other","number":6}"#, "/protocol"),
            (r#"{"family":"ipv6","remote":{"net":"10.0.0.0/8"}}"#, "/family"),
            (r#"{"remote":{"net":"10.0.0.1/8"}}"#, "/remote"),
        ] {
            assert_eq!(added(&group(), json).unwrap_err().field.as_deref(), Some(field), "{json}");
        }
    }

    #[test]
    fn a_group_in_use_and_the_default_one_stay() {
        let (project, mut fresh) = (project(), Seeded::new(1));
        let other = crate::testing::name("db");
        let mut gone = |group: &SecurityGroup, ports, named: &[&Name]| {
            delete(group, ports, named, &owner(&project), &mut call(&mut fresh)).map_err(|e| e.detail)
        };
        assert!(gone(&group(), 2, &[]).unwrap_err().contains("2 ports are in it"));
        assert!(gone(&group(), 0, &[&other]).unwrap_err().contains("group db names it"));
        assert!(gone(&SecurityGroup { meta: meta("default"), ..group() }, 0, &[]).is_err());
        let changes = gone(&group(), 0, &[]).unwrap();
        assert!(changes.expect.contains(&crate::change::Expect::Unchanged(Doc::Usage(project.id))), "the turnstile");
        assert!(changes.writes.contains(&Write::Release(claim(&group()))));
    }

    #[test]
    fn a_port_s_groups_are_of_one_kind() {
        let other = SecurityGroup { id: SecurityGroupId(uuid::Uuid::from_u128(10)), stateful: false, ..group() };
        assert!(together(&[&group(), &other]).is_err());
        assert_eq!(together(&[&group(), &group()]).unwrap(), [group().id], "once");
    }

    #[test]
    fn a_group_holds_a_thousand_rules() {
        let mut full = group();
        let rule = added(&group(), "{}").unwrap().rules.remove(0);
        full.rules = (0..RULES_MAX).map(|_| rule.clone()).collect();
        assert!(added(&full, r#"{"protocol":"udp"}"#).unwrap_err().detail.contains("the most there can be"));
    }
}
