//! What goes wrong on a host, and what Hull says and does then. Needs root and QEMU.

#![allow(clippy::unwrap_used)]

mod kit;

use std::{fs::OpenOptions, io::Write};

use hull_store::embedded::{EmbeddedStore, Options};
use hull_testkit::{TinyGuest, guest::READY};
use kit::{Hull, Said, text};

#[test]
fn a_port_or_a_data_directory_in_use_is_named_with_who_has_it() {
    let hull = Hull::new();
    hull.up();
    let pid = hull.pid().to_string();
    let refusal = hull.refused(4, &["up"]);
    assert!(refusal.contains(&format!("process {pid}")) && refusal.contains("hull down"), "{refusal}");
    assert!(hull.run(&["up", "--background"]).err.contains("runs already"), "up twice is up");

    let other = hull.file("other");
    let mut second = hull.program(env!("CARGO_BIN_EXE_hull"));
    let second =
        second.args(["up", "--background", "--data-dir", other.to_str().unwrap()]).args(["--network-prefix", "e2"]);
    let second = Said::from(second.output().unwrap());
    assert_ne!(second.code, 0, "{second:?}");
    assert!(second.err.contains("127.0.0.1:8440 is in use") && second.err.contains("--listen"), "{second:?}");

    hull.ok(&["down"]);
    assert!(hull.run(&["down"]).err.contains("does not run"), "down twice is down");
    hull.up();
}

#[test]
fn what_is_not_there_or_wrong_is_refused_by_name() {
    let hull = Hull::new();
    hull.up();
    let empty = hull.file("empty.raw");
    std::fs::write(&empty, vec![0; 1 << 20]).unwrap();
    hull.ok(&["image", "import", empty.to_str().unwrap(), "--name", "x", "--format", "raw"]);
    for (words, names) in [
        (&["vm", "show", "nobody"][..], "nobody"),
        (&["image", "show", "nothing"], "nothing"),
        (&["vm", "create", "one", "--image", "nothing"], "nothing"),
        (&["vm", "create", "one", "--image", "x", "--flavor", "giant"], "giant"),
        (&["vm", "create", "one", "--image", "x", "--key", "lost"], "lost"),
        (&["network", "show", "nowhere"], "nowhere"),
    ] {
        let said = hull.run(words);
        // A wrong reference inside a request is an invalid value or a thing not found; never a defect.
        assert!([2, 3].contains(&said.code) && said.err.contains(names), "{words:?}: {said:?}");
    }
    hull.refused(3, &["vm", "show", "nobody"]);
    hull.refused(2, &["image", "import", "/no/such/file", "--name", "x"]);
    let key = hull.file("no-key");
    std::fs::write(&key, "this is no key").unwrap();
    let refusal = hull.refused(2, &["keypair", "create", "mine", "--public-key", key.to_str().unwrap()]);
    assert!(refusal.contains("no-key"), "{refusal}");
    let public = hull.key().with_extension("pub");
    hull.ok(&["keypair", "create", "mine", "--public-key", public.to_str().unwrap()]);
    hull.refused(4, &["keypair", "create", "mine", "--public-key", public.to_str().unwrap()]);
    assert_eq!(hull.json(&["vm", "list"]).as_array().unwrap().len(), 0, "nothing was half made");
}

#[test]
fn a_doctor_tells_what_is_broken_and_how_to_mend_it() {
    let hull = Hull::new();
    let verdict = |report: &serde_json::Value, check: &str| {
        let found = report.as_array().unwrap().iter().find(|finding| finding["check"] == check).cloned();
        found.unwrap_or_else(|| panic!("no {check}: {report:#}"))
    };
    hull.up();
    let well = hull.run(&["-o", "json", "doctor"]);
    let report = serde_json::from_str(&well.out).unwrap();
    assert_eq!(verdict(&report, "server")["verdict"], "ok", "{report:#}");
    assert_eq!(verdict(&report, "qemu-system-x86_64")["verdict"], "ok");
    assert_eq!(well.code, i32::from(well.out.contains("\"broken\"")), "{report:#}");
    hull.ok(&["down"]);

    let (data, program) = (hull.data().display().to_string(), env!("CARGO_BIN_EXE_hull"));
    let mut command = hull.program("env");
    command.args(["PATH=/nonexistent", program, "-o", "json", "doctor", "--data-dir", &data]);
    let said = Said::from(command.output().unwrap());
    assert_eq!(said.code, 1, "{said:?}");
    let report = serde_json::from_str(&said.out).unwrap();
    let qemu = verdict(&report, "qemu-system-x86_64");
    assert_eq!((&qemu["verdict"], &qemu["mend"]), (&"broken".into(), &"apt install qemu-system-x86".into()));
    assert_eq!(verdict(&report, "server")["verdict"], "warning");
    assert_eq!(verdict(&report, "store")["verdict"], "ok", "a store at rest is looked at");
}

