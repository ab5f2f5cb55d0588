//! From the call to a running hypervisor, against libvirt and against QEMU started by hand; and what a VM costs beyond its memory.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use hull_testkit::TinyGuest;
use hull_types::{
    vm::VmState,
    wire::{VmCreate, VmView, WatchEvent},
};

use crate::{
    Effort,
    cloud::Cloud,
    guests::{self, MEMORY},
    libvirt::Libvirt,
    memory::Memory,
    qemu,
    table::{Row, Samples, number},
};

/// A tiny guest's boot where every core is taken.
const PATIENCE: Duration = Duration::from_secs(120);

/// A machine profile and what it costs.
#[derive(Default)]
struct Cost {
    running: Samples,
    bare: Samples,
    resident: Samples,
    private: Samples,
    program: Samples,
    translated: Samples,
    own: Samples,
}

pub(crate) async fn rows(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let guest = TinyGuest::get()?;
    let disk = guest.disk("")?;
    let cloud = Cloud::start().await?.with_guests();
    cloud.ready().await?;
    guests::upload_tiny(&cloud, &guest).await?;
    let libvirt = Libvirt::start(&disk);
    let scratch = hull_testkit::short_dir()?;
    let (mut pc, mut micro, mut virsh) = (Cost::default(), Cost::default(), Samples::default());
    let mut virsh_micro = Ok(Samples::default());
    // The first of each warms caches; libvirt's first start learns what its QEMU can do.
    for run in 0..=effort.runs(7, 3) {
        let (mut pc_run, mut micro_run) = (Cost::default(), Cost::default());
        one(&cloud, &guests::pc(&format!("pc{run}"))?, &mut pc_run).await?;
        pc_run.bare.took(qemu::pc(scratch.path(), &disk)?);
        let peer = libvirt.as_ref().map(|libvirt| libvirt.define_and_start(run));
        one(&cloud, &guests::micro(&format!("micro{run}"))?, &mut micro_run).await?;
        micro_run.bare.took(qemu::micro(scratch.path(), &guest)?);
        let micro_peer = libvirt.as_ref().map(|libvirt| libvirt.define_and_start_micro(run, &guest));
        if run > 0 {
            pc.add(pc_run);
            micro.add(micro_run);
            if let Ok(peer) = peer {
                virsh.took(peer?);
            }
            // Another libvirt may refuse the machine, and the table says so.
            match (micro_peer, &mut virsh_micro) {
                (Ok(Ok(took)), Ok(samples)) => samples.took(took),
                (Ok(Err(error)), outcome) => *outcome = Err(error),
                (Err(_), _) | (Ok(Ok(_)), Err(_)) => {}
            }
        }
    }
    let against_virsh = match &libvirt {
        Ok(_) => pc.running.ratio(&virsh, "virsh define+start", "ms"),
        Err(error) => format!("libvirt does not run here: {error:#}"),
    };
    let micro_against_virsh = match (&libvirt, &virsh_micro) {
        (Ok(_), Ok(samples)) => micro.running.ratio(samples, "virsh define+start of a microvm", "ms"),
        (Ok(_), Err(error)) => format!("libvirt does not start a microvm: {error:#}"),
        (Err(error), _) => format!("libvirt does not run here: {error:#}"),
    };
    let bare = |cost: &Cost| cost.running.ratio(&cost.bare, "bare QEMU exec → QMP", "ms");
    let beyond = |cost: &Cost| {
        let [private, program, translated, own] =
            [&cost.private, &cost.program, &cost.translated, &cost.own].map(|part| number(part.median()));
        format!(
            "{}: {own} of its own + {program} program and libraries (on the host once for all VMs) + {translated} TCG's \
             translated code (none under KVM); private in all {private}",
            cost.resident.spread("MiB")
        )
    };
    Ok(vec![
        Row::new("create → QEMU running, pc, cached image, TCG", "≤ 250 ms", pc.running.spread("ms"))
            .against(format!("{against_virsh}; {}", bare(&pc))),
        Row::new("create → QEMU running, micro, TCG", "≤ 250 ms", micro.running.spread("ms"))
            .against(format!("{micro_against_virsh}; {}", bare(&micro))),
        Row::new("QEMU beyond guest memory, pc, TCG, booted", "≤ 70 MiB resident", beyond(&pc)),
        Row::new("QEMU beyond guest memory, micro, TCG, booted", "≤ 40 MiB resident", beyond(&micro)),
    ])
}

impl Cost {
    fn add(&mut self, run: Self) {
        self.running.extend(run.running);
        self.bare.extend(run.bare);
        self.resident.extend(run.resident);
        self.private.extend(run.private);
        self.program.extend(run.program);
        self.translated.extend(run.translated);
        self.own.extend(run.own);
    }
}

/// Creates, waits until it runs, until it has booted, weighs it, deletes it.
async fn one(cloud: &Cloud, body: &VmCreate, cost: &mut Cost) -> anyhow::Result<()> {
    let name = body.name.as_str();
    let (view, took) = running(cloud, body).await?;
    cost.running.took(took);
    let pid = view.status.and_then(|status| status.vmm).context("a running VM has a process")?.pid;
    booted(cloud, name).await?;
    let memory = Memory::beside_guest(pid, MEMORY.0 >> 10)?;
    cost.resident.push(memory.resident_mib());
    cost.private.push(memory.private_mib());
    cost.program.push(memory.program_mib());
    cost.translated.push(memory.translated_mib());
    cost.own.push(memory.resident_mib() - memory.program_mib() - memory.translated_mib());
    cloud.client.vms().delete(name).await?;
    tokio::time::timeout(PATIENCE, cloud.client.vms().settle(name, |_| {})).await.context("a VM's deletion")??;
    Ok(())
}

/// Creates a VM; the first view that says it runs, and the time from the call to it.
pub(crate) async fn running(cloud: &Cloud, body: &VmCreate) -> anyhow::Result<(VmView, Duration)> {
    let mut changes = cloud.client.watch::<VmView>("v1/vms", &[], None).await?;
    let begin = Instant::now();
    cloud.client.vms().create(body).await?;
    let found = tokio::time::timeout(PATIENCE, async {
        while let Some(change) = changes.next().await {
            if let WatchEvent::Put { object, .. } = change?
                && object.vm.meta.name == body.name
            {
                match object.state {
                    VmState::Running => return Ok(object),
                    VmState::Failed => bail!("{} failed: {:?}", body.name, object.reason),
                    _ => {}
                }
            }
        }
        bail!("the watch ended")
    });
    let view = found.await.with_context(|| format!("{} does not run within {} s", body.name, PATIENCE.as_secs()))??;
    Ok((view, begin.elapsed()))
}

/// Waits until the tiny guest's user space is up.
pub(crate) async fn booted(cloud: &Cloud, name: &str) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let log = cloud.client.vms().console_log(name, 65_536).await?;
        let text = String::from_utf8_lossy(&log);
        if text.contains(hull_testkit::guest::READY) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{name} has not booted within {} s; its console: {text}", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
