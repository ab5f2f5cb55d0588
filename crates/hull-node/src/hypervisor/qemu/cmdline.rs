//! What QEMU is told, as a pure function of a [`Plan`].
//!
//! Choices a reader may wonder about:
//!
//! * **Disks** are files handed over as descriptors (`/dev/fdset/N`), so QEMU's user can reach no image by path. They go
//!   through the page cache and every flush of the guest is an `fdatasync` of ours (`cache.no-flush=off`): a write the
//!   guest was told is safe, is. `aio=threads`, because with the page cache io_uring only moves the same work to the
//!   kernel's own threads. A qcow2's own idea of its backing file is overridden, see [`super::super::DiskSpec::backing`].
//! * **Memory** is a shared memfd, so that a clone or a migration can map it later.
//! * **`pc`** has each disk and NIC behind a PCIe root port of its own and a few spare ports; CPUs and memory may grow
//!   while it runs, NICs come and go ([`Shape`] says who sits where, so that saved memory finds them there again).
//! * **`micro`** has ACPI: Debian's kernels find virtio-mmio devices and further CPUs by nothing else, and the guest's
//!   power button and power-off need it. Under TCG the kernel's clock calibration hangs in a fifth of all boots unless it
//!   is told the answers ([`TCG_CLOCK`]).
//! * When the guest turns itself off or panics, the process stays, halted (`-action`), so that the cause can be read.

use hull_types::{
    id::{PortId, VmId},
    units::Bytes,
    vm::{Accel, Profile},
};
use serde_json::{Value, json};

use super::{
    shape::{NicSeat, Shape},
    translations,
};

/// Kernel words that spare a Linux the calibration of its clocks, which hangs on microvm with ACPI under TCG.
pub(super) const TCG_CLOCK: &str = "tsc_early_khz=2000000 lpj=4000000";

/// Everything the command line depends on. Numbers named `fd` are descriptors in QEMU's process; each is also the
/// number of its fdset where it has one.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub vm: VmId,
    pub name: String,
    pub profile: Profile,
    pub accel: Accel,
    pub shape: Shape,
    pub firmware: Option<FirmwarePlan>,
    pub tpm_fd: Option<i32>,
    pub disks: Vec<DiskPlan>,
    pub kernel: Option<KernelPlan>,
    pub nics: Vec<NicPlan>,
    pub qmp_fd: i32,
    pub serial_fd: i32,
    pub agent_fd: i32,
    pub console_log_fd: i32,
    /// Wait for the machine's state instead of starting afresh.
    pub incoming: bool,
}

/// UEFI firmware: code to execute, variables to keep.
#[derive(Clone, Debug)]
pub(super) struct FirmwarePlan {
    pub secure_boot: bool,
    pub code_fd: i32,
    pub vars_fd: i32,
}

#[derive(Clone, Debug)]
pub(super) struct DiskPlan {
    pub id: String,
    pub read_only: bool,
    pub boot_index: Option<u8>,
    /// The file, then what it stands on.
    pub chain: Vec<FilePlan>,
}

#[derive(Clone, Debug)]
pub(super) struct FilePlan {
    pub fd: i32,
    pub qcow2: bool,
}

#[derive(Clone, Debug)]
pub(super) struct KernelPlan {
    /// A path QEMU's process can open.
    pub kernel: String,
    pub initrd: Option<String>,
    pub cmdline: String,
    /// Whether it is a Linux (or says so): it may be given [`TCG_CLOCK`].
    pub linux: bool,
}

#[derive(Clone, Debug)]
pub(super) struct NicPlan {
    pub seat: NicSeat,
    pub tap_fd: i32,
}

/// QEMU's arguments, without the program.
pub(super) fn arguments(plan: &Plan) -> Vec<String> {
    let mut line = Line::default();
    base(plan, &mut line);
    machine(plan, &mut line);
    channels(plan, &mut line);
    match plan.profile {
        Profile::Pc => pc_devices(plan, &mut line),
        Profile::Micro => micro_devices(plan, &mut line),
    }
    for disk in &plan.disks {
        disk_files(disk, &mut line);
    }
    for nic in &plan.nics {
        line.add("-netdev", format!("tap,id={},fd={},vhost=off", netdev(nic.seat.port), nic.tap_fd));
    }
    devices(plan, &mut line);
    if let Some(kernel) = &plan.kernel {
        direct_kernel(plan, kernel, &mut line);
    }
    if plan.incoming {
        line.add("-incoming", "defer");
    }
    line.0
}

#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.push(option.to_owned());
        self.0.push(value.into());
    }

    fn flag(&mut self, option: &str) {
        self.0.push(option.to_owned());
    }

    fn device(&mut self, device: &Value) {
        self.add("-device", device.to_string());
    }

    /// Makes a descriptor openable as `/dev/fdset/N`.
    fn fdset(&mut self, fd: i32) -> String {
        self.add("-add-fd", format!("fd={fd},set={fd}"));
        format!("/dev/fdset/{fd}")
    }
}

