//! DHCP for IPv6 (RFC 8415), as a function from a packet to the answer.
//!
//! As with IPv4 there is nothing to keep: the answer follows from the port that asks, and that is known by its link-local
//! source address, which anti-spoofing makes its own. Addresses only; no temporary ones, no prefixes.

use std::net::{IpAddr, Ipv6Addr};

use dhcproto::{
    Decodable, Decoder, Encodable, Encoder,
    v6::{DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, OptionCode, Status, StatusCode},
};
use hull_types::{link::DesiredSubnet, network::Mac};

use super::{
    layout::{gateway_mac, mac_of_link_local},
    view::{View, address_v6, resolvers, served_v6},
};

/// As for IPv4: long, so that guests keep their addresses while Hull is down.
const LEASE: u32 = 7 * 24 * 3600;
const RENEW: u32 = 12 * 3600;
/// Identity associations answered in one packet; a guest has one for each interface.
const ASSOCIATIONS: usize = 4;

/// The answer to a packet from this link-local address, if it deserves one.
pub(crate) fn respond(view: &View, from: Ipv6Addr, packet: &[u8]) -> Option<Vec<u8>> {
    let asked = Message::decode(&mut Decoder::new(&sieve(packet)?)).ok()?;
    let port = view.port_of_mac(mac_of_link_local(from)?)?;
    let held: Vec<Ipv6Addr> = served_v6(view.network()).filter_map(|(range, _)| address_v6(port, range)).collect();
    let (_, subnet) = served_v6(view.network()).find(|(range, _)| address_v6(port, *range).is_some())?;
    let client = asked.opts().get(OptionCode::ClientId);
    let server = server_id(gateway_mac(view.network().id));
    let for_us = match asked.opts().get(OptionCode::ServerId) {
        Some(DhcpOption::ServerId(id)) => Some(*id == server),
        _ => None,
    };
    use MessageType::{
        Advertise, Confirm, Decline, InformationRequest, Rebind, Release, Renew, Reply, Request, Solicit,
    };
    // Section 16: which messages must name a server, must not, and must name themselves.
    let (kind, identified) = match (asked.msg_type(), for_us) {
        (Solicit, None) if asked.opts().get(OptionCode::RapidCommit).is_some() => (Reply, true),
        (Solicit, None) => (Advertise, true),
        (Request | Renew | Release | Decline, Some(true)) | (Rebind | Confirm, None) => (Reply, true),
        (InformationRequest, None | Some(true)) => (Reply, false),
        _ => return None,
    };
    if identified && client.is_none() {
        return None;
    }
    let mut answer = Message::new_with_id(kind, asked.xid());
    let options = answer.opts_mut();
    options.insert(DhcpOption::ServerId(server));
    options.extend_from(client);
    match asked.msg_type() {
        Solicit | Request | Renew | Rebind => {
            if kind == Reply && asked.msg_type() == Solicit {
                options.insert(DhcpOption::RapidCommit);
            }
            for association in associations(&asked) {
                options.insert(DhcpOption::IANA(grant(association, &held)));
            }
        }
        Confirm => options.insert(status(if confirmed(&asked, &held) { Status::Success } else { Status::NotOnLink })),
        Release | Decline => options.insert(status(Status::Success)),
        _ => {}
    }
    tell(options, view, subnet);
    let mut bytes = Vec::new();
    answer.encode(&mut Encoder::new(&mut bytes)).ok()?;
    Some(bytes)
}

/// The longest DUID (RFC 8415, section 11.1).
const LONGEST_ID: usize = 130;

/// The packet with only those options that matter here, each of its proper length. What a guest may send is thus smaller
/// than what the decoder knows, which subtracts a fixed part's length from some options' without looking first (seen:
/// status codes and vendor options that are too short), and follows options within options.
fn sieve(packet: &[u8]) -> Option<Vec<u8>> {
    /// An association's id and times; an address's own 16 bytes and times.
    const ASSOCIATION: usize = 12;
    const ADDRESS: usize = 24;
    let (head, options) = packet.split_at_checked(4)?;
    let mut kept = head.to_vec();
    for (code, value) in split(options)? {
        match OptionCode::from(code) {
            OptionCode::ClientId | OptionCode::ServerId if (1..=LONGEST_ID).contains(&value.len()) => {
                put(&mut kept, code, value);
            }
            OptionCode::RapidCommit => put(&mut kept, code, &[]),
            OptionCode::IANA => {
                let (fixed, inside) = value.split_at_checked(ASSOCIATION)?;
                let mut association = fixed.to_vec();
                for (code, value) in split(inside)? {
                    if OptionCode::from(code) == OptionCode::IAAddr {
                        put(&mut association, code, value.get(..ADDRESS)?);
                    }
                }
                put(&mut kept, OptionCode::IANA.into(), &association);
            }
            _ => {}
        }
    }
    Some(kept)
}

