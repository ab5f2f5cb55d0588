//! A cloud with an outside: the host's provider network ends at a machine of nobody's in the cloud, and people of several
//! projects work by log-ins of their own.
//!
//! ```text
//!   ann, bob ── https ── Hull's host [br-ext] ── seg [outside: 203.0.113.1, 2001:db8:ff::1]
//! ```

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use hull_testkit::{TestHost, TinyGuest, eventually_blocking};
use serde_json::Value;

use super::{DEADLINE, Hull, Said};

/// Hull on a host with a provider's network, and a machine out there.
pub struct Site {
    pub hull: Hull,
    outside: TestHost,
    cmdline: String,
}

/// Someone who may work in a project of the same name, and nothing else.
pub struct Tenant<'a> {
    site: &'a Site,
    pub name: &'static str,
    /// Their private key; the public one is beside it.
    pub key: PathBuf,
}

impl Site {
    /// Everything up, the external network `outside` there for every project's routers, and for every project's VMs the
    /// tiny guest, whose kernel gets these further words.
    pub fn new(words: &str) -> Self {
        let (hull, outside) = (Hull::new(), TestHost::new("outside").unwrap());
        let cable = format!("ip link add ext0 type veth peer name seg netns {}", outside.namespace());
        let host = format!("ip link add br-ext type bridge; ip link set br-ext up; {cable}");
        hull.host.run(&format!("{host}; ip link set ext0 master br-ext up")).unwrap();
        outside.run("ip addr add 203.0.113.1/24 dev seg; ip -6 addr add 2001:db8:ff::1/64 dev seg nodad").unwrap();
        outside.run("ip link set seg up").unwrap();
        let cmdline = format!("{} {words}", TinyGuest::micro_cmdline());
        let site = Self { hull, outside, cmdline };
        site.up();
        site.hull.import_guest();
        site.hull.ok(&["network", "create", "outside", "--provider", "physnet1", "--external"]);
        let range = ["--gateway", "203.0.113.1", "--pool", "203.0.113.10-203.0.113.99"];
        site.hull.ok(&[&["subnet", "create", "v4", "203.0.113.0/24", "--network", "outside"][..], &range].concat());
        let range = ["--gateway", "2001:db8:ff::1", "--pool", "2001:db8:ff::10-2001:db8:ff::99"];
        site.hull.ok(&[&["subnet", "create", "v6", "2001:db8:ff::/64", "--network", "outside"][..], &range].concat());
        site
    }

    pub fn up(&self) {
        self.hull.ok(&["up", "--background", "--provider", "physnet1=br-ext"]);
    }

    /// A new project, and its member of the same name who has logged in by a password.
    pub fn tenant(&self, name: &'static str) -> Tenant<'_> {
        let password = format!("the-long-password-of-{name}");
        self.hull.ok(&["project", "create", name]);
        typed(self.hull.command(&["user", "create", name, "--password-stdin"]), &password);
        self.hull.ok(&["role", "grant", "member", "--user", name, "--project", name]);
        std::fs::create_dir(self.hull.file(name)).unwrap();
        let key = self.hull.file(name).join("key");
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.unwrap().success());
        let tenant = Tenant { site: self, name, key };
        let ca = self.hull.data().join("pki/ca.pem");
        let server = ["--server", "https://127.0.0.1:8440", "--ca", ca.to_str().unwrap()];
        let login = [&["login", "--user", name, "--password-stdin", "--project", name][..], &server].concat();
        typed(tenant.command(&login), &password);
        tenant
    }

    /// A line at an address inside the cloud, by ssh from outside as whoever has the key. Once, whatever comes of it.
    pub fn ssh(&self, key: &Path, address: &str, line: &str) -> Said {
        super::ssh_from(&self.outside, key, address, line).output().unwrap().into()
    }

