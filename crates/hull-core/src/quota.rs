//! Quotas: what a project may hold, and what it holds.
//!
//! A change that makes something counted goes through [`charge`], one that removes it through [`refund`]: both add the
//! new usage and the condition that nobody has changed it meanwhile, so usage and resource change together or not at
//! all. What a resource counts is said once, by the `of_…` functions; the recount at the server's start and the
//! simulator's check sum over the same.

use hull_types::{
    error::{Error, Result},
    flavor::Resources,
    id::ProjectId,
    network::Network,
    project::{Project, Quota, QuotaKind, Usage},
    security_group::SecurityGroup,
};

use crate::change::{Changes, Doc, Named, Write};

/// What one VM with so many ports counts.
pub fn of_vm(resources: &Resources, ports: u64) -> Usage {
    Usage {
        vms: 1,
        vcpus: u64::from(resources.vcpus),
        memory: resources.memory,
        disk: resources.disk,
        ports,
        ..Usage::default()
    }
}

/// What one thing of a kind counts by itself. The one place that says which kinds have a quota.
pub fn one(kind: Named) -> Usage {
    match kind {
        Named::Network => Usage { networks: 1, ..Usage::default() },
        Named::Subnet => Usage { subnets: 1, ..Usage::default() },
        Named::Router => Usage { routers: 1, ..Usage::default() },
        Named::Port => Usage { ports: 1, ..Usage::default() },
        Named::SecurityGroup => Usage { security_groups: 1, ..Usage::default() },
        Named::FloatingIp => Usage { floating_ips: 1, ..Usage::default() },
        Named::Image => Usage { images: 1, ..Usage::default() },
        Named::Keypair => Usage { keypairs: 1, ..Usage::default() },
        // A VM's share depends on its size: see `of_vm`.
        Named::Vm
        | Named::Project
        | Named::Flavor
        | Named::Node
        | Named::User
        | Named::UserGroup
        | Named::RoleAssignment => Usage::default(),
    }
}

/// What a network counts, with its subnets.
pub fn of_network(network: &Network) -> Usage {
    Usage { networks: 1, subnets: network.subnets.len() as u64, ..Usage::default() }
}

/// What a security group counts.
pub fn of_group(_: &SecurityGroup) -> Usage {
    one(Named::SecurityGroup)
}

/// The sum of two usages.
pub fn add(a: Usage, b: Usage) -> Usage {
    each(a, b, u64::saturating_add)
}

/// What is left of `a` without `b`; never below nothing.
pub fn subtract(a: Usage, b: Usage) -> Usage {
    each(a, b, u64::saturating_sub)
}

fn each(a: Usage, b: Usage, of: impl Fn(u64, u64) -> u64) -> Usage {
    let mut result = a;
    for &kind in QuotaKind::ALL {
        result.set(kind, of(a.get(kind), b.get(kind)));
    }
    result
}

/// What a project holds more of than its quota allows.
pub fn above(quota: &Quota, used: &Usage) -> Vec<QuotaKind> {
    let over = |kind: &QuotaKind| quota.limit(*kind).is_some_and(|limit| used.get(*kind) > limit);
    QuotaKind::ALL.iter().copied().filter(over).collect()
}

/// Adds to a change that the project takes `more`, where its quota allows it.
pub fn charge(changes: Changes, project: &Project, used: Usage, more: Usage) -> Result<Changes> {
    let usage = take(&project.quota, used, more)?;
    let id = project.id;
    Ok(changes.unchanged(Doc::Project(id)).unchanged(Doc::Usage(id)).and(Write::PutUsage { project: id, usage }))
}

/// Adds to a change that the project gives `less` back.
pub fn refund(changes: Changes, project: ProjectId, used: Usage, less: Usage) -> Changes {
    let usage = subtract(used, less);
    changes.unchanged(Doc::Usage(project)).and(Write::PutUsage { project, usage })
}

