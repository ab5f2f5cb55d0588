//! Acting on VMs: which act each state takes, and what it becomes.

use hull_types::vm::VmState::{self, *};

use super::*;
use crate::{
    testing::{self, NOW, Seeded, at, call, flavor, image, project},
    vm::testing::{vm, wanting},
};

fn standing(state: VmState) -> Standing {
    Standing { state, reason: None, settled: true }
}

struct Case {
    vm: Vm,
    state: VmState,
    usage: Usage,
    project: Project,
    flavor: Option<Flavor>,
    image: Option<Image>,
    node: Option<Candidate>,
}

impl Case {
    fn new(vm: Vm, state: VmState) -> Self {
        let usage = quota::of_vm(&vm.resources, vm.ports.len() as u64);
        Self { vm, state, usage, project: project(), flavor: None, image: Some(image("debian-12")), node: None }
    }

    fn act(&self, action: &VmAction) -> Result<Changes> {
        let standing = standing(self.state);
        let nodes: Vec<_> = self.node.iter().cloned().collect();
        let plan = Acting {
            vm: &self.vm,
            standing: &standing,
            action,
            project: &self.project,
            usage: self.usage,
            flavor: self.flavor.as_ref(),
            image: self.image.as_ref(),
            nic: None,
            nodes: &nodes,
            node: self.node.as_ref(),
        };
        act(&plan, &mut call(&mut Seeded::new(3)))
    }

    fn after(&self, action: &VmAction) -> Vm {
        self.act(action).unwrap().vms().next().expect("the VM changes").clone()
    }
}

#[derive(Debug, PartialEq, Clone, Copy)]
enum Becomes {
    To(PowerTarget),
    Same,
    No,
}

fn outcome(target: PowerTarget, state: VmState, action: &VmAction) -> Becomes {
    let case = Case::new(wanting(target), state);
    match case.act(action) {
        Err(error) => {
            assert!(error.detail.contains("cannot") && error.detail.contains(';'), "says what to do: {error}");
            Becomes::No
        }
        Ok(changes) => match changes.vms().next() {
            None => Becomes::Same,
            Some(after) => {
                assert_eq!(after.power.seq, case.vm.power.seq + 1, "a new wish");
                Becomes::To(after.power.target)
            }
        },
    }
}

const STATES: [VmState; 12] = [
    Scheduling,
    Preparing,
    Starting,
    Running,
    VmState::Paused,
    Stopping,
    Stopped,
    Suspending,
    Suspended,
    Rebuilding,
    Failed,
    Unknown,
];

#[test]
fn power_acts_from_every_state() {
    use Becomes::*;
    use PowerTarget as P;
    let stop = VmAction::Stop { grace_seconds: None };
    // Each row: where power was wanted; then what start, stop, pause, resume, suspend do.
    let table: [(VmState, P, [Becomes; 5]); 14] = [
        (Scheduling, P::Running, [Same, To(P::Stopped), No, No, No]),
        (Preparing, P::Running, [Same, To(P::Stopped), No, Same, No]),
        (Starting, P::Running, [Same, To(P::Stopped), No, Same, No]),
        (Running, P::Running, [Same, To(P::Stopped), To(P::Paused), Same, To(P::Suspended)]),
        (VmState::Paused, P::Paused, [No, To(P::Stopped), Same, To(P::Running), To(P::Suspended)]),
        (Stopping, P::Stopped, [To(P::Running), Same, No, No, No]),
        (Stopped, P::Stopped, [To(P::Running), Same, No, No, No]),
        (Stopped, P::Running, [To(P::Running), To(P::Stopped), No, No, No]),
        (Suspending, P::Suspended, [No, To(P::Stopped), No, To(P::Running), Same]),
        (Suspended, P::Suspended, [No, To(P::Stopped), No, To(P::Running), Same]),
        (Rebuilding, P::Running, [Same, To(P::Stopped), No, No, No]),
        (Failed, P::Running, [To(P::Running), To(P::Stopped), No, No, No]),
        (Unknown, P::Running, [To(P::Running), To(P::Stopped), To(P::Paused), To(P::Running), No]),
        (Unknown, P::Stopped, [To(P::Running), Same, To(P::Paused), No, No]),
    ];
    for (state, target, expected) in table {
        let acts = [&VmAction::Start, &stop, &VmAction::Pause, &VmAction::Resume, &VmAction::Suspend];
        for (action, expected) in acts.into_iter().zip(expected) {
            assert_eq!(outcome(target, state, action), expected, "{action:?} when {state:?}, wanted {target:?}");
        }
    }
}

