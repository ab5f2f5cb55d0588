//! The effects of steps: the only place where a VM's task touches the host.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hull_types::{
    error::{Error, ErrorKind, Result},
    id::MigrationId,
    image::ImageContent,
    link::{DesiredNic, DesiredVm},
    reason::ReasonCode,
};

use tokio::time::sleep;

use super::{Report, Task, handover::Progress, metadata, records::SAVED_MEMORY};
use crate::{
    hypervisor::{DiskSpec, KernelSpec, NicSpec, Plugged, Vmm, VmmSpec},
    plan::{FETCHING, Start, Step, StepOutcome, record::Carried},
};

/// How often it is told how much of a VM has come.
const TELL_PROGRESS: Duration = Duration::from_secs(5);

/// Why a step failed.
pub(super) struct Failure {
    pub(super) code: ReasonCode,
    pub(super) error: Error,
}

fn failed(code: ReasonCode) -> impl FnOnce(Error) -> Failure {
    move |error| Failure { code, error }
}

/// Failures of disks, told apart by what a person would do about them.
fn of_disk(error: Error) -> Failure {
    let code = match error.kind {
        ErrorKind::InsufficientResources => ReasonCode::DiskFull,
        ErrorKind::NotFound | ErrorKind::Unavailable => ReasonCode::ImageUnavailable,
        _ => ReasonCode::PreparingDisk,
    };
    Failure { code, error }
}

fn of_handover(error: Error) -> Failure {
    let code = match error.kind {
        ErrorKind::InsufficientResources => ReasonCode::DiskFull,
        _ => ReasonCode::Migrating,
    };
    Failure { code, error }
}

fn of_hypervisor(error: Error) -> Failure {
    let code = match error.kind {
        ErrorKind::InsufficientResources => ReasonCode::OutOfMemory,
        ErrorKind::NotFound | ErrorKind::Unavailable => ReasonCode::HypervisorMissing,
        _ => ReasonCode::StartFailed,
    };
    Failure { code, error }
}

/// How long a step may take before it counts as failed.
pub(super) const fn limit(step: &Step) -> Duration {
    Duration::from_secs(match step {
        // Images are fetched over the network, memory is written to disk.
        Step::PrepareDisk { .. } | Step::FetchImages { .. } => 3600,
        // A migration has a deadline of its own.
        Step::TakeOver { .. } => 24 * 3600,
        Step::Save => 600,
        Step::Start(_) => 180,
        _ => 60,
    })
}

pub(super) fn too_long(step: &Step, limit: Duration) -> Failure {
    let what = match step {
        Step::PrepareDisk { .. } => "making its disk",
        Step::FetchImages { .. } => "fetching its images",
        Step::TakeOver { .. } => "fetching it from the other node",
        Step::Save => "saving its memory",
        Step::Start(_) => "starting its hypervisor",
        _ => "a change",
    };
    let error = Error::timeout(format!("{what} was not done within {} s", limit.as_secs()));
    Failure { code: ReasonCode::Other, error }
}

impl Task {
    #[tracing::instrument(name = "vm step", skip_all, fields(vm = %self.record.vm))]
    pub(super) async fn effect(&self, step: &Step) -> Result<StepOutcome, Failure> {
        let disks = &self.shared.drivers.disks;
        let vm = self.record.vm;
        match step {
            Step::PrepareDisk { generation, size } => {
                if let Some(image) = self.wanted()?.image.clone() {
                    Box::pin(disks.root(vm, *generation, &image, *size)).await.map_err(of_disk)?;
                }
            }
            Step::FetchImages { .. } => {
                for digest in self.wanted()?.images() {
                    self.shared.drivers.images.fetch(digest).await.map_err(failed(ReasonCode::ImageUnavailable))?;
                }
            }
            Step::TakeOver { migration } => {
                let carried = self.take_over(*migration).await.map_err(of_handover)?;
                return Ok(StepOutcome::TookOver(Box::new(carried)));
            }
            Step::RemoveOlderDisks => {
                let generation = self.record.disk.map_or(0, |disk| disk.generation);
                disks.remove_older(vm, generation).await.map_err(of_disk)?;
            }
            Step::GrowDisk { to } => {
                let generation = self.record.disk.map_or(0, |disk| disk.generation);
                disks.grow(vm, generation, *to).await.map_err(of_disk)?;
            }
            Step::RemoveRescueDisk => disks.remove_rescue(vm).await.map_err(of_disk)?,
            Step::Start(start) => {
                let vmm = Box::pin(self.start(start)).await?;
                self.live.send_replace(Some(vmm));
            }
            Step::TearDown => self.tear_down().await.map_err(failed(ReasonCode::Deleting))?,
            Step::Clear => {
                let dir = self.dir().await?;
                self.shared.drivers.hypervisor.clear(vm, &dir).await.map_err(failed(ReasonCode::Other))?;
                self.live.send_replace(None);
            }
            Step::Note(_) => {}
            _ => return self.on_process(step).await,
        }
        Ok(StepOutcome::Done)
    }

