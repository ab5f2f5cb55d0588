//! NICs that come and go while a machine runs, as the planner sees them.

use hull_types::{
    error::Error,
    id::{NetworkId, PortId},
    network::Mac,
};
use uuid::Uuid;

use super::{world::World, *};

pub(super) fn nic(port: u8, mac: u8) -> DesiredNic {
    DesiredNic {
        port: PortId(Uuid::from_u128(u128::from(port))),
        network: NetworkId(Uuid::from_u128(1)),
        mac: Mac([2, 0, 0, 0, 0, mac]),
    }
}

fn held(port: u8, mac: u8) -> PluggedNic {
    PluggedNic { port: nic(port, mac).port, mac: nic(port, mac).mac }
}

fn running_with(nics: &[(u8, u8)]) -> World {
    let mut world = World::new();
    let nics: Vec<_> = nics.iter().map(|&(port, mac)| nic(port, mac)).collect();
    world.wish(|desired| desired.nics = nics).until_rest();
    world.steps.clear();
    world
}

fn want<'a>(world: &'a mut World, nics: &[(u8, u8)]) -> &'a mut World {
    let nics = nics.iter().map(|&(port, mac)| nic(port, mac)).collect();
    world.wish(|desired| desired.nics = nics)
}

/// The steps taken, as `+port/mac` and `-port/mac`.
fn changes(world: &World) -> Vec<String> {
    let tell = |step: &Step| match step {
        Step::AttachNic { nic } => Some(format!("+{}/{}", nic.port.0.as_u128(), nic.mac.0[5])),
        Step::DetachNic { nic } => Some(format!("-{}/{}", nic.port.0.as_u128(), nic.mac.0[5])),
        _ => None,
    };
    world.steps.iter().filter_map(tell).collect()
}

#[test]
fn a_running_machine_gets_the_nics_it_shall_have_and_loses_the_others() {
    for (from, to, expected) in [
        (&[][..], &[(1, 1)][..], &["+1/1"][..]),
        (&[(1, 1)], &[(1, 1)], &[]),
        (&[(1, 1)], &[(2, 2), (1, 1)], &["+2/2"]),
        (&[(1, 1), (2, 2)], &[(2, 2)], &["-1/1"]),
        (&[(1, 1)], &[(2, 2)], &["+2/2", "-1/1"]),
        (&[(1, 1)], &[(1, 9)], &["-1/1", "+1/9"]),
        (&[(1, 1), (2, 2)], &[], &["-1/1", "-2/2"]),
    ] {
        let mut world = running_with(from);
        want(&mut world, to).until_rest();
        assert_eq!(changes(&world), expected, "{from:?} to {to:?}");
        let plan = world.plan();
        assert_eq!((plan.phase, plan.reason, world.broken), (VmPhase::Running, None, None));
    }
}

#[test]
fn a_machine_that_is_off_takes_its_nics_from_its_next_start() {
    let mut world = running_with(&[(1, 1)]);
    world.power(PowerTarget::Stopped).until_rest();
    want(&mut world, &[(2, 2)]).until_rest();
    world.power(PowerTarget::Running).until_rest();
    assert_eq!((changes(&world), &world.nics), (vec![], &vec![held(2, 2)]));
}

#[test]
fn a_machine_restored_from_memory_has_its_old_nics_first_and_then_those_it_shall_have() {
    let mut world = running_with(&[(1, 1), (2, 2)]);
    world.power(PowerTarget::Suspended).until_rest();
    want(&mut world, &[(2, 2), (3, 3)]).until_rest();
    assert_eq!(changes(&world), [""; 0], "nothing of a saved machine is touched");
    world.power(PowerTarget::Running).until_rest();
    assert_eq!(changes(&world), ["+3/3", "-1/1"]);
    assert_eq!(world.nics, [held(2, 2), held(3, 3)]);
}

