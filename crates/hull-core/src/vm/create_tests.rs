//! Creating VMs: every refusal at the door, and what one decision writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use hull_types::{
    image::ImageKind,
    network::{Network, Subnet},
    project::Quota,
    vm::RestartPolicy,
};
use proptest::prelude::*;

use super::*;
use crate::{
    ipam::NetworkUse,
    subnet::On,
    testing::{self, Seeded, call, flavor, image, kernel, name, network, project},
};

/// A request for one VM of an image and a flavor on one network, to be bent by each case.
struct Case {
    request: VmCreate,
    project: Project,
    usage: Usage,
    image: Option<Image>,
    kernel: Option<Image>,
    flavor: Option<Flavor>,
    network: Network,
    subnets: Vec<Subnet>,
    used: NetworkUse,
    nodes: Vec<Candidate>,
    addresses: Vec<IpAddr>,
}

impl Case {
    fn new() -> Self {
        let request = VmCreate {
            name: name("web"),
            description: String::new(),
            metadata: BTreeMap::new(),
            count: 1,
            image: Some("debian-12".into()),
            kernel: None,
            flavor: Some("small".into()),
            resources: None,
            profile: Profile::Pc,
            firmware: Firmware::Bios,
            secure_boot: false,
            tpm: false,
            keypairs: vec![],
            ssh_keys: vec![],
            user_data: None,
            nics: None,
            restart: RestartPolicy::OnFailure,
            start: true,
        };
        Self {
            request,
            project: project(),
            usage: Usage::default(),
            image: Some(image("debian-12")),
            kernel: None,
            flavor: Some(flavor()),
            network: network(&["10.0.0.0/16", "fd00::/64"]),
            subnets: testing::subnets(&["10.0.0.0/16", "fd00::/64"]),
            used: NetworkUse::default(),
            nodes: vec![],
            addresses: vec![],
        }
    }

    fn with(bend: impl FnOnce(&mut Self)) -> Result<Changes> {
        let mut case = Self::new();
        bend(&mut case);
        case.decide(&mut Seeded::new(7))
    }

    fn decide(&self, fresh: &mut Seeded) -> Result<Changes> {
        let subnets: Vec<&Subnet> = self.subnets.iter().collect();
        let nics = [Nic::Make(Wish {
            on: On { network: &self.network, subnets: &subnets, used: &self.used },
            addresses: &self.addresses,
            from: &[],
            mac: None,
            groups: &[],
        })];
        let plan = Create {
            request: &self.request,
            project: &self.project,
            usage: self.usage,
            image: self.image.as_ref(),
            kernel: self.kernel.as_ref().map(|kernel| Kernel { kernel, initrd: None, cmdline: "console=ttyS0" }),
            flavor: self.flavor.as_ref(),
            keypairs: &[],
            nics: &nics,
            nodes: &self.nodes,
        };
        create(&plan, &mut call(fresh))
    }
}

fn usage_of(changes: &Changes) -> Usage {
    let put = |write: &Write| if let Write::PutUsage { usage, .. } = write { Some(*usage) } else { None };
    changes.writes.iter().find_map(put).unwrap()
}

fn claims(changes: &Changes) -> Vec<&Claim> {
    changes.writes.iter().filter_map(|w| if let Write::Claim(claim) = w { Some(claim) } else { None }).collect()
}

