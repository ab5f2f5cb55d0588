//! What a hostile guest may send to the pure responders: real packets, bent in the ways packets are bent.
//!
//! Shown for each: no panic, answers of bounded size, nothing of another port's. The bending is deterministic (the seed
//! and the round are in every failure); `HULL_HOSTILE_ROUNDS` runs more of it, as long as one likes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dhcproto::{Decodable, Decoder, v4};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};

use super::{
    dhcp4, dhcp6,
    dns::{self, Verdict},
    fixture::{mac, view},
    layout::link_local,
    metadata, ra,
};

/// What the services read at most of one packet (`serve`).
const PACKET: usize = 1500;

pub(super) fn rounds(usual: u64) -> u64 {
    std::env::var("HULL_HOSTILE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Bends packets, the same ones on every machine.
pub(super) struct Bender(u64);

impl Bender {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { usize::try_from(self.next() % n as u64).unwrap() }
    }

    fn byte(&mut self) -> u8 {
        // Lengths that lie, ends, pads, and both kinds of compression pointer.
        const TELLING: [u8; 12] = [0, 1, 2, 3, 4, 63, 64, 0x7f, 0x80, 0xc0, 0xff, 0x0c];
        match self.below(2) {
            0 => TELLING[self.below(TELLING.len())],
            _ => self.next().to_le_bytes()[0],
        }
    }

    /// One of these, bent a few times, no longer than `most`.
    pub(super) fn bend(&mut self, corpus: &[Vec<u8>], most: usize) -> Vec<u8> {
        let mut packet = corpus[self.below(corpus.len())].clone();
        for _ in 0..self.below(6) {
            let at = self.below(packet.len());
            match self.below(8) {
                0 => packet.truncate(at),
                1 if !packet.is_empty() => packet[at] ^= 1 << self.below(8),
                2 | 3 if !packet.is_empty() => packet[at] = self.byte(),
                4 => {
                    let end = at + self.below(packet.len() - at + 1);
                    let copy = packet[at..end].to_vec();
                    let to = self.below(packet.len() + 1);
                    packet.splice(to..to, copy);
                }
                5 => {
                    let end = at + self.below(packet.len() - at + 1);
                    packet.drain(at..end);
                }
                6 => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len());
                    packet.splice(at.., other[from..].iter().copied());
                }
                _ => {
                    let (count, byte) = (self.below(most), self.byte());
                    packet.splice(at..at, std::iter::repeat_n(byte, count));
                }
            }
        }
        packet.truncate(most);
        packet
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// A BOOTP request of this port's with these options behind it.
fn dhcp4_packet(number: u8, options: &[u8]) -> Vec<u8> {
    let mut packet = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
    packet.extend([0; 16]);
    packet.extend(mac(number).0);
    packet.resize(236, 0);
    packet.extend([99, 130, 83, 99]);
    packet.extend(options);
    packet
}

fn dhcp4_corpus() -> Vec<Vec<u8>> {
    let own = [10, 90, 0, 10];
    let discover = [&[53, 1, 1, 61, 7, 1, 0x52, 0x54, 0, 0, 0, 10, 55, 6, 1, 3, 6, 12, 26, 121][..], &[255]].concat();
    let request = [&[53, 1, 3, 50, 4][..], &own, &[54, 4, 10, 90, 0, 1, 12, 3, b'w', b'e', b'b', 255]].concat();
    // Options said to continue in the file and name fields, twice, with an end in the middle.
    let overlap = [&[53, 1, 1, 52, 1, 3, 52, 1, 255, 53, 1, 3, 53, 0, 255, 50, 4][..], &own].concat();
    let spoiling = [94, 1, 0, 97, 0, 82, 0, 119, 3, 0xc0, 0, 0, 121, 1, 33, 53, 1, 1, 255];
    let names: Vec<u8> = std::iter::repeat_n([61, 255], 4).flat_map(|head| [&head[..], &[7; 255]].concat()).collect();
    let mut corpus: Vec<_> =
        [&discover[..], &request, &overlap, &spoiling].iter().map(|options| dhcp4_packet(10, options)).collect();
    corpus.push(dhcp4_packet(10, &[&[53, 1, 1][..], &names, &[255]].concat()));
    corpus.extend([dhcp4_packet(11, &discover), dhcp4_packet(99, &discover), vec![]]);
    corpus
}

#[test]
fn dhcp_answers_name_the_askers_address_only_and_are_small() {
    let (view, corpus, mut bender) = (view(), dhcp4_corpus(), Bender::new(4));
    let others = |number| [10u8, 11, 12].into_iter().filter(move |other| *other != number);
    let mut answered = 0;
    for round in 0..rounds(30_000) {
        let packet = bender.bend(&corpus, PACKET);
        let Some(reply) = dhcp4::respond(&view, &packet) else { continue };
        answered += 1;
        let answer = v4::Message::decode(&mut Decoder::new(&reply.packet)).unwrap();
        let asker = packet[33];
        assert_eq!((answer.chaddr(), &packet[28..34]), (&mac(asker).0[..], &mac(asker).0[..]), "round {round}");
        let own = Ipv4Addr::new(10, 90, 0, asker);
        assert!([own, Ipv4Addr::UNSPECIFIED].contains(&answer.yiaddr()), "round {round}: {answer:?}");
        assert!([own, Ipv4Addr::BROADCAST].contains(&reply.to), "round {round}");
        assert!(reply.packet.len() <= PACKET, "round {round}: {}", reply.packet.len());
        for other in others(asker) {
            // What the guest said itself may come back; nothing else does.
            let address = [10, 90, 0, other];
            assert!(contains(&packet, &address) || !contains(&reply.packet, &address), "round {round}: {reply:?}");
            let other = mac(other).0;
            assert!(contains(&packet, &other) || !contains(&reply.packet, &other), "round {round}: {reply:?}");
        }
    }
    assert!(answered > 100, "only {answered} of the packets are near enough to real ones");
}

fn option6(code: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap();
    [&code.to_be_bytes()[..], &length.to_be_bytes(), value].concat()
}

/// A DHCPv6 message with a client's name and these options.
fn dhcp6_packet(kind: u8, options: &[Vec<u8>]) -> Vec<u8> {
    let client = option6(1, &[0, 3, 0, 1, 0x52, 0x54, 0, 0, 0, 10]);
    [&[kind, 1, 2, 3][..], &client, &options.concat()].concat()
}

fn dhcp6_corpus() -> Vec<Vec<u8>> {
    let own: Ipv6Addr = "fd00:90::a".parse().unwrap();
    let held = option6(5, &[&own.octets()[..], &[0; 8]].concat());
    let association = |inside: &[u8]| option6(3, &[&[0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0][..], inside].concat());
    let mut deep = association(&held);
    for _ in 0..60 {
        deep = association(&deep);
    }
    let mut corpus: Vec<_> =
        [1, 3, 4, 5, 6, 8, 9, 11].into_iter().map(|kind| dhcp6_packet(kind, &[association(&held)])).collect();
    corpus.extend([
        dhcp6_packet(1, &[option6(14, &[]), association(&[])]),
        dhcp6_packet(6, &[association(&held.repeat(30)), deep]),
        dhcp6_packet(6, &std::iter::repeat_n(association(&held), 20).collect::<Vec<_>>()),
        // Each shorter than its fixed part.
        dhcp6_packet(1, &[option6(13, &[]), association(&[])]),
        dhcp6_packet(1, &[option6(13, &[0]), option6(16, &[]), option6(17, &[1]), option6(11, &[1]), option6(56, &[])]),
        dhcp6_packet(1, &[option6(16, &[0, 0]), option6(9, &[12]), option6(24, &[0xc0, 0]), association(&[])]),
        dhcp6_packet(12, &[]),
        [&dhcp6_packet(1, &[association(&[])])[..], &option6(1, &[9; 1200])].concat(),
        vec![],
    ]);
    corpus
}

#[test]
fn dhcp6_answers_let_no_other_address_live_and_are_small() {
    let (view, corpus, mut bender) = (view(), dhcp6_corpus(), Bender::new(6));
    let mut answered = 0;
    for round in 0..rounds(30_000) {
        let packet = bender.bend(&corpus, PACKET);
        let Some(reply) = dhcp6::respond(&view, link_local(mac(10)), &packet) else { continue };
        answered += 1;
        assert!(reply.len() <= PACKET, "round {round}: {}", reply.len());
        for other in ["fd00:90::b", "fd00:90::c"] {
            let other = other.parse::<Ipv6Addr>().unwrap().octets();
            assert!(contains(&packet, &other) || !contains(&reply, &other), "round {round}: {reply:?}");
        }
    }
    assert!(answered > 100, "only {answered} of the packets are near enough to real ones");
}

#[test]
fn dhcp6_options_that_the_decoder_cannot_bear_are_not_shown_to_it() {
    let association = option6(3, &[0; 12]);
    for spoiling in [option6(13, &[]), option6(13, &[0]), option6(16, &[1]), option6(17, &[1, 2]), option6(11, &[1])] {
        let packet = dhcp6_packet(1, &[association.clone(), spoiling.clone()]);
        assert!(dhcp6::respond(&view(), link_local(mac(10)), &packet).is_some(), "{spoiling:?}");
    }
    let lying = [&dhcp6_packet(1, std::slice::from_ref(&association))[..], &[0, 1, 255, 255, 1]].concat();
    assert_eq!(dhcp6::respond(&view(), link_local(mac(10)), &lying), None);
}

fn dns_corpus() -> Vec<Vec<u8>> {
    let query = |name: &str, kind| {
        let mut message = Message::query();
        message.metadata.id = 77;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    };
    let header = |counts: [u16; 4]| {
        let mut packet = vec![0, 77, 1, 0];
        packet.extend(counts.into_iter().flat_map(u16::to_be_bytes));
        packet
    };
    let behind = |counts, body: &[u8]| [&header(counts)[..], body].concat();
    let many = u16::MAX;
    let one = query("web.hull.internal.", RecordType::A);
    vec![
        one.clone(),
        query("WEB.hull.internal.", RecordType::AAAA),
        query("10.0.90.10.in-addr.arpa.", RecordType::PTR),
        query("a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.0.0.0.0.d.f.ip6.arpa.", RecordType::PTR),
        query("example.org.", RecordType::ANY),
        // A name that points at itself, two that point at each other, one that points past the end.
        behind([1, 0, 0, 0], &[0xc0, 12, 0, 1, 0, 1]),
        behind([1, 0, 0, 0], &[0xc0, 14, 0xc0, 12, 0, 1, 0, 1]),
        behind([1, 0, 0, 0], &[0xff, 0xff, 0, 1, 0, 1]),
        // A ladder of pointers, each to the one before.
        behind([1, 0, 0, 0], &(6..200u16).flat_map(|step| (0xc000 | (step * 2)).to_be_bytes()).collect::<Vec<_>>()),
        behind([many; 4], &one[12..]),
        header([many; 4]),
        // Labels up to the edge of what a name may hold, and over it.
        behind([1, 0, 0, 0], &[&[63; 64].repeat(4)[..], &[0, 0, 1, 0, 1]].concat()),
        behind([1, 0, 0, 1], &[&one[12..], &[0, 0, 41, 255, 255, 0, 0, 0, 0, 255, 255]].concat()),
        behind([1, 0, 0, 0], &[3, 0xff, b'.', 0, 4, b'h', b'u', b'l', b'l', 0, 0, 1, 0, 1]),
        vec![],
    ]
}

#[test]
fn dns_answers_are_small_and_bear_the_questions_id() {
    let (view, corpus, mut bender) = (view(), dns_corpus(), Bender::new(53));
    let mut answered = 0;
    for round in 0..rounds(30_000) {
        let packet = bender.bend(&corpus, 4096);
        let _ = (dns::belongs(&packet, &corpus[0]), dns::belongs(&corpus[0], &packet));
        let Verdict::Answer(answer) = dns::respond(&view, &packet) else { continue };
        answered += 1;
        assert_eq!(answer[..2], packet[..2], "round {round}");
        assert_ne!(answer[2] & 0x80, 0, "round {round}: a question for an answer");
        // One question comes back, with a few records of ours.
        assert!(answer.len() <= 1024, "round {round}: {} bytes to {}", answer.len(), packet.len());
    }
    assert!(answered > 100, "only {answered} of the packets are near enough to real ones");
}

#[test]
fn dns_counts_that_lie_are_refused_before_room_is_made_for_them() {
    for packet in dns_corpus().into_iter().filter(|packet| packet.len() >= 12 && packet[4..6] == [0xff, 0xff]) {
        let Verdict::Answer(answer) = dns::respond(&view(), &packet) else { panic!("no answer") };
        assert_eq!(answer[3] & 0x0f, ResponseCode::FormErr.low());
    }
}

#[test]
fn solicitations_are_told_from_noise() {
    let (corpus, mut bender) =
        ([vec![ra::SOLICITATION, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1]], Bender::new(133));
    for _ in 0..rounds(30_000) {
        let message = bender.bend(&corpus, PACKET);
        assert_eq!(ra::is_solicitation(&message), message.len() >= 8 && message[..2] == [ra::SOLICITATION, 0]);
    }
}

#[test]
fn metadata_of_any_path_and_token_is_the_callers_own() {
    let network = super::fixture::network();
    let guest = super::fixture::guest();
    let key = metadata::TokenKey::new([7; 32]);
    let caller = metadata::Caller { network: &network, port: &network.ports[0], guest: &guest };
    let corpus: Vec<Vec<u8>> = [
        "/latest/meta-data/public-keys/0/openssh-key",
        "/latest/meta-data/network/interfaces/macs/52:54:00:00:00:0b/local-ipv4s",
        "/latest/meta-data/../../db/user-data",
        "/openstack/2018-08-27/network_data.json?vm=db#x",
        "/latest/dynamic/instance-identity/document",
        "/latest/api/token",
        "//%2e%2e/\u{fffd}\u{0}/latest//user-data",
        "",
    ]
    .map(|path| path.as_bytes().to_vec())
    .into();
    let neighbours: Vec<String> = network.ports[1..]
        .iter()
        .flat_map(|port| {
            let addresses = port.addresses.iter().map(IpAddr::to_string);
            addresses.chain([port.mac.to_string(), port.id.to_string(), port.vm.unwrap().to_string()])
        })
        .collect();
    let mut bender = Bender::new(80);
    for round in 0..rounds(10_000) {
        let mut text = || String::from_utf8_lossy(&bender.bend(&corpus, 4096)).into_owned();
        let (path, token, token_life) = (text(), text(), text());
        for method in ["GET", "PUT", "BREW"] {
            let request = metadata::Request {
                method: method.to_owned(),
                path: path.clone(),
                token: (round % 3 == 0).then(|| token.clone()),
                token_life: (round % 2 == 0).then(|| token_life.clone()),
                forwarded: false,
            };
            let answer = metadata::respond(caller, &request, &key, round);
            assert!(answer.body.len() < 8192, "round {round}: {} bytes", answer.body.len());
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            let leaked = neighbours.iter().find(|secret| said.contains(secret.as_str()));
            assert_eq!(leaked, None, "round {round}: {request:?}");
        }
    }
}
