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
                let mut errors = fake_quantizers[0].round(values.a);
                let pairs = errors.iter_mut().zip(values.a);
                pairs.for_each(|(error, x)| *error -= x);
                means(&errors, sizes.inputs, &rows)
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
            let at = |input: usize| start + input * quantizer.source.column as usize;
            let row: Vec<f32> = (0..quantizer.k).map(|input| values[at(input)]).collect();
            let rounded = self.fake_quantizers[group].round(&row);
            for (input, (x, rounded)) in row.into_iter().zip(rounded).enumerate() {
                let at = at(input);
                let mean = self.means.get(input).copied().unwrap_or(0.0);
                let error = f64::from(rounded - x) - mean;
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
        let inputs = Inputs::of(values.a, values.a.to_vec(), sizes.inputs, &rows);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Linear, Site};
    use crate::quant::{Policy, Preset};

    const ROWS: usize = 40;
    const INPUTS: usize = 12;
    const OUTPUTS: usize = 7;

    fn values(seed: usize, count: usize) -> Vec<f32> {
        let value = |at: usize| ((at * 7919 + seed * 104_729) % 1009) as f32 / 504.0 - 1.0;
        (0..count).map(|at| value(at).powi(3)).collect()
    }

    /// What a rounded operand does to a loss is the sum of gradients times errors of the outputs, whose mean a corrected
    /// bias takes off.
    #[test]
    fn effects_are_those_of_the_outputs() {
        let site = Site::linear("fc", Linear::new(ROWS, INPUTS, OUTPUTS));
        let plans: Vec<SitePlan> = [3, 4]
            .map(|bits| {
                let policy = Policy::preset(Preset::Best, bits, bits);
                let plan = policy.plan(std::slice::from_ref(&site)).unwrap();
                plan.of(&site).unwrap()
            })
            .to_vec();
        let (a, weight) = (values(1, ROWS * INPUTS), values(2, OUTPUTS * INPUTS));
        let out_fisher: Vec<f32> = values(3, ROWS * OUTPUTS).iter().map(|x| x * x).collect();
        let site_values = SiteValues {
            images: 1,
            a: &a,
            b: None,
            a_fisher: None,
            b_fisher: None,
            out_fisher: &out_fisher,
        };
        let linear = LinearSite {
            weight: &weight,
            bias: Some(&[0.0; OUTPUTS]),
        };
        let gradients = values(4, ROWS * OUTPUTS);
        let at = |values: &[f32], row: usize, column: usize, columns: usize| {
            f64::from(values[row * columns + column])
        };
        let rows = row_weights(&out_fisher, OUTPUTS, false);
        // Of errors of the outputs, [rows, outputs].
        let effect = |error: &dyn Fn(usize, usize) -> f64, corrects: bool| -> f64 {
            let outputs = (0..OUTPUTS).map(|output| {
                let weighted = (0..ROWS).map(|row| rows[row] * error(row, output));
                let mean = if corrects { weighted.sum() } else { 0.0 };
                let terms = (0..ROWS)
                    .map(|row| at(&gradients, row, output, OUTPUTS) * (error(row, output) - mean));
                terms.sum::<f64>()
            });
            outputs.sum()
        };
        let product = |a: &dyn Fn(usize, usize) -> f64, w: &dyn Fn(usize, usize) -> f64| {
            let mut at_a = vec![0.0f32; ROWS * INPUTS];
            for row in 0..ROWS {
                for input in 0..INPUTS {
                    let terms = (0..OUTPUTS)
                        .map(|output| at(&gradients, row, output, OUTPUTS) * w(output, input));
                    at_a[row * INPUTS + input] = terms.sum::<f64>() as f32;
                }
            }
            let out = |row: usize, output: usize| -> f64 {
                (0..INPUTS)
                    .map(|input| a(row, input) * w(output, input))
                    .sum()
            };
            let out: Vec<f64> = (0..ROWS * OUTPUTS)
                .map(|at| out(at / OUTPUTS, at % OUTPUTS))
                .collect();
            (out, at_a)
        };
        let x = |row, input| at(&a, row, input, INPUTS);
        let w = |output, input| at(&weight, output, input, INPUTS);
        for corrects in [false, true] {
            let rounded = RoundedWeights::new(&plans, &site_values, &linear, corrects);
            let found = rounded.effects(&a, &gradients);
            for (errors, found) in rounded.errors.iter().zip(found) {
                let (out, _) = product(&x, &|output, input| at(errors, output, input, INPUTS));
                let expected = effect(&|row, output| out[row * OUTPUTS + output], corrects);
                // Products are f32, of some hundred terms below 1.
                assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
            }
            for plan in &plans {
                let rounded = RoundedActivation::fit(plan, Side::A, &site_values, true, corrects);
                let value = |x: f64| {
                    let rounded = rounded.fake_quantizers[0].round(&[x as f32]);
                    f64::from(rounded[0])
                };
                let (out, at_a) = product(&|row, input| value(x(row, input)) - x(row, input), &w);
                let expected = effect(&|row, output| out[row * OUTPUTS + output], corrects);
                let found = rounded.effects(&a, &[&at_a])[0];
                assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
            }
        }
    }
}
