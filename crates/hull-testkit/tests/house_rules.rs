//! The rules of the house, kept by reading the house: which crate may know which, what the core may not touch, and
//! the habits that reviews would otherwise repeat. ARCHITECTURE.md gives the reasons.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each crate with the crates of ours it may use; one that is missing here may not exist.
const MAY_USE: &[(&str, &[&str])] = &[
    ("hull-types", &[]),
    ("hull-core", &["hull-types"]),
    ("hull-store", &["hull-types"]),
    ("hull-image", &["hull-types"]),
    ("hull-node", &["hull-types", "hull-core", "hull-image"]),
    ("hull-server", &["hull-types", "hull-core", "hull-store", "hull-image"]),
    ("hull-client", &["hull-types"]),
    ("hull", &["hull-types", "hull-core", "hull-store", "hull-image", "hull-node", "hull-server", "hull-client"]),
    ("hull-sim", &["hull-types", "hull-core", "hull-store", "hull-image", "hull-node", "hull-server", "hull-client"]),
    ("hull-testkit", &[]),
];

/// Crates that do I/O, tell the time or throw dice: not below the core, at any depth.
const NOT_IN_CORE: &[&str] = &["tokio", "mio", "hyper", "reqwest", "axum", "rusqlite", "rtnetlink", "tempfile", "fs4"];

/// Words that would make a decision depend on more than its arguments.
const IMPURE: &[&str] = &[
    "SystemTime",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
    "now_v7",
    "new_v4",
    "rand::",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "TcpStream",
    "UdpSocket",
    "TcpListener",
    "async fn",
];

const LONGEST_FILE: usize = 600;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// `cargo metadata`: what each package is and needs.
fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Our packages with the names they depend on outside of tests.
fn our_packages(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let members: Vec<&str> = metadata["workspace_members"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .filter(|package| members.contains(&package["id"].as_str().unwrap()))
        .map(|package| (package["name"].as_str().unwrap().to_owned(), normal_dependencies(package)))
        .collect()
}

fn normal_dependencies(package: &Value) -> BTreeSet<String> {
    let dependencies = package["dependencies"].as_array().unwrap().iter();
    let normal = dependencies.filter(|dependency| dependency["kind"].as_str() != Some("dev"));
    normal.map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect()
}

/// All that a crate of ours links, at any depth. `cargo tree` knows which optional parts are really taken;
/// `cargo metadata` does not.
fn linked_into(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--edges=normal", "--prefix=none", "--format={lib}", "--package", package])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names: BTreeSet<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert!(names.contains("hull_types") && names.contains("serde"), "the tree is wrong: {names:?}");
    names
}

/// A text file of the repository, its path relative to the root.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The part that runs only in tests: everything in `tests/` and `*tests.rs`, else what follows the first `#[cfg(test)]`.
    fn test_part(&self) -> &str {
        let in_tests = self.path.contains("/tests/") || self.path.ends_with("tests.rs");
        if in_tests { &self.text } else { self.text.find("#[cfg(test)]").map_or("", |start| &self.text[start..]) }
    }

    /// The part that ships.
    fn product_part(&self) -> &str {
        &self.text[..self.text.len() - self.test_part().len()]
    }
}

fn sources(extensions: &[&str]) -> Vec<Source> {
    let root = workspace();
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() && !["target", ".git", ".hull", "node_modules"].contains(&&*name) {
                directories.push(path);
            } else if extensions.contains(&path.extension().and_then(|extension| extension.to_str()).unwrap_or(&name)) {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path: path.strip_prefix(&root).unwrap().display().to_string(), text });
            }
        }
    }
    assert!(!found.is_empty(), "the walk found nothing: the rule would hold for no reason");
    found
}

fn rust() -> Vec<Source> {
    sources(&["rs"])
}

