//! A migration's decisions, as tables.

use hull_types::{id::MigrationId, name::Name};
use uuid::Uuid;

use super::*;
use crate::{
    change::Expect,
    placement::Room,
    testing::{self, NOW, Seeded, at, call, name},
    vm::{
        delete::Deleting,
        report::{Verdict, report},
        testing::{NODE, placement, status, vm, wanting},
    },
};

const THERE: NodeId = NodeId(Uuid::from_u128(0x99));

/// Two nodes, the VM on the first.
struct Cloud {
    vm: Vm,
    placement: Placement,
    migration: Option<Migration>,
    status: VmStatus,
    candidates: Vec<Candidate>,
    facts: Vec<NodeFacts>,
}

impl Cloud {
    fn new(vm: Vm, phase: VmPhase) -> Self {
        let (node, status) = testing::node("n1");
        let here = Candidate::new(&node, Some(&status), None, Room::default());
        let there = Candidate { id: THERE, name: name("n2"), ..here.clone() };
        let facts = vec![status.facts.clone(), status.facts];
        let candidates = vec![here, there];
        Self { vm, placement: placement(), migration: None, status: self::status(phase), candidates, facts }
    }

    fn begin(&self, wanted: Option<NodeId>) -> Result<Changes> {
        let hosts: Vec<Host<'_>> = self.candidates.iter().zip(&self.facts).map(host).collect();
        let plan =
            Begin { vm: &self.vm, placement: Some(&self.placement), status: Some(&self.status), nodes: &hosts, wanted };
        begin(&plan, &mut call(&mut Seeded::new(1)))
    }

    fn begun(mut self) -> Self {
        let changes = self.begin(None).unwrap();
        self.take(changes);
        self
    }

    /// And the new node is ready.
    fn ready(self) -> Self {
        let mut begun = self.begun();
        assert!(begun.says(&begun.new_node(VmPhase::Expected), 0));
        begun
    }

    fn refused(&self, wanted: Option<NodeId>) -> String {
        self.begin(wanted).unwrap_err().detail
    }

    fn migration(&self) -> &Migration {
        self.migration.as_ref().unwrap()
    }

    fn under_way(&self) -> UnderWay<'_> {
        UnderWay { vm: &self.vm, placement: &self.placement, migration: self.migration() }
    }

    fn take(&mut self, changes: Changes) {
        for write in changes.writes {
            match write {
                Write::PutPlacement(put) => self.placement = *put,
                Write::PutMigration(put) => self.migration = Some(*put),
                Write::PutVmStatus(put) => self.status = *put,
                _ => {}
            }
        }
    }

    /// A node says so at this second; whether it was taken.
    fn says(&mut self, said: &VmStatus, second: i64) -> bool {
        let migration = self.migration.clone().filter(|_| self.placement.moving.is_some());
        let known = Deleting {
            vm: &self.vm,
            placement: Some(&self.placement),
            migration: migration.as_ref(),
            ports: &[],
            floating_ips: &[],
            usage: Default::default(),
        };
        let mut fresh = Seeded::new(2);
        let mut call = Call { now: at(second), ..call(&mut fresh) };
        match report(Some(&known), Some(&self.status), said, &mut call) {
            Verdict::Take(changes) => self.take(changes),
            Verdict::Same | Verdict::Drop(_) => return false,
        }
        true
    }

    /// The old node's word.
    fn old(&self, phase: VmPhase) -> VmStatus {
        VmStatus { migration: self.migration.as_ref().map(|it| it.id), ..status(phase) }
    }

    /// The new node's word.
    fn new_node(&self, phase: VmPhase) -> VmStatus {
        VmStatus { node: THERE, generation: 2, ..self.old(phase) }
    }
}

fn host<'a>((candidate, facts): (&'a Candidate, &'a NodeFacts)) -> Host<'a> {
    Host { candidate, facts: Some(facts) }
}

fn running() -> Cloud {
    let mut cloud = Cloud::new(vm(), VmPhase::Running);
    cloud.status.running = Some(vm().resources);
    cloud
}

fn trouble(deadline: Option<Timestamp>) -> Option<Reason> {
    Some(Reason { deadline, ..Reason::new(ReasonCode::DiskFull, "the disk is full", NOW) })
}

