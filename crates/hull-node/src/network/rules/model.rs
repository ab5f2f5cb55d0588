//! Rules as a model: tables of sets, maps and chains. Rendered as a whole, or as the difference to what is loaded.
//!
//! Whatever comes out is texts for `nft -f -`, each of which is one transaction. One for all would not do: a packet that
//! is being judged while the kernel changes over goes on by the rules it began with, but looks into the sets of today. If
//! a chain and a set that it looks into changed at once, such a packet could miss both the old element and the new rule. And
//! the elements of sets of intervals are seen a moment after the rules that look for them. Both was seen, each with one
//! packet in some ten thousand. So what is new is complete before anything leads to it, no transaction changes both chains
//! and elements, what comes does so before what goes, and a change is
//!
//! ```text
//!   made       sets and chains that nothing leads to yet
//!   added      elements
//!   chains     the rules of chains that stay
//!   switched   elements that lead elsewhere now
//!   gone       what nothing leads to any more
//! ```
//!
//! That needs each of them to be right alone. Where chains of security groups and elements change together it is not
//! (a port changes its group, and the groups their rules): such a change comes as another [`Edition`], whose chains, marks
//! and sets have names of their own, so that no chain changes and the elements switch.
//!
//! Elements are told by the text they were written with, so the same wish is always written the same way.

use std::{collections::BTreeMap, fmt::Write};

use serde::{Deserialize, Serialize};

/// Elements in one command at most: nft puts a command into one message for the kernel, which has limits.
const AT_ONCE: usize = 1000;

/// Which names the chains and sets of security groups bear: two editions can be in the kernel side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Edition {
    #[default]
    First,
    Second,
}

impl Edition {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// What its names end with.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::First => "",
            Self::Second => "_b",
        }
    }
}

/// All of one network's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(crate) edition: Edition,
    /// By family and name, `inet hull`.
    pub(crate) tables: BTreeMap<&'static str, Table>,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    sets: BTreeMap<String, Set>,
    chains: BTreeMap<String, Chain>,
}

/// A named set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set {
    /// `set` or `map`.
    kind: &'static str,
    /// Type and flags.
    of: &'static str,
    /// What it holds; maps with values, sets with empty ones.
    elements: BTreeMap<String, String>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    /// Where the kernel enters it; absent for those that rules jump to.
    hook: Option<&'static str>,
    rules: Vec<String>,
    /// Whether its name is its edition's.
    of_edition: bool,
}

impl Table {
    pub(super) fn set(&mut self, name: impl Into<String>, of: &'static str, keys: impl IntoIterator<Item = String>) {
        let elements = keys.into_iter().map(|key| (key, String::new())).collect();
        self.sets.insert(name.into(), Set { kind: "set", of, elements });
    }

    pub(super) fn map(&mut self, name: &str, of: &'static str, elements: impl IntoIterator<Item = (String, String)>) {
        self.sets.insert(name.to_owned(), Set { kind: "map", of, elements: elements.into_iter().collect() });
    }

    pub(super) fn base(&mut self, name: &str, hook: &'static str, rules: &str) {
        self.chains.insert(name.to_owned(), Chain { hook: Some(hook), rules: lines(rules), of_edition: false });
    }

    pub(super) fn chain(&mut self, name: impl Into<String>, rules: &str) {
        self.chains.insert(name.into(), Chain { hook: None, rules: lines(rules), of_edition: false });
    }

