//! The bridge family: who a packet comes from, and whether who it goes to owns its destination.

use std::{collections::BTreeSet, net::IpAddr};

use hull_types::{link::DesiredPort, security_group::Family};
use ipnet::IpNet;

use super::{
    super::layout::{
        CABLE, METADATA_V4, METADATA_V6, RESOLVER_V4, RESOLVER_V6, TAP_PREFIX, TUNNEL, gateway_mac, link_local,
        tap_name,
    },
    model::Table,
    ports::{ELSEWHERE, Ports},
};

pub(super) fn table(ports: &Ports<'_>) -> Table {
    let mut table = Table::default();
    identities(&mut table, ports);
    owners(&mut table, ports);
    limits(&mut table, ports);
    // The kernel makes room for all of them at once: 8 bytes and more for each.
    for meter in ["arp_rate", "dhcp_rate", "dns_rate", "nd_rate", "metadata_rate"] {
        table.set(meter, "type ifname; size 4096; flags dynamic", []);
    }
    table.set("drops", "type ifname; size 4096; flags dynamic; counter", []);
    from_taps(&mut table, ports);
    to_taps(&mut table);
    wires(&mut table);
    table
}

/// What each governed port may call itself, and the mark that its packets bear.
fn identities(table: &mut Table, ports: &Ports<'_>) {
    let (mut macs, mut v4, mut v6, mut nd) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut pairs4, mut pairs6, mut nd_pairs) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut marks = Vec::new();
    for port in ports.governed() {
        let tap = port.tap();
        macs.insert(format!("{tap} . {}", port.port.mac));
        v4.extend(port.addresses(Family::Ipv4).map(|address| format!("{tap} . {address}")));
        for address in port.addresses(Family::Ipv6) {
            v6.insert(format!("{tap} . {address}"));
            nd.insert(format!("{tap} . {}", hex(address)));
        }
        for (mac, net) in port.pairs(Family::Ipv4) {
            macs.insert(format!("{tap} . {mac}"));
            pairs4.insert(format!("{tap} . {mac} . {net}"));
        }
        let pairs = port.pairs(Family::Ipv6);
        for (mac, net) in &pairs {
            macs.insert(format!("{tap} . {mac}"));
            pairs6.insert(format!("{tap} . {mac} . {net}"));
        }
        // Which MAC goes with an advertised address does not matter here: the frame's own is checked.
        let nets: Vec<IpNet> = pairs.into_iter().map(|(_, net)| net).collect();
        nd_pairs.extend(IpNet::aggregate(&nets).iter().map(|net| format!("{tap} . {}", hex_span(net))));
        marks.push((tap, format!("0x{:08x}", ports.regime(port).mark)));
    }
    table.set("macs", "type ifname . ether_addr", macs);
    table.set("v4", "type ifname . ipv4_addr", v4);
    table.set("v6", "type ifname . ipv6_addr", v6);
    // The target of neighbour advertisements and solicitations: 16 bytes behind the 8 of the ICMPv6 header.
    table.set("nd_targets", "typeof iifname . @th,64,128", nd);
    table.set("pairs4", "type ifname . ether_addr . ipv4_addr; flags interval", pairs4);
    table.set("pairs6", "type ifname . ether_addr . ipv6_addr; flags interval", pairs6);
    table.set("nd_pairs", "typeof iifname . @th,64,128; flags interval", nd_pairs);
    table.map("taps", "type ifname : mark", marks);
}

