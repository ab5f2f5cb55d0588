//! A host that does what it is told, for the planner's tests: no process, no disk, no time but what is written here.

use hull_types::{
    Timestamp,
    error::Error,
    flavor::Resources,
    id::{ImageId, ProjectId, VmId},
    image::{ImageContent, ImageFormat},
    link::DesiredVm,
    meta::Meta,
    name::Name,
    reason::ReasonCode,
    units::Bytes,
    vm::{
        Boot, Exit, ExitCause, PowerIntent, PowerTarget, RebootIntent, RebootKind, Rescue, RestartPolicy, Vm, VmPhase,
    },
};
use uuid::Uuid;

use super::{
    record::{Carried, Record},
    *,
};

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn content(byte: u8) -> ImageContent {
    ImageContent {
        digest: Digest([byte; 32]),
        format: ImageFormat::Qcow2,
        size: Bytes::mib(1),
        virtual_size: Bytes::mib(4),
        source_digest: Digest([byte; 32]),
    }
}

fn image_ref(byte: u8) -> hull_types::vm::ImageRef {
    hull_types::vm::ImageRef { id: ImageId(Uuid::nil()), name: Name::new("image").unwrap(), digest: Digest([byte; 32]) }
}

/// A VM that shall run, with a disk.
pub(crate) fn desired() -> DesiredVm {
    let vm = Vm {
        id: VmId(Uuid::from_u128(7)),
        meta: Meta::new(ProjectId(Uuid::nil()), Name::new("web1").unwrap(), at(0)),
        hostname: "web1".into(),
        flavor: None,
        resources: Resources { vcpus: 1, memory: Bytes::mib(64), disk: Bytes::mib(8) },
        profile: Default::default(),
        boot: Boot { image: Some(image_ref(1)), ..Default::default() },
        ssh_keys: vec![],
        user_data: None,
        ports: vec![],
        restart: RestartPolicy::OnFailure,
        power: PowerIntent { target: PowerTarget::Running, seq: 1, grace_seconds: 30, at: at(0) },
        reboot: RebootIntent { seq: 0, kind: RebootKind::Soft },
        disk_generation: 1,
        rescue: None,
        locked: false,
        deleted_at: None,
    };
    DesiredVm {
        vm,
        generation: 1,
        revision: 1,
        image: Some(content(1)),
        rescue_image: None,
        nics: vec![],
        transit: None,
    }
}

/// The host.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) desired: DesiredVm,
    pub(super) record: Record,
    pub(super) process: Option<(RunState, Timestamp)>,
    pub(super) boot_id: String,
    pub(super) now: Timestamp,
    pub(super) disk_free: Bytes,
    /// Whether the guest heeds the power button.
    pub(super) heeds: bool,
    /// Steps taken, newest last.
    pub(super) steps: Vec<Step>,
    /// Guests ran on from saved memory while it was still remembered, or two processes were alive.
    pub(super) broken: Option<&'static str>,
    /// Steps to fail, by their kind, and how.
    pub(super) failing: Option<(Act, Error)>,
    /// NICs of the process.
    pub(super) nics: Vec<PluggedNic>,
    /// NICs of the saved machine.
    pub(super) saved_nics: Vec<PluggedNic>,
    /// What a VM that comes brings along.
    pub(super) brings: Option<Carried>,
    /// Why NICs can neither come nor go while it runs.
    pub(super) fixed: Option<&'static str>,
}

impl World {
    pub(super) fn new() -> Self {
        let desired = desired();
        let mut record = Record::new(desired.vm.id);
        record.desired = Some(desired.clone());
        Self {
            desired,
            record,
            process: None,
            boot_id: "boot-1".into(),
            now: at(0),
            disk_free: Bytes::gib(1),
            heeds: true,
            steps: vec![],
            broken: None,
            failing: None,
            nics: vec![],
            saved_nics: vec![],
            brings: None,
            fixed: None,
        }
    }

    /// One that runs already.
    pub(super) fn running() -> Self {
        let mut world = Self::new();
        world.until_rest();
        assert_eq!(world.plan().phase, VmPhase::Running);
        world.steps.clear();
        world
    }

    /// Changes the wish as a user would.
    pub(super) fn wish(&mut self, change: impl FnOnce(&mut DesiredVm)) -> &mut Self {
        change(&mut self.desired);
        self.desired.revision += 1;
        self.record.desired = Some(self.desired.clone());
        self
    }

    /// Its part in a migration is another. The wish is the same.
    pub(super) fn transit(&mut self, transit: Option<Transit>) -> &mut Self {
        self.desired.transit = transit;
        self.record.hold(self.desired.clone());
        self
    }

    pub(super) fn power(&mut self, target: PowerTarget) -> &mut Self {
        self.wish(|desired| {
            desired.vm.power.target = target;
            desired.vm.power.seq += 1;
        })
    }

