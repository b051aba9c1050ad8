//! `man`: the manual, a page for the program and one for each subcommand.
//!
//! The pages are made from the help, by the program itself: so whoever packages it has those of this very version, and
//! there is no second text to keep in step.

use super::conventions::{ENVIRONMENT, EXAMPLES, EXIT_CODES};
use super::error::{Error, Result};
use super::{Cli, NAME};
use crate::file::output::Output;
use clap::{Args, Command, CommandFactory};
use clap_mangen::roff::{Roff, bold, roman};
use std::io::{self, Write};
use std::path::PathBuf;

/// Begins each subcommand's examples in its help.
const HEADING: &str = "Examples:\n";

/// Writes the manual pages: one for the program, one for each subcommand.
#[derive(Args)]
#[command(after_help = "\
Examples:
  # For all users, then for a look
  ptq4vit-gpu man --out /usr/local/share/man/man1
  ptq4vit-gpu man --out man && man -l man/ptq4vit-gpu-eval.1")]
pub struct Man {
    /// Folder to write them to; made if it isn't there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Man {
    pub fn run(&self) -> Result<()> {
        std::fs::create_dir_all(&self.out)
            .map_err(|error| Error::input(&self.out, format!("can't be made: {error}")))?;
        let mut program = Cli::command().disable_help_subcommand(true);
        program.build();
        // None is written unless all can be.
        let shown = program.get_subcommands().filter(|c| !c.is_hide_set());
        let commands = [&program].into_iter().chain(shown);
        let pages = commands.map(|command| {
            let page = clap_mangen::Man::new(command.clone())
                .source(format!("{NAME} {}", env!("CARGO_PKG_VERSION")))
                .manual("Quantized vision transformers");
            let output = Output::open(&self.out.join(page.get_filename()))?;
            Ok((command, page, output))
        });
        let pages = pages.collect::<Result<Vec<_>>>()?;
        for (command, page, output) in &pages {
            output.write(|out| render(command, page, out))?;
        }
        print_line!("wrote {} pages to {}", pages.len(), self.out.display())
    }
}

/// Writes a page: the sections that follow from the command's arguments, then those that every page has.
fn render(command: &Command, page: &clap_mangen::Man, out: &mut dyn Write) -> io::Result<()> {
    page.render_title(out)?;
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    if command.has_subcommands() {
        page.render_subcommands_section(out)?;
    }
    let examples = match command.get_after_help() {
        Some(help) if !command.has_subcommands() => help.to_string(),
        _ => EXAMPLES.to_owned(),
    };
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]).control("nf", []);
    for line in examples.strip_prefix(HEADING).unwrap_or(&examples).lines() {
        roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
    }
    roff.control("fi", []);
    for (section, rows) in [("EXIT STATUS", EXIT_CODES), ("ENVIRONMENT", ENVIRONMENT)] {
        roff.control("SH", [section]);
        for (name, meaning) in rows {
            roff.control("TP", [])
                .text([bold(*name)])
                .text([roman(*meaning)]);
        }
    }
    if !command.has_subcommands() {
        let program = [bold(NAME), roman("(1)")];
        roff.control("SH", ["SEE ALSO"]).text(program);
    }
    roff.to_writer(out)
}
