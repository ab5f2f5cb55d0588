//! DHCP for IPv4 (RFC 2131), as a function from a packet to the answer.
//!
//! There are no leases to keep: a port has its address for as long as it lives, so every answer follows from the desired
//! network alone. DISCOVER gets an OFFER, REQUEST an ACK or a NAK, INFORM an ACK without an address; RELEASE and DECLINE
//! change nothing. A MAC that is no port's gets nothing.

use std::net::{IpAddr, Ipv4Addr};

use dhcproto::{
    Decodable, Decoder, Encodable, Encoder,
    v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode, UnknownOption},
};
use hull_types::{
    link::{DesiredPort, DesiredSubnet},
    network::Mac,
};
use ipnet::Ipv4Net;

use super::{
    layout::{METADATA_V4, RESOLVER_V4},
    view::{View, address_v4, leads_out, resolvers, subnets_v4},
};

/// Long, so that guests keep their addresses while Hull is down; they ask again after [`RENEW`] all the same.
const LEASE: u32 = 7 * 24 * 3600;
/// When guests ask again and learn of a changed resolver or route.
const RENEW: u32 = 12 * 3600;
/// BOOTP clients may drop anything shorter (RFC 1542, section 2.1).
const SHORTEST: usize = 300;

/// What an option can hold.
const LONGEST: usize = 255;
/// Options that say what the lease is and who gives it, which no extra option may change: padding, lease time, overload,
/// message type, server, times, client, end.
const DECIDED: [u8; 9] = [0, 51, 52, 53, 54, 58, 59, 61, 255];

/// An answer and where it goes, on port 68.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The packet.
    pub(crate) packet: Vec<u8>,
    /// The port's address (the gateway knows its MAC, so an unconfigured guest is reached), or the broadcast address.
    pub(crate) to: Ipv4Addr,
    /// Whom it leases an address to, where it does.
    pub(crate) leased: Option<Mac>,
}

struct Asked<'a> {
    message: &'a Message,
    port: &'a DesiredPort,
    address: Ipv4Addr,
    range: Ipv4Net,
    gateway: Option<Ipv4Addr>,
    /// What this server calls itself, where it can be reached.
    server: Ipv4Addr,
    subnet: &'a DesiredSubnet,
}

/// The answer to a packet from a guest, if it deserves one.
pub(crate) fn respond(view: &View, packet: &[u8]) -> Option<Reply> {
    let message = Message::decode(&mut Decoder::new(&sieve(packet)?)).ok()?;
    let relayed = !message.giaddr().is_unspecified();
    if message.opcode() != Opcode::BootRequest || message.htype() != HType::Eth || message.hlen() != 6 || relayed {
        return None;
    }
    let port = view.port_of_mac(Mac(message.chaddr().try_into().ok()?))?;
    // A port may have addresses of several subnets; a lease is one, of the first subnet that is served.
    let mut served = subnets_v4(view.network()).filter(|(_, subnet)| subnet.dhcp);
    let (range, subnet, address) =
        served.find_map(|(range, subnet)| Some((range, subnet, address_v4(port, range)?)))?;
    let gateway = subnet.gateway.and_then(v4);
    let server = gateway.filter(|_| subnet.gateway_is_ours).unwrap_or(METADATA_V4);
    let asked = Asked { message: &message, port, address, range, gateway, server, subnet };
    match message.opts().msg_type()? {
        MessageType::Discover => asked.grant(view, MessageType::Offer),
        MessageType::Request => asked.requested(view),
        MessageType::Inform => asked.inform(view),
        _ => None,
    }
}

