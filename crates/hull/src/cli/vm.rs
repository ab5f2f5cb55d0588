//! `hull vm`: what a VM's user does with it.

use std::{io::IsTerminal, path::PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand, ValueEnum};
use hull_types::{
    error::{Error, Result},
    link::ExecResult,
    name::Name,
    units::Bytes,
    vm::{RebootKind, RestartPolicy},
    wire::{ExecRequest, PasswordRequest, VmAction, VmUpdate, VmView},
};

use super::{Session, Waiting, migration, pair, ssh, vm_create, vnc};
use crate::{
    output::{self, Show, word},
    wait,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List VMs
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show a VM
    Show {
        /// Name or id
        vm: String,
    },
    /// Create VMs
    Create(Box<vm_create::Create>),
    /// Turn VMs on
    Start(Several),
    /// Ask VMs to shut down; force them off after the grace
    Stop {
        #[command(flatten)]
        several: Several,
        /// Seconds the guest has
        #[arg(long, conflicts_with = "force")]
        grace: Option<u32>,
        /// Force off at once
        #[arg(short, long)]
        force: bool,
    },
    /// Reboot VMs
    Reboot {
        #[command(flatten)]
        several: Several,
        /// Reset at once instead of asking the guest
        #[arg(long)]
        hard: bool,
    },
    /// Halt VMs' CPUs
    Pause(Several),
    /// Let paused or suspended VMs go on
    Resume(Several),
    /// Save VMs' memory to disk and turn them off
    Suspend(Several),
    /// Give a VM another size
    Resize(Resize),
    /// Move a VM to another node, with its disk, its memory and its addresses; it is halted meanwhile
    Migrate(migration::Migrate),
    /// Throw a VM's disk away and make it anew from an image
    Rebuild {
        #[command(flatten)]
        one: One,
        /// Name or id of the image; the present one where absent
        #[arg(long)]
        image: Option<String>,
    },
    /// Boot a rescue image with the VM's disk as second disk
    Rescue {
        #[command(flatten)]
        one: One,
        /// Name or id of the image; the VM's own where absent
        #[arg(long)]
        image: Option<String>,
    },
    /// Back from rescue
    Unrescue(One),
    /// Lock a VM against changes
    Lock(One),
    /// Unlock it
    Unlock(One),
    /// Plug a NIC in; a micro VM has it at its next start
    AttachNic {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        nic: vm_create::NicArgs,
    },
    /// Unplug a NIC; a port that a user made stays
    DetachNic {
        #[command(flatten)]
        one: One,
        /// Name or id of its port (`hull port list --vm VM`)
        port: String,
    },
    /// Change a VM's name, description, labels or restart policy
    Update(Update),
    /// Delete VMs and their disks
    #[command(visible_alias = "rm")]
    Delete(Delete),
    /// Open a VM's serial console (Ctrl-] detaches)
    Console {
        /// Name or id
        vm: String,
    },
    /// Print a VM's console log
    Log {
        /// Name or id
        vm: String,
        /// Bytes from the end
        #[arg(long, default_value = "64KiB")]
        tail: Bytes,
    },
    /// Save a picture of a VM's screen (PNG)
    Screenshot {
        /// Name or id
        vm: String,
        /// The file; `-` for standard output
        #[arg(long, default_value = "screen.png")]
        file: PathBuf,
    },
    /// Let VNC viewers see and use a VM's screen, until Ctrl-C
    Vnc(vnc::Viewing),
    /// Run a program inside, through the guest agent
    Exec {
        /// Name or id
        vm: String,
        /// Seconds it may take
        #[arg(long, default_value_t = 60)]
        timeout: u32,
        /// Pass standard input on
        #[arg(short, long)]
        stdin: bool,
        /// Program and arguments
        #[arg(required = true, last = true)]
        argv: Vec<String>,
    },
    /// Set a user's password inside, through the guest agent; it is read from standard input
    Password {
        /// Name or id
        vm: String,
        /// The user inside
        #[arg(long, default_value = "root")]
        user: String,
    },
    /// Ask whether the guest agent answers
    AgentPing {
        /// Name or id
        vm: String,
    },
    /// Freeze a VM's file systems for a consistent copy; they thaw by themselves after a minute
    Quiesce {
        /// Name or id
        vm: String,
    },
    /// Thaw them
    Thaw {
        /// Name or id
        vm: String,
    },
    /// Join standard input and output to a TCP port inside (an SSH `ProxyCommand`)
    Tcp {
        /// Name or id
        vm: String,
        /// The port
        port: u16,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Of all projects
    #[arg(short, long)]
    all_projects: bool,
    /// Only those in this state
    #[arg(long)]
    state: Option<String>,
    /// Only those on this node
    #[arg(long)]
    node: Option<String>,
    /// Only those of this image
    #[arg(long)]
    image: Option<String>,
    /// Only the one of this name
    #[arg(long)]
    name: Option<String>,
}

/// One VM, and whether to wait.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// Name or id
    vm: String,
    #[command(flatten)]
    waiting: Waiting,
}

