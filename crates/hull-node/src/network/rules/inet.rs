//! The inet family: connections, the ports' security groups, the network's own services, the way out.
//!
//! ```text
//!   raw          is any end of it a port here?  else it only passes through: not tracked
//!   (conntrack)
//!   outbound     by the mark of the port it came from: that port's groups; then the mark is taken off
//!   input        the services
//!   forward      bridged: by the mark of the port it goes to; routed: by its address: that port's groups
//! ```
//!
//! What passes through is the business of the node at either end: with routers on every node, this one may see one
//! direction of a conversation only, which connection tracking would take for nonsense.

use std::{collections::BTreeSet, net::IpAddr};

use hull_types::{
    id::SecurityGroupId,
    network::Uplink,
    security_group::{Direction, Family},
};

use sha2::{Digest, Sha256};

use super::{
    super::layout::{
        BRIDGE, LinkRange, METADATA_V4, METADATA_V6, RESOLVER_V4, RESOLVER_V6, UPLINK, gateway_mac, link_local,
    },
    groups,
    model::Table,
    ports::{ELSEWHERE, Ports, Regime},
};

pub(super) fn table(ports: &Ports<'_>, links: &LinkRange) -> Table {
    let mut table = Table::default();
    tracked(&mut table, ports);
    regimes(&mut table, ports);
    members(&mut table, ports);
    outbound(&mut table);
    forward(&mut table, &ports.network.uplink, links);
    services(&mut table, ports);
    table
}

/// The chain for what goes to a port of this regime.
fn inward(regime: &Regime) -> String {
    format!("to_{}", regime.name)
}

fn outward(regime: &Regime) -> String {
    format!("from_{}", regime.name)
}

/// What takes part in connections here: packets from ports whose groups keep state, to them, and to the network itself.
fn tracked(table: &mut Table, ports: &Ports<'_>) {
    let stateful = || ports.governed().filter(|port| ports.regime(*port).stateful);
    for (family, own, shared, of_own, of_shared) in [
        (Family::Ipv4, "local4", "shared4", "type ipv4_addr", "type ipv4_addr; flags interval"),
        (Family::Ipv6, "local6", "shared6", "type ipv6_addr", "type ipv6_addr; flags interval"),
    ] {
        let addresses = stateful().flat_map(|port| port.addresses(family).collect::<Vec<_>>());
        table.set(own, of_own, addresses.map(|address| address.to_string()));
        let spans = ports.shared(family).into_iter().filter(|(_, set)| ports.regime_of_set(set).stateful);
        table.set(shared, of_shared, spans.map(|(span, _)| span));
    }
    for (family, name, of) in [(Family::Ipv4, "here4", "type ipv4_addr"), (Family::Ipv6, "here6", "type ipv6_addr")] {
        let here = ports.network.ports.iter().filter(|port| port.is_here());
        let addresses = here.flat_map(|port| port.addresses.iter().copied().chain([link_local(port.mac).into()]));
        let of_family = addresses.filter(|address| Family::of(address) == family);
        table.set(name, of, of_family.map(|address| address.to_string()));
    }
    // What the way out translates must be tracked whoever sent it.
    let translated = match ports.network.uplink {
        Uplink::Nat => format!(
            "iifname \"{UPLINK}\" accept\niifname \"{BRIDGE}\" ether daddr {} accept\n",
            gateway_mac(ports.network.id)
        ),
        Uplink::None | Uplink::Provider(_) => String::new(),
    };
    table.base(
        "raw",
        "type filter hook prerouting priority raw; policy accept;",
        &format!(
            "iifname \"lo\" accept
            {translated}ip saddr @local4 accept
            ip daddr @local4 accept
            ip6 saddr @local6 accept
            ip6 daddr @local6 accept
            ip saddr @shared4 accept
            ip daddr @shared4 accept
            ip6 saddr @shared6 accept
            ip6 daddr @shared6 accept
            fib daddr type local accept
            notrack"
        ),
    );
}

fn mark(regime: &Regime) -> String {
    format!("0x{:08x}", regime.mark)
}

