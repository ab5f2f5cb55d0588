//! Processes: started, found again, ended.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use hull_node::hypervisor::{
    ByteStream, Hypervisor, HypervisorFacts, NicSpec, Plugged, PluggedNic, Resized, RunState, Vmm, VmmSpec,
};
use hull_types::{
    error::{Error, Result},
    flavor::Resources,
    id::{PortId, VmId},
    link::ExecResult,
    units::Bytes,
    vm::{Accel, Exit, ExitCause, Vmm as VmmInfo},
};
use tokio::sync::watch;

use super::{Doors, Machine, Saved};

#[async_trait]
impl Hypervisor for Doors {
    async fn facts(&self) -> Result<HypervisorFacts> {
        self.takes(Duration::from_secs(1)).await;
        Ok(HypervisorFacts { version: "7.2.0-sim".to_owned(), accel: Accel::Tcg, fallback: None, unfenced: Vec::new() })
    }

    async fn console_log(&self, _dir: &Path, _tail: usize) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    async fn start(&self, spec: VmmSpec) -> Result<Arc<dyn Vmm>> {
        self.takes(Duration::from_secs(3)).await;
        self.may_start(&spec)?;
        let info = VmmInfo { pid: self.pid(), started_at: self.host.clock.now(), accel: Accel::Tcg };
        let machine = Machine::new(&spec, info, self.nics_of(&spec));
        if let Some(other) = self.host.guests.starts(&self.host.name, &machine) {
            self.host.broke(&format!("{} was started while it lives on {other}", spec.vm));
        }
        if machine.now() == RunState::Running {
            self.ran(spec.vm);
        }
        self.host.lock().machines.insert(spec.vm, machine.clone());
        // Even where the runtime dies before it hears of it, the process is there.
        self.takes(Duration::from_secs(1)).await;
        Ok(Arc::new(Handle { doors: self.clone(), machine }))
    }

    async fn adopt(&self, vm: VmId, _dir: &Path) -> Result<Option<Arc<dyn Vmm>>> {
        self.takes(Duration::from_millis(200)).await;
        let found = self.host.lock().machines.get(&vm).cloned();
        Ok(found.map(|machine| Arc::new(Handle { doors: self.clone(), machine }) as Arc<dyn Vmm>))
    }

    async fn clear(&self, vm: VmId, _dir: &Path) -> Result<()> {
        self.takes(Duration::from_millis(200)).await;
        let living = self.host.lock().machines.get(&vm).is_some_and(|machine| machine.is_alive());
        if living {
            self.host.broke(&format!("a living hypervisor of {vm} was forgotten"));
        }
        self.host.lock().machines.remove(&vm);
        Ok(())
    }
}

impl Doors {
    fn pid(&self) -> u32 {
        let mut inner = self.host.lock();
        inner.pids += 1;
        1000 + inner.pids
    }

    /// A restored machine has the NICs it was saved with, whatever is wanted now.
    fn nics_of(&self, spec: &VmmSpec) -> Vec<PluggedNic> {
        let inner = self.host.lock();
        let saved = spec.restore.as_ref().and_then(|file| inner.saved.get(file));
        let given = spec.nics.iter().map(|nic| PluggedNic { port: nic.port, mac: nic.mac });
        saved.map_or_else(|| given.collect(), |saved| saved.nics.clone())
    }

    fn ran(&self, vm: VmId) {
        let before = {
            let mut inner = self.host.lock();
            let runs = &mut inner.disks.entry(vm).or_default().runs;
            *runs += 1;
            *runs - 1
        };
        if let Some(newest) = self.host.guests.runs(vm, before) {
            self.host.broke(&format!("{vm} runs on a disk that has seen {before} runs, the newest has seen {newest}"));
        }
    }

    fn may_start(&self, spec: &VmmSpec) -> Result<()> {
        let vm = spec.vm;
        let (fails, second, missing, torn, moved_on) = {
            let mut inner = self.host.lock();
            let fails = inner.faults.starts_fail > 0;
            inner.faults.starts_fail = inner.faults.starts_fail.saturating_sub(1);
            let second = inner.machines.get(&vm).is_some_and(|machine| machine.is_alive());
            let disks = inner.disks.get(&vm);
            let has_root = disks.is_some_and(|disks| !disks.roots.is_empty());
            let torn = disks.is_some_and(|disks| disks.torn);
            let missing = spec.disks.iter().any(|disk| disk.id == "root") && !has_root;
            let runs = disks.map_or(0, |disks| disks.runs);
            let moved_on =
                spec.restore.as_ref().is_some_and(|file| inner.saved.get(file).map(|saved| saved.runs) != Some(runs));
            (fails, second, missing, torn, moved_on)
        };
        if second {
            self.host.broke(&format!("a second hypervisor was started for {vm}"));
        }
        if missing {
            self.host.broke(&format!("{vm} was started without its disk"));
        }
        if torn {
            self.host.broke(&format!("{vm} was started from a disk that did not come whole"));
        }
        if moved_on {
            self.host.broke(&format!("{vm} was restored from memory that its disk has moved on from"));
        }
        if fails { Err(Error::internal("the hypervisor exited at once: simulated")) } else { Ok(()) }
    }
}

/// A process, as one life of the runtime holds it.
struct Handle {
    doors: Doors,
    machine: Arc<Machine>,
}

