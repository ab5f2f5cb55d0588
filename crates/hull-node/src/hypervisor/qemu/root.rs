//! The file system a confined process sees: a tiny one of its own, made for it and gone with it.
//!
//! ```text
//!   /                 a tmpfs, read-only
//!   ├── usr/lib …     the host's libraries and firmware, read-only            (bind mounts)
//!   ├── usr/bin/qemu… the one program                                         (bind mount)
//!   ├── dev/          null, zero, random, urandom; kvm where it is used       (bind mounts)
//!   ├── kernel …      files it is given by path, read-only                    (bind mounts)
//!   └── home/         a directory of its own, where it has one                (bind mount, writable)
//! ```
//!
//! No `/proc`, no `/sys`, no `/tmp`, no `/etc`, nothing of Hull's or of another VM's. What is not there needs no
//! permission bits to be kept from it; Landlock (see [`super::confine`]) says the same again, in another way.
//!
//! The steps are made out before the fork, since after it nothing may be allocated, and taken after it.

use std::{
    ffi::CString,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
};

/// Libraries and firmware: readable by everyone on the host anyway. What is not on this host is left out.
const SYSTEM: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    // Debian's choices between libraries are links in here.
    "/etc/alternatives",
    "/usr/share/qemu",
    "/usr/share/seabios",
    "/usr/share/seavgabios",
    "/usr/share/ipxe",
    "/usr/share/OVMF",
    "/usr/share/ovmf",
    "/usr/share/edk2",
    "/usr/local/share/qemu",
];

/// Devices that tell and change nothing.
pub(super) const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/// Where its own directory is.
const HOME: &str = "/home";

/// A file that a process is given by path.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// On the host.
    pub source: PathBuf,
    /// What the process calls it.
    pub at: &'static str,
}

/// What a root is made of.
pub(super) struct Parts<'a> {
    /// An empty directory of the host's to mount it on, out of others' sight.
    pub mount_on: &'a Path,
    pub program: &'a Path,
    pub devices: &'a [PathBuf],
    pub given: &'a [Given],
    pub home: Option<&'a Path>,
}

/// How to make a root, ready to be done between fork and exec.
#[derive(Debug)]
pub(super) struct Root {
    mount_on: CString,
    /// Paths without the leading slash: they begin at the new root, where the steps are taken.
    steps: Vec<Step>,
    home: Option<CString>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Directory(CString),
    File(CString),
    Link { to: CString, at: CString },
    Bind { source: CString, at: CString, flags: MountFlags },
}

/// Paths of the host's that are in every root, as they are here.
pub(super) fn system() -> impl Iterator<Item = &'static Path> {
    SYSTEM.iter().map(Path::new).filter(|path| path.symlink_metadata().is_ok())
}

/// Whether a root has this file anyway.
pub(super) fn has(program: &Path) -> bool {
    system().any(|part| program.starts_with(part))
}

impl Root {
    /// Looks at the host and makes out the steps.
    pub(super) fn plan(parts: &Parts<'_>) -> io::Result<Self> {
        let mut steps = Steps::default();
        for path in system() {
            match std::fs::read_link(path) {
                Ok(to) => steps.link(&to, path)?,
                Err(_) => steps.bind(path, path, read_only())?,
            }
        }
        if !has(parts.program) {
            steps.bind(parts.program, parts.program, read_only())?;
        }
        for device in DEVICES.iter().map(Path::new).chain(parts.devices.iter().map(PathBuf::as_path)) {
            steps.bind(device, device, MountFlags::NOSUID | MountFlags::NOEXEC)?;
        }
        for file in parts.given {
            steps.bind(&file.source, Path::new(file.at), read_only() | MountFlags::NOEXEC)?;
        }
        if let Some(home) = parts.home {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            steps.bind(home, Path::new(HOME), flags)?;
        }
        let home = parts.home.map(|_| CString::new(HOME)).transpose()?;
        Ok(Self { mount_on: path(parts.mount_on)?, steps: steps.0, home })
    }

