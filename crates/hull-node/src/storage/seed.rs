//! The NoCloud seed: a small FAT file system labelled `CIDATA` with three files, as cloud-init's NoCloud data source
//! documents them. JSON is YAML, so that no quoting can go wrong.

use std::io::{Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use hull_types::{
    error::{Error, Result},
    network::Mac,
};
use serde_json::json;

use crate::network::GuestMetadata;

/// Room for 64 KiB of user data and keys; still one sector per cluster (FAT12).
const SIZE: usize = 1 << 20;

/// The seed's bytes.
pub(super) fn image(metadata: &GuestMetadata, macs: &[Mac]) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Error::internal(format!("cannot make the cloud-init seed: {error}"));
    let mut bytes = Cursor::new(vec![0; SIZE]);
    format_volume(&mut bytes, FormatVolumeOptions::new().volume_label(*b"CIDATA     ")).map_err(failed)?;
    let volume = FileSystem::new(&mut bytes, FsOptions::new()).map_err(failed)?;
    let none = b"#cloud-config\n{}\n".to_vec();
    let files = [
        ("user-data", metadata.user_data.clone().unwrap_or(none)),
        ("meta-data", meta_data(metadata)),
        ("network-config", network_config(macs)),
    ];
    for (name, content) in files {
        let mut file = volume.root_dir().create_file(name).map_err(failed)?;
        file.write_all(&content).map_err(failed)?;
        file.flush().map_err(failed)?;
    }
    volume.unmount().map_err(failed)?;
    Ok(bytes.into_inner())
}

fn meta_data(metadata: &GuestMetadata) -> Vec<u8> {
    let keys: Vec<&str> = metadata.ssh_keys.iter().map(|(_, key)| key.as_str()).collect();
    let told = json!({
        "instance-id": metadata.vm.to_string(),
        "local-hostname": metadata.hostname,
        "public-keys": keys,
    });
    told.to_string().into_bytes()
}

/// Version 2: every NIC by its MAC, configured by DHCP and router advertisements. The name is set as well, because
/// cloud-init's renderers match by name too.
fn network_config(macs: &[Mac]) -> Vec<u8> {
    let nic = |(n, mac): (usize, &Mac)| {
        let name = format!("eth{n}");
        let nic = json!({
            "match": { "macaddress": mac.to_string() },
            "set-name": name,
            "dhcp4": true,
            "dhcp6": true,
        });
        (name, nic)
    };
    let nics: serde_json::Map<String, serde_json::Value> = macs.iter().enumerate().map(nic).collect();
    json!({ "version": 2, "ethernets": nics }).to_string().into_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_seed_holds_what_cloud_init_reads() {
        let metadata = GuestMetadata {
            vm: hull_types::id::VmId(uuid::Uuid::from_u128(5)),
            name: "web".into(),
            hostname: "web".into(),
            project: "p".into(),
            zone: "z".into(),
            flavor: "small".into(),
            ssh_keys: vec![("k".into(), "ssh-ed25519 AAAA \"quoted\": x".into())],
            user_data: Some(vec![b'x'; 65_536]),
            metadata: Default::default(),
        };
        let bytes = image(&metadata, &[Mac([0x52, 0x54, 0, 1, 2, 3])]).unwrap();
        let volume = FileSystem::new(Cursor::new(bytes), FsOptions::new()).unwrap();
        assert_eq!(volume.volume_label().trim(), "CIDATA");
        let read = |name: &str| {
            let mut text = String::new();
            volume.root_dir().open_file(name).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!(read("user-data").len(), 65_536);
        let told: serde_json::Value = serde_json::from_str(&read("meta-data")).unwrap();
        assert_eq!(told["local-hostname"], "web");
        assert_eq!(told["public-keys"][0], "ssh-ed25519 AAAA \"quoted\": x");
        let network: serde_json::Value = serde_json::from_str(&read("network-config")).unwrap();
        assert_eq!(network["ethernets"]["eth0"]["match"]["macaddress"], "52:54:00:01:02:03");
    }
}
