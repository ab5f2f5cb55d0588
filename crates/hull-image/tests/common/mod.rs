//! A store in a temporary directory, and disks made by the real qemu-img.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use hull_image::{ImageStore, ImportOptions, Imported, Limits, Source};
use hull_types::{error::Error, units::Bytes};

/// A store of its own, gone with the value.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub store: ImageStore,
}

pub async fn lab() -> Lab {
    lab_with(Limits { keep_free: Bytes::mib(1), ..Limits::default() }).await
}

pub async fn lab_with(limits: Limits) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path().join("store"), limits).await.unwrap();
    Lab { dir, store }
}

impl Lab {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    pub async fn import(&self, path: &Path) -> Result<Imported, Error> {
        self.store.import(Source::File(path.to_owned()), &ImportOptions::default()).await
    }

    /// Everything in the store's directories: what a refused import must leave as it was.
    pub fn contents(&self) -> Vec<PathBuf> {
        let dirs = ["store/staging", "store/blobs/sha256"].map(|d| self.path(d));
        dirs.iter().flat_map(|d| fs::read_dir(d).unwrap().map(|e| e.unwrap().path())).collect()
    }

    /// Imports what must be refused and tells why it was.
    pub async fn refused(&self, path: &Path, options: &ImportOptions) -> Error {
        let outcome = self.store.import(Source::File(path.to_owned()), options).await;
        assert_eq!(self.contents(), Vec::<PathBuf>::new(), "a refused import left something behind");
        outcome.expect_err(&format!("{} should be refused", path.display()))
    }
}

pub fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

pub fn qemu_img(args: &[&str]) {
    run("qemu-img", args);
}

pub fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A raw disk of `mib` MiB with a boot signature, some data and much nothing.
pub fn raw_disk(mib: usize) -> Vec<u8> {
    let mut disk = vec![0; mib << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (i, byte) in disk[1 << 20..(1 << 20) + 300_000].iter_mut().enumerate() {
        *byte = (i * 31 % 251) as u8;
    }
    disk
}
