//! Programs that are run for what has no better door: `nft`, and `ip netns add`.
//!
//! Blocking: they run on the threads of [`super::netns::Netns::run`], and a child is born in its parent thread's namespace.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use hull_types::error::{Error, Result};

/// Runs a program to its end and gives its output; on failure the error holds what it said.
pub(crate) fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(program, &error))?;
    if let Some(mut pipe) = child.stdin.take() {
        // Both programs read all their input before they say anything, so this cannot block on a full pipe of theirs.
        // One that refuses early closes the pipe; its exit status tells why.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| Error::unavailable(format!("{program} did not run to its end: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::unavailable(format!("`{program} {}` failed: {}", arguments.join(" "), said.trim())))
}

fn cannot_start(program: &str, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::insufficient(format!(
            "the program {program} is missing; `apt install nftables iproute2` brings it (`hull doctor` checks)"
        )),
        _ => Error::unavailable(format!("{program} cannot be started: {error}")),
    }
}
