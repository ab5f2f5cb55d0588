//! The real binary on a host of its own: a network namespace with a cable, a data directory, a prefix for its networks.
//!
//! A [`Hull`] that is dropped takes everything with it, after a panic too: machines, processes, namespaces, control groups, files.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses its part")]

pub mod site;

use std::{
    fmt::Debug,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use hull_testkit::{KillOnDrop, TestHost, TinyGuest, eventually_blocking, short_dir};
use serde_json::Value;
use tempfile::TempDir;

/// Generous: guests are emulated, and the machine may be busy with everything else.
pub const DEADLINE: Duration = Duration::from_secs(180);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A host for Hull, with one data directory.
pub struct Hull {
    pub host: TestHost,
    pub prefix: String,
    dir: TempDir,
    /// Who holds the mounts that only this Hull sees.
    mounts: Option<Child>,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

impl Hull {
    /// A host on which nothing runs yet.
    pub fn on(host: TestHost) -> Self {
        // Five characters, of this process and test alone: tests run side by side.
        let number = (std::process::id() * 8 + NEXT.fetch_add(1, Ordering::Relaxed) % 8) % 36u32.pow(4);
        let digits: String =
            (0..4).map(|place| char::from_digit(number / 36u32.pow(place) % 36, 36).unwrap()).collect();
        Self { host, prefix: format!("e{digits}"), dir: short_dir().unwrap(), mounts: None }
    }

    /// A host of its own on which nothing runs yet.
    pub fn new() -> Self {
        Self::on(TestHost::new("hull").unwrap())
    }

    /// A host of its own with mounts of its own: what is mounted by [`Self::root`] is seen by nobody else.
    pub fn with_mounts() -> Self {
        let mut hull = Self::new();
        let mut holder = Command::new("unshare");
        holder.args(["--mount", "sh", "-c", "echo ready; exec sleep infinity"]).stdout(Stdio::piped());
        let mut holder = holder.spawn().unwrap();
        let ready = &mut [0; 5];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), ready).unwrap();
        hull.mounts = Some(holder);
        hull
    }

    /// Runs a shell line as root of this host; what it printed.
    #[track_caller]
    pub fn root(&self, line: &str) -> String {
        let said = Said::from(self.program("sh").args(["-c", line]).output().unwrap());
        assert_eq!(said.code, 0, "{line}: {said:?}");
        said.out
    }

    /// A host with server and node, and the tiny guest as image `tiny`.
    pub fn with_tiny() -> Self {
        let hull = Self::new();
        hull.up();
        hull.import_tiny();
        hull
    }

    /// Its data directory, as Hull names it.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The same as the test sees it.
    fn data_here(&self) -> PathBuf {
        match &self.mounts {
            Some(holder) => PathBuf::from(format!("/proc/{}/root{}", holder.id(), self.data().display())),
            None => self.data(),
        }
    }

    /// A file beside the data directory, gone with the host.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A program in the host's network and the machine's own mounts (`ip netns exec` would give it mounts of its own, where
    /// namespaces that Hull makes are seen by nobody else).
    pub fn program(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        if let Some(holder) = &self.mounts {
            command.arg(format!("--mount=/proc/{}/ns/mnt", holder.id()));
        }
        command.arg(format!("--net={}", self.host.namespace_path().display())).arg(program);
        command
    }

    /// The command about this host's Hull, as root of this host and nobody's contexts.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_hull"));
        command.args(words).arg("--data-dir").arg(self.data());
        for variable in ["HULL_DATA", "HULL_CONTEXT", "HULL_PROJECT", "HULL_OUTPUT", "RUST_LOG"] {
            command.env_remove(variable);
        }
        command.env("HOME", self.path()).env("XDG_CONFIG_HOME", self.path().join("config"));
        command.env("HULL_NETWORK_PREFIX", &self.prefix).stdin(Stdio::null());
        command
    }

    pub fn run(&self, words: &[&str]) -> Said {
        // Options of ours must stand before what follows a `--`.
        let (ours, rest) = words.split_at(words.iter().position(|word| *word == "--").unwrap_or(words.len()));
        self.command(ours).args(rest).output().unwrap().into()
    }

    /// Runs a command that must do what it is asked; what it printed.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let said = self.run(words);
        assert_eq!(said.code, 0, "hull {}: {}\n{}", words.join(" "), said.err, self.log_tail());
        said.out
    }

    /// Runs a command that must do what it is asked; the document it printed.
    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        let mut all = vec!["-o", "json"];
        all.extend(words);
        let text = self.ok(&all);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("hull {}: {e}: {text}", words.join(" ")))
    }

    /// Runs a command that must be refused with this exit code; what it said.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str]) -> String {
        let said = self.run(words);
        assert_eq!(said.code, code, "hull {}: {said:?}", words.join(" "));
        said.err
    }

    pub fn up(&self) {
        self.ok(&["up", "--background"]);
    }

    /// Hull's process id.
    pub fn pid(&self) -> u32 {
        let text = std::fs::read_to_string(self.data_here().join("hull.lock")).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }

    /// What `kill -9` does.
    pub fn kill(&self) {
        let process = KillOnDrop::new(self.pid()).unwrap();
        process.kill().unwrap();
        assert!(process.ended_within(DEADLINE));
    }

    pub fn import_tiny(&self) {
        let disk = TinyGuest::get().unwrap().disk("").unwrap();
        self.ok(&["image", "import", disk.to_str().unwrap(), "--name", "tiny"]);
    }

    /// The tiny guest as it starts soonest: a kernel and its initial file system, beside a disk with nothing on it.
    pub fn import_guest(&self) {
        let (guest, blank) = (TinyGuest::get().unwrap(), self.file("blank.raw"));
        std::fs::write(&blank, vec![0; 1 << 20]).unwrap();
        for (name, file) in [("kernel", &guest.kernel), ("initrd", &guest.initrd), ("disk", &blank)] {
            let more: &[&str] = if name == "disk" { &["--format", "raw"] } else { &[] };
            let import = ["image", "import", file.to_str().unwrap(), "--name", name, "--kind", name];
            self.ok(&[&import[..], more].concat());
            self.ok(&["image", "share", name]);
        }
    }

    /// A key pair for logging in; the private key's file.
    pub fn key(&self) -> PathBuf {
        let key = self.file("key");
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.unwrap().success());
        key
    }

    /// Creates a small VM of the tiny guest and waits until it runs.
    pub fn create(&self, name: &str, more: &[&str]) -> Value {
        let mut words = vec!["vm", "create", name, "--image", "tiny", "--vcpus", "1", "--memory", "256MiB"];
        words.extend(["--disk", "1GiB", "--wait", "--timeout", "180"]);
        words.extend(more);
        let made = self.json(&words);
        assert_eq!(made["state"], "running", "{made:#}");
        self.vm(name)
    }

    pub fn vm(&self, name: &str) -> Value {
        self.json(&["vm", "show", name])
    }

    /// Waits until the VM is as wanted.
    #[track_caller]
    pub fn until(&self, vm: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let probe = || {
            let view = self.vm(vm);
            if wanted(&view) { Ok(view) } else { Err(view) }
        };
        eventually_blocking(what, DEADLINE, probe).unwrap_or_else(|e| panic!("{e:#}\n{}", self.log_tail()))
    }

    /// The VM's whole console log.
    pub fn console(&self, vm: &str) -> String {
        self.ok(&["vm", "log", vm, "--tail", "16MiB"])
    }

    /// Waits until the console has said `text` so often; all it said.
    #[track_caller]
    pub fn until_said(&self, vm: &str, text: &str, times: usize) -> String {
        let probe = || {
            let log = self.console(vm);
            if log.matches(text).count() >= times { Ok(log) } else { Err(log) }
        };
        eventually_blocking(text, DEADLINE, probe).unwrap_or_else(|e| panic!("{e:#}\n{}", self.log_tail()))
    }

    /// Runs a line inside a VM by `hull ssh`, until its sshd takes it.
    #[track_caller]
    pub fn ssh(&self, vm: &str, key: &Path, line: &str) -> String {
        // The tiny guest makes a new host key at each boot; nobody's known hosts are touched.
        const ALONE: &str = "mkdir -p ~root/.ssh && mount -t tmpfs none ~root/.ssh && exec \"$@\"";
        let hull = self.command(&["ssh", vm, "-i", key.to_str().unwrap()]);
        let probe = || {
            let mut ssh = Command::new("unshare");
            ssh.args(["--mount", "sh", "-c", ALONE, "sh"]).arg(hull.get_program()).args(hull.get_args());
            ssh.args(["--", line]).env("HOME", self.path()).stdin(Stdio::null());
            let said = Said::from(ssh.output().unwrap());
            if said.code == 0 { Ok(said.out) } else { Err(said) }
        };
        eventually_blocking(line, DEADLINE, probe).unwrap_or_else(|e| panic!("{e:#}\n{}", self.log_tail()))
    }

    /// Types on a VM's serial console; the session ends when the answer is dropped.
    pub fn types(&self, vm: &str, text: &str) -> Running {
        let typed = self.file("typed");
        std::fs::write(&typed, text).unwrap();
        let mut console = self.command(&["vm", "console", vm]);
        console.stdin(std::fs::File::open(&typed).unwrap());
        Running::start(console)
    }

    /// The actions in a VM's history, oldest first, each with its message.
    pub fn history(&self, id: &str) -> Vec<(String, String)> {
        let events = self.json(&["event", "list", "--resource", id]);
        let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
        events.as_array().unwrap().iter().map(|event| (text(event, "action"), text(event, "message"))).collect()
    }

    /// Namespaces this Hull made.
    pub fn namespaces(&self) -> Vec<String> {
        let names = std::fs::read_dir("/run/netns").into_iter().flatten();
        let names = names.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        names.filter(|name| name.starts_with(&format!("{}-", self.prefix))).collect()
    }

    /// The end of what Hull said, for a test that failed.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.data_here().join("hull.log")).unwrap_or_default();
        let from = log.len().saturating_sub(6000);
        format!("--- hull.log\n{}", String::from_utf8_lossy(&log.as_bytes()[from..]))
    }

    /// Ids of VMs that have or had something in the data directory.
    fn ids(&self) -> Vec<String> {
        let kinds = ["vms", "disks"].map(|kind| std::fs::read_dir(self.data_here().join("node").join(kind)));
        let entries = kinds.into_iter().flatten().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

impl Drop for Hull {
    fn drop(&mut self) {
        let ids = self.ids();
        if self.data_here().join("hull.lock").exists() {
            let _ = self.run(&["vm", "delete", "--all", "--wait", "--timeout", "60"]);
            let _ = self.run(&["down"]);
        }
        for id in ids {
            for process in processes(&id) {
                drop(KillOnDrop::new(process));
            }
            for group in control_groups(&id) {
                let gone = || std::fs::remove_dir(&group).or_else(|e| if group.exists() { Err(e) } else { Ok(()) });
                let _ = eventually_blocking("control group", Duration::from_secs(10), gone);
            }
        }
        for name in self.namespaces() {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
        if let Some(mut holder) = self.mounts.take() {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// A line in a guest, by ssh from a host as whoever has the key.
pub fn ssh_from(host: &TestHost, key: &Path, address: &str, line: &str) -> Command {
    // The tiny guest makes a new host key at each boot, and the machine's own ssh configuration is nobody's here.
    let mut ssh = host.command("ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"]);
    ssh.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=20"]);
    ssh.arg("-i").arg(key).args(["-l", "debian", address, line]).stdin(Stdio::null());
    ssh
}

/// Control groups of a VM, in whichever hierarchies the machine has.
pub fn control_groups(id: &str) -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path());
    hierarchies.chain([root.clone()]).map(|dir| dir.join("hull").join(id)).filter(|dir| dir.is_dir()).collect()
}

/// Processes of a VM.
pub fn processes(id: &str) -> Vec<u32> {
    let groups = control_groups(id).into_iter();
    let lists = groups.map(|group| std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default());
    let mut pids: Vec<u32> =
        lists.flat_map(|list| list.lines().filter_map(|l| l.parse().ok()).collect::<Vec<_>>()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Every path below a directory with this text in its name.
pub fn traces(dir: &Path, text: &str) -> Vec<PathBuf> {
    let found = Command::new("find").arg(dir).args(["-name", &format!("*{text}*")]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(PathBuf::from).collect()
}

/// The text at a place of a document.
#[track_caller]
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no text at {pointer}: {value:#}"))
}

/// A number at a place of a document.
#[track_caller]
pub fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number at {pointer}: {value:#}"))
}

/// A process of the test's own, interrupted and read at its end, killed where the test fails.
pub struct Running(Option<Child>);

impl Running {
    pub fn start(mut command: Command) -> Self {
        Self(Some(command.stdout(Stdio::piped()).spawn().unwrap()))
    }

    /// The next line it says.
    pub fn line(&mut self) -> String {
        let said = self.0.as_mut().unwrap().stdout.as_mut().unwrap();
        let (mut line, mut byte) = (Vec::new(), [0]);
        // One by one: what comes after it is for who reads next.
        while said.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    }

    /// Ctrl-C; what it said until then.
    pub fn interrupt(mut self) -> String {
        let child = self.0.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        Said::from(child.wait_with_output().unwrap()).out
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
