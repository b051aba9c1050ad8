//! What an operand by itself does to a loss when it is rounded, while all others stay as they are: by the loss's gradients,
//! in the first order.
//!
//! An error of a weight is the same in every row, so its parts add up or cancel over all of an image: that is why they are
//! summed before anything is squared.

use super::fake_quantizer::FakeQuantizer;
use super::linear::{Inputs, means};
use super::operand::rows;
use super::site::{LinearSite, SiteValues, fit_activation, row_weights};
use super::weight::round_weight;
use crate::graph::SiteKind;
use crate::quant::plan::{Side, SitePlan};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

/// Holds what rounds an activation.
pub(in crate::quant) struct RoundedActivation {
    plan: SitePlan,
    side: Side,
    /// `[groups]`.
    fake_quantizers: Vec<FakeQuantizer>,
    /// What a corrected bias takes off the error of each input; empty where there is none.
    means: Vec<f64>,
}

/// Holds what a weight is off when it is rounded, in several widths.
pub(in crate::quant) struct RoundedWeights {
    /// For each width, `[outputs, inputs]`.
    errors: Vec<Vec<f32>>,
    /// What a corrected bias takes off each input; zeros where there is none.
    means: Vec<f32>,
}

impl RoundedActivation {
    /// Fits one operand, an activation, of the site of `plan` to `values`. `has_bias` and `corrects_bias` say whether the
    /// site has a bias and whether it is corrected.
    pub fn fit(
        plan: &SitePlan,
        side: Side,
        values: &SiteValues,
        has_bias: bool,
        corrects_bias: bool,
    ) -> Self {
        let linear = plan.site.weight();
        let count = values.images * linear.map_or(1, |sizes| sizes.rows);
        let fitted = fit_activation(plan, side, values, has_bias, count);
        let tables = |group: usize| fitted.tables.get(group);
        let scales = fitted.scales.iter().enumerate();
        let fake_quantizers: Vec<FakeQuantizer> = scales
            .map(|(group, &scale)| FakeQuantizer::new(plan.operand(side), scale, tables(group)))
            .collect();
        let means = match linear {
            Some(sizes) if has_bias && corrects_bias && sizes.rows > 1 => {
                let rows = row_weights(values.out_fisher, sizes.outputs, false);
                let errors = values
                    .a
                    .par_iter()
                    .map(|&x| fake_quantizers[0].value(x) - x);
                means(&errors.collect::<Vec<f32>>(), sizes.inputs, &rows)
            }
            _ => Vec::new(),
        };
        Self {
            plan: plan.clone(),
            side,
            fake_quantizers,
            means,
        }
    }

    /// Computes by how much the loss of each probe changes for an image with these `values`, given the probes' `gradients`
    /// there.
    pub fn effects(&self, values: &[f32], gradients: &[&[f32]]) -> Vec<f64> {
        let quantizer = self.plan.quantizer(self.side, 1, 1);
        let mut effects = vec![0.0; gradients.len()];
        for (group, start) in rows(&quantizer) {
            let fake_quantizer = &self.fake_quantizers[group];
            for input in 0..quantizer.k {
                let at = start + input * quantizer.source.column as usize;
                let x = values[at];
                let mean = self.means.get(input).copied().unwrap_or(0.0);
                let error = f64::from(fake_quantizer.value(x) - x) - mean;
                for (effect, gradients) in effects.iter_mut().zip(gradients) {
                    *effect += error * f64::from(gradients[at]);
                }
            }
        }
        effects
    }
}

impl RoundedWeights {
    /// Rounds the weight of a `linear` site by each of its `plans` with a view to `values`, whose activations stay as they
    /// are.
    pub fn new(
        plans: &[SitePlan],
        values: &SiteValues,
        linear: &LinearSite,
        corrects_bias: bool,
    ) -> Self {
        let SiteKind::Linear(sizes) = plans[0].site.kind else {
            unreachable!("a site with a weight is linear");
        };
        let is_single = sizes.rows == 1;
        let rows = row_weights(values.out_fisher, sizes.outputs, is_single);
        let inputs = Inputs::of(values.a, sizes.inputs, &rows, |x| x);
        let errors = plans.par_iter().map(|plan| {
            let rounded = round_weight(linear.weight, &sizes, &plan.b, &inputs);
            let group_len = linear.weight.len() / rounded.scales.len();
            let pairs = linear.weight.iter().zip(&rounded.lanes).enumerate();
            let errors = pairs
                .map(|(at, (w, &lane))| f32::from(lane) * rounded.scales[at / group_len].scale - w);
            errors.collect()
        });
        let corrected = linear.bias.is_some() && corrects_bias && !is_single;
        let mean = |&mean: &f64| if corrected { mean as f32 } else { 0.0 };
        Self {
            errors: errors.collect(),
            means: inputs.means.iter().map(mean).collect(),
        }
    }

    /// Computes by how much a loss changes in each width for an image with the activations `a`, given its gradients at the
    /// outputs.
    pub fn effects(&self, a: &[f32], out_gradients: &[f32]) -> Vec<f64> {
        let inputs = self.means.len();
        let outputs = self.errors[0].len() / inputs;
        let centred = a.chunks_exact(inputs).flat_map(|row| {
            let pairs = row.iter().zip(&self.means);
            pairs.map(|(x, mean)| x - mean)
        });
        let rows = a.len() / inputs;
        let centred =
            Array2::from_shape_vec((rows, inputs), centred.collect()).expect("whole rows");
        let gradients = ArrayView2::from_shape((rows, outputs), out_gradients).expect("whole rows");
        let mut at_weight = Array2::<f32>::zeros((outputs, inputs));
        general_mat_mul(1.0, &gradients.t(), &centred, 0.0, &mut at_weight);
        let at_weight = at_weight.iter();
        let effect = |errors: &Vec<f32>| {
            let terms = at_weight.clone().zip(errors);
            terms
                .map(|(g, error)| f64::from(*g) * f64::from(*error))
                .sum()
        };
        self.errors.iter().map(effect).collect()
    }
}
