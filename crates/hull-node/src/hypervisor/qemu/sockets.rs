//! Unix sockets of a VM's private directory.
//!
//! Hull binds them as root and hands the listening descriptors to QEMU, so QEMU needs no directory it may write to, and
//! no link of its making can lead Hull to another socket. Paths go through `/proc/self/fd`: a socket's own limit of 108
//! bytes does not bind the directory's depth.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixStream;

/// Connects to a socket of the directory.
///
/// # Errors
/// As `connect(2)`.
pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_open, short) = shorten(path)?;
    UnixStream::connect(short).await
}

/// Binds a fresh listening socket, replacing what an earlier process left.
pub(super) fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let (_open, short) = shorten(path)?;
    Ok(UnixListener::bind(short)?.into())
}

/// The path by way of its open directory, which must stay open while the path is used.
fn shorten(path: &Path) -> io::Result<(File, PathBuf)> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let directory = File::open(path.parent().ok_or_else(invalid)?)?;
    let name = path.file_name().ok_or_else(invalid)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((directory, short))
}
