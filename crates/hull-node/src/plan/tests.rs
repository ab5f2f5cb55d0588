//! The planner's promises, each as a story, then all at once by chance.

use hull_types::{error::Error, units::Bytes};
use proptest::prelude::*;

use super::{
    nic_tests::nic,
    world::{World, at},
    *,
};

fn names(steps: &[Step]) -> Vec<String> {
    let name = |step: &Step| format!("{step:?}").split([' ', '{', '(']).next().unwrap_or_default().to_owned();
    steps.iter().filter(|step| !matches!(step, Step::Note(_))).map(name).collect()
}

#[track_caller]
fn took(world: &World, expected: &[&str]) {
    assert_eq!(names(&world.steps), expected);
    assert_eq!(world.broken, None);
}

#[test]
fn a_new_vm_gets_a_disk_and_starts() {
    let mut world = World::new();
    world.until_rest();
    took(&world, &["PrepareDisk", "Start"]);
    let plan = world.plan();
    assert_eq!((plan.phase, plan.reason), (VmPhase::Running, None));
    assert_eq!(world.record.power_seq, 1);
}

#[test]
fn stop_asks_the_guest_and_does_not_force_one_that_heeds() {
    let mut world = World::running();
    world.power(PowerTarget::Stopped).until_rest();
    took(&world, &["PowerButton", "Quit", "Clear"]);
    assert_eq!(world.plan().phase, VmPhase::Stopped);
    assert_eq!(world.record.last_exit.as_ref().unwrap().cause, ExitCause::GuestShutdown);
    assert_eq!(world.record.power_seq, 2);
}

#[test]
fn stop_forces_a_deaf_guest_at_its_deadline_and_not_before() {
    let mut world = World::running();
    world.heeds = false;
    world.power(PowerTarget::Stopped).tick();
    let plan = world.plan();
    let reason = plan.reason.unwrap();
    assert_eq!((plan.phase, reason.code), (VmPhase::Stopping, ReasonCode::AwaitingGuestShutdown));
    assert_eq!(reason.deadline, Some(world.now + secs(30)));
    let asked = world.now;
    world.until_rest();
    took(&world, &["PowerButton", "PowerButton", "PowerButton", "Quit", "Clear"]);
    assert_eq!(world.now, asked + secs(30));
    assert_eq!(world.plan().phase, VmPhase::Stopped);
}

#[test]
fn force_off_while_the_guest_is_given_time_is_at_once() {
    let mut world = World::running();
    world.heeds = false;
    world.power(PowerTarget::Stopped).tick();
    world.wish(|desired| (desired.vm.power.seq, desired.vm.power.grace_seconds) = (3, 0)).until_rest();
    took(&world, &["PowerButton", "Quit", "Clear"]);
}

#[test]
fn a_stop_withdrawn_while_the_guest_shuts_down_starts_it_again() {
    let mut world = World::running();
    world.power(PowerTarget::Stopped).tick();
    world.power(PowerTarget::Running).until_rest();
    took(&world, &["PowerButton", "Quit", "Clear", "Start"]);
    assert_eq!(world.record.restarts, 0);
}

#[test]
fn soft_reboot_starts_the_guest_again_and_resets_a_deaf_one() {
    let reboot = |desired: &mut DesiredVm| desired.vm.reboot.seq += 1;
    let mut world = World::running();
    world.wish(reboot).until_rest();
    took(&world, &["PowerButton", "Quit", "Clear", "Start"]);
    assert_eq!(world.record.reboot_seq, 1);

    let mut world = World::running();
    world.heeds = false;
    world.wish(reboot).until_rest();
    took(&world, &["PowerButton", "PowerButton", "PowerButton", "Reset"]);
    assert_eq!(world.record.reboot_seq, 1);
}

#[test]
fn hard_reboot_resets_once() {
    let mut world = World::running();
    world
        .wish(|desired| desired.vm.reboot = hull_types::vm::RebootIntent { seq: 4, kind: RebootKind::Hard })
        .until_rest();
    took(&world, &["Reset"]);
    assert_eq!(world.record.reboot_seq, 4);
}

