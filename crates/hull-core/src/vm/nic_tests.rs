//! NICs that come and go: ports made with the VM, and ports that a user made.

use hull_types::{
    id::PortId,
    network::{Network, Subnet, Uplink},
    project::{Quota, Usage},
    vm::VmState,
    wire::{NicRequest, VmAction},
};
use uuid::Uuid;

use super::*;
use crate::{
    change::{Doc, Expect},
    ipam::NetworkUse,
    port::Wish,
    subnet::On,
    testing::{Seeded, call, network, project, subnets},
    vm::{action, state::Standing, testing::vm},
};

struct Case {
    vm: Vm,
    state: VmState,
    usage: Usage,
    quota: Quota,
}

fn case() -> Case {
    let vm = Vm { ports: vec![], ..vm() };
    Case { vm, state: VmState::Running, usage: Usage { ports: 1, ..Usage::default() }, quota: Quota::default() }
}

impl Case {
    fn act(&self, nic: Plug<'_>, action: &VmAction) -> Result<Changes> {
        let project = hull_types::project::Project { quota: self.quota.clone(), ..project() };
        let standing = Standing { state: self.state, reason: None, settled: true };
        let plan = Acting {
            vm: &self.vm,
            standing: &standing,
            action,
            project: &project,
            usage: self.usage,
            flavor: None,
            image: None,
            nic: Some(nic),
            nodes: &[],
            node: None,
        };
        action::act(&plan, &mut call(&mut Seeded::new(8)))
    }

    fn make(&self) -> Result<Changes> {
        let (network, all) = (Network { uplink: Uplink::None, ..network(&["10.0.0.0/24"]) }, subnets(&["10.0.0.0/24"]));
        let (all, used): (Vec<&Subnet>, _) = (all.iter().collect(), NetworkUse::default());
        let on = On { network: &network, subnets: &all, used: &used };
        let wish = Wish { on, addresses: &[], from: &[], mac: None, groups: &[] };
        self.act(Plug::In { nic: Nic::Make(wish), present: &[] }, &VmAction::AttachNic { nic: NicRequest::default() })
    }

    fn take(&self, port: &Port) -> Result<Changes> {
        self.act(Plug::In { nic: Nic::Take(port), present: &[] }, &VmAction::AttachNic { nic: NicRequest::default() })
    }

    fn unplug(&self, port: &Port) -> Result<Changes> {
        let action = VmAction::DetachNic { port: port.id.to_string() };
        self.act(Plug::Out { port, floating_ips: &[], present: &[port] }, &action)
    }
}

fn put(changes: &Changes) -> Port {
    let put =
        changes.writes.iter().find_map(|w| if let Write::PutPort(p) = w { Some(p.as_ref().clone()) } else { None });
    put.unwrap()
}

fn usage(changes: &Changes) -> u64 {
    let put = changes
        .writes
        .iter()
        .find_map(|w| if let Write::PutUsage { usage, .. } = w { Some(usage.ports) } else { None });
    put.unwrap()
}

fn claims(changes: &Changes) -> Vec<&Claim> {
    changes
        .writes
        .iter()
        .filter_map(|w| if let Write::Claim(c) | Write::Release(c) = w { Some(c) } else { None })
        .collect()
}

#[test]
fn a_port_made_with_the_nic_comes_and_goes_with_it() {
    let mut case = case();
    let plugged = case.make().unwrap();
    let port = put(&plugged);
    assert_eq!((port.vm, port.goes_with_vm, port.hostname.as_str()), (Some(case.vm.id), true, "web"));
    assert_eq!(plugged.vms().next().unwrap().ports, [port.id]);
    assert_eq!((claims(&plugged).len(), usage(&plugged)), (3, 2), "MAC, address, host name");
    case.vm.ports = vec![port.id];
    let gone = case.unplug(&port).unwrap();
    assert!(gone.writes.contains(&Write::DeletePort(port.id)));
    let sorted = |changes: &Changes| {
        let mut all: Vec<Claim> = claims(changes).into_iter().cloned().collect();
        all.sort();
        all
    };
    assert_eq!((sorted(&gone), usage(&gone)), (sorted(&plugged), 0));
    let twin = Port { id: PortId(Uuid::from_u128(2)), ..port.clone() };
    let action = VmAction::DetachNic { port: port.id.to_string() };
    let one = case.act(Plug::Out { port: &port, floating_ips: &[], present: &[&port, &twin] }, &action).unwrap();
    assert_eq!(claims(&one).len(), 2, "the other NIC there keeps the host name");
    assert!(gone.vms().next().unwrap().ports.is_empty());
}

#[test]
fn a_port_that_a_user_made_stays_when_it_is_unplugged() {
    let mut case = case();
    let own = Port { vm: None, goes_with_vm: false, hostname: "own".into(), ..put(&case.make().unwrap()) };
    let plugged = case.take(&own).unwrap();
    assert_eq!(put(&plugged).hostname, "own", "its name stays its own");
    assert!(claims(&plugged).is_empty() && plugged.expect.contains(&Expect::Unchanged(Doc::Port(own.id))));
    case.vm.ports = vec![own.id];
    let there = put(&plugged);
    assert!(case.take(&there).unwrap_err().detail.contains("already"), "one VM's at a time");
    let gone = case.unplug(&there).unwrap();
    assert_eq!((put(&gone).vm, usage(&gone)), (None, 1));
    assert!(claims(&gone).is_empty());
}

#[test]
fn what_cannot_be_plugged_is_refused() {
    let mut case = case();
    let stranger = Port { id: PortId(Uuid::from_u128(1)), ..put(&case.make().unwrap()) };
    assert!(case.unplug(&stranger).unwrap_err().detail.contains("is not web's"));
    case.state = VmState::Suspended;
    assert!(case.make().is_err(), "saved memory fits only the machine it was saved from");
    case.state = VmState::Running;
    case.quota.ports = Some(1);
    assert_eq!(case.make().unwrap_err().kind, hull_types::error::ErrorKind::QuotaExceeded);
    case.quota.ports = None;
    case.vm.ports = (0..8).map(|n| PortId(Uuid::from_u128(n))).collect();
    assert!(case.make().unwrap_err().detail.contains("the most there can be"));
}

#[test]
fn a_micro_machine_is_told_that_it_waits_for_the_next_start() {
    let mut case = case();
    let told = |changes: &Changes| {
        let event =
            changes.writes.iter().find_map(|w| if let Write::Event(e) = w { Some(e.message.clone()) } else { None });
        event.unwrap()
    };
    assert!(!told(&case.make().unwrap()).contains("next start"));
    case.vm.profile = Profile::Micro;
    assert!(told(&case.make().unwrap()).contains("next start"));
    case.state = VmState::Stopped;
    assert!(!told(&case.make().unwrap()).contains("next start"));
}
