//! Names of VMs, as a function from a query to what to do with it.
//!
//! Hull answers for the network's domain (and for bare host names) and for the addresses of its ranges; it knows every
//! port, so its "no such name" is final. Everything else is the host's resolvers' business.

use std::net::IpAddr;

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, PTR, SOA},
    },
};

use super::view::View;

/// How long an answer may be kept, in seconds: VMs come and go.
const TTL: u32 = 30;
/// What a resolver takes of one message over TCP; over UDP far less fits.
pub(crate) const LARGEST: usize = 65_535;
/// The header of every message (RFC 1035, section 4.1.1).
const HEADER: usize = 12;

/// What to do with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send this.
    Answer(Vec<u8>),
    /// Ask the host's resolvers.
    Forward,
    /// Not a query; say nothing.
    Ignore,
}

/// What to do with a query from a guest.
pub(crate) fn respond(view: &View, packet: &[u8]) -> Verdict {
    // The decoder makes room for as many questions as the header says there are.
    let one_question = packet.get(4..6) == Some(&[0, 1]);
    let decoded = if one_question { Message::from_vec(packet).ok() } else { None };
    let Some(message) = decoded else {
        return refusal(packet, ResponseCode::FormErr).map_or(Verdict::Ignore, Verdict::Answer);
    };
    if message.metadata.message_type != MessageType::Query {
        return Verdict::Ignore;
    }
    let answer = |code| refusal(packet, code).map_or(Verdict::Ignore, Verdict::Answer);
    if message.metadata.op_code != OpCode::Query {
        return answer(ResponseCode::NotImp);
    }
    let [query] = message.queries.as_slice() else { return answer(ResponseCode::FormErr) };
    if query.query_class != DNSClass::IN {
        return answer(ResponseCode::Refused);
    }
    match find(view, query) {
        Found::Elsewhere => Verdict::Forward,
        Found::Nothing(zone) => written(view, &message, Vec::new(), &zone, ResponseCode::NXDomain),
        Found::Records(zone, records) => written(view, &message, records, &zone, ResponseCode::NoError),
    }
}

/// What Hull knows of a name, and the zone that it knows it of.
enum Found {
    Elsewhere,
    Nothing(Name),
    Records(Name, Vec<Record>),
}

fn find(view: &View, query: &Query) -> Found {
    if let Ok(net) = query.name.parse_arpa_name() {
        return find_address(view, query, net);
    }
    let text = query.name.to_lowercase().to_ascii();
    let text = text.trim_end_matches('.');
    let domain = view.network().domain.to_ascii_lowercase();
    let host = match text.strip_suffix(&domain).map(|rest| rest.strip_suffix('.').unwrap_or(rest)) {
        // `xhull.internal` ends like `hull.internal`, but is not in it.
        Some(_) if text.len() > domain.len() && !text[..text.len() - domain.len()].ends_with('.') => {
            return Found::Elsewhere;
        }
        Some(host) => host,
        None if !text.contains('.') && !text.is_empty() => text,
        None => return Found::Elsewhere,
    };
    let zone = zone(&domain);
    if host.is_empty() {
        return Found::Records(zone, Vec::new());
    }
    let addresses: Vec<IpAddr> = match (host, view.port_of_name(host)) {
        (_, Some(port)) => port.addresses.clone(),
        ("gateway", None) => view.network().subnets.iter().filter_map(|subnet| subnet.gateway).collect(),
        _ => return Found::Nothing(zone),
    };
    let data = addresses.into_iter().filter_map(|address| match (query.query_type, address) {
        (RecordType::A, IpAddr::V4(v4)) => Some(RData::A(A(v4))),
        (RecordType::AAAA, IpAddr::V6(v6)) => Some(RData::AAAA(AAAA(v6))),
        _ => None,
    });
    Found::Records(zone, data.map(|data| Record::from_rdata(query.name.clone(), TTL, data)).collect())
}

fn find_address(view: &View, query: &Query, net: ipnet::IpNet) -> Found {
    let ours = view.network().subnets.iter().any(|subnet| subnet.cidr.contains(&net));
    if !ours {
        return Found::Elsewhere;
    }
    let zone = zone(&view.network().domain);
    let whole = net.prefix_len() == net.max_prefix_len();
    if !whole {
        return Found::Records(zone, Vec::new());
    }
    let Some(port) = view.port_of_address(net.addr()) else { return Found::Nothing(zone) };
    let name = Name::from_ascii(format!("{}.{}.", port.hostname, view.network().domain));
    let wanted = query.query_type == RecordType::PTR;
    let record =
        name.ok().filter(|_| wanted).map(|name| Record::from_rdata(query.name.clone(), TTL, RData::PTR(PTR(name))));
    Found::Records(zone, record.into_iter().collect())
}

fn zone(domain: &str) -> Name {
    Name::from_ascii(format!("{domain}.")).unwrap_or_else(|_| Name::root())
}

fn written(view: &View, asked: &Message, answers: Vec<Record>, zone: &Name, code: ResponseCode) -> Verdict {
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    message.metadata.recursion_desired = asked.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.authoritative = true;
    message.metadata.response_code = code;
    message.add_queries(asked.queries.iter().cloned());
    if answers.is_empty() {
        // RFC 2308: how long "no" may be kept is told by the zone's SOA.
        let primary = Name::from_ascii(format!("gateway.{}.", view.network().domain)).unwrap_or_else(|_| Name::root());
        let soa = SOA::new(primary.clone(), primary, 1, 3600, 600, 86_400, TTL);
        message.add_authority(Record::from_rdata(zone.clone(), TTL, RData::SOA(soa)));
    }
    message.add_answers(answers);
    message.to_vec().map_or(Verdict::Ignore, Verdict::Answer)
}

