//! A packet on its way, as rules see it.

use std::net::IpAddr;

use hull_types::{
    network::Mac,
    path::{PathPacket, PathProtocol},
};

/// Where an answer to what is asked here would be sent; any will do, as long as rules do not name it.
const EPHEMERAL: u16 = 49_152;

/// What a packet carries above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Above {
    Tcp { source: u16, destination: u16 },
    Udp { source: u16, destination: u16 },
    Icmp { kind: u8, code: u8 },
}

/// Whether its connection is tracked here. What is explained is the first packet of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tracking {
    New,
    Untracked,
}

/// A packet at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// The link it came by, and the one it leaves by once that is known.
    pub(super) came_by: String,
    pub(super) leaves_by: String,
    pub(super) from_mac: Mac,
    pub(super) to_mac: Mac,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Where it was going before a translation here.
    pub(super) asked: IpAddr,
    pub(super) above: Above,
    pub(super) size: u16,
    pub(super) tracking: Tracking,
    pub(super) mark: u64,
    /// Its destination is an address of the namespace it is in.
    pub(super) arrived: bool,
    /// Rules have said that it is for this machine itself (`meta pkttype set host`).
    pub(super) claimed: bool,
}

impl Packet {
    pub(super) fn new(packet: &PathPacket) -> Self {
        let above = match packet.protocol {
            PathProtocol::Tcp { port } => Above::Tcp { source: EPHEMERAL, destination: port },
            PathProtocol::Udp { port } => Above::Udp { source: EPHEMERAL, destination: port },
            // Echo requests: RFC 792, RFC 4443 section 4.1.
            PathProtocol::Icmp if packet.destination.is_ipv4() => Above::Icmp { kind: 8, code: 0 },
            PathProtocol::Icmp => Above::Icmp { kind: 128, code: 0 },
        };
        Self {
            came_by: String::new(),
            leaves_by: String::new(),
            from_mac: Mac([0; 6]),
            to_mac: Mac([0; 6]),
            source: packet.source,
            destination: packet.destination,
            asked: packet.destination,
            above,
            size: packet.size,
            tracking: Tracking::New,
            mark: 0,
            arrived: false,
            claimed: false,
        }
    }

    /// It enters another namespace, where nothing is known of it.
    pub(super) fn enter(&mut self, link: &str) {
        self.came_by = link.to_owned();
        self.leaves_by.clear();
        self.asked = self.destination;
        self.tracking = Tracking::New;
        self.mark = 0;
        self.claimed = false;
    }

    pub(super) fn is_v4(&self) -> bool {
        self.destination.is_ipv4()
    }

    /// As it is shown.
    pub(super) fn shown(&self, protocol: PathProtocol) -> PathPacket {
        PathPacket { source: self.source, destination: self.destination, protocol, size: self.size }
    }

    /// The number of its protocol above IP (IANA).
    pub(super) fn protocol(&self) -> u8 {
        match self.above {
            Above::Tcp { .. } => 6,
            Above::Udp { .. } => 17,
            Above::Icmp { .. } if self.is_v4() => 1,
            Above::Icmp { .. } => 58,
        }
    }
}
