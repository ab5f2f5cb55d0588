//! The guest agent (`qemu-ga`) behind its virtio-serial port: the guest's own word, so never trusted, always bounded.
//!
//! Each call opens the socket, agrees on a fresh start (`guest-sync-delimited` with a random number, after which the
//! agent answers with a 0xFF byte and that number), runs its command and leaves. What the agent still had to say to
//! someone who gave up comes before the delimiter and is thrown away.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use hull_types::{
    Timestamp,
    error::{Error, Result},
    link::ExecResult,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{
    record::{read, remove, write_durably},
    sockets,
};
use crate::hypervisor::qmp::message::Lines;

/// How long the agent may take to answer one command; a guest under load swaps it in first.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Freezing waits for the guest's writes to reach its disks.
const FREEZE_DEADLINE: Duration = Duration::from_secs(30);
/// The agent itself cuts a program's output at 16 MiB; base64 makes it a third more.
const MOST_ANSWER: usize = 48 << 20;
const POLL_FIRST: Duration = Duration::from_millis(20);
const POLL_MOST: Duration = Duration::from_millis(500);

/// One VM's agent.
pub(super) struct Agent {
    socket: PathBuf,
    /// Says until when the guest is frozen, for a successor to thaw it.
    frozen: PathBuf,
    /// The socket takes one caller at a time.
    turn: Semaphore,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Frozen {
    until: Timestamp,
    /// For so long. No thaw waits longer, whatever the wall clock was set to meanwhile.
    #[serde(default)]
    within: Duration,
}

impl Agent {
    pub(super) fn new(socket: PathBuf, frozen: PathBuf) -> Self {
        Self { socket, frozen, turn: Semaphore::new(1) }
    }

    pub(super) async fn ping(&self) -> Result<()> {
        self.call(ANSWER_DEADLINE, "guest-ping", json!({})).await.map(drop)
    }

    pub(super) async fn set_password(&self, user: &str, password: &str) -> Result<()> {
        let arguments = json!({"username": user, "password": BASE64_STANDARD.encode(password), "crypted": false});
        self.call(ANSWER_DEADLINE, "guest-set-user-password", arguments).await.map(drop)
    }

    /// Runs a program and waits for its end.
    pub(super) async fn exec(&self, argv: Vec<String>, input: &[u8], within: Duration) -> Result<ExecResult> {
        let Some((path, arguments)) = argv.split_first() else {
            return Err(Error::invalid("a program to run must be named").at("/argv"));
        };
        let mut order = json!({"path": path, "arg": arguments, "capture-output": true});
        if !input.is_empty() {
            order["input-data"] = json!(BASE64_STANDARD.encode(input));
        }
        let started = self.call(ANSWER_DEADLINE, "guest-exec", order).await?;
        let pid = started.get("pid").and_then(Value::as_i64).ok_or_else(|| nonsense("guest-exec"))?;
        timeout(within, self.await_exit(pid)).await.unwrap_or_else(|_| {
            Err(Error::timeout(format!(
                "{path} has not ended within {} s; it goes on in the guest as process {pid}",
                within.as_secs_f32()
            )))
        })
    }

    async fn await_exit(&self, pid: i64) -> Result<ExecResult> {
        let mut pause = POLL_FIRST;
        loop {
            let status = self.call(ANSWER_DEADLINE, "guest-exec-status", json!({"pid": pid})).await?;
            if status.get("exited").and_then(Value::as_bool) == Some(true) {
                return Ok(exec_result(&status));
            }
            sleep(pause).await;
            pause = (pause * 2).min(POLL_MOST);
        }
    }

    /// Freezes the guest's file systems, and thaws them after the deadline whatever happens to the caller or to Hull.
    pub(super) async fn quiesce(agent: &Arc<Self>, deadline: Duration) -> Result<u64> {
        let until = Timestamp::now() + deadline;
        write_durably(&agent.frozen, &Frozen { until, within: deadline })
            .map_err(|error| Error::internal(format!("cannot write down that the guest is frozen: {error}")))?;
        agent.clone().thaw_after(deadline, until);
        match agent.call(FREEZE_DEADLINE, "guest-fsfreeze-freeze", json!({})).await {
            Ok(count) => count.as_u64().ok_or_else(|| nonsense("guest-fsfreeze-freeze")),
            Err(error) => {
                // It may have frozen and failed to say so.
                if let Err(error) = agent.thaw().await {
                    tracing::warn!(%error, "cannot thaw a guest whose freeze failed");
                }
                Err(error)
            }
        }
    }

