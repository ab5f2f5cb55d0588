//! `hull ssh` and `hull vm console`: into a VM.
//!
//! `hull ssh` runs the system's own `ssh`, with `hull vm tcp` as its `ProxyCommand`: the connection is made from inside the VM's
//! network by its node, so it works from anywhere the API does, also where tenants' addresses overlap.

use std::{
    io::IsTerminal,
    os::fd::AsFd,
    process::{Command, Stdio},
};

use clap::Args;
use hull_client::Vms;
use hull_types::{
    error::{Error, Result},
    units::Bytes,
};
use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Session;
use crate::output;

/// Ctrl-], as telnet and virsh have it.
const DETACH: u8 = 0x1d;

#[derive(Debug, Args)]
pub(crate) struct Ssh {
    /// Name or id
    vm: String,
    /// The user inside
    #[arg(short, long, default_value = "debian")]
    login: String,
    /// Private key file
    #[arg(short, long)]
    identity: Option<std::path::PathBuf>,
    /// The port inside
    #[arg(short = 'P', long, default_value_t = 22)]
    port: u16,
    /// What to run there; a shell where absent
    #[arg(last = true)]
    command: Vec<String>,
}

impl Ssh {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        // Resolved first, so that a wrong name is our clear error and not ssh's.
        let vm = session.client.vms().show(&self.vm).await?;
        let id = vm.vm.id;
        let mut ssh = Command::new("ssh");
        // The alias names the VM and the system on its disk: a new VM at an old address, a rebuilt or a rescued one has keys of its own. A key
        // seen first is trusted, then pinned.
        let system = if vm.vm.rescue.is_some() { "rescue".to_owned() } else { vm.vm.disk_generation.to_string() };
        ssh.args(["-o", &format!("ProxyCommand={}", proxy(session, &id.to_string(), self.port)?)])
            .args(["-o", &format!("HostKeyAlias=hull-{id}-{system}"), "-o", "StrictHostKeyChecking=accept-new"])
            .args(["-o", "LogLevel=ERROR", "-l", &self.login]);
        if let Some(identity) = &self.identity {
            ssh.arg("-i").arg(identity);
        }
        ssh.arg(vm.vm.meta.name.to_hostname("vm")).args(&self.command);
        let status = ssh.stdin(Stdio::inherit()).status().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::unsupported("ssh is not installed here; `apt install openssh-client`")
            }
            _ => Error::internal(format!("ssh cannot be run: {e}")),
        })?;
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255))
    }
}

/// The command ssh joins itself to: this program again, talking to the same server.
fn proxy(session: &Session, vm: &str, port: u16) -> Result<String> {
    let program = std::env::current_exe().map_err(|e| Error::internal(format!("this program's own path: {e}")))?;
    let mut words = vec![program.display().to_string()];
    let global = &session.global;
    let options = [
        ("--context", global.context.clone()),
        ("--project", global.project.clone()),
        ("--data-dir", global.data_dir.as_ref().map(|dir| dir.display().to_string())),
    ];
    for (option, value) in options {
        words.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
    }
    words.extend(["vm", "tcp", vm].map(str::to_owned));
    words.push(port.to_string());
    // ssh gives the line to a shell, and reads percent signs itself.
    let quoted: Vec<_> =
        words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''").replace('%', "%%"))).collect();
    Ok(quoted.join(" "))
}

/// Joins this terminal to a VM's serial console until the detach key or the end.
pub(crate) async fn console(vms: &Vms<'_>, vm: &str) -> Result<()> {
    let view = vms.show(vm).await?;
    let socket = vms.console(vm).await?;
    let terminal = if std::io::stdin().is_terminal() { Some(RawTerminal::raw()?) } else { None };
    if terminal.is_some() {
        output::note(format!("Connected to {}. Ctrl-] detaches; Enter wakes a sleeping prompt.\r", view.vm.meta.name));
    }
    let (input, mut typed) = tokio::io::duplex(usize::try_from(Bytes::kib(4).0).unwrap_or(4096));
    let detach = async {
        let mut stdin = tokio::io::stdin();
        let mut buffer = [0; 1024];
        loop {
            let n = stdin.read(&mut buffer).await.unwrap_or(0);
            let keys = &buffer[..n];
            let end = keys.iter().position(|&key| terminal.is_some() && key == DETACH);
            if typed.write_all(&keys[..end.unwrap_or(n)]).await.is_err() || end.is_some() {
                return;
            }
            if n == 0 {
                // Input from a file ended: stay for the answers until the far side closes. The end is not passed on: a serial line
                // knows none, and QEMU would hang up with what was typed last still under way.
                std::future::pending::<()>().await;
            }
        }
    };
    let outcome = tokio::select! {
        piped = socket.pipe(input, tokio::io::stdout()) => piped,
        () = detach => Ok(()),
    };
    drop(terminal);
    output::note("\nDetached.");
    outcome
}

/// A terminal in another mode, put back when dropped.
pub(crate) struct RawTerminal(Termios);

impl RawTerminal {
    /// Every key goes through as it is.
    pub(crate) fn raw() -> Result<Self> {
        Self::with(Termios::make_raw)
    }

    /// Lines as usual, unseen.
    pub(crate) fn without_echo() -> Result<Self> {
        Self::with(|mode| mode.local_modes.remove(LocalModes::ECHO))
    }

    fn with(change: impl FnOnce(&mut Termios)) -> Result<Self> {
        let refuse = |e| Error::internal(format!("the terminal's mode: {e}"));
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).map_err(refuse)?;
        let mut mode = before.clone();
        change(&mut mode);
        termios::tcsetattr(stdin.as_fd(), OptionalActions::Flush, &mode).map_err(refuse)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to put back.
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), OptionalActions::Flush, &self.0);
    }
}
