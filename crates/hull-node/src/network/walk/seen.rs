//! The parts of a packet that rules look at, by the names and numbers of libnftables-json(5).

use std::net::IpAddr;

use hull_types::{error::Result, network::Mac};
use serde_json::Value;

use super::{
    packet::{Above, Packet, Tracking},
    rules::{HOST, mask, text, unknown},
};

/// The numbers nftables lists with `-nnn` (linux/if_ether.h, linux/socket.h, nf_conntrack_common.h).
const ETHERTYPE: [u16; 2] = [0x0800, 0x86dd];
const NFPROTO: [u128; 2] = [2, 10];
const CT_NEW: u128 = 8;
const CT_UNTRACKED: u128 = 64;
const TCP_SYN: u128 = 2;
const HOPS_LEFT: u128 = 64;

/// A part of a packet that rules look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Number(u128),
    /// The two bytes behind the MACs. nft 1.0 lists them with their bytes swapped where numbers are asked for.
    Ethertype(u16),
    Address(IpAddr),
    Mac(Mac),
    Name(String),
    Several(Vec<Seen>),
}

/// The part of the packet an expression names; `None` where this packet has none (another protocol).
pub(super) fn see(expression: &Value, packet: &Packet) -> Result<Option<Seen>> {
    let Some((kind, argument)) = expression.as_object().and_then(|object| object.iter().next()) else {
        return Err(unknown(expression));
    };
    match kind.as_str() {
        "concat" => {
            let parts = argument.as_array().ok_or_else(|| unknown(expression))?;
            let mut several = Vec::with_capacity(parts.len());
            for part in parts {
                let Some(seen) = see(part, packet)? else { return Ok(None) };
                several.push(seen);
            }
            Ok(Some(Seen::Several(several)))
        }
        "&" => {
            let [inner, bits] = argument.as_array().map(Vec::as_slice).unwrap_or_default() else {
                return Err(unknown(expression));
            };
            match (see(inner, packet)?, mask(bits)) {
                (Some(Seen::Number(seen)), Some(bits)) => Ok(Some(Seen::Number(seen & bits))),
                (None, _) => Ok(None),
                _ => Err(unknown(expression)),
            }
        }
        "elem" => see(argument.get("val").unwrap_or(&Value::Null), packet),
        "meta" => meta(text(argument, "key"), packet).map(Some).ok_or_else(|| unknown(expression)),
        "fib" if text(argument, "result") == "type" => Ok(Some(Seen::Number(route_type(packet)))),
        "ct" => connection(argument, packet).map(Some).ok_or_else(|| unknown(expression)),
        // A raw look at bytes: rules use it for neighbour discovery only, which this packet is not.
        "payload" if argument.get("base").is_some() => Ok(None),
        "payload" => {
            payload(text(argument, "protocol"), text(argument, "field"), packet).ok_or_else(|| unknown(expression))
        }
        _ => Err(unknown(expression)),
    }
}

fn of_family<T: Copy>(pair: [T; 2], packet: &Packet) -> T {
    if packet.is_v4() { pair[0] } else { pair[1] }
}

fn meta(key: &str, packet: &Packet) -> Option<Seen> {
    Some(match key {
        "iifname" | "iif" => Seen::Name(packet.came_by.clone()),
        "oifname" | "oif" => Seen::Name(packet.leaves_by.clone()),
        "ibrname" | "obrname" => Seen::Name(super::super::layout::BRIDGE.to_owned()),
        "nfproto" => Seen::Number(of_family(NFPROTO, packet)),
        "protocol" => Seen::Ethertype(of_family(ETHERTYPE, packet)),
        "l4proto" => Seen::Number(packet.protocol().into()),
        "mark" => Seen::Number(packet.mark.into()),
        "length" => Seen::Number(packet.size.into()),
        "pkttype" => Seen::Number(HOST.into()),
        _ => return None,
    })
}

