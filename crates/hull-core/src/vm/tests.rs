//! State, deletion, placement and reports, each combination in a table.

use hull_types::{
    Timestamp,
    id::NodeId,
    name::Name,
    network::Mac,
    port::{Bandwidth, FixedIp, Port},
    project::Usage,
    reason::{Reason, ReasonCode},
    vm::{Exit, ExitCause, Placement, PowerTarget, Vm, VmPhase, VmState, VmStatus},
    wire::VmUpdate,
};
use uuid::Uuid;

use super::{
    delete::{self, Deleting, Due},
    place::{place, wants_node},
    report::{Verdict, report},
    state::{DELETE_WAITS, NodeSeen, Seen, Standing, rest, standing},
    testing::{NODE, placement, status, vm, wanting},
    update::update,
};
use crate::{
    change::{Changes, Claim, Doc, Expect, Write},
    quota,
    testing::{NOW, Seeded, at, call, meta, name, network},
};

const PHASES: [VmPhase; 12] = [
    VmPhase::Preparing,
    VmPhase::Starting,
    VmPhase::Running,
    VmPhase::Paused,
    VmPhase::Stopping,
    VmPhase::Stopped,
    VmPhase::Suspending,
    VmPhase::Suspended,
    VmPhase::Rebuilding,
    VmPhase::Failed,
    VmPhase::Deleting,
    VmPhase::Gone,
];
const TARGETS: [PowerTarget; 4] =
    [PowerTarget::Running, PowerTarget::Stopped, PowerTarget::Paused, PowerTarget::Suspended];

fn seen<'a>(vm: &'a hull_types::vm::Vm, status: Option<&'a VmStatus>, silent: Option<i64>, name: &'a Name) -> Standing {
    let placement = placement();
    let node = Some(NodeSeen { name, silent_since: silent.map(at) });
    standing(&Seen { vm, revision: 10, placement: Some(&placement), status, node, now: at(100) })
}

fn by_itself(mut status: VmStatus) -> VmStatus {
    status.reason = Some(Reason::new(ReasonCode::RestartBackoff, "restarts", NOW).until(at(30)));
    status
}

fn kept(mut status: VmStatus) -> VmStatus {
    status.reason = Some(Reason::new(ReasonCode::StartFailed, "cannot", NOW));
    status
}

/// Every phase with every target, with no reason, a reason that ends by itself, a reason that stays.
#[test]
fn settled_means_as_asked_or_kept_by_something_definite() {
    let name = name("n1");
    for phase in PHASES {
        let resting = matches!(phase, VmPhase::Running | VmPhase::Paused | VmPhase::Stopped | VmPhase::Suspended);
        for target in TARGETS {
            let vm = wanting(target);
            let settled = |status: VmStatus| seen(&vm, Some(&status), None, &name).settled;
            let there = phase == rest(target);
            assert_eq!(settled(status(phase)), there, "{phase:?}, wanted {target:?}, no reason");
            assert_eq!(
                settled(kept(status(phase))),
                resting || phase == VmPhase::Failed,
                "{phase:?}, {target:?}, kept"
            );
            assert_eq!(settled(by_itself(status(phase))), there, "{phase:?}, {target:?}, ends by itself");
        }
    }
}

