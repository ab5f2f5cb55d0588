//! QMP, QEMU's control protocol, over a unix socket: our own client, because the machine outlives every connection.
//!
//! ```text
//!   Client (cheap to clone) ── commands ──►  one task per socket  ── lines, descriptors ──►  QEMU
//!          ▲  └───────────── events (broadcast) ◄───┤  ▲ │
//!          └──────────────── answers, by id ◄───────┘  └─┘ reconnects until the last Client is dropped or the machine ends
//!
//!   ┌──────────────┐ connect, greeting, qmp_capabilities ┌───────────┐
//!   │ disconnected ├────────────────────────────────────►│ connected │
//!   └──────▲───────┘                                     └─────┬─────┘
//!          └──────────── end of file, overlong line ───────────┘
//! ```
//!
//! Each command bears an id and its own deadline. A caller that gave up leaves nothing behind: an answer that comes late
//! bears an id nobody waits for. Commands given while disconnected wait for the connection within their deadline; those
//! under way when it breaks fail as [`QmpError::Disconnected`], for nobody can know whether QEMU did them.

mod connection;
pub mod message;

use std::{os::fd::OwnedFd, path::PathBuf, time::Duration};

use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};

pub use message::Event;

/// How long a command may take unless it says otherwise. QEMU answers from its main loop, which big disk flushes and a
/// loaded host may hold up for seconds.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

/// Why a command brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QmpError {
    /// QEMU refused it.
    #[error("QEMU refused {command}: {desc}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's error class.
        class: String,
        /// QEMU's sentence.
        desc: String,
    },
    /// No answer in time; whether it was done is not known.
    #[error("QEMU did not answer {command} within {} s", after.as_secs_f32())]
    Timeout {
        /// The command.
        command: String,
        /// How long was waited.
        after: Duration,
    },
    /// The connection broke while the command was under way.
    #[error("the connection to QEMU broke during {command}")]
    Disconnected {
        /// The command.
        command: String,
    },
}

impl From<QmpError> for hull_types::error::Error {
    fn from(error: QmpError) -> Self {
        let detail = error.to_string();
        match error {
            QmpError::Refused { .. } => Self::internal(detail),
            QmpError::Timeout { .. } => Self::timeout(detail),
            QmpError::Disconnected { .. } => Self::unavailable(detail),
        }
    }
}

/// What the client tells its subscribers.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// QEMU's event.
    Event(Event),
    /// A connection stands (again); events may have been missed before it.
    Connected {
        /// QEMU's version.
        version: String,
    },
    /// The connection ended.
    Disconnected,
}

/// A handle to one QEMU's control socket.
#[derive(Clone, Debug)]
pub struct Client {
    commands: mpsc::Sender<Command>,
    notices: broadcast::Sender<Notice>,
}

/// A command on its way to the connection's task.
#[derive(Debug)]
struct Command {
    name: String,
    arguments: Value,
    fd: Option<OwnedFd>,
    answer: oneshot::Sender<Result<Value, QmpError>>,
}

impl Client {
    /// A client of the socket. Connects in the background, again and again, until the machine has `ended`; must be called
    /// within a tokio runtime.
    ///
    /// The next machine of the same VM listens at the same path, and QEMU serves one connection at a time: a client of the
    /// ended one that came first would leave the new one's waiting for a greeting until its deadline.
    pub fn open(socket: PathBuf, ended: impl Future<Output = ()> + Send + 'static) -> Self {
        let (commands, receiver) = mpsc::channel(64);
        let (notices, _) = broadcast::channel(256);
        tokio::spawn(connection::keep(socket, receiver, notices.clone(), ended));
        Self { commands, notices }
    }

    /// Events and the connection's coming and going, from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    /// Runs a command with the usual deadline.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn run(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.run_within(COMMAND_DEADLINE, command, arguments, None).await
    }

    /// Runs a command that takes a descriptor along (`getfd`, `add-fd`).
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn run_with_fd(&self, command: &str, arguments: Value, fd: OwnedFd) -> Result<Value, QmpError> {
        self.run_within(COMMAND_DEADLINE, command, arguments, Some(fd)).await
    }

    /// Runs a command with a deadline of its own.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn run_within(
        &self,
        deadline: Duration,
        command: &str,
        arguments: Value,
        fd: Option<OwnedFd>,
    ) -> Result<Value, QmpError> {
        let (answer, answered) = oneshot::channel();
        let order = Command { name: command.to_owned(), arguments, fd, answer };
        let exchange = async {
            // Either channel closes only when the connection's task is gone.
            let gone = || QmpError::Disconnected { command: command.to_owned() };
            self.commands.send(order).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())?
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .unwrap_or_else(|_| Err(QmpError::Timeout { command: command.to_owned(), after: deadline }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
