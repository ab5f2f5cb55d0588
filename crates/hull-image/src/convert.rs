//! qemu-img, confined.
//!
//! The image's header has been parsed by us, yet its tables are still a stranger's and qemu-img is a large C program.
//! So it runs as a user that owns nothing, without network, capabilities or new privileges, within limits of memory, time
//! and file size, and it gets its two files as descriptors: the store's directory is closed to that user, so no other
//! image can be named. Formats are told, never probed.
//!
//! The confinement is util-linux' own tools in a row (`unshare`, `prlimit`, `setpriv`), each an `exec` of the next:
//! readable in `ps`, and no unsafe code between fork and exec. Without root only the limits apply.

use std::{
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, fchown},
    },
    process::Stdio,
};

use command_fds::{CommandFdExt, FdMapping};
use hull_types::error::{Error, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

use crate::{Format, Limits, Phase, Progress};

/// A user and group that no Debian package and no allocation of `systemd` uses (65520–65533 are reserved and unused).
const SANDBOX_ID: u32 = 65_532;
/// Address space. qemu-img needs some 300 MiB for its threads' stacks and buffers.
const MEMORY: u64 = 2 << 30;
const CPU_SECONDS: u64 = 60 * 60;
const INPUT_FD: i32 = 3;
const OUTPUT_FD: i32 = 4;
/// Of qemu-img's complaints so much is shown.
const COMPLAINT: u64 = 4096;

/// One conversion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversion {
    pub(crate) from: Format,
    pub(crate) to: Format,
    pub(crate) virtual_size: u64,
    /// Compress the output's clusters, where the format can.
    pub(crate) compress: bool,
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Lets the sandbox's group read a blob that it is handed.
pub(crate) fn share_with_sandbox(file: &File) -> io::Result<()> {
    if is_root() { fchown(file, Some(0), Some(SANDBOX_ID)) } else { Ok(()) }
}

/// Converts `input` to `output`, both already open.
///
/// # Errors
/// `Invalid` with qemu-img's own words where the image cannot be read, `InsufficientResources` where the program is missing
/// or the disk is full, `Timeout`.
pub(crate) async fn run(
    input: &File,
    output: &File,
    conversion: &Conversion,
    limits: &Limits,
    progress: &Progress,
) -> Result<()> {
    let prepare = |e: io::Error| Error::internal(format!("cannot prepare the conversion's files: {e}"));
    if is_root() {
        // A staging file (root's alone so far) becomes the sandbox's; a blob is readable by its group already.
        if input.metadata().map_err(prepare)?.gid() != SANDBOX_ID {
            fchown(input, Some(SANDBOX_ID), Some(SANDBOX_ID)).map_err(prepare)?;
        }
        fchown(output, Some(SANDBOX_ID), Some(SANDBOX_ID)).map_err(prepare)?;
    }
    let descriptors =
        (OwnedFd::from(input.try_clone().map_err(prepare)?), OwnedFd::from(output.try_clone().map_err(prepare)?));
    let mut child = spawn(conversion, limits, descriptors)?;
    let outcome = tokio::time::timeout(limits.conversion, watch(&mut child, conversion, progress)).await;
    match outcome {
        Ok(outcome) => outcome,
        Err(_) => {
            // Dropping the child kills it as well; waiting here keeps its files from outliving the answer.
            let _ = child.kill().await;
            let seconds = limits.conversion.as_secs();
            Err(Error::timeout(format!("the conversion from {} took longer than {seconds} s", conversion.from)))
        }
    }
}

fn spawn(conversion: &Conversion, limits: &Limits, (input, output): (OwnedFd, OwnedFd)) -> Result<Child> {
    let words = arguments(conversion, limits, is_root());
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
    command
        .fd_mappings(vec![
            FdMapping { parent_fd: input, child_fd: INPUT_FD },
            FdMapping { parent_fd: output, child_fd: OUTPUT_FD },
        ])
        .map_err(|e| Error::internal(format!("cannot hand descriptors to qemu-img: {e}")))?;
    let mut command = Command::from(command);
    command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|e| {
        Error::insufficient(format!(
            "cannot start {}: {e}; install the Debian packages qemu-utils and util-linux",
            words[0]
        ))
    })
}

