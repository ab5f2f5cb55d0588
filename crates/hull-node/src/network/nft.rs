//! Loading rules, and telling whether the kernel still holds what was loaded.
//!
//! The kernel's listing never reads exactly like the text that was loaded, so both are remembered as digests: of the text
//! as we wrote it, and of the listing right after. While both agree nothing is touched; a rule deleted by hand changes the
//! listing, a new wish the text. The memory lies in a file, so a restarted Hull does not load again what is right.

use std::path::PathBuf;

use hull_types::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{command, netns::Netns};

/// What was loaded, and how the kernel listed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Loaded {
    text: String,
    listing: String,
    /// The namespace it was loaded into.
    namespace: u64,
}

/// Makes the namespace's tables hold these rules. Says whether it had to load them.
pub(crate) async fn keep(namespace: &Netns, tables: Vec<String>, text: String, memory: PathBuf) -> Result<bool> {
    let identity = namespace.identity();
    namespace
        .run(move || {
            let wanted = digest(&text);
            let remembered: Option<Loaded> =
                std::fs::read(&memory).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let now = listing(&tables);
            let right = |loaded: &Loaded| {
                loaded.text == wanted && loaded.namespace == identity && now.as_ref() == Some(&loaded.listing)
            };
            if remembered.as_ref().is_some_and(right) {
                return Ok(false);
            }
            command::run("nft", &["-f", "-"], &text)?;
            let listing = listing(&tables)
                .ok_or_else(|| Error::unavailable("the rules were loaded, but the kernel does not list them"))?;
            remember(&memory, &Loaded { text: wanted, listing, namespace: identity })?;
            Ok(true)
        })
        .await?
}

fn remember(memory: &std::path::Path, loaded: &Loaded) -> Result<()> {
    let failed = |error: String| Error::unavailable(format!("{} cannot be written: {error}", memory.display()));
    let bytes = serde_json::to_vec(loaded).map_err(|error| failed(error.to_string()))?;
    let fresh = memory.with_extension("new");
    std::fs::write(&fresh, bytes)
        .and_then(|()| std::fs::rename(&fresh, memory))
        .map_err(|error| failed(error.to_string()))
}

/// The digest of what the kernel holds in these tables; `None` where one is missing.
fn listing(tables: &[String]) -> Option<String> {
    let mut all = String::new();
    for table in tables {
        let mut arguments = vec!["-s", "list", "table"];
        arguments.extend(table.split(' '));
        all.push_str(&static_part(&command::run("nft", &arguments, "").ok()?));
    }
    Some(digest(&all))
}

/// The listing without the elements of dynamic sets, which come and go with traffic.
fn static_part(listing: &str) -> String {
    let mut kept = String::new();
    for block in listing.split("\n\n") {
        let dynamic = block.lines().any(|line| line.trim() == "flags dynamic");
        // An empty set is listed without the word, so what comes after is cut in both cases.
        let end = if dynamic { block.find("elements = {").or_else(|| block.rfind('}')) } else { None };
        kept.push_str(block[..end.unwrap_or(block.len())].trim_end());
        kept.push('\n');
    }
    kept
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = "table bridge hull {\n\tset a {\n\t\ttype ifname\n\t\telements = { \"x\" }\n\t}\n\n\tset drops {\n\t\tflags dynamic\n\t\tcounter\nELEMENTS\t}\n\n\tchain c {\n\t}\n}\n";

    #[test]
    fn traffic_does_not_count_as_a_change_of_rules() {
        let quiet = SET.replace("ELEMENTS", "");
        let busy = SET.replace("ELEMENTS", "\t\telements = { \"tap1\" counter }\n");
        assert_eq!(static_part(&quiet), static_part(&busy));
        let changed = quiet.replace("\"x\"", "\"y\"");
        assert_ne!(static_part(&quiet), static_part(&changed));
        assert_ne!(static_part(&quiet), static_part(&quiet.replace("chain c", "chain d")));
    }
}
