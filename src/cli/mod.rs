//! The command line: one file per subcommand, which parses and orchestrates and computes nothing itself.
//!
//! Results go to stdout, progress and notices to stderr. Exit codes are those of [`Error`](crate::error::Error).

mod calibrate;
mod demo;
mod devices;
mod eval;
mod options;

use crate::error::Result;
use clap::{Parser, Subcommand};

/// Quantizes vision transformers after training (PTQ4ViT) and runs them in integers on any GPU.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Devices(devices::Devices),
    Calibrate(calibrate::Calibrate),
    Eval(eval::Eval),
    Demo(demo::Demo),
}

/// Parses the command line and carries it out.
///
/// # Errors
/// What the subcommand could not do. Usage errors that clap finds end the process with exit code 2.
pub fn run() -> Result<()> {
    match Cli::parse().command {
        Command::Devices(command) => command.run(),
        Command::Calibrate(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Demo(command) => command.run(),
    }
}
