//! Server and node on two hosts, with a network between: joining, the link, streams, images. Needs root and QEMU.

#![allow(clippy::unwrap_used)]

mod kit;

use std::process::Command;

use hull_testkit::{TestNet, eventually_blocking, guest::READY};
use kit::{DEADLINE, Hull, number, processes, text, traces};

/// A server, and a node that has joined it.
struct Cloud {
    // First, so that machines go by the server's word while their node still runs.
    server: Hull,
    node: Hull,
}

impl Cloud {
    fn new() -> Self {
        let net = TestNet::new().unwrap();
        let server = Hull::on(net.host("server").unwrap());
        let node = Hull::on(net.host("node").unwrap());
        let cloud = Self { server, node };
        cloud.serve();
        let token = cloud.server.ok(&["node", "join-token"]);
        cloud.node.ok(&["node", "join", token.trim(), "--name", "far"]);
        cloud.run_node();
        cloud
    }

    fn serve(&self) {
        let address = self.server.host.address().to_string();
        self.server.ok(&["server", "--background", "--name", &address]);
    }

    fn run_node(&self) {
        self.node.ok(&["node", "run", "--background"]);
    }

    fn node_is(&self, ready: bool) {
        let probe = || {
            let view = self.server.json(&["node", "show", "far"]);
            if view["ready"] == ready { Ok(()) } else { Err(view) }
        };
        let said = eventually_blocking("the node's readiness", DEADLINE, probe);
        said.unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", self.server.log_tail(), self.node.log_tail()));
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server: {}\nthe node: {}", self.server.log_tail(), self.node.log_tail());
        }
    }
}

#[test]
fn a_node_far_away_runs_a_machine_whatever_happens_to_server_and_link() {
    let cloud = Cloud::new();
    let (server, node) = (&cloud.server, &cloud.node);
    cloud.node_is(true);
    server.import_tiny();
    let key = server.key();
    let vm = server.create("one", &["--ssh-key", key.with_extension("pub").to_str().unwrap()]);
    let id = text(&vm, "/id").to_owned();
    let pid = number(&vm, "/status/vmm/pid");
    assert_eq!(vm.pointer("/placement/node"), server.json(&["node", "show", "far"]).get("id"));

    // The image came over the link and is held by what it is.
    let digest = text(&server.json(&["image", "show", "tiny"]), "/content/digest").replace("sha256:", "");
    assert!(!traces(&node.data().join("node/images"), &digest).is_empty(), "{:?}", traces(&node.data(), ""));
    // Log, TCP and console are streams the node was asked to dial.
    server.until_said("one", READY, 1);
    assert_eq!(server.ssh("one", &key, "hostname").trim(), "one");
    let console = server.types("one", "\necho HULL-$((40+2))-TYPED\n");
    server.until_said("one", "HULL-42-TYPED", 1);
    drop(console);

    // Without the server the machine runs on; a server that comes back knows it by the node's report.
    server.kill();
    assert_eq!(processes(&id), [u32::try_from(pid).unwrap()]);
    cloud.serve();
    cloud.node_is(true);
    let view = server.until("one", "known again", |view| view["state"] == "running" && view["settled"] == true);
    assert_eq!(number(&view, "/status/vmm/pid"), pid);
    assert_eq!(server.ssh("one", &key, "hostname").trim(), "one", "streams work over the new link");

    // Without the node's Hull the machine runs on too, but nobody can know.
    node.kill();
    assert_eq!(processes(&id), [u32::try_from(pid).unwrap()]);
    let view = server.until("one", "unknown", |view| view["state"] == "unknown");
    assert_eq!(text(&view, "/reason/code"), "node-unreachable");
    cloud.node_is(false);
    cloud.run_node();
    cloud.node_is(true);
    let view = server.until("one", "known again", |view| view["state"] == "running" && view["settled"] == true);
    assert_eq!(number(&view, "/status/vmm/pid"), pid, "the same process");

    server.ok(&["vm", "delete", "one", "--wait", "--timeout", "180"]);
    assert_eq!(processes(&id), [0; 0]);
    let left: Vec<_> = traces(&node.data(), &id);
    assert_eq!(left, [] as [std::path::PathBuf; 0]);
    let gone = || Some(()).filter(|()| node.namespaces().is_empty()).ok_or_else(|| node.namespaces());
    eventually_blocking("no namespace", DEADLINE, gone).unwrap();
}

#[test]
fn only_who_has_a_token_joins_and_only_the_server_it_names() {
    let net = TestNet::new().unwrap();
    let server = Hull::on(net.host("server").unwrap());
    let node = Hull::on(net.host("node").unwrap());
    let address = server.host.address().to_string();
    server.ok(&["server", "--background", "--name", &address]);
    let refusal = node.run(&["node", "run", "--background"]);
    assert!(refusal.code != 0 && refusal.err.contains("hull node join"), "it says how: {refusal:?}");
    let token = server.ok(&["node", "join-token"]).trim().to_owned();

    let (rest, secret) = token.rsplit_once(':').unwrap();
    let refusal = node
        .refused(5, &["node", "join", &format!("{rest}:{}", secret.replace(|c: char| c.is_ascii_alphanumeric(), "a"))]);
    assert!(refusal.contains("join-token"), "{refusal}");
    let (server_part, pin) = rest.rsplit_once(':').unwrap();
    let other = pin.chars().map(|digit| if digit == '0' { '1' } else { '0' }).collect::<String>();
    let refusal = node.run(&["node", "join", &format!("{server_part}:{other}:{secret}")]);
    assert!(refusal.code != 0 && !node.data().join("node/identity.json").exists(), "{refusal:?}");

    node.ok(&["node", "join", &token, "--name", "far"]);
    let mode = Command::new("stat").args(["-c", "%a"]).arg(node.data().join("node/identity.json")).output().unwrap();
    assert_eq!(String::from_utf8(mode.stdout).unwrap().trim(), "600", "it holds a key");
    assert!(server.ok(&["node", "list"]).contains("far"));
}
