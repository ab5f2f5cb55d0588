//! `hull doctor`: looks at the host, the data and the server, and says how to mend what is wrong.
//!
//! Each check answers with a [`Finding`]; none changes anything. The exit code is 1 where something is broken, so that scripts can ask.

use std::path::{Path, PathBuf};

use clap::Args;
use hull_client::Client;
use hull_core::certificate::Stage;
use hull_types::{
    error::Result,
    units::Bytes,
    wire::{NodeView, ServerStatus},
};
use serde::Serialize;

use super::Global;
use crate::{
    config::{self, DATA_DIR},
    output::{self, Show, word},
};

#[derive(Debug, Args)]
pub(crate) struct Doctor {}

/// How long nodes have to find a server that has started: they dial again at least so often, and look at their hosts first.
const NODES_ANSWER_WITHIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(30);

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Ok,
    Warning,
    Broken,
}

/// What a check found, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), mend: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, found: found.into(), mend: Some(mend.into()) }
    }

    fn broken(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Broken, found: found.into(), mend: Some(mend.into()) }
    }
}

impl Show for Finding {
    const COLUMNS: &'static [&'static str] = &["check", "verdict", "found", "mend"];
    fn row(&self) -> Vec<String> {
        let mend = self.mend.clone().unwrap_or_default();
        vec![self.check.to_owned(), word(&self.verdict), self.found.clone(), mend]
    }
}

/// Programs the node needs, with the Debian package that brings each.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("swtpm", "swtpm"),
    ("mmdebstrap", "mmdebstrap"),
];

impl Doctor {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let data = global.data_dir.clone().unwrap_or_else(|| PathBuf::from(DATA_DIR));
        let mut findings: Vec<_> = PROGRAMS.iter().map(|(program, package)| program_found(program, package)).collect();
        findings.push(root());
        findings.push(accelerator());
        findings.push(firmware());
        findings.push(cgroups());
        findings.push(memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()));
        findings.push(space(&data));
        findings.push(clock());
        findings.extend(certificates(&data, hull_types::Timestamp::now()));
        match config::client(global.context.as_deref(), global.data_dir.as_deref(), global.project.clone()) {
            Ok(client) => findings.extend(server(&client, &data).await),
            Err(error) => {
                findings.push(Finding::broken("context", error.to_string(), "choose one with `hull context use`"))
            }
        }
        output::list(&findings, global.output);
        Ok(u8::from(findings.iter().any(|finding| finding.verdict == Verdict::Broken)))
    }
}

fn program_found(program: &'static str, package: &str) -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    match places.map(|dir| dir.join(program)).find(|file| file.is_file()) {
        Some(file) => Finding::ok(program, file.display().to_string()),
        None => Finding::broken(program, "not installed", format!("apt install {package}")),
    }
}

fn root() -> Finding {
    if rustix::process::geteuid().is_root() {
        return Finding::ok("rights", "root");
    }
    Finding::warning(
        "rights",
        "not root",
        "a node needs root to make networks and give VMs users of their own; use sudo",
    )
}

/// Only a guest run to its end proves acceleration: the node does that at its start and reports it.
fn accelerator() -> Finding {
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        return Finding::ok(
            "kvm",
            "/dev/kvm opens (whether guests run is proven at start: see the node's accelerator)",
        );
    }
    Finding::warning(
        "kvm",
        "/dev/kvm does not open: VMs run by emulation, ten times slower",
        "turn on virtualisation in the firmware, or nested virtualisation where this host is a VM",
    )
}

fn firmware() -> Finding {
    match Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd").exists() {
        true => Finding::ok("uefi", "OVMF is installed"),
        false => Finding::warning("uefi", "OVMF is not installed: VMs can start with BIOS only", "apt install ovmf"),
    }
}

fn cgroups() -> Finding {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let memory = unified || Path::new("/sys/fs/cgroup/memory").is_dir();
    match (unified, memory) {
        (true, _) => Finding::ok("cgroups", "version 2"),
        (false, true) => Finding::ok(
            "cgroups",
            "version 1 (it does not limit disk writes that pass through the page cache; version 2 does)",
        ),
        (false, false) => {
            Finding::broken("cgroups", "no memory controller", "mount a cgroup hierarchy: VMs are limited by it")
        }
    }
}

