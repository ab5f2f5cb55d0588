//! Two bare taps: what is written to one, and whether it comes out of the other.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use hull_node::network::Networks;
use hull_types::{link::DesiredNetwork, network::Mac};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    Bench,
    frames::{self, Path},
};

/// A virtio header without offloads comes before each frame of a tap (`IFF_VNET_HDR`).
const HEADER: usize = 10;

/// Two bare taps: one to write frames to, one to see what comes through.
pub struct Wire {
    pub network: DesiredNetwork,
    sender: OwnedFd,
    receiver: OwnedFd,
    marks: u8,
}

impl Wire {
    pub async fn new(bench: &Bench, network: DesiredNetwork) -> Self {
        bench.networks.apply(&network).await.unwrap();
        let sender = bench.networks.tap(network.id, network.ports[0].id).await.unwrap();
        let receiver = bench.networks.tap(network.id, network.ports[1].id).await.unwrap();
        Self { network, sender, receiver, marks: 0 }
    }

    pub fn mac(&self, port: usize) -> Mac {
        self.network.ports[port].mac
    }

    pub fn address(&self, port: usize, v6: bool) -> IpAddr {
        *self.network.ports[port].addresses.iter().find(|address| address.is_ipv6() == v6).unwrap()
    }

    /// From the sender to the receiver, all as it should be.
    pub fn path(&self, v6: bool) -> Path {
        Path { from_mac: self.mac(0), to_mac: self.mac(1), from: self.address(0, v6), to: self.address(1, v6) }
    }

    pub fn write(&self, frame: &[u8]) {
        rustix::io::write(&self.sender, &[&[0; HEADER], frame].concat()).unwrap();
    }

    /// The next frame at the receiver, whoever sent it.
    pub fn next(&self, awaited: &str) -> Vec<u8> {
        let mut ready = [PollFd::new(&self.receiver, PollFlags::IN)];
        let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
        assert_eq!(poll(&mut ready, Some(&patience)).unwrap(), 1, "{awaited} did not come through");
        let mut bytes = [0; 2048];
        let length = rustix::io::read(&self.receiver, &mut bytes).unwrap();
        bytes[HEADER..length].to_vec()
    }

    /// How many of so many copies of a frame, sent at once, come through, and how long that took.
    pub fn flood(&self, frame: &[u8], copies: usize) -> (usize, Duration) {
        let begin = Instant::now();
        (0..copies).for_each(|_| self.write(frame));
        let (mut arrived, mut took) = (0, begin.elapsed());
        let quiet = Timespec { tv_sec: 1, tv_nsec: 0 };
        while arrived < copies && poll(&mut [PollFd::new(&self.receiver, PollFlags::IN)], Some(&quiet)).unwrap() == 1 {
            arrived += usize::from(self.next("a frame").starts_with(frame));
            took = begin.elapsed();
        }
        (arrived, took)
    }

    /// The same wire the other way round.
    pub fn reversed(self) -> Self {
        let Self { mut network, sender, receiver, marks } = self;
        network.ports.swap(0, 1);
        Self { network, sender: receiver, receiver: sender, marks }
    }

    /// Whether a frame gets through: it is followed by one that does, so nothing needs to be waited out.
    pub fn passes(&mut self, frame: &[u8]) -> bool {
        self.marks = self.marks.wrapping_add(1);
        let IpAddr::V4(own) = self.address(0, false) else { unreachable!() };
        let mark = frames::arp(self.mac(0), self.mac(0), own, Ipv4Addr::new(10, 90, 99, self.marks));
        self.write(frame);
        self.write(&mark);
        let mut seen = false;
        loop {
            let received = self.next("the mark");
            // Short frames may be padded on the way.
            seen |= received.starts_with(frame);
            if received.starts_with(&mark) {
                return seen;
            }
        }
    }
}

pub fn v4(address: IpAddr) -> Ipv4Addr {
    let IpAddr::V4(v4) = address else { panic!("{address}") };
    v4
}

pub fn v6(address: IpAddr) -> Ipv6Addr {
    let IpAddr::V6(v6) = address else { panic!("{address}") };
    v6
}
