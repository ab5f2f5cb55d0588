//! Names in place of ids, where people read: a table that mentions a network by its id is asked about it first. Programs (JSON,
//! YAML) get the ids.

use std::collections::{BTreeSet, HashMap};

use futures::{StreamExt, stream};
use serde::Deserialize;
use uuid::Uuid;

use super::Session;
use crate::output::{self, Format, Show};

/// So many ids are looked up for one table; the rest stay as they are.
const MOST: usize = 100;
/// So many at once.
const AT_ONCE: usize = 8;

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Session {
    /// Prints many, with names.
    pub(super) async fn list<T: Show>(&self, items: &[T]) {
        if self.format != Format::Table {
            return output::list(items, self.format);
        }
        let mut rows: Vec<Vec<String>> = items.iter().map(Show::row).collect();
        let cells = rows.iter_mut().flat_map(|row| T::COLUMNS.iter().copied().zip(row)).collect();
        self.name(cells).await;
        output::rows(T::COLUMNS, rows);
    }

    /// Prints one, with names.
    pub(super) async fn one<T: Show>(&self, item: &T) {
        if self.format != Format::Table {
            return output::one(item, self.format);
        }
        let mut page = item.page();
        self.name(page.iter_mut().map(|(label, value)| (*label, value)).collect()).await;
        output::page(page);
    }

    /// Puts names for ids, but for what cannot be asked or is gone.
    async fn name(&self, mut cells: Vec<(&'static str, &mut String)>) {
        let mentioned: BTreeSet<(&'static str, Uuid)> =
            cells.iter().flat_map(|(label, text)| mentions(label, text)).collect();
        let asked = stream::iter(mentioned.into_iter().take(MOST)).map(async |(noun, id)| {
            let found = self.client.nouns(noun).show::<Named>(&id.to_string()).await;
            found.ok().map(|found| (id.to_string(), found.name))
        });
        let names: HashMap<String, String> = asked.buffer_unordered(AT_ONCE).filter_map(async |it| it).collect().await;
        for (label, text) in &mut cells {
            if *label != "id" {
                let words = text.split(' ').map(|word| names.get(word).map_or(word, String::as_str));
                **text = words.collect::<Vec<_>>().join(" ");
            }
        }
    }
}

/// What a cell under this heading mentions by its id, and of which noun that is.
fn mentions(label: &str, text: &str) -> Vec<(&'static str, Uuid)> {
    let mut before = "";
    let mut found = Vec::new();
    for word in text.split(' ') {
        let noun = match (label, before) {
            ("network" | "gateway", _) => Some("networks"),
            ("subnets", _) => Some("subnets"),
            ("security groups", _) | ("rule", "group") => Some("security-groups"),
            ("port", _) => Some("ports"),
            ("router", _) | ("of", "router") => Some("routers"),
            ("of", "vm") => Some("vms"),
            ("from" | "to", "") => Some("nodes"),
            _ => None,
        };
        found.extend(noun.and_then(|noun| Some((noun, Uuid::parse_str(word).ok()?))));
        before = word;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_for_what_their_heading_says() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(mentions("subnets", &format!("{a} {b}")), [("subnets", a), ("subnets", b)]);
        assert_eq!(mentions("of", &format!("vm {a}")), [("vms", a)]);
        assert_eq!(mentions("of", &format!("router {a}")), [("routers", a)]);
        assert_eq!(mentions("from", &a.to_string()), [("nodes", a)]);
        assert_eq!(mentions("rule", &format!("{a}  tcp 22 from group {b}")), [("security-groups", b)]);
        for (label, text) in [("of", "-".to_owned()), ("id", a.to_string()), ("gateway", "10.0.0.1".to_owned())] {
            assert_eq!(mentions(label, &text), [], "{label}");
        }
    }
}
