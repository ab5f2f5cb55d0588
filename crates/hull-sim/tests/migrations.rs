//! A VM on its way, with everything that can happen to it then: at every step that the new node takes, and the old one, and
//! the server.
#![allow(clippy::unwrap_used)]

mod seeded;

use std::{future::Future, time::Duration};

use hull_node::hypervisor::RunState;
use hull_sim::{
    cloud::{Cloud, ctx},
    link::Cable,
};
use hull_types::{
    flavor::Resources,
    id::{MigrationId, VmId},
    migration::{Migration, MigrationPhase},
    name::Name,
    units::Bytes,
    vm::{RebootKind, RestartPolicy, VmPhase, VmState},
    wire::{MigrationCreate, VmAction, VmCreate, VmView},
};

/// More steps than anything here takes.
const MOST: u32 = 1000;

/// A cloud of two nodes, and a VM that runs on one of them.
struct Story {
    cloud: Cloud,
    vm: VmId,
}

/// Plays a story of its own time.
fn play<F: Future<Output = T>, T: Send + 'static>(seed: u64, story: impl FnOnce(Story) -> F + Send + 'static) -> T {
    seeded::play(seed, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(Box::pin(async move { story(Box::pin(Story::begin(seed)).await).await }))
    })
}

impl Story {
    async fn begin(seed: u64) -> Self {
        let mut cloud = Cloud::new(seed, 2).await.unwrap();
        cloud.pass(Duration::from_secs(10)).await;
        let request = VmCreate {
            name: Name::new("web").unwrap(),
            description: String::new(),
            metadata: Default::default(),
            count: 1,
            image: Some("debian-12".to_owned()),
            kernel: None,
            flavor: None,
            resources: Some(Resources { vcpus: 2, memory: Bytes::gib(4), disk: Bytes::ZERO }),
            profile: Default::default(),
            firmware: Default::default(),
            secure_boot: false,
            tpm: false,
            keypairs: vec![],
            ssh_keys: vec![],
            user_data: None,
            nics: None,
            restart: RestartPolicy::Always,
            start: true,
        };
        let made = cloud.app().unwrap().create_vms(&ctx(), &request).await.unwrap();
        let mut story = Self { cloud, vm: made.items[0].vm.id };
        story.until("it runs", |story| story.view().is_some_and(|it| it.settled && it.state == VmState::Running)).await;
        story
    }

    fn view(&self) -> Option<VmView> {
        self.cloud.app()?.vm(&ctx(), &self.vm.to_string()).ok()
    }

