//! Projects: tenants. Each is born with a security group `default` that lets ssh and ICMP in, and goes only when empty.

use hull_types::{
    error::{Error, Result},
    event::Event,
    id::ProjectId,
    project::{Project, Quota, Usage},
    security_group::SecurityGroup,
    units::Bytes,
    wire::ProjectCreate,
};

use crate::{
    call::Call,
    change::{Changes, Claim, Doc, Named, Write},
    check, event, security_group,
};

/// What a project may hold where nobody says.
pub const fn default_quota() -> Quota {
    Quota {
        vms: Some(1000),
        vcpus: Some(4000),
        memory: Some(Bytes::gib(8 << 10)),
        disk: Some(Bytes::gib(100 << 10)),
        images: Some(1000),
        ports: Some(4000),
        keypairs: Some(1000),
    }
}

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
        quota: request.quota.clone().unwrap_or(default_quota()),
    };
    let event = told(&project, "project.create", "created", call);
    let group = security_group::default(id, call)?;
    Ok(Changes::none()
        .and(Write::Claim(claim(&project)))
        .and(Write::PutProject(Box::new(project)))
        .and(Write::PutUsage { project: id, usage: Usage::default() })
        .and(Write::Claim(security_group::claim(&group)))
        .and(Write::PutSecurityGroup(Box::new(group)))
        .event(event))
}

/// What a project owns that its usage does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uncounted {
    /// Networks.
    pub networks: usize,
    /// Routers.
    pub routers: usize,
    /// Floating IPs.
    pub floating_ips: usize,
}

/// Decides on a project's end. `groups` are its security groups, which go with it.
pub fn delete(
    project: &Project,
    usage: Usage,
    groups: &[SecurityGroup],
    uncounted: Uncounted,
    call: &mut Call<'_>,
) -> Result<Changes> {
    let Usage { vms, images, ports, keypairs, .. } = usage;
    let holds: Vec<String> = [
        (vms, "VMs"),
        (images, "images"),
        (keypairs, "keypairs"),
        (uncounted.networks as u64, "networks"),
        (uncounted.routers as u64, "routers"),
        (uncounted.floating_ips as u64, "floating IPs"),
        (if vms == 0 { ports } else { 0 }, "ports"),
    ]
    .into_iter()
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

fn claim(project: &Project) -> Claim {
    Claim::Name { kind: Named::Project, project: None, name: project.name.clone(), id: project.id.0 }
}

fn told(project: &Project, action: &str, message: &str, call: &mut Call<'_>) -> Event {
    event::about(call, Some(project.id), ("project", project.id.0, project.name.as_str()), action, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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
        let gone = delete(
            &testing::project(),
            Usage::default(),
            &[(**group).clone()],
            Uncounted::default(),
            &mut call(&mut fresh),
        )
        .unwrap();
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
        let detail =
            delete(&testing::project(), usage, &[], Uncounted::default(), &mut call(&mut fresh)).unwrap_err().detail;
        assert_eq!(detail, "project default still holds 2 VMs, 1 images; delete them first");
    }
}
