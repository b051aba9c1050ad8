//! `calibrate --landscape`: the network's loss beside the metrics, over all candidates of chosen products.

use super::error::{Error, Result};
use crate::families::sites;
use crate::model::config::Architecture;
use crate::quant::{Landscape, LandscapePoint, Metric, Plan, SitePattern};
use clap::Args;
use std::collections::HashSet;

/// Which products to look at more closely.
#[derive(Args)]
pub struct LandscapeOption {
    /// Products to show the loss of the whole network for, and the KL divergence of its answers, beside all four metrics, over
    /// all candidates for A's scales and for B's, by their names: 'blocks.5.mlp.fc2', '*.attn.proj'. Only that operand is
    /// rounded: the product's other operand and all other products are in floats. It takes long: for each candidate, all
    /// images go through the network once more, from the product's block on. Nothing of the quantized model depends on it.
    /// May be given several times.
    #[arg(long = "landscape", value_name = "PATTERN")]
    patterns: Vec<SitePattern>,
}

impl LandscapeOption {
    /// Says whether it is given.
    pub fn is_given(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Finds the products that are meant, by their names.
    ///
    /// # Errors
    /// A pattern that matches no product, or only such as stay in floats.
    pub fn select(&self, plan: &Plan, architecture: &Architecture) -> Result<HashSet<String>> {
        let sites = sites(architecture);
        let mut selected = HashSet::new();
        for pattern in &self.patterns {
            let usage = |problem: String| Error::usage("--landscape", problem);
            let matching = pattern.select(&sites).map_err(usage)?;
            let (integer, float): (Vec<_>, Vec<_>) = matching
                .into_iter()
                .partition(|site| plan.of(site).is_some());
            let names: Vec<&str> = float.iter().map(|site| site.name.as_str()).collect();
            if integer.is_empty() {
                let names = names.join(", ");
                return Err(usage(format!(
                    "`{pattern}` matches only products that stay in floats, which have no candidates: {names}"
                )));
            }
            if !names.is_empty() {
                let names = names.join(", ");
                log::warn!("--landscape: without {names}, which stay in floats");
            }
            selected.extend(integer.into_iter().map(|site| site.name.clone()));
        }
        Ok(selected)
    }
}

/// Prints where the loss, the KL divergence and each metric are least, with the loss and the KL there.
///
/// # Errors
/// A stdout that can't be written to.
pub(super) fn print(landscapes: &[Landscape]) -> Result<()> {
    for landscape in landscapes {
        let at = |what: &str, least: usize| {
            let LandscapePoint { loss, kl, .. } = landscape.candidates[least];
            let kl = kl.map_or(String::new(), |kl| format!(", KL {kl:.2e}"));
            format!("{what} {} ({loss:.5}{kl})", least + 1)
        };
        let scores = Metric::ALL.map(|metric| {
            let least = landscape.least(|point| point.scores[&metric]);
            at(metric.name(), least)
        });
        let loss = at("loss", landscape.least(|point| point.loss));
        let kl = landscape.least_kl().map(|least| at("KL", least));
        let all: Vec<String> = [loss].into_iter().chain(kl).chain(scores).collect();
        print_line!(
            "{} {}: of {} candidates and the loss there, {:.5} in floats, least are {}",
            landscape.site,
            landscape.side.name(),
            landscape.candidates.len(),
            landscape.float_loss,
            all.join(", "),
        )?;
    }
    Ok(())
}