#[test]
fn pause_and_resume() {
    let mut world = World::running();
    world.power(PowerTarget::Paused).until_rest();
    assert_eq!(world.plan().phase, VmPhase::Paused);
    world.power(PowerTarget::Running).until_rest();
    took(&world, &["Pause", "Resume"]);
}

#[test]
fn suspended_memory_is_restored_once() {
    let mut world = World::running();
    world.power(PowerTarget::Suspended).until_rest();
    assert_eq!(world.plan().phase, VmPhase::Suspended);
    took(&world, &["Save", "Quit", "Clear"]);
    world.power(PowerTarget::Running).until_rest();
    took(&world, &["Save", "Quit", "Clear", "Start", "Resume"]);
    assert!(matches!(
        &world.steps[..],
        [.., Step::Note(Note::DropSaved), Step::Resume, Step::Note(Note::PowerReached)]
    ));
    world.died().until_rest();
    let restored: Vec<bool> = world
        .steps
        .iter()
        .filter_map(|step| if let Step::Start(start) = step { Some(start.restore) } else { None })
        .collect();
    assert_eq!(restored, [true, false]);
}

#[test]
fn memory_that_cannot_be_saved_lets_the_guest_go_on_and_says_why() {
    let mut world = World::running();
    world.failing = Some((Act::Suspend, Error::insufficient("need 64 MiB in /var, 3 MiB are free")));
    world.power(PowerTarget::Suspended).until_rest();
    let plan = world.plan();
    assert_eq!(plan.phase, VmPhase::Running);
    assert!(plan.reason.unwrap().message.contains("3 MiB are free"));
    assert_eq!(world.record.power_seq, 2);
}

#[test]
fn rebuild_throws_the_old_disk_away_and_runs_the_new() {
    let mut world = World::running();
    world.wish(|desired| desired.vm.disk_generation = 2).until_rest();
    took(&world, &["Quit", "Clear", "PrepareDisk", "RemoveOlderDisks", "Start"]);
    assert_eq!(world.record.disk.unwrap().generation, 2);
}

#[test]
fn rebuild_of_a_suspended_vm_forgets_its_memory() {
    let mut world = World::running();
    world.power(PowerTarget::Suspended).until_rest();
    world.wish(|desired| desired.vm.disk_generation = 2).until_rest();
    assert_eq!(world.record.saved, None);
    assert_eq!(world.plan().phase, VmPhase::Stopped);
}

#[test]
fn rescue_and_back() {
    let mut world = World::running();
    world.rescue(true).until_rest();
    assert!(world.record.started.as_ref().unwrap().rescue.is_some());
    world.rescue(false).until_rest();
    took(
        &world,
        &["PowerButton", "Quit", "Clear", "Start", "PowerButton", "Quit", "Clear", "RemoveRescueDisk", "Start"],
    );
}

#[test]
fn resize_online_and_disk_growth_on_or_off() {
    let mut world = World::running();
    world.wish(|desired| desired.vm.resources = Resources { vcpus: 2, memory: Bytes::mib(128), disk: Bytes::mib(16) });
    world.until_rest();
    took(&world, &["Resize", "GrowDiskOnline"]);
    world.power(PowerTarget::Stopped).until_rest();
    world.steps.clear();
    world.wish(|desired| desired.vm.resources.disk = Bytes::mib(32)).until_rest();
    took(&world, &["GrowDisk"]);
}

