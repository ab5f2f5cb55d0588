//! Sockets of DHCP and of router advertisements.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    sync::PoisonError,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt};
use tokio::{
    net::UdpSocket,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    super::{dhcp4, dhcp6, layout::BRIDGE, ra},
    Shop,
};

/// The largest request looked at; what guests send is a few hundred bytes.
const LARGEST: usize = 1500;
/// Between unasked advertisements.
const ADVERTISE: Duration = Duration::from_secs(200);
/// Between advertisements to all at most, whoever asks (RFC 4861's `MIN_DELAY_BETWEEN_RAS` is 3 s; a guest's first
/// question comes from no address and must not wait that long).
const CALM: Duration = Duration::from_millis(500);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_DHCP_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

pub(super) async fn serve_v4(shop: Shop) {
    let socket = shop.open("DHCP", open_v4).await;
    let mut packet = [0; LARGEST];
    loop {
        let Ok((length, _)) = socket.recv_from(&mut packet).await else { continue };
        let Some(reply) = dhcp4::respond(&shop.view(), &packet[..length]) else { continue };
        if let Some(mac) = reply.leased {
            let now = jiff::Timestamp::now().as_second();
            shop.leases.lock().unwrap_or_else(PoisonError::into_inner).insert(mac, now);
        }
        // A guest that is gone, or a full queue: the guest asks again.
        let _ = socket.send_to(&reply.packet, SocketAddrV4::new(reply.to, 68)).await;
    }
}

fn open_v4() -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 67))?;
    socket.set_nonblocking(true)?;
    socket.set_broadcast(true)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.bind_device(Some(BRIDGE.as_bytes()))?;
    Ok(socket)
}

pub(super) async fn serve_v6(shop: Shop, bridge: u32) {
    let open = move || {
        let socket = std::net::UdpSocket::bind(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 547, 0, 0))?;
        socket.join_multicast_v6(&ALL_DHCP_SERVERS, bridge)?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        socket.bind_device(Some(BRIDGE.as_bytes()))?;
        Ok(socket)
    };
    let socket = shop.open("DHCPv6", open).await;
    let mut packet = [0; LARGEST];
    loop {
        let Ok((length, SocketAddr::V6(peer))) = socket.recv_from(&mut packet).await else { continue };
        if let Some(reply) = dhcp6::respond(&shop.view(), *peer.ip(), &packet[..length]) {
            let _ = socket.send_to(&reply, peer).await;
        }
    }
}

/// Advertises the gateway: to all from time to time and when the network changed, to who asks at once.
pub(super) async fn advertise(mut shop: Shop, bridge: u32) {
    let socket = shop.open("router advertisements", move || open_icmp(bridge)).await;
    let all = SocketAddr::V6(SocketAddrV6::new(ALL_NODES, 0, 0, bridge));
    let mut tick = interval(ADVERTISE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    let mut packet = [0; LARGEST];
    loop {
        let to = tokio::select! {
            _ = tick.tick() => all,
            changed = shop.view.changed() => match changed {
                Ok(()) => all,
                Err(_) => return,
            },
            received = socket.recv_from(&mut packet) => match received {
                Ok((length, from)) if ra::is_solicitation(&packet[..length]) => match from.ip() {
                    IpAddr::V6(v6) if !v6.is_unspecified() => from,
                    _ => all,
                },
                _ => continue,
            },
        };
        let Some(message) = ra::advertisement(&shop.view()) else { continue };
        if to == all {
            if last.is_some_and(|last: Instant| last.elapsed() < CALM) {
                continue;
            }
            last = Some(Instant::now());
        }
        let _ = socket.send_to(&message, to).await;
    }
}

/// A raw ICMPv6 socket. The kernel puts the checksum in and strips the IP header, so it reads and writes like UDP.
fn open_icmp(bridge: u32) -> io::Result<UdpSocket> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET6, SocketType::RAW, flags, Some(ipproto::ICMPV6))?;
    // Receivers drop neighbour discovery that came over a router (RFC 4861, section 6.1.2).
    sockopt::set_ipv6_unicast_hops(&socket, Some(255))?;
    sockopt::set_ipv6_multicast_hops(&socket, 255)?;
    sockopt::set_ipv6_add_membership(&socket, &ALL_ROUTERS, bridge)?;
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
    socket.bind_device(Some(BRIDGE.as_bytes()))?;
    Ok(socket)
}
