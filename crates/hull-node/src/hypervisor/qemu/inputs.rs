//! Opens what a machine is made of and numbers the descriptors: from a [`VmmSpec`] to a [`Plan`] and its descriptors.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use hull_types::{
    error::{Error, Result},
    vm::{Accel, Firmware, Profile},
};
use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketFlags, SocketType},
};

use super::{
    cmdline::{DiskPlan, FilePlan, FirmwarePlan, KernelPlan, NicPlan, Plan},
    log,
    record::Files,
    root::Given,
    shape::{NicSeat, Shape},
    sockets,
};
use crate::{
    hypervisor::{BackingSpec, DiskSpec, KernelSpec, NicSpec, VmmSpec},
    network::loose_tap,
};

const OVMF: &str = "/usr/share/OVMF";

/// A machine ready to be started.
pub(super) struct Inputs {
    pub plan: Plan,
    /// Descriptors with the numbers the plan uses.
    pub fds: Vec<(OwnedFd, i32)>,
    /// Files QEMU opens by path.
    pub given: Vec<Given>,
    /// Where swtpm shall listen.
    pub tpm: Option<OwnedFd>,
}

/// Opens everything. `uid` is the user QEMU will have.
pub(super) fn open(spec: VmmSpec, shape: Shape, accel: Accel, uid: u32) -> Result<Inputs> {
    check(&spec)?;
    let files = Files::new(&spec.dir);
    let mut opened = Opened::default();
    let mut tpm = None;
    let tpm_fd = match spec.tpm {
        true => {
            let (qemus, swtpms) = socket_pair().map_err(|e| cannot_open("a channel to the TPM", &spec.dir, &e))?;
            tpm = Some(swtpms);
            Some(opened.number(qemus))
        }
        false => None,
    };
    let firmware = match (spec.profile, spec.firmware) {
        (Profile::Pc, Firmware::Uefi) => Some(open_firmware(&spec, &mut opened)?),
        (Profile::Pc, Firmware::Bios) | (Profile::Micro, _) => None,
    };
    let disks = spec.disks.iter().map(|disk| open_disk(disk, &mut opened)).collect::<Result<_>>()?;
    let mut given = Vec::new();
    let kernel = spec.kernel.as_ref().map(|kernel| find_kernel(kernel, &spec.dir, uid, &mut given)).transpose()?;
    let mut given_nics = spec.nics;
    let seats = shape.nics.iter().flatten();
    let nics = seats.map(|seat| Ok(NicPlan { seat: *seat, tap_fd: opened.number(cable(seat, &mut given_nics)?) }));
    let nics = nics.collect::<Result<_>>()?;
    let mut listen = |path: PathBuf| {
        let socket = sockets::listen(&path).map_err(|error| cannot_open("a socket", &path, &error))?;
        Ok::<_, Error>(opened.number(socket))
    };
    let (qmp_fd, serial_fd, agent_fd) = (listen(files.qmp())?, listen(files.serial())?, listen(files.agent())?);
    let console_log = files.console_log();
    let log = log::open(&console_log).map_err(|error| cannot_open("the console log", &console_log, &error))?;
    let plan = Plan {
        vm: spec.vm,
        name: spec.name,
        profile: spec.profile,
        accel,
        shape,
        firmware,
        tpm_fd,
        disks,
        kernel,
        nics,
        qmp_fd,
        serial_fd,
        agent_fd,
        console_log_fd: opened.number(log.into()),
        incoming: spec.restore.is_some(),
    };
    Ok(Inputs { plan, fds: opened.fds, given, tpm })
}

/// The host's side of a NIC. One that a restored machine still has, though its port is not its any more, leads nowhere
/// until it is unplugged: the state of a machine fits only with all its devices.
fn cable(seat: &NicSeat, given: &mut Vec<NicSpec>) -> Result<OwnedFd> {
    match given.iter().position(|nic| nic.port == seat.port && nic.mac == seat.mac) {
        Some(at) => Ok(given.swap_remove(at).tap),
        None => loose_tap(),
    }
}

/// Refuses what no machine can be made of, before anything is opened.
fn check(spec: &VmmSpec) -> Result<()> {
    let micro = spec.profile == Profile::Micro;
    if micro && spec.kernel.is_none() {
        return Err(
            Error::invalid("a VM of profile micro needs a kernel to boot: its image names none").at("/boot/kernel")
        );
    }
    if micro && (spec.firmware == Firmware::Uefi || spec.secure_boot || spec.tpm) {
        return Err(Error::unsupported(
            "a VM of profile micro has neither UEFI nor secure boot nor a TPM: use profile pc",
        ));
    }
    if spec.secure_boot && spec.firmware != Firmware::Uefi {
        return Err(Error::invalid("secure boot needs UEFI firmware").at("/boot/secure_boot"));
    }
    // Ids become parts of QEMU's options, and the disk's serial number, of which virtio has room for 20 bytes.
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match spec.disks.iter().find(|disk| disk.id.is_empty() || disk.id.len() > 20 || !disk.id.chars().all(plain)) {
        Some(disk) => Err(Error::invalid(format!("{:?} is no disk id: 1 to 20 letters, digits and dashes", disk.id))),
        None => Ok(()),
    }
}

