//! What a node says of itself.

use std::net::IpAddr;

use hull_core::certificate::Stage;
use hull_types::{
    Timestamp,
    error::Error,
    id::NodeId,
    node::{NodeCondition, NodeFacts, NodeStatus},
    reason::{Reason, ReasonCode},
    units::Bytes,
    vm::Accel,
};

use crate::{host::HostFacts, hypervisor::HypervisorFacts, link::Certificate};

/// All a status is made of.
pub(crate) struct Known<'a> {
    pub(crate) node: NodeId,
    pub(crate) hull_version: &'a str,
    pub(crate) memory_reserved: Bytes,
    pub(crate) underlay: Option<IpAddr>,
    pub(crate) providers: &'a [String],
    /// What is wrong with its networks.
    pub(crate) networks: &'a [String],
    pub(crate) host: &'a HostFacts,
    /// None until the hypervisor has said what it can do.
    pub(crate) hypervisor: Option<&'a Result<HypervisorFacts, Error>>,
    pub(crate) disk_free: Bytes,
    /// The certificate it proves itself by; none where it shares a process with its server.
    pub(crate) certificate: Option<&'a Certificate>,
    pub(crate) now: Timestamp,
}

/// The status, with conditions keeping their beginning from the one before.
pub(crate) fn status(known: &Known<'_>, before: Option<&NodeStatus>) -> NodeStatus {
    let able = known.hypervisor.and_then(|facts| facts.as_ref().ok());
    let facts = NodeFacts {
        hostname: known.host.hostname.clone(),
        hull_version: known.hull_version.to_owned(),
        qemu_version: able.map(|facts| facts.version.clone()),
        kernel: known.host.kernel.clone(),
        cpus: known.host.cpus,
        memory: known.host.memory,
        memory_reserved: known.memory_reserved,
        disk: known.host.disk,
        cpu_model: known.host.cpu_model.clone(),
        accel: able.map_or(Accel::Tcg, |facts| facts.accel),
        boot_id: known.host.boot_id.clone(),
        underlay: known.underlay,
        providers: known.providers.to_vec(),
        migrates: true,
    };
    let mut conditions = conditions(known);
    for condition in &mut conditions {
        let old = before.and_then(|before| before.conditions.iter().find(|old| old.name == condition.name));
        condition.reason.since = old.map_or(known.now, |old| old.reason.since);
    }
    NodeStatus { node: known.node, facts, conditions, disk_free: known.disk_free, at: known.now }
}

fn conditions(known: &Known<'_>) -> Vec<NodeCondition> {
    let condition = |name: &str, code, message: String| NodeCondition {
        name: name.to_owned(),
        warning: true,
        reason: Reason::new(code, message, known.now),
    };
    let mut found = Vec::new();
    match known.hypervisor {
        Some(Err(error)) => found.push(condition(
            "qemu-missing",
            ReasonCode::HypervisorMissing,
            format!("no VM can be started here: {}", error.detail),
        )),
        Some(Ok(HypervisorFacts { fallback: Some(why), .. })) => {
            let message = format!("VMs run in software, many times slower than they could: {why}");
            found.push(condition("accel-fallback", ReasonCode::Other, message));
        }
        Some(Ok(_)) | None => {}
    }
    let unfenced = known.hypervisor.and_then(|facts| facts.as_ref().ok()).map(|facts| facts.unfenced.as_slice());
    if let Some(lacking @ [_, ..]) = unfenced {
        let message = format!("VMs are confined less than they could be: this host lacks {}", lacking.join("; "));
        found.push(condition("confinement-incomplete", ReasonCode::Other, message));
    }
    if !known.networks.is_empty() {
        found.push(condition("network-degraded", ReasonCode::Other, known.networks.join("; ")));
    }
    let disk = known.host.disk;
    if known.disk_free.0 < disk.0 / 20 || known.disk_free < Bytes::gib(1) {
        let message = "less than 5 % or 1 GiB is free for VM disks; remove images or VMs, or add space".to_owned();
        found.push(condition("disk-pressure", ReasonCode::DiskFull, message));
    }
    if known.host.memory_available.0 < known.host.memory.0 / 20 {
        let message = "less than 5 % of memory is available; move or stop VMs".to_owned();
        found.push(condition("memory-pressure", ReasonCode::OutOfMemory, message));
    }
    if let Some(Certificate { validity, trouble }) = known.certificate
        && validity.stage(known.now) >= Stage::Ending
    {
        let why = trouble.as_deref().unwrap_or("it was not tried yet");
        let message = format!(
            "its certificate ends at {} and could not be renewed ({why}); mend that, or join the host again with a token of `hull node join-token --name <this node>`",
            validity.until
        );
        found.push(condition("certificate-ending", ReasonCode::Other, message));
    }
    found
}

