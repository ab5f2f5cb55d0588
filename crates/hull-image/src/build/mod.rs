//! Building images from a distribution's packages.
//!
//! ```text
//! recipe -> tree: mmdebstrap, the recipe's files and commands, a clean-up     (about a minute)
//!        -> disk.raw: ext4 by mke2fs -d, GPT, GRUB for BIOS and UEFI          (seconds)
//!        -> out/disk.qcow2, out/vmlinuz, out/initrd.img
//! ```
//!
//! No loop device and no mount outside a namespace of its own. The same packages and the same recipe give the same
//! bytes: identifiers follow from the recipe, times from packages or the recipe's date, and what machines make for
//! themselves (machine id, ssh keys, logs) is left out.

mod disk;
mod ext4;
mod gpt;
mod grub;
mod recipe;
mod run;
mod sources;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use hull_types::error::{Error, Result};
use sha2::{Digest, Sha256};

pub use recipe::{Kernel, Mode, Recipe, RecipeFile, Size};

use crate::{Phase, Progress, files::io_error};

/// Steps after the packages: tree ready, disk written, disk compressed.
const STEPS: u64 = 3;
/// The file in a finished build's directory that tells which recipe it was.
const STAMP: &str = "recipe.sha256";

/// A built image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltImage {
    /// The disk, qcow2 with zstd-compressed clusters.
    pub disk: PathBuf,
    /// The kernel in the disk, for machines started without firmware; none where the recipe has none.
    pub kernel: Option<PathBuf>,
    /// Its initial file system.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line for such machines.
    pub cmdline: String,
}

/// Builds `recipe` into the directory `out`, which is made if need be. Dropping the future ends the build and removes
/// what it made; a finished build replaces what was in `out`.
///
/// Must run as root: packages' files belong to many users.
///
/// # Errors
/// `InsufficientResources` naming the packages to install where tools are missing, `Forbidden` without root, `Internal` with a
/// tool's last words where it fails.
pub async fn build(recipe: &Recipe, out: &Path, progress: &Progress) -> Result<BuiltImage> {
    run::require_tools()?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::forbidden(format!("building {} needs root: run it with sudo", recipe.name)));
    }
    fs::create_dir_all(out).map_err(|e| io_error("create", out, &e))?;
    let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let work =
        tempfile::Builder::new().prefix(".building-").tempdir_in(out).map_err(|e| io_error("write in", out, &e))?;
    // mmdebstrap and apt's own user must reach the tree.
    fs::set_permissions(work.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(|e| io_error("open up", work.path(), &e))?;

    let tree = tree::build(recipe, work.path(), progress).await?;
    progress.report(Phase::Assembling, 1, Some(STEPS));
    let times = ext4::Times { build_began: began as i64, source_date: recipe.source_date };
    let (kernel, initrd) = boot_files(recipe, &tree)?;
    let disk = disk::write(recipe, &tree, work.path(), times).await?;
    progress.report(Phase::Assembling, 2, Some(STEPS));
    let compressed = work.path().join("disk.qcow2");
    compress(&disk, &compressed, recipe.source_date).await?;
    progress.report(Phase::Assembling, 3, Some(STEPS));

    let keep = |from: &Path, name: &str| -> Result<PathBuf> {
        let to = out.join(name);
        let moved = fs::File::open(from).and_then(|f| f.sync_all()).and_then(|()| fs::rename(from, &to));
        moved.map(|()| to.clone()).map_err(|e| io_error("write", &to, &e))
    };
    let built = BuiltImage {
        disk: keep(&compressed, "disk.qcow2")?,
        kernel: kernel.map(|from| keep(&from, "vmlinuz")).transpose()?,
        initrd: initrd.map(|from| keep(&from, "initrd.img")).transpose()?,
        cmdline: cmdline(recipe),
    };
    // Last, so that it vouches for the rest.
    let stamp = out.join(STAMP);
    fs::write(&stamp, fingerprint(recipe)).map_err(|e| io_error("write", &stamp, &e))?;
    // A tree of thousands of files takes a while to remove.
    crate::store::blocking(move || {
        work.close().map_err(|e| io_error("remove the build's files in", Path::new("."), &e))
    })
    .await?;
    Ok(built)
}

/// What an earlier build of the same recipe left in `out`; none where there is nothing, or of another recipe.
pub fn kept(recipe: &Recipe, out: &Path) -> Option<BuiltImage> {
    let found = |name: &str| Some(out.join(name)).filter(|path| path.is_file());
    let same = fs::read_to_string(out.join(STAMP)).is_ok_and(|stamp| stamp == fingerprint(recipe));
    let boots = recipe.kernel != Kernel::None;
    if !same || (boots && (found("vmlinuz").is_none() || found("initrd.img").is_none())) {
        return None;
    }
    Some(BuiltImage {
        disk: found("disk.qcow2")?,
        kernel: found("vmlinuz").filter(|_| boots),
        initrd: found("initrd.img").filter(|_| boots),
        cmdline: cmdline(recipe),
    })
}

/// Names a recipe by all it says.
fn fingerprint(recipe: &Recipe) -> String {
    hex::encode(Sha256::digest(format!("{recipe:?}")))
}

fn cmdline(recipe: &Recipe) -> String {
    format!("root=UUID={} ro {}", recipe.uuid("root"), recipe.cmdline).trim_end().to_owned()
}

/// Puts GRUB's menu into the tree, and finds the kernel and initrd that its links name.
fn boot_files(recipe: &Recipe, tree: &Path) -> Result<(Option<PathBuf>, Option<PathBuf>)> {
    if recipe.kernel == Kernel::None {
        return Ok((None, None));
    }
    let dir = tree.join("boot/grub");
    fs::create_dir_all(&dir)
        .and_then(|()| fs::write(dir.join("grub.cfg"), grub::config(&cmdline(recipe))))
        .map_err(|e| io_error("write", &dir, &e))?;
    let work = tree.parent().unwrap_or(tree);
    // Copies, because the tree's own become part of the disk.
    let copy = |link: &str| -> Result<PathBuf> {
        let from =
            fs::canonicalize(tree.join(link)).map_err(|e| io_error("find the installed", &tree.join(link), &e))?;
        let inside = fs::canonicalize(tree).is_ok_and(|tree| from.starts_with(tree));
        if !inside {
            return Err(Error::internal(format!("/{link} in the tree points out of it, to {}", from.display())));
        }
        let to = work.join(link);
        fs::copy(&from, &to).map(|_| to).map_err(|e| io_error("copy", &from, &e))
    };
    Ok((Some(copy("vmlinuz")?), Some(copy("initrd.img")?)))
}

async fn compress(raw: &Path, qcow2: &Path, date: i64) -> Result<()> {
    let options = ["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"];
    let files = [raw.as_os_str(), qcow2.as_os_str()];
    run::tool("qemu-img", date, options.map(std::ffi::OsStr::new).into_iter().chain(files)).await
}