#[test]
fn stop_is_possible_from_everywhere() {
    for state in STATES {
        for target in [PowerTarget::Running, PowerTarget::Paused, PowerTarget::Suspended] {
            let stop = VmAction::Stop { grace_seconds: Some(0) };
            assert_eq!(outcome(target, state, &stop), Becomes::To(PowerTarget::Stopped), "{state:?} {target:?}");
        }
    }
}

#[test]
fn stopping_harder_is_a_new_wish_and_stopping_again_is_not() {
    let mut case = Case::new(wanting(PowerTarget::Stopped), Stopping);
    case.vm.power.grace_seconds = 60;
    let stop = |grace| case.act(&VmAction::Stop { grace_seconds: grace }).unwrap().is_empty();
    assert!(stop(None) && stop(Some(60)) && stop(Some(300)));
    assert!(!stop(Some(0)) && !stop(Some(59)));
    assert!(case.act(&VmAction::Stop { grace_seconds: Some(GRACE_MAX + 1) }).is_err());
}

#[test]
fn a_reboot_is_counted_and_needs_a_running_machine() {
    let hard = VmAction::Reboot { kind: RebootKind::Hard };
    let case = Case::new(vm(), Running);
    let after = case.after(&hard);
    assert_eq!((after.reboot.seq, after.reboot.kind, after.power.seq), (1, RebootKind::Hard, case.vm.power.seq));
    for state in STATES.into_iter().filter(|state| !matches!(state, Running | Unknown)) {
        assert!(Case::new(vm(), state).act(&hard).is_err(), "{state:?}");
    }
    assert!(Case::new(wanting(PowerTarget::Stopped), Running).act(&hard).is_err(), "it is about to stop");
}

#[test]
fn locked_and_deleted_machines_refuse_with_what_to_do() {
    let acts = [
        VmAction::Start,
        VmAction::Stop { grace_seconds: None },
        VmAction::Reboot { kind: RebootKind::Soft },
        VmAction::Pause,
        VmAction::Resume,
        VmAction::Suspend,
        VmAction::Resize { flavor: None, vcpus: Some(4), memory: None, disk: None },
        VmAction::Rebuild { image: None },
        VmAction::Rescue { image: None },
        VmAction::Unrescue,
    ];
    for action in &acts {
        let mut case = Case::new(vm(), Running);
        case.vm.locked = true;
        assert!(case.act(action).unwrap_err().detail.contains("hull vm unlock web"), "{action:?}");
        case.vm.deleted_at = Some(NOW);
        assert!(case.act(action).unwrap_err().detail.contains("being deleted"), "{action:?}");
    }
    let mut case = Case::new(vm(), Running);
    assert!(case.after(&VmAction::Lock).locked);
    case.vm.locked = true;
    assert!(case.act(&VmAction::Lock).unwrap().is_empty(), "locked already");
    assert!(!case.after(&VmAction::Unlock).locked);
}

fn resize(vcpus: Option<u16>, memory: Option<Bytes>, disk: Option<Bytes>) -> VmAction {
    VmAction::Resize { flavor: None, vcpus, memory, disk }
}

#[test]
fn a_resize_changes_size_quota_and_flavor_together() {
    let case = Case::new(vm(), Running);
    let changes = case.act(&resize(Some(4), Some(Bytes::gib(1)), Some(Bytes::gib(20)))).unwrap();
    let after = changes.vms().next().unwrap();
    assert_eq!(after.resources, Resources { vcpus: 4, memory: Bytes::gib(1), disk: Bytes::gib(20) });
    assert_eq!(after.flavor, None, "it is no longer the flavor's size");
    let usage =
        changes.writes.iter().find_map(|w| if let Write::PutUsage { usage, .. } = w { Some(*usage) } else { None });
    assert_eq!(usage, Some(quota::of_vm(&after.resources, 1)));
    assert!(case.act(&resize(None, None, None)).unwrap().is_empty());
    assert!(case.after(&resize(None, None, Some(Bytes::gib(11)))).flavor.is_some(), "a larger disk alone keeps it");
}

