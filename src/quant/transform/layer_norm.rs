//! LayerNorm reparametrisation: of each channel c that a LayerNorm gives, the middle z and half the range s are taken out of
//! its γ and β and put into the products that follow,
//!
//!   γ ← γ / s, β ← (β - z) / s, W ← W · diag(s), bias ← bias + W z (with the old W),
//!
//! so that one scale fits all channels. RepQ-ViT (Li et al., ICCV 2023) has the idea.

use crate::error::Result;
use crate::file::weights::Weights;
use crate::graph::{Linear, Network, Site};
use crate::quant::calibrate::Observer;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// The share of a channel's values below and above its range.
const OUTSIDE: f64 = 0.001;
/// Half the range of a channel, in standard deviations, where a sum over few values has no quantiles: one row an image.
const DEVIATIONS: f64 = 3.0;
/// The least s: that of a channel that hardly varies.
const LEAST: f64 = 1e-4;

/// The LayerNorms of a network, and the weights that are changed as their values come by.
pub(super) struct LayerNorms<'a> {
    weights: &'a mut Weights,
    /// What each LayerNorm feeds, by its name.
    fed: BTreeMap<String, Vec<Site>>,
    /// Rows of an image in each block's fc1, which has no padding.
    tokens: HashMap<String, usize>,
}

impl<'a> LayerNorms<'a> {
    /// Those of `network`, whose tensors in `weights` are to be changed.
    pub fn new(network: &Network, weights: &'a mut Weights) -> Self {
        let mut fed: BTreeMap<String, Vec<Site>> = BTreeMap::new();
        let mut tokens = HashMap::new();
        for site in network.sites() {
            if let Some(norm) = norm_before(&site.name) {
                fed.entry(norm).or_default().push(site.clone());
            }
            if let (Some(block), Some(sizes)) = (site.name.strip_suffix("mlp.fc1"), site.weight()) {
                tokens.insert(block.to_owned(), sizes.rows);
            }
        }
        Self {
            weights,
            fed,
            tokens,
        }
    }

    /// Whether the site is given rows of zeros beside what the LayerNorm gives: padding, which must stay zero.
    fn is_padded(&self, site: &Site, sizes: &Linear) -> bool {
        let block = site.name.strip_suffix("attn.qkv");
        let tokens = block.and_then(|block| self.tokens.get(block));
        tokens.is_some_and(|tokens| *tokens < sizes.rows)
    }
}

/// timm's name of the LayerNorm whose values are the left operand of a site, if it is one's.
fn norm_before(site: &str) -> Option<String> {
    if ["head", "head_dist", "head.fc"].contains(&site) {
        return Some("norm".to_owned());
    }
    let norms = [
        ("attn.qkv", "norm1"),
        ("mlp.fc1", "norm2"),
        ("downsample.reduction", "downsample.norm"),
    ];
    norms.iter().find_map(|(layer, norm)| {
        let block = site.strip_suffix(layer)?;
        Some(format!("{block}{norm}"))
    })
}

impl Observer for LayerNorms<'_> {
    fn wants(&self, site: &Site) -> bool {
        norm_before(&site.name).is_some()
    }

    /// Changes each LayerNorm that feeds sites of the segment whose left operands these are.
    fn see(&mut self, mut operands: HashMap<String, Vec<f32>>) -> Result<()> {
        let fed = std::mem::take(&mut self.fed);
        for (norm, sites) in &fed {
            let values: Vec<Vec<f32>> = sites
                .iter()
                .filter_map(|site| operands.remove(&site.name))
                .collect();
            if values.is_empty() {
                continue;
            }
            let sizes: Vec<Linear> = sites.iter().filter_map(Site::weight).collect();
            let takes_centre = sites
                .iter()
                .zip(&sizes)
                .all(|(site, sizes)| sizes.has_bias && !self.is_padded(site, sizes));
            let single = sizes.iter().all(|sizes| sizes.rows == 1);
            let width = sizes[0].inputs;
            let channels: Vec<Channel> = (0..width)
                .into_par_iter()
                .map(|channel| {
                    let of_channel = values.iter().flat_map(|values| {
                        values
                            .iter()
                            .skip(channel)
                            .step_by(width)
                            .map(|&x| f64::from(x))
                    });
                    Channel::of(of_channel.collect(), single, takes_centre)
                })
                .collect();
            self.change(norm, sites, &channels)?;
        }
        self.fed = fed;
        Ok(())
    }
}