#[test]
fn a_running_vm_is_released_copied_and_started_and_changes_hands_once() {
    let mut cloud = running().begun();
    assert_eq!((cloud.migration().phase, cloud.migration().to), (MigrationPhase::Preparing, THERE));
    assert!(cloud.says(&VmStatus { reason: trouble(Some(at(9))), ..cloud.new_node(VmPhase::Arriving) }, 0));
    assert_eq!(cloud.migration().reason.as_ref().unwrap().message, "the disk is full", "it fetches the images");
    assert!(cloud.placement.moving.is_some_and(|moving| !moving.ready));
    assert!(cloud.says(&cloud.new_node(VmPhase::Expected), 0));
    assert_eq!((cloud.migration().phase, &cloud.migration().reason), (MigrationPhase::Releasing, &None));
    assert!(cloud.placement.moving.is_some_and(|moving| moving.ready), "it may leave");
    assert!(!cloud.says(&cloud.new_node(VmPhase::Expected), 0), "once is enough");
    assert_eq!((cloud.placement.node, cloud.placement.generation), (Some(NODE), 1), "it is the old node's");
    assert!(cloud.says(&VmStatus { running: Some(vm().resources), ..cloud.old(VmPhase::Suspending) }, 1));
    assert!(cloud.says(&cloud.old(VmPhase::Released), 2));
    assert_eq!((cloud.migration().phase, cloud.migration().halted_at), (MigrationPhase::Copying, Some(at(1))));

    assert!(!cloud.says(&cloud.new_node(VmPhase::Arriving), 3), "nothing new");
    assert!(cloud.says(&VmStatus { reason: trouble(Some(at(9))), ..cloud.new_node(VmPhase::Arriving) }, 3));
    assert_eq!(cloud.migration().reason.as_ref().unwrap().message, "the disk is full");
    assert!(cloud.says(&cloud.new_node(VmPhase::Arrived), 4));
    assert_eq!((cloud.placement.node, cloud.placement.generation), (Some(THERE), 2));
    assert_eq!((cloud.migration().phase, cloud.migration().moved_at), (MigrationPhase::Starting, Some(at(4))));
    assert_eq!(cloud.migration().reason, None);

    assert!(!cloud.says(&cloud.old(VmPhase::Running), 5), "the old node's words count no more");
    assert!(cloud.says(&cloud.new_node(VmPhase::Starting), 5) && cloud.placement.moving.is_some());
    assert!(cloud.says(&cloud.new_node(VmPhase::Paused), 5) && cloud.placement.moving.is_some(), "it has yet to run");
    assert!(cloud.says(&cloud.new_node(VmPhase::Running), 6));
    let done = cloud.migration();
    assert_eq!((done.phase, done.ended_at, done.downtime_ms), (MigrationPhase::Done, Some(at(6)), Some(5000)));
    assert_eq!(cloud.placement.moving, None);
}

#[test]
fn a_vm_that_is_off_goes_without_downtime() {
    let mut cloud = Cloud::new(wanting(PowerTarget::Stopped), VmPhase::Stopped).ready();
    assert!(cloud.says(&cloud.old(VmPhase::Released), 1));
    assert!(cloud.says(&cloud.new_node(VmPhase::Arrived), 2) && cloud.says(&cloud.new_node(VmPhase::Stopped), 3));
    assert_eq!((cloud.migration().phase, cloud.migration().downtime_ms), (MigrationPhase::Done, None));
}

#[test]
fn the_new_node_gets_nothing_that_the_old_one_does_not_hold_for_it() {
    let arrives = |change: fn(&mut Cloud, &mut VmStatus)| {
        let mut cloud = running().ready();
        assert!(cloud.says(&cloud.old(VmPhase::Released), 1));
        let mut said = cloud.new_node(VmPhase::Arrived);
        change(&mut cloud, &mut said);
        cloud.says(&said, 2) && cloud.placement.node == Some(THERE)
    };
    assert!(arrives(|_, _| {}));
    assert!(!arrives(|cloud, _| cloud.status.phase = VmPhase::Running));
    assert!(!arrives(|cloud, _| cloud.status.generation = 0));
    assert!(!arrives(|cloud, _| cloud.status.migration = None));
    assert!(!arrives(|cloud, _| cloud.vm.deleted_at = Some(NOW)));
    assert!(!arrives(|cloud, _| cloud.placement.moving = None));
    assert!(!arrives(|_, said| said.migration = Some(MigrationId(Uuid::nil()))));
    assert!(!arrives(|_, said| said.generation = 3));
    assert!(!arrives(|_, said| said.node = NodeId(Uuid::nil())));
    assert!(!arrives(|_, said| said.phase = VmPhase::Running), "it was not told to run it");
}

