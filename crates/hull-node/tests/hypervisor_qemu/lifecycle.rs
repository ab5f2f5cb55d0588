//! Start, stop, die, be adopted.

use std::time::Duration;

use hull_node::hypervisor::{
    Hypervisor, RunState,
    qemu::{QemuConfig, QemuHypervisor},
};
use hull_types::{
    error::ErrorKind,
    vm::{ExitCause, Profile},
};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt;

use crate::bench::{Bench, config, field, groups_of, kill, read_until, wait_console, wait_state};

fn cause(state: &RunState) -> Option<ExitCause> {
    match state {
        RunState::Exited(exit) => Some(exit.cause),
        _ => None,
    }
}

#[tokio::test]
async fn a_pc_boots_talks_pauses_obeys_its_power_button_and_leaves_nothing() {
    let bench = Bench::new();
    let vmm = bench.start_ready(bench.guest(Profile::Pc, "hull.net=off")).await;
    assert_eq!(vmm.refresh().await.unwrap(), RunState::Running);

    let mut one = vmm.console().await.unwrap();
    let mut two = vmm.console().await.unwrap();
    one.write_all(b"echo $((6*7))-answer\n").await.unwrap();
    read_until(&mut two, "42-answer").await;
    read_until(&mut one, "42-answer").await;
    wait_console(&*vmm, "42-answer").await;

    vmm.pause().await.unwrap();
    assert_eq!(*vmm.state().borrow(), RunState::Paused);
    vmm.resume().await.unwrap();
    assert_eq!(*vmm.state().borrow(), RunState::Running);

    vmm.power_button().await.unwrap();
    wait_state(&*vmm, |state| *state == RunState::GuestShutdown).await;
    assert_eq!(bench.processes(), [vmm.info().pid], "the process waits to be quit");
    vmm.quit().await.unwrap();
    assert_eq!(cause(&vmm.state().borrow()), Some(ExitCause::GuestShutdown));
    vmm.quit().await.unwrap();

    bench.hypervisor.clear(bench.vm, &bench.dir).await.unwrap();
    assert!(groups_of(bench.vm).is_empty() && bench.uid().is_none());
    assert!(bench.adopt().await.is_none());
    let left: Vec<_> = std::fs::read_dir(&bench.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "console.log" || name == "qemu.log"), "{left:?}");
}

#[tokio::test]
async fn a_micro_boots_and_obeys_its_power_button() {
    let bench = Bench::new();
    let mut spec = bench.guest(Profile::Micro, "hull.net=off");
    spec.resources.vcpus = 2;
    let vmm = bench.start(spec).await;
    wait_console(&*vmm, "cpus=2").await;
    vmm.power_button().await.unwrap();
    wait_state(&*vmm, |state| *state == RunState::GuestShutdown).await;
    let error = vmm.screenshot().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    vmm.quit().await.unwrap();
}

#[tokio::test]
async fn a_killed_qemu_is_told_with_its_signal_and_again_by_the_next_hull() {
    let bench = Bench::new();
    let vmm = bench.start(bench.empty()).await;
    kill(vmm.info().pid, Signal::KILL);
    let state = wait_state(&*vmm, |state| cause(state).is_some()).await;
    let RunState::Exited(exit) = &state else { panic!("{state:?}") };
    assert_eq!(exit.cause, ExitCause::Died);
    assert!(exit.detail.contains("signal 9"), "{exit:?}");
    let adopted = bench.adopt().await.unwrap();
    assert_eq!(*adopted.state().borrow(), state);
    assert_eq!(adopted.power_button().await.unwrap_err().kind, ErrorKind::Conflict);
}

#[tokio::test]
async fn a_stopped_qemu_is_hung_and_can_still_be_quit() {
    let bench = Bench::new();
    let vmm = bench.start(bench.empty()).await;
    kill(vmm.info().pid, Signal::STOP);
    wait_state(&*vmm, |state| *state == RunState::Hung).await;
    kill(vmm.info().pid, Signal::CONT);
    wait_state(&*vmm, |state| *state == RunState::Running).await;
    kill(vmm.info().pid, Signal::STOP);
    wait_state(&*vmm, |state| *state == RunState::Hung).await;
    vmm.quit().await.unwrap();
    assert_eq!(cause(&vmm.state().borrow()), Some(ExitCause::Requested));
    assert!(bench.processes().is_empty());
}

