//! What may happen next: a user's call, a fault, its mending, or nothing for a while.

use std::{sync::Arc, time::Duration};

use hull_node::hypervisor::RunState;
use hull_store::{Store, StoreError, Txn, memory::Fault};
use hull_types::{
    error::{Error, ErrorKind, Result},
    flavor::Resources,
    image::{ImageContent, ImageKind, Visibility},
    name::Name,
    units::Bytes,
    vm::{Exit, ExitCause, RebootKind, RestartPolicy},
    wire::{ImageCreate, NicRequest, VmAction, VmCreate, VmUpdate},
};

use crate::{
    cloud::{Cloud, ctx},
    founding,
    link::Cable,
};

/// How long a call may take while the server is up.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What most steps are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    /// All there is.
    Everything,
    /// VMs that go from node to node.
    Migrations,
}

impl Cloud {
    /// Does one thing by chance, then lets some time pass.
    pub async fn step(&mut self, focus: Focus) {
        match focus {
            Focus::Everything => self.anything().await,
            Focus::Migrations => self.mostly_migrations().await,
        }
        let still = Duration::from_millis(match self.fate.below(10) {
            0..5 => self.fate.below(500),
            5..9 => self.fate.below(20_000),
            _ => self.fate.below(400_000),
        } as u64);
        self.pass(still).await;
    }

    async fn anything(&mut self) {
        match self.fate.below(100) {
            0..20 => self.create().await,
            20..38 => self.act().await,
            38..50 => self.networking().await,
            50..60 => self.delete().await,
            60..62 => self.rename().await,
            62..66 => self.image().await,
            66..75 => self.migrating().await,
            75..90 => self.fault().await,
            _ => self.mend().await,
        }
    }

    /// So that most that are asked for can begin.
    async fn mostly_migrations(&mut self) {
        match self.fate.below(100) {
            0..14 => self.create().await,
            14..25 => self.act().await,
            25..30 => self.networking().await,
            30..33 => self.delete().await,
            33..70 => self.migrating().await,
            70..78 => self.fault().await,
            _ => self.mend().await,
        }
    }

    /// A call's outcome: refusals are fine, defects and silence are not.
    pub(crate) fn judge<T>(
        &mut self,
        what: &str,
        outcome: std::result::Result<Result<T>, tokio::time::error::Elapsed>,
    ) -> Option<T> {
        match outcome {
            Ok(Ok(done)) => {
                self.note(format!("{what}: done"));
                Some(done)
            }
            Ok(Err(Error { kind: ErrorKind::Internal, detail, .. })) if !detail.contains("simulated") => {
                self.truth.broken.push(format!("{what}: {detail}"));
                None
            }
            Ok(Err(refused)) => {
                self.note(format!("{what}: {refused}"));
                None
            }
            Err(_) => {
                self.truth.broken.push(format!("{what}: no answer in {} s", ANSWER_WITHIN.as_secs()));
                None
            }
        }
    }

    /// The id of some VM, as text.
    fn some_vm(&self) -> Option<String> {
        let ids: Vec<_> = self.truth.vms.keys().collect();
        self.fate.one_of(&ids).map(ToString::to_string)
    }

