//! A process that may or may not be our child: held by a pidfd, so that its number cannot come to mean another.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, OnceLock},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions},
};
use tokio::io::{Interest, unix::AsyncFd};

/// A process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub pid: u32,
    /// Readable once it has ended.
    fd: Arc<AsyncFd<OwnedFd>>,
    /// How it ended, once someone has asked the kernel, which tells it only once and only to the parent.
    status: Arc<OnceLock<Option<String>>>,
}

impl Process {
    /// The process with this number, whichever it is. Must be called within a tokio runtime.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let fd = rustix::process::pidfd_open(to_pid(pid)?, PidfdFlags::NONBLOCK)?;
        // SAFETY: the descriptor is owned by what is registered, and closed only after it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { pid, fd: Arc::new(fd), status: Arc::default() })
    }

    /// The process with this number, if it is the one that started then.
    pub(super) fn find(pid: u32, start_ticks: u64) -> io::Result<Option<Self>> {
        let process = match Self::open(pid) {
            Ok(process) => process,
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Read after the pidfd is held: if it is the right one now, the pidfd is the right one.
        match stat(pid) {
            Ok(stat) if stat.start_ticks == start_ticks => Ok(Some(process)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns when it has ended: the sentence of how, where we are its parent.
    pub(super) async fn ended(&self) -> io::Result<Option<String>> {
        let _ready = self.fd.readable().await?;
        Ok(self.status.get_or_init(|| self.reap()).clone())
    }

    /// Its end, for a task that serves it and must not outlast it.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        let process = self.clone();
        // That it cannot be watched happens when the runtime ends, and with it all tasks.
        async move { drop(process.ended().await) }
    }

    /// Sees to it that a child does not stay as a zombie, whoever else watches it.
    pub(super) fn reap_when_ended(&self) {
        let process = self.clone();
        tokio::spawn(async move {
            if let Err(error) = process.ended().await {
                tracing::warn!(pid = process.pid, %error, "cannot watch a child process");
            }
        });
    }

    /// Sends SIGKILL; nothing happens where it has ended.
    pub(super) fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(self.fd.get_ref(), Signal::KILL) {
            Err(Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn reap(&self) -> Option<String> {
        let status = rustix::process::waitid(WaitId::PidFd(self.fd.get_ref().as_fd()), WaitIdOptions::EXITED);
        let status = status.ok().flatten()?;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(format!("it exited with code {code}")),
            (None, Some(signal)) => Some(format!("it was killed by signal {signal}")),
            (None, None) => None,
        }
    }
}

fn to_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// What `/proc/PID/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
}

/// Reads `/proc/PID/stat`.
pub(super) fn stat(pid: u32) -> io::Result<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Field 22 of proc(5)'s `stat`; the name in field 2 may hold anything, so counting begins after its closing bracket.
fn parse_stat(text: &str) -> Option<Stat> {
    let start_ticks = text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    Some(Stat { start_ticks })
}

/// Kills every process of this user and waits until they are gone.
pub(super) async fn kill_user(uid: u32) -> io::Result<()> {
    // A process may fork while we look: look again until there is none.
    for _ in 0..100 {
        let found = tokio::task::spawn_blocking(move || processes_of(uid)).await.map_err(io::Error::other)??;
        if found.is_empty() {
            return Ok(());
        }
        for pid in found {
            if let Ok(process) = Process::open(pid) {
                process.kill()?;
                // A stopped or zombie process shows as ended too; one in the kernel's hands is met again above.
                let _ = tokio::time::timeout(std::time::Duration::from_secs(1), process.ended()).await;
            }
        }
    }
    Err(io::Error::other(format!("processes of user {uid} do not end")))
}

fn processes_of(uid: u32) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may end while we look.
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let owner = field("Uid:").split_whitespace().next().and_then(|text| text.parse::<u32>().ok());
        // A zombie has ended; its parent reaps it.
        if owner == Some(uid) && !field("State:").trim_start().starts_with('Z') {
            found.push(pid);
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_name_may_hold_brackets_and_blanks() {
        let line = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2";
        assert_eq!(parse_stat(line), Some(Stat { start_ticks: 987_654 }));
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[tokio::test]
    async fn a_pid_with_another_start_is_another_process() {
        let me = std::process::id();
        let ticks = stat(me).unwrap().start_ticks;
        assert!(Process::find(me, ticks).unwrap().is_some());
        assert!(Process::find(me, ticks + 1).unwrap().is_none());
    }
}