#[test]
fn one_vm_is_one_transaction_with_everything_it_needs() {
    let made = Case::with(|_| ()).unwrap();
    let vm = made.vms().next().unwrap();
    assert_eq!((vm.meta.name.as_str(), vm.hostname.as_str()), ("web", "web"));
    assert_eq!(vm.resources, flavor().resources);
    assert_eq!((vm.power.target, vm.power.seq, vm.disk_generation), (PowerTarget::Running, 1, 1));
    assert_eq!(usage_of(&made), quota::of_vm(&vm.resources, 1));
    assert_eq!(claims(&made).len(), 5, "name, host name, MAC, IPv4, IPv6");
    let port = made.writes.iter().find_map(|w| if let Write::PutPort(port) = w { Some(port) } else { None }).unwrap();
    assert_eq!((port.vm, &vm.ports[..]), (Some(vm.id), &[port.id][..]));
    assert_eq!(port.addresses.iter().map(|a| a.address.to_string()).collect::<Vec<_>>(), ["10.0.0.2", "fd00::2"]);
    assert!(made.writes.iter().any(|w| matches!(w, Write::Event(event) if event.action == "vm.create")));
    for doc in [Doc::Project(testing::PROJECT), Doc::Usage(testing::PROJECT), Doc::Image(image("x").id)] {
        assert!(made.expect.contains(&crate::change::Expect::Unchanged(doc)), "{doc:?}");
    }
}

#[test]
fn many_are_numbered_and_no_two_share_anything() {
    let made = Case::with(|case| case.request.count = 1000).unwrap();
    let names: Vec<_> = made.vms().map(|vm| vm.meta.name.as_str()).collect();
    assert_eq!((names.len(), names[0], names[999]), (1000, "web-1", "web-1000"));
    let distinct: BTreeSet<_> = claims(&made).into_iter().map(|claim| format!("{claim:?}")).collect();
    assert_eq!(distinct.len(), 5000);
    assert_eq!(usage_of(&made).vms, 1000);
}

#[test]
fn names_that_come_to_one_label_are_told_apart() {
    let hosts = |bend: fn(&mut Case)| {
        let made = Case::with(bend).unwrap();
        let hosts: Vec<_> = made.vms().map(|vm| vm.hostname.clone()).collect();
        for write in &made.writes {
            if let Write::PutPort(port) = write {
                assert!(hosts.contains(&port.hostname));
            }
        }
        let claimed: BTreeSet<_> = claims(&made)
            .into_iter()
            .filter_map(
                |claim| if let Claim::Hostname { hostname, .. } = claim { Some(hostname.clone()) } else { None },
            )
            .collect();
        assert_eq!(claimed, hosts.iter().cloned().collect());
        hosts
    };
    assert_eq!(hosts(|case| case.request.name = name("Web 1")), ["web-1"]);
    assert_eq!(
        hosts(|case| {
            case.request.name = name("Web 1");
            case.used.hostnames.insert("web-1".into(), 1);
        }),
        ["web-1-2"]
    );
    assert_eq!(
        hosts(|case| {
            case.request.count = 3;
            case.used.hostnames.insert("web-2".into(), 1);
        }),
        ["web-1", "web-2-2", "web-3"]
    );
}

#[test]
fn numbers_stay_on_long_host_names() {
    let made = Case::with(|case| {
        case.request.count = 2;
        case.request.name = name(&"a".repeat(200));
    });
    let hosts: BTreeSet<_> = made.unwrap().vms().map(|vm| vm.hostname.clone()).collect();
    assert_eq!(hosts.len(), 2);
    assert!(hosts.iter().all(|host| host.len() <= 63 && (host.ends_with("-1") || host.ends_with("-2"))), "{hosts:?}");
}

#[test]
fn a_disk_is_as_asked_as_the_flavor_s_or_as_the_image_needs() {
    let disk = |bend: fn(&mut Case)| Case::with(bend).unwrap().vms().next().unwrap().resources.disk;
    assert_eq!(disk(|_| ()), Bytes::gib(10), "the flavor's");
    let given = |disk| Some(Resources { vcpus: 1, memory: Bytes::mib(64), disk });
    assert_eq!(
        Bytes::gib(10),
        disk(|case| case.request.resources = Some(Resources { disk: Bytes::gib(3), ..flavor().resources }))
    );
    assert_eq!(
        Bytes::gib(30),
        disk(|case| case.request.resources = Some(Resources { disk: Bytes::gib(30), ..flavor().resources }))
    );
    let made = Case::with(|case| {
        case.flavor = None;
        case.request.resources = given(Bytes::ZERO);
    });
    assert_eq!(made.unwrap().vms().next().unwrap().resources.disk, Bytes::gib(2), "the image's virtual size");
}

