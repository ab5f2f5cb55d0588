//! What a taken-over QEMU could reach.

use hull_types::vm::Profile;

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
    assert_eq!(field(pid, "CapEff:"), "0000000000000000");
    let namespace = |pid: &str, name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    for name in ["net", "ipc", "uts"] {
        assert_ne!(namespace(&pid.to_string(), name), namespace("self", name), "{name}");
    }
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
    vmm.quit().await.unwrap();
}
