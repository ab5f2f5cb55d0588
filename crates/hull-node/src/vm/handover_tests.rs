//! A VM's files go over whole, or not at all.

use hull_types::id::VmId;
use tempfile::TempDir;

use super::*;
use crate::plan::record::{DiskRecord, Saved};

const VM: VmId = VmId(uuid::Uuid::from_u128(7));

struct Node {
    temp: TempDir,
    handover: FileHandover,
}

impl Node {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let handover = FileHandover::new(temp.path().join("disks"), temp.path());
        Self { handover, temp }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name.replace("VM", &VM.to_string()))
    }

    fn has(&self, name: &str, bytes: &[u8]) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.path(name)).ok()
    }

    /// A VM that was saved, with a disk that is mostly hole.
    fn with_vm() -> Self {
        let node = Self::new();
        node.has("disks/VM/root-2.qcow2", b"disk");
        let disk = OpenOptions::new().write(true).open(node.path("disks/VM/root-2.qcow2")).unwrap();
        disk.write_all_at(&[7; 3 << 20], 40 << 20).unwrap();
        disk.set_len(100 << 20).unwrap();
        for (name, bytes) in [
            ("disks/VM/root-1.qcow2", "an older disk"),
            ("disks/VM/seed.img", "made anew at each start"),
            ("vms/VM/memory.saved", "memory"),
            ("vms/VM/efi-vars.fd", "variables"),
            ("vms/VM/console.log", "hello"),
            ("vms/VM/tpm/tpm2-00.permall", "keys"),
            ("vms/VM/vm.json", "the record, which is each node's own"),
            ("vms/VM/vmm.json", "a process"),
        ] {
            node.has(name, bytes.as_bytes());
        }
        node
    }

    async fn given(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.handover.give(VM, carried(), &mut bytes).await.unwrap();
        bytes
    }

    async fn takes(&self, bytes: &[u8]) -> Result<Carried> {
        let mut bytes = bytes;
        self.handover.take(VM, &mut bytes, &Progress::default()).await
    }
}

fn carried() -> Carried {
    let resources = hull_types::flavor::Resources { vcpus: 1, memory: Bytes::mib(64), disk: Bytes::mib(100) };
    Carried {
        disk: Some(DiskRecord { generation: 2, size: Bytes::mib(100) }),
        saved: Some(Saved { resources, disk_generation: 2, for_the_way: true }),
        last_exit: None,
        off: None,
        power_seq: 3,
        reboot_seq: 1,
        restarts: 0,
    }
}

/// A stream with another manifest and no file.
fn forged(manifest: &str) -> Vec<u8> {
    let length = u32::try_from(manifest.len()).unwrap();
    let mut bytes = [&MAGIC[..], &length.to_le_bytes(), manifest.as_bytes()].concat();
    bytes.extend([0; 12 + 32]);
    bytes
}