/// Several VMs, and whether to wait.
#[derive(Debug, Args)]
pub(crate) struct Several {
    /// Names or ids
    #[arg(required = true)]
    vms: Vec<String>,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Resize {
    #[command(flatten)]
    one: One,
    /// Name or id of a flavor
    #[arg(long, required_unless_present_any = ["vcpus", "memory", "disk"])]
    flavor: Option<String>,
    /// Virtual CPUs
    #[arg(long)]
    vcpus: Option<u16>,
    /// Memory
    #[arg(long)]
    memory: Option<Bytes>,
    /// Root disk; grows only
    #[arg(long)]
    disk: Option<Bytes>,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Name or id
    vm: String,
    /// New name (the host name inside stays)
    #[arg(long)]
    name: Option<Name>,
    /// New description
    #[arg(long)]
    description: Option<String>,
    /// A label, key=value; given ones replace all
    #[arg(long, value_parser = pair)]
    metadata: Option<Vec<(String, String)>>,
    /// New restart policy
    #[arg(long, value_enum)]
    restart: Option<Restart>,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Names or ids
    #[arg(required_unless_present = "all")]
    vms: Vec<String>,
    /// All VMs of the project
    #[arg(long, conflicts_with = "vms")]
    all: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// When a VM that ended by itself is started again.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Restart {
    /// Always
    Always,
    /// Where the hypervisor died or the guest panicked
    OnFailure,
    /// Never
    Never,
}

impl From<Restart> for RestartPolicy {
    fn from(restart: Restart) -> Self {
        match restart {
            Restart::Always => Self::Always,
            Restart::OnFailure => Self::OnFailure,
            Restart::Never => Self::Never,
        }
    }
}

impl Show for VmView {
    const COLUMNS: &'static [&'static str] = &["name", "state", "addresses", "vcpus", "memory", "image", "age"];

    fn row(&self) -> Vec<String> {
        let addresses: Vec<_> = self.addresses.iter().map(|a| a.address.to_string()).collect();
        let image = self.vm.boot.image.as_ref().map_or_else(|| "-".into(), |image| image.name.to_string());
        vec![
            self.vm.meta.name.to_string(),
            word(&self.state),
            addresses.join(" "),
            self.vm.resources.vcpus.to_string(),
            self.vm.resources.memory.to_string(),
            image,
            output::ago(self.vm.meta.created_at),
        ]
    }

