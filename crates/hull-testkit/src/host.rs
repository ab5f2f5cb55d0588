//! Things a test takes from the host and must give back: processes, ports, directories.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

/// Kills a process that is not our child (a QEMU that outlived its hull) when dropped.
///
/// Holds a pidfd, so that a pid that was given to another process meanwhile is never hit.
#[derive(Debug)]
pub struct KillOnDrop {
    handle: OwnedFd,
}

impl KillOnDrop {
    /// Takes charge of the process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn new(pid: u32) -> anyhow::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")?;
        Ok(Self { handle: pidfd_open(pid, PidfdFlags::empty()).with_context(|| format!("no process {pid:?}"))? })
    }

    /// Sends `SIGKILL`, as a fault would.
    ///
    /// # Errors
    /// When the process is gone already.
    pub fn kill(&self) -> anyhow::Result<()> {
        Ok(pidfd_send_signal(&self.handle, Signal::KILL)?)
    }

    /// Whether the process still runs.
    pub fn is_alive(&self) -> bool {
        !self.ended_within(Duration::ZERO)
    }

    /// Waits for the process to end; false when it still runs after `deadline`.
    pub fn ended_within(&self, deadline: Duration) -> bool {
        let timeout = Timespec { tv_sec: deadline.as_secs().cast_signed(), tv_nsec: deadline.subsec_nanos().into() };
        // A pidfd turns readable when its process ends.
        let mut descriptors = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut descriptors, Some(&timeout)).is_ok_and(|ready| ready == 1)
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.kill(); // gone already is as good
    }
}

/// A TCP port of 127.0.0.1 that was free a moment ago.
///
/// # Errors
/// When the host has none left.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A directory that goes with its owner, on a path short enough for unix sockets (108 bytes with all below it).
///
/// # Errors
/// When `/tmp` cannot be written.
pub fn short_dir() -> anyhow::Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("ht").rand_bytes(6).tempdir_in("/tmp")?)
}