fn base(plan: &Plan, line: &mut Line) {
    line.add("-name", format!("guest={},debug-threads=on", plan.name.replace(',', ",,")));
    line.add("-uuid", plan.vm.to_string());
    line.flag("-nodefaults");
    line.flag("-no-user-config");
    line.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    line.add("-action", "shutdown=pause,panic=pause,reboot=reset,watchdog=reset");
    line.add("-msg", "timestamp=on");
    line.add("-rtc", "base=utc");
    // The first instruction waits for our record of the process.
    line.flag("-S");
}

fn machine(plan: &Plan, line: &mut Line) {
    let secure = plan.firmware.as_ref().is_some_and(|firmware| firmware.secure_boot);
    let mut machine = match plan.profile {
        Profile::Pc => format!("q35,memory-backend=ram0,vmport=off,smm={}", if secure { "on" } else { "off" }),
        Profile::Micro => "microvm,memory-backend=ram0,acpi=on,isa-serial=on,auto-kernel-cmdline=off".to_owned(),
    };
    if let Some(firmware) = &plan.firmware {
        machine.push_str(",pflash0=fw-code,pflash1=fw-vars");
        pflash("fw-code", firmware.code_fd, true, line);
        pflash("fw-vars", firmware.vars_fd, false, line);
        if secure {
            line.add("-global", "driver=cfi.pflash01,property=secure,value=on");
            line.add("-global", "ICH9-LPC.disable_s3=1");
        }
    }
    line.add("-machine", machine);
    match plan.accel {
        Accel::Kvm => {
            line.add("-accel", "kvm");
            line.add("-cpu", "host,migratable=on");
        }
        // Five-level paging costs a walk and buys nothing.
        Accel::Tcg => {
            line.add("-accel", format!("tcg,thread=multi,tb-size={}", translations::room(plan.shape.memory).as_mib()));
            line.add("-cpu", "max,la57=off");
        }
    }
    let shape = &plan.shape;
    line.add(
        "-smp",
        format!("cpus={},maxcpus={max},sockets=1,cores={max},threads=1", shape.vcpus, max = shape.max_vcpus),
    );
    let mib = shape.memory.as_mib();
    line.add("-object", memory("ram0", shape.memory));
    if shape.max_memory > shape.memory {
        line.add("-m", format!("size={mib}M,slots={},maxmem={}M", shape.dimm_slots, shape.max_memory.as_mib()));
    } else {
        line.add("-m", format!("size={mib}M"));
    }
}

/// A piece of guest memory that others can map later.
pub(super) fn memory(id: &str, size: Bytes) -> String {
    memory_object(id, size).to_string()
}

/// The same as a value, for `object-add`.
pub(super) fn memory_object(id: &str, size: Bytes) -> Value {
    json!({"qom-type": "memory-backend-memfd", "id": id, "size": size.0, "share": true})
}

fn pflash(node: &str, fd: i32, read_only: bool, line: &mut Line) {
    let filename = line.fdset(fd);
    let file = json!({"driver": "file", "filename": filename});
    let blockdev = json!({"driver": "raw", "node-name": node, "read-only": read_only, "file": file});
    line.add("-blockdev", blockdev.to_string());
}

/// Control, serial, guest agent: sockets that listen already.
fn channels(plan: &Plan, line: &mut Line) {
    let socket = |id: &str, fd: i32| format!("socket,id={id},fd={fd},server=on,wait=off");
    line.add("-chardev", socket("qmp", plan.qmp_fd));
    line.add("-mon", "chardev=qmp,mode=control");
    let log = line.fdset(plan.console_log_fd);
    line.add("-chardev", format!("{},logfile={log},logappend=on", socket("serial", plan.serial_fd)));
    line.add("-serial", "chardev:serial");
    line.add("-chardev", socket("agent", plan.agent_fd));
}

/// Fixed devices of a `pc`, and the ports its other devices plug into.
fn pc_devices(plan: &Plan, line: &mut Line) {
    // No address is listened on: each viewer's socket is handed over (`add_client`).
    line.add("-vnc", "none");
    line.add("-device", "VGA,vgamem_mb=16");
    line.add("-device", "qemu-xhci,id=usb");
    line.add("-device", "usb-tablet,bus=usb.0");
    line.add("-device", "vmgenid,guid=auto");
    line.add("-device", "pvpanic-pci");
    line.add("-device", "virtio-rng-pci");
    line.add("-device", "virtio-serial-pci,id=vserial");
    for port in 0..plan.shape.slots {
        line.add("-device", format!("pcie-root-port,id=port{port},chassis={}", port + 1));
    }
    if let Some(fd) = plan.tpm_fd {
        line.add("-chardev", format!("socket,id=tpm,fd={fd}"));
        line.add("-tpmdev", "emulator,id=tpm0,chardev=tpm");
        line.add("-device", "tpm-crb,tpmdev=tpm0");
    }
}