#[test]
fn who_cannot_let_go_or_take_ends_it_and_the_vm_stays() {
    let ends = |cloud: &mut Cloud, said: VmStatus| {
        assert!(cloud.says(&said, 5), "{said:?}");
        assert_eq!((cloud.migration().phase, cloud.placement.moving), (MigrationPhase::Failed, None));
        assert_eq!((cloud.placement.node, cloud.placement.generation), (Some(NODE), 1));
        assert_eq!(cloud.migration().reason.as_ref().unwrap().message, "the disk is full");
    };
    let mut cloud = running().ready();
    let runs_on = VmStatus { reason: trouble(None), ..cloud.old(VmPhase::Running) };
    assert!(cloud.says(&VmStatus { migration: None, ..runs_on.clone() }, 4), "said before it knew of the migration");
    assert!(cloud.placement.moving.is_some());
    assert!(cloud.says(&VmStatus { reason: trouble(Some(at(9))), ..runs_on.clone() }, 4), "it tries again");
    assert!(cloud.placement.moving.is_some());
    ends(&mut cloud, runs_on);

    let mut cloud = running().begun();
    let no_image = VmStatus { reason: trouble(None), ..cloud.new_node(VmPhase::Arriving) };
    ends(&mut cloud, no_image);

    let mut cloud = running().ready();
    assert!(cloud.says(&cloud.old(VmPhase::Released), 1));
    let gave_up = VmStatus { reason: trouble(None), ..cloud.new_node(VmPhase::Arriving) };
    ends(&mut cloud, gave_up);
}

#[test]
fn it_lands_on_no_node_that_is_removed_at_that_moment() {
    let mut cloud = running().ready();
    assert!(cloud.says(&cloud.old(VmPhase::Released), 1));
    let said = cloud.new_node(VmPhase::Arrived);
    let judged = arrival(&cloud.under_way(), Some(&cloud.status), &said, &mut call(&mut Seeded::new(3)));
    let Arrival::Take(changes) = judged else { panic!("{judged:?}") };
    assert!(changes.expect.contains(&Expect::Exists(Doc::Node(THERE))), "its disk would be out of the cloud with it");
}

#[test]
fn a_vm_that_goes_into_rescue_mode_before_it_leaves_stays() {
    let mut cloud = running().begun();
    let image = cloud.vm.boot.image.clone().unwrap();
    cloud.vm.rescue = Some(hull_types::vm::Rescue { image });
    assert!(cloud.says(&cloud.new_node(VmPhase::Expected), 1));
    assert_eq!((cloud.migration().phase, cloud.placement.moving), (MigrationPhase::Failed, None));
}

#[test]
fn it_is_cancelled_until_it_has_changed_hands() {
    let mut cloud = running().begun();
    let changes = cancel(&cloud.under_way(), &mut call(&mut Seeded::new(3))).unwrap();
    cloud.take(changes);
    assert_eq!((cloud.migration().phase, cloud.placement.moving), (MigrationPhase::Cancelled, None));

    let mut cloud = running().ready();
    assert!(cloud.says(&cloud.old(VmPhase::Released), 1) && cloud.says(&cloud.new_node(VmPhase::Arrived), 2));
    let refusal = cancel(&cloud.under_way(), &mut call(&mut Seeded::new(3))).unwrap_err();
    assert!(refusal.detail.contains("migrate it back"), "{refusal}");
    assert_eq!(give_up(&cloud.under_way(), None, &mut call(&mut Seeded::new(3))), None, "it is there");
}