#[tokio::test]
async fn the_next_hull_finds_the_machine_as_it_is() {
    let bench = Bench::new();
    let vmm = bench.start_ready(bench.guest(Profile::Pc, "hull.net=off")).await;
    let info = vmm.info();
    drop(vmm);
    let adopted = bench.adopt().await.unwrap();
    assert_eq!(adopted.info(), info);
    assert_eq!(*adopted.state().borrow(), RunState::Running);
    let mut console = adopted.console().await.unwrap();
    console.write_all(b"poweroff -f\n").await.unwrap();
    wait_state(&*adopted, |state| *state == RunState::GuestShutdown).await;
    drop((adopted, console));
    // The guest's end is known also to a Hull that was not there when it happened.
    let again = bench.adopt().await.unwrap();
    assert_eq!(*again.state().borrow(), RunState::GuestShutdown);
    again.quit().await.unwrap();
    let dead = bench.adopt().await.unwrap();
    assert_eq!(cause(&dead.state().borrow()), Some(ExitCause::GuestShutdown));
}

#[tokio::test]
async fn a_guest_panic_is_seen() {
    let bench = Bench::new();
    let vmm = bench.start(bench.guest(Profile::Pc, "hull.net=off panic=0 hull.mode=panic")).await;
    wait_state(&*vmm, |state| *state == RunState::GuestPanicked).await;
    vmm.quit().await.unwrap();
    assert_eq!(cause(&vmm.state().borrow()), Some(ExitCause::GuestPanic));
}

#[tokio::test]
async fn after_a_reboot_of_the_host_the_process_is_known_to_be_gone() {
    let bench = Bench::new();
    let vmm = bench.start(bench.empty()).await;
    drop(vmm);
    let path = bench.dir.join("vmm.json");
    let record = std::fs::read_to_string(&path).unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::write(&path, record.replace(boot.trim(), "another-boot")).unwrap();
    let adopted = bench.adopt().await.unwrap();
    assert_eq!(cause(&adopted.state().borrow()), Some(ExitCause::HostReboot));
}

#[tokio::test]
async fn a_start_cut_short_is_ended_by_the_next_hull() {
    let bench = Bench::new();
    let vmm = bench.start(bench.empty()).await;
    let pid = vmm.info().pid;
    drop(vmm);
    let path = bench.dir.join("vmm.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record["stage"] = serde_json::json!({"stage": "launching"});
    std::fs::write(&path, record.to_string()).unwrap();
    assert!(bench.adopt().await.is_none());
    assert!(["", "Z (zombie)"].contains(&field(pid, "State:").as_str()));
    assert!(!path.exists() && groups_of(bench.vm).is_empty());
}

#[tokio::test]
async fn a_second_start_is_refused_and_the_first_lives_on() {
    let bench = Bench::new();
    let vmm = bench.start(bench.empty()).await;
    let error = bench.hypervisor.start(bench.empty()).await.map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(bench.hypervisor.clear(bench.vm, &bench.dir).await.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(vmm.refresh().await.unwrap(), RunState::Running);
}

#[tokio::test]
async fn a_missing_qemu_is_said_and_nothing_stays() {
    let bench = Bench::with(QemuConfig { program: "/nowhere/qemu".into(), ..config() });
    let error = bench.hypervisor.start(bench.empty()).await.map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InsufficientResources);
    assert_eq!(error.detail, "/nowhere/qemu is missing on this node: install the package qemu-system-x86");
    assert!(groups_of(bench.vm).is_empty() && bench.uid().is_none());
}

#[tokio::test]
async fn qemus_own_complaint_reaches_the_error() {
    let bench = Bench::new();
    let broken = bench.dir.join("broken.qcow2");
    std::fs::write(&broken, "no qcow2").unwrap();
    let mut spec = bench.empty();
    spec.disks = vec![hull_node::hypervisor::DiskSpec {
        id: "root".into(),
        path: broken,
        qcow2: true,
        backing: vec![],
        read_only: false,
        boot_index: Some(0),
    }];
    let error = bench.hypervisor.start(spec).await.map(drop).unwrap_err();
    assert!(error.detail.contains("not in qcow2 format"), "{error:?}");
    assert!(groups_of(bench.vm).is_empty() && bench.uid().is_none());
}

#[tokio::test]
async fn a_start_given_up_leaves_no_process() {
    let bench = Bench::new();
    let start = bench.hypervisor.start(bench.empty());
    assert!(tokio::time::timeout(Duration::from_millis(60), start).await.is_err(), "QEMU never starts that fast");
    // Whatever it had begun, the next look at the directory ends it.
    assert!(QemuHypervisor::new(config()).adopt(bench.vm, &bench.dir).await.unwrap().is_none());
    assert!(bench.processes().is_empty());
}
