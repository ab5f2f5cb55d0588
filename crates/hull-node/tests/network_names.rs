//! Names and IPv6: DNS inside the network and beyond it, router advertisements, DHCPv6.

#![allow(clippy::unwrap_used)]

mod network_kit;

use std::{
    io::{Read, Write},
    net::{TcpListener, UdpSocket},
    os::fd::AsFd,
};

use hull_node::network::Networks;
use hull_testkit::{TestHost, eventually};
use network_kit::{Bench, SOON, network};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A resolver beyond the host that knows one answer, 192.0.2.7, to every question; over both transports.
fn resolver(world: &TestHost) {
    let (path, address) = (world.namespace_path(), world.address());
    let (ready, opened) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let file = std::fs::File::open(path).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let datagrams = UdpSocket::bind((address, 53)).unwrap();
        let stream = TcpListener::bind((address, 53)).unwrap();
        ready.send(()).unwrap();
        std::thread::spawn(move || {
            for connection in stream.incoming() {
                let mut connection = connection.unwrap();
                let mut length = [0; 2];
                connection.read_exact(&mut length).unwrap();
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                connection.read_exact(&mut query).unwrap();
                let answer = answer(&query);
                connection.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
                connection.write_all(&answer).unwrap();
            }
        });
        let mut packet = [0; 4096];
        loop {
            let (length, peer) = datagrams.recv_from(&mut packet).unwrap();
            datagrams.send_to(&answer(&packet[..length]), peer).unwrap();
        }
    });
    opened.recv().unwrap();
}

fn answer(query: &[u8]) -> Vec<u8> {
    let name_ends = 12 + query[12..].iter().position(|&byte| byte == 0).unwrap();
    let mut answer = query[..name_ends + 5].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7]);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_vms_are_known_and_others_are_asked_of_the_hosts_resolvers() {
    let bench = Bench::new();
    resolver(&bench.world);
    let network = network(20);
    bench.networks.apply(&network).await.unwrap();
    let guest = bench.guest(&network, 0).await;
    guest.dhcp().unwrap();
    guest.address("fd00:90:20::a/64");
    let dig = |what: &str| guest.run(&format!("dig +short +time=5 +tries=3 {what}")).trim().to_owned();

    assert_eq!(dig("@10.90.20.1 vm11.hull.internal"), "10.90.20.11");
    assert_eq!(dig("@10.90.20.1 vm11.hull.internal AAAA"), "fd00:90:20::b");
    assert_eq!(dig("@fd00:90:20::1 -x 10.90.20.11"), "vm11.hull.internal.");
    assert!(guest.run("dig @10.90.20.1 nobody.hull.internal").contains("NXDOMAIN"));
    assert_eq!(dig("@10.90.20.1 debian.example"), "192.0.2.7");
    assert_eq!(dig("+tcp @10.90.20.1 debian.example"), "192.0.2.7");

    let mut renamed = network.clone();
    renamed.ports[1].hostname = "database".to_owned();
    bench.networks.apply(&renamed).await.unwrap();
    let new_name = || async {
        let answer = dig("@10.90.20.1 database.hull.internal");
        if answer == "10.90.20.11" { Ok(()) } else { Err(answer) }
    };
    eventually("the new name", SOON, new_name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_resolver_the_guest_is_told_so() {
    let bench = Bench::new();
    let network = network(21);
    bench.networks.apply(&network).await.unwrap();
    let guest = bench.guest(&network, 0).await;
    guest.dhcp().unwrap();
    // Nobody listens at the world's port 53.
    assert!(guest.run("dig +time=10 +tries=3 @10.90.21.1 debian.example").contains("SERVFAIL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_advertise_and_dhcpv6_gives_the_ports_address() {
    let bench = Bench::new();
    let network = network(22);
    bench.networks.apply(&network).await.unwrap();
    let guest = bench.guest(&network, 0).await;

    let advertised = guest.run("rdisc6 -1 -r 10 -w 3000 eth0");
    for word in
        ["Stateful address conf.    :          Yes", "fd00:90:22::/64", "1400 bytes", "fd00:90:22::1", "hull.internal"]
    {
        assert!(advertised.contains(word), "{word} is missing from:\n{advertised}");
    }

    guest.run("sysctl -qw net.ipv6.conf.eth0.accept_ra=2");
    let leases = bench.state.path().join("leases6");
    let pid = bench.state.path().join("dhclient6.pid");
    // A script of our own: Debian's would write the host's /etc/resolv.conf, since only the network is another.
    let script = bench.state.path().join("configure6");
    std::fs::write(
        &script,
        "#!/bin/sh\n[ -z \"$new_ip6_address\" ] || ip -6 addr add \"$new_ip6_address/128\" dev \"$interface\"\n",
    )
    .unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    guest.run(&format!(
        "ip link set eth0 up; timeout 60 dhclient -6 -1 -sf {} -lf {} -pf {} eth0 >&2; pkill -F {2} || true",
        script.display(),
        leases.display(),
        pid.display()
    ));
    let lease = std::fs::read_to_string(&leases).unwrap();
    assert!(lease.contains("iaaddr fd00:90:22::a") && lease.contains("fd00:90:22::1"), "{lease}");

    // The client has configured what it was given.
    assert!(guest.run("ip -6 addr show dev eth0").contains("fd00:90:22::a/"));
    let routed = || async { guest.attempt(&format!("ping -c 1 -W 5 {}", bench.world.address6())) };
    guest.run("rdisc6 -1 -r 10 -w 3000 eth0");
    eventually("the advertised route", SOON, routed).await.unwrap();
}
