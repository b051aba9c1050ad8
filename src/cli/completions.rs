//! `completions`: what shells complete.

use super::error::Result;
use super::{Cli, NAME, print_text};
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

/// Prints what a shell needs to complete subcommands, flags and values.
#[derive(Args)]
#[command(after_help = "\
Examples:
  # For this user's bash, fish and zsh (in a folder of zsh's $fpath)
  ptq4vit-gpu completions bash > ~/.local/share/bash-completion/completions/ptq4vit-gpu
  ptq4vit-gpu completions fish > ~/.config/fish/completions/ptq4vit-gpu.fish
  ptq4vit-gpu completions zsh > ~/.zfunc/_ptq4vit-gpu")]
pub struct Completions {
    /// The shell.
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

impl Completions {
    pub fn run(&self) -> Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), NAME, &mut script);
        print_text(String::from_utf8_lossy(&script).trim_end())
    }
}
