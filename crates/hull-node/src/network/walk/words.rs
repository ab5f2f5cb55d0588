//! What decided about a packet, in words: the rule as people read it, whose it is, and what to do where it stops.

use std::collections::HashMap;

use uuid::Uuid;

use super::rules::{By, TableId};

/// Rules as people read them, by table and handle, each with its chain.
#[derive(Debug, Default)]
pub(super) struct Words(HashMap<(TableId, u64), (String, String)>);

impl Words {
    /// Reads `nft -a list ruleset`.
    pub(super) fn parse(listing: &str) -> Self {
        let mut words = HashMap::new();
        let (mut table, mut chain) = (TableId::default(), String::new());
        for line in listing.lines() {
            let line = line.trim();
            let parts: Vec<&str> = line.split(' ').collect();
            match parts.as_slice() {
                ["table", family, name, ..] => table = ((*family).to_owned(), (*name).to_owned()),
                ["chain", name, ..] => chain = (*name).to_owned(),
                _ => {
                    let Some((rule, handle)) = line.rsplit_once(" # handle ") else { continue };
                    let Ok(handle) = handle.parse() else { continue };
                    words.insert((table.clone(), handle), (chain.clone(), rule.to_owned()));
                }
            }
        }
        Self(words)
    }

    /// What decided, and what to do where that was against it.
    pub(super) fn of(&self, by: &By, passes: bool) -> String {
        match by {
            By::Rule { table, handle, chain } => match self.0.get(&(table.clone(), *handle)) {
                Some((chain, rule)) => sentence(chain, rule, passes),
                None => format!("rule {handle}, from chain {chain}"),
            },
            By::Policy { chain } if chain == "input" => {
                format!(
                    "this address answers pings, and its own services only: nothing in chain {chain} lets it through"
                )
            }
            By::Policy { chain } => format!("nothing in chain {chain} lets it through"),
        }
    }
}

/// A rule of a chain. Groups are named by their ids, which the server knows the names of.
fn sentence(chain: &str, rule: &str, passes: bool) -> String {
    if let Some((group, way)) = group_of(chain) {
        return format!("security group {group} lets it {way}: {rule}");
    }
    let asked = |whose: &str, way: &str| {
        format!(
            "no rule of the {whose}'s security groups lets it {way}; `hull security-group add-rule` adds one (chain {chain}: {rule})"
        )
    };
    match chain {
        _ if passes => format!("chain {chain}: {rule}"),
        _ if chain.starts_with("to_") && chain != "to_us" => asked("receiver", "in"),
        _ if chain.starts_with("from_") && !chain.starts_with("from_v") => asked("sender", "out"),
        "spoofed" => format!(
            "it does not come from an address of this port; `hull port update --allow` may allow it another (chain {chain}: {rule})"
        ),
        _ => format!("chain {chain}: {rule}"),
    }
}

/// The security group whose rules a chain holds, and for which way. What follows in its name tells editions and contents apart.
fn group_of(chain: &str) -> Option<(Uuid, &'static str)> {
    let mut parts = chain.strip_prefix("group_")?.split('_');
    let (group, way) = (parts.next()?.parse().ok()?, parts.next()?);
    Some((group, if way == "in" { "in" } else { "out" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stops_it_says_whose_rules_and_what_to_do() {
        let stops = |chain: &str| sentence(chain, "counter drop", false);
        assert!(stops("to_0123456789ab").starts_with("no rule of the receiver's security groups lets it in; `hull "));
        assert!(stops("from_0123456789ab").starts_with("no rule of the sender's security groups lets it out; `hull "));
        assert!(stops("spoofed").contains("--allow`"), "{}", stops("spoofed"));
        assert_eq!(stops("forward"), "chain forward: counter drop");
    }

    #[test]
    fn a_rule_of_a_group_is_told_with_the_group() {
        for chain in ["in", "in_b", "in_0123456789ab", "in_b_0123456789ab"] {
            let told = sentence(&format!("group_00000000000000000000000000000300_{chain}"), "accept", true);
            assert_eq!(told, "security group 00000000-0000-0000-0000-000000000300 lets it in: accept", "{chain}");
        }
        assert!(sentence("group_00000000000000000000000000000300_out_b", "accept", true).contains(" lets it out: "));
    }

    #[test]
    fn the_services_own_chain_lets_guests_questions_in() {
        assert_eq!(sentence("to_us", "accept", true), "chain to_us: accept");
    }
}
