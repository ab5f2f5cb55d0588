//! Running the distribution's tools: quiet when they succeed, with their last words when they do not.

use std::{ffi::OsStr, process::Stdio};

use hull_types::error::{Error, Result};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// Of a tool's output so many lines are kept for its error.
const LAST_WORDS: usize = 12;

/// A program of the host and the Debian package it comes from.
pub(super) const TOOLS: [(&str, &str); 10] = [
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("mkfs.vfat", "dosfstools"),
    ("mcopy", "mtools"),
    ("mmd", "mtools"),
    ("grub-mkimage", "grub-common"),
    ("qemu-img", "qemu-utils"),
    ("unshare", "util-linux"),
    ("chroot", "coreutils"),
    ("tar", "tar"),
];

/// Where programs are looked for, whatever the caller's environment says: `sbin` is missing from many.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command with a clean, reproducible environment.
pub(super) fn command(program: &str, source_date: i64) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .env("SOURCE_DATE_EPOCH", source_date.to_string())
        .env("E2FSPROGS_FAKE_TIME", source_date.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for name in ["http_proxy", "https_proxy", "no_proxy", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Runs a command to its end, showing each line it says to `line`.
///
/// # Errors
/// `InsufficientResources` where it cannot start, `Internal` with its last words where it fails.
pub(super) async fn run(mut command: Command, mut line: impl FnMut(&str)) -> Result<()> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child =
        command.spawn().map_err(|e| Error::insufficient(format!("cannot start {program}: {e}; is it installed?")))?;
    let mut last = std::collections::VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(text)) = lines.next_line().await {
            line(&text);
            if last.len() == LAST_WORDS {
                last.pop_front();
            }
            last.push_back(text);
        }
    }
    let status = child.wait().await.map_err(|e| Error::internal(format!("cannot wait for {program}: {e}")))?;
    if status.success() {
        return Ok(());
    }
    let said: Vec<String> = last.into();
    Err(Error::internal(format!("{program} failed ({status}):\n{}", said.join("\n"))))
}

/// Runs a program with these arguments.
pub(super) async fn tool<S: AsRef<OsStr>>(
    program: &str,
    source_date: i64,
    args: impl IntoIterator<Item = S>,
) -> Result<()> {
    let mut command = command(program, source_date);
    command.args(args);
    run(command, |_| {}).await
}

/// Refuses to begin what cannot be finished: names every package that is missing, at once.
pub(super) fn require_tools() -> Result<()> {
    let found = |program: &str| PATH.split(':').any(|dir| std::path::Path::new(dir).join(program).exists());
    let mut missing: Vec<&str> =
        TOOLS.iter().filter(|(program, _)| !found(program)).map(|(_, package)| *package).collect();
    for (platform, package) in [("i386-pc", "grub-pc-bin"), ("x86_64-efi", "grub-efi-amd64-bin")] {
        if !super::grub::platform_dir(platform).join("kernel.img").exists() {
            missing.push(package);
        }
    }
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::insufficient(format!(
        "building images needs programs that are not installed; run: apt-get install {}",
        missing.join(" ")
    )))
}
