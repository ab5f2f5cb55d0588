//! Machines that go from node to node, with real guests: their memory, disks, addresses and connections go along, and where
//! one cannot go it runs on where it was. Needs root and QEMU.
//!
//! ```text
//!   [server] ── net ── [one: br-ext]──┐
//!                └──── [two: br-ext]──┴── [outside: 203.0.113.1]
//! ```

#![allow(clippy::unwrap_used)]

mod kit;

use std::{path::PathBuf, process::Command};

use hull_testkit::{TestHost, TestNet, TinyGuest, eventually_blocking};
use kit::{DEADLINE, Hull, Running, Said, number, processes, ssh_from, text, traces};
use serde_json::Value;

/// A server, two nodes, and a provider's network that both are plugged into.
struct Cloud {
    // First, so that machines go by the server's word while their nodes still run.
    server: Hull,
    one: Hull,
    two: Hull,
    outside: TestHost,
    key: PathBuf,
}

impl Cloud {
    fn new() -> Self {
        let net = TestNet::new().unwrap();
        let [server, one, two] = ["server", "one", "two"].map(|name| Hull::on(net.host(name).unwrap()));
        let outside = TestHost::new("outside").unwrap();
        outside.run("ip link add seg type bridge; ip link set seg up; ip addr add 203.0.113.1/24 dev seg").unwrap();
        let key = server.key();
        let cloud = Self { server, one, two, outside, key };
        let address = cloud.server.host.address().to_string();
        cloud.server.ok(&["server", "--background", "--name", &address]);
        for (name, node) in cloud.nodes() {
            let cable = format!("ip link add ext0 type veth peer name {name} netns {}", cloud.outside.namespace());
            node.host.run(&format!("{cable}; ip link add br-ext type bridge; ip link set br-ext up")).unwrap();
            node.host.run("ip link set ext0 master br-ext up").unwrap();
            cloud.outside.run(&format!("ip link set {name} master seg up")).unwrap();
            let token = cloud.server.ok(&["node", "join-token"]);
            node.ok(&["node", "join", token.trim(), "--name", name]);
            Self::run(node);
        }
        cloud.ready();
        cloud.server.import_guest();
        cloud.server.ok(&["network", "create", "outside", "--provider", "physnet1", "--external"]);
        let range = ["--gateway", "203.0.113.1", "--pool", "203.0.113.10-203.0.113.99"];
        cloud.server.ok(&[&["subnet", "create", "v4", "203.0.113.0/24", "--network", "outside"][..], &range].concat());
        cloud.server.ok(&["router", "create", "way", "--gateway", "outside"]);
        cloud.server.ok(&["network", "create", "web"]);
        cloud.server.ok(&["subnet", "create", "web-0", "10.7.0.0/24", "--network", "web"]);
        cloud.server.ok(&["router", "add-subnet", "way", "web-0"]);
        cloud
    }

