//! A VM on its way: let go by one node, run by the other, or the first goes on.

use hull_types::{error::Error, id::MigrationId, units::Bytes};
use uuid::Uuid;

use super::{
    world::{World, at},
    *,
};

const FIRST: MigrationId = MigrationId(Uuid::from_u128(1));
const SECOND: MigrationId = MigrationId(Uuid::from_u128(2));

fn leaving(migration: MigrationId) -> Option<Transit> {
    Some(Transit::Leaving { migration })
}

fn arriving(migration: MigrationId) -> Option<Transit> {
    Some(Transit::Arriving { migration })
}

fn expected(migration: MigrationId) -> Option<Transit> {
    Some(Transit::Expected { migration })
}

fn names(world: &World) -> Vec<String> {
    let name = |step: &Step| format!("{step:?}").split([' ', '{', '(']).next().unwrap_or_default().to_owned();
    world.steps.iter().filter(|step| !matches!(step, Step::Note(_))).map(name).collect()
}

/// A VM in this state leaves; what its node then holds.
fn released(world: &mut World) -> Carried {
    world.steps.clear();
    world.transit(leaving(FIRST)).until_rest();
    let plan = world.plan();
    assert_eq!((plan.phase, &world.process, world.broken), (VmPhase::Released, &None, None), "{:#?}", world.steps);
    world.record.carried()
}

/// The node it goes to, told so at generation 2.
fn new_node(old: &World, brings: Carried) -> World {
    let mut world = World::new();
    world.desired = DesiredVm { generation: 2, transit: arriving(FIRST), ..old.desired.clone() };
    world.record.hold(world.desired.clone());
    world.brings = Some(brings);
    world.saved_nics = old.saved_nics.clone();
    world
}

#[test]
fn a_running_vm_is_saved_let_go_fetched_and_goes_on() {
    let mut old = World::running();
    let carried = released(&mut old);
    assert_eq!(names(&old), ["Save", "Quit", "Clear"]);
    assert!(carried.saved.is_some() && carried.power_seq == 1);
    let mut new = new_node(&old, carried);
    new.until_rest();
    assert_eq!((new.plan().phase, names(&new)), (VmPhase::Arrived, vec!["TakeOver".to_owned()]));
    new.transit(None).until_rest();
    assert_eq!(names(&new), ["TakeOver", "Start", "Resume"]);
    assert!(
        matches!(&new.steps.iter().find(|step| matches!(step, Step::Start(_))), Some(Step::Start(start)) if start.restore)
    );
    assert_eq!((new.plan().phase, new.record.saved, new.broken), (VmPhase::Running, None, None));
    assert_eq!(new.record.power_seq, 1, "nothing was asked of it anew");
}

#[test]
fn a_node_fetches_the_images_of_what_is_to_come_once_and_no_more() {
    let old = World::running();
    let mut new = new_node(&old, old.record.carried());
    new.transit(expected(FIRST)).until_rest();
    assert_eq!((new.plan().phase, names(&new)), (VmPhase::Expected, vec!["FetchImages".to_owned()]));
    new.transit(arriving(FIRST)).until_rest();
    new.transit(expected(FIRST)).until_rest();
    assert_eq!(names(&new), ["FetchImages", "TakeOver", "TearDown", "FetchImages"], "what came is of no use any more");
    new.transit(expected(SECOND)).until_rest();
    assert_eq!((new.plan().phase, names(&new).len()), (VmPhase::Expected, 5));

    let mut new = new_node(&old, old.record.carried());
    new.failing = Some((Act::TakeOver, Error::unavailable("the server does not answer")));
    new.transit(expected(FIRST)).until_rest();
    assert_eq!((new.plan().phase, new.plan().reason.unwrap().deadline), (VmPhase::Arriving, None), "it gives up");
}