/// The usage after taking `more`, or the sentence that names every quota in the way with what is used and wanted.
///
/// A project that is already above a quota (it was lowered) may still take what does not grow that amount.
pub fn take(quota: &Quota, used: Usage, more: Usage) -> Result<Usage> {
    let after = add(used, more);
    let refusal = |&kind: &QuotaKind| {
        let (limit, wanted) = (quota.limit(kind)?, more.get(kind));
        if wanted == 0 || used.get(kind).saturating_add(wanted) <= limit {
            return None;
        }
        let (limit, used, wanted) = (kind.show(limit), kind.show(used.get(kind)), kind.show(wanted));
        Some(format!("{} (limit {limit}, used {used}, {wanted} more wanted)", kind.name()))
    };
    let over: Vec<String> = QuotaKind::ALL.iter().filter_map(refusal).collect();
    if over.is_empty() {
        return Ok(after);
    }
    Err(Error::quota_exceeded(format!(
        "the project's quota does not allow it: {}; delete something, ask for less, or have an administrator raise the quota",
        over.join(", ")
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hull_types::{project::QuotaUpdate, units::Bytes};
    use proptest::prelude::*;

    use super::*;
    use crate::{change::Expect, testing};

    /// Any usage: an amount of each kind.
    fn usage() -> impl Strategy<Value = Usage> {
        prop::collection::vec(0u64..50, QuotaKind::ALL.len()).prop_map(|amounts| {
            let mut usage = Usage::default();
            QuotaKind::ALL.iter().zip(amounts).for_each(|(&kind, amount)| usage.set(kind, amount));
            usage
        })
    }

    fn limits(of: &Usage) -> Quota {
        let mut update = QuotaUpdate::default();
        QuotaKind::ALL.iter().for_each(|&kind| update.set(kind, Some(of.get(kind))));
        update.on(&Quota::default())
    }

    #[test]
    fn the_sentence_names_quota_limit_used_and_wanted() {
        let quota = Quota { vcpus: Some(8), memory: Some(Bytes::gib(4)), ..Quota::default() };
        let used = Usage { vcpus: 7, memory: Bytes::gib(3), ..Usage::default() };
        let more = Usage { vms: 1, vcpus: 2, memory: Bytes::gib(2), ..Usage::default() };
        let detail = take(&quota, used, more).unwrap_err().detail;
        assert!(detail.contains("vcpus (limit 8, used 7, 2 more wanted)"), "{detail}");
        assert!(detail.contains("memory (limit 4 GiB, used 3 GiB, 2 GiB more wanted)"), "{detail}");
        assert!(!detail.contains("vms"), "{detail}");
    }

    #[test]
    fn above_a_lowered_quota_other_things_still_go() {
        let quota = Quota { vms: Some(1), images: Some(5), ..Quota::default() };
        let used = Usage { vms: 3, ..Usage::default() };
        assert!(take(&quota, used, Usage { images: 1, ..Usage::default() }).is_ok());
        assert!(take(&quota, used, Usage { vms: 1, ..Usage::default() }).is_err());
    }

    proptest! {
        #[test]
        fn what_is_taken_and_given_back_is_nothing(used in usage(), more in usage()) {
            let after = take(&Quota::default(), used, more).unwrap();
            prop_assert_eq!(subtract(after, more), used);
        }

        #[test]
        fn no_quota_is_ever_exceeded(limit in usage(), wishes in prop::collection::vec(usage(), 0..20)) {
            let quota = limits(&limit);
            let mut used = Usage::default();
            for wish in wishes {
                used = take(&quota, used, wish).unwrap_or(used);
                prop_assert_eq!(above(&quota, &used), Vec::new());
            }
        }

        #[test]
        fn all_of_a_quota_can_be_had_and_no_more_of_any_kind(limit in usage(), at in 0..QuotaKind::ALL.len()) {
            let kind = QuotaKind::ALL[at];
            let full = take(&limits(&limit), Usage::default(), limit).unwrap();
            prop_assert_eq!(full, limit);
            let detail = take(&limits(&limit), full, Usage::one(kind)).unwrap_err().detail;
            let others = QuotaKind::ALL.iter().filter(|&&other| detail.contains(&format!("{} (", other.name())));
            prop_assert_eq!(others.copied().collect::<Vec<_>>(), vec![kind], "{}", detail);
        }

        #[test]
        fn a_lowered_quota_takes_nothing_away_and_gives_no_more(used in usage(), limit in usage(), at in 0..QuotaKind::ALL.len()) {
            let kind = QuotaKind::ALL[at];
            let quota = limits(&limit);
            prop_assert_eq!(above(&quota, &used).contains(&kind), used.get(kind) > limit.get(kind));
            let given = take(&quota, used, Usage::one(kind)).is_ok();
            prop_assert_eq!(given, used.get(kind) < limit.get(kind));
        }

        #[test]
        fn what_is_charged_is_refunded_and_nobody_slips_between(used in usage(), more in usage()) {
            let project = testing::project();
            let charged = charge(Changes::none(), &project, used, more).unwrap();
            let back = refund(Changes::none(), project.id, add(used, more), more);
            prop_assert_eq!(&charged.writes, &vec![Write::PutUsage { project: project.id, usage: add(used, more) }]);
            prop_assert_eq!(&back.writes, &vec![Write::PutUsage { project: project.id, usage: used }]);
            for changes in [charged, back] {
                prop_assert!(changes.expect.contains(&Expect::Unchanged(Doc::Usage(project.id))));
            }
        }
    }
}