#[test]
fn a_micro_vm_boots_its_image_s_kernel_or_its_own() {
    let own = Case::with(|case| {
        case.request.profile = Profile::Micro;
        case.kernel = Some(kernel());
        case.image = None;
    });
    let vm = own.unwrap().vms().next().unwrap().clone();
    assert_eq!(vm.resources.disk, Bytes::ZERO, "no image, no disk, whatever the flavor says");
    assert_eq!(vm.boot.kernel.unwrap().kernel, kernel().content.unwrap().digest);
    let images = Case::with(|case| {
        case.request.profile = Profile::Micro;
        let direct = DirectBoot { kernel: kernel().content.unwrap().digest, initrd: None, cmdline: "quiet".into() };
        case.image.as_mut().unwrap().direct_boot = Some(direct);
    });
    assert_eq!(images.unwrap().vms().next().unwrap().boot.kernel.as_ref().unwrap().cmdline, "quiet");
}

/// One refusal: how the request is bent, and what the sentence says.
type Refusal = (fn(&mut Case), &'static str, &'static str);

const REFUSALS: &[Refusal] = &[
    (|c| c.request.count = 0, "/count", "1 to 1000 VMs, not 0"),
    (|c| c.request.count = 1001, "/count", "not 1001"),
    (|c| c.request.description = "x".repeat(5000), "/description", "at most 4096"),
    (|c| c.request.user_data = Some("%".into()), "/user_data", "base64"),
    (|c| c.request.metadata = [(String::new(), String::new())].into(), "/metadata", "key cannot be empty"),
    (|c| c.flavor = None, "/flavor", "give a flavor"),
    (|c| c.image = None, "/image", "nothing to boot"),
    (|c| c.flavor.as_mut().unwrap().resources.vcpus = 0, "/resources/vcpus", "1 to 255"),
    (|c| c.flavor.as_mut().unwrap().resources.memory = Bytes(1), "/resources/memory", "16 MiB"),
    (
        |c| c.flavor.as_mut().unwrap().resources.disk = Bytes::gib(1),
        "/resources/disk",
        "at least 2 GiB, 1 GiB was given",
    ),
    (|c| c.image.as_mut().unwrap().min_disk = Bytes::gib(11), "/resources/disk", "at least 11 GiB"),
    (|c| c.image.as_mut().unwrap().min_memory = Bytes::gib(3), "/resources/memory", "at least 3 GiB of memory"),
    (|c| c.image.as_mut().unwrap().phase = ImagePhase::Importing, "/image", "still being imported"),
    (|c| c.image.as_mut().unwrap().phase = ImagePhase::Queued, "/image", "upload them"),
    (|c| c.image.as_mut().unwrap().phase = ImagePhase::Failed, "/image", "import failed"),
    (|c| c.image.as_mut().unwrap().phase = ImagePhase::Deleting, "/image", "being deleted"),
    (|c| c.image.as_mut().unwrap().kind = ImageKind::Kernel, "/image", "is a kernel, a disk is needed"),
    (|c| c.kernel = c.image.clone(), "/kernel/kernel", "is a disk, a kernel is needed"),
    (|c| c.request.secure_boot = true, "/secure_boot", "needs UEFI"),
    (
        |c| (c.request.secure_boot, c.request.firmware, c.kernel) = (true, Firmware::Uefi, Some(kernel())),
        "/secure_boot",
        "goes around secure boot",
    ),
    (|c| c.request.profile = Profile::Micro, "/kernel", "boots a kernel directly"),
    (
        |c| (c.request.profile, c.kernel, c.request.firmware) = (Profile::Micro, Some(kernel()), Firmware::Uefi),
        "/firmware",
        "no UEFI",
    ),
    (|c| (c.request.profile, c.kernel, c.request.tpm) = (Profile::Micro, Some(kernel()), true), "/tpm", "no TPM"),
    (|c| (c.request.count, c.addresses) = (2, vec!["10.0.0.9".parse().unwrap()]), "/nics", "for one VM only"),
    (|c| c.addresses = vec!["10.0.0.1".parse().unwrap()], "/nics/0/addresses", "own address"),
    (|c| (c.request.count, c.request.name) = (2, name(&"n".repeat(255))), "/name", "shorten the name"),
];

