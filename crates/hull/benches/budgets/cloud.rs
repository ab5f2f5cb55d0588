//! A Hull of the benchmark's own: `hull up` as a child, on a directory that goes with it.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hull_client::{Client, Endpoint};
use hull_types::{
    name::Name,
    node::Node,
    project::Quota,
    wire::{NodeView, ProjectCreate, ProjectView, ServerStatus},
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The project everything is in; it has no quota.
const PROJECT: &str = "bench";

/// A start on a machine where every core is taken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running Hull, all in one. Dropping it deletes its VMs, stops it, and removes what it made on the host.
pub(crate) struct Cloud {
    daemon: Daemon,
    /// Calls, in a project without quota.
    pub(crate) client: Client,
    /// From `exec` to the first answer of the API.
    pub(crate) answered: Duration,
    /// Whether hypervisors may run, which must be ended.
    guests: bool,
}

impl Cloud {
    /// Starts on an empty directory and waits for the API's first answer.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let dir = hull_testkit::short_dir()?;
        let port = hull_testkit::free_port()?;
        let socket = Endpoint::Unix(dir.path().join("hull.sock"));
        let client = Client::new(socket, None, Some(PROJECT.to_owned()))?;
        let begin = Instant::now();
        let daemon = Daemon::start(dir, 'b', &["up", "--listen", &format!("127.0.0.1:{port}")])?;
        let mut cloud = Self { daemon, client, answered: Duration::ZERO, guests: false };
        while cloud.client.get::<ServerStatus>("v1/status", &[]).await.is_err() {
            if let Some(status) = cloud.daemon.child.try_wait()? {
                bail!("hull up ended at its start ({status}): {}", cloud.daemon.log());
            }
            if begin.elapsed() > PATIENCE {
                bail!("hull up does not answer within {} s: {}", PATIENCE.as_secs(), cloud.daemon.log());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cloud.answered = begin.elapsed();
        Ok(cloud)
    }

    /// Makes the project, and waits until the node takes VMs.
    pub(crate) async fn ready(&self) -> anyhow::Result<Node> {
        let body = ProjectCreate {
            name: PROJECT.parse::<Name>()?,
            description: String::new(),
            quota: Some(Quota::default().into()),
        };
        let unscoped = Client::new(Endpoint::Unix(self.data().join("hull.sock")), None, None)?;
        unscoped.nouns("projects").create::<_, ProjectView>(&body).await?;
        let nodes = self.ready_nodes(1).await.with_context(|| self.daemon.log())?;
        Ok(nodes.into_iter().next().context("the cloud has no node")?.node)
    }

    /// A second node, on this machine too. It must outlive the VMs on it, so drop it after the cloud.
    pub(crate) async fn join(&self) -> anyhow::Result<Daemon> {
        let dir = hull_testkit::short_dir()?;
        let token = said(self.command().args(["node", "join-token"]))?;
        said(binary(dir.path()).args(["node", "join", token.trim(), "--name", "second"]))?;
        let second = Daemon::start(dir, 'c', &["node", "run"])?;
        self.ready_nodes(2).await.with_context(|| second.log())?;
        Ok(second)
    }

    /// Waits until so many nodes take VMs.
    async fn ready_nodes(&self, count: usize) -> anyhow::Result<Vec<NodeView>> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut nodes: Vec<NodeView> = self.client.nouns("nodes").list(&[]).await?;
            nodes.retain(|node| node.ready);
            if nodes.len() >= count {
                return Ok(nodes);
            }
            if Instant::now() > end {
                bail!("{count} nodes shall be ready, {} are within {} s", nodes.len(), PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// From now on hypervisors may run.
    #[must_use]
    pub(crate) fn with_guests(mut self) -> Self {
        self.guests = true;
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.child.id()
    }

    pub(crate) fn data(&self) -> &Path {
        self.daemon.data()
    }

    /// The command on this Hull, in its project.
    pub(crate) fn command(&self) -> Command {
        let mut command = binary(self.data());
        command.args(["--project", PROJECT]);
        command
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if !self.guests {
            return;
        }
        // Deleting is Hull's work: it alone knows the processes of its VMs.
        if let Err(error) = said(self.command().args(["vm", "delete", "--all", "--wait", "--timeout", "120"])) {
            eprintln!("bench: VMs of the Hull in {} may be left: {error:#}", self.data().display());
        }
    }
}

/// A Hull in the foreground, as a child. Dropping it stops it, and removes its directory and its networks.
pub(crate) struct Daemon {
    dir: TempDir,
    prefix: String,
    child: Child,
}

impl Daemon {
    /// Runs it on a directory; what it makes on the host is named by `letter`.
    fn start(dir: TempDir, letter: char, words: &[&str]) -> anyhow::Result<Self> {
        // Of at most five characters, and not another bench's.
        let prefix = format!("{letter}{:04x}", std::process::id() & 0xffff);
        let log = File::create(dir.path().join("hull.log"))?;
        let child = binary(dir.path())
            .args(words)
            .args(["--network-prefix", &prefix])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the bench alone: who is to delete VMs must not have ended.
            .process_group(0)
            .spawn()
            .context("the hull binary cannot be run")?;
        Ok(Self { dir, prefix, child })
    }

    pub(crate) fn data(&self) -> &Path {
        self.dir.path()
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("hull.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// Ends the child: asked first, then forced.
    fn end(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Ended already is as good.
            let _ = kill_process(pid, Signal::TERM);
        }
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
        remove_networks(&self.prefix);
    }
}

/// What a command that succeeds prints.
fn said(command: &mut Command) -> anyhow::Result<String> {
    // Out of Ctrl-C's way too.
    let output = command.stdin(Stdio::null()).process_group(0).output().context("the hull binary cannot be run")?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// The binary under test, on a data directory.
fn binary(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hull"));
    command.arg("--data-dir").arg(data).env_remove("HULL_PROJECT").env_remove("HULL_CONTEXT").env_remove("HULL_LOG");
    command
}

/// Namespaces (and with them their devices), host devices and rules whose names begin with this prefix.
fn remove_networks(prefix: &str) {
    let run = |program: &str, args: &[&str]| -> String {
        let output = Command::new(program).args(args).stderr(Stdio::null()).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    };
    let ours = |word: &&str| word.starts_with(prefix);
    for namespace in
        run("ip", &["netns", "list"]).lines().filter_map(|line| line.split_whitespace().next()).filter(ours)
    {
        run("ip", &["netns", "delete", namespace]);
    }
    let links = run("ip", &["-brief", "link"]);
    for link in links.lines().filter_map(|line| line.split([' ', '@']).next()).filter(ours) {
        run("ip", &["link", "delete", link]);
    }
    for table in run("nft", &["list", "tables"]).lines() {
        if let [_, family, name] = table.split_whitespace().collect::<Vec<_>>()[..]
            && name.starts_with(prefix)
        {
            run("nft", &["delete", "table", family, name]);
        }
    }
}

/// Where things are kept between runs: below the build directory.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    let dir = hull_testkit::guest::cache_dir()?.join("bench");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}
