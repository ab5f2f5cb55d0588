//! The command's tree: nouns, then verbs. One file a noun.

use std::{path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand};
use hull_client::Client;
use hull_types::error::{Error, Result};

use crate::{config, output::Format};

mod app_credential;
mod apply;
mod apply_network;
mod audit;
mod context;
mod daemon;
mod doctor;
mod event;
mod explain;
mod flavor;
mod floating_ip;
mod image;
mod keypair;
mod login;
mod migration;
mod named;
mod names;
mod network;
mod node;
mod port;
mod project;
mod role_assignment;
mod router;
mod secret;
mod security_group;
mod ssh;
mod status;
mod store;
mod subnet;
mod token;
mod user;
mod user_group;
mod vm;
mod vm_create;
mod vnc;

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  a defect of Hull's (for `hull doctor`: something is broken; for `hull explain path`: it does not get there)
  2  wrong usage, or an invalid value
  3  not found
  4  exists already, or not possible in this state
  5  not allowed
  6  the server does not answer, or not in time
  7  quota or resources exhausted
  8  not supported here
`hull ssh` and `hull vm exec` end with the exit code of what they ran.

First steps:
  hull up --background
  hull image build debian-12
  hull vm create hello --image debian-12 --wait
  hull ssh hello";

/// A cloud of virtual machines in one binary.
#[derive(Debug, Parser)]
#[command(name = "hull", version, about = "A cloud of virtual machines in one binary", after_help = AFTER_HELP, disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Print results as this
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "HULL_OUTPUT",
        help_heading = "Global options"
    )]
    output: Format,
    /// Talk to the server of this context instead of the current one
    #[arg(long, global = true, env = "HULL_CONTEXT", help_heading = "Global options")]
    context: Option<String>,
    /// The project to work in (name or id)
    #[arg(long, global = true, env = "HULL_PROJECT", help_heading = "Global options")]
    project: Option<String>,
    /// The data directory of this host's Hull [default: /var/lib/hull]
    #[arg(long, global = true, env = "HULL_DATA", help_heading = "Global options")]
    data_dir: Option<PathBuf>,
}

/// How long a command waits.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Waiting {
    /// Wait until it rests as asked
    #[arg(short, long)]
    wait: bool,
    /// Seconds to wait at most
    #[arg(long, default_value_t = 600, requires = "wait")]
    timeout: u64,
}

impl Waiting {
    fn deadline(self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run Hull on this host: server and node in one process
    Up(daemon::Up),
    /// Stop the Hull of this host; its VMs go on running
    Down(daemon::Down),
    /// Run the server alone; nodes join it from other hosts
    Server(daemon::Server),
    /// What runs, at a glance
    Status,
    /// Check the host, the data and the server, and say how to mend what is wrong
    Doctor(doctor::Doctor),
    /// Virtual machines
    #[command(subcommand)]
    Vm(vm::Verb),
    /// Images VMs are made from
    #[command(subcommand)]
    Image(image::Verb),
    /// Sizes of VMs
    #[command(subcommand)]
    Flavor(flavor::Verb),
    /// SSH public keys to put into VMs
    #[command(subcommand)]
    Keypair(keypair::Verb),
    /// Networks
    #[command(subcommand)]
    Network(network::Verb),
    /// Ranges of addresses on networks
    #[command(subcommand)]
    Subnet(subnet::Verb),
    /// Ends on networks: VMs' NICs, and those that wait for a VM
    #[command(subcommand)]
    Port(port::Verb),
    /// What may reach ports, and what they may reach
    #[command(subcommand)]
    SecurityGroup(security_group::Verb),
    /// Routers: they join networks and lead outside
    #[command(subcommand)]
    Router(router::Verb),
    /// Addresses outside that lead to VMs
    #[command(subcommand)]
    FloatingIp(floating_ip::Verb),
    /// Hosts that run VMs
    #[command(subcommand)]
    Node(node::Verb),
    /// VMs on their way from node to node
    #[command(subcommand)]
    Migration(migration::Verb),
    /// Projects: who owns what
    #[command(subcommand)]
    Project(project::Verb),
    /// Users: who may log in
    #[command(subcommand)]
    User(user::Verb),
    /// Groups of users
    #[command(subcommand)]
    UserGroup(user_group::Verb),
    /// Roles: who may do what, where
    #[command(subcommand)]
    Role(role_assignment::Verb),
    /// API tokens
    #[command(subcommand)]
    Token(token::Verb),
    /// Credentials for programs that act for you
    #[command(subcommand)]
    AppCredential(app_credential::Verb),
    /// Log in to a server
    Login(login::Login),
    /// End the session
    Logout,
    /// Who the server takes you for, and what you may do
    Whoami,
    /// What happened
    #[command(subcommand)]
    Event(event::Verb),
    /// Who did what, from where, with which outcome
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Log in to a VM
    Ssh(ssh::Ssh),
    /// Why things are as they are
    #[command(subcommand)]
    Explain(explain::Verb),
    /// Make things be as a file says
    Apply(apply::Apply),
    /// Servers this command talks to
    #[command(subcommand)]
    Context(context::Verb),
    /// The store of this host's Hull: backup, restore, check
    #[command(subcommand)]
    Store(store::Verb),
    /// Print the completion script of a shell
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man {
        /// The directory
        dir: PathBuf,
    },
}

pub(crate) use store::dir as store_dir;

/// What a verb works with.
pub(crate) struct Session {
    client: Client,
    format: Format,
    global: Global,
}

impl Cli {
    /// Runs the command; answers its exit code.
    pub(crate) fn run(self) -> Result<u8> {
        let Self { global, command } = self;
        match command {
            Command::Up(up) => up.run(global.data_dir),
            Command::Down(down) => down.run(global.data_dir),
            Command::Server(server) => server.run(global.data_dir),
            Command::Doctor(doctor) => block_on(doctor.run(&global)),
            Command::Context(verb) => verb.run(&global),
            Command::Store(verb) => block_on(verb.run(&global)),
            Command::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "hull", &mut script);
                crate::output::bytes(&script);
                Ok(0)
            }
            Command::Man { dir } => clap_mangen::generate_to(Self::command(), &dir)
                .map(|()| 0)
                .map_err(|e| Error::invalid(format!("the manual pages cannot be written to {}: {e}", dir.display()))),
            Command::Login(login) => block_on(login.run(&global)),
            Command::Logout => block_on(login::logout(&global)),
            Command::Node(verb) if verb.is_local() => verb.run_local(&global),
            online => {
                block_on(login::keep_in(&global))?;
                let client =
                    config::client(global.context.as_deref(), global.data_dir.as_deref(), global.project.clone())?;
                let session = Session { client, format: global.output, global };
                block_on(session.run(online))
            }
        }
    }
}