/// The taps that may call themselves anything, but for what is another port's or the network's own.
fn owners(table: &mut Table, ports: &Ports<'_>) {
    let network = ports.network;
    let open: Vec<&DesiredPort> = ports.open().collect();
    let gateway = gateway_mac(network.id);
    let (mut macs, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    if !open.is_empty() {
        let gateways =
            network.subnets.iter().filter(|subnet| subnet.gateway_is_ours).filter_map(|subnet| subnet.gateway);
        macs.insert(gateway.to_string());
        macs.extend(network.ports.iter().map(|port| port.mac.to_string()));
        addresses.extend(gateways.chain([link_local(gateway).into()]));
        let services: [IpAddr; 4] = [METADATA_V4.into(), RESOLVER_V4.into(), METADATA_V6.into(), RESOLVER_V6.into()];
        addresses.extend(services);
        addresses.extend(network.ports.iter().flat_map(addresses_of));
    }
    let of_all = |family| addresses.iter().filter(move |address| Family::of(address) == family);
    // All that are here, not the open ones alone: one that is open no longer must not be judged, while that changes, as if
    // its own were another's.
    let named = || network.ports.iter().filter(|port| port.is_here() && !open.is_empty());
    let of_open = |family| {
        let each = named().flat_map(|port| addresses_of(port).map(move |address| (tap_name(port.id), address)));
        each.filter(move |(_, address)| Family::of(address) == family)
    };
    table.set("open", "type ifname", open.iter().map(|port| tap_name(port.id)));
    table.set("owned_macs", "type ether_addr", macs);
    table.set("owned_v4", "type ipv4_addr", of_all(Family::Ipv4).map(ToString::to_string));
    table.set("owned_v6", "type ipv6_addr", of_all(Family::Ipv6).map(ToString::to_string));
    table.set("owned_nd", "typeof @th,64,128", of_all(Family::Ipv6).map(|address| hex(*address)));
    let macs = named().map(|port| format!("{} . {}", tap_name(port.id), port.mac));
    table.set("open_macs", "type ifname . ether_addr", macs);
    let pair = |(tap, address)| format!("{tap} . {address}");
    table.set("open_v4", "type ifname . ipv4_addr", of_open(Family::Ipv4).map(pair));
    table.set("open_v6", "type ifname . ipv6_addr", of_open(Family::Ipv6).map(pair));
    let target = |(tap, address)| format!("{tap} . {}", hex(address));
    table.set("open_nd", "typeof iifname . @th,64,128", of_open(Family::Ipv6).map(target));
}

fn addresses_of(port: &DesiredPort) -> impl Iterator<Item = IpAddr> + '_ {
    port.addresses.iter().copied().chain([link_local(port.mac).into()])
}

/// How much a port may send. What it receives is shaped by its tap's queue (`super::super::shaping`).
fn limits(table: &mut Table, ports: &Ports<'_>) {
    let limited = ports.network.ports.iter().filter(|port| port.is_here());
    let mut taps = Vec::new();
    for (port, kbps) in limited.filter_map(|port| Some((port, port.bandwidth.egress_kbps?))) {
        let tap = tap_name(port.id);
        let rate = (kbps * 125).max(1);
        // The kernel's bucket holds a second's worth and this: two of the largest packets that a guest hands over whole, or
        // at a low rate none of them would ever pass.
        let burst = 2 << 16;
        table.chain(
            format!("rate_{tap}"),
            &format!("limit rate over {rate} bytes/second burst {burst} bytes counter drop"),
        );
        taps.push((tap.clone(), format!("jump rate_{tap}")));
    }
    table.map("limited", "type ifname : verdict", taps);
}

fn from_taps(table: &mut Table, ports: &Ports<'_>) {
    table.base(
        "prerouting",
        "type filter hook prerouting priority -300; policy accept;",
        &format!(
            r#"iifname != "{TAP_PREFIX}*" meta mark set 0 accept
            iifname vmap @limited
            iifname @open goto from_open
            iifname . ether saddr != @macs jump spoofed
            ether type != {{ ip, ip6, arp }} jump spoofed
            meta mark set iifname map @taps
            ether type arp jump from_arp
            ether type ip jump from_v4
            ether type ip6 jump from_v6"#
        ),
    );
    table.chain(
        "from_arp",
        "iifname . arp saddr ether != @macs jump spoofed
        add @arp_rate { iifname limit rate over 200/second burst 500 packets } drop
        arp saddr ip 0.0.0.0 accept
        iifname . arp saddr ip @v4 accept
        iifname . arp saddr ether . arp saddr ip @pairs4 accept
        jump spoofed",
    );
    table.chain(
        "from_v4",
        "udp sport 67 jump spoofed
        ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 goto sent
        iifname . ip saddr @v4 goto sent
        iifname . ether saddr . ip saddr @pairs4 goto sent
        jump spoofed",
    );
    table.chain(
        "from_v6",
        "icmpv6 type { nd-router-advert, nd-redirect } jump spoofed
        udp sport 547 jump spoofed
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } add @nd_rate { iifname limit rate over 200/second burst 500 packets } drop
        icmpv6 type nd-neighbor-advert jump advertised
        ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @nd_targets accept
        ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @nd_pairs accept
        ip6 saddr :: icmpv6 type { nd-router-solicit, mld-listener-report, mld2-listener-report } accept
        iifname . ip6 saddr @v6 goto sent
        iifname . ether saddr . ip6 saddr @pairs6 goto sent
        jump spoofed",
    );
    table.chain(
        "advertised",
        "iifname . @th,64,128 @nd_targets return
        iifname . @th,64,128 @nd_pairs return
        jump spoofed",
    );
    table.chain(
        "from_open",
        "iifname . ether saddr != @open_macs ether saddr @owned_macs jump spoofed
        ether type arp iifname . arp saddr ip != @open_v4 arp saddr ip @owned_v4 jump spoofed
        ether type arp add @arp_rate { iifname limit rate over 200/second burst 500 packets } drop
        ether type ip iifname . ip saddr != @open_v4 ip saddr @owned_v4 jump spoofed
        ether type ip6 iifname . ip6 saddr != @open_v6 ip6 saddr @owned_v6 jump spoofed
        icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @open_nd @th,64,128 @owned_nd jump spoofed
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } add @nd_rate { iifname limit rate over 200/second burst 500 packets } drop
        goto sent",
    );
    table.chain("sent", &sent(ports));
    // Whatever MAC the guest sent it to (an outside gateway's, where there is one), it is for this bridge.
    table.chain("to_us", &format!("ether daddr set {} meta pkttype set host accept", gateway_mac(ports.network.id)));
    table.chain("spoofed", "add @drops { iifname }\ncounter drop");
}