/// The chains of each set of groups, and who is sent to which.
fn regimes(table: &mut Table, ports: &Ports<'_>) {
    for regime in ports.regimes() {
        let mut to = Vec::new();
        if regime.stateful {
            to.extend(["ct state established,related accept".to_owned(), "ct state invalid drop".to_owned()]);
        }
        to.extend(jumps(ports, regime, Direction::Ingress));
        to.push("counter drop".to_owned());
        table.rules(inward(regime), to);
        if regime.closed_outbound {
            let mut from = Vec::new();
            if regime.stateful {
                from.push("ct state established,related meta mark set 0 accept".to_owned());
            }
            from.extend(jumps(ports, regime, Direction::Egress));
            from.push("counter drop".to_owned());
            table.rules(outward(regime), from);
        }
    }
    for group in ports.groups() {
        let closed = ports.closed_outbound(group.id).then_some(Direction::Egress);
        for direction in closed.into_iter().chain([Direction::Ingress]) {
            let name = groups::chain_name(group.id, direction, ports.edition);
            let body = groups::chain(group, direction, ports.edition);
            // The rules are in a chain of their own, which never changes: the kernel may show a rule before the elements
            // of its set, and by then nothing must lead to it.
            let mut led = Vec::new();
            if !body.is_empty() {
                let place = format!("{name}_{}", hex::encode(&Sha256::digest(body.join("\n"))[..6]));
                led.push(format!("jump {place}"));
                table.rules(place, body);
            }
            table.rules(name, led);
        }
    }
    let verdict = |chain: String| format!("goto {chain}");
    table.map("to", "type mark : verdict", ports.regimes().map(|regime| (mark(regime), verdict(inward(regime)))));
    let closed = ports.regimes().filter(|regime| regime.closed_outbound);
    table.map("from", "type mark : verdict", closed.map(|regime| (mark(regime), verdict(outward(regime)))));
    table.set("marks", "type mark", ports.regimes().map(mark));
    for (family, from, of) in
        [(Family::Ipv4, "from4", "type ipv4_addr : verdict"), (Family::Ipv6, "from6", "type ipv6_addr : verdict")]
    {
        let closed = ports.governed().filter(|port| ports.regime(*port).closed_outbound);
        let addresses = closed.flat_map(|port| {
            let chain = outward(ports.regime(port));
            let each = port.addresses(family).map(|address| (address.to_string(), verdict(chain.clone())));
            each.collect::<Vec<_>>()
        });
        table.map(from, of, addresses);
    }
    for (family, own, shared, of_own, of_shared) in [
        (Family::Ipv4, "to4", "to_shared4", "type ipv4_addr : verdict", "type ipv4_addr : verdict; flags interval"),
        (Family::Ipv6, "to6", "to_shared6", "type ipv6_addr : verdict", "type ipv6_addr : verdict; flags interval"),
    ] {
        let addresses = ports.governed().flat_map(|port| {
            let chain = inward(ports.regime(port));
            let each = port.addresses(family).map(|address| (address.to_string(), verdict(chain.clone())));
            each.collect::<Vec<_>>()
        });
        table.map(own, of_own, addresses);
        let spans = ports.shared(family).into_iter();
        table.map(shared, of_shared, spans.map(|(span, set)| (span, verdict(inward(ports.regime_of_set(&set))))));
    }
}

fn jumps<'a>(ports: &Ports<'_>, regime: &'a Regime, direction: Direction) -> impl Iterator<Item = String> + 'a {
    let edition = ports.edition;
    regime.groups.iter().map(move |&group| format!("jump {}", groups::chain_name(group, direction, edition)))
}

/// The addresses of each group that a rule here names.
fn members(table: &mut Table, ports: &Ports<'_>) {
    let named: BTreeSet<SecurityGroupId> = ports.groups().flat_map(groups::remotes).collect();
    for id in named {
        for (family, of) in [(Family::Ipv4, "type ipv4_addr"), (Family::Ipv6, "type ipv6_addr")] {
            let members = ports.group(id).into_iter().flat_map(|group| &group.members);
            let of_family = members.filter(|address| Family::of(address) == family);
            table.set(groups::members_name(id, family, ports.edition), of, of_family.map(ToString::to_string));
        }
    }
}