#[test]
fn it_is_given_up_where_the_new_node_is_away_or_time_is_over() {
    let cloud = running().begun();
    let n2 = name("n2");
    let after = |second: i64, to: Option<NodeSeen<'_>>| {
        let mut fresh = Seeded::new(3);
        let mut call = Call { now: at(second), ..call(&mut fresh) };
        give_up(&cloud.under_way(), to, &mut call).map(|changes| {
            let put = changes.writes.iter().find_map(|write| match write {
                Write::PutMigration(put) => put.reason.clone(),
                _ => None,
            });
            put.unwrap().message
        })
    };
    let seen = |silent_since| Some(NodeSeen { name: &n2, silent_since });
    assert_eq!(after(10, seen(None)), None);
    assert!(after(10, seen(Some(NOW))).unwrap().contains("n2, does not answer since 12:00 UTC"));
    assert!(after(10, None).unwrap().contains("was removed"));
    let minutes = 60 + 10;
    assert_eq!(after(minutes * 60 - 1, seen(None)), None, "an hour, and a minute for each GiB");
    assert!(after(minutes * 60, seen(None)).unwrap().contains("not done by 13:10 UTC"));
    assert_eq!(after(-60, seen(None)), None, "a clock put right by a minute is nothing");
    assert!(after(-86_400, seen(None)).unwrap().contains("the clock was set back"), "it does not wait for years");
}

#[test]
fn what_cannot_leave_or_be_taken_is_refused_with_what_to_do() {
    let refused = |change: fn(&mut Cloud), wanted| {
        let mut cloud = running();
        change(&mut cloud);
        cloud.refused(wanted)
    };
    let says = |refusal: String, words: &str| assert!(refusal.contains(words), "{refusal}");
    says(refused(|it| it.vm.deleted_at = Some(NOW), None), "being deleted");
    says(refused(|it| it.placement.node = None, None), "no node yet");
    says(refused(|it| it.status.generation = 0, None), "n1 has not answered for it yet");
    let rescued = |it: &mut Cloud| {
        let image = it.vm.boot.image.clone().unwrap();
        it.vm.rescue = Some(hull_types::vm::Rescue { image });
    };
    says(refused(rescued, None), "leave it first (`hull vm unrescue web`)");
    says(refused(|it| it.facts[0].migrates = false, None), "the Hull of node n1 does not know how to; upgrade it");
    says(refused(|it| it.candidates[0].silent_since = Some(NOW), None), "its node n1 does not answer since 12:00 UTC");
    says(refused(|it| _ = it.candidates.remove(0), None), "was removed");
    says(refused(|it| _ = it.candidates.remove(1), None), "there is no other node");
    says(refused(|_| (), Some(NODE)), "on node n1 already");
    says(refused(|_| (), Some(NodeId(Uuid::nil()))), "gone");
    for wanted in [None, Some(THERE)] {
        says(refused(|it| it.candidates[1].maintenance = true, wanted), "1 in maintenance");
        says(refused(|it| it.candidates[1].free.memory = Bytes::ZERO, wanted), "1 lacks memory (need 2 GiB");
        says(refused(|it| it.candidates[1].silent_since = Some(NOW), wanted), "1 does not answer");
        says(refused(|it| it.facts[1].migrates = false, wanted), "the Hull of node n2 does not know how to");
        says(refused(|it| it.facts[1].accel = Accel::Kvm, wanted), "n1 runs guests by emulation, node n2 by hardware");
        says(refused(|it| it.facts[1].qemu_version = None, wanted), "node n1 has QEMU 7.2, node n2 none");
        let other_processor = |it: &mut Cloud| {
            it.facts.iter_mut().for_each(|facts| facts.accel = Accel::Kvm);
            it.facts[1].cpu_model = Some("EPYC".into());
        };
        says(refused(other_processor, wanted), "node n1 has QEMU Virtual CPU, node n2 EPYC");
    }
    says(running().begun().refused(None), "on its way already");
}

#[test]
fn a_vm_that_is_off_goes_to_any_node_that_holds_it() {
    let mut cloud = Cloud::new(wanting(PowerTarget::Stopped), VmPhase::Stopped);
    cloud.facts[1].accel = Accel::Kvm;
    cloud.facts[1].qemu_version = Some("9.0".into());
    assert!(cloud.begin(None).is_ok() && cloud.begin(Some(THERE)).is_ok());
    cloud.facts[1].migrates = false;
    assert!(cloud.refused(None).contains("upgrade it; join another node"), "stopping it does not help");
    cloud.facts[1].migrates = true;
    let far: Name = name("n3");
    let fuller = Candidate { id: NodeId(Uuid::from_u128(0x98)), name: far, ..cloud.candidates[1].clone() };
    cloud.candidates[1].free.memory = Bytes::gib(3);
    cloud.candidates.push(fuller);
    cloud.facts.push(cloud.facts[0].clone());
    let changes = cloud.begin(None).unwrap();
    cloud.take(changes);
    assert_eq!(cloud.migration().to, cloud.candidates[2].id, "the emptiest");
}
