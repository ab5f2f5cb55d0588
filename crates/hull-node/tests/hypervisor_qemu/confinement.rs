//! What a taken-over QEMU could reach.

use hull_node::hypervisor::qmp::{Client, QmpError};
use hull_types::vm::Profile;
use serde_json::json;

use crate::bench::{Bench, field, groups_of};

#[tokio::test]
async fn qemu_runs_as_its_own_user_in_its_own_groups_and_network_with_a_filter() {
    let bench = Bench::new();
    let vmm = bench.start(bench.guest(Profile::Pc, "")).await;
    let pid = vmm.info().pid;
    let uid = bench.uid().unwrap();
    assert!((400_000..500_000).contains(&uid));
    assert_eq!(field(pid, "Uid:"), format!("{uid}\t{uid}\t{uid}\t{uid}"));
    assert_eq!(field(pid, "Gid:"), format!("{uid}\t{uid}\t{uid}\t{uid}"));
    assert_eq!(field(pid, "Groups:"), "");
    assert_eq!(field(pid, "Seccomp:"), "2");
    assert_eq!(field(pid, "NoNewPrivs:"), "1");
    assert_eq!(field(pid, "Seccomp_filters:"), "3", "two of Hull's and QEMU's own");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(pid, set), "0000000000000000", "{set}");
    }
    let namespace = |pid: &str, name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        assert_ne!(namespace(&pid.to_string(), name), namespace("self", name), "{name}");
    }
    assert!(field(pid, "NSpid:").ends_with("\t1"), "the first of its PID namespace");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.contains(&format!("/hull/{}", bench.vm)), "{groups}");
    let joined = groups_of(bench.vm).iter().all(|group| {
        std::fs::read_to_string(group.join("cgroup.procs")).unwrap().lines().any(|line| line == pid.to_string())
    });
    assert!(joined);
    let session = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().to_owned()
    };
    assert_eq!(session(&pid.to_string()), pid.to_string(), "leads a session of its own");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[26..].split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    };
    for (name, value) in [
        ("Max core file size", "0 0"),
        ("Max open files", "4096 4096"),
        ("Max processes", "328 328"),
        ("Max realtime priority", "0 0"),
        ("Max nice priority", "0 0"),
        ("Max msgqueue size", "0 0"),
    ] {
        assert_eq!(limit(name), value, "{name}");
    }
    vmm.quit().await.unwrap();
}

#[tokio::test]
async fn qemu_sees_a_root_of_its_own_with_libraries_firmware_and_its_kernel() {
    let bench = Bench::new();
    let vmm = bench.start(bench.guest(Profile::Pc, "")).await;
    let root = std::path::PathBuf::from(format!("/proc/{}/root", vmm.info().pid));
    let below = |dir: &str| {
        let entries = std::fs::read_dir(root.join(dir)).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(below("dev"), ["null", "random", "urandom", "zero"]);
    let top = below("");
    for gone in ["proc", "sys", "tmp", "run", "root", "var", "home", "boot"] {
        assert!(!top.iter().any(|name| name == gone), "{gone} in {top:?}");
    }
    for there in ["kernel", "initrd", "usr"] {
        assert!(top.iter().any(|name| name == there), "no {there} in {top:?}");
    }
    assert_eq!(below("usr/bin"), ["qemu-system-x86_64"]);
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", vmm.info().pid)).unwrap();
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(4);
        let (at, options) = (words.next().unwrap(), words.next().unwrap());
        assert!(options.split(',').any(|option| option == "ro") || at.starts_with("/dev/"), "{line}");
        assert!(options.split(',').any(|option| option == "nosuid"), "{line}");
    }
    vmm.quit().await.unwrap();
}

/// What code inside QEMU could do, QEMU does for us: open a file by path.
#[tokio::test]
async fn a_taken_over_qemu_opens_neither_another_vms_disk_nor_the_hosts_files() {
    let bench = Bench::new();
    let vmm = bench.start(bench.empty()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let anothers = elsewhere.path().join("disk.raw");
    std::fs::write(&anothers, [0; 4096]).unwrap();
    // Even where permissions would let it.
    for (path, mode) in [(elsewhere.path(), 0o755), (anothers.as_path(), 0o666)] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    // The control socket takes one client: ours now.
    drop(vmm);
    let qmp = Client::open(bench.dir.join("qmp.sock"), std::future::pending());
    let own = bench.dir.join("qemu.log");
    for path in [anothers.as_path(), own.as_path(), std::path::Path::new("/etc/hostname")] {
        let file = json!({"driver": "file", "node-name": "stolen", "filename": path, "read-only": true});
        let refused = qmp.run("blockdev-add", file).await.unwrap_err();
        let QmpError::Refused { desc, .. } = refused else { panic!("{refused:?}") };
        assert!(desc.contains("No such file or directory"), "{desc}");
    }
    // The same question, where the answer is yes: a file of the system's.
    let firmware =
        json!({"driver": "file", "node-name": "bios", "filename": "/usr/share/seabios/bios.bin", "read-only": true});
    qmp.run("blockdev-add", firmware).await.unwrap();
}