    /// A chain whose name is its edition's.
    pub(super) fn rules(&mut self, name: impl Into<String>, rules: Vec<String>) {
        self.chains.insert(name.into(), Chain { hook: None, rules, of_edition: true });
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

impl Ruleset {
    /// Everything, for tables that are not there.
    pub(crate) fn whole(&self) -> String {
        let mut text = String::new();
        for (name, table) in &self.tables {
            let _ = writeln!(text, "table {name} {{");
            table.sets.iter().for_each(|(name, set)| write_set(&mut text, name, set));
            table.chains.iter().for_each(|(name, chain)| write_chain(&mut text, name, chain));
            text.push_str("}\n");
        }
        text
    }

    /// What makes the loaded rules these, touching only what differs, one transaction after another; `None` where a
    /// declaration differs, which cannot be changed in place.
    pub(crate) fn steps_from(&self, loaded: &Self) -> Option<Vec<String>> {
        let pairs = || self.pairs(loaded);
        if !self.tables.keys().eq(loaded.tables.keys()) || pairs().any(|(_, from, to)| redeclared(from, to)) {
            return None;
        }
        let mut change = Change::default();
        pairs().for_each(|(name, from, to)| change.table(name, from, to));
        Some(change.steps())
    }

    /// Whether chains and elements change together, so that only another edition can take the place of what is loaded
    /// without misjudging a packet.
    pub(crate) fn mixes_with(&self, loaded: &Self) -> bool {
        let chain = |(_, from, to): (_, &Table, &Table)| {
            let held = |(name, chain): (&String, &Chain)| from.chains.get(name).is_some_and(|held| held != chain);
            to.chains.iter().filter(|(_, chain)| chain.of_edition).any(held)
        };
        let set = |(_, from, to): (_, &Table, &Table)| {
            to.sets.iter().any(|(name, set)| from.sets.get(name).is_some_and(|held| held.elements != set.elements))
        };
        self.pairs(loaded).any(chain) && self.pairs(loaded).any(set)
    }

    /// The tables of both, with what was loaded first.
    fn pairs<'a>(&'a self, loaded: &'a Self) -> impl Iterator<Item = (&'static str, &'a Table, &'a Table)> {
        self.tables.iter().filter_map(|(name, table)| Some((*name, loaded.tables.get(name)?, table)))
    }
}

fn redeclared(from: &Table, to: &Table) -> bool {
    let set = |(name, set): (&String, &Set)| to.sets.get(name).is_some_and(|to| (to.kind, to.of) != (set.kind, set.of));
    let chain = |(name, chain): (&String, &Chain)| to.chains.get(name).is_some_and(|to| to.hook != chain.hook);
    from.sets.iter().any(set) || from.chains.iter().any(chain)
}

fn write_set(text: &mut String, name: &str, set: &Set) {
    let _ = writeln!(text, "\t{} {name} {{\n\t\t{}", set.kind, set.of);
    // nft takes no empty list.
    if !set.elements.is_empty() {
        let all: Vec<String> = set.elements.iter().map(element).collect();
        let _ = writeln!(text, "\t\telements = {{ {} }}", all.join(", "));
    }
    text.push_str("\t}\n");
}

fn element((key, value): (&String, &String)) -> String {
    if value.is_empty() { key.clone() } else { format!("{key} : {value}") }
}

fn write_chain(text: &mut String, name: &str, chain: &Chain) {
    let _ = writeln!(text, "\tchain {name} {{");
    for line in chain.hook.into_iter().chain(chain.rules.iter().map(String::as_str)) {
        let _ = writeln!(text, "\t\t{line}");
    }
    text.push_str("\t}\n");
}

/// The commands of a change, each kind in the order in which it finds what it refers to, and nothing is deleted that is
/// still referred to.
#[derive(Default)]
struct Change {
    /// What is new and nothing leads to yet: sets, then chains, then what is in them.
    sets: String,
    chains: String,
    filled: String,
    /// Elements that were not there.
    added: String,
    /// Chains that stay, with other rules.
    rewritten: String,
    /// Elements that lead elsewhere.
    switched: String,
    /// What is left of the old: elements, then rules, then what held them.
    elements: String,
    flushed: String,
    gone: String,
}

impl Change {
    fn steps(self) -> Vec<String> {
        let Self { sets, chains, filled, added, rewritten, switched, elements, flushed, gone } = self;
        let (made, gone) = ([sets, chains, filled].concat(), [elements, flushed, gone].concat());
        let steps = [made, added, rewritten, switched, gone];
        steps.into_iter().filter(|step| !step.is_empty()).collect()
    }

    fn table(&mut self, table: &str, from: &Table, to: &Table) {
        for (name, set) in &to.sets {
            let place = format!("{table} {name}");
            match from.sets.get(name) {
                Some(held) => self.changed_set(&place, held, set),
                None => {
                    let _ = writeln!(self.sets, "add {} {place} {{ {}; }}", set.kind, set.of);
                    write_elements(&mut self.filled, "add", &place, set.elements.iter().map(element));
                }
            }
        }
        for (name, set) in from.sets.iter().filter(|(name, _)| !to.sets.contains_key(*name)) {
            write_elements(&mut self.elements, "delete", &format!("{table} {name}"), set.elements.keys().cloned());
            let _ = writeln!(self.gone, "delete {} {table} {name}", set.kind);
        }
        for (name, chain) in &to.chains {
            let place = format!("{table} {name}");
            let rules = match (from.chains.get(name), chain.hook) {
                (Some(held), _) if held == chain => continue,
                (Some(_), _) => {
                    let _ = writeln!(self.rewritten, "flush chain {place}");
                    &mut self.rewritten
                }
                (None, Some(hook)) => {
                    let _ = writeln!(self.rewritten, "add chain {place} {{ {hook} }}");
                    &mut self.rewritten
                }
                (None, None) => {
                    let _ = writeln!(self.chains, "add chain {place}");
                    &mut self.filled
                }
            };
            for rule in &chain.rules {
                let _ = writeln!(rules, "add rule {place} {rule}");
            }
        }
        for name in from.chains.keys().filter(|name| !to.chains.contains_key(*name)) {
            let _ = writeln!(self.flushed, "flush chain {table} {name}");
            let _ = writeln!(self.gone, "delete chain {table} {name}");
        }
    }

