//! `hull up`, `hull down`, `hull server`: the long-running forms.
//!
//! In the background Hull is its own session with its log in the data directory. Stopping it stops no VM: those are processes of
//! their own, and are found again at the next start.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    net::{IpAddr, SocketAddr},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use hull_server::app::Settings;
use hull_types::error::{Error, Result};
use ipnet::IpNet;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal},
};

use crate::{
    config::DATA_DIR,
    output, telemetry,
    wiring::{self, HostNetworks, Parts},
};

/// How long a start or a stop may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of every long-running form.
// The variant `hull node run` makes a group of the type's own name.
#[derive(Clone, Debug, Args)]
#[group(id = "long-running")]
pub(crate) struct Run {
    /// Go on in the background; return when the API answers
    #[arg(short, long)]
    background: bool,
    /// The log's form
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Options of forms with a node in them.
#[derive(Clone, Debug, Args)]
pub(crate) struct OnHost {
    /// What names of the node's networks on this host begin with; two Hulls on one host need two
    #[arg(long, default_value = "hull", env = "HULL_NETWORK_PREFIX")]
    network_prefix: String,
    /// The address of this host at which other nodes reach its networks (VXLAN, UDP port 4789)
    #[arg(long, value_name = "ADDRESS", env = "HULL_UNDERLAY")]
    underlay: Option<IpAddr>,
    /// A provider network and the bridge of this host that leads to it, `physnet1=br-ext` (repeatable)
    #[arg(long = "provider", value_name = "NAME=BRIDGE", env = "HULL_PROVIDERS", value_delimiter = ',', value_parser = provider)]
    providers: Vec<(String, String)>,
}

fn provider(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, bridge)) if !name.is_empty() && !bridge.is_empty() => Ok((name.to_owned(), bridge.to_owned())),
        _ => Err("say the provider network's name and the bridge, as in physnet1=br-ext".to_owned()),
    }
}

impl OnHost {
    pub(crate) fn networks(&self) -> HostNetworks {
        HostNetworks {
            prefix: self.network_prefix.clone(),
            underlay: self.underlay,
            providers: self.providers.iter().cloned().collect(),
        }
    }
}

/// Options of forms with a server in them.
#[derive(Clone, Debug, Args)]
#[group(id = "serving")]
pub(crate) struct Serving {
    /// Days that audit records are kept
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..), env = "HULL_AUDIT_DAYS")]
    audit_days: u32,
    /// A proxy, or a network of them, whose X-Forwarded-For tells the audit where calls come from (repeatable)
    #[arg(long = "trusted-proxy", value_name = "CIDR", value_parser = proxy)]
    trusted_proxies: Vec<IpNet>,
}

impl From<Serving> for Settings {
    fn from(serving: Serving) -> Self {
        Self { audit_days: serving.audit_days, trusted_proxies: serving.trusted_proxies }
    }
}

/// A network, or an address that stands for itself.
fn proxy(text: &str) -> std::result::Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| address()).map_err(|_| format!("{text:?} is no address and no network"))
}

/// The log's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// JSON lines
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Where the API listens
    #[arg(long, default_value = "127.0.0.1:8440")]
    listen: SocketAddr,
    #[command(flatten)]
    host: OnHost,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Args)]
pub(crate) struct Server {
    /// Where the API and nodes' links listen
    #[arg(long, default_value = "0.0.0.0:8440")]
    listen: SocketAddr,
    /// A name or address people and nodes reach this server by (repeatable); goes into its certificate
    #[arg(long = "name")]
    names: Vec<String>,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Args)]
pub(crate) struct Down {}

impl Up {
    pub(crate) fn run(self, data_dir: Option<PathBuf>) -> Result<u8> {
        let parts = Parts::All { listen: self.listen, host: self.host.networks(), settings: self.serving.into() };
        start(data_dir, &self.run, &parts)
    }
}

impl Server {
    pub(crate) fn run(self, data_dir: Option<PathBuf>) -> Result<u8> {
        let parts = Parts::Server { listen: self.listen, names: self.names, settings: self.serving.into() };
        start(data_dir, &self.run, &parts)
    }
}

