//! The state people see, computed from what the user wants, where it shall be, what its node says, and whether that node
//! answers. Here and nowhere else.
//!
//! ```text
//!   deletion asked? ── yes ──► Deleting
//!        │ no
//!   on a node? ─────── no ───► Scheduling   (why: the scheduler's reason)
//!        │ yes
//!   node answers? ──── no ───► Unknown      (never a guess; the last words of the node are told in the reason)
//!        │ yes
//!   leaves for another? ── yes ───► Migrating  (why: how far that is)
//!        │ no
//!   spoke for this generation? no ► Preparing  (why: awaiting the node)
//!        │ yes
//!        └──► the node's phase, one to one
//! ```
//!
//! A VM is **settled** when nothing is under way: the node has acted on the newest wish, every counter has caught up, and
//! power rests either where the user wants it or where something definite (a reason without deadline) keeps it.

use hull_types::{
    Timestamp,
    migration::Moving,
    name::Name,
    reason::{Reason, ReasonCode},
    vm::{Placement, PowerTarget, Vm, VmPhase, VmState, VmStatus},
};
use jiff::SignedDuration;

use crate::placement::clock;

/// How long a node has to answer for a change before something is wrong.
pub const NODE_ANSWERS_WITHIN: SignedDuration = SignedDuration::from_secs(60);

/// How long a deleted VM's record waits for a node that does not answer. Its disk is on that node alone, so nobody else
/// can write it; the node tears down what it finds unknown when it returns.
pub const DELETE_WAITS: SignedDuration = SignedDuration::from_secs(60);

/// A VM's node, as the server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSeen<'a> {
    /// Its name.
    pub name: &'a Name,
    /// Since when it does not answer; none while it does.
    pub silent_since: Option<Timestamp>,
}

/// All there is to know of a VM at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What the user wants.
    pub vm: &'a Vm,
    /// The store revision of that.
    pub revision: u64,
    /// Where it shall be.
    pub placement: Option<&'a Placement>,
    /// What its node said last.
    pub status: Option<&'a VmStatus>,
    /// The node it is placed on; none where it is placed on none, or its record is gone.
    pub node: Option<NodeSeen<'a>>,
    /// Now.
    pub now: Timestamp,
}

/// What people see of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The state.
    pub state: VmState,
    /// Why it is not (yet) as asked.
    pub reason: Option<Reason>,
    /// Whether nothing is under way.
    pub settled: bool,
}

impl Standing {
    fn moving(state: VmState, reason: Reason) -> Self {
        Self { state, reason: Some(reason), settled: false }
    }

    /// Whether it stays as it is until someone acts: settled, or kept by a reason that has no deadline.
    pub fn rests(&self) -> bool {
        self.settled || self.reason.as_ref().is_some_and(|reason| reason.deadline.is_none())
    }
}

/// Computes the standing.
pub fn standing(seen: &Seen<'_>) -> Standing {
    let Seen { vm, placement, status, node, now, .. } = *seen;
    if let Some(asked) = vm.deleted_at {
        return Standing::moving(VmState::Deleting, deleting(seen, asked));
    }
    let Some(placement) = placement else {
        let reason = Reason::new(ReasonCode::AwaitingPlacement, "waits for the scheduler", vm.meta.created_at);
        return Standing::moving(VmState::Scheduling, reason.until(vm.meta.created_at + NODE_ANSWERS_WITHIN));
    };
    if placement.node.is_none() {
        let reason = placement.reason.clone().unwrap_or_else(|| {
            let reason = Reason::new(ReasonCode::AwaitingPlacement, "waits for the scheduler", placement.decided_at);
            reason.until(placement.decided_at + NODE_ANSWERS_WITHIN)
        });
        return Standing::moving(VmState::Scheduling, reason);
    }
    let current = status.filter(|status| status.generation == placement.generation);
    let Some(node) = node else {
        let message = "its node was removed from the cloud, and its disk with it; delete this VM";
        return Standing::moving(
            VmState::Unknown,
            Reason::new(ReasonCode::NodeUnreachable, message, placement.decided_at),
        );
    };
    if let Some(since) = node.silent_since {
        let last = current.map(|status| format!("; it was {} then", word(status.phase))).unwrap_or_default();
        let message = format!("node {} does not answer since {}{last}", node.name, clock(since, now));
        return Standing::moving(VmState::Unknown, Reason::new(ReasonCode::NodeUnreachable, message, since));
    }
    // Until the other node is ready it goes on here as ever.
    if let Some(moving) = placement.leaving().filter(|moving| moving.ready) {
        return Standing::moving(VmState::Migrating, migrating(current, moving));
    }
    match current {
        None => {
            let message = format!("node {} has not answered for it yet", node.name);
            let reason = Reason::new(ReasonCode::AwaitingNode, message, placement.decided_at);
            Standing::moving(VmState::Preparing, reason.until(placement.decided_at + NODE_ANSWERS_WITHIN))
        }
        Some(status) => reported(vm, seen.revision, status, node.name),
    }
}