    /// Lets time pass until it is so.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if holds(self) {
                return;
            }
            self.cloud.pass(Duration::from_millis(200)).await;
        }
        panic!("{what} never came: {:#?} {:?} {:?}", self.view(), self.cloud.truth.migrations, self.cloud.broken());
    }

    /// The number of the node that the VM is placed on.
    fn on(&self) -> usize {
        let node = self.cloud.truth.placements[&self.vm.0].node;
        self.cloud.nodes.iter().position(|held| Some(held.id) == node).unwrap()
    }

    /// The nodes on which it has a machine, whether that began with another's memory, and what it does.
    fn machines(&self) -> Vec<(usize, bool, RunState)> {
        let nodes = self.cloud.nodes.iter().enumerate();
        let alive = nodes.flat_map(|(number, node)| node.host.alive().into_iter().map(move |it| (number, it)));
        alive.map(|(number, machine)| (number, machine.restored, machine.now())).collect()
    }

    async fn migrate(&mut self) -> MigrationId {
        let request = MigrationCreate { vm: self.vm.to_string(), node: None };
        let begun = self.cloud.app().unwrap().begin_migration(&ctx(), &request).await.unwrap();
        self.cloud.catch_up().await;
        begun.object.id
    }

    /// A node's cable breaks when it has all of the VM and nobody knows it yet.
    async fn breaks_once_all_is_there(&mut self, to: usize, how: Cable) {
        while !self.cloud.nodes[to].host.has_whole(self.vm) {
            self.cloud.pass(Duration::from_millis(1)).await;
        }
        self.cloud.nodes[to].cable.send_replace(how);
        assert!(self.cloud.truth.migrations_under_way().all(|migration| migration.phase == MigrationPhase::Copying));
    }

    fn migration(&self, id: MigrationId) -> &Migration {
        &self.cloud.truth.migrations[&id.0]
    }

    fn is_over(&self, id: MigrationId) -> bool {
        self.migration(id).phase.is_over()
    }

    fn whole(&self) {
        assert_eq!(self.cloud.broken(), [""; 0], "{:#?}", self.cloud.truth.history.get(&self.vm.0));
    }

    /// Everything works again: the migration is over, and the VM runs where it is placed, and nowhere else.
    async fn runs_once(&mut self, id: MigrationId) -> Migration {
        self.cloud.comes_to_rest().await;
        self.whole();
        assert_eq!(
            self.machines().iter().map(|it| (it.0, it.2.clone())).collect::<Vec<_>>(),
            [(self.on(), RunState::Running)]
        );
        let migration = self.migration(id).clone();
        assert!(migration.phase.is_over(), "{migration:?}");
        let (came, stayed) = (migration.to, migration.from);
        let there = if migration.phase == MigrationPhase::Done { came } else { stayed };
        assert_eq!(self.cloud.nodes[self.on()].id, there, "{migration:?}");
        migration
    }

    /// And nothing of it is left once it is deleted.
    async fn leaves_nothing(&mut self) {
        self.cloud.leaves_nothing().await;
        self.whole();
    }
}

/// The number of the other of two nodes.
const fn other(node: usize) -> usize {
    1 - node
}

#[test]
fn a_vm_goes_with_its_memory_and_leaves_nothing_behind() {
    play(1, |mut story| async move {
        let from = story.on();
        let id = story.migrate().await;
        story.until("it is over", |story| story.is_over(id)).await;
        let migration = story.runs_once(id).await;
        assert_eq!(migration.phase, MigrationPhase::Done);
        assert!(migration.downtime_ms.is_some_and(|ms| ms > 0), "{migration:?}");
        assert_eq!(story.machines(), [(other(from), true, RunState::Running)]);
        assert!(story.cloud.nodes[from].host.holds().is_empty());
        // And back.
        let id = story.migrate().await;
        story.until("it is over", |story| story.is_over(id)).await;
        story.runs_once(id).await;
        assert_eq!(story.machines(), [(from, true, RunState::Running)]);
        story.leaves_nothing().await;
    });
}

/// Who dies.
#[derive(Clone, Copy, Debug)]
enum Who {
    New,
    Old,
    Server,
}

/// Something dies at its `calls`th call after the migration was asked for, and comes back after a while. None where the
/// migration was over before that; else how that ended.
fn dies_at(who: Who, calls: u32) -> Option<MigrationPhase> {
    play(u64::from(calls), move |mut story| async move {
        let from = story.on();
        let id = story.migrate().await;
        let node = match who {
            Who::New => other(from),
            Who::Old | Who::Server => from,
        };
        match who {
            Who::Server => story.cloud.server_fuse.set(calls),
            Who::New | Who::Old => story.cloud.nodes[node].host.fuse.set(calls),
        }
        let burnt = move |story: &Story| match who {
            Who::Server => story.cloud.server_fuse.is_burnt(),
            Who::New | Who::Old => story.cloud.nodes[node].host.fuse.is_burnt(),
        };
        story.until("the fuse burns or it is over", move |story| burnt(story) || story.is_over(id)).await;
        if !burnt(&story) {
            return None;
        }
        // It hangs, then is dead, for a moment or for so long that the others notice.
        let while_ = |n: u32| Duration::from_secs([0, 3, 20, 90][n as usize % 4]);
        story.cloud.pass(while_(calls)).await;
        match who {
            Who::Server => story.cloud.kill_server(),
            // With the whole host, or without.
            Who::New | Who::Old if calls.is_multiple_of(3) => story.cloud.reboot_host(node),
            Who::New | Who::Old => story.cloud.kill_node(node),
        }
        story.cloud.pass(while_(calls / 4)).await;
        story.cloud.server_fuse.remove();
        let phase = story.runs_once(id).await.phase;
        story.leaves_nothing().await;
        Some(phase)
    })
}