#[test]
fn what_cannot_be_is_refused_with_its_field_and_what_to_do() {
    for (number, (bend, field, says)) in REFUSALS.iter().enumerate() {
        let error = Case::with(*bend).expect_err(says);
        assert_eq!(error.field.as_deref(), Some(*field), "case {number}: {error}");
        assert!(error.detail.contains(says), "case {number}: {error}");
    }
}

#[test]
fn larger_than_every_host_is_refused_and_larger_than_what_is_free_is_not() {
    let (node, status) = testing::node("n1");
    let full =
        Candidate::new(&node, Some(&status), None, placement::Room { memory: Bytes::gib(16), ..Default::default() });
    let nodes = vec![full];
    assert!(Case::with(|case| case.nodes = nodes.clone()).is_ok(), "it waits for room");
    let error = Case::with(|case| {
        case.nodes = nodes.clone();
        case.flavor.as_mut().unwrap().resources.memory = Bytes::gib(17);
    });
    assert!(error.unwrap_err().detail.contains("no node could ever hold it"));
}

#[test]
fn a_full_network_and_a_spent_quota_make_nothing() {
    let error = Case::with(|case| {
        case.network = network(&["10.0.0.0/30"]);
        case.subnets = testing::subnets(&["10.0.0.0/30"]);
        case.request.count = 2;
    });
    assert!(error.unwrap_err().detail.contains("no free IPv4 address"));
    let error = Case::with(|case| {
        case.project.quota = Quota { vms: Some(5), ..Quota::default() };
        case.usage = Usage { vms: 3, ..Usage::default() };
        case.request.count = 3;
    });
    assert!(error.unwrap_err().detail.contains("vms (limit 5, used 3, 3 more wanted)"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is asked, in whatever order, what was given out is claimed once, and usage is the sum of what exists.
    #[test]
    fn creations_one_after_another_never_collide(counts in prop::collection::vec(1u32..20, 1..12), seed: u64) {
        let mut case = Case::new();
        case.network = network(&["10.0.0.0/25", "fd00::/64"]);
        case.project.quota = Quota { vms: Some(60), ..Quota::default() };
        let mut fresh = Seeded::new(seed);
        let (mut vms, mut held) = (0u64, BTreeSet::new());
        for count in counts {
            case.request.count = count;
            let Ok(made) = case.decide(&mut fresh) else { continue };
            vms += u64::from(count);
            case.usage = usage_of(&made);
            prop_assert_eq!(case.usage, (0..vms).fold(Usage::default(), |sum, _| quota::add(sum, quota::of_vm(&flavor().resources, 1))));
            for claim in claims(&made) {
                match claim {
                    Claim::Address { address, .. } => prop_assert!(case.used.addresses.insert(*address)),
                    Claim::Mac { mac, .. } => prop_assert!(case.used.macs.insert(*mac)),
                    Claim::Hostname { hostname, .. } => prop_assert!(case.used.hostnames.insert(hostname.clone(), 1).is_none()),
                    Claim::Name { id, .. } => prop_assert!(held.insert(*id)),
                    Claim::RouterNumber { .. } => prop_assert!(false, "a VM is no router"),
                    Claim::Vni { .. } => prop_assert!(false, "a VM has no number on the wire"),
                }
            }
        }
        prop_assert!(vms <= 60);
    }
}
