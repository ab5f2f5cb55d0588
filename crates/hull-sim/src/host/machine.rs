//! A hypervisor process and the guest in it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hull_node::hypervisor::{PluggedNic, RunState, VmmSpec};
use hull_types::{
    flavor::Resources,
    id::VmId,
    vm::{Exit, Vmm as VmmInfo},
};
use tokio::sync::watch;

use crate::fate::Fate;

/// A process, alive or ended and not yet cleared.
#[derive(Debug)]
pub struct Machine {
    /// The VM it embodies.
    pub vm: VmId,
    /// Pid, start, accelerator.
    pub info: VmmInfo,
    /// The root disk it has open.
    pub root: Option<PathBuf>,
    /// The NICs it has, each with its tap open.
    pub nics: Mutex<Vec<PluggedNic>>,
    /// The size it was started with.
    pub resources: Resources,
    /// Whether it began with the memory of another one.
    pub restored: bool,
    /// What it does.
    pub state: watch::Sender<RunState>,
}

impl Machine {
    pub(super) fn new(spec: &VmmSpec, info: VmmInfo, nics: Vec<PluggedNic>) -> Arc<Self> {
        Arc::new(Self {
            vm: spec.vm,
            info,
            root: spec.disks.iter().find(|disk| disk.id == "root").map(|disk| disk.path.clone()),
            nics: Mutex::new(nics),
            resources: spec.resources,
            restored: spec.restore.is_some(),
            state: watch::Sender::new(if spec.paused { RunState::Paused } else { RunState::Running }),
        })
    }

    /// What it does now.
    pub fn now(&self) -> RunState {
        self.state.borrow().clone()
    }

    /// The NICs it has.
    pub fn nics(&self) -> Vec<PluggedNic> {
        self.nics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change_nics(&self, change: impl FnOnce(&mut Vec<PluggedNic>)) {
        change(&mut self.nics.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether the process is there.
    pub fn is_alive(&self) -> bool {
        !matches!(self.now(), RunState::Exited(_))
    }

    /// Goes over to a state, where it is in one of these.
    pub fn change(&self, from: &[RunState], to: RunState) -> bool {
        self.state.send_if_modified(|state| {
            let goes = from.contains(state);
            if goes {
                *state = to;
            }
            goes
        })
    }

    /// The process ends.
    pub fn exit(&self, exit: Exit) {
        self.state.send_if_modified(|state| {
            let alive = !matches!(state, RunState::Exited(_));
            if alive {
                *state = RunState::Exited(exit);
            }
            alive
        });
    }

    /// The guest hears the power button: most shut down after a while, some do not listen.
    pub(super) fn power_button(self: &Arc<Self>, fate: &Fate) {
        if fate.chance(75) {
            let machine = self.clone();
            let after = Duration::from_millis(fate.below(20_000) as u64);
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                machine.change(&[RunState::Running], RunState::GuestShutdown);
            });
        }
    }
}