    fn page(&self) -> Vec<(&'static str, String)> {
        let vm = &self.vm;
        let mut page = vec![
            ("name", vm.meta.name.to_string()),
            ("id", vm.id.to_string()),
            ("state", word(&self.state)),
            ("reason", self.reason.as_ref().map(|reason| reason.message.clone()).unwrap_or_default()),
            ("description", vm.meta.description.clone()),
            (
                "addresses",
                self.addresses.iter().map(|a| format!("{} ({})", a.address, a.network)).collect::<Vec<_>>().join(", "),
            ),
            (
                "size",
                format!("{} vCPU, {} memory, {} disk", vm.resources.vcpus, vm.resources.memory, vm.resources.disk),
            ),
            ("flavor", vm.flavor.as_ref().map(|flavor| flavor.name.to_string()).unwrap_or_default()),
            ("machine", format!("{}, {}", word(&vm.profile), word(&vm.boot.firmware))),
            ("image", vm.boot.image.as_ref().map(|image| image.name.to_string()).unwrap_or_default()),
            ("host name", vm.hostname.clone()),
            ("restart", word(&vm.restart)),
            ("locked", if vm.locked { "yes".into() } else { String::new() }),
            ("labels", vm.meta.metadata.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", ")),
            ("created", vm.meta.created_at.to_string()),
        ];
        if let Some(status) = &self.status {
            page.push(("pending", status.pending.join("; ")));
            if let Some(vmm) = &status.vmm {
                page.push((
                    "hypervisor",
                    format!("process {}, {}, since {}", vmm.pid, word(&vmm.accel), vmm.started_at),
                ));
            }
            if let Some(exit) = &status.last_exit {
                page.push(("last end", format!("{} at {}: {}", word(&exit.cause), exit.at, exit.detail)));
            }
        }
        page.retain(|(_, value)| !value.is_empty());
        page
    }
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<u8> {
        let vms = session.client.vms();
        match self {
            Self::List(args) => output::list(&vms.list(&args.query()).await?, session.format),
            Self::Show { vm } => output::one(&vms.show(&vm).await?, session.format),
            Self::Create(create) => return create.run(session).await,
            Self::Start(several) => session.act(several, &VmAction::Start).await?,
            Self::Stop { several, grace, force } => {
                let grace_seconds = if force { Some(0) } else { grace };
                session.act(several, &VmAction::Stop { grace_seconds }).await?;
            }
            Self::Reboot { several, hard } => {
                let kind = if hard { RebootKind::Hard } else { RebootKind::Soft };
                session.act(several, &VmAction::Reboot { kind }).await?;
            }
            Self::Pause(several) => session.act(several, &VmAction::Pause).await?,
            Self::Resume(several) => session.act(several, &VmAction::Resume).await?,
            Self::Suspend(several) => session.act(several, &VmAction::Suspend).await?,
            Self::Resize(Resize { one, flavor, vcpus, memory, disk }) => {
                session.act(one.into(), &VmAction::Resize { flavor, vcpus, memory, disk }).await?;
            }
            Self::Migrate(migrate) => migrate.run(session).await?,
            Self::Rebuild { one, image } => session.act(one.into(), &VmAction::Rebuild { image }).await?,
            Self::Rescue { one, image } => session.act(one.into(), &VmAction::Rescue { image }).await?,
            Self::Unrescue(one) => session.act(one.into(), &VmAction::Unrescue).await?,
            Self::Lock(one) => session.act(one.into(), &VmAction::Lock).await?,
            Self::Unlock(one) => session.act(one.into(), &VmAction::Unlock).await?,
            Self::AttachNic { one, nic } => {
                session.act(one.into(), &VmAction::AttachNic { nic: nic.request() }).await?;
            }
            Self::DetachNic { one, port } => session.act(one.into(), &VmAction::DetachNic { port }).await?,
            Self::Update(Update { vm, name, description, metadata, restart }) => {
                let metadata = metadata.map(|pairs| pairs.into_iter().collect());
                let body = VmUpdate { name, description, metadata, restart: restart.map(Into::into) };
                output::one(&vms.update(&vm, &body).await?, session.format);
            }
            Self::Delete(delete) => session.delete(delete).await?,
            Self::Console { vm } => ssh::console(&vms, &vm).await?,
            Self::Log { vm, tail } => {
                let tail = u32::try_from(tail.0).unwrap_or(u32::MAX);
                output::bytes(&vms.console_log(&vm, tail).await?);
            }
            Self::Screenshot { vm, file } => screenshot(&vms.screenshot(&vm).await?, &file)?,
            Self::Vnc(viewing) => viewing.run(&session.client).await?,
            Self::Exec { vm, timeout, stdin, argv } => return exec(session, &vm, timeout, stdin, argv).await,
            Self::Password { vm, user } => {
                vms.password(&vm, &PasswordRequest { user, password: password()?.into() }).await?
            }
            Self::AgentPing { vm } => {
                vms.call::<serde_json::Value>(&vm, "agent-ping").await?;
                output::line("the guest agent answers");
            }
            Self::Quiesce { vm } => {
                output::document(&vms.call::<serde_json::Value>(&vm, "quiesce").await?, session.format)
            }
            Self::Thaw { vm } => output::document(&vms.call::<serde_json::Value>(&vm, "thaw").await?, session.format),
            Self::Tcp { vm, port } => vms.tcp(&vm, port).await?.pipe(tokio::io::stdin(), tokio::io::stdout()).await?,
        }
        Ok(0)
    }
}

