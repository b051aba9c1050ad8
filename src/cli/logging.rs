//! Notices on stderr: which are shown, how they look, and that they and progress bars don't overwrite each other.

use super::progress;
use clap_verbosity_flag::{LogLevel, Verbosity, VerbosityFilter};
use env_logger::fmt::Formatter;
use env_logger::{Builder, Logger};
use indicatif_log_bridge::LogWrapper;
use log::{Level, LevelFilter, Record};
use std::env;
use std::io::{self, Write};

/// What this crate's own messages come from.
const OURS: &str = env!("CARGO_CRATE_NAME");
/// The variable that chooses messages by where they come from, as in `wgpu_hal=debug,ptq4vit_gpu=trace`.
const VARIABLE: &str = "RUST_LOG";

/// The levels that `-v` and `-q` move between.
pub struct Notices;

impl LogLevel for Notices {
    fn default_filter() -> VerbosityFilter {
        VerbosityFilter::Info
    }

    fn verbose_help() -> Option<&'static str> {
        Some("Say more on stderr: -v how it is computed, -vv also what wgpu does")
    }

    fn quiet_help() -> Option<&'static str> {
        Some("Say nothing on stderr but errors, and show no progress bar")
    }
}

/// Sets up the log for the rest of the process, unless it is already.
///
/// `-v` and `-q` win over `RUST_LOG`, which wins over the default: all notices of this program, and of others only
/// errors.
pub fn set_up(verbosity: &Verbosity<Notices>) {
    if verbosity.log_level_filter() < LevelFilter::Info {
        progress::hide();
    }
    let logger = logger(verbosity);
    let most = logger.filter();
    let logger = LogWrapper::new(progress::bars().clone(), logger);
    if logger.try_init().is_ok() {
        log::set_max_level(most);
    }
}

fn logger(verbosity: &Verbosity<Notices>) -> Logger {
    let mut builder = Builder::new();
    match env::var(VARIABLE) {
        Ok(directives) if !verbosity.is_present() && !directives.is_empty() => {
            builder.parse_filters(&directives);
        }
        _ => {
            use LevelFilter::{Debug, Error, Info, Off, Trace, Warn};
            let (ours, wgpu, others) = match verbosity.log_level_filter() {
                Off | Error | Warn => (Error, Error, Error),
                Info => (Info, Error, Error),
                Debug => (Debug, Warn, Warn),
                Trace => (Trace, Debug, Warn),
            };
            builder
                .filter_level(others)
                .filter_module("wgpu", wgpu)
                .filter_module(OURS, ours);
        }
    }
    builder.format(write).build()
}

/// A notice is its text alone; other levels say what they are, and other crates' messages where they come from.
fn write(out: &mut Formatter, record: &Record) -> io::Result<()> {
    match record.level() {
        Level::Error => write!(out, "error: ")?,
        Level::Warn => write!(out, "warning: ")?,
        Level::Info => {}
        Level::Debug => write!(out, "debug: ")?,
        Level::Trace => write!(out, "trace: ")?,
    }
    let target = record.target();
    if !target.starts_with(OURS) {
        write!(out, "{target}: ")?;
    }
    writeln!(out, "{}", record.args())
}