    async fn create(&mut self) {
        let Some(app) = self.app().cloned() else { return };
        let fate = self.fate.clone();
        let policies = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never];
        let images: Vec<_> = self.truth.images.values().map(|image| image.id.to_string()).collect();
        let request = VmCreate {
            name: self.name("vm", 12),
            description: String::new(),
            metadata: Default::default(),
            count: if fate.chance(70) { 1 } else { 1 + u32::try_from(fate.below(4)).unwrap_or(0) },
            image: fate.one_of(&images).cloned(),
            kernel: None,
            flavor: None,
            resources: Some(Resources {
                vcpus: 1 + u16::try_from(fate.below(4)).unwrap_or(0),
                memory: Bytes::gib(1 + fate.below(80) as u64),
                disk: Bytes::ZERO,
            }),
            profile: Default::default(),
            firmware: Default::default(),
            secure_boot: false,
            tpm: false,
            keypairs: vec![],
            ssh_keys: vec![],
            user_data: None,
            nics: match fate.below(10) {
                0 | 1 => Some(Vec::new()),
                2 | 3 => {
                    let network = Some(format!("net{}", fate.below(3)));
                    Some(vec![NicRequest::default(), NicRequest { network, ..NicRequest::default() }])
                }
                4 => Some(vec![NicRequest { port: Some(format!("port{}", fate.below(3))), ..NicRequest::default() }]),
                _ => None,
            },
            restart: policies[fate.below(3)],
            start: fate.chance(85),
        };
        let what = format!("create {} x{}", request.name, request.count);
        let made = tokio::time::timeout(ANSWER_WITHIN, app.create_vms(&ctx(), &request)).await;
        self.judge(&what, made);
    }

    fn name(&self, stem: &str, many: usize) -> Name {
        let text = format!("{stem}{}", self.fate.below(many));
        Name::new(&text).expect("letters and a number are a name")
    }

    fn some_action(&self) -> VmAction {
        let fate = &self.fate;
        let grace_seconds = [None, Some(0), Some(5), Some(300)][fate.below(4)];
        match fate.below(16) {
            0 | 1 => VmAction::Start,
            2 | 3 => VmAction::Stop { grace_seconds },
            4 => VmAction::Reboot { kind: RebootKind::Soft },
            5 => VmAction::Reboot { kind: RebootKind::Hard },
            6 => VmAction::Pause,
            7 => VmAction::Resume,
            8 | 9 => VmAction::Suspend,
            10 | 11 => VmAction::Resize {
                flavor: None,
                vcpus: Some(1 + u16::try_from(fate.below(6)).unwrap_or(0)),
                memory: fate.chance(50).then(|| Bytes::gib(1 + fate.below(80) as u64)),
                disk: fate.chance(50).then(|| Bytes::gib(2 + fate.below(40) as u64)),
            },
            12 => VmAction::Rebuild { image: None },
            13 => VmAction::Rescue { image: None },
            14 => VmAction::Unrescue,
            _ if fate.chance(50) => VmAction::Lock,
            _ => VmAction::Unlock,
        }
    }

    async fn act(&mut self) {
        let Some(vm) = self.some_vm() else { return };
        self.act_on(&vm).await;
    }

    pub(crate) async fn act_on(&mut self, vm: &str) {
        let Some(app) = self.app().cloned() else { return };
        let action = self.some_action();
        let done = tokio::time::timeout(ANSWER_WITHIN, app.act_on_vm(&ctx(), vm, &action)).await;
        let rescued = matches!(action, VmAction::Rescue { .. }) && matches!(done, Ok(Ok(_)));
        self.judge(&format!("{action:?} {vm}"), done);
        // Two acts on the same VM follow each other too seldom by chance.
        if rescued && self.fate.chance(50) {
            let done = tokio::time::timeout(ANSWER_WITHIN, app.act_on_vm(&ctx(), vm, &VmAction::Unrescue)).await;
            self.judge(&format!("Unrescue {vm}"), done);
        }
    }

    async fn delete(&mut self) {
        let (Some(app), Some(vm)) = (self.app().cloned(), self.some_vm()) else { return };
        let done = tokio::time::timeout(ANSWER_WITHIN, app.delete_vm(&ctx(), &vm)).await;
        self.judge(&format!("delete {vm}"), done);
    }

    async fn rename(&mut self) {
        let (Some(app), Some(vm)) = (self.app().cloned(), self.some_vm()) else { return };
        let wanted = VmUpdate { name: Some(self.name("vm", 12)), ..VmUpdate::default() };
        let done = tokio::time::timeout(ANSWER_WITHIN, app.update_vm(&ctx(), &vm, &wanted)).await;
        self.judge(&format!("rename {vm}"), done);
    }

    /// Makes an image, or asks for the deletion of one that may be in use.
    async fn image(&mut self) {
        let Some(app) = self.app().cloned() else { return };
        if self.fate.chance(50) {
            let name = self.name("image", 4);
            let made = tokio::time::timeout(ANSWER_WITHIN, make_image(&app, self.store.clone(), name)).await;
            self.judge("make an image", made);
        } else {
            let ids: Vec<_> = self.truth.images.keys().map(ToString::to_string).collect();
            let Some(image) = self.fate.one_of(&ids) else { return };
            let done = tokio::time::timeout(ANSWER_WITHIN, app.delete_image(&ctx(), image)).await;
            self.judge(&format!("delete image {image}"), done);
        }
    }

    async fn fault(&mut self) {
        let number = self.fate.below(self.nodes.len());
        let kind = self.fate.below(17);
        self.note(format!("fault {kind} on node {number}"));
        match kind {
            0 => self.kill_node(number),
            1 => {
                self.reboot_host(number);
                if self.fate.chance(70) {
                    self.start_node(number).await;
                }
            }
            2 | 3 => self.kill_server(),
            4 => _ = self.nodes[number].cable.send_replace(Cable::Cut),
            5 => _ = self.nodes[number].cable.send_replace(Cable::Silent),
            6 => self.nodes[number].host.set_faults(|faults| faults.disk_full = true),
            7 => self.nodes[number].host.set_faults(|faults| faults.starts_fail = 3),
            8 => self.nodes[number].host.set_faults(|faults| faults.networks_fail = 3),
            9 => self.store.fail_next(Fault::Before(StoreError::Engine("simulated".into()))),
            10 => self.store.fail_next(Fault::After(StoreError::Engine("simulated".into()))),
            11 => self.store.cut_watches(),
            _ => self.machine_fault(number),
        }
    }

    /// Something befalls a living machine.
    pub(crate) fn machine_fault(&mut self, number: usize) {
        let at = self.clock.now();
        let alive = self.nodes[number].host.alive();
        let Some(machine) = self.fate.one_of(&alive).cloned() else { return };
        let kind = self.fate.below(5);
        self.note(format!("machine fault {kind} to {}", machine.vm));
        match kind {
            0 | 1 => machine.exit(Exit { at, cause: ExitCause::Died, detail: "killed by signal 9".to_owned() }),
            2 => _ = machine.change(&[RunState::Running, RunState::Paused], RunState::Hung),
            3 => _ = machine.change(&[RunState::Running], RunState::GuestShutdown),
            _ => _ = machine.change(&[RunState::Running], RunState::GuestPanicked),
        }
    }

    /// Something that is broken works again.
    async fn mend(&mut self) {
        let number = self.fate.below(self.nodes.len());
        match self.fate.below(4) {
            0 => self.start_server().await,
            1 => self.start_node(number).await,
            2 => _ = self.nodes[number].cable.send_replace(Cable::Whole),
            _ => self.nodes[number].host.set_faults(|faults| *faults = Default::default()),
        }
    }

    /// Everything works again.
    pub async fn mend_all(&mut self) {
        self.note("all is mended");
        // Faults of the store that no transaction has met yet would be met after this.
        while self.store.txn(Txn::new()).await.is_err() {}
        self.start_server().await;
        for number in 0..self.nodes.len() {
            self.nodes[number].cable.send_replace(Cable::Whole);
            self.nodes[number].host.set_faults(|faults| *faults = Default::default());
            self.start_node(number).await;
        }
    }
}

/// An image that is ready, without bytes: hosts in memory need none.
pub async fn make_image(app: &hull_server::app::App, store: Arc<dyn Store>, name: Name) -> Result<()> {
    let request = ImageCreate {
        name,
        description: String::new(),
        metadata: Default::default(),
        kind: ImageKind::Disk,
        format: None,
        checksum: None,
        source_url: None,
        visibility: Visibility::Public,
        min_disk: Bytes::ZERO,
        min_memory: Bytes::ZERO,
        direct_boot: None,
    };
    let made = app.create_image(&ctx(), &request).await?;
    let id = made.object.id;
    let mut digest = [0; 32];
    digest[..16].copy_from_slice(id.0.as_bytes());
    let digest = hull_types::digest::Digest(digest);
    let content = ImageContent {
        digest,
        format: hull_types::image::ImageFormat::Qcow2,
        size: Bytes::mib(200),
        virtual_size: Bytes::gib(2),
        source_digest: digest,
    };
    founding::fill_image(app, store, id, content).await
}