fn memory(meminfo: &str) -> Finding {
    let field = |name: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok().map(Bytes::kib)
    };
    match (field("MemAvailable:"), field("MemTotal:")) {
        (Some(free), Some(total)) if free < Bytes::mib(512) => {
            Finding::warning("memory", format!("{free} of {total} free"), "stop VMs, or add memory")
        }
        (Some(free), Some(total)) => Finding::ok("memory", format!("{free} of {total} free")),
        _ => Finding::warning("memory", "cannot be read", "is /proc mounted?"),
    }
}

/// Free space where the data is, or would be.
fn space(data: &Path) -> Finding {
    let Some(dir) = data.ancestors().find(|dir| dir.exists()) else {
        return Finding::broken(
            "space",
            format!("{} cannot be reached", data.display()),
            "name another with --data-dir",
        );
    };
    match rustix::fs::statvfs(dir) {
        Ok(fs) => {
            let free = Bytes(fs.f_bavail.saturating_mul(fs.f_frsize));
            let found = format!("{free} free for {}", data.display());
            if free < Bytes::gib(2) {
                Finding::broken("space", found, "free some space: images and VM disks need gigabytes")
            } else if free < Bytes::gib(10) {
                Finding::warning("space", found, "enough for a few VMs only")
            } else {
                Finding::ok("space", found)
            }
        }
        Err(e) => Finding::broken("space", format!("{}: {e}", dir.display()), "name another directory with --data-dir"),
    }
}

/// A clock far in the past breaks certificates and leases.
fn clock() -> Finding {
    let now = hull_types::Timestamp::now();
    if now.as_second() < 1_750_000_000 {
        return Finding::broken(
            "clock",
            format!("{now} is in the past"),
            "set it: `timedatectl set-ntp true`, or `date -s`",
        );
    }
    Finding::ok("clock", format!("{now:.0}"))
}

/// The certificates kept here. Server and node renew theirs in time, so that one that ends tells of something broken.
fn certificates(data: &Path, now: hull_types::Timestamp) -> Vec<Finding> {
    let read = |file: &str| std::fs::read_to_string(data.join(file)).ok();
    let of_node = read("node/identity.json").and_then(|text| {
        let identity: serde_json::Value = serde_json::from_str(&text).ok()?;
        identity.get("certificate")?.as_str().map(str::to_owned)
    });
    let kept = [
        ("the CA's", read("pki/ca.pem"), "plan a new CA: every node joins again, every client trusts it anew"),
        ("the server's", read("pki/server.pem"), "restart the server and look at its log: it renews this by itself"),
        (
            "the node's",
            of_node,
            "look at the node's log for why it is not renewed; or join it again with a token of `hull node join-token --name <node>`",
        ),
    ];
    kept.into_iter().filter_map(|(whose, pem, mend)| Some(certificate(whose, &pem?, mend, now))).collect()
}

fn certificate(whose: &str, pem: &str, mend: &str, now: hull_types::Timestamp) -> Finding {
    let validity = match hull_node::link::renew::validity(pem) {
        Ok(validity) => validity,
        Err(error) => return Finding::broken("certificate", format!("{whose}: {}", error.detail), mend),
    };
    let until = validity.until;
    match validity.stage(now) {
        Stage::Good | Stage::Due if now < validity.from => {
            let found = format!("{whose} holds only from {}", validity.from);
            Finding::broken("certificate", found, "set this host's clock")
        }
        Stage::Good | Stage::Due => Finding::ok("certificate", format!("{whose} holds until {until}")),
        Stage::Ending => Finding::warning("certificate", format!("{whose} ends at {until}"), mend),
        Stage::Over => Finding::broken("certificate", format!("{whose} ended at {until}"), mend),
    }
}

async fn server(client: &Client, data: &Path) -> Vec<Finding> {
    let status: ServerStatus = match client.get("v1/status", &[]).await {
        Ok(status) => status,
        Err(error) => {
            let mut findings = vec![Finding::warning("server", error.to_string(), "start it with `hull up`")];
            findings.extend(resting_store(data));
            return findings;
        }
    };
    let own = env!("CARGO_PKG_VERSION");
    let mut findings = vec![if status.version == own {
        Finding::ok("server", format!("version {own}, up {}", output::ago(status.started_at)))
    } else {
        let found = format!("version {}, this command is {own}", status.version);
        Finding::warning("server", found, "install the same version on both sides")
    }];
    let up = hull_types::Timestamp::now().duration_since(status.started_at);
    match client.nouns("nodes").list::<NodeView>(&[]).await {
        Ok(nodes) => findings.extend(nodes.iter().flat_map(|view| node(view, up < NODES_ANSWER_WITHIN))),
        Err(error) => findings.push(Finding::warning("nodes", error.to_string(), "a system reader may see them")),
    }
    findings
}

