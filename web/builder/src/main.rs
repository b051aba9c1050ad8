//! The site: a folder of static files, `target/site`, which any server can serve.

mod build;
mod serve;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Parser)]
#[command(about = "Builds the page for browsers, and serves it on this machine")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds the site in target/site.
    Build {
        /// The program that quantizes the demo's networks. Default: it is built, too.
        #[arg(long)]
        program: Option<PathBuf>,
    },
    /// Serves target/site on this machine alone, until it is stopped.
    Serve {
        /// Port; 0 takes any that is free.
        #[arg(long, default_value_t = 8080)]
        port: u16,
    },
}

/// The project's folder.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("web/builder").to_owned()
}

fn main() -> anyhow::Result<()> {
    let site = root().join("target/site");
    match Arguments::parse().command {
        Command::Build { program } => build::build(&root(), &site, program.as_deref()),
        Command::Serve { port } => serve::serve(&site, port),
    }
}
