//! One set of tables in place of another, without a packet that is judged by neither or by half of one.
//!
//! Replacing a table in one transaction is not enough: a packet that is being judged meanwhile goes on by the old rules
//! but finds their maps empty, and one that comes a moment later may find the new rules but not yet the elements of their
//! sets of intervals. So tables are loaded asleep, and the new rules come first under other names: once they judge beside
//! the old ones these fall asleep, which leaves the packets that they are judging alone; then they are replaced, and the
//! helpers go the same way.
//!
//! ```text
//!             hull      hull_next
//!   1         old       (new)
//!   2         old        new        what both let pass, passes
//!   3        (old)       new
//!   4        (new)       new
//!   5         new        new
//!   6         new       (new)
//!   7         new         –         (asleep)
//! ```

use std::{collections::BTreeSet, fmt::Write};

/// The texts for `nft -f -`, each a transaction, that make these tables what `body` says, whatever is `present` now.
pub(super) fn steps(tables: &[&str], body: &str, present: &BTreeSet<String>) -> Vec<String> {
    let held: Vec<String> = tables.iter().filter(|table| present.contains(**table)).map(ToString::to_string).collect();
    let helpers: Vec<String> = tables.iter().map(|table| helper(table)).collect();
    if held.is_empty() && !helpers.iter().any(|helper| present.contains(helper)) {
        return vec![body.to_owned()];
    }
    let asleep =
        |tables: &[String]| each(tables, |text, table| writeln!(text, "add table {table} {{ flags dormant; }}"));
    let awake = |tables: &[String]| each(tables, |text, table| writeln!(text, "add table {table}"));
    let deleted = |tables: &[String]| each(tables, |text, table| writeln!(text, "delete table {table}"));
    let all: Vec<String> = tables.iter().map(ToString::to_string).collect();
    let steps = [
        // Declaring first lets the deletion succeed where there is none.
        awake(&helpers) + &deleted(&helpers) + &loaded_asleep(body, helper),
        awake(&helpers),
        asleep(&held),
        // Not so here: it would wake up what sleeps.
        deleted(&held) + &loaded_asleep(body, str::to_owned),
        awake(&all),
        asleep(&helpers),
        deleted(&helpers),
    ];
    steps.into_iter().filter(|step| !step.is_empty()).collect()
}

/// The same tables under these names, judging nothing yet.
fn loaded_asleep(body: &str, named: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    for line in body.lines() {
        match line.strip_prefix("table ").and_then(|rest| rest.strip_suffix(" {")) {
            Some(table) => text.push_str(&format!("table {} {{\n\tflags dormant;", named(table))),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Whether a reload was broken off.
pub(super) fn is_unfinished(tables: &[&str], present: &BTreeSet<String>) -> bool {
    tables.iter().any(|table| present.contains(&helper(table)))
}

fn helper(table: &str) -> String {
    format!("{table}_next")
}

fn each(tables: &[String], write: impl Fn(&mut String, &str) -> std::fmt::Result) -> String {
    let mut text = String::new();
    for table in tables {
        // Writing into a string does not fail.
        let _ = write(&mut text, table);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "table inet hull {\n\tset a {\n\t}\n}\n";

    #[test]
    fn where_nothing_is_everything_is_loaded_at_once() {
        assert_eq!(steps(&["inet hull"], BODY, &["inet stranger".to_owned()].into()), [BODY]);
    }

    #[test]
    fn what_is_there_is_replaced_while_the_new_rules_stand_beside_it() {
        assert_eq!(
            steps(&["inet hull"], BODY, &["inet hull".to_owned()].into()),
            [
                "add table inet hull_next\ndelete table inet hull_next\n\
                 table inet hull_next {\n\tflags dormant;\n\tset a {\n\t}\n}\n",
                "add table inet hull_next\n",
                "add table inet hull { flags dormant; }\n",
                "delete table inet hull\ntable inet hull {\n\tflags dormant;\n\tset a {\n\t}\n}\n",
                "add table inet hull\n",
                "add table inet hull_next { flags dormant; }\n",
                "delete table inet hull_next\n",
            ]
        );
    }

    #[test]
    fn what_was_broken_off_is_done_again() {
        let present = ["inet hull_next".to_owned()].into();
        assert!(is_unfinished(&["inet hull"], &present));
        let steps = steps(&["inet hull"], BODY, &present);
        assert_eq!(steps.len(), 6);
        assert!(steps[2].starts_with("table inet hull {"));
    }
}