#[tokio::test]
async fn a_vm_goes_over_with_what_is_its_own_and_holes_cost_nothing() {
    let (old, new) = (Node::with_vm(), Node::new());
    let bytes = old.given().await;
    assert!(bytes.len() < 5 << 20, "{} bytes for 3 MiB of data", bytes.len());
    assert_eq!(new.takes(&bytes).await.unwrap(), carried());
    for name in [
        "disks/VM/root-2.qcow2",
        "vms/VM/memory.saved",
        "vms/VM/efi-vars.fd",
        "vms/VM/console.log",
        "vms/VM/tpm/tpm2-00.permall",
    ] {
        assert!(new.read(name).is_some() && new.read(name) == old.read(name), "{name}");
    }
    for name in ["disks/VM/root-1.qcow2", "disks/VM/seed.img", "vms/VM/vm.json", "vms/VM/vmm.json"] {
        assert_eq!(new.read(name), None, "{name}");
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(new.path("disks/VM/root-2.qcow2")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn how_much_has_come_is_told() {
    let (old, new, progress) = (Node::with_vm(), Node::new(), Progress::default());
    let bytes = old.given().await;
    assert_eq!(progress.to_string(), "");
    let cut = new.handover.take(VM, &mut &bytes[..bytes.len() - 100], &progress).await;
    assert!(cut.is_err() && progress.to_string().ends_with(" of 100.0 MiB"), "{progress}");
}

#[tokio::test]
async fn what_an_earlier_attempt_left_is_gone_but_for_the_record() {
    let (old, new) = (Node::with_vm(), Node::new());
    new.has("disks/VM/root-9.raw", b"old");
    new.has("vms/VM/tpm/old", b"old");
    new.has("vms/VM/vm.json", b"the new node's record");
    let bytes = old.given().await;
    new.takes(&bytes).await.unwrap();
    new.takes(&bytes).await.unwrap();
    assert_eq!((new.read("disks/VM/root-9.raw"), new.read("vms/VM/tpm/old")), (None, None));
    assert_eq!(new.read("vms/VM/vm.json").unwrap(), b"the new node's record");
}

#[tokio::test]
async fn a_stream_cut_anywhere_or_changed_anywhere_is_not_taken() {
    let (old, new) = (Node::with_vm(), Node::new());
    let bytes = old.given().await;
    let step = bytes.len() / 40;
    for at in (0..bytes.len()).step_by(step) {
        new.takes(&bytes[..at]).await.expect_err("a part was taken for the whole");
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        new.takes(&changed).await.expect_err("another VM was taken for it");
    }
    new.takes(&bytes).await.unwrap();
}

#[tokio::test]
async fn no_name_leads_out_of_the_vms_own_directories() {
    let new = Node::new();
    let manifest = |place: &str, name: &str, size: u64| {
        let carried = serde_json::to_value(carried()).unwrap();
        serde_json::json!({"carried": carried, "files": [{"place": place, "name": name, "size": size}]}).to_string()
    };
    for (place, name) in [
        ("disks", "root-1.qcow2"),
        ("disks", "../other/root-2.qcow2"),
        ("disks", "/etc/passwd"),
        ("disks", "seed.img"),
        ("private", "vm.json"),
        ("private", "../../x"),
        ("private", "tpm/../vm.json"),
        ("private", "tpm/.."),
        ("private", "tpm/"),
        ("private", "tpm/a/b"),
        ("private", "other/a"),
    ] {
        let refusal = new.takes(&forged(&manifest(place, name, 0))).await.unwrap_err();
        assert!(refusal.detail.contains("files that no VM has"), "{name}: {refusal}");
    }
    assert!(new.read("vms/VM/vm.json").is_none() && !new.path("x").exists());
    // The name is right, and the bytes are more than told.
    let mut longer = forged(&manifest("disks", "root-2.qcow2", 4));
    longer.truncate(longer.len() - 44);
    longer.extend([&2_u64.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat());
    let refusal = new.takes(&longer).await.unwrap_err();
    assert!(refusal.detail.contains("longer than was told"), "{refusal}");
    let many = serde_json::json!({"place": "private", "name": "tpm/a", "size": 0});
    let many = serde_json::json!({"carried": carried(), "files": vec![many; 65]}).to_string();
    assert!(new.takes(&forged(&many)).await.is_err());
    assert!(new.takes(b"HULLMV2\n").await.unwrap_err().detail.contains("upgrade"));
    assert!(new.takes(&[&MAGIC[..], &u32::MAX.to_le_bytes()].concat()).await.is_err());
}

#[tokio::test]
async fn a_link_in_the_tpms_directory_is_not_followed() {
    let old = Node::with_vm();
    old.has("secret", b"the host's");
    std::os::unix::fs::symlink(old.path("secret"), old.path("vms/VM/tpm/link")).unwrap();
    let given = old.handover.give(VM, carried(), &mut Vec::new()).await;
    assert!(given.is_err(), "swtpm makes plain files only");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_is_not_waited_for() {
    let new = Node::new();
    let (mut near, far) = tokio::io::duplex(64);
    near.write_all(MAGIC).await.unwrap();
    let refusal = new.handover.take(VM, &mut { far }, &Progress::default()).await.unwrap_err();
    assert!(refusal.detail.contains("sent nothing for 60 s"), "{refusal}");
}