#[test]
fn a_torn_database_is_refused_at_start_and_a_backup_brings_it_back() {
    let hull = Hull::new();
    hull.up();
    let public = hull.key().with_extension("pub");
    hull.ok(&["keypair", "create", "mine", "--public-key", public.to_str().unwrap()]);
    hull.ok(&["down"]);
    hull.ok(&["store", "check"]);
    let (store, backup) = (hull.data().join("store"), hull.file("backup.db"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let open = EmbeddedStore::open(&store, Options::default()).unwrap();
        open.backup(&backup).await.unwrap();
        open.close();
    });

    for tear in [truncate, overwrite] {
        tear(&store.join("hull.db"));
        let refusal = hull.run(&["up", "--background"]);
        assert_ne!(refusal.code, 0, "{refusal:?}");
        assert!(refusal.err.contains("hull.db") && refusal.err.contains("restore"), "{refusal:?}");
        let checked = hull.run(&["store", "check"]);
        assert!(checked.code != 0 && checked.err.contains("hull.db"), "{checked:?}");
        hull.ok(&["store", "restore", backup.to_str().unwrap()]);
        hull.ok(&["store", "check"]);
        hull.up();
        assert!(hull.ok(&["keypair", "list"]).contains("mine"));
        let refusal = hull.run(&["store", "restore", backup.to_str().unwrap()]);
        assert!(refusal.code != 0, "not while Hull runs: {refusal:?}");
        hull.ok(&["down"]);
    }
}

fn truncate(file: &std::path::Path) {
    OpenOptions::new().write(true).open(file).unwrap().set_len(5000).unwrap();
}

fn overwrite(file: &std::path::Path) {
    let mut file = OpenOptions::new().write(true).open(file).unwrap();
    file.write_all(&[0xa5; 9000]).unwrap();
}

#[test]
fn without_qemu_a_machine_rests_with_the_reason_and_goes_well() {
    let hull = Hull::with_mounts();
    hull.root("mount --bind /dev/null /usr/bin/qemu-system-x86_64");
    hull.up();
    hull.import_tiny();
    hull.ok(&["vm", "create", "one", "--image", "tiny", "--vcpus", "1", "--memory", "256MiB", "--disk", "1GiB"]);
    let view = hull.until("one", "a reason", |view| view["reason"]["code"] == "hypervisor-missing");
    assert!(text(&view, "/reason/message").contains("qemu"), "{view:#}");
    assert_ne!(view["state"], "running");
    let node = hull.ok(&["node", "list"]);
    assert!(node.contains("yes"), "the node itself is well: {node}");
    hull.ok(&["vm", "delete", "one", "--wait", "--timeout", "120"]);

    // Installed, it is used without a word more.
    hull.root("umount /usr/bin/qemu-system-x86_64");
    hull.create("two", &[]);
    hull.until_said("two", READY, 1);
}

#[test]
fn a_full_disk_stops_imports_and_new_machines_with_a_reason_until_there_is_room() {
    let hull = Hull::with_mounts();
    let data = hull.data().display().to_string();
    hull.root(&format!("mkdir -p {data}/images {data}/node"));
    hull.root(&format!(
        "mount -t tmpfs -o size=8m none {data}/images && mount -t tmpfs -o size=2500m none {data}/node"
    ));
    hull.root(&format!("fallocate -l 2400M {data}/node/filler"));
    hull.up();

    let disk = TinyGuest::get().unwrap().disk("").unwrap();
    let import = ["image", "import", disk.to_str().unwrap(), "--name", "tiny"];
    let refusal = hull.run(&import);
    assert_ne!(refusal.code, 0, "{refusal:?}");
    assert!(["full", "space", "room"].iter().any(|word| refusal.err.contains(word)), "{refusal:?}");
    let used = hull.root(&format!("du -sk {data}/images | cut -f1"));
    assert!(used.trim().parse::<u32>().unwrap() < 1024, "something half made was left: {used} KiB");
    hull.root(&format!("mount -o remount,size=300m {data}/images"));
    let _ = hull.run(&["image", "delete", "tiny"]);
    hull.ok(&import);

    hull.ok(&["vm", "create", "one", "--image", "tiny", "--vcpus", "1", "--memory", "256MiB", "--disk", "1GiB"]);
    let view = hull.until("one", "a reason", |view| view["reason"]["code"] == "no-node-fits");
    assert!(text(&view, "/reason/message").contains("disk"), "{view:#}");
    hull.ok(&["vm", "create", "gone", "--image", "tiny", "--vcpus", "1", "--memory", "256MiB", "--disk", "1GiB"]);
    let id = text(&hull.vm("gone"), "/id").to_owned();
    hull.ok(&["vm", "delete", "gone", "--wait", "--timeout", "120"]);
    assert_eq!(hull.root(&format!("find {data}/node -name '*{id}*'")), "", "nothing half made is left");

    hull.root(&format!("rm {data}/node/filler"));
    hull.until("one", "running", |view| view["state"] == "running");
    hull.until_said("one", READY, 1);

    // Placed while there was room and started when there is none, a machine says so, and starts by itself once there is some.
    let size = ["--vcpus", "1", "--memory", "256MiB", "--disk", "1GiB"];
    hull.ok(&[&["vm", "create", "two", "--image", "tiny", "--stopped", "--wait"], size.as_slice()].concat());
    hull.root(&format!("fallocate -l $(df --output=avail -B1 {data}/node | tail -n 1) {data}/node/filler"));
    hull.ok(&["vm", "start", "two"]);
    let view = hull.until("two", "a reason", |view| view["reason"]["code"] == "disk-full");
    assert!(text(&view, "/reason/message").contains("space"), "{view:#}");
    assert_eq!(hull.vm("one")["state"], "running", "who runs already runs on");
    hull.root(&format!("rm {data}/node/filler"));
    hull.until("two", "running", |view| view["state"] == "running");
}