impl Session {
    async fn run(self, command: Command) -> Result<u8> {
        match command {
            Command::Status => status::run(&self).await,
            Command::Vm(verb) => verb.run(&self).await,
            Command::Image(verb) => verb.run(&self).await,
            Command::Flavor(verb) => verb.run(&self).await,
            Command::Keypair(verb) => verb.run(&self).await,
            Command::Network(verb) => verb.run(&self).await,
            Command::Subnet(verb) => verb.run(&self).await,
            Command::Port(verb) => verb.run(&self).await,
            Command::SecurityGroup(verb) => verb.run(&self).await,
            Command::Router(verb) => verb.run(&self).await,
            Command::FloatingIp(verb) => verb.run(&self).await,
            Command::Node(verb) => verb.run(&self).await,
            Command::Migration(verb) => verb.run(&self).await,
            Command::Project(verb) => verb.run(&self).await,
            Command::Token(verb) => verb.run(&self).await,
            Command::User(verb) => verb.run(&self).await,
            Command::UserGroup(verb) => verb.run(&self).await,
            Command::Role(verb) => verb.run(&self).await,
            Command::AppCredential(verb) => verb.run(&self).await,
            Command::Whoami => login::whoami(&self).await,
            Command::Event(verb) => verb.run(&self).await,
            Command::Audit(verb) => verb.run(&self).await,
            Command::Ssh(ssh) => ssh.run(&self).await,
            Command::Explain(verb) => verb.run(&self).await,
            Command::Apply(apply) => apply.run(&self).await,
            Command::Up(_)
            | Command::Down(_)
            | Command::Server(_)
            | Command::Doctor(_)
            | Command::Context(_)
            | Command::Store(_)
            | Command::Login(_)
            | Command::Logout
            | Command::Completion { .. }
            | Command::Man { .. } => Err(Error::internal("this command does not talk to a server")),
        }
    }
}

/// Runs a command's future on a small runtime: a command line needs no pool of threads.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::internal(format!("the runtime cannot be started: {e}")))?
        .block_on(future)
}

/// Reads a file whole, or standard input for `-`.
fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut data = Vec::new();
    let done = if path.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut data).map(drop)
    } else {
        std::fs::read(path).map(|bytes| data = bytes)
    };
    done.map(|()| data).map_err(|e| Error::invalid(format!("{} cannot be read: {e}", path.display())))
}

/// `key=value` pairs.
fn pair(text: &str) -> std::result::Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} is not of the form key=value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn pairs_need_an_equals_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair("a").is_err());
    }
}