/// What its node says of its leaving, or that the other node has the word.
fn migrating(current: Option<&VmStatus>, moving: Moving) -> Reason {
    let said = current.filter(|status| status.phase != VmPhase::Released).and_then(|status| status.reason.clone());
    said.filter(|reason| reason.deadline.is_some()).unwrap_or_else(|| {
        let message = format!("it goes to another node (migration {})", moving.migration);
        let since = current.map_or(moving.deadline, |status| status.at);
        Reason::new(ReasonCode::Migrating, message, since).until(moving.deadline)
    })
}

fn reported(vm: &Vm, revision: u64, status: &VmStatus, node: &Name) -> Standing {
    let state = of_phase(status.phase);
    if status.observed_revision < revision || status.power_seq < vm.power.seq && status.reason.is_none() {
        let reason = status.reason.clone().filter(|reason| reason.deadline.is_some()).unwrap_or_else(|| {
            let message = format!("node {node} has not yet acted on the newest change");
            let since = vm.meta.updated_at;
            Reason::new(ReasonCode::AwaitingNode, message, since).until(since + NODE_ANSWERS_WITHIN)
        });
        return Standing::moving(state, reason);
    }
    let caught_up = status.power_seq >= vm.power.seq
        && status.reboot_seq >= vm.reboot.seq
        && status.disk_generation >= vm.disk_generation
        && status.rescue == vm.rescue.is_some();
    let kept = status.reason.as_ref().is_some_and(|reason| reason.deadline.is_none());
    let settled = match status.phase {
        // Without a reason there is nothing that keeps it: it is as asked, or on its way.
        VmPhase::Running | VmPhase::Paused | VmPhase::Stopped | VmPhase::Suspended => {
            let there = status.phase == rest(vm.power.target);
            // An off machine is off whether or not it has caught up with what concerns the next start only.
            let off = there && status.phase == VmPhase::Stopped && status.power_seq >= vm.power.seq;
            (caught_up && (there || kept)) || (off && kept)
        }
        VmPhase::Failed => kept && status.power_seq >= vm.power.seq,
        VmPhase::Preparing
        | VmPhase::Starting
        | VmPhase::Stopping
        | VmPhase::Suspending
        | VmPhase::Rebuilding
        | VmPhase::Released
        | VmPhase::Expected
        | VmPhase::Arriving
        | VmPhase::Arrived
        | VmPhase::Deleting
        | VmPhase::Gone => false,
    };
    let reason = status.reason.clone().or_else(|| (!settled).then(|| under_way(vm, status)));
    Standing { state, reason, settled }
}

