//! Files from Debian packages, without installing them: `apt-get download` and `dpkg-deb -x` into the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// Runs a command to its end and returns what it printed.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The package that a meta package such as `linux-image-cloud-amd64` stands for today.
pub(crate) fn resolve_meta_package(meta: &str) -> anyhow::Result<String> {
    let listing = with_lists(|| run(Command::new("apt-cache").args(["depends", meta])))?;
    listing
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .map(str::to_owned)
        .with_context(|| format!("apt knows no dependency of {meta}; run `apt-get update`"))
}

/// Asks apt; once more with new package lists where it does not know, since a fresh machine has none and old ones name
/// files that are gone.
fn with_lists(ask: impl Fn() -> anyhow::Result<String>) -> anyhow::Result<String> {
    ask().or_else(|_| {
        run(Command::new("apt-get").args(["update", "-q"]))?;
        ask()
    })
}

/// Downloads a package (unless it is there) and unpacks it; returns the unpacked tree.
pub(crate) fn unpack(package: &str, cache: &Path) -> anyhow::Result<PathBuf> {
    let tree = cache.join("packages").join(package);
    if tree.exists() {
        return Ok(tree);
    }
    let downloads = tempfile::tempdir_in(cache)?;
    let fetch = || run(Command::new("apt-get").args(["download", "-q", package]).current_dir(downloads.path()));
    with_lists(fetch).with_context(|| format!("cannot fetch the Debian package {package}; is a mirror reachable?"))?;
    let Some(deb) = std::fs::read_dir(downloads.path())?.next().transpose()? else {
        bail!("apt-get download {package} left no file");
    };
    // Unpacked aside and renamed, so that a killed run leaves no half tree behind.
    let unpacked = tempfile::tempdir_in(cache)?;
    run(Command::new("dpkg-deb").arg("-x").arg(deb.path()).arg(unpacked.path()))?;
    std::fs::create_dir_all(cache.join("packages"))?;
    std::fs::rename(unpacked.keep(), &tree)?;
    Ok(tree)
}

/// The shared libraries a program needs, and its loader, as paths on this host.
pub(crate) fn libraries(program: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let listing = run(Command::new("ldd").arg(program))?;
    ensure!(!listing.contains("not found"), "{} lacks libraries here: {listing}", program.display());
    Ok(listing.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// Kernel modules with what each needs, by name.
pub(crate) struct Modules {
    files: BTreeMap<String, PathBuf>,
}

impl Modules {
    /// Finds every module below a package's `/lib/modules`.
    pub(crate) fn find(tree: &Path) -> anyhow::Result<Self> {
        let listing = run(Command::new("find").arg(tree).args(["-name", "*.ko"]))?;
        let files = listing
            .lines()
            .map(PathBuf::from)
            .filter_map(|path| Some((canonical_name(path.file_stem()?.to_str()?), path)))
            .collect();
        Ok(Self { files })
    }

    /// The module's file and the names of those it needs; `None` when it is built in or absent.
    pub(crate) fn get(&self, name: &str) -> anyhow::Result<Option<(&Path, Vec<String>)>> {
        let Some(path) = self.files.get(&canonical_name(name)) else { return Ok(None) };
        let needs = depends_field(&std::fs::read(path)?);
        Ok(Some((path, needs)))
    }

    /// The wanted modules and all they need.
    pub(crate) fn closure(&self, wanted: &[&str]) -> anyhow::Result<BTreeMap<String, (PathBuf, Vec<String>)>> {
        let mut queue: Vec<String> = wanted.iter().map(|name| canonical_name(name)).collect();
        let mut found = BTreeMap::new();
        while let Some(name) = queue.pop() {
            if found.contains_key(&name) {
                continue;
            }
            if let Some((path, needs)) = self.get(&name)? {
                queue.extend(needs.iter().cloned());
                found.insert(name, (path.to_owned(), needs));
            }
        }
        Ok(found)
    }
}

/// The kernel takes `-` and `_` in module names for the same.
fn canonical_name(name: &str) -> String {
    name.replace('-', "_")
}

/// Reads `depends=a,b` from a module's `.modinfo` section, whose strings end with NUL.
fn depends_field(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = &module[start + KEY.len()..];
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(0);
    let list = String::from_utf8_lossy(&value[..end]);
    list.split(',').filter(|name| !name.is_empty()).map(canonical_name).collect()
}

#[cfg(test)]
mod tests {
    use super::depends_field;

    #[test]
    fn needs_are_read_from_a_modules_own_bytes() {
        assert_eq!(depends_field(b"junk\0depends=virtio,net-failover\0vermagic=6"), ["virtio", "net_failover"]);
        assert!(depends_field(b"\0depends=\0name=x\0").is_empty());
        assert!(depends_field(b"nothing here").is_empty());
    }
}