#[test]
fn the_restart_policy_decides_after_a_death_and_a_shutdown() {
    use RestartPolicy::{Always, Never, OnFailure};
    for (policy, state, again) in [
        (Always, RunState::GuestShutdown, true),
        (Always, RunState::GuestPanicked, true),
        (OnFailure, RunState::GuestShutdown, false),
        (OnFailure, RunState::GuestPanicked, true),
        (Never, RunState::GuestShutdown, false),
        (Never, RunState::GuestPanicked, false),
    ] {
        let mut world = World::running();
        world.wish(|desired| desired.vm.restart = policy).until_rest();
        world.set(state.clone()).until_rest();
        let started = names(&world.steps).contains(&"Start".to_owned());
        assert_eq!(started, again, "{policy:?} {state:?}");
        let phase = world.plan().phase;
        let expected = match (again, state) {
            (true, _) => VmPhase::Running,
            (false, RunState::GuestShutdown) => VmPhase::Stopped,
            (false, _) => VmPhase::Failed,
        };
        assert_eq!(phase, expected, "{policy:?}");
        world.power(PowerTarget::Running).until_rest();
        assert_eq!(world.plan().phase, VmPhase::Running, "a new start is heeded");
        assert_eq!(world.broken, None);
    }
}

#[test]
fn deaths_in_a_row_are_restarted_with_growing_pauses_and_say_when() {
    let mut world = World::running();
    let mut pauses = vec![];
    for _ in 0..4 {
        world.died();
        while world.plan().step.is_some() {
            world.tick();
        }
        let (plan, now) = (world.plan(), world.now);
        let reason = plan.reason.unwrap();
        assert_eq!((plan.phase, reason.code), (VmPhase::Failed, ReasonCode::RestartBackoff));
        pauses.push(reason.deadline.unwrap().duration_since(now).as_secs());
        while world.state().is_none() {
            world.tick();
        }
    }
    assert_eq!(pauses, [1, 2, 4, 8]);
    world.until_rest();
    assert_eq!(world.record.restarts, 0, "after a while that it ran well");
}

#[test]
fn after_a_reboot_of_the_host_all_is_as_it_was() {
    for (policy, target) in [
        (RestartPolicy::Never, PowerTarget::Running),
        (RestartPolicy::OnFailure, PowerTarget::Paused),
        (RestartPolicy::Always, PowerTarget::Stopped),
        (RestartPolicy::Always, PowerTarget::Suspended),
    ] {
        for trace in [true, false] {
            let mut world = World::running();
            world.wish(|desired| desired.vm.restart = policy).power(target).until_rest();
            let before = world.plan().phase;
            world.boot_id = "boot-2".into();
            if world.process.is_some() {
                world.died();
            }
            if !trace {
                world.process = None;
            }
            world.until_rest();
            assert_eq!(world.plan().phase, before, "{policy:?} {target:?} {trace}");
            assert_eq!(world.record.restarts, 0);
        }
    }
}

#[test]
fn a_guest_that_turned_itself_off_stays_off_over_a_reboot_of_the_host() {
    let mut world = World::running();
    world.set(RunState::GuestShutdown).until_rest();
    world.boot_id = "boot-2".into();
    world.until_rest();
    assert_eq!(world.plan().phase, VmPhase::Stopped);
}

#[test]
fn a_full_disk_halts_the_guest_until_there_is_space() {
    let mut world = World::running();
    world.disk_free = Bytes::mib(1);
    world.set(RunState::IoError);
    let plan = world.plan();
    assert_eq!((plan.phase, plan.reason.unwrap().code), (VmPhase::Paused, ReasonCode::DiskFull));
    for _ in 0..3 {
        world.tick();
    }
    took(&world, &[]);
    world.disk_free = Bytes::gib(1);
    world.until_rest();
    took(&world, &["ResumeAfterIoError"]);
    assert_eq!(world.plan().phase, VmPhase::Running);
}

#[test]
fn a_hung_hypervisor_has_time_then_is_ended_and_restarted() {
    let mut world = World::running();
    world.set(RunState::Hung);
    let plan = world.plan();
    assert_eq!(plan.reason.as_ref().unwrap().code, ReasonCode::HypervisorHung);
    assert_eq!(plan.wake_at, Some(world.now + secs(HUNG_SECONDS)));
    world.until_rest();
    took(&world, &["Quit", "Clear", "Start"]);
    assert_eq!(world.record.last_exit.as_ref().unwrap().cause, ExitCause::Died);
}

