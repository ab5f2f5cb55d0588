//! Quotas: what a project may hold, and what it holds.

use hull_types::{
    error::{Error, Result},
    flavor::Resources,
    project::{Quota, Usage},
    units::Bytes,
};

use crate::change::Named;

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

/// What one thing of a kind counts. The one place that says which kinds have a quota.
pub fn one(kind: Named) -> Usage {
    match kind {
        Named::Port => Usage { ports: 1, ..Usage::default() },
        Named::Image => Usage { images: 1, ..Usage::default() },
        Named::Keypair => Usage { keypairs: 1, ..Usage::default() },
        // A VM's share depends on its size: see `of_vm`.
        Named::Vm
        | Named::Project
        | Named::Flavor
        | Named::Node
        | Named::Network
        | Named::Subnet
        | Named::Router
        | Named::FloatingIp
        | Named::SecurityGroup
        | Named::User
        | Named::UserGroup
        | Named::RoleAssignment => Usage::default(),
    }
}

/// The sum of two usages.
pub fn add(a: Usage, b: Usage) -> Usage {
    Usage {
        vms: a.vms.saturating_add(b.vms),
        vcpus: a.vcpus.saturating_add(b.vcpus),
        memory: a.memory.saturating_add(b.memory),
        disk: a.disk.saturating_add(b.disk),
        images: a.images.saturating_add(b.images),
        ports: a.ports.saturating_add(b.ports),
        keypairs: a.keypairs.saturating_add(b.keypairs),
    }
}

/// What is left of `a` without `b`; never below nothing.
pub fn subtract(a: Usage, b: Usage) -> Usage {
    Usage {
        vms: a.vms.saturating_sub(b.vms),
        vcpus: a.vcpus.saturating_sub(b.vcpus),
        memory: a.memory.saturating_sub(b.memory),
        disk: a.disk.saturating_sub(b.disk),
        images: a.images.saturating_sub(b.images),
        ports: a.ports.saturating_sub(b.ports),
        keypairs: a.keypairs.saturating_sub(b.keypairs),
    }
}

/// The usage after taking `more`, or the sentence that names every quota in the way with what is used and wanted.
///
/// A project that is already above a quota (it was lowered) may still take what does not grow that amount.
pub fn take(quota: &Quota, used: Usage, more: Usage) -> Result<Usage> {
    let after = add(used, more);
    let count = |name: &str, limit: Option<u64>, used: u64, more: u64| {
        let limit = limit.filter(|&limit| more > 0 && used.saturating_add(more) > limit)?;
        Some(format!("{name} (limit {limit}, used {used}, {more} more wanted)"))
    };
    let bytes = |name: &str, limit: Option<Bytes>, used: Bytes, more: Bytes| {
        let limit = limit.filter(|&limit| more > Bytes::ZERO && used.saturating_add(more) > limit)?;
        Some(format!("{name} (limit {limit}, used {used}, {more} more wanted)"))
    };
    let over: Vec<String> = [
        count("vms", quota.vms, used.vms, more.vms),
        count("vcpus", quota.vcpus, used.vcpus, more.vcpus),
        bytes("memory", quota.memory, used.memory, more.memory),
        bytes("disk", quota.disk, used.disk, more.disk),
        count("images", quota.images, used.images, more.images),
        count("ports", quota.ports, used.ports, more.ports),
        count("keypairs", quota.keypairs, used.keypairs, more.keypairs),
    ]
    .into_iter()
    .flatten()
    .collect();
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
    use proptest::prelude::*;

    use super::*;

    fn usage() -> impl Strategy<Value = Usage> {
        (0u64..50, 0u64..50, 0u64..50, 0u64..50, 0u64..50, 0u64..50, 0u64..50).prop_map(|(a, b, c, d, e, f, g)| Usage {
            vms: a,
            vcpus: b,
            memory: Bytes::mib(c),
            disk: Bytes::mib(d),
            images: e,
            ports: f,
            keypairs: g,
        })
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
            let quota = Quota {
                vms: Some(limit.vms), vcpus: Some(limit.vcpus), memory: Some(limit.memory), disk: Some(limit.disk),
                images: Some(limit.images), ports: Some(limit.ports), keypairs: Some(limit.keypairs),
            };
            let mut used = Usage::default();
            for wish in wishes {
                used = take(&quota, used, wish).unwrap_or(used);
                prop_assert!(used.vms <= limit.vms && used.vcpus <= limit.vcpus && used.memory <= limit.memory);
                prop_assert!(used.disk <= limit.disk && used.images <= limit.images && used.ports <= limit.ports);
            }
        }
    }
}
