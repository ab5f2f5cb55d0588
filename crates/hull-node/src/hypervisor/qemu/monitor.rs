//! Knows what a machine is doing: QEMU's events, a question now and then, and the end of its process.
//!
//! ```text
//!                 RESUME ┌─────────┐ STOP
//!              ┌────────►│ Running ├─────────┐        any state ── no answer in time ──► Hung ── an answer ──► as it says
//!              │         └──┬──┬───┘         ▼
//!         ┌────┴───┐        │  │ SHUTDOWN  ┌────────┐
//!         │ Paused │◄───────┘  ├──────────►│ Guest… │   any state ── pidfd ──► Exited, for good
//!         └────────┘           │ PANICKED  └────────┘
//!                              └─ BLOCK_IO_ERROR ──► IoError
//! ```
//!
//! An event only says *look*; what is true is what `query-status` answers. So an event that was missed, or came twice,
//! or that a newer QEMU invented, does no harm.

use std::sync::Arc;

use hull_types::{
    Timestamp,
    vm::{Exit, ExitCause},
};
use serde_json::Value;
use tokio::{
    sync::broadcast::error::RecvError,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    log,
    record::{Files, Record, boot_id, write_durably},
    vmm::Shared,
};
use crate::hypervisor::{RunState, qmp::Notice};

const LOG_TRIM_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
/// How long a process may take to end after its connection has.
const ENDS_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

/// Watches the machine until its process ends.
pub(super) async fn watch(machine: Arc<Shared>) {
    let mut notices = machine.qmp.subscribe();
    let mut ping = interval(machine.config.ping_every);
    let mut trim = interval(LOG_TRIM_EVERY);
    for timer in [&mut ping, &mut trim] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            ended = machine.process.ended() => {
                let how = ended.unwrap_or_else(|error| Some(format!("its end could not be watched: {error}")));
                let exit = conclude(&machine, how);
                machine.state.send_replace(RunState::Exited(exit));
                return;
            }
            notice = notices.recv() => match notice {
                // The process ends soon, or the connection comes back.
                Ok(Notice::Disconnected) | Err(RecvError::Closed) => {}
                Ok(Notice::Event(_) | Notice::Connected { .. }) | Err(RecvError::Lagged(_)) => look(&machine).await,
            },
            _ = ping.tick() => look(&machine).await,
            _ = trim.tick() => trim_logs(&machine.files).await,
        }
    }
}

/// Asks what the machine is doing and tells those who watch. Its process's end is for [`watch`] to tell.
pub(super) async fn look(machine: &Shared) {
    let deadline = machine.config.hung_after;
    let question = machine.qmp.run_within(deadline, "query-status", Value::Null, None);
    let answer = tokio::select! {
        // A dead process does not answer: no need to wait for that.
        _ = machine.process.ended() => return,
        answer = question => answer,
    };
    let state = match answer {
        Ok(status) => from_status(status.get("status").and_then(Value::as_str).unwrap_or_default()),
        // A QEMU that is told to quit closes its connection first: that is its end and not its silence.
        Err(_) if timeout(ENDS_WITHIN, machine.process.ended()).await.is_ok() => return,
        Err(error) => {
            tracing::warn!(vm = %machine.vm, pid = machine.process.pid, %error, "QEMU does not answer");
            RunState::Hung
        }
    };
    machine.state.send_if_modified(|current| {
        let changes = *current != state && !matches!(current, RunState::Exited(_));
        if changes {
            *current = state;
        }
        changes
    });
}

/// QEMU's words for what a machine does (`RunState` in its `qapi/run-state.json`).
fn from_status(status: &str) -> RunState {
    match status {
        // `suspended` is the guest's own sleep (S3): its to wake from.
        "running" | "suspended" => RunState::Running,
        "shutdown" => RunState::GuestShutdown,
        // KVM gave up on the guest's state: nothing but a new start helps.
        "guest-panicked" | "internal-error" => RunState::GuestPanicked,
        "io-error" => RunState::IoError,
        // paused, prelaunch, inmigrate, postmigrate, finish-migrate, save-vm, restore-vm, debug, watchdog, colo
        _ => RunState::Paused,
    }
}

async fn trim_logs(files: &Files) {
    let files = files.clone();
    let trimmed = tokio::task::spawn_blocking(move || {
        [files.console_log(), files.qemu_log()].iter().try_for_each(|path| log::trim(path))
    });
    match trimmed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot trim a VM's logs"),
        Err(error) => tracing::warn!(%error, "trimming a VM's logs failed"),
    }
}

/// The process has ended: why? Writes the answer down, for the next Hull to say the same.
fn conclude(machine: &Shared, how: Option<String>) -> Exit {
    let said = machine.files.read_exit().ok().flatten();
    let exit = said.unwrap_or_else(|| {
        let oom = machine.cgroups.oom_kills(machine.vm) > 0;
        died(&machine.files, how, oom)
    });
    write_exit(&machine.files, &exit);
    exit
}

/// Why the process of a record that is not there any more ended.
pub(super) fn post_mortem(files: &Files, record: &Record, oom: bool) -> Exit {
    let same_boot = boot_id().is_ok_and(|boot| boot == record.boot);
    let exit = match files.read_exit() {
        Ok(Some(exit)) => return exit,
        Ok(None) | Err(_) if same_boot => died(files, None, oom),
        Ok(None) | Err(_) => Exit {
            at: Timestamp::now(),
            cause: ExitCause::HostReboot,
            detail: "the host was restarted under it".to_owned(),
        },
    };
    write_exit(files, &exit);
    exit
}

fn died(files: &Files, how: Option<String>, oom: bool) -> Exit {
    let mut detail = how.unwrap_or_else(|| "it ended while Hull was away".to_owned());
    if oom {
        detail.push_str(", because it used more memory than its limit");
    }
    let last = log::last_lines(&files.qemu_log(), 1);
    if !last.is_empty() {
        detail = format!("{detail}; QEMU's last words: {last}");
    }
    Exit { at: Timestamp::now(), cause: ExitCause::Died, detail }
}

pub(super) fn write_exit(files: &Files, exit: &Exit) {
    if let Err(error) = write_durably(&files.exit(), exit) {
        tracing::warn!(dir = %files.dir.display(), %error, "cannot write down how a VM's process ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_words_are_understood() {
        for (word, state) in [
            ("running", RunState::Running),
            ("paused", RunState::Paused),
            ("prelaunch", RunState::Paused),
            ("shutdown", RunState::GuestShutdown),
            ("guest-panicked", RunState::GuestPanicked),
            ("io-error", RunState::IoError),
            ("a word of a newer QEMU", RunState::Paused),
        ] {
            assert_eq!(from_status(word), state, "{word}");
        }
    }
}