    fn nodes(&self) -> [(&'static str, &Hull); 2] {
        [("one", &self.one), ("two", &self.two)]
    }

    fn run(node: &Hull) {
        let underlay = node.host.address().to_string();
        node.ok(&["node", "run", "--background", "--underlay", &underlay, "--provider", "physnet1=br-ext"]);
    }

    /// Waits until both nodes answer.
    fn ready(&self) {
        let probe = || {
            let nodes = self.server.json(&["node", "list"]);
            let ready = nodes.as_array().unwrap().iter().filter(|node| node["ready"] == true).count();
            if ready == 2 { Ok(()) } else { Err(nodes) }
        };
        eventually_blocking("both nodes", DEADLINE, probe).unwrap_or_else(|e| panic!("{e:#}\n{}", self.logs()));
    }

    /// A machine on node `one`, and the address outside that leads to it.
    fn create(&self, name: &str, address: &str) -> String {
        self.server.ok(&["node", "maintenance", "two"]);
        let (key, cmdline) = (self.key.with_extension("pub"), TinyGuest::micro_cmdline());
        let create = ["vm", "create", name, "--image", "disk", "--ssh-key", key.to_str().unwrap()];
        let size = ["--vcpus", "1", "--memory", "256MiB", "--disk", "1GiB", "--wait", "--timeout", "180"];
        let system = ["--profile", "micro", "--kernel", "kernel", "--initrd", "initrd", "--cmdline", &cmdline];
        let nic = format!("web={address}");
        self.server.ok(&[&create[..], &size, &system, &["--network", &nic]].concat());
        self.server.ok(&["node", "maintenance", "two", "--off"]);
        let floating = self.server.json(&["floating-ip", "create", "outside", "--vm", name]);
        text(&floating, "/address").to_owned()
    }

    fn ssh_command(&self, address: &str, line: &str) -> Command {
        ssh_from(&self.outside, &self.key, address, line)
    }

    /// What a line prints in a machine, by ssh from outside, once it answers.
    #[track_caller]
    fn ssh(&self, address: &str, line: &str) -> String {
        let probe = || {
            let said = Said::from(self.ssh_command(address, line).output().unwrap());
            if said.code == 0 { Ok(said.out) } else { Err(said) }
        };
        let said = eventually_blocking(line, DEADLINE, probe);
        said.unwrap_or_else(|e| panic!("{e:#}\n{}", self.logs())).trim().to_owned()
    }

    /// The node a machine is on.
    fn node_of(&self, vm: &str) -> String {
        let on = text(&self.server.vm(vm), "/placement/node").to_owned();
        let nodes = self.server.json(&["node", "list"]);
        let found = nodes.as_array().unwrap().iter().find(|node| node["id"] == on.as_str()).unwrap();
        text(found, "/name").to_owned()
    }

    /// The newest migration.
    fn migration(&self) -> Value {
        self.server.json(&["migration", "list"]).as_array().unwrap().last().unwrap().clone()
    }

    #[track_caller]
    fn until_over(&self) -> Value {
        let probe = || {
            let migration = self.migration();
            if migration["ended_at"].is_string() { Ok(migration) } else { Err(migration) }
        };
        eventually_blocking("the migration's end", DEADLINE, probe).unwrap_or_else(|e| panic!("{e:#}\n{}", self.logs()))
    }

    fn logs(&self) -> String {
        let nodes = self.nodes().map(|(name, node)| format!("{name}: {}\n", node.log_tail())).concat();
        format!("server: {}\n{nodes}", self.server.log_tail())
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

const BOOT: &str = "cat /proc/sys/kernel/random/boot_id";

#[test]
fn a_machine_goes_to_another_node_with_its_memory_disk_addresses_and_connections() {
    let cloud = Cloud::new();
    let server = &cloud.server;
    let outside = cloud.create("web", "10.7.0.10");
    let beside = cloud.create("peer", "10.7.0.11");
    let before = server.vm("web");
    let id = text(&before, "/id").to_owned();
    assert_eq!((cloud.node_of("web"), cloud.node_of("peer")), ("one".into(), "one".into()));

    let boot = cloud.ssh(&outside, BOOT);
    // What was written and not yet made durable is in memory, and comes along there.
    cloud.ssh(
        &outside,
        "printf on-its-disk | dd of=/dev/vda bs=1M seek=300 conv=notrunc 2>/dev/null; echo in-memory >/tmp/x",
    );
    let mut session = Running::start(cloud.ssh_command(&outside, "while sleep 1; do echo alive; done"));
    assert_eq!(session.line(), "alive");

    let said = server.ok(&["vm", "migrate", "web", "--node", "two", "--wait", "--timeout", "180"]);
    assert!(said.contains("two"), "{said}");
    let after = server.until("web", "running there", |view| view["state"] == "running" && view["settled"] == true);
    assert_eq!((cloud.node_of("web"), cloud.node_of("peer")), ("two".into(), "one".into()));
    assert_eq!((&after["addresses"], &after["id"]), (&before["addresses"], &before["id"]));
    let migration = cloud.migration();
    assert_eq!((&migration["phase"], text(&migration, "/vm_name")), (&"done".into(), "web"));
    assert!(number(&migration, "/downtime_ms") > 0, "{migration:#}");

    // The same guest goes on, and whoever was connected to it is still.
    assert_eq!(cloud.ssh(&outside, BOOT), boot);
    assert_eq!(session.line(), "alive");
    let inside = cloud.ssh(
        &outside,
        "cat /tmp/x; dd if=/dev/vda bs=1M skip=300 count=1 2>/dev/null | head -c 11; ip -4 -o addr show eth0",
    );
    assert!(inside.starts_with("in-memory\non-its-disk") && inside.contains("inet 10.7.0.10/24 "), "{inside}");
    // Between the nodes now, and by its new node's own services.
    cloud.ssh(&beside, "ping -c 3 -W 5 10.7.0.10 >/dev/null");
    assert_eq!(cloud.ssh(&outside, "wget -qO- http://169.254.169.254/latest/meta-data/local-ipv4"), "10.7.0.10");
    server.ok(&["explain", "path", "peer", "web", "--port", "22"]);
    for _ in 0..3 {
        assert_eq!(session.line(), "alive");
    }
    drop(session);

    let left = || {
        let left = traces(&cloud.one.data(), &id);
        if left.is_empty() { Ok(()) } else { Err(left) }
    };
    eventually_blocking("nothing of it on its old node", DEADLINE, left).unwrap();
    assert_eq!(processes(&id).len(), 1);

    // It keeps its addresses when it is started anew there, and when it comes back.
    server.ok(&["vm", "stop", "web", "--force", "--wait", "--timeout", "120"]);
    let said = server.ok(&["vm", "migrate", "web", "--wait", "--timeout", "120"]);
    assert!(said.contains("one"), "the only other node: {said}");
    server.ok(&["vm", "start", "web", "--wait", "--timeout", "180"]);
    assert_eq!(cloud.node_of("web"), "one");
    assert_ne!(cloud.ssh(&outside, BOOT), boot);
    assert_eq!(server.vm("web")["addresses"], before["addresses"]);
    let inside = cloud.ssh(&outside, "dd if=/dev/vda bs=1M skip=300 count=1 2>/dev/null | head -c 11");
    assert_eq!(inside, "on-its-disk");
    // A node is emptied of all its machines.
    let said = server.ok(&["node", "drain", "one", "--wait", "--timeout", "300"]);
    assert!(said.contains("maintenance"), "{said}");
    assert_eq!((cloud.node_of("web"), cloud.node_of("peer")), ("two".into(), "two".into()));
    cloud.ssh(&beside, "ping -c 3 -W 5 10.7.0.10 >/dev/null");
    let history = server.history(&id);
    let told = |action: &str| history.iter().filter(|(told, _)| told == action).count();
    assert_eq!((told("vm.migrate"), told("vm.move")), (3, 3), "{history:?}");
}

#[test]
fn a_machine_runs_on_where_it_was_when_its_new_node_dies_and_where_it_is_cancelled() {
    let cloud = Cloud::new();
    let server = &cloud.server;
    let outside = cloud.create("web", "10.7.0.10");
    let boot = cloud.ssh(&outside, BOOT);
    let id = text(&server.vm("web"), "/id").to_owned();

    // The new node dies as the machine is about to go there.
    server.ok(&["vm", "migrate", "web", "--node", "two"]);
    cloud.two.kill();
    let over = cloud.until_over();
    assert_eq!(over["phase"], "failed", "{over:#}");
    assert!(text(&over, "/reason/message").contains("two, does not answer"), "{over:#}");
    server.until("web", "running on", |view| view["state"] == "running" && view["settled"] == true);
    assert_eq!((cloud.ssh(&outside, BOOT), cloud.node_of("web")), (boot.clone(), "one".into()));
    assert_eq!(processes(&id).len(), 1);
    Cloud::run(&cloud.two);
    cloud.ready();
    let left = || Some(()).filter(|()| traces(&cloud.two.data(), &id).is_empty()).ok_or("something is left");
    eventually_blocking("nothing of it on the node it did not go to", DEADLINE, left).unwrap();

    // Someone thinks better of it.
    server.ok(&["vm", "migrate", "web"]);
    let migration = text(&cloud.migration(), "/id").to_owned();
    let cancelled = server.run(&["migration", "cancel", &migration]);
    let over = cloud.until_over();
    let expected = if cancelled.code == 0 { ("cancelled", "one") } else { ("done", "two") };
    assert_eq!((over["phase"].as_str().unwrap(), cloud.node_of("web").as_str()), expected, "{cancelled:?} {over:#}");
    server.until("web", "running", |view| view["state"] == "running" && view["settled"] == true);
    assert_eq!(cloud.ssh(&outside, BOOT), boot);

    // The node it leaves dies meanwhile, and comes back: the machine goes on its way.
    let (from, to) = if expected.1 == "one" { (&cloud.one, "two") } else { (&cloud.two, "one") };
    server.ok(&["vm", "migrate", "web"]);
    from.kill();
    Cloud::run(from);
    let over = cloud.until_over();
    assert_eq!(over["phase"], "done", "{over:#}");
    assert_eq!((cloud.ssh(&outside, BOOT), cloud.node_of("web")), (boot, to.into()));
    assert_eq!(processes(&id).len(), 1);
}
