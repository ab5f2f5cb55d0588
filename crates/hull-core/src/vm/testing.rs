//! VMs for tests.

use hull_types::{
    flavor::Resources,
    id::{NodeId, PortId, VmId},
    vm::{
        Boot, Firmware, FlavorRef, ImageRef, Placement, PowerIntent, PowerTarget, Profile, RebootIntent, RebootKind,
        RestartPolicy, Vm, VmPhase, VmStatus,
    },
};
use uuid::Uuid;

use crate::testing::{NOW, flavor, image, meta};

pub(crate) const NODE: NodeId = NodeId(Uuid::from_u128(0x66));

/// A VM that shall run.
pub(crate) fn vm() -> Vm {
    let image = image("debian-12");
    let image = ImageRef { id: image.id, name: image.meta.name, digest: image.content.unwrap().digest };
    Vm {
        id: VmId(Uuid::from_u128(0x77)),
        meta: meta("web"),
        hostname: "web".into(),
        flavor: Some(FlavorRef { id: flavor().id, name: flavor().name }),
        resources: Resources { ..flavor().resources },
        profile: Profile::Pc,
        boot: Boot { image: Some(image), kernel: None, firmware: Firmware::Bios, secure_boot: false, tpm: false },
        ssh_keys: vec![],
        user_data: None,
        ports: vec![PortId(Uuid::from_u128(0x88))],
        restart: RestartPolicy::OnFailure,
        power: PowerIntent { target: PowerTarget::Running, seq: 3, grace_seconds: 60, at: NOW },
        reboot: RebootIntent { seq: 0, kind: RebootKind::Soft },
        disk_generation: 1,
        rescue: None,
        locked: false,
        deleted_at: None,
    }
}

/// A VM whose power shall rest there.
pub(crate) fn wanting(target: PowerTarget) -> Vm {
    let mut vm = vm();
    vm.power.target = target;
    vm
}

pub(crate) fn placement() -> Placement {
    Placement { vm: vm().id, node: Some(NODE), generation: 1, reason: None, moving: None, decided_at: NOW }
}

/// A report that has caught up with everything.
pub(crate) fn status(phase: VmPhase) -> VmStatus {
    VmStatus {
        vm: vm().id,
        node: NODE,
        generation: 1,
        observed_revision: 10,
        phase,
        reason: None,
        vmm: None,
        power_seq: 3,
        reboot_seq: 0,
        disk_generation: 1,
        rescue: false,
        running: None,
        pending: vec![],
        last_exit: None,
        restarts: 0,
        migration: None,
        failures: 0,
        at: NOW,
    }
}