/// Runs these parts here, or in the background.
pub(crate) fn start(data_dir: Option<PathBuf>, run: &Run, parts: &Parts) -> Result<u8> {
    let data = data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR));
    std::fs::create_dir_all(&data)
        .map_err(|e| Error::invalid(format!("the data directory {} cannot be made: {e}", data.display())))?;
    let data = data.canonicalize().map_err(|e| Error::invalid(format!("{}: {e}", data.display())))?;
    if run.background {
        return background(&data);
    }
    let _telemetry = telemetry::init(run.log_format == LogFormat::Json)?;
    wiring::run(&data, parts)?;
    Ok(0)
}

/// Starts this very command again in a session of its own, and waits until it is ready.
fn background(data: &Path) -> Result<u8> {
    if let Some((pid, _)) = wiring::running(data) {
        output::note(format!("Hull runs already (process {pid})"));
        return Ok(0);
    }
    let log = data.join("hull.log");
    let open = || File::options().create(true).append(true).open(&log);
    let refuse = |e: std::io::Error| Error::invalid(format!("{} cannot be written: {e}", log.display()));
    let (out, err) = (open().map_err(refuse)?, open().map_err(refuse)?);
    let begin = out.metadata().map_err(refuse)?.len();
    let program = std::env::current_exe().map_err(|e| Error::internal(format!("this program's own path: {e}")))?;
    let words = std::env::args_os().skip(1).filter(|word| word != "--background" && word != "-b");
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(out).stderr(err).current_dir("/");
    // SAFETY: setsid is async-signal-safe and touches no memory of this process.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into));
    }
    command.env("HULL_DATA", data);
    let mut child = command.spawn().map_err(|e| Error::internal(format!("Hull cannot be started: {e}")))?;
    ready(data, &mut child, &log, begin)?;
    output::note(format!("Hull runs (process {}); its log is {}", child.id(), log.display()));
    Ok(0)
}

/// Waits until the API answers, or the process ended.
fn ready(data: &Path, child: &mut Child, log: &Path, begin: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            let said = tail(log, begin);
            return Err(Error::unavailable(format!("Hull ended at its start ({status}); it said:\n{said}")));
        }
        if wiring::running(data).is_some_and(|(_, ready)| ready) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::timeout(format!(
                "Hull has not become ready in {} s; see {}",
                PATIENCE.as_secs(),
                log.display()
            )));
        }
        pause();
    }
}

/// Between two looks at a process that is becoming ready.
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// What the log says from a place on, at most its last 4 KiB.
fn tail(log: &Path, begin: u64) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(log) {
        let end = file.metadata().map_or(0, |meta| meta.len());
        let from = begin.max(end.saturating_sub(4096));
        // A log that cannot be read leaves the text empty; the exit status was told already.
        let _ = file.seek(SeekFrom::Start(from)).and_then(|_| file.read_to_end(&mut text));
    }
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

impl Down {
    #[expect(clippy::unused_self, reason = "commands are run alike")]
    pub(crate) fn run(self, data_dir: Option<PathBuf>) -> Result<u8> {
        let data = data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR));
        let Some((pid, _)) = wiring::running(&data) else {
            output::note("Hull does not run");
            return Ok(0);
        };
        let refuse = |e| Error::internal(format!("process {pid} cannot be stopped: {e}"));
        let Some(target) = Pid::from_raw(pid) else { return Ok(0) };
        // The descriptor names this very process, whatever becomes of the number.
        let process = rustix::process::pidfd_open(target, PidfdFlags::empty()).map_err(refuse)?;
        rustix::process::pidfd_send_signal(&process, Signal::TERM).map_err(refuse)?;
        // A process's descriptor becomes readable when it ends.
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        if rustix::event::poll(&mut ended, Some(&patience)).map_err(refuse)? == 0 {
            return Err(Error::timeout(format!(
                "process {pid} has not ended in {} s; see its log",
                PATIENCE.as_secs()
            )));
        }
        output::note("Hull is down; its VMs go on running");
        Ok(0)
    }
}
