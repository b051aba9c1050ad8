//! The gradient at the logits of the loss that weighs errors: cross-entropy against the network's own answer.

use super::catalogue::{Case, EPSILON, Mistake, Random, SMALLEST, case, wide};
use super::exponential::exp;
use super::rows;
use super::softmax::cases::{probabilities, relative_errors};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "cross_entropy_backward",
    source: concat!(
        include_str!("../../shaders/shared/rows.wgsl"),
        include_str!("../../shaders/cross_entropy_backward.wgsl"),
    ),
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    rows: u32,
    classes: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters { rows, classes });

/// Computes the gradient of `Σ cross_entropy(row, argmax(row))` over the rows of `logits`, `[rows, classes]`: the
/// probabilities, less one at the first of the largest logits, where minus the sum of the other probabilities is kept
/// exact.
pub fn cross_entropy_backward(
    commands: &mut Commands,
    rows: usize,
    classes: usize,
    logits: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.uninitialized(rows * classes);
    match commands.device() {
        Device::Cpu(_) => cpu(classes, &logits.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let parameters = Parameters {
                rows: rows as u32,
                classes: classes as u32,
            };
            rows::dispatch(
                commands,
                rows::LANES,
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(logits), Binding::F32(&out)],
                rows,
            );
        }
    }
    out
}

fn cpu(classes: usize, logits: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(classes)
        .zip(logits.par_chunks(classes))
        .for_each(|(out, logits)| {
            let winner = (0..classes).fold(0, |winner, i| {
                if logits[i] > logits[winner] {
                    i
                } else {
                    winner
                }
            });
            let mut others = 0.0;
            for (i, out) in out.iter_mut().enumerate().filter(|&(i, _)| i != winner) {
                *out = exp(logits[i] - logits[winner]);
                others += *out;
            }
            // The winner's own exponential is 1.
            let inverse = 1.0 / (1.0 + others);
            out[winner] = -others;
            for out in out {
                *out *= inverse;
            }
        });
}

/// Describes a mistake in the shader that the cases find.
pub(super) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "-others * inverse",
    wrong: "inverse - 1.0",
});

/// Lists cases with rows of logits in quarters, so that some are equal. A winner is `lead` above the others' usual
/// size: at 40, 1 - p is about 1e-15, and its p - 1 would be zero in f32. Without a lead, ties are likely enough.
pub(super) fn cases() -> Vec<Case> {
    let sizes = [(1, 1), (2, 31), (3, 197), (9, 33), (65, 10), (7, 1000)].into_iter();
    let cases = sizes.flat_map(|(rows, classes)| {
        [0.0, 10.0, 40.0].map(|lead| {
            case(
                format!("{rows}x{classes}, a lead of {lead}"),
                move || {
                    let mut random = Random::new((rows * classes) as u64);
                    let logits = random.bell(rows * classes, 0.0, 2.0).into_iter();
                    let mut logits: Vec<f32> =
                        logits.map(|logit| (4.0 * logit).floor() / 4.0).collect();
                    for (row, logits) in logits.chunks_mut(classes).enumerate() {
                        logits[row * 31 % classes] += lead;
                    }
                    logits
                },
                move |commands, device, logits| {
                    cross_entropy_backward(commands, rows, classes, &device.upload(logits))
                },
            )
            .close(move |logits| wide(logits).chunks(classes).flat_map(exact).collect())
        })
    });
    cases.flat_map(Case::by_row_division).collect()
}

/// Computes p - 1 of the first of the largest logits, and p of the others. p - 1 is minus the sum of the others' p,
/// which keeps its digits.
fn exact(logits: &[f64]) -> Vec<(f64, f64)> {
    let classes = logits.len();
    let largest = logits.iter().fold(f64::NEG_INFINITY, |a, &x| a.max(x));
    let winner = logits.iter().position(|&x| x == largest);
    let p = probabilities(logits);
    let errors = relative_errors(logits, &vec![0.0; classes]);
    let (mut sum, mut sum_error) = (0.0, 0.0f64);
    for at in (0..classes).filter(|&at| Some(at) != winner) {
        sum += p[at];
        sum_error = sum_error.max(errors[at]);
    }
    let gradients = (0..classes).map(|at| match Some(at) == winner {
        true => (-sum, sum_error + classes as f64 / 2.0 * EPSILON),
        false => (p[at], errors[at]),
    });
    gradients
        .map(|(value, error)| (value, value.abs() * error + 2.0 * SMALLEST))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::gradient;
    use super::*;

    #[test]
    fn the_formula_is_the_gradient_and_ties_go_to_the_first() {
        let logits = [0.5, 2.0, -1.0, 2.0, 1.75];
        let loss = |x: &[f64]| vec![-probabilities(x)[1].ln()];
        for (found, slope) in exact(&logits).iter().zip(gradient(loss, &logits, &[1.0])) {
            assert!((found.0 - slope).abs() < 1e-9, "{found:?} {slope}");
        }
    }
}