    /// Makes it and makes it the process's root and working directory. In a mount namespace of its own, as root.
    pub(super) fn enter(&self) -> rustix::io::Result<()> {
        // The process's user passes through what is made here, whatever Hull was started with.
        rustix::process::umask(Mode::from_raw_mode(0o022));
        // Nothing of what follows may reach the host's own view.
        rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount(c"hull", &*self.mount_on, c"tmpfs", flags, c"mode=0755,size=64k,nr_inodes=256")?;
        rustix::process::chdir(&*self.mount_on)?;
        for step in &self.steps {
            take(step)?;
        }
        rustix::process::pivot_root(c".", c".")?;
        // The old root lies over the new one, in the same place, until it is let go of.
        rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
        rustix::mount::mount_remount(c"/", flags | MountFlags::RDONLY | MountFlags::BIND, c"")?;
        rustix::process::umask(Mode::from_raw_mode(0o077));
        rustix::process::chdir(self.home.as_deref().unwrap_or(c"/"))
    }
}

fn take(step: &Step) -> rustix::io::Result<()> {
    match step {
        Step::Directory(at) => unless_there(rustix::fs::mkdir(&**at, Mode::from_raw_mode(0o755))),
        Step::File(at) => {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::open(&**at, flags, Mode::from_raw_mode(0o444)).map(drop)
        }
        Step::Link { to, at } => unless_there(rustix::fs::symlink(&**to, &**at)),
        Step::Bind { source, at, flags } => {
            rustix::mount::mount_bind(&**source, &**at)?;
            // A bind mount takes its flags only when it is there.
            rustix::mount::mount_remount(&**at, *flags | MountFlags::BIND, c"")
        }
    }
}

fn unless_there(outcome: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match outcome {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn read_only() -> MountFlags {
    MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn bind(&mut self, source: &Path, at: &Path, flags: MountFlags) -> io::Result<()> {
        let directory = std::fs::metadata(source)?.is_dir();
        self.parents(at)?;
        let inside = inside(at)?;
        self.0.push(if directory { Step::Directory(inside.clone()) } else { Step::File(inside.clone()) });
        self.0.push(Step::Bind { source: path(source)?, at: inside, flags });
        Ok(())
    }

    fn link(&mut self, to: &Path, at: &Path) -> io::Result<()> {
        self.parents(at)?;
        self.0.push(Step::Link { to: path(to)?, at: inside(at)? });
        Ok(())
    }

    fn parents(&mut self, at: &Path) -> io::Result<()> {
        let mut parents: Vec<&Path> = at.ancestors().skip(1).filter(|parent| parent.parent().is_some()).collect();
        parents.reverse();
        for parent in parents {
            let step = Step::Directory(inside(parent)?);
            if !self.0.contains(&step) {
                self.0.push(step);
            }
        }
        Ok(())
    }
}

fn path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// The path as seen from the root.
fn inside(at: &Path) -> io::Result<CString> {
    path(at.strip_prefix("/").map_err(io::Error::other)?)
}

#[cfg(test)]
impl Step {
    fn target(&self) -> &std::ffi::CStr {
        match self {
            Self::Directory(at) | Self::File(at) | Self::Link { at, .. } | Self::Bind { at, .. } => at,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_root_holds_what_is_named_and_parents_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("qemu");
        std::fs::write(&program, "").unwrap();
        let given = [Given { source: program.clone(), at: "/kernel" }];
        let parts = Parts {
            mount_on: Path::new("/run/hull/root"),
            program: &program,
            devices: &[],
            given: &given,
            home: Some(dir.path()),
        };
        let root = Root::plan(&parts).unwrap();
        let targets: Vec<&str> = root.steps.iter().map(|step| step.target().to_str().unwrap()).collect();
        for (index, target) in targets.iter().enumerate() {
            let parent = Path::new(target).parent().unwrap().to_str().unwrap();
            assert!(parent.is_empty() || targets[..index].contains(&parent), "{target} before {parent}");
        }
        let writable: Vec<&str> = root
            .steps
            .iter()
            .filter(|step| matches!(step, Step::Bind { flags, .. } if !flags.contains(MountFlags::RDONLY)))
            .map(|step| step.target().to_str().unwrap())
            .collect();
        assert_eq!(writable, ["dev/null", "dev/zero", "dev/random", "dev/urandom", "home"]);
        assert!(targets.contains(&"kernel") && !targets.iter().any(|target| target.starts_with("proc")));
        assert_eq!(root.home.as_deref(), Some(c"/home"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named_so() {
        let nowhere = Path::new("/nowhere/qemu");
        let parts =
            Parts { mount_on: Path::new("/run/hull/root"), program: nowhere, devices: &[], given: &[], home: None };
        assert_eq!(Root::plan(&parts).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