    /// The same until it succeeds; what it printed.
    #[track_caller]
    pub fn until_ssh(&self, key: &Path, address: &str, line: &str) -> String {
        let probe = || {
            // Asked first, briefly and often: ssh would be slow to find out, and must not be hurried once it is answered.
            let open = self.outside.run(&format!("timeout 1 bash -c ': </dev/tcp/{address}/22'"));
            open.map_err(|e| format!("{e:#}"))?;
            let said = self.ssh(key, address, line);
            if said.code == 0 { Ok(said.out) } else { Err(format!("{said:?}")) }
        };
        eventually_blocking(line, DEADLINE, probe).unwrap_or_else(|e| panic!("{e:#}\n{}", self.hull.log_tail()))
    }
}

impl Tenant<'_> {
    /// The command as they use it: by their log-in, without a way to the server's socket.
    pub fn command(&self, words: &[&str]) -> Command {
        let hull = &self.site.hull;
        let mut command = hull.program(env!("CARGO_BIN_EXE_hull"));
        command.args(words).env("HOME", hull.path()).env("XDG_CONFIG_HOME", hull.file(self.name));
        for variable in ["HULL_DATA", "HULL_CONTEXT", "HULL_PROJECT", "HULL_OUTPUT", "RUST_LOG"] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, words: &[&str]) -> Said {
        self.command(words).output().unwrap().into()
    }

    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let said = self.run(words);
        assert_eq!(
            said.code,
            0,
            "{}: hull {}: {}\n{}",
            self.name,
            words.join(" "),
            said.err,
            self.site.hull.log_tail()
        );
        said.out
    }

    #[track_caller]
    pub fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["-o", "json"], words].concat())).unwrap()
    }

    /// A network with these ranges, joined by a router; the subnets' names are the network's with a number.
    pub fn network(&self, name: &str, ranges: &[&str], router: &str) {
        self.ok(&["network", "create", name]);
        for (number, range) in ranges.iter().enumerate() {
            let subnet = format!("{name}-{number}");
            self.ok(&["subnet", "create", &subnet, range, "--network", name]);
            self.ok(&["router", "add-subnet", router, &subnet]);
        }
    }

    /// A small VM of the tiny guest that their key opens; it is not waited for.
    pub fn create(&self, name: &str, more: &[&str]) {
        let key = self.key.with_extension("pub");
        let create = ["vm", "create", name, "--image", "disk", "--ssh-key", key.to_str().unwrap()];
        let size = ["--vcpus", "1", "--memory", "256MiB", "--disk", "1GiB"];
        let system =
            ["--profile", "micro", "--kernel", "kernel", "--initrd", "initrd", "--cmdline", &self.site.cmdline];
        self.ok(&[&create[..], &size, &system, more].concat());
    }

    pub fn vm(&self, name: &str) -> Value {
        self.json(&["vm", "show", name])
    }

    /// An address outside that leads to the VM.
    pub fn floating(&self, vm: &str, more: &[&str]) -> String {
        let made = self.json(&[&["floating-ip", "create", "outside", "--vm", vm], more].concat());
        super::text(&made, "/address").to_owned()
    }

    /// Runs a line in a machine of theirs, from outside, once it answers; what it printed.
    #[track_caller]
    pub fn ssh(&self, address: &str, line: &str) -> String {
        self.site.until_ssh(&self.key, address, line)
    }

    /// Waits until a machine's console has said `text`; all it said.
    #[track_caller]
    pub fn until_said(&self, vm: &str, text: &str) -> String {
        let probe = || {
            let log = self.ok(&["vm", "log", vm, "--tail", "16MiB"]);
            if log.contains(text) { Ok(log) } else { Err(log) }
        };
        eventually_blocking(text, DEADLINE, probe).unwrap_or_else(|e| panic!("{e:#}\n{}", self.site.hull.log_tail()))
    }
}

/// Runs a command that must do what it is asked with a line on its standard input.
#[track_caller]
fn typed(mut command: Command, line: &str) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!(said.code, 0, "{command:?}: {said:?}");
}