#[test]
fn a_halted_guest_is_given_nics_and_asked_for_them_once_it_runs() {
    let mut world = running_with(&[(1, 1)]);
    world.power(PowerTarget::Paused).until_rest();
    want(&mut world, &[(2, 2)]).until_rest();
    assert_eq!(changes(&world), ["+2/2"]);
    let reason = world.plan().reason.unwrap();
    assert!(reason.message.contains("once the guest runs again"), "{reason:?}");
    world.power(PowerTarget::Running).until_rest();
    assert_eq!((changes(&world).last().unwrap().as_str(), world.plan().reason), ("-1/1", None));
}

#[test]
fn what_cannot_be_done_while_it_runs_is_said_once_and_done_at_the_next_start() {
    let mut world = running_with(&[(1, 1)]);
    world.fixed = Some("at the next start: a micro takes no devices while it runs");
    want(&mut world, &[(2, 2)]).until_rest();
    assert_eq!(changes(&world), ["+2/2", "-1/1"], "each is asked once");
    let reason = world.plan().reason.unwrap();
    assert_eq!((world.plan().phase, reason.code), (VmPhase::Running, ReasonCode::NeedsRestart));
    assert_eq!(world.record.pending().len(), 2, "{reason:?}");
    want(&mut world, &[(1, 1)]).until_rest();
    assert_eq!((world.record.pending(), world.plan().reason), (vec![], None), "withdrawn");
    want(&mut world, &[(2, 2)]).until_rest();
    world.power(PowerTarget::Stopped).until_rest();
    world.power(PowerTarget::Running).until_rest();
    assert_eq!((&world.nics, world.record.pending()), (&vec![held(2, 2)], vec![]));
}

#[test]
fn a_nic_that_goes_makes_room_for_one_that_waits() {
    let mut world = running_with(&[(1, 1)]);
    world.fixed = Some("there is no free slot");
    want(&mut world, &[(1, 1), (2, 2)]).until_rest();
    assert_eq!(world.record.pending().len(), 1);
    world.fixed = None;
    want(&mut world, &[(2, 2)]).until_rest();
    assert_eq!(changes(&world), ["+2/2", "-1/1", "+2/2"]);
    assert_eq!((&world.nics, world.plan().reason), (&vec![held(2, 2)], None));
}

#[test]
fn a_guest_that_does_not_let_go_is_asked_again_for_ever_and_nothing_else_waits_for_it() {
    let mut world = running_with(&[(1, 1), (2, 2)]);
    world.failing = Some((Act::Tune, Error::timeout("the guest does not let go of the NIC")));
    want(&mut world, &[(2, 2)]);
    for _ in 0..60 {
        world.tick();
    }
    assert!(changes(&world).len() > 10, "{:?}", changes(&world));
    while world.plan().step.is_some() {
        world.tick();
    }
    let plan = world.plan();
    let reason = plan.reason.unwrap();
    assert_eq!((plan.phase, reason.deadline.is_some()), (VmPhase::Running, true), "it says until when");
    assert!(reason.message.contains("does not let go"), "{reason:?}");
    world.failing = None;
    world.steps.clear();
    world.wish(|desired| {
        desired.vm.resources.vcpus = 2;
        desired.nics.push(nic(3, 3));
    });
    world.until_rest();
    let first = |wanted: fn(&Step) -> bool| world.steps.iter().position(wanted).unwrap();
    let (resized, came) =
        (first(|step| matches!(step, Step::Resize { .. })), first(|step| matches!(step, Step::AttachNic { .. })));
    assert!(resized < came && came < first(|step| matches!(step, Step::DetachNic { .. })));
    assert_eq!(world.plan().reason, None);
}

#[test]
fn nics_that_cannot_be_told_are_left_alone() {
    let mut world = running_with(&[(1, 1)]);
    want(&mut world, &[(2, 2)]);
    let observed = Observed { nics: None, ..world.observed() };
    assert_eq!(plan(world.record.wanted(), &observed, &world.record, world.now).step, None);
}
