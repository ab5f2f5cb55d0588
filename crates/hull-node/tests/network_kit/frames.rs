//! Ethernet frames as a guest could make them, honest or not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hull_types::network::Mac;

pub const EVERYBODY: Mac = Mac([0xff; 6]);

/// Who sends to whom, on both layers.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub from_mac: Mac,
    pub to_mac: Mac,
    pub from: IpAddr,
    pub to: IpAddr,
}

pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes(), payload].concat()
}

/// An ARP request whose sender addresses may differ from the frame's.
pub fn arp(frame_mac: Mac, sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &sender_mac.0, &sender.octets(), &[0; 6], &target.octets()].concat();
    ethernet(EVERYBODY, frame_mac, 0x0806, &body)
}

pub fn udp(path: Path, from: u16, to: u16) -> Vec<u8> {
    datagram(path, from, to, b"hull")
}

pub fn datagram(path: Path, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() + 8) as u16;
    let mut segment = [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat();
    seal(path, 17, &mut segment, 6);
    ip(path, 17, 64, &segment)
}

pub fn tcp_syn(path: Path, from: u16, to: u16) -> Vec<u8> {
    tcp_syn_with(path, from, to, &[])
}

/// With data, as TCP Fast Open sends it.
pub fn tcp_syn_with(path: Path, from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let mut segment =
        [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0], data]
            .concat();
    seal(path, 6, &mut segment, 16);
    ip(path, 6, 64, &segment)
}

/// ICMP or ICMPv6, by the addresses; neighbour discovery wants the hop limit 255.
pub fn icmp(path: Path, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], body].concat();
    if path.from.is_ipv4() {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum);
        ip(path, 1, 64, &message)
    } else {
        seal(path, 58, &mut message, 2);
        ip(path, 58, 255, &message)
    }
}

/// A neighbour advertisement that claims the target for the sender's MAC.
pub fn advertisement(path: Path, target: Ipv6Addr) -> Vec<u8> {
    let body = [&[0x60, 0, 0, 0][..], &target.octets(), &[2, 1], &path.from_mac.0].concat();
    icmp(path, 136, &body)
}

/// The same IPv6 packet with an empty header of destination options before its own.
pub fn behind_option(frame: &[u8]) -> Vec<u8> {
    let (head, message) = frame.split_at(14 + 40);
    let mut head = head.to_vec();
    let protocol = std::mem::replace(&mut head[14 + 6], 60);
    head[14 + 4..14 + 6].copy_from_slice(&(message.len() as u16 + 8).to_be_bytes());
    [&head[..], &[protocol, 0, 1, 4, 0, 0, 0, 0], message].concat()
}

fn seal(path: Path, protocol: u8, segment: &mut [u8], at: usize) {
    let length = segment.len() as u32;
    let pseudo = [bytes(path.from), bytes(path.to), length.to_be_bytes().into(), vec![0, 0, 0, protocol]].concat();
    let sum = checksum(&[&pseudo[..], segment].concat());
    segment[at..at + 2].copy_from_slice(&sum);
}

fn ip(path: Path, protocol: u8, hops: u8, segment: &[u8]) -> Vec<u8> {
    let length = segment.len() as u16;
    let (kind, header) = if path.from.is_ipv4() {
        let mut header = [
            &[0x45, 0][..],
            &(length + 20).to_be_bytes(),
            // Not to be fragmented.
            &[0, 0, 0x40, 0, hops, protocol, 0, 0],
            &bytes(path.from),
            &bytes(path.to),
        ]
        .concat();
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        (0x0800, header)
    } else {
        let fixed = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[protocol, hops]].concat();
        (0x86dd, [fixed, bytes(path.from), bytes(path.to)].concat())
    };
    ethernet(path.to_mac, path.from_mac, kind, &[&header[..], segment].concat())
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    (!fold(fold(sum)) as u16).to_be_bytes()
}

/// What of a conversation a frame is, told apart by the number in its first packet's source port or ICMP id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A first packet of this number.
    Request(u16),
    /// An answer to it.
    Answer(u16),
}

/// Reads a frame for this MAC as part of a conversation.
pub fn heard(frame: &[u8], by: Mac) -> Option<Heard> {
    let number = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    if frame.get(..6)? != by.0 {
        return None;
    }
    let (protocol, at) = match number(12)? {
        0x0800 => (*frame.get(23)?, 14 + usize::from(frame.get(14)? & 15) * 4),
        0x86dd => (*frame.get(20)?, 54),
        _ => return None,
    };
    match (protocol, *frame.get(at)?) {
        (1, 8) | (58, 128) => Some(Heard::Request(number(at + 4)?)),
        (1, 0) | (58, 129) => Some(Heard::Answer(number(at + 4)?)),
        (6, _) => match frame.get(at + 13)? & 0x17 {
            0x02 => Some(Heard::Request(number(at)?)),
            // Accepted or refused, but by whom it was sent to.
            0x12 | 0x14 => Some(Heard::Answer(number(at + 2)?)),
            _ => None,
        },
        // Well-known ports are below those that conversations here are numbered by.
        (17, _) if number(at)? < 1024 => Some(Heard::Answer(number(at + 2)?)),
        (17, _) => Some(Heard::Request(number(at)?)),
        _ => None,
    }
}
