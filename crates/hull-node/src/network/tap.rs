//! Taps: a guest's end of the cable, as a descriptor.

use std::{
    fs::OpenOptions,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use hull_types::error::{Error, Result};
use rustix::{
    fd::AsFd,
    io::Errno,
    ioctl::{self, Setter, opcode},
    thread::{UnshareFlags, unshare_unsafe},
};

/// linux/if_tun.h
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUNSETIFF: ioctl::Opcode = opcode::write::<i32>(b'T', 202);

/// How long an earlier holder (a hypervisor that is just ending) may keep the tap.
const HELD: Duration = Duration::from_secs(5);

/// `struct ifreq` of linux/if.h, as far as `TUNSETIFF` reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Opens the tap of this name in the thread's namespace, making it where there is none. Blocking.
///
/// A tap has one queue, so it can be open once only: while somebody else has it this waits a little, then fails.
pub(crate) fn open(name: &str) -> Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(|error| {
        Error::insufficient(format!("/dev/net/tun cannot be opened: {error}; `modprobe tun` may mend it"))
    })?;
    let deadline = Instant::now() + HELD;
    loop {
        match attach(&file, name) {
            Ok(()) => return Ok(file.into()),
            Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Err(Errno::BUSY) => {
                return Err(Error::conflict(format!(
                    "the tap {name} is held by another process; is the VM's hypervisor still running?"
                )));
            }
            Err(error) => return Err(Error::unavailable(format!("the tap {name} cannot be made: {error}"))),
        }
    }
}

/// A tap that leads nowhere: in a namespace of its own, which goes with the descriptor. Blocking.
pub(crate) fn loose() -> Result<OwnedFd> {
    let failed = |error: &dyn std::fmt::Display| Error::unavailable(format!("no tap can be made: {error}"));
    let apart = std::thread::Builder::new().name("loose-tap".into()).spawn(|| {
        // SAFETY: no descriptor table is unshared.
        match unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
            Ok(()) => open("loose0"),
            Err(error) => Err(Error::unavailable(format!("no network namespace can be made: {error}"))),
        }
    });
    let opened = apart.map_err(|error| failed(&error))?.join();
    opened.map_err(|_| failed(&"its thread ended"))?
}

fn attach(file: impl AsFd, name: &str) -> Result<(), Errno> {
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    let bytes = name.as_bytes();
    // The last byte stays zero: the kernel wants a C string.
    let length = bytes.len().min(15);
    request.name[..length].copy_from_slice(&bytes[..length]);
    // SAFETY: TUNSETIFF reads a `struct ifreq` from the pointer, which is what `InterfaceRequest` is laid out as.
    unsafe { ioctl::ioctl(file, Setter::<TUNSETIFF, InterfaceRequest>::new(request)) }
}