fn outbound(table: &mut Table) {
    // Neighbour discovery and questions to the network itself are let out whatever the groups say. The bridge's mark is
    // taken off in each case: what is routed onwards must not look like something bridged to a port. A packet that was
    // between the bridge's hook and this one while its port came into other groups has a mark that is gone; its source says
    // what governs it now.
    table.base(
        "outbound",
        "type filter hook prerouting priority mangle; policy accept;",
        "meta mark 0 accept
        ip6 hoplimit 255 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } meta mark set 0 accept
        ip daddr 255.255.255.255 udp dport 67 meta mark set 0 accept
        ip6 daddr ff02::1:2 udp dport 547 meta mark set 0 accept
        fib daddr type local meta mark set 0 accept
        meta mark vmap @from
        meta mark != @marks ip saddr vmap @from4
        meta mark != @marks ip6 saddr vmap @from6
        meta mark set 0",
    );
}

fn forward(table: &mut Table, uplink: &Uplink, links: &LinkRange) {
    let out = match uplink {
        Uplink::None | Uplink::Provider(_) => String::new(),
        Uplink::Nat => format!(
            "oifname \"{UPLINK}\" ct state established,related accept
            oifname \"{UPLINK}\" ct state invalid drop
            oifname \"{UPLINK}\" ip daddr {{ {}, 169.254.0.0/16 }} drop
            oifname \"{UPLINK}\" ip6 daddr {{ {}, fd00:ec2::/32 }} drop",
            links.v4, links.v6
        ),
    };
    for (name, of) in [
        ("tracked4", "type ipv4_addr; size 65535; flags dynamic"),
        ("tracked6", "type ipv6_addr; size 65535; flags dynamic"),
    ] {
        table.set(name, of, []);
    }
    table.chain(
        "limits",
        "ip saddr != 0.0.0.0 add @tracked4 { ip saddr ct count over 16384 } drop
        add @tracked6 { ip6 saddr ct count over 16384 } drop",
    );
    table.base(
        "forward",
        "type filter hook forward priority filter; policy accept;",
        &format!(
            r#"ip6 hoplimit 255 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert }} accept
            meta mark vmap @to
            meta mark {ELSEWHERE} accept
            ip daddr vmap @to4
            ip6 daddr vmap @to6
            oifname "{BRIDGE}" ip daddr vmap @to_shared4
            oifname "{BRIDGE}" ip6 daddr vmap @to_shared6
            {out}"#
        ),
    );
    // The limits stand where the kernel looks at each connection's first packet only, and what the groups refuse never
    // comes: a packet whose connection is counted already would be counted again if it came at once after another.
    table.base(
        "postrouting",
        "type nat hook postrouting priority srcnat; policy accept;",
        &format!(
            "ip saddr @here4 jump limits
            ip6 saddr @here6 jump limits
            ip saddr @shared4 jump limits
            ip6 saddr @shared6 jump limits
            oifname \"{UPLINK}\" masquerade"
        ),
    );
}

fn services(table: &mut Table, ports: &Ports<'_>) {
    let gateways =
        ports.network.subnets.iter().filter(|subnet| subnet.gateway_is_ours).filter_map(|subnet| subnet.gateway);
    let mut resolvers: BTreeSet<_> = gateways.collect();
    resolvers.extend([IpAddr::from(RESOLVER_V4), IpAddr::from(RESOLVER_V6)]);
    let of = |family| {
        let of_family = resolvers.iter().filter(|address| Family::of(address) == family);
        of_family.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    table.base(
        "input",
        "type filter hook input priority filter; policy accept;",
        &format!(
            r#"iifname "lo" accept
            ip6 hoplimit 255 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} accept
            ct state established,related accept
            ct state invalid drop
            icmp type echo-request accept
            icmpv6 type echo-request accept
            iifname "{BRIDGE}" jump services
            counter drop"#
        ),
    );
    table.chain(
        "services",
        &format!(
            "jump limits
            udp dport {{ 67, 547 }} accept
            ip daddr {{ {} }} meta l4proto {{ tcp, udp }} th dport 53 accept
            ip6 daddr {{ {} }} meta l4proto {{ tcp, udp }} th dport 53 accept
            ip daddr {METADATA_V4} tcp dport 80 accept
            ip6 daddr {METADATA_V6} tcp dport 80 accept",
            of(Family::Ipv4),
            of(Family::Ipv6)
        ),
    );
}