impl ListArgs {
    fn query(self) -> Vec<(&'static str, String)> {
        let Self { all_projects, state, node, image, name } = self;
        let all = all_projects.then(|| ("all-projects", "true".to_owned()));
        let filters = [("state", state), ("node", node), ("image", image), ("name", name)];
        all.into_iter().chain(filters.into_iter().filter_map(|(key, value)| Some((key, value?)))).collect()
    }
}

impl From<One> for Several {
    fn from(one: One) -> Self {
        Self { vms: vec![one.vm], waiting: one.waiting }
    }
}

impl Session {
    /// The same act on each, then waits for each.
    async fn act(&self, several: Several, action: &VmAction) -> Result<()> {
        let mut views = Vec::new();
        for vm in &several.vms {
            views.push(self.client.vms().act(vm, action).await?);
        }
        self.finish(views, several.waiting).await
    }

    /// Waits for VMs where asked, then prints them.
    pub(crate) async fn finish(&self, mut views: Vec<VmView>, waiting: Waiting) -> Result<()> {
        if waiting.wait {
            for view in &mut views {
                if let Some(settled) = wait::settled(&self.client, &view.vm.id.to_string(), waiting.deadline()).await? {
                    *view = settled;
                }
            }
        }
        match views.as_slice() {
            [one] => output::one(one, self.format),
            many => output::list(many, self.format),
        }
        Ok(())
    }

    async fn delete(&self, delete: Delete) -> Result<()> {
        let vms = self.client.vms();
        let names = if delete.all {
            vms.list(&[]).await?.into_iter().map(|view| view.vm.id.to_string()).collect()
        } else {
            delete.vms
        };
        let mut ids = Vec::new();
        for name in &names {
            ids.push(vms.show(name).await?.vm.id.to_string());
            vms.delete(name).await?;
        }
        if delete.waiting.wait {
            for id in ids {
                wait::settled(&self.client, &id, delete.waiting.deadline()).await?;
            }
        }
        Ok(())
    }
}

fn screenshot(png: &[u8], file: &std::path::Path) -> Result<()> {
    if file.as_os_str() == "-" {
        output::bytes(png);
        return Ok(());
    }
    std::fs::write(file, png).map_err(|e| Error::invalid(format!("{} cannot be written: {e}", file.display())))?;
    output::note(format!("saved {}", file.display()));
    Ok(())
}

/// Runs a program inside; its output and exit code become ours.
async fn exec(session: &Session, vm: &str, timeout: u32, stdin: bool, argv: Vec<String>) -> Result<u8> {
    use std::io::Write;
    let input = if stdin { Some(STANDARD.encode(super::read("-".as_ref())?)) } else { None };
    let body = ExecRequest { argv, input, timeout_seconds: Some(timeout) };
    let result: ExecResult = session.client.vms().exec(vm, &body).await?;
    let decode = |text: &str| STANDARD.decode(text).unwrap_or_default();
    output::bytes(&decode(&result.stdout));
    // Nobody listens on standard error: nothing to tell.
    let _ = std::io::stderr().write_all(&decode(&result.stderr));
    if result.truncated {
        output::note("(the guest agent cut the output)");
    }
    Ok(match (result.exit_code, result.signal) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        (None, Some(signal)) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(0)),
        (None, None) => 1,
    })
}

/// A password from standard input: one line, not shown where it is typed.
fn password() -> Result<String> {
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        output::note("New password (not shown), then Enter:");
    }
    let hidden = if terminal { Some(ssh::RawTerminal::without_echo()?) } else { None };
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| Error::invalid(format!("the password cannot be read: {e}")))?;
    drop(hidden);
    match line.trim_end_matches(['\n', '\r']) {
        "" => Err(Error::invalid("the password is empty; give one on standard input")),
        password => Ok(password.to_owned()),
    }
}
