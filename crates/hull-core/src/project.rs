//! Projects: tenants. Each is born with a security group `default` that lets ssh and ICMP in, and goes only when empty.

use hull_types::{
    error::{Error, Result},
    event::Event,
    id::ProjectId,
    project::{Project, Quota, QuotaKind, Usage},
    security_group::SecurityGroup,
    wire::{ProjectCreate, ProjectUpdate},
};

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Named, Write},
    check, event, quota, security_group,
};

/// Decides on a new project.
pub fn create(request: &ProjectCreate, call: &mut Call<'_>) -> Result<Changes> {
    let id = call.id();
    with_id(id, request, call)
}

/// The same with a known id, for the project made at the first start.
pub fn with_id(id: ProjectId, request: &ProjectCreate, call: &mut Call<'_>) -> Result<Changes> {
    check::description(&request.description)?;
    let project = Project {
        id,
        name: request.name.clone(),
        description: request.description.clone(),
        created_at: call.now,
        quota: request.quota.clone().unwrap_or_default().on(&Quota::of_new_projects()),
    };
    let event = told(&project, "project.create", "created", call);
    let group = security_group::default(id, call)?;
    Ok(Changes::none()
        .and(Write::Claim(claim(&project)))
        .and(Write::PutProject(Box::new(project)))
        .and(Write::PutUsage { project: id, usage: quota::of_group(&group) })
        .and(Write::Claim(security_group::claim(&group)))
        .and(Write::PutSecurityGroup(Box::new(group)))
        .event(event))
}

/// Decides on a change of a project's name, description or quota. A quota may go below what is held: that takes nothing
/// away, and history says so.
pub fn update(project: &Project, usage: Usage, wanted: &ProjectUpdate, call: &mut Call<'_>) -> Result<Changes> {
    wanted.description.as_deref().map_or(Ok(()), check::description)?;
    let mut after = project.clone();
    let ProjectUpdate { name, description, quota } = wanted.clone();
    after.name = name.unwrap_or(after.name);
    after.description = description.unwrap_or(after.description);
    after.quota = quota.unwrap_or_default().on(&project.quota);
    if after == *project {
        return Ok(Changes::none());
    }
    let mut changes = Changes::none().unchanged(Doc::Project(project.id));
    let mut news = Vec::new();
    if after.name != project.name {
        news.push(format!("renamed from {}", project.name));
        changes.push(Write::Release(claim(project)));
        changes.push(Write::Claim(claim(&after)));
    }
    if after.description != project.description {
        news.push("described anew".to_owned());
    }
    news.extend(limits(project, &after, &usage));
    let event = told(&after, "project.update", &news.join("; "), call);
    Ok(changes.and(Write::PutProject(Box::new(after))).event(event))
}

/// The limits that changed, as history tells them.
fn limits<'a>(before: &'a Project, after: &'a Project, held: &'a Usage) -> impl Iterator<Item = String> + 'a {
    let changed = QuotaKind::ALL.iter().filter(|&&kind| before.quota.limit(kind) != after.quota.limit(kind));
    changed.map(move |&kind| {
        let shown = |limit: Option<u64>| limit.map_or("no limit".to_owned(), |limit| kind.show(limit));
        let (was, is, holds) = (before.quota.limit(kind), after.quota.limit(kind), held.get(kind));
        let below = if is.is_some_and(|is| holds > is) {
            format!(", below the {} it holds: no more is given until less is held", kind.show(holds))
        } else {
            String::new()
        };
        format!("quota of {} from {} to {}{below}", kind.name(), shown(was), shown(is))
    })
}

/// Decides on a project's end. `groups` are its security groups, which go with it.
pub fn delete(project: &Project, usage: Usage, groups: &[SecurityGroup], call: &mut Call<'_>) -> Result<Changes> {
    let holds: Vec<String> = QuotaKind::ALL
        .iter()
        .filter_map(|&kind| Some((usage.get(kind), keeps(kind, &usage)?)))
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if !holds.is_empty() {
        let detail = format!("project {} still holds {}; delete them first", project.name, holds.join(", "));
        return Err(Error::conflict(detail));
    }
    let event = told(project, "project.delete", "deleted", call);
    let mut changes = Changes::none()
        .unchanged(Doc::Project(project.id))
        .unchanged(Doc::Usage(project.id))
        .and(Write::DeleteProject(project.id))
        .and(Write::DeleteUsage(project.id))
        .and(Write::Release(claim(project)));
    for group in groups {
        changes.push(Write::DeleteSecurityGroup(group.id));
        changes.push(Write::Release(security_group::claim(group)));
    }
    Ok(changes.event(event))
}

