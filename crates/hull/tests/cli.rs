//! The command without machines: words, codes, contexts. Needs root for the server's namespace.

#![allow(clippy::unwrap_used)]

mod kit;

use kit::{Hull, Said};

#[test]
fn help_names_the_nouns_and_the_exit_codes() {
    let hull = Hull::new();
    let help = hull.ok(&["--help"]);
    for word in ["vm", "image", "network", "node", "migration", "doctor", "Exit codes:", "First steps:"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    for noun in [
        "vm",
        "image",
        "flavor",
        "keypair",
        "network",
        "node",
        "migration",
        "project",
        "token",
        "event",
        "context",
        "store",
    ] {
        assert!(hull.ok(&[noun, "--help"]).contains("list"), "{noun}");
    }
}

#[test]
fn completions_know_the_verbs_in_every_shell() {
    let hull = Hull::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = hull.ok(&["completion", shell]);
        assert!(
            script.contains("rebuild")
                && script.contains("join-token")
                && script.contains("migrate")
                && script.contains("drain"),
            "{shell}"
        );
    }
}

#[test]
fn wrong_words_end_with_2_and_a_server_that_is_not_there_with_6() {
    let hull = Hull::new();
    hull.refused(2, &["vm", "fly"]);
    hull.refused(2, &["vm", "create", "one", "--vcpus", "1", "--memory", "much"]);
    hull.refused(2, &["vm", "stop", "one", "--timeout", "5"]);
    hull.refused(2, &["node", "join", "nonsense"]);
    hull.refused(2, &["node", "drain", "one", "--timeout", "5"]);
    hull.refused(2, &["vm", "migrate", "one", "two"]);
    hull.refused(2, &["migration", "cancel"]);
    let refusal = hull.refused(6, &["vm", "list"]);
    assert!(refusal.contains("hull up"), "it says how to start one: {refusal}");
    assert!(hull.run(&["down"]).err.contains("does not run"), "down twice is down");
}

/// Runs the command about whatever its context says, not about this host's Hull.
fn elsewhere(hull: &Hull, words: &[&str]) -> Said {
    let mut command = hull.program(env!("CARGO_BIN_EXE_hull"));
    command.args(words).env("HOME", hull.path()).env("XDG_CONFIG_HOME", hull.path().join("config"));
    for variable in ["HULL_DATA", "HULL_CONTEXT", "HULL_PROJECT", "HULL_OUTPUT"] {
        command.env_remove(variable);
    }
    command.output().unwrap().into()
}

#[test]
fn contexts_are_added_used_and_forgotten_and_carry_tls_and_a_token() {
    let hull = Hull::new();
    hull.up();
    let (ca, token) = (hull.data().join("pki/ca.pem"), hull.data().join("admin-token"));
    let (ca, token) = (ca.to_str().unwrap(), token.to_str().unwrap());
    let add = |name: &str, token: &str| {
        let server = ["--server", "https://127.0.0.1:8440", "--ca", ca, "--token-file", token];
        elsewhere(&hull, &[&["context", "add", name][..], &server].concat())
    };
    assert_eq!(add("home", token).code, 0);
    let flavors = elsewhere(&hull, &["flavor", "list"]);
    assert!(flavors.code == 0 && flavors.out.contains("small"), "{flavors:?}");

    // Another token is another caller, and nobody.
    let wrong = hull.file("wrong");
    std::fs::write(&wrong, "hull_nonsense").unwrap();
    assert_eq!(add("stranger", wrong.to_str().unwrap()).code, 0);
    assert_eq!(elsewhere(&hull, &["vm", "list"]).code, 5, "the newest is in use");
    assert_eq!(elsewhere(&hull, &["--context", "home", "vm", "list"]).code, 0);
    assert_eq!(elsewhere(&hull, &["context", "use", "home"]).code, 0);
    assert_eq!(elsewhere(&hull, &["vm", "list"]).code, 0);

    let refusal = elsewhere(&hull, &["context", "use", "nowhere"]);
    assert!(refusal.code == 3 && refusal.err.contains("home, stranger"), "{refusal:?}");
    assert_eq!(elsewhere(&hull, &["context", "delete", "home"]).code, 0);
    let list = elsewhere(&hull, &["context", "list"]).out;
    assert!(list.contains("stranger") && !list.contains("home"), "{list}");
    let file = hull.file("config/hull/config.yaml");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "it holds tokens");
}