/// At each call until the migration is over before; how often it ended how.
fn dies_at_every_call(who: Who) {
    let ends: Vec<MigrationPhase> = (0..MOST).map_while(|calls| dies_at(who, calls)).collect();
    let count = |phase| ends.iter().filter(|end| **end == phase).count();
    let (done, failed) = (count(MigrationPhase::Done), count(MigrationPhase::Failed));
    eprintln!("{who:?}: {done} done, {failed} failed");
    assert_eq!(done + failed, ends.len());
    assert!(ends.len() > 20 && ends.len() < MOST as usize && done > 0, "{who:?}: {ends:?}");
}

#[test]
fn whenever_the_new_node_dies_one_has_the_vm() {
    dies_at_every_call(Who::New);
}

#[test]
fn whenever_the_old_node_dies_one_has_the_vm() {
    dies_at_every_call(Who::Old);
}

#[test]
fn whenever_the_server_dies_one_has_the_vm() {
    dies_at_every_call(Who::Server);
}

#[test]
fn a_node_that_has_everything_and_is_not_heard_starts_nothing() {
    for seed in 0..10 {
        play(seed, |mut story| async move {
            let (from, to) = (story.on(), other(story.on()));
            let id = story.migrate().await;
            story.breaks_once_all_is_there(to, Cable::Silent).await;
            story.until("it is given up", |story| story.is_over(id)).await;
            assert_eq!(story.migration(id).phase, MigrationPhase::Failed);
            story
                .until("it runs on the old node", move |story| story.machines() == [(from, true, RunState::Running)])
                .await;
            // The new node has it all, and its word is still in the cable.
            assert!(story.cloud.nodes[to].host.holds().contains_key(&story.vm));
            story.cloud.pass(Duration::from_secs(30)).await;
            story.cloud.nodes[to].cable.send_replace(Cable::Whole);
            story.runs_once(id).await;
            assert_eq!(story.machines(), [(from, true, RunState::Running)]);
            let id = story.migrate().await;
            story.until("it is over", |story| story.is_over(id)).await;
            assert_eq!(story.runs_once(id).await.phase, MigrationPhase::Done);
            assert_eq!(story.machines(), [(to, true, RunState::Running)]);
            story.leaves_nothing().await;
        });
    }
}

/// The first is cancelled while the new node has everything and cannot say so; the guest runs on, and is to come again.
#[test]
fn what_came_by_one_migration_is_not_taken_for_what_comes_by_the_next() {
    for seed in 0..16 {
        let cable = if seed % 2 == 0 { Cable::Cut } else { Cable::Silent };
        play(seed, move |mut story| async move {
            let (from, to) = (story.on(), other(story.on()));
            let first = story.migrate().await;
            story.breaks_once_all_is_there(to, cable).await;
            story.cloud.app().unwrap().cancel_migration(&ctx(), &first.to_string()).await.unwrap();
            story
                .until("it runs on the old node", move |story| story.machines() == [(from, true, RunState::Running)])
                .await;
            let second = story.migrate().await;
            story.cloud.nodes[to].cable.send_replace(Cable::Whole);
            story.until("it is over", |story| story.is_over(second)).await;
            assert_eq!(story.runs_once(second).await.phase, MigrationPhase::Done);
            story.leaves_nothing().await;
        });
    }
}