#[test]
fn every_rest_is_kept_over_the_way() {
    for (target, phase) in [
        (PowerTarget::Paused, VmPhase::Paused),
        (PowerTarget::Stopped, VmPhase::Stopped),
        (PowerTarget::Suspended, VmPhase::Suspended),
    ] {
        let mut old = World::running();
        old.power(target).until_rest();
        let carried = released(&mut old);
        let mut new = new_node(&old, carried);
        new.until_rest();
        new.transit(None).until_rest();
        assert_eq!((new.plan().phase, new.broken), (phase, None));
        assert!(!names(&new).contains(&"PrepareDisk".to_owned()), "its disk came along");
    }
}

#[test]
fn what_turned_itself_off_stays_off_and_what_was_never_made_is_made_there() {
    let mut old = World::running();
    old.set(RunState::GuestShutdown).until_rest();
    let carried = released(&mut old);
    let mut new = new_node(&old, carried);
    new.until_rest();
    new.transit(None).until_rest();
    assert_eq!((new.plan().phase, new.plan().reason.unwrap().code), (VmPhase::Stopped, ReasonCode::GuestShutdown));

    let mut old = World::new();
    let carried = released(&mut old);
    assert_eq!((names(&old).len(), carried.disk), (0, None), "nothing is begun for a VM that leaves");
    let mut new = new_node(&old, carried);
    new.until_rest();
    new.transit(None).until_rest();
    assert_eq!(
        (new.plan().phase, names(&new)),
        (VmPhase::Running, ["TakeOver", "PrepareDisk", "Start"].map(String::from).to_vec())
    );
}

#[test]
fn given_up_at_any_step_the_old_node_goes_on_where_it_was() {
    for ticks in 0..8 {
        let mut old = World::running();
        old.transit(leaving(FIRST));
        (0..ticks).for_each(|_| _ = old.tick());
        old.transit(None).until_rest();
        assert_eq!((old.plan().phase, old.record.saved, old.broken), (VmPhase::Running, None, None), "after {ticks}");
        let restored = old.steps.iter().all(|step| !matches!(step, Step::Start(start) if !start.restore));
        assert!(restored, "the guest was started afresh: {:#?}", old.steps);
    }
}

#[test]
fn a_vm_that_leaves_is_not_started_whatever_is_wished() {
    let mut old = World::running();
    released(&mut old);
    for target in [PowerTarget::Paused, PowerTarget::Stopped, PowerTarget::Running] {
        old.power(target).until_rest();
        assert_eq!((old.plan().phase, &old.process), (VmPhase::Released, &None));
    }
    old.boot_id = "boot-2".into();
    old.wish(|desired| desired.vm.disk_generation = 2).until_rest();
    assert_eq!(
        (old.plan().phase, names(&old)),
        (VmPhase::Released, ["Save", "Quit", "Clear"].map(String::from).to_vec())
    );
    old.wish(|desired| desired.vm.deleted_at = Some(at(1))).until_rest();
    assert_eq!(old.plan().phase, VmPhase::Gone, "delete wins");
}

#[test]
fn a_guest_that_is_stopped_on_its_way_shuts_down_where_it_arrives_and_by_force_it_does_not() {
    for (grace, steps) in
        [(30, &["TakeOver", "Start", "Resume", "PowerButton", "Quit", "Clear"][..]), (0, &["TakeOver"])]
    {
        let mut old = World::running();
        let carried = released(&mut old);
        let mut new = new_node(&old, carried);
        new.until_rest();
        new.desired.vm.power.grace_seconds = grace;
        new.transit(None).power(PowerTarget::Stopped).until_rest();
        assert_eq!((new.plan().phase, new.broken, new.record.power_seq), (VmPhase::Stopped, None, 2));
        assert_eq!(names(&new), steps);
    }
    // Nor does a guest that someone suspended.
    let mut old = World::running();
    old.power(PowerTarget::Suspended).until_rest();
    let carried = released(&mut old);
    let mut new = new_node(&old, carried);
    new.until_rest();
    new.transit(None).power(PowerTarget::Stopped).until_rest();
    assert_eq!((new.plan().phase, names(&new)), (VmPhase::Stopped, vec!["TakeOver".to_owned()]));
    // What cannot be restored is off in the end.
    let mut old = World::running();
    released(&mut old);
    old.failing = Some((Act::Start, Error::internal("it does not load")));
    old.transit(None).power(PowerTarget::Stopped).until_rest();
    assert_eq!(old.plan().phase, VmPhase::Stopped);
}

