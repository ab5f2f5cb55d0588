//! What QEMU is told, by what is asked.

use hull_types::{flavor::Resources, network::Mac};

use super::*;
use crate::hypervisor::PluggedNic;

fn plan(profile: Profile) -> Plan {
    let size = Resources { vcpus: 2, memory: Bytes::mib(512), disk: Bytes::ZERO };
    let port = PortId(uuid::Uuid::nil());
    let mut shape = Shape::new(profile, size);
    shape.seat(profile, 1, [(PluggedNic { port, mac: Mac([0x52, 0x54, 0, 1, 2, 3]) }, 1450)]);
    let seat = shape.nics.as_ref().unwrap()[0];
    Plan {
        vm: VmId(uuid::Uuid::nil()),
        name: "web,1".into(),
        profile,
        accel: Accel::Tcg,
        shape,
        firmware: None,
        tpm_fd: None,
        disks: vec![DiskPlan {
            id: "root".into(),
            read_only: false,
            boot_index: Some(0),
            chain: vec![FilePlan { fd: 3, qcow2: true }, FilePlan { fd: 4, qcow2: false }],
        }],
        kernel: None,
        nics: vec![NicPlan { seat, tap_fd: 5 }],
        qmp_fd: 6,
        serial_fd: 7,
        agent_fd: 8,
        console_log_fd: 9,
        incoming: false,
    }
}

/// All values of an option.
fn values<'a>(arguments: &'a [String], option: &str) -> Vec<&'a str> {
    arguments.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].as_str()).collect()
}

fn objects(arguments: &[String], option: &str) -> Vec<Value> {
    values(arguments, option).into_iter().filter_map(|text| serde_json::from_str(text).ok()).collect()
}

