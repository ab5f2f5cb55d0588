//! The `hull` command: people's door to a cloud, and the process that is one.
//!
//! Each noun has a file under [`cli`]; each verb resolves its arguments, makes one call (`hull_client`), and prints what came of
//! it ([`output`]). `hull up`, `hull server` and `hull node run` are the long-running forms; [`wiring`] puts their parts together.

mod cli;
mod config;
mod output;
mod progress;
mod telemetry;
mod wait;
mod wiring;

use clap::Parser;
use hull_types::error::{Error, ErrorKind};

fn main() -> std::process::ExitCode {
    let cli = cli::Cli::parse();
    match cli.run() {
        Ok(code) => std::process::ExitCode::from(code),
        Err(error) => {
            output::error(&error);
            std::process::ExitCode::from(exit_code(&error))
        }
    }
}

/// The exit code of an error: the table in `hull --help`.
fn exit_code(error: &Error) -> u8 {
    match error.kind {
        ErrorKind::Internal => 1,
        ErrorKind::Invalid | ErrorKind::TooLarge => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::AlreadyExists | ErrorKind::Conflict | ErrorKind::PreconditionFailed => 4,
        ErrorKind::Unauthenticated | ErrorKind::Forbidden => 5,
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::TooManyRequests => 6,
        ErrorKind::QuotaExceeded | ErrorKind::InsufficientResources => 7,
        ErrorKind::Unsupported => 8,
    }
}