    pub(super) async fn thaw(&self) -> Result<u64> {
        let count = self.call(FREEZE_DEADLINE, "guest-fsfreeze-thaw", json!({})).await?;
        remove(&self.frozen).map_err(|error| Error::internal(format!("cannot forget that it was frozen: {error}")))?;
        count.as_u64().ok_or_else(|| nonsense("guest-fsfreeze-thaw"))
    }

    /// An earlier Hull may have frozen the guest and died.
    pub(super) fn resume_thaw(agent: &Arc<Self>) {
        match read::<Frozen>(&agent.frozen) {
            Ok(Some(Frozen { until, within })) => {
                let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
                agent.clone().thaw_after(left.min(within), until);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot read whether the guest is frozen: thawing it");
                agent.clone().thaw_after(Duration::ZERO, Timestamp::now());
            }
        }
    }

    fn thaw_after(self: Arc<Self>, left: Duration, until: Timestamp) {
        tokio::spawn(async move {
            sleep(left).await;
            let ours = match read::<Frozen>(&self.frozen) {
                Ok(Some(frozen)) => frozen.until == until,
                Ok(None) => false,
                // What cannot be read does not say that somebody else will thaw it.
                Err(_) => true,
            };
            // Thawed meanwhile, or frozen anew with a deadline of its own: not ours any more.
            if ours && let Err(error) = self.thaw().await {
                tracing::warn!(%error, "cannot thaw a guest after its deadline");
            }
        });
    }

    /// Runs one command.
    async fn call(&self, within: Duration, command: &str, arguments: Value) -> Result<Value> {
        let exchange = async {
            // The semaphore is never closed; if it were, the socket's own queue would serve.
            let _turn = self.turn.acquire().await.ok();
            let mut session = Session::open(&self.socket).await?;
            session.run(command, arguments).await
        };
        let silent = || {
            Error::unavailable(
                "the guest agent does not answer: is qemu-guest-agent installed and running in the guest?",
            )
        };
        match timeout(within, exchange).await {
            Err(_) => Err(silent()),
            Ok(Err(error)) => {
                tracing::debug!(%error, command, "guest agent");
                Err(silent())
            }
            Ok(Ok(answer)) => outcome(command, &answer),
        }
    }
}

fn nonsense(command: &str) -> Error {
    Error::unavailable(format!("the guest agent gave no sensible answer to {command}"))
}

fn outcome(command: &str, answer: &Value) -> Result<Value> {
    if let Some(value) = answer.get("return") {
        return Ok(value.clone());
    }
    let error = answer.get("error").ok_or_else(|| nonsense(command))?;
    let text = |field| error.get(field).and_then(Value::as_str).unwrap_or_default();
    let detail = format!("the guest agent refused {command}: {}", text("desc"));
    match text("class") {
        "CommandNotFound" => Err(Error::unsupported(detail)),
        _ => Err(Error::conflict(detail)),
    }
}

fn exec_result(status: &Value) -> ExecResult {
    let number = |field| status.get(field).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok());
    let text = |field| status.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let flag = |field| status.get(field).and_then(Value::as_bool).unwrap_or(false);
    ExecResult {
        exit_code: number("exitcode"),
        signal: number("signal"),
        stdout: text("out-data"),
        stderr: text("err-data"),
        truncated: flag("out-truncated") || flag("err-truncated"),
    }
}

/// One connection to the agent, agreed on a fresh start.
struct Session {
    stream: UnixStream,
    lines: Lines,
}

impl Session {
    async fn open(socket: &std::path::Path) -> io::Result<Self> {
        let mut stream = sockets::connect(socket).await?;
        let token: u32 = rand::random();
        let sync = json!({"execute": "guest-sync-delimited", "arguments": {"id": token}});
        // The leading 0xFF makes the agent's parser forget half a command of someone before us.
        let mut hello = vec![0xff];
        hello.extend_from_slice(sync.to_string().as_bytes());
        hello.push(b'\n');
        stream.write_all(&hello).await?;
        let mut session = Self { stream, lines: Lines::new(MOST_ANSWER) };
        loop {
            let line = session.line().await?;
            // Everything before the last delimiter is for others.
            let ours = line.rsplit(|byte| *byte == 0xff).next().unwrap_or_default();
            let answer = serde_json::from_slice::<Value>(ours).unwrap_or_default();
            if answer.get("return").and_then(Value::as_u64) == Some(u64::from(token)) {
                return Ok(session);
            }
        }
    }