    pub(super) fn rescue(&mut self, on: bool) -> &mut Self {
        self.wish(|desired| {
            desired.vm.rescue = on.then(|| Rescue { image: image_ref(9) });
            desired.rescue_image = on.then(|| content(9));
        })
    }

    pub(super) fn set(&mut self, state: RunState) -> &mut Self {
        self.process = Some((state, self.now));
        self
    }

    pub(super) fn died(&mut self) -> &mut Self {
        let exit = Exit { at: self.now, cause: ExitCause::Died, detail: "signal 9".into() };
        self.set(RunState::Exited(exit))
    }

    pub(super) fn state(&self) -> Option<&RunState> {
        self.process.as_ref().map(|(state, _)| state)
    }

    pub(super) fn observed(&self) -> Observed {
        let process = match &self.process {
            None => Process::None,
            Some((state, since)) => Process::Seen { state: state.clone(), since: *since },
        };
        Observed {
            process,
            boot_id: self.boot_id.clone(),
            disk_free: Some(self.disk_free),
            nics: Some(self.nics.clone()),
        }
    }

    pub(super) fn plan(&self) -> Plan {
        plan(self.record.wanted(), &self.observed(), &self.record, self.now)
    }

    /// Plans and does one step, or passes the time until the plan wakes. False at rest.
    pub(super) fn tick(&mut self) -> bool {
        let plan = self.plan();
        match (plan.step, plan.wake_at) {
            (Some(step), _) => self.act(&step),
            (None, Some(at)) => self.now = at.max(self.now),
            (None, None) => return false,
        }
        true
    }

    /// Goes on until it rests; a guest that runs needs no more than 600 s to have run well.
    pub(super) fn until_rest(&mut self) -> &mut Self {
        for _ in 0..200 {
            if !self.tick() {
                return self;
            }
        }
        panic!("does not come to rest: {:#?}\n{:?}", self.steps, self.plan());
    }

    fn act(&mut self, step: &Step) {
        let boot_id = self.boot_id.clone();
        self.record.begin(step, &boot_id, self.now);
        self.steps.push(step.clone());
        if let Some((_, error)) = self.failing.as_ref().filter(|(act, _)| Some(*act) == step.act()) {
            self.record.failed(step, ReasonCode::Other, error, self.now);
            return;
        }
        let outcome = self.effect(step);
        self.record.done(step, outcome, &boot_id, self.now);
    }

    fn effect(&mut self, step: &Step) -> StepOutcome {
        match step {
            Step::Start(start) => {
                if self.process.is_some() {
                    self.broken = Some("a second process was started");
                }
                let wanted = self.desired.nics.iter().map(|nic| PluggedNic { port: nic.port, mac: nic.mac });
                self.nics = if start.restore { self.saved_nics.clone() } else { wanted.collect() };
                self.set(if start.paused { RunState::Paused } else { RunState::Running });
            }
            Step::Resume | Step::ResumeAfterIoError => {
                if self.record.saved.is_some() {
                    self.broken = Some("the guest ran while its saved memory was still to be used");
                }
                self.set(RunState::Running);
            }
            Step::Pause | Step::Save => {
                self.saved_nics = self.nics.clone();
                self.set(RunState::Paused);
            }
            Step::PowerButton { .. } if self.heeds => {
                self.set(RunState::GuestShutdown);
            }
            Step::Quit => {
                let exit = Exit { at: self.now, cause: ExitCause::Requested, detail: String::new() };
                self.set(RunState::Exited(exit));
            }
            Step::Clear | Step::TearDown => {
                if !matches!(self.state(), None | Some(RunState::Exited(_))) {
                    self.broken = Some("a living process was forgotten");
                }
                self.process = None;
            }
            Step::Resize { to } => {
                return StepOutcome::Resized(Resized { now: Some(*to), pending: vec![] });
            }
            Step::TakeOver { .. } => return StepOutcome::TookOver(Box::new(self.brings.clone().unwrap())),
            Step::AttachNic { .. } | Step::DetachNic { .. } if self.fixed.is_some() => {
                return StepOutcome::AtNextStart(self.fixed.unwrap().to_owned());
            }
            Step::AttachNic { nic } => {
                if self.nics.iter().any(|held| held.port == nic.port) {
                    self.broken = Some("a port was plugged in twice");
                }
                self.nics.push(PluggedNic { port: nic.port, mac: nic.mac });
            }
            Step::DetachNic { nic } => {
                if self.state() != Some(&RunState::Running) {
                    self.broken = Some("a halted guest was asked to let go of a NIC");
                }
                self.nics.retain(|held| held != nic);
            }
            _ => {}
        }
        StepOutcome::Done
    }
}
