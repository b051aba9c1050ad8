//! LayerNorm reparametrisation: of each channel c that a LayerNorm gives, the middle z and half the range s are taken
//! out of its γ and β and put into the products that follow,
//!
//!   γ ← γ / s, β ← (β - z) / s, W ← W · diag(s), bias ← bias + W z (with the old W),
//!
//! so that one scale fits all channels. RepQ-ViT (Li et al., ICCV 2023) has the idea.

use crate::error::Result;
use crate::file::weights::Weights;
use crate::graph::{Graph, Linear, NormReaders, Site};
use crate::quant::calibrate::Observer;
use rayon::prelude::*;
use std::collections::HashMap;

/// Sets the share of a channel's values that lie below its range, and the share above it.
const OUTSIDE: f64 = 0.001;
/// Limits s from below, for a channel that hardly varies.
const LEAST: f64 = 1e-4;

/// Holds the LayerNorms of a network, and the weights that are changed as their values come by.
pub(super) struct LayerNorms<'a> {
    weights: &'a mut Weights,
    norms: Vec<NormReaders>,
}

impl<'a> LayerNorms<'a> {
    /// Finds the LayerNorms of the network that `graphs` describe, whose tensors in `weights` are to be changed. Those of
    /// which only one row an image is read stay as they are: so few values don't tell the range of a channel.
    pub fn new(graphs: &[Graph], weights: &'a mut Weights) -> Self {
        let norms = graphs.iter().flat_map(Graph::norm_readers);
        Self {
            weights,
            norms: norms.filter(has_many_rows).collect(),
        }
    }
}

impl Observer for LayerNorms<'_> {
    fn wants(&self, site: &Site) -> bool {
        let mut readers = self.norms.iter().flat_map(|norm| &norm.sites);
        readers.any(|reader| reader.name == site.name)
    }

    /// Changes each LayerNorm that feeds sites of the segment whose left operands these are.
    fn see(&mut self, mut operands: HashMap<String, Vec<f32>>) -> Result<()> {
        let norms = std::mem::take(&mut self.norms);
        for norm in &norms {
            let values: Vec<Vec<f32>> = norm
                .sites
                .iter()
                .filter_map(|site| operands.remove(&site.name))
                .collect();
            if values.is_empty() {
                continue;
            }
            let sizes: Vec<Linear> = norm.sites.iter().filter_map(Site::weight).collect();
            let takes_centre = !norm.is_padded && sizes.iter().all(|sizes| sizes.has_bias);
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
                    Channel::of(of_channel.collect(), takes_centre)
                })
                .collect();
            self.change(norm, &channels)?;
        }
        self.norms = norms;
        Ok(())
    }
}

impl LayerNorms<'_> {
    fn change(&mut self, norm: &NormReaders, channels: &[Channel]) -> Result<()> {
        let width = channels.len();
        self.map(&norm.weight, |channel, gamma| {
            gamma / channels[channel].half
        })?;
        self.map(&norm.bias, |channel, beta| {
            (beta - channels[channel].centre) / channels[channel].half
        })?;
        for site in &norm.sites {
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

    /// Replaces each element of a tensor by the value that `of` makes of its index and value.
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

/// Holds what is taken out of a channel.
#[derive(Clone, Copy)]
struct Channel {
    /// z, the middle of its range.
    centre: f64,
    /// s, half of its range.
    half: f64,
}

impl Channel {
    /// Computes the range of a channel with these values, from their quantiles. Without a centre, the range is about
    /// zero.
    fn of(mut values: Vec<f64>, takes_centre: bool) -> Self {
        values.sort_by(f64::total_cmp);
        let [low, high] = [OUTSIDE, 1.0 - OUTSIDE].map(|share| quantile(&values, share));
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

/// Says whether a product that reads the LayerNorm's result has several rows an image.
fn has_many_rows(norm: &NormReaders) -> bool {
    norm.sites
        .iter()
        .filter_map(Site::weight)
        .any(|sizes| sizes.rows > 1)
}

/// Finds the value that a share of sorted `values` lies below, interpolated linearly between two of them.
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
        let centred = Channel::of(values.clone(), true);
        assert!((centred.centre - 5.0).abs() < 1e-9 && (centred.half - 0.998).abs() < 1e-9);
        let about_zero = Channel::of(values, false);
        assert!(about_zero.centre == 0.0 && (about_zero.half - 5.998).abs() < 1e-9);
        assert_eq!(Channel::of(vec![2.0; 40], true).half, LEAST);
    }
}