#[test]
fn it_can_be_cancelled_until_it_is_there() {
    let mut ends = Vec::new();
    for n in 0..MOST {
        let end = play(u64::from(n), move |mut story| async move {
            let id = story.migrate().await;
            story.cloud.pass(Duration::from_millis(300) * n).await;
            if story.is_over(id) {
                return None;
            }
            let before = story.migration(id).phase;
            let cancelled = story.cloud.app().unwrap().cancel_migration(&ctx(), &id.to_string()).await;
            let after = story.runs_once(id).await.phase;
            assert_eq!(cancelled.is_ok(), after == MigrationPhase::Cancelled, "{cancelled:?} {after:?}");
            // The one that it is told of again goes as the first would have.
            if cancelled.is_ok() {
                let id = story.migrate().await;
                story.until("it is over", |story| story.is_over(id)).await;
                assert_eq!(story.runs_once(id).await.phase, MigrationPhase::Done);
            }
            story.leaves_nothing().await;
            Some((before, after))
        });
        // Each run takes its own time.
        ends.extend(end);
        if n > 40 && end.is_none() {
            break;
        }
    }
    for seen in [MigrationPhase::Preparing, MigrationPhase::Releasing, MigrationPhase::Copying] {
        assert!(ends.contains(&(seen, MigrationPhase::Cancelled)), "{ends:?}");
    }
    assert!(ends.contains(&(MigrationPhase::Starting, MigrationPhase::Done)), "{ends:?}");
}

#[test]
fn what_is_asked_of_a_vm_on_its_way_comes_about() {
    let asked: [(VmAction, VmPhase); 8] = [
        (VmAction::Stop { grace_seconds: Some(0) }, VmPhase::Stopped),
        (VmAction::Stop { grace_seconds: Some(60) }, VmPhase::Stopped),
        (VmAction::Suspend, VmPhase::Suspended),
        (VmAction::Pause, VmPhase::Paused),
        (VmAction::Reboot { kind: RebootKind::Hard }, VmPhase::Running),
        (VmAction::Rebuild { image: None }, VmPhase::Running),
        (VmAction::Rescue { image: None }, VmPhase::Running),
        (VmAction::Resize { flavor: None, vcpus: Some(3), memory: None, disk: Some(Bytes::gib(9)) }, VmPhase::Running),
    ];
    for (number, (action, phase)) in (0u32..).zip(asked) {
        for n in 0..14 {
            let action = action.clone();
            play(u64::from(100 * number + n), move |mut story| async move {
                let id = story.migrate().await;
                story.cloud.pass(Duration::from_millis(1500) * n).await;
                let done = story.cloud.app().unwrap().act_on_vm(&ctx(), &story.vm.to_string(), &action).await;
                story.cloud.comes_to_rest().await;
                story.whole();
                let said = story.view().unwrap().status.unwrap().phase;
                // What is refused changes nothing.
                let wanted = if done.is_ok() { phase } else { VmPhase::Running };
                assert_eq!(said, wanted, "{action:?} after {n}: {done:?}");
                assert!(story.is_over(id), "{:?}", story.migration(id));
                story.leaves_nothing().await;
            });
        }
    }
}

#[test]
fn a_full_disk_on_the_new_node_ends_it_and_the_guest_goes_on() {
    for n in 0..12 {
        play(u64::from(n), move |mut story| async move {
            let from = story.on();
            let id = story.migrate().await;
            story.cloud.pass(Duration::from_millis(500) * n).await;
            story.cloud.nodes[other(from)].host.set_faults(|faults| faults.disk_full = true);
            story.until("it is over", |story| story.is_over(id)).await;
            let migration = story.runs_once(id).await;
            if migration.phase == MigrationPhase::Failed {
                assert!(migration.reason.unwrap().message.contains("is full"));
                assert_eq!(story.machines(), [(from, true, RunState::Running)]);
            }
            story.leaves_nothing().await;
        });
    }
}

#[test]
fn a_vm_deleted_on_its_way_is_gone_from_both_nodes() {
    for n in 0..30 {
        play(u64::from(n), move |mut story| async move {
            let id = story.migrate().await;
            story.cloud.pass(Duration::from_millis(700) * n).await;
            story.leaves_nothing().await;
            assert!(story.is_over(id), "{:?}", story.migration(id));
        });
    }
}