fn connection(argument: &Value, packet: &Packet) -> Option<Seen> {
    let translated = u128::from(packet.asked != packet.destination);
    Some(match text(argument, "key") {
        "state" if packet.tracking == Tracking::Untracked => Seen::Number(CT_UNTRACKED),
        "state" => Seen::Number(CT_NEW),
        // IPS_DST_NAT of nf_conntrack_common.h.
        "status" => Seen::Number(translated << 5),
        "mark" | "direction" => Seen::Number(0),
        "daddr" | "ip daddr" | "ip6 daddr" if text(argument, "dir") == "original" => Seen::Address(packet.asked),
        _ => return None,
    })
}

/// `None` for a field that is not known here; `Some(None)` where the packet has no such header.
#[allow(clippy::option_option, reason = "not known and not there are two answers")]
fn payload(protocol: &str, field: &str, packet: &Packet) -> Option<Option<Seen>> {
    let number = |number: u16| Seen::Number(number.into());
    let in_family = |v4: bool, seen: Seen| (packet.is_v4() == v4).then_some(seen);
    let ports = match packet.above {
        Above::Tcp { source, destination } | Above::Udp { source, destination } => Some((source, destination)),
        Above::Icmp { .. } => None,
    };
    let is_tcp = matches!(packet.above, Above::Tcp { .. });
    let ports_of = |wanted: bool| ports.filter(|_| wanted);
    let icmp = match packet.above {
        Above::Icmp { kind, code } => Some((kind, code)),
        Above::Tcp { .. } | Above::Udp { .. } => None,
    };
    Some(match (protocol, field) {
        ("ether", "saddr") => Some(Seen::Mac(packet.from_mac)),
        ("ether", "daddr") => Some(Seen::Mac(packet.to_mac)),
        ("ether", "type") => Some(Seen::Ethertype(of_family(ETHERTYPE, packet))),
        ("ip", "saddr") => in_family(true, Seen::Address(packet.source)),
        ("ip", "daddr") => in_family(true, Seen::Address(packet.destination)),
        ("ip6", "saddr") => in_family(false, Seen::Address(packet.source)),
        ("ip6", "daddr") => in_family(false, Seen::Address(packet.destination)),
        ("ip", "protocol") => in_family(true, Seen::Number(packet.protocol().into())),
        ("ip6", "nexthdr") => in_family(false, Seen::Number(packet.protocol().into())),
        ("ip", "ttl") => in_family(true, Seen::Number(HOPS_LEFT)),
        ("ip6", "hoplimit") => in_family(false, Seen::Number(HOPS_LEFT)),
        ("tcp", "flags") => is_tcp.then_some(Seen::Number(TCP_SYN)),
        ("tcp", "sport") => ports_of(is_tcp).map(|(source, _)| number(source)),
        ("tcp", "dport") => ports_of(is_tcp).map(|(_, destination)| number(destination)),
        ("udp", "sport") => ports_of(!is_tcp).map(|(source, _)| number(source)),
        ("udp", "dport") => ports_of(!is_tcp).map(|(_, destination)| number(destination)),
        ("th", "sport") => ports.map(|(source, _)| number(source)),
        ("th", "dport") => ports.map(|(_, destination)| number(destination)),
        ("icmp", "type") if packet.is_v4() => icmp.map(|(kind, _)| number(kind.into())),
        ("icmp", "code") if packet.is_v4() => icmp.map(|(_, code)| number(code.into())),
        ("icmpv6", "type") if !packet.is_v4() => icmp.map(|(kind, _)| number(kind.into())),
        ("icmpv6", "code") if !packet.is_v4() => icmp.map(|(_, code)| number(code.into())),
        ("icmp" | "icmpv6" | "arp", _) => None,
        _ => return None,
    })
}

/// What kind of route its destination has (`RTN_…` of linux/rtnetlink.h), as far as rules tell kinds apart.
fn route_type(packet: &Packet) -> u128 {
    const UNICAST: u128 = 1;
    const LOCAL: u128 = 2;
    const MULTICAST: u128 = 5;
    match packet.destination {
        address if address.is_multicast() => MULTICAST,
        _ if packet.arrived => LOCAL,
        _ => UNICAST,
    }
}
