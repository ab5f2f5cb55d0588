//! A VM goes to another node and back: for how long its guest is halted, and how fast its disk is copied, against `cp`.
//!
//! Both nodes are on this machine, so no wire is measured: what counts is the saving, the way through the server (two TLS
//! streams joined), the checking and writing, and the restoring.
//!
//! ```text
//!   running:  halted ── saved, ended, copied ──► moved ── restored ──► running         downtime: all of it
//!   off:                       copying ────────► moved
//! ```

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use hull_node::vm::records::SAVED_MEMORY;
use hull_testkit::TinyGuest;
use hull_types::{
    Timestamp,
    id::VmId,
    migration::{Migration, MigrationPhase},
    units::Bytes,
    wire::{MigrationCreate, VmView},
};

use crate::{
    Effort, boot,
    cloud::{Cloud, Daemon},
    guests, import,
    table::{Row, Samples, number},
};

/// A migration, and what a node does with a VM, where every core is taken.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where nothing of the image lies: its 62 MiB end before.
const BEYOND_IMAGE_MIB: usize = 64;

/// So much is written by one request.
const AT_ONCE_MIB: usize = 64;

pub(crate) async fn rows(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let guest = TinyGuest::get()?;
    let cloud = Cloud::start().await?.with_guests();
    cloud.ready().await?;
    let second = cloud.join().await?;
    let pair = Pair { cloud, second };
    guests::upload_tiny(&pair.cloud, &guest).await?;
    let mut rows = Vec::new();
    for (memory, budget) in [(Bytes::mib(256), "≤ 100 ms (1 GiB guest)"), (Bytes::gib(1), "≤ 100 ms")] {
        rows.push(pair.downtime(memory, budget, effort).await?);
    }
    rows.push(pair.copying(effort).await?);
    Ok(rows)
}

/// A cloud of two nodes.
struct Pair {
    // First, so that VMs go by the server's word while both their nodes run.
    cloud: Cloud,
    second: Daemon,
}

/// How a migration went.
struct Moved {
    migration: Migration,
    /// When its disk and memory began to be copied, as a watcher saw it.
    copying: Option<Timestamp>,
    /// Bytes of saved memory, where it has any.
    saved: u64,
}

impl Moved {
    /// Milliseconds of a downtime's parts: saved and ended, copied, restored and running.
    fn parts(&self) -> anyhow::Result<[f64; 3]> {
        let Migration { halted_at, moved_at, ended_at, .. } = self.migration;
        let [halted, copying, moved, ended] = [halted_at, self.copying, moved_at, ended_at]
            .map(|at| at.context("a VM that ran tells when it was halted, copied, moved and running"));
        let (copying, moved) = (copying?, moved?);
        Ok([milliseconds(halted?, copying), milliseconds(copying, moved), milliseconds(moved, ended?)])
    }
}

impl Pair {
    /// An idle guest goes back and forth.
    async fn downtime(&self, memory: Bytes, budget: &str, effort: Effort) -> anyhow::Result<Row> {
        let name = format!("idle-{}", memory.0 >> 20);
        boot::running(&self.cloud, &guests::micro_of(&name, memory)?).await?;
        boot::booted(&self.cloud, &name).await?;
        let (mut downtime, mut saved, mut parts) = (Samples::default(), Samples::default(), <[Samples; 3]>::default());
        // The first fetches images.
        for run in 0..=effort.runs(8, 2) {
            let moved = self.migrate(&name).await?;
            if run > 0 {
                let took = moved.migration.downtime_ms.context("a VM that ran tells its downtime")?;
                downtime.push(took as f64);
                saved.push(moved.saved as f64 / f64::from(1 << 20));
                parts.iter_mut().zip(moved.parts()?).for_each(|(all, part)| all.push(part));
            }
        }
        self.delete(&name).await?;
        let [ended, copied, restored] = parts.map(|part| number(part.median()));
        let (downtime, saved) = (downtime.spread("ms"), number(saved.median()));
        let told = format!("{saved} MiB saved in {ended}, copied in {copied}, restored and running in {restored} ms");
        Ok(Row::new(format!("migration downtime, idle micro of {memory}, TCG"), budget, format!("{downtime}: {told}")))
    }

