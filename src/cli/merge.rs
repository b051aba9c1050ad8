//! `merge`: the figures of an evaluation from the parts of its shards.

use super::error::Result;
use super::eval::check_skipped;
use super::figures;
use crate::evaluation::{Part, check_complete, summarize};
use clap::Args;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Puts together what `eval --shard` wrote, and prints what `eval` prints of all images.
///
/// They must be all parts of one evaluation, each once; the devices may differ.
#[derive(Args)]
#[command(after_help = "\
Examples:
  # The figures of all images
  ptq4vit-gpu merge parts/*.json")]
pub struct Merge {
    /// Parts, in any order.
    #[arg(required = true, value_name = "PART")]
    parts: Vec<PathBuf>,
    /// How many images may have been left out in all because they couldn't be read.
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_skipped: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Merge {
    pub fn run(&self) -> Result<()> {
        let parts = self
            .parts
            .iter()
            .map(|path| Ok((path.clone(), Part::open(path)?)))
            .collect::<Result<Vec<_>>>()?;
        check_complete(&parts)?;
        let mut skipped = 0;
        for (path, part) in &parts {
            skipped += part.skipped.len();
            for image in &part.skipped {
                log::warn!("skipped: {image} (in {})", path.display());
            }
        }
        check_skipped(skipped, "--max-skipped", self.max_skipped)?;
        let devices: BTreeSet<String> = parts
            .iter()
            .map(|(_, part)| format!("{} ({})", part.device, part.driver))
            .collect();
        if devices.len() > 1 {
            let devices: Vec<String> = devices.into_iter().collect();
            log::info!("devices: {}", devices.join("; "));
        }
        figures::print(&summarize(parts.iter().map(|(_, part)| part))?, self.json)
    }
}
