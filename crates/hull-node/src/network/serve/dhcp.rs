//! DHCP's sockets.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::PoisonError,
};

use tokio::net::UdpSocket;

use super::{
    super::{dhcp4, layout::BRIDGE},
    Shop,
};

/// The largest request looked at; what guests send is a few hundred bytes.
const LARGEST: usize = 1500;

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

fn open_v4() -> std::io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 67))?;
    socket.set_nonblocking(true)?;
    socket.set_broadcast(true)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.bind_device(Some(BRIDGE.as_bytes()))?;
    Ok(socket)
}
