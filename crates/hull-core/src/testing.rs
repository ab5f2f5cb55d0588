//! What tests build documents from.

use hull_types::{
    Timestamp,
    digest::Digest,
    event::Actor,
    flavor::{Flavor, Resources},
    id::{FlavorId, ImageId, NetworkId, NodeId, ProjectId, SubnetId},
    image::{Image, ImageContent, ImageFormat, ImageKind, ImagePhase, Visibility},
    meta::Meta,
    name::Name,
    network::{Network, Subnet, Uplink, Vni},
    node::{Node, NodeFacts, NodeStatus},
    project::{Project, Quota, Usage},
    units::Bytes,
    vm::Accel,
};
use ipnet::IpNet;
use uuid::Uuid;

use crate::{
    call::{Call, Fresh},
    owner::Owner,
};

/// 2026-01-01 12:00:00 UTC.
pub(crate) const NOW: Timestamp = Timestamp::constant(1_767_268_800, 0);

/// So many seconds after [`NOW`].
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::new(NOW.as_second() + seconds, 0).unwrap()
}

/// Ids and bytes from a counter (SplitMix64).
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Fresh for Seeded {
    fn uuid(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.next(), self.next())
    }

    fn mac_bytes(&mut self) -> [u8; 3] {
        let [a, b, c, ..] = self.next().to_be_bytes();
        [a, b, c]
    }
}

pub(crate) fn call(fresh: &mut Seeded) -> Call<'_> {
    Call { now: NOW, actor: Actor::LocalRoot, fresh }
}

pub(crate) const PROJECT: ProjectId = ProjectId(Uuid::from_u128(0x11));

pub(crate) fn project() -> Project {
    Project { id: PROJECT, name: name("default"), description: String::new(), created_at: NOW, quota: Quota::default() }
}

pub(crate) fn owner(project: &Project) -> Owner<'_> {
    Owner { project, usage: Usage::default() }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn meta(text: &str) -> Meta {
    Meta::new(PROJECT, name(text), NOW)
}

pub(crate) const NETWORK: NetworkId = NetworkId(Uuid::from_u128(0x22));

/// The subnets of [`network`]; the gateway is the first address after the network's own.
pub(crate) fn subnets(cidrs: &[&str]) -> Vec<Subnet> {
    let subnets = cidrs.iter().enumerate().map(|(n, cidr)| {
        let cidr: IpNet = cidr.parse().unwrap();
        let gateway = cidr.hosts().next().unwrap();
        let gateway = if gateway == cidr.network() { cidr.hosts().nth(1).unwrap() } else { gateway };
        Subnet {
            id: SubnetId(Uuid::from_u128(n as u128 + 1)),
            meta: meta(&format!("subnet-{n}")),
            network: NETWORK,
            cidr,
            gateway: Some(gateway),
            dns: vec![],
            pools: vec![],
            dhcp: true,
            routes: vec![],
            dhcp_options: vec![],
            router: None,
        }
    });
    subnets.collect()
}

pub(crate) fn network(cidrs: &[&str]) -> Network {
    Network {
        id: NETWORK,
        meta: meta("net"),
        subnets: subnets(cidrs).iter().map(|subnet| subnet.id).collect(),
        uplink: Uplink::Nat,
        vni: Some(Vni(7)),
        mtu: 1500,
        domain: "hull.internal".into(),
        shared: true,
        external: false,
        port_security: true,
    }
}

pub(crate) fn image(text: &str) -> Image {
    Image {
        id: ImageId(Uuid::from_u128(0x33)),
        meta: meta(text),
        kind: ImageKind::Disk,
        visibility: Visibility::Public,
        hidden: false,
        min_disk: Bytes::ZERO,
        min_memory: Bytes::ZERO,
        direct_boot: None,
        phase: ImagePhase::Ready,
        reason: None,
        progress: None,
        content: Some(ImageContent {
            digest: Digest([3; 32]),
            format: ImageFormat::Qcow2,
            size: Bytes::mib(200),
            virtual_size: Bytes::gib(2),
            source_digest: Digest([4; 32]),
        }),
        source_url: None,
        ready_at: Some(NOW),
    }
}

pub(crate) fn kernel() -> Image {
    let mut image = image("vmlinuz");
    image.id = ImageId(Uuid::from_u128(0x44));
    image.kind = ImageKind::Kernel;
    image.content.as_mut().unwrap().digest = Digest([5; 32]);
    image
}

pub(crate) fn flavor() -> Flavor {
    Flavor {
        id: FlavorId(Uuid::from_u128(0x55)),
        name: name("small"),
        description: String::new(),
        resources: Resources { vcpus: 2, memory: Bytes::gib(2), disk: Bytes::gib(10) },
        created_at: NOW,
    }
}

pub(crate) fn node(text: &str) -> (Node, NodeStatus) {
    let id = NodeId(Uuid::from_u128(0x66));
    let facts = NodeFacts {
        hostname: text.into(),
        hull_version: "0.1.0".into(),
        qemu_version: Some("7.2".into()),
        kernel: "6.1".into(),
        cpus: 8,
        memory: Bytes::gib(17),
        memory_reserved: Bytes::gib(1),
        disk: Bytes::gib(100),
        cpu_model: Some("QEMU Virtual CPU".into()),
        accel: Accel::Tcg,
        boot_id: "b".into(),
        underlay: None,
        providers: vec![],
        migrates: true,
    };
    let status = NodeStatus { node: id, facts, conditions: vec![], disk_free: Bytes::gib(90), at: NOW };
    (Node { id, name: name(text), joined_at: NOW, maintenance: false }, status)
}
