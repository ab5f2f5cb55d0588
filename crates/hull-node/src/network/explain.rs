//! What the kernel holds for a port, in sentences.

use std::sync::{Arc, PoisonError};

use hull_types::{
    error::{Error, Result},
    id::PortId,
};

use super::{
    command,
    layout::{BRIDGE, tap_name},
    links::Links,
    netns::Netns,
    serve::Leases,
    view::View,
};

/// What is true of the port now.
pub(crate) async fn port(
    view: &Arc<View>,
    namespace: &Netns,
    leases: Option<Leases>,
    id: PortId,
) -> Result<Vec<String>> {
    let network = view.network();
    let port = network
        .ports
        .iter()
        .find(|port| port.id == id)
        .ok_or_else(|| Error::not_found(format!("the network {} has no port {id}", network.name)))?;
    let tap = tap_name(id);
    let addresses: Vec<String> = port.addresses.iter().map(ToString::to_string).collect();
    let mut lines = vec![format!("port {id}: MAC {}, {}", port.mac, addresses.join(", "))];
    if !port.is_here() {
        lines.push("the port is not on this node".to_owned());
        return Ok(lines);
    }
    let links = Links::open(namespace).await?;
    let all = links.all().await?;
    let bridge = all.iter().find(|link| link.name == BRIDGE).map(|link| link.index);
    lines.push(match all.iter().find(|link| link.name == tap) {
        None => format!("tap {tap} is not there: no hypervisor holds it"),
        Some(link) if link.master.is_none() || link.master != bridge => format!("tap {tap} is off the bridge"),
        Some(link) => format!("tap {tap} is on the bridge, {}, MTU {}", if link.up { "up" } else { "down" }, link.mtu),
    });
    let leased =
        leases.and_then(|leases| leases.lock().unwrap_or_else(PoisonError::into_inner).get(&port.mac).copied());
    lines.push(match leased.and_then(|at| jiff::Timestamp::from_second(at).ok()) {
        Some(at) => format!("DHCP leased it its address at {at}"),
        None => "DHCP was not asked for its address since this node started".to_owned(),
    });
    lines.extend(rules(namespace, &tap, &addresses).await?);
    Ok(lines)
}

/// The rules that stand in the kernel for the port, as it lists them.
async fn rules(namespace: &Netns, tap: &str, addresses: &[String]) -> Result<Vec<String>> {
    let list = |what: String| {
        let arguments = move || {
            let words: Vec<&str> = std::iter::once("list").chain(what.split(' ')).collect();
            command::run("nft", &words, "")
        };
        namespace.run(arguments)
    };
    let drops = list("set bridge hull drops".to_owned()).await?;
    let mut lines = Vec::new();
    lines.push(match drops.map(|text| dropped(&text, tap)) {
        Ok(Some(packets)) => {
            format!("{packets} packets from it were dropped as not its own (MAC, address, server roles)")
        }
        Ok(None) => "no packet from it was dropped as not its own".to_owned(),
        Err(_) => "the anti-spoofing rules are missing; they will be repaired".to_owned(),
    });
    let open = list("set bridge hull open".to_owned()).await?;
    if open.is_ok_and(|text| text.contains(&format!("\"{tap}\""))) {
        lines.push("port security is off: all it sends and all that is sent to it passes".to_owned());
        return Ok(lines);
    }
    let maps = [list("map inet hull to4".to_owned()).await?, list("map inet hull to6".to_owned()).await?];
    let [Ok(to4), Ok(to6)] = maps else {
        lines.push("the security rules are missing; they will be repaired".to_owned());
        return Ok(lines);
    };
    for address in addresses {
        let Some(chain) = chain_of(&[to4.as_str(), &to6].concat(), address).map(str::to_owned) else {
            lines.push(format!("to {address}: no security rules in the kernel"));
            continue;
        };
        let mut passes = Vec::new();
        let own = list(format!("chain inet hull {chain}")).await?.unwrap_or_default();
        for group in chain_body(&own, &chain).iter().filter_map(|line| line.strip_prefix("jump ")) {
            let rules = list(format!("chain inet hull {group}")).await?.unwrap_or_default();
            passes.extend(chain_body(&rules, group));
        }
        let text = if passes.is_empty() { "nothing is let in".to_owned() } else { passes.join("; ") };
        let stateful = own.contains("ct state established");
        lines.push(match stateful {
            true => format!("to {address}: answers to its own connections, and: {text}"),
            false => format!("to {address}: {text}"),
        });
    }
    Ok(lines)
}

/// The packet counter of the tap's element, as `"tap…" counter packets 3 bytes 180`.
fn dropped(listing: &str, tap: &str) -> Option<u64> {
    let after = listing.split_once(&format!("\"{tap}\" counter packets "))?.1;
    after.split(' ').next()?.parse().ok()
}

/// The chain a verdict map sends packets for this address to.
fn chain_of<'a>(listing: &'a str, address: &str) -> Option<&'a str> {
    let key = format!("{address} : goto ");
    // `10.0.0.2` must not be found in `110.0.0.2`.
    let (at, _) = listing.match_indices(&key).find(|(at, _)| listing[..*at].ends_with([' ', '\t', '{']))?;
    let name = &listing[at + key.len()..];
    name.split([',', ' ', '\n', '}']).next()
}

fn chain_body(listing: &str, chain: &str) -> Vec<String> {
    let Some((_, rest)) = listing.split_once(&format!("chain {chain} {{\n")) else { return Vec::new() };
    rest.lines().take_while(|line| *line != "\t}").map(|line| line.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "table inet hull {\n\tmap ingress4 {\n\t\telements = { 10.0.0.2 : goto in_b,\n\t\t\t     110.0.0.2 : goto in_a }\n\t}\n\tchain in_a {\n\t}\n\tchain in_b {\n\t\ttcp dport 22 accept\n\t\taccept\n\t}\n}\n";

    #[test]
    fn a_ports_rules_are_found_in_the_kernels_listing() {
        assert_eq!(chain_of(LISTING, "10.0.0.2"), Some("in_b"));
        assert_eq!(chain_of(LISTING, "110.0.0.2"), Some("in_a"));
        assert_eq!(chain_of(LISTING, "10.0.0.3"), None);
        assert_eq!(chain_body(LISTING, "in_b"), ["tcp dport 22 accept", "accept"]);
        assert!(chain_body(LISTING, "in_a").is_empty());
    }

    #[test]
    fn drops_are_read_from_the_taps_element() {
        let listing = "elements = { \"tap1\" counter packets 3 bytes 180, \"tap2\" counter packets 12 bytes 9 }";
        assert_eq!(dropped(listing, "tap2"), Some(12));
        assert_eq!(dropped(listing, "tap3"), None);
    }
}
