//! Logging in by the command, against the real server; and that secrets stay where they belong. Needs root for the server's namespace.

#![allow(clippy::unwrap_used)]

mod kit;

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use kit::{Hull, Said};
use serde_json::Value;

const FIRST: &str = "first-password-of-ann";
const SECOND: &str = "second-password-of-ann";

/// Runs a command with these lines on its standard input.
fn typed(mut command: Command, lines: &[&str]) -> Said {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// The command as a person on this host uses it who has contexts, and no access to the server's socket.
fn person(hull: &Hull, words: &[&str]) -> Command {
    let mut command = hull.program(env!("CARGO_BIN_EXE_hull"));
    command.args(words).env("HOME", hull.path()).env("XDG_CONFIG_HOME", hull.path().join("config"));
    for variable in ["HULL_DATA", "HULL_CONTEXT", "HULL_PROJECT", "HULL_OUTPUT"] {
        command.env_remove(variable);
    }
    command
}

#[track_caller]
fn ok(said: Said) -> String {
    assert_eq!(said.code, 0, "{said:?}");
    said.out
}

fn config(hull: &Hull) -> PathBuf {
    hull.file("config/hull/config.yaml")
}

/// The token of the context in use.
fn token(hull: &Hull) -> String {
    let text = std::fs::read_to_string(config(hull)).unwrap();
    text.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap().trim_matches('\'').to_owned()
}

/// Files below a directory that anyone may read, with what they hold.
fn readable(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return found };
    for entry in entries.map(Result::unwrap) {
        let meta = entry.metadata().unwrap();
        let mode = meta.permissions().mode();
        if meta.is_dir() && mode & 0o005 != 0 {
            found.extend(readable(&entry.path()));
        } else if meta.is_file() && mode & 0o004 != 0 {
            found.push((entry.path(), std::fs::read(entry.path()).unwrap()));
        }
    }
    found
}

#[test]
fn a_person_logs_in_works_and_leaves_and_no_secret_shows() {
    let hull = Hull::new();
    let mut up = hull.command(&["up", "--background"]);
    ok(up.env("HULL_LOG", "debug").output().unwrap().into());
    ok(typed(hull.command(&["user", "create", "ann", "--password-stdin"]), &[FIRST]));
    hull.ok(&["project", "create", "acme"]);
    hull.ok(&["role", "grant", "member", "--user", "ann", "--project", "acme"]);
    assert!(hull.ok(&["role", "list", "--project", "acme"]).contains("user ann"));

    let ca = hull.data().join("pki/ca.pem");
    let server = ["--server", "https://127.0.0.1:8440", "--ca", ca.to_str().unwrap()];
    let login = [&["login", "--user", "ann", "--password-stdin", "--project", "acme"][..], &server].concat();
    let wrong = typed(person(&hull, &login), &["not her password"]);
    assert_eq!(wrong.code, 5, "{wrong:?}");
    assert!(!config(&hull).exists(), "what failed leaves nothing behind");
    ok(typed(person(&hull, &login), &[FIRST]));
    assert_eq!(std::fs::metadata(config(&hull)).unwrap().permissions().mode() & 0o777, 0o600);
    let first_token = token(&hull);

    let me = ok(person(&hull, &["whoami", "-o", "json"]).output().unwrap().into());
    let me: Value = serde_json::from_str(&me).unwrap();
    assert_eq!((&me["name"], &me["role"]), (&"ann".into(), &"member".into()), "{me}");
    ok(person(&hull, &["vm", "list"]).output().unwrap().into());
    assert_eq!(Said::from(person(&hull, &["node", "list"]).output().unwrap()).code, 5);

    let make = ["app-credential", "create", "ci", "--role", "reader", "--days", "1"];
    let credential = ok(person(&hull, &make).output().unwrap().into()).trim().to_owned();
    assert!(credential.starts_with("hullapp_"), "the secret is shown once");
    let list = ok(person(&hull, &["app-credential", "list"]).output().unwrap().into());
    assert!(list.contains("ci") && !list.contains(&credential), "{list}");

    ok(typed(person(&hull, &["user", "set-password", "--password-stdin"]), &[FIRST, SECOND]));
    ok(person(&hull, &["vm", "list"]).output().unwrap().into());
    let second_token = token(&hull);
    assert_ne!(first_token, second_token, "the old session ended with the old password");
    ok(person(&hull, &["logout"]).output().unwrap().into());
    assert_eq!(Said::from(person(&hull, &["vm", "list"]).output().unwrap()).code, 5);

    let secrets = [FIRST, SECOND, &first_token, &second_token, &credential];
    let log = std::fs::read_to_string(hull.data().join("hull.log")).unwrap();
    assert!(log.contains("a log-in failed") && log.contains("DEBUG"), "the log is at its most talkative");
    for secret in secrets {
        assert!(!log.contains(secret), "the log tells a secret");
    }
    let admin = std::fs::read_to_string(hull.data().join("admin-token")).unwrap();
    for (path, text) in readable(&hull.data()) {
        for secret in secrets.iter().chain([&admin.trim(), &"$argon2"]) {
            let found = text.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{} is for everyone to read and holds a secret", path.display());
        }
    }
}

#[test]
fn secrets_are_not_taken_from_the_command_line() {
    let hull = Hull::new();
    for words in [&["login", "--help"][..], &["user", "create", "--help"], &["user", "set-password", "--help"]] {
        let help = hull.ok(words);
        assert!(!help.contains("--password <"), "{help}");
    }
    let said = Said::from(person(&hull, &["login", "--user", "ann", "--password", "x"]).output().unwrap());
    assert_eq!(said.code, 2, "{said:?}");
}