#[test]
fn memory_that_cannot_be_saved_keeps_it_where_it_is_and_the_next_time_is_tried_anew() {
    let mut old = World::running();
    old.failing = Some((Act::Suspend, Error::insufficient("the disk is full")));
    old.transit(leaving(FIRST)).until_rest();
    let plan = old.plan();
    assert_eq!((plan.phase, plan.reason.unwrap().deadline), (VmPhase::Running, None), "it says that it cannot");
    old.transit(None).until_rest();
    old.failing = None;
    old.transit(leaving(SECOND)).until_rest();
    assert_eq!(old.plan().phase, VmPhase::Released);
}

#[test]
fn what_cannot_be_fetched_is_tried_a_few_times_and_a_full_disk_once() {
    for (error, times) in [(Error::unavailable("the link broke"), 4), (Error::insufficient("the disk is full"), 1)] {
        let mut old = World::running();
        let carried = released(&mut old);
        let mut new = new_node(&old, carried);
        new.failing = Some((Act::TakeOver, error));
        new.until_rest();
        let plan = new.plan();
        assert_eq!((plan.phase, names(&new).len()), (VmPhase::Arriving, times));
        assert_eq!(plan.reason.unwrap().deadline, None);
        assert!(new.now <= at(10), "the guest is halted meanwhile: {}", new.now);
    }
}

#[test]
fn what_came_by_another_migration_is_thrown_away_and_never_started() {
    let mut old = World::running();
    let carried = released(&mut old);
    let mut new = new_node(&old, carried.clone());
    new.until_rest();
    // It was given up, the guest ran on over there, and this node never heard of it.
    new.steps.clear();
    new.brings = Some(Carried { power_seq: 9, ..carried });
    new.transit(arriving(SECOND)).until_rest();
    assert_eq!(names(&new), ["TearDown", "TakeOver"]);
    assert_eq!((new.plan().phase, new.record.arrived, new.record.power_seq), (VmPhase::Arrived, Some(SECOND), 9));
    new.record.removed = true;
    new.until_rest();
    assert_eq!(new.plan().phase, VmPhase::Gone);
}

#[test]
fn a_node_it_left_takes_it_again() {
    let mut old = World::running();
    let carried = released(&mut old);
    // It comes back as generation 3 before the old remains were torn down.
    old.brings = Some(Carried { power_seq: 5, ..carried });
    old.steps.clear();
    old.desired.generation = 3;
    old.transit(arriving(SECOND)).until_rest();
    assert_eq!(
        (old.plan().phase, names(&old)),
        (VmPhase::Arrived, ["TearDown", "TakeOver"].map(String::from).to_vec())
    );
    old.transit(None).until_rest();
    assert_eq!(old.plan().phase, VmPhase::Running);
}

#[test]
fn what_a_vm_should_become_meanwhile_it_becomes_on_its_new_node() {
    let mut old = World::running();
    let carried = released(&mut old);
    let mut new = new_node(&old, carried);
    new.until_rest();
    new.wish(|desired| {
        desired.transit = None;
        desired.vm.disk_generation = 2;
        desired.vm.resources = Resources { vcpus: 2, memory: Bytes::mib(128), disk: Bytes::mib(16) };
    });
    new.until_rest();
    assert_eq!((new.plan().phase, new.record.disk.unwrap().generation, new.broken), (VmPhase::Running, 2, None));
}
