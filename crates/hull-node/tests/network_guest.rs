//! What a guest meets on its network: an address, a gateway, metadata, the world, and its neighbours' closed doors.

#![allow(clippy::unwrap_used)]

mod network_kit;

use hull_node::network::Networks;
use network_kit::{Bench, metadata, network};

#[tokio::test(flavor = "multi_thread")]
async fn dhcp_gives_the_ports_address_and_all_that_belongs_to_it() {
    let bench = Bench::new();
    let network = network(1);
    bench.networks.apply(&network).await.unwrap();
    let guest = bench.guest(&network, 0).await;

    let told = guest.dhcp().unwrap();
    for line in [
        "ip=10.90.1.10",
        "subnet=255.255.255.0",
        "router=10.90.1.1",
        "dns=10.90.1.1",
        "mtu=1400",
        "hostname=vm10",
        "domain=hull.internal",
        "broadcast=10.90.1.255",
        "staticroutes=169.254.169.254/32 10.90.1.1 0.0.0.0/0 10.90.1.1",
        "lease=604800",
    ] {
        assert!(told.lines().any(|told| told == line), "{line} is missing from:\n{told}");
    }
    guest.run("ping -c 2 -W 5 10.90.1.1");
    let explained = bench.networks.explain(network.id, network.ports[0].id).await.unwrap().join("\n");
    assert!(explained.contains("is on the bridge, up") && explained.contains("DHCP leased it"), "{explained}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_the_callers_own_in_both_forms() {
    let bench = Bench::new();
    let network = network(2);
    bench.networks.apply(&network).await.unwrap();
    for port in &network.ports {
        bench.networks.set_metadata(metadata(port)).await.unwrap();
    }
    let guest = bench.guest(&network, 0).await;
    guest.dhcp().unwrap();
    let get = |path: &str| guest.run(&format!("curl -sSf --max-time 20 http://169.254.169.254{path}"));

    assert_eq!(get("/latest/meta-data/instance-id"), network.ports[0].vm.unwrap().to_string());
    assert_eq!(get("/latest/meta-data/public-keys/0/openssh-key"), "ssh-ed25519 AAAA laptop");
    assert_eq!(get("/latest/user-data"), "#cloud-config\n");
    assert!(get("/openstack/latest/meta_data.json").contains("\"hostname\":\"vm10\""));
    let token = guest.run(
        "curl -sSf --max-time 20 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token",
    );
    guest.run(&format!(
        "curl -sSf --max-time 20 -H 'X-aws-ec2-metadata-token: {token}' http://169.254.169.254/latest/meta-data/"
    ));
    guest
        .attempt("curl -sSf --max-time 20 -H 'X-aws-ec2-metadata-token: x' http://169.254.169.254/latest/meta-data/")
        .unwrap_err();

    guest.address("fd00:90:2::a/64");
    guest.run("ip -6 route replace default via fd00:90:2::1");
    let own = guest.run("curl -gsSf --max-time 20 http://[fd00:ec2::254]/latest/meta-data/local-ipv4");
    assert_eq!(own, "10.90.2.10");
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_reach_the_world_and_the_host_reaches_guests() {
    let bench = Bench::new();
    let network = network(3);
    bench.networks.apply(&network).await.unwrap();
    let guest = bench.guest(&network, 0).await;
    guest.dhcp().unwrap();
    guest.address("fd00:90:3::a/64");
    guest.run("ip -6 route replace default via fd00:90:3::1");

    guest.run(&format!("ping -c 2 -W 5 {}", bench.world.address()));
    guest.run(&format!("ping -c 2 -W 5 {}", bench.world.address6()));
    bench.host.run("ping -c 2 -W 5 10.90.3.10").unwrap();
    bench.host.run("ping -c 2 -W 5 fd00:90:3::a").unwrap();
}
