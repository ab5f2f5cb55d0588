//! The tree: packages, then the recipe's files and commands, then everything that must not be in an image taken out.
//!
//! mmdebstrap does the first in a mount and process namespace of its own, so that giving up kills all of it and leaves no
//! mounts; our files reach it as tar archives (owners, modes and dates exact), our commands as scripts on standard input.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use hull_types::error::{Error, Result};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::{Recipe, RecipeFile, run, sources};
use crate::{Phase, Progress, files::io_error};

/// Run last, inside: what a machine makes for itself at its first boot, and what only the build needed.
const FINISH: &str = include_str!("finish.sh");

/// Builds the tree in `work/tree`.
pub(super) async fn build(recipe: &Recipe, work: &Path, progress: &Progress) -> Result<PathBuf> {
    let tree = work.join("tree");
    let early = work.join("early.tar");
    let late = work.join("late.tar");
    archive(recipe, &early, recipe.files.iter().filter(|f| f.before_packages))?;
    archive(recipe, &late, recipe.files.iter().filter(|f| !f.before_packages))?;
    let script = work.join("commands.sh");
    fs::write(&script, commands(recipe)).map_err(|e| io_error("write", &script, &e))?;

    let mut command = run::command("unshare", recipe.source_date);
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.args(["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--verbose"]);
    command.arg("--aptopt=APT::Install-Recommends \"false\"");
    let packages: Vec<&str> = recipe.all_packages().collect();
    if !packages.is_empty() {
        command.arg(format!("--include={}", packages.join(",")));
    }
    command.arg(format!("--essential-hook=tar-in {} /", early.display()));
    command.arg(format!("--customize-hook=tar-in {} /", late.display()));
    command.arg(format!("--customize-hook=chroot \"$1\" sh -e < {}", script.display()));
    command.arg(&recipe.suite).arg(&tree);
    command.args(sources::for_recipe(recipe)?);
    let mut count = Count::default();
    run::run(command, |line| {
        if let Some((done, total)) = count.see(line) {
            progress.report(Phase::Packages, done, total);
        }
    })
    .await
    .map_err(|e| Error { detail: format!("cannot build {}: {}", recipe.name, e.detail), ..e })?;
    Ok(tree)
}

/// The recipe's commands, then the finish. The tree's own host name is set here because packages may have written one.
fn commands(recipe: &Recipe) -> String {
    let mut script = String::from("set -e\nexport HOME=/root DEBIAN_FRONTEND=noninteractive\n");
    for command in &recipe.commands {
        script.push_str(command.trim());
        script.push('\n');
    }
    for file in &recipe.files {
        if let Some(owner) = &file.owner {
            script.push_str(&format!("chown -h {owner} '{}'\n", file.path.display()));
        }
    }
    script.push_str(&format!("echo {} > /etc/hostname\n", recipe.hostname));
    script.push_str(&format!("ROOT_UUID={}\n", recipe.uuid("root")));
    script.push_str(FINISH);
    script
}

fn archive<'a>(recipe: &Recipe, path: &Path, files: impl Iterator<Item = &'a RecipeFile>) -> Result<()> {
    let fail = |e: std::io::Error| io_error("write", path, &e);
    let mut tar = tar::Builder::new(File::create(path).map_err(fail)?);
    for file in files {
        let content = match (&file.content, &file.source) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(source)) => fs::read(source).map_err(|e| io_error("read", source, &e))?,
            (None, None) => Vec::new(),
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(file.mode.0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(recipe.source_date).unwrap_or(0));
        let inside = file.path.strip_prefix("/").unwrap_or(&file.path);
        tar.append_data(&mut header, inside, &content[..]).map_err(fail)?;
    }
    tar.finish().map_err(fail)
}

/// Gives one file the recipe's date.
pub(super) fn date(path: &Path, seconds: i64) -> Result<()> {
    let at = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: at, last_modification: at };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| io_error("date", path, &e.into()))
}

/// Counts what apt says it sets up.
#[derive(Debug, Default)]
struct Count {
    done: u64,
    total: u64,
}

impl Count {
    fn see(&mut self, line: &str) -> Option<(u64, Option<u64>)> {
        if let Some((before, _)) = line.split_once(" newly installed") {
            self.total += before.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        } else if line.starts_with("Setting up ") {
            self.done += 1;
        } else {
            return None;
        }
        Some((self.done, Some(self.total.max(self.done))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_counted_from_what_apt_says() {
        let mut count = Count::default();
        assert_eq!(count.see("0 upgraded, 3 newly installed, 0 to remove and 0 not upgraded."), Some((0, Some(3))));
        assert_eq!(count.see("Setting up libc6:amd64 (2.36-9) ..."), Some((1, Some(3))));
        assert_eq!(count.see("Unpacking perl ..."), None);
    }
}
