//! Notices on stderr: which are shown, how they look, and that they and progress bars don't overwrite each other.

use super::error::Error;
use super::progress;
use crate::text::printable;
use clap_verbosity_flag::{LogLevel, Verbosity, VerbosityFilter};
use env_logger::fmt::Formatter;
use env_logger::{Builder, Logger};
use indicatif_log_bridge::LogWrapper;
use log::{Level, LevelFilter, Record};
use std::env;
use std::io::{self, Write};

/// Names the source of this crate's own messages.
const OURS: &str = env!("CARGO_CRATE_NAME");
/// Names the variable that chooses messages by where they come from, as in `wgpu_hal=debug,ptq4vit_gpu=trace`.
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

/// Writes a message: a notice is its text alone; other levels say what they are, and other crates' messages where they
/// come from.
fn write(out: &mut Formatter, record: &Record) -> io::Result<()> {
    // The requests byte for byte, and so with passwords and tokens.
    if record.level() == Level::Trace && record.target().starts_with("ureq_proto") {
        return Ok(());
    }
    let level = match record.level() {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info => "",
        Level::Debug => "debug: ",
        Level::Trace => "trace: ",
    };
    let (target, message) = (record.target(), record.args());
    out.write_all(
        match target.starts_with(OURS) {
            true => message_lines(&format!("{level}{message}")),
            false => message_lines(&format!("{level}{target}: {message}")),
        }
        .as_bytes(),
    )
}

/// Says on stderr why the program ends.
pub fn tell(error: &Error) {
    // Where stderr can't be written to, there is nobody to tell.
    let _ = io::stderr().write_all(message_lines(&format!("error: {error}")).as_bytes());
}

/// Says on stderr that Ctrl-C or SIGTERM ended the program, and what the user should know besides.
pub fn tell_interrupted(notice: Option<&str>) {
    let notice = notice.map_or(String::new(), |notice| format!("; {notice}"));
    // Where stderr can't be written to, there is nobody to tell.
    let _ = writeln!(io::stderr(), "\ninterrupted{notice}");
}

/// Says on stderr what is wrong with the command line, in several paragraphs.
pub fn tell_usage(error: &clap::Error) {
    let _ = io::stderr().write_all(printable::text(&error.render().to_string()).as_bytes());
}

/// Returns a message as it is shown. Lines after its first are indented, so that none looks like a message of its own.
fn message_lines(message: &str) -> String {
    let mut shown = String::new();
    for (number, line) in printable::text(message).lines().enumerate() {
        let indent = if number == 0 || line.is_empty() {
            ""
        } else {
            "  "
        };
        shown += &format!("{indent}{line}\n");
    }
    shown
}