#[test]
fn a_server_of_another_authority_is_not_believed() {
    let hull = Hull::new();
    hull.up();
    let other = Hull::new();
    other.up();
    let ca = other.data().join("pki/ca.pem");
    let token = hull.data().join("admin-token");
    let words = ["context", "add", "home", "--server", "https://127.0.0.1:8440", "--ca", ca.to_str().unwrap()];
    assert_eq!(elsewhere(&hull, &[&words[..], &["--token-file", token.to_str().unwrap()]].concat()).code, 0);
    let refusal = elsewhere(&hull, &["vm", "list"]);
    assert!(refusal.code == 6 && refusal.err.contains("certificate"), "{refusal:?}");
}

#[test]
fn quotas_are_set_and_shown_and_the_audit_tells_who_did_it() {
    let hull = Hull::new();
    hull.up();
    hull.ok(&["project", "create", "acme", "--vms", "20", "--memory", "64GiB"]);
    let shown = hull.ok(&["project", "show", "acme"]);
    let line = |text: &str, what: &str| {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(what));
        line.unwrap_or_else(|| panic!("{what}: {text}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line(&shown, "vms"), "vms 0 20 0");
    assert_eq!(line(&shown, "memory"), "memory 0 B 64 GiB 0");
    let set = hull.run(&["project", "quota", "set", "acme", "--security-groups", "0", "--ports", "none"]);
    assert_eq!(set.code, 0, "{set:?}");
    assert_eq!(line(&set.out, "ports"), "ports 0 none -");
    assert!(set.err.contains("security-groups (1 of 0)"), "it says what is held beyond the quota: {set:?}");
    hull.refused(2, &["project", "quota", "set", "acme", "--vms", "many"]);
    hull.refused(3, &["project", "quota", "set", "nobody", "--vms", "1"]);

    let list = hull.ok(&["audit", "list", "--resource", "acme"]);
    let deeds = list.lines().skip(1).count();
    assert_eq!(deeds, 2, "{list}");
    assert!(list.contains("projects.create") && list.contains("projects.update"), "{list}");
    let refused = hull.ok(&["audit", "list", "--since", "1h", "--outcome", "refused"]);
    assert!(refused.contains("refused 404 not-found"), "{refused}");
    let lines = hull.ok(&["audit", "export"]);
    let actors = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["actor"].clone());
    assert!(actors.into_iter().all(|actor| actor == "local-root"), "{lines}");
    hull.refused(2, &["audit", "list", "--since", "yesterday"]);
}

#[test]
fn migrations_are_looked_up_and_an_empty_node_is_drained_at_once() {
    let hull = Hull::new();
    hull.up();
    hull.refused(3, &["vm", "migrate", "nobody"]);
    let id = "00000000-0000-0000-0000-000000000007";
    hull.refused(3, &["migration", "show", id]);
    hull.refused(3, &["migration", "cancel", id]);
    hull.refused(2, &["migration", "list", "--phase", "flying"]);
    let list = hull.ok(&["migration", "list"]);
    assert_eq!(
        list.split_whitespace().collect::<Vec<_>>(),
        ["VM", "FROM", "TO", "PHASE", "AGE", "DOWNTIME", "ID", "REASON"]
    );
    hull.refused(3, &["node", "drain", "nowhere"]);
    let nodes: serde_json::Value = serde_json::from_str(&hull.ok(&["node", "list", "-o", "json"])).unwrap();
    let node = nodes[0]["name"].as_str().unwrap();
    let drained = hull.ok(&["node", "drain", node, "--wait"]);
    assert!(drained.contains("maintenance"), "{drained}");
}