/// What a port sent as itself: its share of each service, and the services wherever the guest thinks they are.
fn sent(ports: &Ports<'_>) -> String {
    let served =
        |v6: bool| ports.network.subnets.iter().any(|subnet| subnet.dhcp && subnet.cidr.addr().is_ipv6() == v6);
    let mut lines = vec![
        "udp dport { 67, 547 } add @dhcp_rate { iifname limit rate over 20/second burst 50 packets } drop".to_owned(),
    ];
    // Where nothing is served a guest's question goes on: somebody outside may answer it.
    if served(false) {
        lines.push("ether type ip udp dport 67 goto to_us".to_owned());
    }
    if served(true) {
        lines.push("ether type ip6 udp dport 547 goto to_us".to_owned());
    }
    lines.push(
        "meta l4proto { tcp, udp } th dport 53 add @dns_rate { iifname limit rate over 1000/second burst 2000 packets } drop"
            .to_owned(),
    );
    for (address, resolver) in [
        (format!("ip daddr {METADATA_V4}"), format!("ip daddr {RESOLVER_V4}")),
        (format!("ip6 daddr {METADATA_V6}"), format!("ip6 daddr {RESOLVER_V6}")),
    ] {
        lines.push(format!("{address} tcp dport 80 tcp flags & (syn | ack) == syn add @metadata_rate {{ iifname limit rate over 100/second burst 300 packets }} drop"));
        lines.push(format!("{address} tcp dport 80 goto to_us"));
        lines.push(format!("{resolver} meta l4proto {{ tcp, udp }} th dport 53 goto to_us"));
    }
    lines.push("accept".to_owned());
    lines.join("\n")
}

fn to_taps(table: &mut Table) {
    table.base(
        "forward",
        "type filter hook forward priority -300; policy accept;",
        &format!(
            r#"meta mark set {ELSEWHERE}
            oifname != "{TAP_PREFIX}*" accept
            oifname @open accept
            iifname != "{TAP_PREFIX}*" udp sport . udp dport {{ 67 . 68, 547 . 546 }} accept
            udp sport . udp dport {{ 67 . 68, 547 . 546 }} drop
            icmpv6 type {{ nd-router-advert, nd-redirect }} iifname "{TAP_PREFIX}*" drop
            udp dport {{ 67, 547 }} drop
            icmpv6 type nd-router-solicit drop
            meta mark set oifname map @taps
            ether type ip ip daddr {{ 224.0.0.0/4, 255.255.255.255 }} accept
            ether type ip6 ip6 daddr ff00::/8 accept
            ether type ip oifname . ip daddr @v4 accept
            ether type ip oifname . ether daddr . ip daddr @pairs4 accept
            ether type ip6 oifname . ip6 daddr @v6 accept
            ether type ip6 oifname . ether daddr . ip6 daddr @pairs6 accept
            ether type {{ ip, ip6 }} counter drop"#
        ),
    );
}

/// What comes from outside the node: the bridge itself, which is on every node under the same addresses, neither hears the
/// outside nor speaks to a provider's segment.
fn wires(table: &mut Table) {
    let (input, output) =
        (format!("iifname {{ \"{CABLE}\", \"{TUNNEL}\" }} drop"), format!("oifname \"{CABLE}\" drop"));
    table.base("input", "type filter hook input priority -300; policy accept;", &input);
    table.base("output", "type filter hook output priority -300; policy accept;", &output);
}

fn hex(address: IpAddr) -> String {
    match address {
        IpAddr::V6(v6) => format!("0x{:032x}", u128::from(v6)),
        IpAddr::V4(v4) => format!("0x{:08x}", u32::from(v4)),
    }
}

fn hex_span(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        hex(net.addr())
    } else {
        format!("{}-{}", hex(net.network()), hex(net.broadcast()))
    }
}
