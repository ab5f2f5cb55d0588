//! DHCP for IPv4 (RFC 2131), as a function from a packet to the answer.
//!
//! There are no leases to keep: a port has its address for as long as it lives, so every answer follows from the desired
//! network alone. DISCOVER gets an OFFER, REQUEST an ACK or a NAK, INFORM an ACK without an address; RELEASE and DECLINE
//! change nothing. A MAC that is no port's gets nothing.

use std::net::Ipv4Addr;

use dhcproto::{
    Decodable, Decoder, Encodable, Encoder,
    v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode},
};
use hull_types::{
    link::{DesiredPort, DesiredSubnet},
    network::{Mac, Uplink},
};
use ipnet::Ipv4Net;

use super::{
    layout::{METADATA_V4, subnet_v4},
    view::{View, address_v4},
};

/// Long, so that guests keep their addresses while Hull is down; they ask again after [`RENEW`] all the same.
const LEASE: u32 = 7 * 24 * 3600;
/// When guests ask again and learn of a changed resolver or route.
const RENEW: u32 = 12 * 3600;
/// BOOTP clients may drop anything shorter (RFC 1542, section 2.1).
const SHORTEST: usize = 300;

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
    gateway: Ipv4Addr,
    subnet: &'a DesiredSubnet,
}

/// The answer to a packet from a guest, if it deserves one.
pub(crate) fn respond(view: &View, packet: &[u8]) -> Option<Reply> {
    let message = Message::decode(&mut Decoder::new(packet)).ok()?;
    let relayed = !message.giaddr().is_unspecified();
    if message.opcode() != Opcode::BootRequest || message.htype() != HType::Eth || message.hlen() != 6 || relayed {
        return None;
    }
    let port = view.port_of_mac(Mac(message.chaddr().try_into().ok()?))?;
    let (range, gateway, subnet) = subnet_v4(view.network())?;
    let address = address_v4(port, range)?;
    let asked = Asked { message: &message, port, address, range, gateway, subnet };
    match message.opts().msg_type()? {
        MessageType::Discover => asked.grant(view, MessageType::Offer),
        MessageType::Request => asked.requested(view),
        MessageType::Inform => asked.inform(view),
        _ => None,
    }
}

impl Asked<'_> {
    /// RFC 2131, section 4.3.2: which state a REQUEST comes from shows in what it names.
    fn requested(&self, view: &View) -> Option<Reply> {
        let options = self.message.opts();
        if let Some(DhcpOption::ServerIdentifier(server)) = options.get(OptionCode::ServerIdentifier)
            && *server != self.gateway
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
        options.insert(DhcpOption::ServerIdentifier(self.gateway));
        // RFC 6842: a client that names itself wants to read that name again.
        if let Some(id) = self.message.opts().get(OptionCode::ClientIdentifier) {
            options.insert(id.clone());
        }
        answer
    }

    fn tell(&self, view: &View, answer: &mut Message) {
        let network = view.network();
        let mut resolvers: Vec<Ipv4Addr> = self
            .subnet
            .dns
            .iter()
            .filter_map(|address| match address {
                std::net::IpAddr::V4(v4) => Some(*v4),
                std::net::IpAddr::V6(_) => None,
            })
            .collect();
        if resolvers.is_empty() {
            resolvers.push(self.gateway);
        }
        let mut routes = vec![(Ipv4Net::from(METADATA_V4), self.gateway)];
        let options = answer.opts_mut();
        if network.uplink != Uplink::None {
            // RFC 3442: who reads the classless routes ignores the router option, so the default route is in both.
            routes.push((Ipv4Net::default(), self.gateway));
            options.insert(DhcpOption::Router(vec![self.gateway]));
        }
        options.insert(DhcpOption::ClasslessStaticRoute(routes));
        options.insert(DhcpOption::SubnetMask(self.range.netmask()));
        options.insert(DhcpOption::BroadcastAddr(self.range.broadcast()));
        options.insert(DhcpOption::DomainNameServer(resolvers));
        options.insert(DhcpOption::DomainName(network.domain.clone()));
        options.insert(DhcpOption::Hostname(self.port.hostname.clone()));
        options.insert(DhcpOption::InterfaceMtu(network.mtu));
    }

    fn destination(&self) -> Ipv4Addr {
        let configured = self.message.ciaddr() == self.address;
        if self.message.flags().broadcast() && !configured { Ipv4Addr::BROADCAST } else { self.address }
    }
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(SHORTEST);
    message.encode(&mut Encoder::new(&mut packet)).ok()?;
    packet.resize(packet.len().max(SHORTEST), 0);
    Some(packet)
}