/// Options, by their code; none where one reaches over the end.
fn split(mut rest: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut options = Vec::new();
    while !rest.is_empty() {
        let (code, tail) = rest.split_first_chunk()?;
        let (length, tail) = tail.split_first_chunk()?;
        let (value, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        options.push((u16::from_be_bytes(*code), value));
        rest = tail;
    }
    Some(options)
}

fn put(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    // No longer than it was in the packet.
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    bytes.extend([code.to_be_bytes(), length.to_be_bytes()].concat());
    bytes.extend(value);
}

/// `DhcpOptions` that takes an option it may be given.
trait ExtendFrom {
    fn extend_from(&mut self, option: Option<&DhcpOption>);
}

impl ExtendFrom for DhcpOptions {
    fn extend_from(&mut self, option: Option<&DhcpOption>) {
        if let Some(option) = option {
            self.insert(option.clone());
        }
    }
}

/// DUID-LL (section 11.4): type 3, Ethernet, the gateway's MAC, which is the same on every node.
fn server_id(mac: Mac) -> Vec<u8> {
    [&[0, 3, 0, 1][..], &mac.0].concat()
}

fn associations(asked: &Message) -> impl Iterator<Item = &IANA> {
    let of_kind = asked.opts().iter().filter_map(|option| match option {
        DhcpOption::IANA(association) => Some(association),
        _ => None,
    });
    of_kind.take(ASSOCIATIONS)
}

fn addresses(association: &IANA) -> impl Iterator<Item = Ipv6Addr> {
    association.opts.iter().filter_map(|option| match option {
        DhcpOption::IAAddr(held) => Some(held.addr),
        _ => None,
    })
}

/// The port's addresses; whatever else the guest holds has no life left.
fn grant(asked: &IANA, own: &[Ipv6Addr]) -> IANA {
    let lease = |addr, life| {
        DhcpOption::IAAddr(IAAddr { addr, preferred_life: life, valid_life: life, opts: DhcpOptions::new() })
    };
    let mut opts = DhcpOptions::new();
    own.iter().for_each(|address| opts.insert(lease(*address, LEASE)));
    addresses(asked).filter(|held| !own.contains(held)).take(ASSOCIATIONS).for_each(|held| opts.insert(lease(held, 0)));
    IANA { id: asked.id, t1: RENEW, t2: LEASE / 8 * 7, opts }
}

fn confirmed(asked: &Message, own: &[Ipv6Addr]) -> bool {
    associations(asked).flat_map(addresses).all(|held| own.contains(&held))
}

fn status(status: Status) -> DhcpOption {
    DhcpOption::StatusCode(StatusCode { status, msg: String::new() })
}

fn tell(options: &mut DhcpOptions, view: &View, subnet: &DesiredSubnet) {
    let resolvers: Vec<Ipv6Addr> = resolvers(subnet)
        .into_iter()
        .filter_map(|address| match address {
            IpAddr::V6(v6) => Some(v6),
            IpAddr::V4(_) => None,
        })
        .collect();
    options.insert(DhcpOption::DomainNameServers(resolvers));
    if let Ok(domain) = view.network().domain.parse() {
        options.insert(DhcpOption::DomainSearchList(vec![domain]));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::{
        super::{
            fixture::{mac, network, view},
            layout::link_local,
        },
        *,
    };

    fn web() -> Ipv6Addr {
        "fd00:90::a".parse().unwrap()
    }

    fn ask(kind: MessageType, change: impl FnOnce(&mut DhcpOptions)) -> Vec<u8> {
        let mut message = Message::new_with_id(kind, [1, 2, 3]);
        message.opts_mut().insert(DhcpOption::ClientId(vec![0, 3, 0, 1, 9]));
        change(message.opts_mut());
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        bytes
    }

    fn association(held: &[Ipv6Addr]) -> DhcpOption {
        let mut opts = DhcpOptions::new();
        for &addr in held {
            opts.insert(DhcpOption::IAAddr(IAAddr {
                addr,
                preferred_life: 9,
                valid_life: 9,
                opts: DhcpOptions::new(),
            }));
        }
        DhcpOption::IANA(IANA { id: 5, t1: 0, t2: 0, opts })
    }

    fn answered(packet: &[u8]) -> Option<Message> {
        let bytes = respond(&view(), link_local(mac(10)), packet)?;
        let answer = Message::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!(answer.xid(), [1, 2, 3]);
        Some(answer)
    }

    /// Addresses granted, with their lives.
    fn granted(answer: &Message) -> Vec<(Ipv6Addr, u32)> {
        let held = associations(answer).flat_map(|association| association.opts.iter());
        held.filter_map(|option| match option {
            DhcpOption::IAAddr(held) => Some((held.addr, held.valid_life)),
            _ => None,
        })
        .collect()
    }

    fn ours(options: &mut DhcpOptions) {
        options.insert(DhcpOption::ServerId(server_id(gateway_mac(network().id))));
    }

    #[test]
    fn solicit_is_offered_and_request_is_given_the_ports_address() {
        let offer = answered(&ask(MessageType::Solicit, |options| options.insert(association(&[])))).unwrap();
        assert_eq!((offer.msg_type(), granted(&offer)), (MessageType::Advertise, vec![(web(), LEASE)]));
        let request = ask(MessageType::Request, |options| {
            ours(options);
            options.insert(association(&[web()]));
        });
        let reply = answered(&request).unwrap();
        assert_eq!((reply.msg_type(), granted(&reply)), (MessageType::Reply, vec![(web(), LEASE)]));
        let resolver = DhcpOption::DomainNameServers(vec!["fd00:90::1".parse().unwrap()]);
        assert_eq!(reply.opts().get(OptionCode::DomainNameServers), Some(&resolver));
    }

    #[test]
    fn a_hurried_client_is_given_it_at_once() {
        let packet = ask(MessageType::Solicit, |options| {
            options.insert(DhcpOption::RapidCommit);
            options.insert(association(&[]));
        });
        let reply = answered(&packet).unwrap();
        assert_eq!((reply.msg_type(), granted(&reply)), (MessageType::Reply, vec![(web(), LEASE)]));
    }

    #[test]
    fn an_address_that_is_not_its_own_dies() {
        let foreign: Ipv6Addr = "fd00:90::b".parse().unwrap();
        let packet = ask(MessageType::Rebind, |options| options.insert(association(&[foreign])));
        let given = granted(&answered(&packet).unwrap());
        assert!(given.contains(&(web(), LEASE)) && given.contains(&(foreign, 0)), "{given:?}");
        let confirm = |held| {
            let answer = answered(&ask(MessageType::Confirm, |options| options.insert(association(&[held])))).unwrap();
            answer.opts().get(OptionCode::StatusCode).cloned()
        };
        assert_eq!(confirm(web()), Some(status(Status::Success)));
        assert_eq!(confirm(foreign), Some(status(Status::NotOnLink)));
    }

    #[test]
    fn strangers_and_other_servers_clients_get_nothing() {
        let solicit = ask(MessageType::Solicit, |options| options.insert(association(&[])));
        assert_eq!(respond(&view(), link_local(mac(99)), &solicit), None);
        assert_eq!(respond(&view(), "fe80::1".parse().unwrap(), &solicit), None);
        let elsewhere = ask(MessageType::Request, |options| {
            options.insert(DhcpOption::ServerId(vec![1]));
            options.insert(association(&[]));
        });
        assert_eq!(answered(&elsewhere), None);
    }

    #[test]
    fn who_only_wants_to_know_is_told() {
        let answer = answered(&ask(MessageType::InformationRequest, |_| {})).unwrap();
        assert!(answer.opts().get(OptionCode::DomainNameServers).is_some());
        assert!(granted(&answer).is_empty());
    }

    proptest! {
        #[test]
        fn whatever_comes_only_the_ports_address_lives(
            noise in proptest::collection::vec(any::<u8>(), 0..400),
            at in 0usize..60, byte: u8, length in 0usize..60,
        ) {
            let mut sound = ask(MessageType::Rebind, |options| options.insert(association(&[web()])));
            let at = at % sound.len();
            sound[at] = byte;
            sound.truncate(length);
            for packet in [noise, sound] {
                if let Some(bytes) = respond(&view(), link_local(mac(10)), &packet) {
                    let answer = Message::decode(&mut Decoder::new(&bytes)).unwrap();
                    prop_assert!(granted(&answer).iter().all(|&(address, life)| address == web() || life == 0));
                }
            }
        }
    }
}
