//! Calls into a VM that its node answers at once: agent, console log, screen, byte streams.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use hull_types::{
    error::{Error, Result},
    link::{ExecResult, NodeCall, NodeReply, StreamTarget},
    wire::{ExecRequest, PasswordRequest},
};

use super::{App, ctx::Ctx};
use crate::hub::Io;

/// How long a node has for an ordinary call.
const CALL: Duration = Duration::from_secs(15);
/// How long a program in a guest may run, in seconds: at most, and where the caller does not say.
const EXEC_MAX: u32 = 600;
const EXEC: u32 = 60;
/// The most of a console log.
const LOG_MAX: u32 = 4 << 20;

impl App {
    async fn ask(&self, ctx: &Ctx, vm: &str, call: impl FnOnce(hull_types::id::VmId) -> NodeCall) -> Result<NodeReply> {
        let (node, id) = self.node_of(ctx, vm)?;
        self.hub.call(node, call(id), CALL).await
    }

    /// Whether the guest's agent answers.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Timeout`; the node's.
    pub async fn ping_agent(&self, ctx: &Ctx, vm: &str) -> Result<()> {
        done(self.ask(ctx, vm, |vm| NodeCall::AgentPing { vm }).await?)
    }

    /// Runs a program in the guest.
    ///
    /// # Errors
    /// As [`App::ping_agent`]; `Invalid` where the request is out of bounds.
    pub async fn exec(&self, ctx: &Ctx, vm: &str, request: &ExecRequest) -> Result<ExecResult> {
        let timeout_seconds = request.timeout_seconds.unwrap_or(EXEC);
        if request.argv.is_empty() {
            return Err(Error::invalid("give a program to run").at("/argv"));
        }
        if timeout_seconds > EXEC_MAX {
            return Err(Error::invalid(format!("a program may run for at most {EXEC_MAX} s")).at("/timeout_seconds"));
        }
        if request.input.as_deref().is_some_and(|input| STANDARD.decode(input).is_err()) {
            return Err(Error::invalid("the input is not base64").at("/input"));
        }
        let (node, vm) = self.node_of(ctx, vm)?;
        let (argv, input) = (request.argv.clone(), request.input.clone());
        let call = NodeCall::AgentExec { vm, argv, input, timeout_seconds };
        let within = CALL + Duration::from_secs(u64::from(timeout_seconds));
        match self.hub.call(node, call, within).await? {
            NodeReply::Exec(result) => Ok(result),
            other => Err(strange(&other)),
        }
    }

    /// Sets a user's password in the guest.
    ///
    /// # Errors
    /// As [`App::ping_agent`].
    pub async fn set_password(&self, ctx: &Ctx, vm: &str, request: &PasswordRequest) -> Result<()> {
        let (user, password) = (request.user.clone(), request.password.clone());
        if user.is_empty() || user.chars().any(|c| c.is_control() || c == ':') {
            return Err(Error::invalid("a user's name has no control characters and no colon").at("/user"));
        }
        if password.expose().chars().any(char::is_control) {
            return Err(Error::invalid("a password has no control characters").at("/password"));
        }
        done(self.ask(ctx, vm, |vm| NodeCall::SetPassword { vm, user, password }).await?)
    }

    /// Freezes the guest's file systems; answers how many.
    ///
    /// # Errors
    /// As [`App::ping_agent`].
    pub async fn quiesce(&self, ctx: &Ctx, vm: &str) -> Result<u64> {
        count(self.ask(ctx, vm, |vm| NodeCall::Quiesce { vm }).await?)
    }

    /// Thaws the guest's file systems; answers how many.
    ///
    /// # Errors
    /// As [`App::ping_agent`].
    pub async fn thaw(&self, ctx: &Ctx, vm: &str) -> Result<u64> {
        count(self.ask(ctx, vm, |vm| NodeCall::Thaw { vm }).await?)
    }

    /// The newest bytes of the console log.
    ///
    /// # Errors
    /// As [`App::ping_agent`].
    pub async fn console_log(&self, ctx: &Ctx, vm: &str, tail: Option<u32>) -> Result<Vec<u8>> {
        let tail = tail.unwrap_or(64 << 10).min(LOG_MAX);
        bytes(self.ask(ctx, vm, |vm| NodeCall::ConsoleLog { vm, tail }).await?)
    }

    /// The screen, as PNG.
    ///
    /// # Errors
    /// As [`App::ping_agent`].
    pub async fn screenshot(&self, ctx: &Ctx, vm: &str) -> Result<Vec<u8>> {
        bytes(self.ask(ctx, vm, |vm| NodeCall::Screenshot { vm }).await?)
    }

    /// A byte stream to somewhere in a VM.
    ///
    /// # Errors
    /// As [`App::ping_agent`].
    pub async fn stream(&self, ctx: &Ctx, vm: &str, target: StreamTarget) -> Result<Box<dyn Io>> {
        let (node, vm) = self.node_of(ctx, vm)?;
        self.hub.open_stream(node, vm, target).await
    }
}

fn done(reply: NodeReply) -> Result<()> {
    match reply {
        NodeReply::Done => Ok(()),
        other => Err(strange(&other)),
    }
}

fn count(reply: NodeReply) -> Result<u64> {
    match reply {
        NodeReply::Count { count } => Ok(count),
        other => Err(strange(&other)),
    }
}

fn bytes(reply: NodeReply) -> Result<Vec<u8>> {
    match reply {
        NodeReply::Bytes { base64 } => {
            STANDARD.decode(base64).map_err(|e| Error::internal(format!("the node's bytes are not base64: {e}")))
        }
        other => Err(strange(&other)),
    }
}

fn strange(reply: &NodeReply) -> Error {
    Error::internal(format!("the node answered something else than was asked: {reply:?}"))
}