    async fn take_over(&self, migration: MigrationId) -> Result<Carried> {
        let none = || Error::unsupported("a VM comes from another node by the server only");
        let server = self.shared.server.as_ref().ok_or_else(none)?;
        let mut from = server.handover(migration).await?;
        let progress = Progress::default();
        let take = self.shared.drivers.handover.take(self.record.vm, &mut from, &progress);
        let told = async {
            loop {
                sleep(TELL_PROGRESS).await;
                let progress = Report::Progress { vm: self.record.vm, message: format!("{FETCHING}: {progress}") };
                // The node outlives its tasks unless it is shutting down, when nobody needs to know.
                let _ = self.shared.reports.send(progress);
            }
        };
        tokio::select! {
            taken = take => taken,
            never = told => never,
        }
    }

    /// Steps that ask something of the process.
    async fn on_process(&self, step: &Step) -> Result<StepOutcome, Failure> {
        let vmm = self.vmm().ok_or_else(|| Error::conflict("its process is gone")).map_err(of_hypervisor)?;
        let asked = match step {
            Step::Resume | Step::ResumeAfterIoError => vmm.resume().await,
            Step::Pause => vmm.pause().await,
            Step::PowerButton { .. } => vmm.power_button().await,
            Step::Reset => vmm.reset().await,
            Step::Quit => vmm.quit().await,
            Step::Save => {
                let file = self.saved().await?;
                return vmm.save(&file).await.map(|()| StepOutcome::Done).map_err(|error| Failure {
                    code: if error.kind == ErrorKind::InsufficientResources {
                        ReasonCode::DiskFull
                    } else {
                        ReasonCode::Suspending
                    },
                    error,
                });
            }
            Step::Resize { to } => {
                let resized = vmm.resize(*to).await.map_err(failed(ReasonCode::NeedsRestart))?;
                return Ok(StepOutcome::Resized(resized));
            }
            Step::AttachNic { nic } => {
                let nic = self.nic(nic).await?;
                return vmm.attach_nic(nic).await.map(outcome).map_err(failed(ReasonCode::NetworkFailed));
            }
            Step::DetachNic { nic } => {
                return vmm.detach_nic(nic.port).await.map(outcome).map_err(failed(ReasonCode::NeedsRestart));
            }
            Step::GrowDiskOnline { to } => {
                return vmm.grow_disk("root", *to).await.map(|()| StepOutcome::Done).map_err(of_disk);
            }
            _ => Ok(()),
        };
        asked.map(|()| StepOutcome::Done).map_err(failed(ReasonCode::Other))
    }

    fn wanted(&self) -> Result<&DesiredVm, Failure> {
        let none = || Error::conflict("it shall not be on this node");
        self.record.wanted().ok_or_else(none).map_err(failed(ReasonCode::Other))
    }

    async fn dir(&self) -> Result<PathBuf, Failure> {
        self.shared.drivers.records.dir(self.record.vm).await.map_err(failed(ReasonCode::Other))
    }

    async fn saved(&self) -> Result<PathBuf, Failure> {
        Ok(self.dir().await?.join(SAVED_MEMORY))
    }

    pub(super) async fn remove_saved(&self) {
        // It is of no use to anyone and costs space only; it goes with the VM at the latest.
        if let Err(error) = self.shared.drivers.records.remove_saved(self.record.vm).await {
            tracing::warn!(vm = %self.record.vm, %error, "saved memory could not be removed");
        }
    }