impl LayerNorms<'_> {
    fn change(&mut self, norm: &str, sites: &[Site], channels: &[Channel]) -> Result<()> {
        let width = channels.len();
        self.map(&format!("{norm}.weight"), |channel, gamma| {
            gamma / channels[channel].half
        })?;
        self.map(&format!("{norm}.bias"), |channel, beta| {
            (beta - channels[channel].centre) / channels[channel].half
        })?;
        for site in sites {
            let name = format!("{}.weight", site.name);
            let weight = self.weights.float(&name)?;
            if channels.iter().any(|channel| channel.centre != 0.0) {
                let rows: Vec<f64> = weight
                    .chunks_exact(width)
                    .map(|row| {
                        let terms = row.iter().zip(channels);
                        terms
                            .map(|(w, channel)| f64::from(*w) * channel.centre)
                            .sum()
                    })
                    .collect();
                self.map(&format!("{}.bias", site.name), |output, bias| {
                    bias + rows[output]
                })?;
            }
            self.map(&name, |at, weight| weight * channels[at % width].half)?;
        }
        Ok(())
    }

    /// Gives each element of a tensor the value that `of` makes of its index and value.
    fn map(&mut self, name: &str, of: impl Fn(usize, f64) -> f64) -> Result<()> {
        let values = self.weights.float(name)?;
        let shape = self.weights.shape(name).unwrap_or_default().to_vec();
        let values = values.iter().enumerate();
        let values: Vec<f32> = values
            .map(|(at, &value)| of(at, f64::from(value)) as f32)
            .collect();
        self.weights.replace(name, shape, &values);
        Ok(())
    }
}

/// What is taken out of a channel.
#[derive(Clone, Copy)]
struct Channel {
    /// z.
    centre: f64,
    /// s.
    half: f64,
}

impl Channel {
    /// That of a channel with these values: from the quantiles, or from mean and deviation where there is a `single` row an
    /// image. Without a centre, the range is about zero.
    fn of(mut values: Vec<f64>, single: bool, takes_centre: bool) -> Self {
        let (low, high) = if single {
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            let reach = DEVIATIONS * variance.sqrt();
            (mean - reach, mean + reach)
        } else {
            values.sort_by(f64::total_cmp);
            [OUTSIDE, 1.0 - OUTSIDE]
                .map(|share| quantile(&values, share))
                .into()
        };
        let (centre, half) = match takes_centre {
            true => ((low + high) / 2.0, (high - low) / 2.0),
            false => (0.0, low.abs().max(high.abs())),
        };
        Self {
            centre,
            half: half.max(LEAST),
        }
    }
}

/// The value that a share of sorted `values` lies below, between two of them by the line through both.
fn quantile(values: &[f64], share: f64) -> f64 {
    let place = share * (values.len() - 1) as f64;
    let below = values[place as usize];
    let above = values[(place as usize + 1).min(values.len() - 1)];
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_values() {
        let values: Vec<f64> = (0..=1000).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.0), 0.0);
        assert_eq!(quantile(&values, 1.0), 1000.0);
        assert!((quantile(&values, 0.0015) - 1.5).abs() < 1e-9);
        assert_eq!(quantile(&[3.0], 0.5), 3.0);
    }

    #[test]
    fn a_channel_is_centred_where_something_takes_the_centre() {
        let values: Vec<f64> = (0..=1000).map(|x| 4.0 + f64::from(x) / 500.0).collect();
        let centred = Channel::of(values.clone(), false, true);
        assert!((centred.centre - 5.0).abs() < 1e-9 && (centred.half - 0.998).abs() < 1e-9);
        let about_zero = Channel::of(values, false, false);
        assert!(about_zero.centre == 0.0 && (about_zero.half - 5.998).abs() < 1e-9);
        assert_eq!(Channel::of(vec![2.0; 40], false, true).half, LEAST);
        let single = Channel::of(vec![1.0, 3.0], true, true);
        assert_eq!((single.centre, single.half), (2.0, 3.0));
    }
}