fn micro_devices(_plan: &Plan, line: &mut Line) {
    line.add("-display", "none");
    line.add("-device", "virtio-rng-device");
    line.add("-device", "virtio-serial-device,id=vserial");
}

fn disk_files(disk: &DiskPlan, line: &mut Line) {
    // From the bottom up: each overlay names the node beneath it, never a path.
    let mut below = Value::Null;
    for (depth, file) in disk.chain.iter().enumerate().rev() {
        let top = depth == 0;
        let read_only = disk.read_only || !top;
        let filename = line.fdset(file.fd);
        let protocol = json!({
            "driver": "file", "filename": filename, "aio": "threads", "read-only": read_only, "discard": "unmap",
            "cache": {"direct": false, "no-flush": false},
        });
        let node = if top { node_name(&disk.id) } else { format!("{}-{depth}", node_name(&disk.id)) };
        let mut format = json!({
            "driver": if file.qcow2 { "qcow2" } else { "raw" },
            "node-name": node,
            "read-only": read_only,
            "discard": "unmap",
            "cache": {"direct": false, "no-flush": false},
            "file": protocol,
        });
        if file.qcow2 {
            format["backing"] = below;
        }
        line.add("-blockdev", format.to_string());
        below = Value::from(node);
    }
}

/// The block node of a disk.
pub(super) fn node_name(disk: &str) -> String {
    format!("disk-{disk}")
}

/// The name of a NIC's host side.
pub(super) fn netdev(port: PortId) -> String {
    format!("net-{port}")
}

/// The name of a NIC.
pub(super) fn nic_name(port: PortId) -> String {
    format!("nic-{port}")
}

/// A NIC as it is at start and as it is plugged in later: the same, so that saved memory fits either way.
pub(super) fn nic_device(profile: Profile, seat: &NicSeat) -> Value {
    let driver = match profile {
        Profile::Pc => "virtio-net-pci",
        Profile::Micro => "virtio-net-device",
    };
    let mut device = json!({
        "driver": driver, "id": nic_name(seat.port), "netdev": netdev(seat.port),
        "mac": seat.mac.to_string(), "host_mtu": seat.mtu,
    });
    if profile == Profile::Pc {
        device["bus"] = json!(format!("port{}", seat.slot));
        // Nobody boots from the network here, and the ROM costs a second of every boot.
        device["romfile"] = json!("");
    }
    device
}

/// Disks, NICs, the agent's port, and what was plugged in later and is there again after a restore.
fn devices(plan: &Plan, line: &mut Line) {
    let pc = plan.profile == Profile::Pc;
    for (index, disk) in plan.disks.iter().enumerate() {
        let driver = if pc { "virtio-blk-pci" } else { "virtio-blk-device" };
        // A full host disk halts the guest instead of failing its writes; reads that fail are the guest's to know.
        let mut device = json!({
            "driver": driver, "id": disk.id, "drive": node_name(&disk.id), "serial": disk.id,
            "werror": "stop", "rerror": "report",
        });
        if pc {
            device["bus"] = json!(format!("port{index}"));
        }
        // A kernel loaded directly takes the first place itself, and QEMU refuses two at one place.
        if let (None, Some(boot_index)) = (&plan.kernel, disk.boot_index) {
            device["bootindex"] = json!(boot_index);
        }
        line.device(&device);
    }
    for nic in &plan.nics {
        line.device(&nic_device(plan.profile, &nic.seat));
    }
    line.add("-device", "virtserialport,bus=vserial.0,chardev=agent,name=org.qemu.guest_agent.0");
    for (index, size) in plan.shape.dimms.iter().enumerate() {
        line.add("-object", memory(&format!("dimm{index}-ram"), *size));
        line.add("-device", format!("pc-dimm,id=dimm{index},memdev=dimm{index}-ram"));
    }
    for core in &plan.shape.plugged_cpus {
        let cpu = if plan.accel == Accel::Kvm { "host" } else { "max" };
        line.add("-device", format!("{cpu}-x86_64-cpu,id=cpu{core},socket-id=0,core-id={core},thread-id=0"));
    }
}

fn direct_kernel(plan: &Plan, kernel: &KernelPlan, line: &mut Line) {
    line.add("-kernel", kernel.kernel.clone());
    if let Some(initrd) = &kernel.initrd {
        line.add("-initrd", initrd.clone());
    }
    let calibrates = kernel.linux && plan.profile == Profile::Micro && plan.accel == Accel::Tcg;
    let mut words = kernel.cmdline.clone();
    for word in TCG_CLOCK.split(' ').filter(|_| calibrates) {
        // What the image's maker said of a clock stands.
        let name = word.split('=').next().unwrap_or(word);
        if !words.split(' ').any(|given| given.starts_with(name)) {
            words.push(' ');
            words.push_str(word);
        }
    }
    if !words.is_empty() {
        line.add("-append", words.trim().to_owned());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