#[test]
fn every_machine_is_sandboxed_halted_at_first_and_stays_when_the_guest_ends() {
    for profile in [Profile::Pc, Profile::Micro] {
        let line = arguments(&plan(profile));
        for flag in ["-nodefaults", "-no-user-config", "-S"] {
            assert!(line.iter().any(|argument| argument == flag), "{flag}");
        }
        assert_eq!(
            values(&line, "-sandbox"),
            ["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
        );
        assert_eq!(values(&line, "-action"), ["shutdown=pause,panic=pause,reboot=reset,watchdog=reset"]);
        assert_eq!(values(&line, "-name"), ["guest=web,,1,debug-threads=on"]);
        assert!(values(&line, "-chardev").contains(&"socket,id=qmp,fd=6,server=on,wait=off"));
        let memory = &objects(&line, "-object")[0];
        assert_eq!((&memory["qom-type"], &memory["share"]), (&json!("memory-backend-memfd"), &json!(true)));
    }
}

#[test]
fn no_image_is_named_by_path_and_flushes_are_honoured() {
    let line = arguments(&plan(Profile::Pc));
    let nodes = objects(&line, "-blockdev");
    let [base, top] = nodes.as_slice() else { panic!("{nodes:?}") };
    assert_eq!(
        (&base["node-name"], &base["read-only"], &base["file"]["filename"]),
        (&json!("disk-root-1"), &json!(true), &json!("/dev/fdset/4"))
    );
    assert_eq!(
        (&top["node-name"], &top["backing"], &top["file"]["filename"]),
        (&json!("disk-root"), &json!("disk-root-1"), &json!("/dev/fdset/3"))
    );
    assert_eq!(top["cache"], json!({"direct": false, "no-flush": false}));
    assert!(values(&line, "-add-fd").contains(&"fd=3,set=3"));
}

#[test]
fn an_overlay_on_nothing_says_so_rather_than_believing_its_header() {
    let mut plan = plan(Profile::Pc);
    plan.disks[0].chain.truncate(1);
    let top = &objects(&arguments(&plan), "-blockdev")[0];
    assert_eq!(top.get("backing"), Some(&Value::Null));
}

#[test]
fn a_pc_plugs_each_disk_and_nic_into_a_port_and_has_spare_ones() {
    let line = arguments(&plan(Profile::Pc));
    let ports = values(&line, "-device").into_iter().filter(|device| device.starts_with("pcie-root-port")).count();
    assert_eq!(ports, 1 + 1 + usize::from(super::super::shape::SPARE_SLOTS));
    let devices = objects(&line, "-device");
    assert_eq!((&devices[0]["driver"], &devices[0]["bus"]), (&json!("virtio-blk-pci"), &json!("port0")));
    assert_eq!(
        (&devices[1]["driver"], &devices[1]["bus"], &devices[1]["mac"], &devices[1]["host_mtu"]),
        (&json!("virtio-net-pci"), &json!("port1"), &json!("52:54:00:01:02:03"), &json!(1450))
    );
    assert_eq!(values(&line, "-smp"), ["cpus=2,maxcpus=8,sockets=1,cores=8,threads=1"]);
    assert_eq!(values(&line, "-m"), ["size=512M,slots=16,maxmem=5120M"]);
}

#[test]
fn a_kernel_loaded_directly_is_what_boots() {
    let line = arguments(&plan(Profile::Pc));
    assert_eq!(objects(&line, "-device")[0]["bootindex"], json!(0));
    let kernel = KernelPlan { kernel: "/proc/self/fd/9".into(), initrd: None, cmdline: String::new(), linux: true };
    let line = arguments(&Plan { kernel: Some(kernel), ..plan(Profile::Pc) });
    assert_eq!(objects(&line, "-device")[0].get("bootindex"), None);
}

#[test]
fn a_micro_is_told_the_clock_under_tcg_only_and_only_if_linux() {
    let told = |accel, linux, cmdline: &str| {
        let kernel = KernelPlan { kernel: "/proc/self/fd/9".into(), initrd: None, cmdline: cmdline.into(), linux };
        let plan = Plan { accel, kernel: Some(kernel), ..plan(Profile::Micro) };
        values(&arguments(&plan), "-append").first().map(|text| (*text).to_owned())
    };
    assert_eq!(told(Accel::Tcg, true, "quiet").unwrap(), format!("quiet {TCG_CLOCK}"));
    assert_eq!(told(Accel::Tcg, true, "lpj=1").unwrap(), "lpj=1 tsc_early_khz=2000000");
    assert_eq!(told(Accel::Kvm, true, "quiet").unwrap(), "quiet");
    assert_eq!(told(Accel::Tcg, false, ""), None);
}

#[test]
fn what_was_plugged_in_is_there_again_after_a_restore() {
    let mut plan = plan(Profile::Pc);
    plan.incoming = true;
    plan.shape.dimms = vec![Bytes::mib(256)];
    plan.shape.plugged_cpus = vec![2];
    let line = arguments(&plan);
    let devices = values(&line, "-device");
    assert!(devices.contains(&"pc-dimm,id=dimm0,memdev=dimm0-ram"));
    assert!(devices.contains(&"max-x86_64-cpu,id=cpu2,socket-id=0,core-id=2,thread-id=0"));
    assert_eq!(values(&line, "-incoming"), ["defer"]);
}

#[test]
fn secure_boot_protects_its_variables() {
    let firmware = Some(FirmwarePlan { secure_boot: true, code_fd: 20, vars_fd: 21 });
    let line = arguments(&Plan { firmware, tpm_fd: Some(22), ..plan(Profile::Pc) });
    let machine = values(&line, "-machine")[0];
    assert!(machine.contains("smm=on") && machine.contains("pflash0=fw-code,pflash1=fw-vars"));
    assert!(values(&line, "-global").contains(&"driver=cfi.pflash01,property=secure,value=on"));
    assert!(values(&line, "-chardev").contains(&"socket,id=tpm,fd=22"));
}

#[test]
fn room_for_translations_grows_with_the_guest_within_bounds() {
    for (memory, room) in [(256, 32), (512, 32), (1024, 64), (2048, 128), (65_536, 128)] {
        let mut plan = plan(Profile::Pc);
        plan.shape.memory = Bytes::mib(memory);
        assert_eq!(values(&arguments(&plan), "-accel"), [format!("tcg,thread=multi,tb-size={room}")], "{memory} MiB");
    }
}
