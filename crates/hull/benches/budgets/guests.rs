//! The VMs that are measured.

use std::path::Path;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use hull_testkit::TinyGuest;
use hull_types::{
    flavor::Resources,
    image::{Image, ImageFormat, ImageKind, Visibility},
    node::Node,
    units::Bytes,
    vm::{Profile, RestartPolicy},
    wire::{DirectBootRequest, ImageCreate, NicRequest, NodeUpdate, NodeView, VmCreate},
};
use tokio_util::io::ReaderStream;

use crate::cloud::Cloud;

/// Guest memory of the tiny guests.
pub(crate) const MEMORY: Bytes = Bytes::mib(256);

/// The image of the tiny guest's disk in the cloud.
pub(crate) const DISK: &str = "tiny";
const KERNEL: &str = "tiny-kernel";
const INITRD: &str = "tiny-initrd";

/// A request with nothing but a name and a size.
fn plain(name: &str, resources: Resources) -> anyhow::Result<VmCreate> {
    Ok(VmCreate {
        name: name.parse()?,
        description: String::new(),
        metadata: std::collections::BTreeMap::new(),
        count: 1,
        image: None,
        kernel: None,
        flavor: None,
        resources: Some(resources),
        profile: Profile::Pc,
        firmware: hull_types::vm::Firmware::Bios,
        secure_boot: false,
        tpm: false,
        keypairs: Vec::new(),
        ssh_keys: Vec::new(),
        user_data: None,
        nics: None,
        restart: RestartPolicy::Never,
        start: true,
    })
}

/// `count` VMs that stay off, of kernels alone; they need [`hold_back`].
pub(crate) fn stopped(name: &str, count: u32, nics: Option<Vec<NicRequest>>) -> anyhow::Result<VmCreate> {
    let kernel = DirectBootRequest { kernel: KERNEL.to_owned(), initrd: None, cmdline: String::new() };
    let size = Resources { vcpus: 1, memory: Bytes::mib(16), disk: Bytes::ZERO };
    Ok(VmCreate { count, nics, start: false, kernel: Some(kernel), ..plain(name, size)? })
}

/// Keeps new VMs off the node, so that the store and the API are measured and not the node; uploads the kernel they name.
pub(crate) async fn hold_back(cloud: &Cloud) -> anyhow::Result<()> {
    let nodes: Vec<NodeView> = cloud.client.nouns("nodes").list(&[]).await?;
    let node: Node = nodes.into_iter().next().context("the cloud has no node")?.node;
    let update = NodeUpdate { maintenance: Some(true) };
    cloud.client.nouns("nodes").update::<_, NodeView>(&node.id.to_string(), &update).await?;
    upload(cloud, KERNEL, ImageKind::Kernel, ImageFormat::Raw, &TinyGuest::get()?.kernel).await?;
    Ok(())
}

/// Uploads what the tiny guests boot.
pub(crate) async fn upload_tiny(cloud: &Cloud, guest: &TinyGuest) -> anyhow::Result<()> {
    upload(cloud, KERNEL, ImageKind::Kernel, ImageFormat::Raw, &guest.kernel).await?;
    upload(cloud, INITRD, ImageKind::Initrd, ImageFormat::Raw, &guest.initrd).await?;
    upload(cloud, DISK, ImageKind::Disk, ImageFormat::Raw, &guest.disk("")?).await?;
    Ok(())
}

/// A `pc` that boots the tiny guest's disk, without a NIC.
pub(crate) fn pc(name: &str) -> anyhow::Result<VmCreate> {
    let size = Resources { vcpus: 1, memory: MEMORY, disk: Bytes::gib(1) };
    Ok(VmCreate { image: Some(DISK.to_owned()), nics: Some(Vec::new()), ..plain(name, size)? })
}

/// A `micro` that boots the tiny guest's kernel, without disk and NIC.
pub(crate) fn micro(name: &str) -> anyhow::Result<VmCreate> {
    micro_of(name, MEMORY)
}

/// The same with so much memory.
pub(crate) fn micro_of(name: &str, memory: Bytes) -> anyhow::Result<VmCreate> {
    let size = Resources { vcpus: 1, memory, disk: Bytes::ZERO };
    let kernel = DirectBootRequest {
        kernel: KERNEL.to_owned(),
        initrd: Some(INITRD.to_owned()),
        cmdline: TinyGuest::micro_cmdline(),
    };
    Ok(VmCreate { profile: Profile::Micro, kernel: Some(kernel), nics: Some(Vec::new()), ..plain(name, size)? })
}

/// A `pc` that stays off, of the tiny guest's disk, grown.
pub(crate) fn off(name: &str, disk: Bytes) -> anyhow::Result<VmCreate> {
    let size = Resources { vcpus: 1, memory: MEMORY, disk };
    Ok(VmCreate { start: false, image: Some(DISK.to_owned()), nics: Some(Vec::new()), ..plain(name, size)? })
}

/// A `pc` from an image with a disk of 4 GiB, a NIC and a key.
pub(crate) fn with_ssh(name: &str, image: &str, key: &str) -> anyhow::Result<VmCreate> {
    let size = Resources { vcpus: 2, memory: Bytes::gib(1), disk: Bytes::gib(4) };
    let key = serde_json::from_value(serde_json::Value::String(key.trim().to_owned()))?;
    Ok(VmCreate { image: Some(image.to_owned()), ssh_keys: vec![key], ..plain(name, size)? })
}

/// Makes an image of a file's bytes, and waits until they are ready.
pub(crate) async fn upload(
    cloud: &Cloud,
    name: &str,
    kind: ImageKind,
    format: ImageFormat,
    file: &Path,
) -> anyhow::Result<Image> {
    let body = ImageCreate {
        name: name.parse()?,
        description: String::new(),
        metadata: std::collections::BTreeMap::new(),
        kind,
        format: Some(format),
        checksum: None,
        source_url: None,
        visibility: Visibility::Private,
        min_disk: Bytes::ZERO,
        min_memory: Bytes::ZERO,
        direct_boot: None,
    };
    cloud.client.images().create(&body).await?;
    let file = tokio::fs::File::open(file).await?;
    let bytes = ReaderStream::with_capacity(file, 1 << 20).into_stream().boxed();
    Ok(cloud.client.images().upload(name, bytes).await?)
}
