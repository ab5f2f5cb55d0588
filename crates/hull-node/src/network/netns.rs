//! Network namespaces: made with a name under `/run/netns` (where `ip netns` shows them), entered by threads of their own.
//!
//! A namespace belongs to a thread, not to a process: whatever must be opened inside (sockets, taps, `/proc/sys/net`) is
//! opened by a short-lived thread that enters, works and ends. A socket stays where it was made, so async code may use
//! it from anywhere afterwards.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use hull_types::error::{Error, Result};
use rustix::{
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

const NAMED: &str = "/run/netns";

/// A network namespace held open: it lives at least as long as this.
#[derive(Clone, Debug)]
pub(crate) struct Netns {
    file: Arc<File>,
    /// Its name for people.
    name: Arc<str>,
}

impl Netns {
    /// The namespace of this thread (of the process, unless the thread moved).
    pub(crate) fn current() -> Result<Self> {
        Self::open_path(Path::new("/proc/thread-self/ns/net"), "the host's")
    }

    /// Opens a namespace by a file of it.
    pub(crate) fn open_path(path: &Path, name: &str) -> Result<Self> {
        let file = File::open(path).map_err(|error| {
            Error::unavailable(format!("the network namespace {} cannot be opened: {error}", path.display()))
        })?;
        Ok(Self { file: Arc::new(file), name: name.into() })
    }

    /// Opens a named namespace; `None` where there is none (a name without a namespace mounted on it counts as none).
    pub(crate) fn named(name: &str) -> Result<Option<Self>> {
        let path = path_of(name);
        let Ok(meta) = std::fs::metadata(&path) else { return Ok(None) };
        // A bare file left behind by an interrupted creation lies on the same device as its directory.
        let directory = std::fs::metadata(NAMED).map(|meta| meta.dev());
        if directory.is_ok_and(|device| device == meta.dev()) {
            return Ok(None);
        }
        Self::open_path(&path, name).map(Some)
    }

    /// Makes a named namespace, replacing a bare file of that name. Blocking.
    pub(crate) fn create(name: &str) -> Result<Self> {
        if Self::named(name)?.is_none() {
            let _ = std::fs::remove_file(path_of(name));
            super::command::run("ip", &["netns", "add", name], "")?;
        }
        Self::named(name)?.ok_or_else(|| Error::internal(format!("the network namespace {name} vanished at once")))
    }

    /// Gives a namespace that is held open its name back, after somebody took it away.
    pub(crate) fn rename_back(&self) -> Result<()> {
        let path = path_of(&self.name);
        let own = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        File::create(&path).and_then(|_| mount_bind(&own, &path).map_err(io::Error::from)).map_err(|error| {
            Error::unavailable(format!("the network namespace {} cannot be named again: {error}", self.name))
        })
    }

    /// The namespace of this name: found, or named again while it is still held open, or made from the host's.
    pub(crate) async fn keep(name: String, held: Option<Self>, host: &Self) -> Result<Self> {
        match (Self::named(&name)?, held) {
            (Some(found), _) => Ok(found),
            (None, Some(held)) => {
                tracing::warn!("the namespace {name} had lost its name");
                held.rename_back()?;
                Ok(held)
            }
            (None, None) => host.run(move || Self::create(&name)).await?,
        }
    }

    /// Takes a namespace's name away; the kernel ends it when nothing holds it any more.
    pub(crate) fn delete(name: &str) -> Result<()> {
        let path = path_of(name);
        let _ = unmount(&path, UnmountFlags::DETACH);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::unavailable(format!("the network namespace {name} cannot be removed: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// The names of all namespaces on the host.
    pub(crate) fn names() -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(NAMED) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// What tells this namespace from every other that lives.
    pub(crate) fn identity(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.ino())
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs something inside, on a thread of its own.
    pub(crate) async fn run<T, F>(&self, what: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let file = Arc::clone(&self.file);
        let name = Arc::clone(&self.name);
        let runtime = tokio::runtime::Handle::current();
        let (done, result) = tokio::sync::oneshot::channel();
        let spawned = std::thread::Builder::new().name("netns".into()).spawn(move || {
            // Sockets made inside register with the runtime that uses them.
            let _context = runtime.enter();
            let entered = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
            let _ = done.send(entered.map(|()| what()));
        });
        if let Err(error) = spawned {
            return Err(Error::insufficient(format!("no thread for the network namespace {name}: {error}")));
        }
        match result.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Error::unavailable(format!(
                "cannot enter the network namespace {name}: {error}; Hull's node needs root (CAP_SYS_ADMIN)"
            ))),
            Err(_) => Err(Error::internal(format!("work inside the network namespace {name} panicked"))),
        }
    }

    /// Writes kernel settings of this namespace, those that differ only.
    pub(crate) async fn sysctl(&self, settings: Vec<(String, &'static str)>) -> Result<()> {
        self.run(move || settings.iter().try_for_each(|(key, value)| set(key, value))).await?
    }

    /// Reads a kernel setting of this namespace.
    pub(crate) async fn read_sysctl(&self, key: &str) -> Result<Option<String>> {
        let path = sysctl_path(key);
        self.run(move || std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())).await
    }
}

fn path_of(name: &str) -> PathBuf {
    Path::new(NAMED).join(name)
}

/// Keys are written with slashes, as interface names may hold dots.
fn sysctl_path(key: &str) -> String {
    format!("/proc/sys/net/{key}")
}

fn set(key: &str, value: &str) -> Result<()> {
    let path = sysctl_path(key);
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value)
        .map_err(|error| Error::unavailable(format!("the kernel setting {path} cannot be set to {value}: {error}")))
}