    async fn run(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let order = json!({"execute": command, "arguments": arguments});
        self.stream.write_all(format!("{order}\n").as_bytes()).await?;
        Ok(serde_json::from_slice(&self.line().await?)?)
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = self.stream.read(&mut buffer).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // A session asks one thing at a time: at most one line is of interest.
            if let Some(line) = self.lines.push(&buffer[..count]).map_err(io::Error::other)?.pop() {
                return Ok(line);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt, BufReader},
        net::UnixListener,
    };

    use super::*;

    fn agent() -> (tempfile::TempDir, Arc<Agent>, UnixListener) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let agent = Arc::new(Agent::new(socket, dir.path().join("frozen.json")));
        (dir, agent, listener)
    }

    /// A guest that answers commands by a script; gives what it was asked.
    async fn guest(listener: &UnixListener, answers: &[&str]) -> Vec<String> {
        let mut asked = Vec::new();
        for answer in answers {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            stream.get_mut().write_all(b"{\"return\": \"stale\"}\n{\"half").await.unwrap();
            let mut sync = Vec::new();
            stream.read_until(b'\n', &mut sync).await.unwrap();
            assert_eq!(sync[0], 0xff);
            let sync: Value = serde_json::from_slice(&sync[1..]).unwrap();
            let token = &sync["arguments"]["id"];
            stream
                .get_mut()
                .write_all(&[b"\xff".as_slice(), format!("{{\"return\": {token}}}\n").as_bytes()].concat())
                .await
                .unwrap();
            let mut command = String::new();
            stream.read_line(&mut command).await.unwrap();
            asked.push(serde_json::from_str::<Value>(&command).unwrap()["execute"].as_str().unwrap().to_owned());
            stream.get_mut().write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        }
        asked
    }

    #[tokio::test]
    async fn a_program_runs_to_its_end() {
        let (_dir, agent, listener) = agent();
        let answers = [
            r#"{"return": {"pid": 7}}"#,
            r#"{"return": {"exited": false}}"#,
            r#"{"return": {"exited": true, "exitcode": 3, "out-data": "aGk=", "out-truncated": true}}"#,
        ];
        let exec = agent.exec(vec!["/bin/x".into(), "-y".into()], b"in", Duration::from_secs(60));
        let (result, asked) = tokio::join!(exec, guest(&listener, &answers));
        let result = result.unwrap();
        assert_eq!((result.exit_code, result.stdout.as_str(), result.truncated), (Some(3), "aGk=", true));
        assert_eq!(asked, ["guest-exec", "guest-exec-status", "guest-exec-status"]);
    }

    #[tokio::test]
    async fn a_refusal_is_said() {
        let (_dir, agent, listener) = agent();
        let refusal = [r#"{"error": {"class": "CommandNotFound", "desc": "disabled"}}"#];
        let (result, _) = tokio::join!(agent.ping(), guest(&listener, &refusal));
        assert_eq!(result.unwrap_err(), Error::unsupported("the guest agent refused guest-ping: disabled"));
    }

    #[tokio::test]
    async fn a_frozen_guest_thaws_at_the_deadline_also_under_the_next_hull() {
        let (dir, agent, listener) = agent();
        let freeze = Agent::quiesce(&agent, Duration::from_millis(50));
        let script = [r#"{"return": 2}"#, r#"{"return": 2}"#];
        let (frozen, asked) = tokio::join!(freeze, guest(&listener, &script));
        assert_eq!(frozen.unwrap(), 2);
        assert_eq!(asked, ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]);
        let marker = dir.path().join("frozen.json");
        let thawed = async || {
            let gone = async {
                while marker.exists() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(60), gone).await.unwrap();
        };
        thawed().await;
        // The clock was set back by years while Hull was away, or forward, or the marker is broken.
        let within = Duration::from_millis(50);
        let years = jiff::SignedDuration::from_hours(10 * 365 * 24);
        for until in [Timestamp::now(), Timestamp::now() + years, Timestamp::now() - years] {
            write_durably(&marker, &Frozen { until, within }).unwrap();
            Agent::resume_thaw(&agent);
            assert_eq!(guest(&listener, &[r#"{"return": 2}"#]).await, ["guest-fsfreeze-thaw"]);
            thawed().await;
        }
        std::fs::write(&marker, "{").unwrap();
        Agent::resume_thaw(&agent);
        assert_eq!(guest(&listener, &[r#"{"return": 2}"#]).await, ["guest-fsfreeze-thaw"]);
    }
}