#[track_caller]
fn none(rule: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

#[test]
fn a_crate_knows_only_those_below_it() {
    let rules: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let packages = our_packages(&metadata());
    let mut offenders = Vec::new();
    for (name, needs) in &packages {
        let Some(allowed) = rules.get(name.as_str()) else {
            offenders.push(format!("{name} has no rule; add it to MAY_USE and to ARCHITECTURE.md"));
            continue;
        };
        let ours = needs.iter().filter(|need| packages.contains_key(*need));
        offenders.extend(ours.filter(|need| !allowed.contains(&need.as_str())).map(|need| format!("{name} -> {need}")));
    }
    none("these dependencies between our crates are not allowed", &offenders);
}

#[test]
fn nothing_below_the_core_does_io() {
    let below = linked_into("hull-core");
    let offenders: Vec<String> =
        NOT_IN_CORE.iter().filter(|name| below.contains(**name)).map(|name| (*name).to_owned()).collect();
    none("hull-core needs, directly or not", &offenders);
}

#[test]
fn one_tls_provider_is_in_the_whole_graph() {
    let graph = linked_into("hull");
    let offenders: Vec<String> =
        ["ring", "openssl", "native_tls"].into_iter().filter(|name| graph.contains(*name)).map(str::to_owned).collect();
    none("rustls panics at first use when two providers are linked; beside aws-lc-rs there is", &offenders);
}

#[test]
fn decisions_take_clock_chance_and_world_as_arguments() {
    let mut offenders = Vec::new();
    for source in rust().iter().filter(|source| source.path.starts_with("crates/hull-core/src")) {
        let words = IMPURE.iter().filter(|word| source.product_part().contains(**word));
        offenders.extend(words.map(|word| format!("{} uses {word}", source.path)));
    }
    none("the core is pure", &offenders);
}

#[test]
fn only_the_node_and_the_images_start_programs() {
    let may = ["hull-node", "hull-image", "hull-testkit", "hull/"];
    let offenders: Vec<String> = rust()
        .iter()
        .filter(|source| source.product_part().contains("Command::new("))
        .filter(|source| !may.iter().any(|part| source.path.starts_with(&format!("crates/{part}"))))
        .map(|source| source.path.clone())
        .collect();
    none("these start processes, which is the node's work", &offenders);
}

#[test]
fn every_crate_takes_the_workspaces_lints() {
    let manifests = sources(&["toml"]).into_iter().filter(|source| source.path.ends_with("/Cargo.toml"));
    let offenders: Vec<String> = manifests
        .filter(|source| !source.text.contains("[lints]\nworkspace = true"))
        .map(|source| source.path)
        .collect();
    none("these crates set their own lints", &offenders);
    let root = fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    assert!(root.contains("unwrap_used") && root.contains("missing_docs"));
}

#[test]
fn every_file_opens_with_its_story_and_ends_in_time() {
    let mut offenders = Vec::new();
    for source in rust() {
        let lines = source.text.lines().count();
        if !source.text.starts_with("//!") {
            offenders.push(format!("{} does not open with //!", source.path));
        }
        if lines >= LONGEST_FILE {
            offenders.push(format!("{} has {lines} lines, {LONGEST_FILE} are too many", source.path));
        }
    }
    none("a reader has ten minutes", &offenders);
}

#[test]
fn tests_wait_for_conditions_and_never_sleep() {
    let offenders: Vec<String> = rust()
        .iter()
        .filter(|source| !source.path.ends_with("house_rules.rs"))
        // Under tokio's paused clock a sleep costs nothing and is how virtual time is told to pass.
        .filter(|source| !source.text.contains("start_paused"))
        .filter(|source| ["thread::sleep", "time::sleep"].iter().any(|word| source.test_part().contains(word)))
        .map(|source| source.path.clone())
        .collect();
    none("use hull_testkit::eventually", &offenders);
}

#[test]
fn no_file_names_the_machine_it_was_written_on_or_work_left_undone() {
    let root = workspace();
    let words = [root.to_str().unwrap(), "/home/", concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let text_files = sources(&["rs", "toml", "md", "sh", "yaml", "yml", "json", "service", "Makefile", "run"]);
    let mut offenders = Vec::new();
    for source in text_files.iter().filter(|source| !source.path.ends_with("house_rules.rs")) {
        let found = words.iter().filter(|word| source.text.contains(**word));
        offenders.extend(found.map(|word| format!("{} contains {word}", source.path)));
    }
    none("these words do not belong in the repository", &offenders);
}