/// The store of a Hull that does not run can be looked at.
fn resting_store(data: &Path) -> Option<Finding> {
    let dir = super::store::dir(data);
    dir.exists().then(|| match super::store::check(&dir) {
        Ok(()) => Finding::ok("store", format!("{} is sound", dir.display())),
        Err(error) => Finding::broken("store", error.to_string(), "see `hull store list` for backups"),
    })
}

/// A node's own conditions are its doctor's findings. One that does not answer a server that has just started may still
/// be looking at its own host.
fn node(view: &NodeView, server_is_new: bool) -> Vec<Finding> {
    let name = &view.node.name;
    if !view.ready && server_is_new {
        let found = format!("{name} has not answered yet; Hull has only just started");
        return vec![Finding::warning("node", found, "ask again in half a minute")];
    }
    if !view.ready {
        let since = view.status.as_ref().map(|status| format!(" since {}", status.at)).unwrap_or_default();
        return vec![Finding::broken(
            "node",
            format!("{name} has not answered{since}"),
            "start Hull there; its VMs may still run",
        )];
    }
    let Some(status) = &view.status else { return Vec::new() };
    let accel = word(&status.facts.accel);
    let mut findings =
        vec![Finding::ok("node", format!("{name} answers; accelerator {accel}; {} free for disks", status.disk_free))];
    findings.extend(status.conditions.iter().filter(|condition| condition.warning).map(|condition| {
        Finding::warning("node", format!("{name}: {}", condition.name), condition.reason.message.clone())
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_runs_out_is_told() {
        let text = "MemTotal: 1024000 kB\nMemAvailable: 102400 kB\n";
        assert_eq!(memory(text).verdict, Verdict::Warning);
        assert_eq!(memory(&text.replace(" 102400", " 1002400")).verdict, Verdict::Ok);
        assert_eq!(memory("").verdict, Verdict::Warning);
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let finding = program_found("no-such-program", "some-package");
        assert_eq!((finding.verdict, finding.mend.as_deref()), (Verdict::Broken, Some("apt install some-package")));
    }

    #[test]
    fn a_node_that_does_not_answer_is_broken_once_it_has_had_time() {
        let node: hull_types::node::Node = serde_json::from_value(serde_json::json!({
            "id": uuid::Uuid::nil(), "name": "n1", "joined_at": "2026-01-01T00:00:00Z"
        }))
        .unwrap();
        let allocated = hull_types::flavor::Resources { vcpus: 0, memory: Bytes::ZERO, disk: Bytes::ZERO };
        let view = NodeView { node, ready: false, status: None, allocated, vms: 0 };
        let verdicts = [true, false].map(|new| super::node(&view, new)[0].verdict);
        assert_eq!(verdicts, [Verdict::Warning, Verdict::Broken]);
    }

    #[test]
    fn a_certificate_is_told_before_it_ends() {
        use Verdict::{Broken, Ok, Warning};
        let dir = tempfile::tempdir().unwrap();
        let after = |days: i64| hull_types::Timestamp::from_second(1_800_000_000 + days * 86_400).unwrap();
        let ca = hull_server::tls::Ca::open(&dir.path().join("pki"), after(0)).unwrap();
        ca.server(&["localhost".into()], after(0)).unwrap();
        let verdicts = |days| certificates(dir.path(), after(days)).iter().map(|f| f.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(200), [Ok, Ok], "the CA's and the server's");
        assert_eq!(verdicts(310), [Ok, Warning]);
        assert_eq!(verdicts(366), [Ok, Broken]);
        assert_eq!(verdicts(3_700), [Broken, Broken]);
        assert_eq!(verdicts(-10), [Broken, Broken], "by a clock that is behind");
        std::fs::write(dir.path().join("pki/server.pem"), "?").unwrap();
        assert_eq!(verdicts(0), [Ok, Broken]);
    }
}
