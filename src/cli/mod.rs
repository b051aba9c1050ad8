//! The command line: one file per subcommand, which parses and orchestrates and computes nothing itself.
//!
//! Results go to stdout, progress and notices to stderr: notices through `log`, which is set up here ([`run`]) and
//! nowhere else in the library. Exit codes are those of [`Error`].

/// `println!`, but a stdout that can't be written to is an error instead of a panic.
macro_rules! print_line {
    ($($argument:tt)*) => {
        $crate::cli::write_line(format_args!($($argument)*))
    };
}

mod bench;
mod calibrate;
mod classify;
mod completions;
mod conventions;
mod demo;
mod devices;
mod eval;
mod figures;
mod inspect;
mod logging;
mod man;
mod merge;
mod models;
mod options;
mod progress;
mod report;
mod source;
mod sweep;
mod verify;

use crate::error::{Error, Result};
use crate::model;
use crate::model::recipe::Resolved;
use crate::model::weights::Weights;
use crate::quant::is_quantized;
use clap::{Parser, Subcommand};
use clap_verbosity_flag::Verbosity;
use logging::Notices;
use options::{ImageSizeOptions, PreprocessingOptions};
use source::ModelSource;
use std::io::Write;

/// The program's name.
const NAME: &str = env!("CARGO_PKG_NAME");

/// Quantizes vision transformers after training (PTQ4ViT) and runs them in integers on any GPU.
#[derive(Parser)]
#[command(name = NAME, version, propagate_version = true, after_help = conventions::after_help())]
struct Cli {
    #[command(flatten, next_help_heading = "Messages")]
    verbosity: Verbosity<Notices>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Devices(devices::Devices),
    Models(models::Models),
    Calibrate(Box<calibrate::Calibrate>),
    Inspect(inspect::Inspect),
    Eval(eval::Eval),
    Classify(classify::Classify),
    Merge(merge::Merge),
    Sweep(sweep::Sweep),
    Bench(bench::Bench),
    Demo(demo::Demo),
    Verify(verify::Verify),
    Completions(completions::Completions),
    Man(man::Man),
}

/// Parses the command line and carries it out.
///
/// # Errors
/// What the subcommand could not do. Usage errors that clap finds end the process with exit code 2.
pub fn run() -> Result<()> {
    let cli = Cli::parse();
    logging::set_up(&cli.verbosity);
    match cli.command {
        Command::Devices(command) => command.run(),
        Command::Models(command) => command.run(),
        Command::Calibrate(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Classify(command) => command.run(),
        Command::Merge(command) => command.run(),
        Command::Sweep(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Demo(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
    }
}

/// Writes one line to stdout.
fn write_line(line: std::fmt::Arguments) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .map_err(|error| Error::input("stdout", format!("can't be written: {error}")))
}

/// Opens an FP checkpoint.
fn open_checkpoint(source: &ModelSource) -> Result<Weights> {
    let path = source.locate()?;
    let weights = model::open_checkpoint(&path)?;
    if is_quantized(&weights) {
        return Err(Error::input(
            path,
            "is a quantized model, where an FP checkpoint is expected; `eval` and `classify` take it as --quantized",
        ));
    }
    Ok(weights)
}

/// Opens an FP checkpoint and finds out what it is, which is said in a notice, with the user's choices in place of its
/// own.
fn open_float(
    source: &ModelSource,
    recipe: Option<&str>,
    image_size: &ImageSizeOptions,
    preprocessing: &PreprocessingOptions,
) -> Result<(Weights, Resolved)> {
    let mut weights = open_checkpoint(source)?;
    let resolved = image_size.resolve(&mut weights, recipe, preprocessing)?;
    log::info!("model: {} ({})", resolved.name, resolved.source);
    Ok((weights, resolved))
}