/// Whether two statuses tell the same, but for the time and what drifts with every write to a disk.
pub(crate) fn same(one: &NodeStatus, other: &NodeStatus) -> bool {
    let drifted = one.disk_free.0.abs_diff(other.disk_free.0) > Bytes::mib(256).0;
    !drifted && NodeStatus { at: other.at, disk_free: other.disk_free, ..one.clone() } == *other
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn host() -> HostFacts {
        HostFacts {
            cpu_model: None,
            hostname: "h1".into(),
            kernel: "6.1".into(),
            cpus: 4,
            memory: Bytes::gib(8),
            memory_available: Bytes::gib(4),
            disk: Bytes::gib(100),
            boot_id: "b".into(),
        }
    }

    fn names(hypervisor: Option<&Result<HypervisorFacts, Error>>, disk_free: Bytes, host: &HostFacts) -> Vec<String> {
        let known = Known {
            node: NodeId(uuid::Uuid::nil()),
            hull_version: "0.1.0",
            memory_reserved: Bytes::ZERO,
            underlay: None,
            providers: &[],
            networks: &[],
            host,
            hypervisor,
            disk_free,
            certificate: None,
            now: Timestamp::UNIX_EPOCH,
        };
        status(&known, None).conditions.into_iter().map(|condition| condition.name).collect()
    }

    #[test]
    fn conditions_tell_what_needs_attention_and_nothing_else() {
        let facts = |fallback: Option<&str>| {
            let fallback = fallback.map(str::to_owned);
            Ok(HypervisorFacts { version: "7.2".into(), accel: Accel::Tcg, fallback, unfenced: vec![] })
        };
        let unfenced = HypervisorFacts { unfenced: vec!["disk I/O".into()], ..facts(None).unwrap() };
        let free = Bytes::gib(50);
        assert!(names(Some(&facts(None)), free, &host()).is_empty());
        assert_eq!(names(Some(&facts(Some("no /dev/kvm"))), free, &host()), ["accel-fallback"]);
        assert_eq!(names(Some(&Ok(unfenced)), free, &host()), ["confinement-incomplete"]);
        assert_eq!(names(Some(&Err(Error::not_found("no qemu"))), free, &host()), ["qemu-missing"]);
        assert_eq!(names(Some(&facts(None)), Bytes::gib(3), &host()), ["disk-pressure"]);
        let tight = HostFacts { memory_available: Bytes::mib(100), ..host() };
        assert_eq!(names(Some(&facts(None)), free, &tight), ["memory-pressure"]);
    }

    #[test]
    fn a_certificate_that_nobody_could_renew_is_told_before_it_ends() {
        let (facts, host) = (
            Ok(HypervisorFacts { version: "7.2".into(), accel: Accel::Tcg, fallback: None, unfenced: Vec::new() }),
            host(),
        );
        let told = |left: i64| {
            let date = |seconds| Timestamp::from_second(seconds).unwrap();
            let validity = hull_core::certificate::Validity { from: date(0), until: date(1_200) };
            let certificate = Certificate { validity, trouble: Some("no way to it".into()) };
            let known = Known {
                node: NodeId(uuid::Uuid::nil()),
                hull_version: "0.1.0",
                memory_reserved: Bytes::ZERO,
                host: &host,
                hypervisor: Some(&facts),
                disk_free: Bytes::gib(50),
                certificate: Some(&certificate),
                underlay: None,
                providers: &[],
                networks: &[],
                now: date(1_200 - left),
            };
            status(&known, None).conditions
        };
        assert_eq!(told(300), [], "it is being renewed");
        for left in [200, 0] {
            let conditions = told(left);
            assert_eq!(conditions[0].name, "certificate-ending");
            assert!(conditions[0].warning && conditions[0].reason.message.contains("no way to it"), "{conditions:?}");
        }
    }
}