/// The command line: confinement, then qemu-img.
fn arguments(conversion: &Conversion, limits: &Limits, root: bool) -> Vec<String> {
    let file_size = limits.virtual_size.0.saturating_mul(2);
    let mut words: Vec<String> = Vec::new();
    let mut say = |text: &str| words.extend(text.split(' ').map(str::to_owned));
    if root {
        say("unshare --net --ipc --");
    }
    say(&format!("prlimit --as={MEMORY} --cpu={CPU_SECONDS} --fsize={file_size} --core=0 --nofile=64 --"));
    if root {
        say(&format!(
            "setpriv --reuid={SANDBOX_ID} --regid={SANDBOX_ID} --clear-groups --no-new-privs \
             --inh-caps=-all --ambient-caps=-all --bounding-set=-all --"
        ));
    }
    say(&format!("qemu-img convert -p --image-opts -O {}", conversion.to));
    if conversion.compress {
        say("-c -o compression_type=zstd");
    }
    if conversion.to == Format::Vmdk {
        say("-o subformat=streamOptimized");
    }
    // Locking would need the input open for writing on some file systems; nobody else writes it.
    say(&format!("driver={},file.driver=file,file.locking=off,file.filename=/dev/fd/{INPUT_FD}", conversion.from));
    say(&format!("/dev/fd/{OUTPUT_FD}"));
    words
}

async fn watch(child: &mut Child, conversion: &Conversion, progress: &Progress) -> Result<()> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complaint = async {
        let mut text = Vec::new();
        if let Some(stderr) = stderr {
            // What cannot be read cannot be shown; the exit status decides.
            let _ = stderr.take(COMPLAINT).read_to_end(&mut text).await;
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    let percent = async {
        if let Some(stdout) = stdout {
            report_percent(stdout, conversion.virtual_size, progress).await;
        }
    };
    let (complaint, (), status) = tokio::join!(complaint, percent, child.wait());
    let status = status.map_err(|e| Error::internal(format!("cannot wait for qemu-img: {e}")))?;
    if status.success() {
        return Ok(());
    }
    Err(explain(status, &complaint, conversion.from))
}

fn explain(status: std::process::ExitStatus, complaint: &str, from: Format) -> Error {
    if complaint.contains("No space left on device") {
        return Error::insufficient(
            "the disk is full: the image's conversion ran out of space; free some and try again",
        );
    }
    if matches!(status.code(), Some(126 | 127)) {
        return Error::insufficient(format!(
            "cannot run qemu-img ({complaint}); install the Debian package qemu-utils"
        ));
    }
    let last = complaint.lines().last().unwrap_or("it gave no reason").trim_start_matches("qemu-img: ");
    Error::invalid(format!("the {from} image cannot be read: {last} ({status})"))
}

/// qemu-img -p writes `    (12.34/100%)` and a carriage return, again and again.
async fn report_percent(mut stdout: impl AsyncRead + Unpin, total: u64, progress: &Progress) {
    let mut buf = [0; 256];
    while let Ok(n @ 1..) = stdout.read(&mut buf).await {
        if let Some(percent) = last_percent(&String::from_utf8_lossy(&buf[..n])) {
            progress.report(Phase::Converting, (total as f64 * percent / 100.0) as u64, Some(total));
        }
    }
}

fn last_percent(text: &str) -> Option<f64> {
    let (before, _) = text.rsplit_once("/100%)")?;
    before.rsplit_once('(')?.1.parse().ok().filter(|p| (0.0..=100.0).contains(p))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_drops_everything_before_qemu_img_sees_a_byte() {
        let conversion = Conversion { from: Format::Vmdk, to: Format::Qcow2, virtual_size: 1, compress: false };
        let line = arguments(&conversion, &Limits::default(), true).join(" ");
        assert_eq!(
            line,
            "unshare --net --ipc -- prlimit --as=2147483648 --cpu=3600 --fsize=35184372088832 --core=0 --nofile=64 -- \
             setpriv --reuid=65532 --regid=65532 --clear-groups --no-new-privs --inh-caps=-all --ambient-caps=-all \
             --bounding-set=-all -- qemu-img convert -p --image-opts -O qcow2 \
             driver=vmdk,file.driver=file,file.locking=off,file.filename=/dev/fd/3 /dev/fd/4"
        );
    }

    #[test]
    fn progress_is_the_last_percentage_of_a_burst() {
        assert_eq!(last_percent("    (0.00/100%)\r    (12.34/100%)\r"), Some(12.34));
        assert_eq!(last_percent("    (12.3"), None);
        assert_eq!(last_percent("(NaN/100%)"), None);
    }
}
