//! Hosts made of namespaces reach each other, can be cut off, and leave nothing behind.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Duration;

use hull_testkit::{KillOnDrop, TestHost, TestNet, eventually, eventually_blocking};

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn hosts_on_one_switch_reach_each_other_by_both_protocols() {
    let net = TestNet::new().unwrap();
    let (a, b) = (net.host("a").unwrap(), net.host("b").unwrap());
    let reaches = |address: String| a.run(&format!("ping -n -c1 -W1 {address}"));
    eventually_blocking("IPv4", DEADLINE, || reaches(b.address().to_string())).unwrap();
    eventually_blocking("IPv6", DEADLINE, || reaches(b.address6().to_string())).unwrap();
}

#[test]
fn an_unplugged_host_is_unreachable_until_it_is_plugged_in_again() {
    let net = TestNet::new().unwrap();
    let (a, b) = (net.host("a").unwrap(), net.host("b").unwrap());
    let ping = format!("ping -n -c1 -W1 {}", b.address());
    eventually_blocking("reachable", DEADLINE, || a.run(&ping)).unwrap();
    b.unplug().unwrap();
    a.run(&ping).unwrap_err();
    b.plug().unwrap();
    eventually_blocking("reachable again", DEADLINE, || a.run(&ping)).unwrap();
}

#[test]
fn a_dropped_host_takes_its_processes_and_its_namespace_along() {
    let host = TestHost::new("gone").unwrap();
    let path = host.namespace_path();
    let mut process = host.command("sleep").arg("infinity").spawn().unwrap();
    let inside = || host.run("true").map(|_| ()).and_then(|()| pids(&host));
    eventually_blocking("the process is in the namespace", DEADLINE, inside).unwrap();
    assert!(path.exists());
    drop(host);
    assert!(!path.exists());
    assert!(!process.wait().unwrap().success());
}

fn pids(host: &TestHost) -> anyhow::Result<()> {
    let output = Command::new("ip").args(["netns", "pids", host.namespace()]).output()?;
    anyhow::ensure!(!output.stdout.is_empty(), "nobody inside");
    Ok(())
}

#[test]
fn a_guarded_process_ends_with_its_guard() {
    let mut process = Command::new("sleep").arg("infinity").spawn().unwrap();
    let guard = KillOnDrop::new(process.id()).unwrap();
    assert!(guard.is_alive());
    guard.kill().unwrap();
    assert!(guard.ended_within(DEADLINE));
    process.wait().unwrap();
}

#[tokio::test]
async fn waiting_says_what_it_waited_for_and_the_last_refusal() {
    let refusal = eventually("the moon", Duration::from_millis(30), || async { Err::<(), _>("still set") }).await;
    let text = refusal.unwrap_err().to_string();
    assert!(text.contains("the moon") && text.contains("still set"), "{text}");
}