/// The query sent back with a code and no records; `None` where it is too short to have a header, or is an answer itself.
pub(crate) fn refusal(query: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let mut header = *query.first_chunk::<HEADER>()?;
    let is_answer = header[2] & 0x80 != 0;
    if is_answer {
        return None;
    }
    // QR set, opcode and RD kept; RA set; all counts zero: the question may be what was malformed.
    header[2] = 0x80 | (header[2] & 0x79);
    header[3] = 0x80 | code.low();
    header[4..].fill(0);
    Some(header.to_vec())
}

/// Whether an answer from a resolver belongs to this query: the same id and the same question, byte for byte.
pub(crate) fn belongs(query: &[u8], answer: &[u8]) -> bool {
    let Some(question) = question(query) else { return false };
    answer.len() >= HEADER && query[..2] == answer[..2] && answer[2] & 0x80 != 0 && {
        let theirs = answer.get(HEADER..HEADER + question.len());
        theirs.is_some_and(|theirs| theirs.eq_ignore_ascii_case(question))
    }
}

/// The bytes of a query's one question.
fn question(query: &[u8]) -> Option<&[u8]> {
    let body = query.get(HEADER..)?;
    let mut at = 0;
    loop {
        match *body.get(at)? {
            0 => return body.get(..at + 1 + 4),
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// The resolvers of a `resolv.conf`.
pub(crate) fn resolvers(conf: &str) -> Vec<IpAddr> {
    let words = conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next());
    words.filter_map(|address| address.split('%').next()?.parse().ok()).take(3).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::{super::fixture::view, *};

    fn query(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 77;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    /// The code and the answers, as text.
    fn asked(name: &str, kind: RecordType) -> Result<(ResponseCode, Vec<String>), Verdict> {
        match respond(&view(), &query(name, kind)) {
            Verdict::Answer(bytes) => {
                let answer = Message::from_vec(&bytes).unwrap();
                assert_eq!(answer.metadata.id, 77);
                let code = answer.metadata.response_code;
                Ok((code, answer.answers.iter().map(|record| record.data.to_string()).collect()))
            }
            other => Err(other),
        }
    }

    fn yes(answers: &[&str]) -> Result<(ResponseCode, Vec<String>), Verdict> {
        Ok((ResponseCode::NoError, answers.iter().map(|&answer| answer.to_owned()).collect()))
    }

    fn no() -> Result<(ResponseCode, Vec<String>), Verdict> {
        Ok((ResponseCode::NXDomain, vec![]))
    }

    #[test]
    fn names_of_vms_have_their_addresses() {
        assert_eq!(asked("web.hull.internal.", RecordType::A), yes(&["10.90.0.10"]));
        assert_eq!(asked("WEB.Hull.Internal.", RecordType::AAAA), yes(&["fd00:90::a"]));
        assert_eq!(asked("far.hull.internal.", RecordType::A), yes(&["10.90.0.12"]), "on another node");
        assert_eq!(asked("web.", RecordType::A), yes(&["10.90.0.10"]));
        assert_eq!(asked("gateway.hull.internal.", RecordType::A), yes(&["10.90.0.1"]));
        assert_eq!(asked("web.hull.internal.", RecordType::MX), yes(&[]));
    }

    #[test]
    fn a_name_that_is_no_vms_does_not_exist_and_is_not_asked_elsewhere() {
        for name in ["nobody.hull.internal.", "a.web.hull.internal.", "nobody."] {
            assert_eq!(asked(name, RecordType::A), no(), "{name}");
        }
    }

    #[test]
    fn addresses_of_the_network_have_names() {
        assert_eq!(asked("10.0.90.10.in-addr.arpa.", RecordType::PTR), yes(&["web.hull.internal."]));
        assert_eq!(asked("99.0.90.10.in-addr.arpa.", RecordType::PTR), no());
        assert_eq!(asked("1.1.1.1.in-addr.arpa.", RecordType::PTR), Err(Verdict::Forward));
    }

    #[test]
    fn the_rest_is_the_hosts_resolvers_business() {
        for name in ["debian.org.", "xhull.internal.", "internal.", "hull.internal.example."] {
            let expected = if name == "internal." { no() } else { Err(Verdict::Forward) };
            assert_eq!(asked(name, RecordType::A), expected, "{name}");
        }
    }

    #[test]
    fn an_answer_is_taken_for_its_own_question_only() {
        let asked = query("debian.org.", RecordType::A);
        let mut answer = asked.clone();
        assert!(!belongs(&asked, &answer), "a query is no answer");
        answer[2] |= 0x80;
        assert!(belongs(&asked, &answer));
        answer[1] ^= 1;
        assert!(!belongs(&asked, &answer), "another id");
        let mut other = query("debian.net.", RecordType::A);
        other[2] |= 0x80;
        assert!(!belongs(&asked, &other), "another question");
    }

    #[test]
    fn resolvers_are_read_as_libc_reads_them() {
        let conf = "# x\nsearch a\nnameserver 10.0.0.1\n nameserver\tfe80::1%eth0 # y\nnameserver x\nnameserver ::1\n";
        let expected: Vec<IpAddr> = ["10.0.0.1", "fe80::1", "::1"].map(|text| text.parse().unwrap()).into();
        assert_eq!(resolvers(conf), expected);
    }

    proptest! {
        #[test]
        fn noise_never_breaks_it(mut packet in proptest::collection::vec(any::<u8>(), 0..300), question: bool) {
            if question && packet.len() > HEADER {
                packet[2..HEADER].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            }
            if let Verdict::Answer(answer) = respond(&view(), &packet) {
                prop_assert_eq!(&answer[..2], &packet[..2]);
                prop_assert!(answer[2] & 0x80 != 0);
            }
            let _ = belongs(&packet, &packet);
        }
    }
}