#[test]
fn starts_that_fail_are_tried_a_while_then_given_up_until_the_next_wish() {
    let mut world = World::new();
    world.failing = Some((Act::Start, Error::internal("qemu: no such machine")));
    world.until_rest();
    assert_eq!(names(&world.steps).iter().filter(|name| *name == "Start").count(), 10);
    let plan = world.plan();
    let reason = plan.reason.unwrap();
    assert_eq!((plan.phase, reason.deadline), (VmPhase::Failed, None));
    assert!(reason.message.contains("no such machine") && reason.message.contains("given up after 10"));
    assert_eq!(world.record.power_seq, 1, "given up is an answer too");
    assert_eq!(world.record.trouble.as_ref().map(|trouble| trouble.alike), Some(10));
    world.failing = None;
    world.power(PowerTarget::Running).until_rest();
    assert_eq!(world.plan().phase, VmPhase::Running);
}

#[test]
fn causes_outside_of_the_vm_are_waited_for_without_end() {
    let mut world = World::new();
    world.failing = Some((Act::Prepare, Error::unavailable("the server does not answer")));
    for _ in 0..100 {
        assert!(world.tick());
    }
    let reason = world.plan().reason.unwrap();
    assert!(reason.deadline.is_some());
    world.failing = None;
    world.until_rest();
    assert_eq!(world.plan().phase, VmPhase::Running);
}

#[test]
fn failures_are_counted_anew_when_their_reason_changes() {
    let mut world = World::new();
    let mut fails = |why: &str, times: usize| {
        world.failing = Some((Act::Start, Error::unavailable(why)));
        let tries = |world: &World| names(&world.steps).iter().filter(|name| *name == "Start").count();
        let until = tries(&world) + times;
        while tries(&world) < until {
            world.tick();
        }
        world.record.trouble.as_ref().map(|trouble| (trouble.failures, trouble.alike)).unwrap()
    };
    assert_eq!(fails("no memory", 3), (3, 3));
    assert_eq!(fails("no network", 1), (4, 1));
    assert_eq!(fails("no network", 1), (5, 2));
}

#[test]
fn a_resize_that_fails_leaves_the_machine_running_and_says_so() {
    let mut world = World::running();
    world.failing = Some((Act::Tune, Error::unsupported("no hotplug")));
    world.wish(|desired| desired.vm.resources.vcpus = 2).power(PowerTarget::Running).until_rest();
    let plan = world.plan();
    assert_eq!(plan.phase, VmPhase::Running);
    assert!(plan.reason.unwrap().message.contains("no hotplug"));
    assert_eq!(world.record.power_seq, 2);
}

#[test]
fn a_start_interrupted_by_a_crash_of_the_node_is_no_death_of_the_vm() {
    let mut world = World::new();
    while !matches!(world.plan().step, Some(Step::Start(_))) {
        world.tick();
    }
    let step = world.plan().step.unwrap();
    world.record.begin(&step, "boot-1", world.now);
    world.wish(|desired| desired.vm.restart = RestartPolicy::Never).until_rest();
    assert_eq!(world.plan().phase, VmPhase::Running);
    assert_eq!((world.record.restarts, world.record.last_exit.as_ref()), (0, None));
}

#[test]
fn what_cannot_be_seen_is_neither_started_nor_removed() {
    let world = World::running();
    let observed = Observed { process: Process::Unknown(Error::timeout("no answer")), ..world.observed() };
    for desired in [Some(&world.desired), None] {
        let plan = plan(desired, &observed, &world.record, world.now);
        assert_eq!((plan.step, plan.wake_at), (None, Some(world.now + secs(LOOK_AGAIN_SECONDS))));
    }
}