#[test]
fn a_flavor_s_smaller_disk_leaves_the_present_one() {
    let mut case = Case::new(vm(), Stopped);
    let mut tiny = flavor();
    tiny.resources = Resources { vcpus: 1, memory: Bytes::gib(1), disk: Bytes::gib(3) };
    case.flavor = Some(tiny);
    let after = case.after(&VmAction::Resize { flavor: Some("tiny".into()), vcpus: None, memory: None, disk: None });
    assert_eq!(after.resources, Resources { vcpus: 1, memory: Bytes::gib(1), disk: Bytes::gib(10) });
}

#[test]
fn a_resize_is_refused_where_it_cannot_be() {
    let detail = |case: &Case, action: &VmAction| case.act(action).unwrap_err().detail;
    let case = Case::new(vm(), Running);
    assert!(detail(&case, &resize(None, None, Some(Bytes::gib(9)))).contains("only grows"));
    assert!(detail(&case, &resize(Some(0), None, None)).contains("1 to 255"));
    let mut case = Case::new(vm(), Running);
    case.project.quota.vcpus = Some(3);
    assert!(detail(&case, &resize(Some(4), None, None)).contains("vcpus (limit 3, used 2, 2 more wanted)"));
    assert!(case.act(&resize(Some(1), None, None)).is_ok(), "less is always allowed");
    let mut case = Case::new(vm(), Running);
    let (node, status) = testing::node("n1");
    let held = Room { vcpus: 2, memory: Bytes::gib(15), disk: Bytes::gib(10) };
    case.node = Some(Candidate::new(&node, Some(&status), None, held));
    assert!(detail(&case, &resize(None, Some(Bytes::gib(17)), None)).contains("no node could ever hold it"));
    assert!(
        detail(&case, &resize(None, Some(Bytes::gib(4)), None))
            .contains("node n1 has 1 GiB of memory left, 2 GiB more")
    );
    assert!(case.act(&resize(None, Some(Bytes::gib(3)), None)).is_ok());
    assert!(
        detail(&Case::new(wanting(PowerTarget::Suspended), Suspended), &resize(Some(4), None, None)).contains("saved")
    );
}

#[test]
fn a_rebuild_is_a_new_disk_generation_of_a_ready_image() {
    let rebuild = VmAction::Rebuild { image: None };
    let mut case = Case::new(vm(), Running);
    assert_eq!(case.after(&rebuild).disk_generation, 2);
    case.image.as_mut().unwrap().min_disk = Bytes::gib(11);
    assert!(case.act(&rebuild).unwrap_err().detail.contains("at least 11 GiB"));
    case.image = None;
    assert!(case.act(&rebuild).unwrap_err().detail.contains("name one"));
    assert!(Case::new(wanting(PowerTarget::Suspended), Suspended).act(&rebuild).is_err());
}

#[test]
fn rescue_goes_in_once_and_out() {
    let rescue = VmAction::Rescue { image: None };
    let case = Case::new(wanting(PowerTarget::Stopped), Stopped);
    let inside = case.after(&rescue);
    assert_eq!(inside.power.target, PowerTarget::Running);
    let case = Case::new(inside, Running);
    assert!(case.act(&rescue).unwrap_err().detail.contains("already"));
    assert!(case.act(&VmAction::Suspend).unwrap_err().detail.contains("unrescue"));
    assert!(case.act(&VmAction::Rebuild { image: None }).is_err());
    assert_eq!(case.after(&VmAction::Unrescue).rescue, None);
    assert!(Case::new(vm(), Running).act(&VmAction::Unrescue).unwrap().is_empty());
}

#[test]
fn a_change_is_dated_and_told() {
    let mut fresh = Seeded::new(1);
    let later = Call { now: at(5), ..call(&mut fresh) };
    let case = Case::new(vm(), Running);
    let standing = standing(Running);
    let plan = Acting {
        vm: &case.vm,
        standing: &standing,
        action: &VmAction::Pause,
        project: &case.project,
        usage: case.usage,
        flavor: None,
        image: None,
        nic: None,
        nodes: &[],
        node: None,
    };
    let changes = {
        let mut later = later;
        act(&plan, &mut later).unwrap()
    };
    let after = changes.vms().next().unwrap();
    assert_eq!((after.meta.updated_at, after.power.at), (at(5), at(5)));
    assert!(changes.writes.iter().any(|w| matches!(w, Write::Event(e) if e.action == "vm.pause" && e.at == at(5))));
    assert_eq!(changes.expect, [crate::change::Expect::Unchanged(Doc::Vm(case.vm.id))]);
}
