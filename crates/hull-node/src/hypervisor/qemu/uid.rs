//! A user of its own for each VM's processes.
//!
//! The claim on a number is a symbolic link in a directory of the host's, made atomically with its content (the VM and
//! its directory). It lives in `/run`: after a host's reboot no process is left, and no claim.

use std::{
    io::{self, ErrorKind},
    ops::Range,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
};

use hull_types::{
    error::{Error, Result},
    id::VmId,
};

/// Numbers no distribution or directory service hands out: above Debian's and systemd's static and dynamic ranges,
/// below the usual sub-uid ranges of containers' users (524288 up).
pub(super) const RANGE: Range<u32> = 400_000..500_000;

/// The host's claims.
#[derive(Clone, Debug)]
pub(super) struct Uids {
    claims: PathBuf,
}

impl Uids {
    pub(super) fn new(claims: PathBuf) -> Self {
        Self { claims }
    }

    /// The VM's number: the one it has claimed, or a free one.
    pub(super) fn claim(&self, vm: VmId, dir: &Path) -> Result<u32> {
        let fail = |error: &io::Error| {
            Error::internal(format!("cannot claim a user id for {vm:?} in {}: {error}", self.claims.display()))
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.claims).map_err(|e| fail(&e))?;
        let content = claim_of(vm, dir);
        for uid in candidates(vm) {
            let path = self.path(uid);
            match symlink(&content, &path) {
                Ok(()) => return Ok(uid),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => match std::fs::read_link(&path) {
                    Ok(held) if held == content => return Ok(uid),
                    // Another's, or just given back: the next one will do.
                    Ok(_) | Err(_) => {}
                },
                Err(error) => return Err(fail(&error)),
            }
        }
        Err(Error::insufficient("every user id for VMs is taken on this node: delete VMs, or clear /run/hull/uids"))
    }

    /// Gives the number back, if it is this VM's.
    pub(super) fn release(&self, vm: VmId, dir: &Path, uid: u32) -> io::Result<()> {
        let path = self.path(uid);
        match std::fs::read_link(&path) {
            Ok(held) if held == claim_of(vm, dir) => std::fs::remove_file(path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn path(&self, uid: u32) -> PathBuf {
        self.claims.join(uid.to_string())
    }
}

fn claim_of(vm: VmId, dir: &Path) -> PathBuf {
    PathBuf::from(vm.to_string()).join(dir.strip_prefix("/").unwrap_or(dir))
}

/// All numbers, beginning at one that the VM's id picks.
fn candidates(vm: VmId) -> impl Iterator<Item = u32> {
    let size = RANGE.end - RANGE.start;
    // The low bits of a version 7 UUID are random.
    let first = (vm.0.as_u128() % u128::from(size)) as u32;
    (0..size).map(move |step| RANGE.start + (first + step) % size)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_vm_has_its_own_until_it_gives_it_back() {
        let root = tempfile::tempdir().unwrap();
        let uids = Uids::new(root.path().join("uids"));
        // Two VMs whose ids pick the same number first.
        let size = u128::from(RANGE.end - RANGE.start);
        let (one, two) = (VmId(uuid::Uuid::from_u128(7)), VmId(uuid::Uuid::from_u128(7 + size)));
        let dir = Path::new("/vms/a");
        let first = uids.claim(one, dir).unwrap();
        assert!(RANGE.contains(&first));
        assert_eq!(uids.claim(one, dir).unwrap(), first);
        let second = uids.claim(two, dir).unwrap();
        assert_ne!(second, first);
        uids.release(two, dir, first).unwrap();
        assert_eq!(uids.claim(one, dir).unwrap(), first, "nobody gives back another's");
        uids.release(one, dir, first).unwrap();
        assert_eq!(uids.claim(two, Path::new("/vms/b")).unwrap(), first);
    }
}