#[test]
fn a_new_generation_begins_from_nothing() {
    let mut world = World::running();
    world.wish(|desired| desired.generation = 2).until_rest();
    took(&world, &["Quit", "Clear", "TearDown", "PrepareDisk", "Start"]);
    assert_eq!(world.record.generation, 2);
}

#[test]
fn delete_wins_over_trouble_and_asks_nobody() {
    let mut world = World::new();
    world.failing = Some((Act::Start, Error::internal("broken")));
    for _ in 0..6 {
        world.tick();
    }
    world.steps.clear();
    world.wish(|desired| desired.vm.deleted_at = Some(at(5))).until_rest();
    took(&world, &["TearDown"]);
    assert_eq!(world.plan().phase, VmPhase::Gone);
}

fn power_target() -> impl Strategy<Value = PowerTarget> {
    prop_oneof![
        Just(PowerTarget::Running),
        Just(PowerTarget::Stopped),
        Just(PowerTarget::Paused),
        Just(PowerTarget::Suspended)
    ]
}

/// What may happen to a VM, its host and its node at any moment.
#[derive(Clone, Debug)]
enum Event {
    Power(PowerTarget, u32),
    Reboot(RebootKind),
    Rebuild,
    Rescue(bool),
    Resize(u16, u64),
    Nics(Vec<u8>),
    Policy(RestartPolicy),
    Placed,
    Leaves(bool),
    State(RunState),
    Died,
    Vanished,
    HostReboot,
    Deaf(bool),
    Full(bool),
    Failing(Option<Act>),
    CrashInStep,
    Ticks(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop_oneof![
        Just(RunState::Running),
        Just(RunState::Paused),
        Just(RunState::GuestShutdown),
        Just(RunState::GuestPanicked),
        Just(RunState::IoError),
        Just(RunState::Hung)
    ];
    let policy = prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)];
    let act = prop_oneof![Just(Act::Prepare), Just(Act::Start), Just(Act::Tune), Just(Act::Suspend), Just(Act::Stop)];
    prop_oneof![
        4 => (power_target(), prop_oneof![Just(0u32), Just(30)]).prop_map(|(target, grace)| Event::Power(target, grace)),
        2 => prop_oneof![Just(RebootKind::Soft), Just(RebootKind::Hard)].prop_map(Event::Reboot),
        1 => Just(Event::Rebuild),
        1 => any::<bool>().prop_map(Event::Rescue),
        1 => (1u16..4, 8u64..32).prop_map(|(cpus, disk)| Event::Resize(cpus, disk)),
        2 => proptest::collection::vec(1u8..5, 0..4).prop_map(Event::Nics),
        1 => policy.prop_map(Event::Policy),
        1 => Just(Event::Placed),
        2 => any::<bool>().prop_map(Event::Leaves),
        3 => state.prop_map(Event::State),
        1 => Just(Event::Died),
        1 => Just(Event::Vanished),
        1 => Just(Event::HostReboot),
        1 => any::<bool>().prop_map(Event::Deaf),
        1 => any::<bool>().prop_map(Event::Full),
        1 => proptest::option::of(act).prop_map(Event::Failing),
        2 => Just(Event::CrashInStep),
        12 => (1u8..8).prop_map(Event::Ticks),
    ]
}