/// Never stuck: whatever is not settled says why, and either ends by itself or waits for someone named in the sentence.
#[test]
fn what_is_not_settled_has_a_reason() {
    let name = name("n1");
    for phase in PHASES {
        for target in TARGETS {
            for deleted in [None, Some(NOW)] {
                for silent in [None, Some(50)] {
                    for revision in [9, 10] {
                        for power_seq in [2, 3] {
                            let vm = hull_types::vm::Vm { deleted_at: deleted, ..wanting(target) };
                            let status = VmStatus { observed_revision: revision, power_seq, ..status(phase) };
                            let standing = seen(&vm, Some(&status), silent, &name);
                            let told = standing.reason.as_ref().is_some_and(|reason| !reason.message.is_empty());
                            assert!(standing.settled || told, "{phase:?} {target:?} {standing:?}");
                            let behind = deleted.is_some() || silent.is_some() || revision < 10 || power_seq < 3;
                            assert!(!(standing.settled && behind), "{phase:?} {target:?} {standing:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn counters_that_lag_are_not_settled() {
    let name = name("n1");
    let settled = |change: fn(&mut hull_types::vm::Vm), target| {
        let mut vm = wanting(target);
        change(&mut vm);
        seen(&vm, Some(&status(rest(target))), None, &name).settled
    };
    assert!(settled(|_| (), PowerTarget::Running));
    assert!(!settled(|vm| vm.reboot.seq = 1, PowerTarget::Running));
    assert!(!settled(|vm| vm.disk_generation = 2, PowerTarget::Running));
    assert!(!settled(|vm| vm.power.seq = 4, PowerTarget::Running));
    assert!(!settled(|vm| vm.disk_generation = 2, PowerTarget::Stopped), "rebuilding is done while it is off, too");
}

#[test]
fn before_the_node_speaks_the_state_is_the_scheduler_s() {
    let (vm, name) = (vm(), name("n1"));
    let node = Some(NodeSeen { name: &name, silent_since: None });
    let base = Seen { vm: &vm, revision: 10, placement: None, status: None, node: None, now: NOW };
    let none = standing(&base);
    assert_eq!((none.state, none.reason.unwrap().code), (VmState::Scheduling, ReasonCode::AwaitingPlacement));

    let mut placed = placement();
    let waiting = standing(&Seen { placement: Some(&placed), node, ..base });
    assert_eq!((waiting.state, waiting.reason.unwrap().code), (VmState::Preparing, ReasonCode::AwaitingNode));
    let old = VmStatus { generation: 0, ..status(VmPhase::Running) };
    let waiting = standing(&Seen { placement: Some(&placed), node, status: Some(&old), ..base });
    assert_eq!(waiting.state, VmState::Preparing, "an older generation's words count for nothing");

    let removed = standing(&Seen { placement: Some(&placed), ..base });
    assert_eq!(removed.state, VmState::Unknown);
    assert!(removed.rests() && removed.reason.unwrap().message.contains("delete this VM"));

    placed.node = None;
    placed.reason = Some(Reason::new(ReasonCode::NoNodeFits, "0 of 1 node fits", NOW));
    let none = standing(&Seen { placement: Some(&placed), ..base });
    assert_eq!((none.state, none.settled, none.rests()), (VmState::Scheduling, false, true));
}

#[test]
fn a_silent_node_is_unknown_and_deletion_shows_through_everything() {
    let (name, mut vm) = (name("n1"), vm());
    let unknown = seen(&vm, Some(&status(VmPhase::Running)), Some(50), &name);
    assert_eq!(unknown.state, VmState::Unknown);
    assert!(unknown.reason.unwrap().message.contains("since 12:00 UTC; it was running then"));
    vm.deleted_at = Some(at(70));
    for phase in PHASES {
        assert_eq!(seen(&vm, Some(&status(phase)), None, &name).state, VmState::Deleting);
    }
    let deleting = seen(&vm, None, Some(50), &name);
    assert_eq!(deleting.reason.unwrap().deadline, Some(at(70) + DELETE_WAITS));
}

fn port() -> Port {
    let network = network(&["10.0.0.0/24"]);
    Port {
        id: vm().ports[0],
        meta: meta("p"),
        network: network.id,
        vm: Some(vm().id),
        goes_with_vm: true,
        router_gateway: None,
        mac: Mac([0x52, 0x54, 0, 0, 0, 1]),
        addresses: vec![FixedIp { subnet: network.subnets[0], address: "10.0.0.2".parse().unwrap() }],
        hostname: "web".into(),
        security_groups: vec![],
        port_security: true,
        allowed_pairs: vec![],
        dhcp_options: vec![],
        bandwidth: Bandwidth::default(),
    }
}

fn held() -> Usage {
    quota::of_vm(&vm().resources, 1)
}

fn check_purged(changes: &Changes) {
    let releases = changes.writes.iter().filter(|write| matches!(write, Write::Release(_))).count();
    assert_eq!(releases, 4, "name, host name, MAC, address");
    assert!(changes.writes.contains(&Write::PutUsage { project: vm().meta.project, usage: Usage::default() }));
    for write in [Write::DeleteVm(vm().id), Write::DeletePlacement(vm().id), Write::DeleteVmStatus(vm().id)] {
        assert!(changes.writes.contains(&write), "{write:?}");
    }
    assert!(changes.writes.contains(&Write::DeletePort(port().id)));
    assert!(changes.writes.iter().any(|w| matches!(w, Write::Event(e) if e.action == "vm.gone")));
}

/// A VM that takes part in nothing else, for deleting it.
fn plan_of<'a>(vm: &'a Vm, placement: Option<&'a Placement>, ports: &'a [Port]) -> Deleting<'a> {
    Deleting { vm, placement, migration: None, ports, floating_ips: &[], usage: held() }
}

#[test]
fn a_placed_vm_is_marked_and_one_without_a_node_goes_at_once() {
    let (vm, ports, mut placed) = (vm(), [port()], placement());
    let mut fresh = Seeded::new(1);
    let marked = {
        let plan = plan_of(&vm, Some(&placed), &ports);
        delete::delete(&plan, &mut call(&mut fresh)).unwrap()
    };
    let after = marked.vms().next().unwrap().clone();
    assert_eq!(after.deleted_at, Some(NOW));
    let again = plan_of(&after, Some(&placed), &ports);
    assert!(delete::delete(&again, &mut call(&mut fresh)).unwrap().is_empty(), "asking again changes nothing");

    placed.node = None;
    for placement in [None, Some(&placed)] {
        let plan = plan_of(&vm, placement, &ports);
        let purged = delete::delete(&plan, &mut call(&mut fresh)).unwrap();
        check_purged(&purged);
        assert!(purged.expect.contains(&Expect::Unchanged(Doc::Placement(vm.id))), "the scheduler may come between");
    }
    let locked = hull_types::vm::Vm { locked: true, ..vm };
    let plan = plan_of(&locked, None, &ports);
    assert!(delete::delete(&plan, &mut call(&mut fresh)).unwrap_err().detail.contains("unlock it first"));
}

#[test]
fn a_record_goes_when_its_node_is_done_or_has_had_its_time() {
    let (mut vm, name, placed) = (vm(), name("n1"), placement());
    let answers = Some(NodeSeen { name: &name, silent_since: None });
    let silent = |since| Some(NodeSeen { name: &name, silent_since: Some(at(since)) });
    let gone = status(VmPhase::Gone);
    assert_eq!(delete::due(&vm, Some(&placed), Some(&gone), answers, at(500)), Due::NotDeleted);
    vm.deleted_at = Some(NOW);
    let due = |status, node, now| delete::due(&vm, Some(&placed), status, node, at(now));
    assert!(matches!(delete::due(&vm, None, None, None, NOW), Due::Now(_)));
    assert!(matches!(due(Some(&gone), answers, 1), Due::Now(_)));
    let old = VmStatus { generation: 0, ..gone.clone() };
    assert_eq!(due(Some(&old), answers, 1), Due::WhenGone, "another generation's word does not count");
    assert_eq!(due(None, answers, 9999), Due::WhenGone, "while the node answers it has the say");
    assert_eq!(due(None, silent(-500), 10), Due::At(NOW + DELETE_WAITS), "counted from the wish");
    assert_eq!(due(None, silent(20), 60), Due::At(at(20) + DELETE_WAITS), "or from the silence");
    assert!(matches!(due(None, silent(20), 80), Due::Now(_)));
    assert!(matches!(due(None, None, 1), Due::Now(_)), "the node's record is gone");
}

#[test]
fn a_clock_set_back_by_years_holds_no_deletion_up() {
    const YEARS: i64 = 10 * 365 * 86_400;
    let (name, placed) = (name("n1"), placement());
    let vm = hull_types::vm::Vm { deleted_at: Some(NOW), ..vm() };
    let due = |since, now| {
        let silent = NodeSeen { name: &name, silent_since: Some(at(since)) };
        delete::due(&vm, Some(&placed), None, Some(silent), at(now))
    };
    assert!(matches!(due(0, -YEARS), Due::Now(_)), "asked in a future that may not come for years");
    assert!(matches!(due(YEARS, 30), Due::Now(_)), "or silent since then");
    assert!(matches!(due(0, YEARS), Due::Now(_)));
    // Nodes' clocks differ by seconds.
    assert_eq!(due(40, 10), Due::At(at(40) + DELETE_WAITS));
    let told = seen(&vm, None, Some(YEARS), &name).reason.unwrap();
    assert!(told.deadline.unwrap() <= at(100) + DELETE_WAITS, "what is told agrees: {told:?}");
}

#[test]
fn placements_are_generations_and_refusals_are_written_once() {
    let (vm, n1, mut fresh) = (vm(), name("n1"), Seeded::new(1));
    let put = |changes: &Changes| {
        changes.writes.iter().find_map(|w| if let Write::PutPlacement(p) = w { Some((**p).clone()) } else { None })
    };
    let refusal = |message: &str, since| Reason::new(ReasonCode::NoNodeFits, message, at(since));
    let first = place(&vm, None, Err(refusal("a", 0)), &mut call(&mut fresh));
    let waiting = put(&first).unwrap();
    assert_eq!((waiting.node, waiting.generation), (None, 0));
    assert!(place(&vm, Some(&waiting), Err(refusal("a", 9)), &mut call(&mut fresh)).is_empty(), "nothing new");
    let second = place(&vm, Some(&waiting), Err(refusal("b", 9)), &mut call(&mut fresh));
    assert_eq!(put(&second).unwrap().reason.unwrap().since, NOW, "it waits since the first refusal");
    let placed = put(&place(&vm, Some(&waiting), Ok((NODE, &n1)), &mut call(&mut fresh))).unwrap();
    assert_eq!((placed.node, placed.generation, placed.reason.clone()), (Some(NODE), 1, None));
    assert!(!wants_node(&vm, Some(&placed)));
    let other = NodeId(Uuid::from_u128(1));
    assert!(place(&vm, Some(&placed), Ok((other, &n1)), &mut call(&mut fresh)).is_empty(), "never twice");
    let deleted = hull_types::vm::Vm { deleted_at: Some(NOW), ..vm };
    assert!(place(&deleted, None, Ok((NODE, &n1)), &mut call(&mut fresh)).is_empty());
}

#[test]
fn reports_are_taken_from_the_current_generation_only() {
    let (vm, ports, placed, mut fresh) = (vm(), [port()], placement(), Seeded::new(1));
    let said = status(VmPhase::Running);
    let plan = plan_of(&vm, Some(&placed), &ports);
    let mut judge = |plan: Option<&Deleting<'_>>, before: Option<&VmStatus>, said: &VmStatus| {
        report(plan, before, said, &mut call(&mut fresh))
    };
    assert!(matches!(judge(None, None, &said), Verdict::Drop(_)));
    assert!(matches!(judge(Some(&Deleting { placement: None, ..plan }), None, &said), Verdict::Drop(_)));
    for (generation, node) in [(0, NODE), (2, NODE), (1, NodeId(Uuid::from_u128(9)))] {
        let said = VmStatus { generation, node, ..said.clone() };
        assert!(matches!(judge(Some(&plan), None, &said), Verdict::Drop(_)), "{generation} {node}");
    }
    let Verdict::Take(changes) = judge(Some(&plan), None, &said) else { panic!("taken") };
    assert!(changes.expect.contains(&Expect::Exists(Doc::Vm(vm.id))), "nothing is written of a VM that is gone");
    assert!(changes.expect.contains(&Expect::Unchanged(Doc::Placement(vm.id))));
    let later = VmStatus { at: at(30), ..said.clone() };
    assert_eq!(judge(Some(&plan), Some(&said), &later), Verdict::Same);
    let deleted = hull_types::vm::Vm { deleted_at: Some(NOW), ..vm.clone() };
    let plan = Deleting { vm: &deleted, ..plan };
    let Verdict::Take(changes) = judge(Some(&plan), Some(&said), &status(VmPhase::Gone)) else { panic!("taken") };
    check_purged(&changes);
}

#[test]
fn each_rest_and_each_end_is_history_once() {
    let (vm, ports, placed, mut fresh) = (vm(), [port()], placement(), Seeded::new(1));
    let plan = plan_of(&vm, Some(&placed), &ports);
    let mut told = |before: &VmStatus, said: &VmStatus| -> Vec<String> {
        let Verdict::Take(changes) = report(Some(&plan), Some(before), said, &mut call(&mut fresh)) else {
            return vec![];
        };
        let event =
            |w: &Write| if let Write::Event(e) = w { Some(format!("{} {}", e.action, e.message)) } else { None };
        changes.writes.iter().filter_map(event).collect()
    };
    assert_eq!(told(&status(VmPhase::Starting), &status(VmPhase::Running)), ["vm.state running"]);
    assert_eq!(told(&status(VmPhase::Running), &status(VmPhase::Stopping)), [""; 0], "on the way is not history");
    let exit = Exit { at: NOW, cause: ExitCause::Died, detail: "killed by signal 9".into() };
    let died = VmStatus { last_exit: Some(exit), ..kept(status(VmPhase::Failed)) };
    assert_eq!(told(&status(VmPhase::Running), &died), ["vm.exit killed by signal 9", "vm.state failed: cannot"]);
    let restarts = VmStatus { restarts: 1, ..died.clone() };
    assert_eq!(told(&died, &restarts), [""; 0]);
}

#[test]
fn a_rename_moves_the_claim_and_keeps_the_host_name() {
    let (vm, mut fresh) = (vm(), Seeded::new(1));
    let mut wish = |wish: VmUpdate| update(&vm, &wish, &mut call(&mut fresh));
    assert!(wish(VmUpdate::default()).unwrap().is_empty());
    let renamed = wish(VmUpdate { name: Some(name("db")), ..VmUpdate::default() }).unwrap();
    let claimed = |write: &Write| match write {
        Write::Claim(Claim::Name { name, .. }) => Some(format!("+{name}")),
        Write::Release(Claim::Name { name, .. }) => Some(format!("-{name}")),
        _ => None,
    };
    assert_eq!(renamed.writes.iter().filter_map(claimed).collect::<Vec<_>>(), ["-web", "+db"]);
    assert_eq!(renamed.vms().next().unwrap().hostname, "web");
    assert!(wish(VmUpdate { description: Some("x".repeat(5000)), ..VmUpdate::default() }).is_err());
}

#[test]
fn a_failure_that_repeats_itself_is_told_less_and_less() {
    let (vm, ports, placed, mut fresh) = (vm(), [port()], placement(), Seeded::new(1));
    let plan = plan_of(&vm, Some(&placed), &ports);
    let mut told = |failures, message: &str, deadline: Option<Timestamp>| {
        let mut reason = Reason::new(ReasonCode::StartFailed, message, NOW);
        reason.deadline = deadline;
        let failed = VmStatus { reason: Some(reason), failures, ..status(VmPhase::Failed) };
        let verdict = report(Some(&plan), Some(&status(VmPhase::Starting)), &failed, &mut call(&mut fresh));
        let Verdict::Take(changes) = verdict else { panic!("it is taken, told or not") };
        changes.writes.iter().any(|write| matches!(write, Write::Event(_)))
    };
    let soon = Some(at(1));
    let tries: Vec<u32> = (1..=40).filter(|&failures| told(failures, "no such machine", soon)).collect();
    assert_eq!(tries, [1, 2, 4, 8, 16, 32]);
    assert!(told(1, "another reason", soon), "counted from there");
    assert!(told(10, "no such machine (given up after 10 attempts)", None));
}
