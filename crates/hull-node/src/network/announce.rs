//! Telling a segment that an address is here now: gratuitous ARP (RFC 826, RFC 5227 section 3) and unsolicited neighbour
//! advertisements (RFC 4861, section 7.2.6).
//!
//! A floating IP that comes to this node was another node's a moment ago, and the neighbours remember that one. The
//! kernel announces addresses only when a link comes up, so the frames are made here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hull_types::{
    error::{Error, Result},
    network::Mac,
};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType,
    addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
    sendto, socket_with,
};

use super::netns::Netns;

/// Says by this link (its index), under this MAC, that these addresses are here.
pub(crate) async fn announce(namespace: &Netns, link: u32, mac: Mac, addresses: Vec<IpAddr>) -> Result<()> {
    let failed = |error: rustix::io::Errno| Error::unavailable(format!("addresses cannot be announced: {error}"));
    namespace
        .run(move || {
            let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
            for address in addresses {
                let frame = match address {
                    IpAddr::V4(v4) => gratuitous_arp(mac, v4),
                    IpAddr::V6(v6) => advertisement(mac, v6),
                };
                sendto(&socket, &frame, SendFlags::empty(), &Segment::of(link))?;
            }
            Ok(())
        })
        .await?
        .map_err(failed)
}

/// `struct sockaddr_ll` of linux/if_packet.h.
#[repr(C)]
struct Segment {
    family: u16,
    protocol: u16,
    link: i32,
    hardware: u16,
    kind: u8,
    length: u8,
    address: [u8; 8],
}

impl Segment {
    fn of(link: u32) -> Self {
        let link = i32::try_from(link).unwrap_or_default();
        Self {
            family: AddressFamily::PACKET.as_raw(),
            protocol: 0,
            link,
            hardware: 0,
            kind: 0,
            length: 6,
            address: [0; 8],
        }
    }
}

// SAFETY: the pointer is to a `struct sockaddr_ll` that lives during the call, and the length is its size.
unsafe impl SocketAddrArg for Segment {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        #[allow(clippy::cast_possible_truncation)]
        let length = size_of::<Self>() as SocketAddrLen;
        f(std::ptr::from_ref(self).cast(), length)
    }
}

/// An ARP request for the address itself, to everybody: those who know it learn its new MAC.
fn gratuitous_arp(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = [[0xff; 6], mac.0].concat();
    // Ethernet type ARP; Ethernet, IPv4, lengths 6 and 4, a request.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// A neighbour advertisement with the override flag, to all nodes.
fn advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ROUTER_AND_OVERRIDE: u8 = 0xa0;
    let mut message = vec![136, 0, 0, 0, ROUTER_AND_OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]);
    message.extend(mac.0);
    let sum = checksum(address, ALL_NODES, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = [[0x33, 0x33, 0, 0, 0, 1], mac.0].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// The checksum of an ICMPv6 message (RFC 8200, section 8.1).
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let pseudo = [&from.octets()[..], &to.octets(), &length.to_be_bytes(), &[0, 0, 0, 58], message].concat();
    let mut sum: u32 =
        pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 1, 2, 3]);

    #[test]
    fn an_arp_announcement_names_the_address_twice() {
        let frame = gratuitous_arp(MAC, Ipv4Addr::new(203, 0, 113, 5));
        assert_eq!(
            hex::encode(frame),
            "ffffffffffff525400010203080600010800060400015254000102".to_owned() + "03cb007105000000000000cb007105"
        );
    }

    #[test]
    fn an_advertisements_checksum_is_that_of_the_whole() {
        let address: Ipv6Addr = "2001:db8::5".parse().unwrap();
        let frame = advertisement(MAC, address);
        assert_eq!(frame.len(), 14 + 40 + 32);
        // A message with its checksum in place sums to zero.
        assert_eq!(checksum(address, "ff02::1".parse().unwrap(), &frame[54..]), 0);
    }
}