fn happen(world: &mut World, event: Event) {
    let alive = matches!(world.state(), Some(state) if !matches!(state, RunState::Exited(_)));
    match event {
        Event::Power(target, grace) => {
            world.desired.vm.power.grace_seconds = grace;
            world.power(target);
        }
        Event::Reboot(kind) => {
            world.wish(|desired| (desired.vm.reboot.seq, desired.vm.reboot.kind) = (desired.vm.reboot.seq + 1, kind));
        }
        Event::Rebuild => drop(world.wish(|desired| desired.vm.disk_generation += 1).plan()),
        Event::Rescue(on) => drop(world.rescue(on).plan()),
        Event::Resize(vcpus, disk) => {
            let disk = world.desired.vm.resources.disk.max(Bytes::mib(disk));
            world.wish(|desired| (desired.vm.resources.vcpus, desired.vm.resources.disk) = (vcpus, disk));
        }
        Event::Nics(ports) => {
            let mut nics: Vec<_> = ports.into_iter().map(|number| nic(number, number)).collect();
            nics.sort_unstable_by_key(|nic| nic.port);
            nics.dedup();
            world.wish(|desired| desired.nics = nics);
        }
        Event::Policy(policy) => drop(world.wish(|desired| desired.vm.restart = policy).plan()),
        Event::Leaves(leaves) => {
            let migration = hull_types::id::MigrationId(uuid::Uuid::nil());
            world.transit(leaves.then_some(Transit::Leaving { migration }));
        }
        Event::Placed => drop(world.wish(|desired| desired.generation += 1).plan()),
        // A machine halted after a save or for a restore does not run by itself.
        Event::State(state) if alive && world.record.saved.is_none() => drop(world.set(state).plan()),
        Event::Died if alive => drop(world.died().plan()),
        Event::Vanished if alive => world.process = None,
        Event::HostReboot => {
            world.boot_id.push('x');
            if alive {
                world.died();
            }
        }
        Event::Deaf(deaf) => world.heeds = !deaf,
        Event::Full(full) => world.disk_free = if full { Bytes::ZERO } else { Bytes::gib(1) },
        Event::Failing(act) => world.failing = act.map(|act| (act, Error::unavailable("not now"))),
        Event::CrashInStep => {
            if let Some(step) = world.plan().step {
                world.record.begin(&step, &world.boot_id.clone(), world.now);
            }
        }
        Event::Ticks(n) => {
            for _ in 0..n {
                world.tick();
            }
        }
        Event::State(_) | Event::Died | Event::Vanished => {}
    }
    assert_eq!(world.broken, None, "{:#?}", world.steps);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Whatever happened before: once nothing more goes wrong it comes to rest as wished, or off with a reason; a stop
    /// leads to off, a delete to nothing; and nothing was ever started twice.
    #[test]
    fn whatever_happens_it_converges(
        events in proptest::collection::vec(event(), 0..40),
        last in power_target(),
    ) {
        let mut world = World::new();
        for event in events {
            happen(&mut world, event);
        }
        (world.failing, world.disk_free) = (None, Bytes::gib(1));
        if world.state() == Some(&RunState::Hung) {
            world.set(RunState::Running);
        }
        world.transit(None).power(last).until_rest();
        prop_assert_eq!(world.broken, None);
        let plan = world.plan();
        match last {
            PowerTarget::Running => prop_assert_eq!(plan.phase, VmPhase::Running),
            PowerTarget::Paused => prop_assert_eq!(plan.phase, VmPhase::Paused),
            PowerTarget::Stopped => prop_assert_eq!(plan.phase, VmPhase::Stopped),
            PowerTarget::Suspended => prop_assert!(matches!(plan.phase, VmPhase::Suspended | VmPhase::Stopped)),
        }
        if matches!(last, PowerTarget::Running) {
            let mut held: Vec<_> = world.nics.iter().map(|nic| nic.port).collect();
            held.sort_unstable();
            let wanted: Vec<_> = world.desired.nics.iter().map(|nic| nic.port).collect();
            prop_assert_eq!(held, wanted);
        }
        prop_assert_eq!(world.record.power_seq, world.desired.vm.power.seq);
        prop_assert_eq!(world.record.reboot_seq, world.desired.vm.reboot.seq);
        prop_assert_eq!(world.record.disk.map(|disk| disk.generation), Some(world.desired.vm.disk_generation));
        world.power(PowerTarget::Stopped).until_rest();
        prop_assert_eq!((world.plan().phase, world.process.clone()), (VmPhase::Stopped, None));
        world.wish(|desired| desired.vm.deleted_at = Some(at(1))).until_rest();
        prop_assert_eq!((world.plan().phase, world.process), (VmPhase::Gone, None));
    }
}
