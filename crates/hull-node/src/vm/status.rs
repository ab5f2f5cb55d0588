//! What is told of a VM: its status to the server, its metadata to itself.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use hull_types::{
    Timestamp,
    id::NodeId,
    link::DesiredVm,
    reason::Reason,
    vm::{VmPhase, VmStatus, Vmm},
};

use crate::{
    network::GuestMetadata,
    plan::{Plan, record::Record},
};

/// What a status tells besides the record and the plan.
pub(super) struct Context {
    pub(super) node: NodeId,
    pub(super) now: Timestamp,
    pub(super) vmm: Option<Vmm>,
    /// How long the step under way may take.
    pub(super) limit: Option<Duration>,
}

/// The status to report; none where nobody ever told what the VM shall be.
pub(super) fn status(record: &Record, plan: &Plan, context: Context, before: Option<&VmStatus>) -> Option<VmStatus> {
    let desired = record.desired.as_ref()?;
    let started = record.started.as_ref().filter(|started| started.confirmed);
    let rescue = match started {
        Some(started) => started.rescue.is_some(),
        None => desired.vm.rescue.is_some(),
    };
    Some(VmStatus {
        vm: record.vm,
        node: context.node,
        generation: desired.generation,
        observed_revision: desired.revision,
        phase: phase(record, plan.phase),
        reason: reason(plan, &context, before),
        vmm: context.vmm.filter(|_| started.is_some()),
        power_seq: record.power_seq,
        reboot_seq: record.reboot_seq,
        disk_generation: record.disk.map_or(0, |disk| disk.generation),
        rescue,
        running: started.map(|started| started.resources),
        pending: started.map(|_| record.pending()).unwrap_or_default(),
        last_exit: record.last_exit.clone(),
        restarts: record.restarts,
        migration: desired.transit.map(hull_types::migration::Transit::migration),
        failures: record.trouble.as_ref().map_or(0, |trouble| trouble.alike),
        at: context.now,
    })
}

/// Clearing away an older generation is, for the new one, part of being made ready.
fn phase(record: &Record, phase: VmPhase) -> VmPhase {
    let stays = record.wanted().is_some_and(|desired| desired.vm.deleted_at.is_none());
    match phase {
        VmPhase::Deleting | VmPhase::Gone if stays => VmPhase::Preparing,
        phase => phase,
    }
}

/// A reason keeps its beginning while it stays the same, and one of a step under way ends at the latest with the step's limit.
fn reason(plan: &Plan, context: &Context, before: Option<&VmStatus>) -> Option<Reason> {
    let mut reason = plan.reason.clone()?;
    if let Some(limit) = context.limit.filter(|_| reason.deadline.is_none()) {
        let limit = jiff::SignedDuration::try_from(limit).unwrap_or(jiff::SignedDuration::MAX);
        reason.deadline = context.now.checked_add(limit).ok();
    }
    let same = |old: &&Reason| old.code == reason.code && old.message == reason.message;
    if let Some(old) = before.and_then(|status| status.reason.as_ref()).filter(same) {
        reason.since = old.since;
        if context.limit.is_some() {
            reason.deadline = old.deadline.or(reason.deadline);
        }
    }
    Some(reason)
}

/// Whether two statuses tell the same.
pub(super) fn same(one: &VmStatus, other: &VmStatus) -> bool {
    VmStatus { at: other.at, ..one.clone() } == *other
}

/// What the VM is told of itself.
pub(crate) fn metadata(desired: &DesiredVm, zone: &str) -> GuestMetadata {
    let vm = &desired.vm;
    let key_name = |(n, key): (usize, &hull_types::keypair::PublicKey)| {
        let comment = key.as_str().splitn(3, ' ').nth(2).filter(|comment| !comment.is_empty());
        (comment.map_or_else(|| format!("key{n}"), str::to_owned), key.as_str().to_owned())
    };
    GuestMetadata {
        vm: vm.id,
        name: vm.meta.name.to_string(),
        hostname: vm.hostname.clone(),
        project: vm.meta.project.to_string(),
        zone: zone.to_owned(),
        flavor: vm.flavor.as_ref().map_or_else(|| "custom".to_owned(), |flavor| flavor.name.to_string()),
        ssh_keys: vm.ssh_keys.iter().enumerate().map(key_name).collect(),
        user_data: vm.user_data.as_ref().and_then(|text| STANDARD.decode(text).ok()),
        metadata: vm.meta.metadata.clone(),
    }
}