    async fn tear_down(&self) -> Result<()> {
        let vm = self.record.vm;
        self.shared.drivers.networks.forget_metadata(vm).await?;
        self.shared.drivers.disks.remove(vm).await?;
        self.shared.drivers.records.remove(vm).await
    }

    async fn start(&self, start: &Start) -> Result<Arc<dyn Vmm>, Failure> {
        let desired = self.wanted()?;
        let vm = &desired.vm;
        let nics = self.nics(desired).await?;
        let disks = self.disks(desired, start).await?;
        let kernel = self.kernel(desired).await?;
        let spec = VmmSpec {
            vm: vm.id,
            dir: self.dir().await?,
            name: vm.meta.name.to_string(),
            profile: vm.profile,
            firmware: vm.boot.firmware,
            secure_boot: vm.boot.secure_boot,
            tpm: vm.boot.tpm,
            resources: start.resources,
            disks,
            kernel,
            nics,
            restore: if start.restore { Some(self.saved().await?) } else { None },
            paused: start.paused,
        };
        self.shared.drivers.hypervisor.start(spec).await.map_err(of_hypervisor)
    }

    async fn nics(&self, desired: &DesiredVm) -> Result<Vec<NicSpec>, Failure> {
        let mut nics = Vec::with_capacity(desired.nics.len());
        for nic in &desired.nics {
            nics.push(self.nic(nic).await?);
        }
        Ok(nics)
    }

    async fn nic(&self, nic: &DesiredNic) -> Result<NicSpec, Failure> {
        let network = self.shared.networks.ready(nic.network).await.map_err(failed(ReasonCode::NetworkFailed))?;
        let tap = self.shared.drivers.networks.tap(nic.network, nic.port).await;
        let tap = tap.map_err(failed(ReasonCode::NetworkFailed))?;
        Ok(NicSpec { port: nic.port, mac: nic.mac, mtu: network.mtu, tap })
    }

    async fn disks(&self, desired: &DesiredVm, start: &Start) -> Result<Vec<DiskSpec>, Failure> {
        let driver = &self.shared.drivers.disks;
        let mut disks = Vec::new();
        if start.rescue.is_some() {
            let image = desired.rescue_image.as_ref().ok_or_else(no_rescue_image).map_err(of_disk)?;
            let rescue = driver.rescue(self.record.vm, image).await.map_err(of_disk)?;
            disks.push(DiskSpec { boot_index: Some(0), ..rescue });
        }
        if let Some(image) = &desired.image {
            let root = self.root(desired, image).await?;
            let boot_index = u8::from(start.rescue.is_some());
            disks.push(DiskSpec { boot_index: Some(boot_index), ..root });
            let macs: Vec<_> = desired.nics.iter().map(|nic| nic.mac).collect();
            let seed = driver.seed(&metadata(desired, &self.shared.zone), &macs).await.map_err(of_disk)?;
            disks.push(seed);
        }
        Ok(disks)
    }

    async fn root(&self, desired: &DesiredVm, image: &ImageContent) -> Result<DiskSpec, Failure> {
        let size = self.record.disk.map_or(desired.vm.resources.disk, |disk| disk.size);
        let generation = desired.vm.disk_generation;
        Box::pin(self.shared.drivers.disks.root(self.record.vm, generation, image, size)).await.map_err(of_disk)
    }

    async fn kernel(&self, desired: &DesiredVm) -> Result<Option<KernelSpec>, Failure> {
        let Some(boot) = &desired.vm.boot.kernel else { return Ok(None) };
        let images = &self.shared.drivers.images;
        let kernel = images.fetch(boot.kernel).await.map_err(failed(ReasonCode::ImageUnavailable))?;
        let initrd = match boot.initrd {
            Some(digest) => Some(images.fetch(digest).await.map_err(failed(ReasonCode::ImageUnavailable))?),
            None => None,
        };
        Ok(Some(KernelSpec { kernel, initrd, cmdline: boot.cmdline.clone() }))
    }
}

fn outcome(plugged: Plugged) -> StepOutcome {
    match plugged {
        Plugged::Now => StepOutcome::Done,
        Plugged::AtNextStart(why) => StepOutcome::AtNextStart(why),
    }
}

fn no_rescue_image() -> Error {
    Error::not_found("the rescue image is not known here; ask for rescue again with an image that is ready")
}