fn cannot_open(what: &str, path: &Path, error: &io::Error) -> Error {
    let detail = format!("cannot open {what} at {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::NotFound => Error::not_found(detail),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::insufficient(detail),
        _ => Error::internal(detail),
    }
}

/// Descriptors on their way, numbered from 3 up.
#[derive(Default)]
struct Opened {
    fds: Vec<(OwnedFd, i32)>,
}

impl Opened {
    fn number(&mut self, fd: OwnedFd) -> i32 {
        // A machine has a few dozen descriptors.
        let number = i32::try_from(self.fds.len()).unwrap_or(i32::MAX - 3) + 3;
        self.fds.push((fd, number));
        number
    }
}

fn open_disk(disk: &DiskSpec, opened: &mut Opened) -> Result<DiskPlan> {
    let top = BackingSpec { path: disk.path.clone(), qcow2: disk.qcow2 };
    let mut chain = Vec::new();
    for (depth, file) in std::iter::once(&top).chain(&disk.backing).enumerate() {
        let write = depth == 0 && !disk.read_only;
        // A link in place of a disk would be someone's trick.
        let open =
            OpenOptions::new().read(true).write(write).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(&file.path);
        let open = open.map_err(|error| cannot_open(&format!("disk {}", disk.id), &file.path, &error))?;
        chain.push(FilePlan { fd: opened.number(open.into()), qcow2: file.qcow2 });
    }
    Ok(DiskPlan { id: disk.id.clone(), read_only: disk.read_only, boot_index: disk.boot_index, chain })
}

/// OVMF's code is the host's; its variables are the VM's own and stay with it.
fn open_firmware(spec: &VmmSpec, opened: &mut Opened) -> Result<FirmwarePlan> {
    // With secure boot: variables that hold Microsoft's keys, and code that needs SMM to change them.
    let (code, template, own) = match spec.secure_boot {
        true => ("OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd", "efi-vars-secure.fd"),
        false => ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", "efi-vars.fd"),
    };
    let missing = |path: &Path, error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            Error::insufficient(format!("{} is missing on this node: install the package ovmf", path.display()))
        }
        _ => cannot_open("UEFI firmware", path, error),
    };
    let (code, template, own) = (Path::new(OVMF).join(code), Path::new(OVMF).join(template), spec.dir.join(own));
    let code_file = File::open(&code).map_err(|error| missing(&code, &error))?;
    if !own.exists() {
        let content = std::fs::read(&template).map_err(|error| missing(&template, &error))?;
        let temporary = own.with_extension("new");
        let make = || {
            std::fs::write(&temporary, content)?;
            File::open(&temporary)?.sync_all()?;
            std::fs::rename(&temporary, &own)
        };
        make().map_err(|error| cannot_open("UEFI variables", &own, &error))?;
    }
    let vars = OpenOptions::new().read(true).write(true).open(&own);
    let vars = vars.map_err(|error| cannot_open("UEFI variables", &own, &error))?;
    Ok(FirmwarePlan {
        secure_boot: spec.secure_boot,
        code_fd: opened.number(code_file.into()),
        vars_fd: opened.number(vars.into()),
    })
}

/// QEMU opens kernels by path only: it gets one in its own root.
fn find_kernel(spec: &KernelSpec, dir: &Path, uid: u32, given: &mut Vec<Given>) -> Result<KernelPlan> {
    let mut hand_over = |path: &Path, at: &'static str| {
        let copy = dir.join(at.trim_start_matches('/'));
        let source = readable_by(path, copy, uid).map_err(|error| cannot_open("a kernel file", path, &error))?;
        given.push(Given { source, at });
        Ok::<_, Error>(at.to_owned())
    };
    let kernel = hand_over(&spec.kernel, "/kernel")?;
    let initrd = spec.initrd.as_deref().map(|initrd| hand_over(initrd, "/initrd")).transpose()?;
    let linux = is_linux(&spec.kernel).map_err(|error| cannot_open("the kernel", &spec.kernel, &error))?;
    Ok(KernelPlan { kernel, initrd, cmdline: spec.cmdline.clone(), linux })
}

/// The file itself where everyone may read it, else a copy that this user may.
fn readable_by(path: &Path, copy: PathBuf, uid: u32) -> io::Result<PathBuf> {
    if std::fs::metadata(path)?.mode() & 0o004 != 0 {
        return Ok(path.to_owned());
    }
    super::record::remove(&copy)?;
    reflink_copy::reflink_or_copy(path, &copy)?;
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o400))?;
    std::os::unix::fs::chown(&copy, Some(uid), Some(uid))?;
    Ok(copy)
}

/// `HdrS` at 0x202: the boot protocol of Linux/x86 (its Documentation/arch/x86/boot.rst).
fn is_linux(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut magic = [0; 4];
    match File::open(path)?.read_exact_at(&mut magic, 0x202) {
        Ok(()) => Ok(&magic == b"HdrS"),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// The group that may use a device, where others may not.
pub(super) fn device_group(path: &Path) -> Option<u32> {
    let device = std::fs::metadata(path).ok()?;
    (Mode::from_raw_mode(device.mode()) & Mode::ROTH).is_empty().then(|| device.gid()).filter(|gid| *gid != 0)
}
