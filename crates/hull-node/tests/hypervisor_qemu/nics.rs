//! NICs that come and go while a machine runs: plugged into real networks, by a guest that asks for its address.

use hull_node::{
    hypervisor::{Hypervisor, NicSpec, Plugged, PluggedNic, Vmm},
    network::Networks,
};
use hull_testkit::eventually;
use hull_types::{
    error::ErrorKind,
    link::{DesiredNetwork, DesiredPort},
    vm::Profile,
};

use crate::{
    bench::{Bench, DEADLINE, wait_console},
    devices::shell,
    network_kit,
};

async fn nic(net: &network_kit::Bench, network: &DesiredNetwork) -> NicSpec {
    let port = &network.ports[0];
    let tap = net.networks.tap(network.id, port.id).await.unwrap();
    NicSpec { port: port.id, mac: port.mac, mtu: network.mtu, tap }
}

/// One whose tap must not be needed.
fn nic_without_tap(port: &DesiredPort) -> NicSpec {
    let tap = std::fs::File::open("/dev/null").unwrap().into();
    NicSpec { port: port.id, mac: port.mac, mtu: 1400, tap }
}

fn plugged(network: &DesiredNetwork) -> PluggedNic {
    PluggedNic { port: network.ports[0].id, mac: network.ports[0].mac }
}

/// The guest says so often that this card has this address.
async fn leased(vmm: &dyn Vmm, card: &str, address: &str, times: usize) {
    let line = format!("HULL-GUEST-DHCP {card} ip={address}/");
    eventually("the guest has its address", DEADLINE, || async {
        let log = vmm.console_log(1 << 20).await.unwrap();
        let said = String::from_utf8_lossy(&log).matches(&line).count();
        if said >= times { Ok(()) } else { Err(format!("{said} times {line:?}: {}", String::from_utf8_lossy(&log))) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pc_takes_and_gives_nics_while_it_runs_and_from_saved_memory() {
    let (bench, net) = (Bench::new(), network_kit::Bench::new());
    let (first, second) = (network_kit::network(1), network_kit::network(2));
    for network in [&first, &second] {
        net.networks.apply(network).await.unwrap();
    }
    let mut spec = bench.guest(Profile::Pc, "");
    spec.nics = vec![nic(&net, &first).await];
    let vmm = bench.start_ready(spec).await;
    leased(&*vmm, "eth0", "10.90.1.10", 1).await;

    // It comes, and is there once however often it is said.
    assert_eq!(vmm.attach_nic(nic(&net, &second).await).await.unwrap(), Plugged::Now);
    assert_eq!(vmm.attach_nic(nic_without_tap(&second.ports[0])).await.unwrap(), Plugged::Now);
    leased(&*vmm, "eth1", "10.90.2.10", 1).await;
    let both = [plugged(&first), plugged(&second)];
    assert_eq!(vmm.nics().await.unwrap(), both);

    // It goes, and its tap with it.
    for _ in 0..2 {
        assert_eq!(vmm.detach_nic(second.ports[0].id).await.unwrap(), Plugged::Now);
    }
    assert_eq!(vmm.nics().await.unwrap(), [plugged(&first)]);
    shell(&*vmm, "while [ -e /sys/class/net/eth1 ]; do usleep 100000; done; echo g''one", "gone").await;

    // It comes again, into the same place; the next Hull finds it.
    assert_eq!(vmm.attach_nic(nic(&net, &second).await).await.unwrap(), Plugged::Now);
    leased(&*vmm, "eth1", "10.90.2.10", 2).await;
    // QEMU speaks with one Hull at a time.
    drop(vmm);
    let vmm = bench.adopt().await.unwrap();
    assert_eq!(vmm.nics().await.unwrap(), both);

    // A halted guest lets go of nothing; what it lets go of later is cleared away.
    vmm.pause().await.unwrap();
    assert_eq!(vmm.detach_nic(second.ports[0].id).await.unwrap_err().kind, ErrorKind::Timeout);
    vmm.resume().await.unwrap();
    eventually("it lets go late", DEADLINE, || async {
        let nics = vmm.nics().await.unwrap();
        if nics == [plugged(&first)] { Ok(()) } else { Err(format!("{nics:?}")) }
    })
    .await
    .unwrap();
    assert_eq!(vmm.attach_nic(nic(&net, &second).await).await.unwrap(), Plugged::Now);
    leased(&*vmm, "eth1", "10.90.2.10", 3).await;

    // Saved with both; the first is its VM's no more when it is restored.
    let saved = bench.dir.join("memory");
    vmm.save(&saved).await.unwrap();
    vmm.quit().await.unwrap();
    bench.hypervisor.clear(bench.vm, &bench.dir).await.unwrap();
    let mut spec = bench.guest(Profile::Pc, "");
    spec.restore = Some(saved);
    spec.nics = vec![nic(&net, &second).await];
    let restored = bench.start(spec).await;
    assert_eq!(restored.nics().await.unwrap(), both);
    shell(&*restored, "ping -c 1 -W 20 -I eth1 10.90.2.1 >/dev/null && echo pi''ng", "ping").await;
    assert_eq!(restored.detach_nic(first.ports[0].id).await.unwrap(), Plugged::Now);
    assert_eq!(restored.nics().await.unwrap(), [plugged(&second)]);
    shell(&*restored, "while [ -e /sys/class/net/eth0 ]; do usleep 100000; done; echo le''ft", "left").await;
    restored.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pc_says_when_it_has_no_slot_left_and_a_micro_that_it_takes_none() {
    let (bench, net) = (Bench::new(), network_kit::Bench::new());
    let network = network_kit::network(3);
    net.networks.apply(&network).await.unwrap();
    let vmm = bench.start(bench.empty()).await;
    let nics: Vec<_> = (4..9).map(network_kit::network).collect();
    for network in &nics {
        net.networks.apply(network).await.unwrap();
    }
    let mut said = Vec::new();
    for network in &nics {
        said.push(vmm.attach_nic(nic(&net, network).await).await.unwrap());
    }
    let Some(Plugged::AtNextStart(why)) = said.pop() else { panic!("{said:?}") };
    assert!(why.contains("no free slot") && said.iter().all(|one| *one == Plugged::Now), "{why} {said:?}");
    vmm.quit().await.unwrap();
    bench.hypervisor.clear(bench.vm, &bench.dir).await.unwrap();

    let mut spec = bench.guest(Profile::Micro, "");
    spec.nics = vec![nic(&net, &network).await];
    let vmm = bench.start(spec).await;
    wait_console(&*vmm, "HULL-GUEST-DHCP eth0 ip=10.90.3.10/").await;
    for changed in [
        vmm.attach_nic(nic_without_tap(&network.ports[1])).await.unwrap(),
        vmm.detach_nic(network.ports[0].id).await.unwrap(),
    ] {
        assert!(matches!(&changed, Plugged::AtNextStart(why) if why.contains("next start: a micro")), "{changed:?}");
    }
    vmm.quit().await.unwrap();
}