    fn changed_set(&mut self, place: &str, from: &Set, to: &Set) {
        let (from, intervals, to) = (&from.elements, to.of.contains("interval"), &to.elements);
        let old = from.iter().filter(|(key, value)| to.get(*key) != Some(value));
        let (gone, changed): (Vec<_>, Vec<_>) = old.partition(|(key, _)| !to.contains_key(*key));
        let (new, other): (Vec<_>, Vec<_>) = to
            .iter()
            .filter(|(key, value)| from.get(*key) != Some(value))
            .partition(|(key, _)| !from.contains_key(*key));
        let keys =
            |elements: Vec<(&String, &String)>| elements.into_iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        // An interval that comes may overlap one that goes, so both are one transaction.
        let at_once = intervals && !gone.is_empty() && !new.is_empty();
        let gone_to = if at_once { &mut self.switched } else { &mut self.elements };
        write_elements(gone_to, "delete", place, keys(gone));
        write_elements(&mut self.switched, "delete", place, keys(changed));
        let new_to = if at_once { &mut self.switched } else { &mut self.added };
        write_elements(new_to, "add", place, new.into_iter().map(element));
        write_elements(&mut self.switched, "add", place, other.into_iter().map(element));
    }
}

fn write_elements(text: &mut String, act: &str, place: &str, elements: impl IntoIterator<Item = String>) {
    let elements: Vec<String> = elements.into_iter().collect();
    for some in elements.chunks(AT_ONCE) {
        let _ = writeln!(text, "{act} element {place} {{ {} }}", some.join(", "));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rules(elements: &[(&str, &str)], chains: &[(&str, &str)]) -> Ruleset {
        let mut table = Table::default();
        let pairs = elements.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        table.map("to", "type ipv4_addr : verdict", pairs);
        chains.iter().for_each(|(name, text)| table.chain(*name, text));
        table.base("forward", "type filter hook forward priority filter; policy accept;", "ip daddr vmap @to");
        Ruleset { edition: Edition::First, tables: [("inet hull", table)].into() }
    }

    #[test]
    fn only_what_differs_is_changed_and_no_transaction_changes_chains_and_elements() {
        let loaded = rules(
            &[("10.0.0.1", "goto a"), ("10.0.0.2", "goto a"), ("10.0.0.4", "goto d")],
            &[("a", "accept"), ("b", "drop"), ("d", "drop")],
        );
        assert_eq!(loaded.steps_from(&loaded), Some(vec![]));
        let wanted = rules(
            &[("10.0.0.1", "goto b"), ("10.0.0.3", "goto c"), ("10.0.0.4", "goto d")],
            &[("b", "drop"), ("c", "drop"), ("d", "accept")],
        );
        assert_eq!(
            wanted.steps_from(&loaded).unwrap(),
            [
                "add chain inet hull c\nadd rule inet hull c drop\n",
                "add element inet hull to { 10.0.0.3 : goto c }\n",
                "flush chain inet hull d\n\
                 add rule inet hull d accept\n",
                "delete element inet hull to { 10.0.0.1 }\n\
                 add element inet hull to { 10.0.0.1 : goto b }\n",
                "delete element inet hull to { 10.0.0.2 }\n\
                 flush chain inet hull a\n\
                 delete chain inet hull a\n",
            ]
        );
    }

    #[test]
    fn an_interval_that_overlaps_one_that_goes_takes_its_place_at_once() {
        let of = |net: &str| {
            let mut rules = rules(&[], &[]);
            let table = rules.tables.get_mut("inet hull").unwrap();
            table.set("nets", "type ipv4_addr; flags interval", [net.to_owned()]);
            rules
        };
        assert_eq!(
            of("10.0.0.0/16").steps_from(&of("10.0.0.0/8")).unwrap(),
            ["delete element inet hull nets { 10.0.0.0/8 }\nadd element inet hull nets { 10.0.0.0/16 }\n"]
        );
    }

    #[test]
    fn another_declaration_means_all_anew() {
        let (loaded, mut wanted) = (rules(&[], &[]), rules(&[], &[]));
        wanted.tables.get_mut("inet hull").unwrap().map("to", "type ipv6_addr : verdict", []);
        assert_eq!(wanted.steps_from(&loaded), None);
    }
}
