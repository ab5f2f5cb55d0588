//! Rules as a model: tables of sets, maps and chains. Rendered as a whole, or as the difference to what is loaded.
//!
//! Whatever comes out is one text for `nft -f -`, which is one transaction.
//!
//! Elements are told by the text they were written with, so the same wish is always written the same way.

use std::{collections::BTreeMap, fmt::Write};

/// Elements in one command at most: nft puts a command into one message for the kernel, which has limits.
const AT_ONCE: usize = 1000;

/// All of one network's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
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
        self.chains.insert(name.to_owned(), Chain { hook: Some(hook), rules: lines(rules) });
    }

    pub(super) fn chain(&mut self, name: impl Into<String>, rules: &str) {
        self.rules(name, lines(rules));
    }

    pub(super) fn rules(&mut self, name: impl Into<String>, rules: Vec<String>) {
        self.chains.insert(name.into(), Chain { hook: None, rules });
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

impl Ruleset {
    /// Everything, in place of whatever these tables held.
    pub(crate) fn whole(&self) -> String {
        let mut text = String::new();
        for name in self.tables.keys() {
            // Declaring first lets the deletion succeed where there is none.
            let _ = writeln!(text, "table {name}\ndelete table {name}");
        }
        for (name, table) in &self.tables {
            let _ = writeln!(text, "table {name} {{");
            table.sets.iter().for_each(|(name, set)| write_set(&mut text, name, set));
            table.chains.iter().for_each(|(name, chain)| write_chain(&mut text, name, chain));
            text.push_str("}\n");
        }
        text
    }

    /// What makes the loaded rules these, touching only what differs; the whole where a declaration
    /// differs, which cannot be changed in place. None where nothing differs.
    pub(crate) fn steps_from(&self, loaded: &Self) -> Vec<String> {
        if self == loaded {
            return Vec::new();
        }
        let same_tables = self.tables.keys().eq(loaded.tables.keys());
        let pairs = || self.tables.iter().filter_map(|(name, table)| Some((name, loaded.tables.get(name)?, table)));
        if !same_tables || pairs().any(|(_, from, to)| redeclared(from, to)) {
            return vec![self.whole()];
        }
        let mut change = Change::default();
        pairs().for_each(|(name, from, to)| change.table(name, from, to));
        change.steps()
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

/// The commands of a change, in the order in which each finds what it refers to, and nothing is deleted that is still
/// referred to.
#[derive(Default)]
struct Change {
    /// What is new and nothing leads to yet: sets, then chains, then what is in them.
    sets: String,
    chains: String,
    filled: String,
    /// What leads there.
    switched: String,
    /// What is left of the old: elements, then rules, then what held them.
    elements: String,
    flushed: String,
    gone: String,
}

impl Change {
    fn steps(self) -> Vec<String> {
        let Self { sets, chains, filled, switched, elements, flushed, gone } = self;
        vec![[sets, chains, filled, switched, elements, flushed, gone].concat()]
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
                    let _ = writeln!(self.switched, "flush chain {place}");
                    &mut self.switched
                }
                (None, Some(hook)) => {
                    let _ = writeln!(self.switched, "add chain {place} {{ {hook} }}");
                    &mut self.switched
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
        let (gone, changed): (Vec<_>, Vec<_>) =
            from.iter().filter(|(key, value)| to.get(*key) != Some(value)).partition(|(key, _)| !to.contains_key(*key));
        let keys =
            |elements: Vec<(&String, &String)>| elements.into_iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        // An interval that comes may overlap one that goes.
        let gone_to = if intervals { &mut self.switched } else { &mut self.elements };
        write_elements(gone_to, "delete", place, keys(gone));
        write_elements(&mut self.switched, "delete", place, keys(changed));
        let new = to.iter().filter(|(key, value)| from.get(*key) != Some(value)).map(element);
        write_elements(&mut self.switched, "add", place, new);
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
    use super::*;

    fn rules(elements: &[(&str, &str)], chains: &[(&str, &str)]) -> Ruleset {
        let mut table = Table::default();
        let pairs = elements.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        table.map("to", "type ipv4_addr : verdict", pairs);
        chains.iter().for_each(|(name, text)| table.chain(*name, text));
        table.base("forward", "type filter hook forward priority filter; policy accept;", "ip daddr vmap @to");
        Ruleset { tables: [("inet hull", table)].into() }
    }

    #[test]
    fn only_what_differs_is_changed() {
        let loaded = rules(&[("10.0.0.1", "goto a"), ("10.0.0.2", "goto a")], &[("a", "accept"), ("b", "drop")]);
        assert!(loaded.steps_from(&loaded).is_empty());
        let wanted = rules(&[("10.0.0.1", "goto b"), ("10.0.0.3", "goto c")], &[("b", "accept"), ("c", "drop")]);
        assert_eq!(
            wanted.steps_from(&loaded),
            ["add chain inet hull c\n\
                 add rule inet hull c drop\n\
                 delete element inet hull to { 10.0.0.1 }\n\
                 add element inet hull to { 10.0.0.1 : goto b, 10.0.0.3 : goto c }\n\
                 flush chain inet hull b\n\
                 add rule inet hull b accept\n\
                 delete element inet hull to { 10.0.0.2 }\n\
                 flush chain inet hull a\n\
                 delete chain inet hull a\n",]
        );
    }

    #[test]
    fn another_declaration_means_all_anew() {
        let (loaded, mut wanted) = (rules(&[], &[]), rules(&[], &[]));
        if let Some(table) = wanted.tables.get_mut("inet hull") {
            table.map("to", "type ipv6_addr : verdict", []);
        }
        assert_eq!(wanted.steps_from(&loaded), [wanted.whole()]);
        assert!(wanted.whole().starts_with("table inet hull\ndelete table inet hull\n"));
    }
}