/// The packet with only those options that matter here, each of its proper length. What a guest may send is thus smaller
/// than what the decoder knows, which panics on some malformed options (seen: option 94 of another length than 3).
fn sieve(packet: &[u8]) -> Option<Vec<u8>> {
    /// The fixed fields and the magic cookie (RFC 2131, section 2).
    const FIXED: usize = 240;
    let (fixed, mut rest) = packet.split_at_checked(FIXED)?;
    let mut kept = fixed.to_vec();
    while let [code, tail @ ..] = rest {
        match code {
            0 => rest = tail,
            255 => break,
            _ => {
                let (&length, tail) = tail.split_first()?;
                let (value, tail) = tail.split_at_checked(usize::from(length))?;
                let matters = match OptionCode::from(*code) {
                    OptionCode::MessageType => length == 1,
                    OptionCode::RequestedIpAddress | OptionCode::ServerIdentifier => length == 4,
                    OptionCode::ClientIdentifier => length >= 2,
                    _ => false,
                };
                if matters {
                    kept.extend([*code, length]);
                    kept.extend(value);
                }
                rest = tail;
            }
        }
    }
    kept.push(255);
    Some(kept)
}

impl Asked<'_> {
    /// RFC 2131, section 4.3.2: which state a REQUEST comes from shows in what it names.
    fn requested(&self, view: &View) -> Option<Reply> {
        let options = self.message.opts();
        if let Some(DhcpOption::ServerIdentifier(server)) = options.get(OptionCode::ServerIdentifier)
            && *server != self.server
        {
            return None;
        }
        let wanted = match options.get(OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(address)) => *address,
            _ => self.message.ciaddr(),
        };
        if wanted == self.address { self.grant(view, MessageType::Ack) } else { self.refuse() }
    }

    fn grant(&self, view: &View, kind: MessageType) -> Option<Reply> {
        let mut answer = self.answer(kind);
        answer.set_yiaddr(self.address).set_ciaddr(self.message.ciaddr());
        let options = answer.opts_mut();
        options.insert(DhcpOption::AddressLeaseTime(LEASE));
        options.insert(DhcpOption::Renewal(RENEW));
        options.insert(DhcpOption::Rebinding(LEASE / 8 * 7));
        self.tell(view, &mut answer);
        let leased = (kind == MessageType::Ack).then_some(self.port.mac);
        Some(Reply { packet: encode(&answer)?, to: self.destination(), leased })
    }

    fn inform(&self, view: &View) -> Option<Reply> {
        if self.message.ciaddr() != self.address {
            return None;
        }
        let mut answer = self.answer(MessageType::Ack);
        answer.set_ciaddr(self.address);
        self.tell(view, &mut answer);
        Some(Reply { packet: encode(&answer)?, to: self.address, leased: None })
    }

    fn refuse(&self) -> Option<Reply> {
        let mut answer = self.answer(MessageType::Nak);
        answer.opts_mut().insert(DhcpOption::Message("this is not your address on this network".to_owned()));
        Some(Reply { packet: encode(&answer)?, to: Ipv4Addr::BROADCAST, leased: None })
    }

    fn answer(&self, kind: MessageType) -> Message {
        let mut answer = Message::default();
        answer
            .set_opcode(Opcode::BootReply)
            .set_xid(self.message.xid())
            .set_flags(self.message.flags())
            .set_chaddr(&self.port.mac.0);
        let options = answer.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier(self.server));
        // RFC 6842: a client that names itself wants to read that name again.
        if let Some(id) = self.message.opts().get(OptionCode::ClientIdentifier) {
            options.insert(id.clone());
        }
        answer
    }

    fn tell(&self, view: &View, answer: &mut Message) {
        let network = view.network();
        let resolvers: Vec<Ipv4Addr> = resolvers(self.subnet).into_iter().filter_map(v4).collect();
        // By the network's own gateway, else on the link, where the bridge answers for these (RFC 3442: by 0.0.0.0).
        let way = if self.subnet.gateway_is_ours { self.gateway } else { None }.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let mut routes = vec![(Ipv4Net::from(METADATA_V4), way)];
        if resolvers.contains(&RESOLVER_V4) {
            routes.push((Ipv4Net::from(RESOLVER_V4), way));
        }
        routes.extend(self.subnet.routes.iter().filter_map(|route| match (route.to, route.via) {
            (ipnet::IpNet::V4(to), IpAddr::V4(via)) => Some((to.trunc(), via)),
            _ => None,
        }));
        let options = answer.opts_mut();
        if let Some(gateway) = self.gateway.filter(|_| leads_out(view, self.subnet)) {
            // RFC 3442: who reads the classless routes ignores the router option, so the default route is in both.
            routes.push((Ipv4Net::default(), gateway));
            options.insert(DhcpOption::Router(vec![gateway]));
        }
        options.insert(DhcpOption::ClasslessStaticRoute(routes));
        options.insert(DhcpOption::SubnetMask(self.range.netmask()));
        options.insert(DhcpOption::BroadcastAddr(self.range.broadcast()));
        options.insert(DhcpOption::DomainNameServer(resolvers));
        options.insert(DhcpOption::DomainName(network.domain.clone()));
        options.insert(DhcpOption::Hostname(self.port.hostname.clone()));
        options.insert(DhcpOption::InterfaceMtu(network.mtu));
        // The port's own come last and so stay, where both have the same.
        for extra in self.subnet.dhcp_options.iter().chain(&self.port.dhcp_options) {
            let value = extra.value.as_bytes();
            if value.len() > LONGEST || DECIDED.contains(&extra.code) {
                continue;
            }
            options.remove(OptionCode::from(extra.code));
            options.insert(DhcpOption::Unknown(UnknownOption::new(OptionCode::from(extra.code), value.to_vec())));
        }
    }

    fn destination(&self) -> Ipv4Addr {
        let configured = self.message.ciaddr() == self.address;
        if self.message.flags().broadcast() && !configured { Ipv4Addr::BROADCAST } else { self.address }
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(SHORTEST);
    message.encode(&mut Encoder::new(&mut packet)).ok()?;
    packet.resize(packet.len().max(SHORTEST), 0);
    Some(packet)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use hull_types::network::{Route, Uplink};
    use proptest::prelude::*;

    use super::{
        super::fixture::{mac, network, view},
        *,
    };

    const WEB: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 10);

    fn ask(kind: MessageType, change: impl FnOnce(&mut Message)) -> Message {
        let mut message = Message::default();
        message.set_opcode(Opcode::BootRequest).set_xid(7).set_chaddr(&mac(10).0);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        change(&mut message);
        message
    }

    fn answered(message: &Message) -> Option<(Message, Ipv4Addr)> {
        let reply = respond(&view(), &encode(message).unwrap())?;
        Some((Message::decode(&mut Decoder::new(&reply.packet)).unwrap(), reply.to))
    }

    fn kind(message: &Message) -> Option<(MessageType, Ipv4Addr, Ipv4Addr)> {
        answered(message).map(|(answer, to)| (answer.opts().msg_type().unwrap(), answer.yiaddr(), to))
    }

    fn want(address: Ipv4Addr) -> impl FnOnce(&mut Message) {
        move |message| {
            message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
        }
    }

    #[test]
    fn each_state_of_a_client_gets_its_answer() {
        use MessageType::{Ack, Decline, Discover, Inform, Nak, Offer, Release, Request};
        let none = Ipv4Addr::UNSPECIFIED;
        let other = Ipv4Addr::new(10, 90, 0, 11);
        assert_eq!(kind(&ask(Discover, |_| {})), Some((Offer, WEB, WEB)));
        assert_eq!(kind(&ask(Request, want(WEB))), Some((Ack, WEB, WEB)), "init-reboot");
        assert_eq!(kind(&ask(Request, want(other))), Some((Nak, none, Ipv4Addr::BROADCAST)), "another's address");
        let renew = ask(Request, |message| {
            message.set_ciaddr(WEB);
        });
        assert_eq!(kind(&renew), Some((Ack, WEB, WEB)), "renewing");
        assert_eq!(
            kind(&ask(Request, |m| {
                m.set_ciaddr(other);
            })),
            Some((Nak, none, Ipv4Addr::BROADCAST))
        );
        assert_eq!(
            kind(&ask(Inform, |message| {
                message.set_ciaddr(WEB);
            })),
            Some((Ack, none, WEB))
        );
        assert_eq!(
            kind(&ask(Inform, |message| {
                message.set_ciaddr(other);
            })),
            None
        );
        assert_eq!(kind(&ask(Release, |_| {})), None);
        assert_eq!(kind(&ask(Decline, |_| {})), None);
    }

    #[test]
    fn another_servers_client_strangers_and_relays_get_nothing() {
        let elsewhere = ask(MessageType::Request, |message| {
            message.opts_mut().insert(DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 90, 0, 99)));
            message.opts_mut().insert(DhcpOption::RequestedIpAddress(WEB));
        });
        assert_eq!(kind(&elsewhere), None);
        assert_eq!(
            kind(&ask(MessageType::Discover, |message| {
                message.set_chaddr(&mac(99).0);
            })),
            None
        );
        assert_eq!(
            kind(&ask(MessageType::Discover, |message| {
                message.set_giaddr(WEB);
            })),
            None
        );
        assert_eq!(
            kind(&ask(MessageType::Discover, |message| {
                message.set_opcode(Opcode::BootReply);
            })),
            None
        );
    }

    #[test]
    fn a_client_that_cannot_hear_unicast_is_told_by_broadcast() {
        let deaf = |message: &mut Message| {
            let flags = message.flags().set_broadcast();
            message.set_flags(flags);
        };
        assert_eq!(kind(&ask(MessageType::Discover, deaf)).unwrap().2, Ipv4Addr::BROADCAST);
    }

    /// What a guest of this network is told.
    fn told(network: hull_types::link::DesiredNetwork) -> Option<Message> {
        let packet = encode(&ask(MessageType::Discover, |_| {})).unwrap();
        let reply = respond(&View::new(network), &packet)?;
        Some(Message::decode(&mut Decoder::new(&reply.packet)).unwrap())
    }

    #[test]
    fn a_gateway_that_leads_nowhere_is_not_told_but_metadata_is_on_the_link() {
        let mut network = network();
        network.uplink = Uplink::None;
        network.subnets[0].gateway_is_ours = false;
        let answer = told(network).unwrap();
        assert_eq!(answer.opts().get(OptionCode::Router), None);
        let on_link = ["169.254.169.254/32", "169.254.169.253/32"];
        let routes = on_link.map(|to| (to.parse().unwrap(), Ipv4Addr::UNSPECIFIED)).into();
        assert_eq!(
            answer.opts().get(OptionCode::ClasslessStaticRoute),
            Some(&DhcpOption::ClasslessStaticRoute(routes))
        );
        let server = DhcpOption::ServerIdentifier(METADATA_V4);
        assert_eq!(answer.opts().get(OptionCode::ServerIdentifier), Some(&server));
    }

    #[test]
    fn a_gateway_outside_is_told_with_the_subnets_routes() {
        let mut network = network();
        network.uplink = Uplink::Provider("ext".to_owned());
        network.subnets[0].gateway_is_ours = false;
        let via = Ipv4Addr::new(10, 90, 0, 99);
        network.subnets[0].routes = vec![Route { to: "192.168.0.0/16".parse().unwrap(), via: via.into() }];
        network.subnets[0].dns = vec!["9.9.9.9".parse().unwrap()];
        let answer = told(network).unwrap();
        let gateway = Ipv4Addr::new(10, 90, 0, 1);
        assert_eq!(answer.opts().get(OptionCode::Router), Some(&DhcpOption::Router(vec![gateway])));
        let routes = vec![
            ("169.254.169.254/32".parse().unwrap(), Ipv4Addr::UNSPECIFIED),
            ("192.168.0.0/16".parse().unwrap(), via),
            (Ipv4Net::default(), gateway),
        ];
        assert_eq!(
            answer.opts().get(OptionCode::ClasslessStaticRoute),
            Some(&DhcpOption::ClasslessStaticRoute(routes))
        );
    }

    #[test]
    fn the_lease_is_of_the_first_subnet_that_is_served() {
        let mut network = network();
        let mut second = network.subnets[0].clone();
        second.cidr = "10.91.0.0/16".parse().unwrap();
        second.gateway = None;
        network.subnets[0].dhcp = false;
        assert_eq!(told(network.clone()), None);
        network.subnets.push(second);
        assert_eq!(told(network.clone()), None, "the port has no address of it");
        network.ports[0].addresses.push("10.91.0.10".parse().unwrap());
        assert_eq!(told(network).unwrap().yiaddr(), Ipv4Addr::new(10, 91, 0, 10));
    }

    #[test]
    fn extra_options_are_sent_as_they_are_the_ports_before_the_subnets() {
        let mut network = network();
        let extra = |code, value: &str| hull_types::network::DhcpOption { code, value: value.to_owned() };
        network.subnets[0].dhcp_options = vec![extra(66, "subnet"), extra(67, "boot.ipxe"), extra(54, "me")];
        network.ports[0].dhcp_options = vec![extra(66, "port"), extra(15, "example.org")];
        let answer = told(network).unwrap();
        let options: Vec<String> = answer.opts().iter().map(|(_, option)| format!("{option:?}")).collect();
        let text = options.join("\n");
        let bytes = |text: &str| format!("{:?}", text.as_bytes());
        for value in ["port", "boot.ipxe", "example.org"] {
            assert!(text.contains(&bytes(value)) || text.contains(value), "{value} is missing from:\n{text}");
        }
        for value in ["subnet", "me", "hull.internal"] {
            assert!(!text.contains(&bytes(value)) && !text.contains(&format!("{value:?}")), "{value} is in:\n{text}");
        }
    }

    #[test]
    fn options_that_the_decoder_cannot_bear_are_not_shown_to_it() {
        let mut packet = encode(&ask(MessageType::Discover, |_| {})).unwrap();
        let end = packet.iter().rposition(|&byte| byte == 255).unwrap();
        packet.splice(end..=end, [94, 1, 0, 97, 0, 255]);
        assert!(respond(&view(), &packet).is_some());
    }

    #[test]
    fn the_client_reads_its_own_name_again() {
        let id = DhcpOption::ClientIdentifier(vec![255, 1, 2, 3]);
        let named = ask(MessageType::Discover, |message| {
            message.opts_mut().insert(id.clone());
        });
        assert_eq!(answered(&named).unwrap().0.opts().get(OptionCode::ClientIdentifier), Some(&id));
    }

    proptest! {
        #[test]
        fn whatever_comes_only_a_ports_own_address_is_given(packet in mangled()) {
            if let Some(reply) = respond(&view(), &packet) {
                let answer = Message::decode(&mut Decoder::new(&reply.packet)).unwrap();
                prop_assert!([WEB, Ipv4Addr::new(10, 90, 0, 11), Ipv4Addr::new(10, 90, 0, 12), Ipv4Addr::UNSPECIFIED].contains(&answer.yiaddr()));
                prop_assert!(reply.packet.len() <= 1400);
            }
        }
    }

    /// Noise, and requests with bytes changed.
    fn mangled() -> impl Strategy<Value = Vec<u8>> {
        let sound = encode(&ask(MessageType::Request, want(WEB))).unwrap();
        let changes = proptest::collection::vec((0..sound.len(), any::<u8>()), 0..8);
        let changed = (changes, 0..=sound.len()).prop_map(move |(changes, length)| {
            let mut packet = sound.clone();
            changes.iter().for_each(|&(at, byte)| packet[at] = byte);
            packet.truncate(length);
            packet
        });
        prop_oneof![proptest::collection::vec(any::<u8>(), 0..600), changed]
    }
}
