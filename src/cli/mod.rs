//! The command line: one file per subcommand, which parses and orchestrates and computes nothing itself.
//!
//! Results go to stdout, progress and notices to stderr: notices through `log`, which is set up here ([`run`]) and
//! nowhere else in the library. Errors are worded, and have their exit codes, in `error.rs`.

/// `println!` of one line, whatever is in it; a stdout that can't be written to is an error instead of a panic.
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
mod elsewhere;
mod embed;
mod error;
mod eval;
mod figures;
mod inputs;
mod inspect;
mod landscape;
mod logging;
mod man;
mod merge;
mod models;
mod options;
mod progress;
mod report;
mod source;
mod sweep;
mod trial;
mod verify;

use crate::data::samples::{Sample, flat_folder};
use crate::file::interrupt;
use crate::file::weights::Weights;
use crate::model;
use crate::model::recipe::Resolved;
use crate::quant::{FORMAT_NAME, QuantizedModel, is_quantized};
use crate::text::printable;
use clap::{Parser, Subcommand};
use clap_verbosity_flag::Verbosity;
use error::{Error, INTERRUPTED, Result};
use logging::Notices;
use options::{ImageSizeOptions, PreprocessingOptions};
use rayon::ThreadPoolBuilder;
use serde::Serialize;
use source::ModelSource;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Holds the program's name.
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
    Embed(embed::Embed),
    Merge(merge::Merge),
    Sweep(sweep::Sweep),
    Bench(bench::Bench),
    Demo(demo::Demo),
    Verify(verify::Verify),
    Completions(completions::Completions),
    Man(man::Man),
    #[command(hide = true)]
    Trial(trial::Trial),
}

/// Parses the command line, carries it out, and says on stderr what went wrong. Returns the exit code. Ctrl-C and SIGTERM
/// end the process in order meanwhile.
pub fn run() -> ExitCode {
    interrupt::listen(|notice| {
        logging::tell_interrupted(notice);
        INTERRUPTED
    });
    let carried_out = parse().and_then(|command| {
        start_threads()?;
        command.run()
    });
    match carried_out {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, Error::Library(crate::error::Error::BrokenPipe)) {
                logging::tell(&error);
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Parses the command line and sets up the log. What clap has to say ends the process.
fn parse() -> Result<Command> {
    let cli = Cli::try_parse().unwrap_or_else(|said| {
        if !said.use_stderr() {
            let _ = said.print();
            std::process::exit(said.exit_code());
        }
        // What it repeats of the arguments, it gets as it can be shown.
        let arguments = std::env::args_os().map(|argument| {
            let argument = argument.to_string_lossy();
            printable::line(&argument).into_owned()
        });
        let said = Cli::try_parse_from(arguments).err().unwrap_or(said);
        logging::tell_usage(&said);
        std::process::exit(said.exit_code())
    });
    logging::set_up(&cli.verbosity);
    Ok(cli.command)
}

/// Starts the threads that the CPU's kernels divide their work among. This one is one of them: else it would have to be
/// woken up after each kernel.
fn start_threads() -> Result<()> {
    let threads = ThreadPoolBuilder::new().use_current_thread();
    let started = threads.build_global();
    started.map_err(|error| {
        let problem = format!("its threads can't be started: {error}");
        crate::error::Error::device("cpu", problem).into()
    })
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Self::Devices(command) => command.run(),
            Self::Models(command) => command.run(),
            Self::Calibrate(command) => command.run(),
            Self::Inspect(command) => command.run(),
            Self::Eval(command) => command.run(),
            Self::Classify(command) => command.run(),
            Self::Embed(command) => command.run(),
            Self::Merge(command) => command.run(),
            Self::Sweep(command) => command.run(),
            Self::Bench(command) => command.run(),
            Self::Demo(command) => command.run(),
            Self::Verify(command) => command.run(),
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
            Self::Trial(command) => command.run(),
        }
    }
}

/// Writes one line to stdout, whatever is in it.
fn write_line(line: std::fmt::Arguments) -> Result<()> {
    write_stdout(&printable::line(&line.to_string()))
}

/// Prints `value` as JSON. Escaping what a terminal can't show leaves its meaning as it is.
fn print_json(value: &impl Serialize) -> Result<()> {
    print_text(&serde_json::to_string_pretty(value).expect("plain data is always JSON"))
}

/// Prints a text of several lines.
fn print_text(text: &str) -> Result<()> {
    write_stdout(&printable::text(text))
}

fn write_stdout(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => crate::error::Error::BrokenPipe.into(),
        _ => Error::input("stdout", format!("can't be written: {error}")),
    })
}

/// Returns the images that `paths` name, or that lie in the folders that they name, in this order.
fn images_at(paths: &[PathBuf]) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for path in paths {
        if path.is_dir() {
            samples.extend(flat_folder(path)?);
        } else {
            let path = path.clone();
            samples.push(Sample { path, label: None });
        }
    }
    Ok(samples)
}

/// Opens an FP checkpoint.
fn open_checkpoint(source: &ModelSource) -> Result<Weights> {
    let path = source.locate()?;
    let weights = model::open_checkpoint(&path)?;
    if is_quantized(&weights) {
        return Err(Error::input(
            path,
            "is a quantized model, where an FP checkpoint is expected; `eval`, `classify` and `embed` take it as --quantized",
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

/// Opens a quantized model, with its file.
fn open_quantized(path: &Path) -> Result<(Weights, QuantizedModel)> {
    let file = Weights::open(path)?;
    if !is_quantized(&file) {
        return Err(Error::input(
            path,
            format!(
                "is no quantized model, as `calibrate` writes it: metadata `format` is not `{FORMAT_NAME}`; `calibrate` \
                 and `eval` take an FP checkpoint as --model"
            ),
        ));
    }
    let model = QuantizedModel::read(&file)?;
    Ok((file, model))
}