/// What is said where the node gave no reason.
fn under_way(vm: &Vm, status: &VmStatus) -> Reason {
    let (code, message) = match status.phase {
        VmPhase::Preparing => (ReasonCode::PreparingDisk, "its disk and network are being made ready"),
        VmPhase::Starting => (ReasonCode::Starting, "the hypervisor is being started"),
        VmPhase::Stopping => (ReasonCode::AwaitingGuestShutdown, "the guest was asked to shut down"),
        VmPhase::Suspending => (ReasonCode::Suspending, "its memory is being saved to disk"),
        VmPhase::Rebuilding => (ReasonCode::Rebuilding, "its disk is being made anew"),
        VmPhase::Released => (ReasonCode::Migrating, "its node holds it for another"),
        VmPhase::Expected | VmPhase::Arriving => (ReasonCode::Migrating, "its node is fetching it"),
        VmPhase::Arrived => (ReasonCode::Migrating, "its new node has it, and goes on with it"),
        VmPhase::Deleting => (ReasonCode::Deleting, "its node is tearing it down"),
        VmPhase::Gone => (ReasonCode::Other, "its node has nothing of it left"),
        VmPhase::Failed => (ReasonCode::Other, "it failed, and its node did not say why; look at `hull explain vm`"),
        VmPhase::Running | VmPhase::Paused | VmPhase::Stopped | VmPhase::Suspended => {
            (ReasonCode::AwaitingNode, "its node is bringing it to where it was asked to be")
        }
    };
    let since = status.at.max(vm.power.at);
    Reason::new(code, message, since).until(since + NODE_ANSWERS_WITHIN)
}

fn deleting(seen: &Seen<'_>, asked: Timestamp) -> Reason {
    let silent = seen.node.and_then(|node| Some((node.name, node.silent_since?)));
    match silent {
        Some((name, since)) => {
            let goes = super::delete::goes(since, asked, seen.now);
            let message = format!(
                "node {name} does not answer since {}; its record goes without it at {}, and what is left there when it returns",
                clock(since, seen.now),
                clock(goes, seen.now),
            );
            Reason::new(ReasonCode::NodeUnreachable, message, asked).until(goes)
        }
        None => Reason::new(ReasonCode::Deleting, "it is being torn down", asked).until(asked + NODE_ANSWERS_WITHIN),
    }
}

/// The phase in which a power target is reached.
pub fn rest(target: PowerTarget) -> VmPhase {
    match target {
        PowerTarget::Running => VmPhase::Running,
        PowerTarget::Stopped => VmPhase::Stopped,
        PowerTarget::Paused => VmPhase::Paused,
        PowerTarget::Suspended => VmPhase::Suspended,
    }
}

fn of_phase(phase: VmPhase) -> VmState {
    match phase {
        VmPhase::Preparing => VmState::Preparing,
        VmPhase::Starting => VmState::Starting,
        VmPhase::Running => VmState::Running,
        VmPhase::Paused => VmState::Paused,
        VmPhase::Stopping => VmState::Stopping,
        VmPhase::Stopped => VmState::Stopped,
        VmPhase::Suspending => VmState::Suspending,
        VmPhase::Suspended => VmState::Suspended,
        VmPhase::Rebuilding => VmState::Rebuilding,
        VmPhase::Released | VmPhase::Expected | VmPhase::Arriving | VmPhase::Arrived => VmState::Migrating,
        VmPhase::Failed | VmPhase::Gone => VmState::Failed,
        VmPhase::Deleting => VmState::Deleting,
    }
}

/// A phase as people read it.
pub fn word(phase: VmPhase) -> &'static str {
    match phase {
        VmPhase::Preparing => "preparing",
        VmPhase::Starting => "starting",
        VmPhase::Running => "running",
        VmPhase::Paused => "paused",
        VmPhase::Stopping => "stopping",
        VmPhase::Stopped => "stopped",
        VmPhase::Suspending => "suspending",
        VmPhase::Suspended => "suspended",
        VmPhase::Rebuilding => "rebuilding",
        VmPhase::Released => "held for another node",
        VmPhase::Expected => "expected from another node",
        VmPhase::Arriving => "being fetched from another node",
        VmPhase::Arrived => "fetched from another node",
        VmPhase::Failed => "failed",
        VmPhase::Deleting => "being torn down",
        VmPhase::Gone => "gone",
    }
}