impl Handle {
    /// A command on its monitor: what is hung does not answer, what is gone cannot.
    async fn command(&self) -> Result<()> {
        self.doors.takes(Duration::from_millis(300)).await;
        match self.machine.now() {
            RunState::Hung => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                self.doors.alive().await;
                Err(Error::timeout("the hypervisor does not answer"))
            }
            RunState::Exited(_) => Err(Error::unavailable("the hypervisor has ended")),
            _ => Ok(()),
        }
    }

    fn unsupported<T>() -> Result<T> {
        Err(Error::unsupported("not simulated"))
    }
}

#[async_trait]
impl Vmm for Handle {
    fn info(&self) -> VmmInfo {
        self.machine.info.clone()
    }

    fn state(&self) -> watch::Receiver<RunState> {
        self.machine.state.subscribe()
    }

    async fn refresh(&self) -> Result<RunState> {
        self.doors.takes(Duration::from_millis(100)).await;
        Ok(self.machine.now())
    }

    async fn resume(&self) -> Result<()> {
        self.command().await?;
        if self.machine.now() == RunState::IoError {
            self.doors.space()?;
        }
        if self.machine.change(&[RunState::Paused, RunState::IoError], RunState::Running) {
            self.doors.ran(self.machine.vm);
        }
        Ok(())
    }

    async fn pause(&self) -> Result<()> {
        self.command().await?;
        self.machine.change(&[RunState::Running], RunState::Paused);
        Ok(())
    }

    async fn power_button(&self) -> Result<()> {
        self.command().await?;
        self.machine.power_button(&self.doors.host.fate);
        Ok(())
    }

    async fn reset(&self) -> Result<()> {
        self.command().await?;
        self.machine.change(&[RunState::GuestPanicked, RunState::GuestShutdown], RunState::Running);
        Ok(())
    }

    async fn quit(&self) -> Result<()> {
        self.doors.takes(Duration::from_secs(2)).await;
        let at = self.doors.host.clock.now();
        self.machine.exit(Exit { at, cause: ExitCause::Requested, detail: "ended as asked".to_owned() });
        Ok(())
    }

    async fn save(&self, file: &Path) -> Result<()> {
        self.command().await?;
        self.machine.change(&[RunState::Running], RunState::Paused);
        self.doors.takes(Duration::from_secs(10)).await;
        self.doors.space()?;
        if !self.machine.is_alive() {
            return Err(Error::unavailable("the hypervisor ended while its memory was saved"));
        }
        let mut inner = self.doors.host.lock();
        let runs = inner.disks.get(&self.machine.vm).map_or(0, |disks| disks.runs);
        inner.saved.insert(file.to_owned(), Saved { runs, nics: self.machine.nics() });
        Ok(())
    }

    async fn resize(&self, to: Resources) -> Result<Resized> {
        self.command().await?;
        let pending = (to.vcpus < self.machine.resources.vcpus).then(|| "fewer vCPUs at the next start".to_owned());
        Ok(Resized { now: Some(to), pending: pending.into_iter().collect() })
    }

    async fn nics(&self) -> Result<Vec<PluggedNic>> {
        self.command().await?;
        Ok(self.machine.nics())
    }

    async fn attach_nic(&self, nic: NicSpec) -> Result<Plugged> {
        self.command().await?;
        let mut twice = false;
        self.machine.change_nics(|nics| {
            twice = nics.iter().any(|held| held.port == nic.port);
            nics.push(PluggedNic { port: nic.port, mac: nic.mac });
        });
        if twice {
            self.doors.host.broke(&format!("port {} was plugged into {} twice", nic.port, self.machine.vm));
        }
        // Even where the runtime dies before it hears of it, the NIC is there.
        self.doors.takes(Duration::from_millis(300)).await;
        Ok(Plugged::Now)
    }

    async fn detach_nic(&self, port: PortId) -> Result<Plugged> {
        self.command().await?;
        if self.machine.now() != RunState::Running || self.doors.host.fate.chance(30) {
            self.doors.takes(Duration::from_secs(8)).await;
            return Err(Error::timeout("the guest does not let go of the NIC"));
        }
        self.machine.change_nics(|nics| nics.retain(|held| held.port != port));
        self.doors.takes(Duration::from_millis(300)).await;
        Ok(Plugged::Now)
    }

    async fn grow_disk(&self, _disk: &str, to: Bytes) -> Result<()> {
        self.command().await?;
        self.doors.space()?;
        let mut inner = self.doors.host.lock();
        let newest = inner.disks.get_mut(&self.machine.vm).and_then(|disks| disks.roots.values_mut().next_back());
        if let Some(size) = newest {
            *size = (*size).max(to);
        }
        Ok(())
    }

    async fn console(&self) -> Result<Box<dyn ByteStream>> {
        Self::unsupported()
    }

    async fn vnc(&self) -> Result<Box<dyn ByteStream>> {
        Self::unsupported()
    }

    async fn console_log(&self, _tail: usize) -> Result<Vec<u8>> {
        Self::unsupported()
    }

    async fn screenshot(&self) -> Result<Vec<u8>> {
        Self::unsupported()
    }

    async fn agent_ping(&self) -> Result<()> {
        self.command().await
    }

    async fn agent_exec(&self, _argv: Vec<String>, _input: Vec<u8>, _timeout: Duration) -> Result<ExecResult> {
        Self::unsupported()
    }

    async fn set_password(&self, _user: &str, _password: &str) -> Result<()> {
        Self::unsupported()
    }

    async fn quiesce(&self, _deadline: Duration) -> Result<u64> {
        Self::unsupported()
    }

    async fn thaw(&self) -> Result<u64> {
        Self::unsupported()
    }
}
