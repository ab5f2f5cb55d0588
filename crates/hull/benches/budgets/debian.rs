//! A stock Debian with cloud-init: from the call until it lets its user in over ssh.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{
    Effort, boot,
    cloud::{Cloud, cache},
    guests,
    table::{Row, Samples, number},
};

/// Without hardware acceleration a stock Debian takes one or two minutes of CPU.
const PATIENCE: Duration = Duration::from_secs(900);

pub(crate) async fn rows(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let cloud = Cloud::start().await?.with_guests();
    cloud.ready().await?;
    let kept = cache()?.join("debian-12");
    let was_kept = kept.exists();
    let begin = Instant::now();
    let mut build = tokio::process::Command::from(cloud.command());
    build.args(["image", "build", "debian-12", "--out"]).arg(&kept).stdin(Stdio::null()).kill_on_drop(true);
    let output = build.output().await?;
    anyhow::ensure!(output.status.success(), "image build: {}", String::from_utf8_lossy(&output.stderr).trim());
    let built = begin.elapsed().as_secs_f64();

    let key = cloud.data().join("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status()?;
    anyhow::ensure!(made.success(), "ssh-keygen ended with {made}");
    let public = std::fs::read_to_string(key.with_extension("pub"))?;
    let (mut running, mut inside) = <(Samples, Samples)>::default();
    for run in 0..effort.runs(3, 1) {
        let name = format!("debian{run}");
        let begin = Instant::now();
        let (view, took) = boot::running(&cloud, &guests::with_ssh(&name, "debian-12", &public)?).await?;
        running.push(took.as_secs_f64());
        let_in(&cloud, &view.vm.id.to_string(), &key, begin).await?;
        inside.push(begin.elapsed().as_secs_f64());
        cloud.client.vms().delete(&name).await?;
        tokio::time::timeout(PATIENCE, cloud.client.vms().settle(&name, |_| {})).await.context("a VM's deletion")??;
    }
    let note = if was_kept { "found built, registered in" } else { "built and registered in" };
    Ok(vec![
        Row::new("create → ssh, Debian 12 with cloud-init, 2 vCPUs, TCG", "", inside.spread("s")),
        Row::new("  of which create → QEMU running", "", running.spread("s")),
        Row::new("  the image of it", "", format!("{note} {} s", number(built))),
    ])
}

/// Asks again and again until a command runs inside.
async fn let_in(cloud: &Cloud, vm: &str, key: &Path, begin: Instant) -> anyhow::Result<()> {
    let program = cloud.command();
    let words = std::iter::once(program.get_program()).chain(program.get_args()).map(|word| word.to_string_lossy());
    let proxy = format!("ProxyCommand={} vm tcp {vm} 22", words.collect::<Vec<_>>().join(" "));
    loop {
        let mut ssh = tokio::process::Command::new("ssh");
        ssh.args(["-o", &proxy, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20", "-l", "debian", "-i"])
            .arg(key)
            .args(["debian", "true"])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = ssh.output().await.context("ssh cannot be run")?;
        if output.status.success() {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            bail!("no login within {} s: {}", PATIENCE.as_secs(), String::from_utf8_lossy(&output.stderr).trim());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
