//! A QEMU of the test's own, for trying guests and images without Hull: its serial line is a pipe that can be
//! waited on, and it dies with its owner.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Long enough for a tiny guest on a machine where every core is taken several times over.
pub const BOOT_DEADLINE: Duration = Duration::from_secs(120);

/// A running QEMU whose first serial port is ours. Killed when dropped.
pub struct Qemu {
    child: Child,
    input: ChildStdin,
    console: Arc<Console>,
}

#[derive(Default)]
struct Console {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    text: Vec<u8>,
    closed: bool,
}

impl Qemu {
    /// Starts QEMU under TCG with nothing but the serial line and what `args` add.
    ///
    /// # Errors
    /// When QEMU is not installed.
    pub fn start<I, S>(args: I) -> anyhow::Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let mut child = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-serial", "stdio"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start qemu-system-x86_64; run scripts/deps.sh test")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("QEMU was started without pipes");
        };
        let console = Arc::new(Console::default());
        let writer = Arc::clone(&console);
        std::thread::spawn(move || writer.follow(output));
        Ok(Self { child, input, console })
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the console has shown `text`, and returns all it showed until then.
    ///
    /// # Errors
    /// When the deadline passes or QEMU ends first; the error carries the console's text.
    pub fn wait_for(&self, text: &str, deadline: Duration) -> anyhow::Result<String> {
        self.console.wait(deadline, |seen| seen.contains(text)).with_context(|| format!("never saw {text:?}"))
    }

    /// Waits until `text` has been shown `times` times.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_for_times(&self, text: &str, times: usize, deadline: Duration) -> anyhow::Result<String> {
        self.console
            .wait(deadline, |seen| seen.matches(text).count() >= times)
            .with_context(|| format!("never saw {text:?} {times} times"))
    }

    /// Types a line on the serial port.
    ///
    /// # Errors
    /// When QEMU has ended.
    pub fn type_line(&mut self, line: &str) -> anyhow::Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes())?;
        Ok(self.input.flush()?)
    }

    /// Waits until QEMU ends by itself.
    ///
    /// # Errors
    /// When the deadline passes; the error carries the console's text.
    pub fn wait_for_exit(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        // Its serial pipe closes when it ends: the console's end is the process's end.
        self.console.wait_closed(deadline)?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended already; either way it must be reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Console {
    fn follow(&self, mut output: impl Read) {
        let mut buffer = [0_u8; 4096];
        loop {
            let count = output.read(&mut buffer).unwrap_or(0);
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.text.extend_from_slice(&buffer[..count]);
            seen.closed = count == 0;
            self.changed.notify_all();
            if count == 0 {
                return;
            }
        }
    }

    fn wait(&self, deadline: Duration, enough: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let seen = self.wait_until(deadline, |seen| enough(&String::from_utf8_lossy(&seen.text)) || seen.closed);
        match seen {
            (text, _) if enough(&text) => Ok(text),
            (text, true) => bail!("QEMU ended; its console showed:\n{text}"),
            (text, false) => bail!("{deadline:?} passed; the console showed:\n{text}"),
        }
    }

    fn wait_closed(&self, deadline: Duration) -> anyhow::Result<()> {
        match self.wait_until(deadline, |seen| seen.closed) {
            (_, true) => Ok(()),
            (text, false) => bail!("QEMU did not end within {deadline:?}; the console showed:\n{text}"),
        }
    }

    fn wait_until(&self, deadline: Duration, done: impl Fn(&Seen) -> bool) -> (String, bool) {
        let end = Instant::now() + deadline;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while !done(&seen) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            seen = self.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        (String::from_utf8_lossy(&seen.text).into_owned(), seen.closed)
    }
}