    /// A VM that is off, with data of its own, goes back and forth.
    async fn copying(&self, effort: Effort) -> anyhow::Result<Row> {
        let mib = if effort.quick { 256 } else { 1024 };
        let name = "full";
        self.cloud.client.vms().create(&guests::off(name, Bytes::gib(2))?).await?;
        let view = self.settled(name).await?.context("a VM that was just made is there")?;
        write(&self.disk(view.vm.id).await?, mib)?;
        let (mut speed, mut whole, mut copied) = <(Samples, Samples, Samples)>::default();
        for run in 0..=effort.runs(5, 2) {
            let Moved { migration, copying, .. } = self.migrate(name).await?;
            let moved = migration.moved_at.context("a VM that went tells when")?;
            let disk = self.disk(view.vm.id).await?;
            let took = import::copy(&disk, &disk.with_file_name("copy"))?;
            // The first fetches the image, and leaves behind a file that qemu-io wrote.
            if run > 0 {
                let began = copying.context("the copying was not seen")?;
                speed.push(import::speed(mib, Duration::from_secs_f64(milliseconds(began, moved) / 1000.0)));
                whole.push(milliseconds(migration.began_at, migration.ended_at.unwrap_or(moved)) / 1000.0);
                copied.push(import::speed(mib, took));
            }
        }
        self.delete(name).await?;
        let peer = speed.ratio(&copied, "the speed of cp --sparse=never; sync", "MiB/s");
        let measured = format!("{}; all of it {} s", speed.spread("MiB/s"), number(whole.median()));
        Ok(Row::new(format!("migration, VM off, {mib} MiB of data: copying"), "", measured).against(peer))
    }

    /// To the other node.
    async fn migrate(&self, vm: &str) -> anyhow::Result<Moved> {
        let migrations = self.cloud.client.migrations();
        let begun = migrations.begin(&MigrationCreate { vm: vm.to_owned(), node: None }).await?;
        let (id, mut copying, mut saved) = (begun.id.to_string(), None, 0);
        let over = migrations.until(&id, |migration| {
            if migration.phase == MigrationPhase::Copying {
                copying.get_or_insert_with(Timestamp::now);
                saved = self.saved(migration.vm).max(saved);
            }
            false
        });
        let migration = tokio::time::timeout(PATIENCE, over).await.context("a migration's end")??;
        let why = migration.reason.as_ref().map(|reason| reason.message.as_str()).unwrap_or_default();
        ensure!(migration.phase == MigrationPhase::Done, "{vm} did not go: {:?}: {why}", migration.phase);
        Ok(Moved { migration, copying, saved })
    }

    /// The size of a VM's saved memory; on the node it goes to that grows yet.
    fn saved(&self, vm: VmId) -> u64 {
        let files = self.dirs("vms", vm).map(|dir| std::fs::metadata(dir.join(SAVED_MEMORY)));
        files.into_iter().flatten().map(|file| file.len()).max().unwrap_or(0)
    }

    /// A VM's directories of a kind, on both nodes.
    fn dirs(&self, kind: &str, vm: VmId) -> [PathBuf; 2] {
        [self.cloud.data(), self.second.data()].map(|data| data.join("node").join(kind).join(vm.to_string()))
    }

    /// The root disk of a VM, once it is on one node only.
    async fn disk(&self, vm: VmId) -> anyhow::Result<PathBuf> {
        let dirs = self.dirs("disks", vm);
        let end = Instant::now() + PATIENCE;
        loop {
            let files = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
            let disks: Vec<PathBuf> = files
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("root-")))
                .collect();
            if let [disk] = &disks[..] {
                return Ok(disk.clone());
            }
            if Instant::now() > end {
                bail!("a VM has one disk on one node, not {disks:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn settled(&self, vm: &str) -> anyhow::Result<Option<VmView>> {
        let vms = self.cloud.client.vms();
        Ok(tokio::time::timeout(PATIENCE, vms.settle(vm, |_| {})).await.with_context(|| format!("{vm} at rest"))??)
    }

    async fn delete(&self, vm: &str) -> anyhow::Result<()> {
        self.cloud.client.vms().delete(vm).await?;
        self.settled(vm).await.map(drop)
    }
}

fn milliseconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() * 1000.0
}

/// Data for a disk whose VM is off, written as a guest's would be. What an overlay says of its image is not looked at.
fn write(disk: &Path, mib: usize) -> anyhow::Result<()> {
    let driver = disk.extension().context("a disk has its format's ending")?.to_string_lossy().into_owned();
    let mut opened = serde_json::json!({ "driver": driver, "file": { "driver": "file", "filename": disk } });
    if driver == "qcow2" {
        opened["backing"] = serde_json::Value::Null;
    }
    let mut write = Command::new("qemu-io");
    for at in (0..mib).step_by(AT_ONCE_MIB) {
        let (at, pattern) = (BEYOND_IMAGE_MIB + at, 1 + at / AT_ONCE_MIB);
        write.arg("-c").arg(format!("write -q -P {pattern} {at}M {AT_ONCE_MIB}M"));
    }
    let output = write.args(["-c", "flush"]).arg(format!("json:{opened}")).stdin(Stdio::null()).output();
    let output = output.context("qemu-io (package qemu-utils) cannot be run")?;
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    ensure!(output.status.success() && told.trim().is_empty(), "qemu-io: {}", told.trim());
    Ok(())
}