/// What keeps a project from going, as sentences call it; none for what goes with it or with what keeps it.
fn keeps(kind: QuotaKind, held: &Usage) -> Option<&'static str> {
    match kind {
        QuotaKind::Vms => Some("VMs"),
        QuotaKind::Volumes => Some("volumes"),
        QuotaKind::Snapshots => Some("snapshots"),
        QuotaKind::Networks => Some("networks"),
        QuotaKind::Routers => Some("routers"),
        QuotaKind::FloatingIps => Some("floating IPs"),
        QuotaKind::Images => Some("images"),
        QuotaKind::Keypairs => Some("keypairs"),
        QuotaKind::Subnets if held.networks == 0 => Some("subnets"),
        QuotaKind::Ports if held.vms == 0 && held.routers == 0 => Some("ports"),
        QuotaKind::Subnets
        | QuotaKind::Ports
        | QuotaKind::Vcpus
        | QuotaKind::Memory
        | QuotaKind::Disk
        | QuotaKind::VolumeSpace
        | QuotaKind::SecurityGroups => None,
    }
}

fn claim(project: &Project) -> Claim {
    Claim::Name { kind: Named::Project, project: None, name: project.name.clone(), id: project.id.0 }
}

fn told(project: &Project, action: &str, message: &str, call: &mut Call<'_>) -> Event {
    event::about(call, Some(project.id), ("project", project.id.0, project.name.as_str()), action, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_types::project::QuotaUpdate;

    use super::*;
    use crate::testing::{self, Seeded, call, name};

    #[test]
    fn a_project_is_born_with_a_group_and_goes_with_it() {
        let mut fresh = Seeded::new(1);
        let request = ProjectCreate { name: name("acme"), description: String::new(), quota: None };
        let made = create(&request, &mut call(&mut fresh)).unwrap();
        let group = made.writes.iter().find_map(|w| if let Write::PutSecurityGroup(g) = w { Some(g) } else { None });
        let group = group.unwrap();
        assert_eq!(group.meta.name.as_str(), "default");
        let gone = delete(&testing::project(), Usage::default(), &[(**group).clone()], &mut call(&mut fresh)).unwrap();
        assert!(gone.writes.contains(&Write::DeleteSecurityGroup(group.id)));
        assert!(
            gone.expect.contains(&crate::change::Expect::Unchanged(Doc::Usage(testing::PROJECT))),
            "nothing slips in"
        );
    }

    #[test]
    fn what_holds_something_stays_and_says_what() {
        let mut fresh = Seeded::new(1);
        let usage = Usage { vms: 2, ports: 2, images: 1, ..Usage::default() };
        let detail = delete(&testing::project(), usage, &[], &mut call(&mut fresh)).unwrap_err().detail;
        assert_eq!(detail, "project default still holds 2 VMs, 1 images; delete them first");
    }

    #[test]
    fn only_the_limits_given_differ_from_the_usual_ones() {
        let mut quota = QuotaUpdate::default();
        quota.set(QuotaKind::Vms, Some(3));
        quota.set(QuotaKind::Ports, None);
        let request = ProjectCreate { name: name("acme"), description: String::new(), quota: Some(quota) };
        let made = create(&request, &mut call(&mut Seeded::new(1))).unwrap();
        let project =
            made.writes.iter().find_map(|w| if let Write::PutProject(p) = w { Some(p) } else { None }).unwrap();
        let usual = Quota::of_new_projects();
        assert_eq!(project.quota, Quota { vms: Some(3), ports: None, ..usual });
    }

    #[test]
    fn a_quota_lowered_below_what_is_held_says_so() {
        let mut fresh = Seeded::new(1);
        let usage = Usage { vms: 7, ..Usage::default() };
        let mut quota = QuotaUpdate::default();
        quota.set(QuotaKind::Vms, Some(5));
        quota.set(QuotaKind::Memory, Some(1 << 30));
        let wanted = ProjectUpdate { quota: Some(quota), ..ProjectUpdate::default() };
        let changes = update(&testing::project(), usage, &wanted, &mut call(&mut fresh)).unwrap();
        let event = changes.writes.iter().find_map(|w| if let Write::Event(e) = w { Some(e) } else { None }).unwrap();
        assert_eq!(
            event.message,
            "quota of vms from no limit to 5, below the 7 it holds: no more is given until less is held; \
             quota of memory from no limit to 1 GiB"
        );
        let nothing = update(&testing::project(), usage, &ProjectUpdate::default(), &mut call(&mut fresh)).unwrap();
        assert!(nothing.is_empty());
    }

    #[test]
    fn a_renamed_project_gives_its_name_back() {
        let wanted = ProjectUpdate { name: Some(name("acme")), ..ProjectUpdate::default() };
        let changes = update(&testing::project(), Usage::default(), &wanted, &mut call(&mut Seeded::new(1))).unwrap();
        assert!(changes.writes.contains(&Write::Release(claim(&testing::project()))));
        assert!(changes.expect.contains(&crate::change::Expect::Unchanged(Doc::Project(testing::PROJECT))));
    }
}
