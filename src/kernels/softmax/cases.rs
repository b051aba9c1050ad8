//! Rows of scores, of ordinary size, sharp ones, and so large that all but the largest count as nothing.

use super::{softmax, softmax_codes};
use crate::kernels::Format;
use crate::kernels::catalogue::{Case, CodedRows, EPSILON, Mistake, ROWS, Random, SMALLEST, case};

/// e^x / Σ e^x of a row of exponents.
pub(in crate::kernels) fn probabilities(exponents: &[f64]) -> Vec<f64> {
    let largest = exponents.iter().fold(f64::NEG_INFINITY, |a, &x| a.max(x));
    let exponentials: Vec<f64> = exponents.iter().map(|x| (x - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|x| x / sum).collect()
}

/// Bounds on the errors of a row's probabilities in proportion to them. WGSL allows exp(z) 3 + 2 |z| epsilons, z the
/// distance to the largest exponent, which errs by |z| itself and by what the exponent errs (`of_exponents`, in
/// epsilons each); the sum of the exponentials errs by as many half-epsilons as there are and by its terms' errors, on
/// average over the probabilities; four more for the division.
pub(in crate::kernels) fn relative_errors(exponents: &[f64], of_exponents: &[f64]) -> Vec<f64> {
    let largest = exponents.iter().fold(f64::NEG_INFINITY, |a, &x| a.max(x));
    let pairs = exponents.iter().zip(of_exponents);
    let of_terms: Vec<f64> = pairs
        .map(|(x, of_exponent)| 3.0 + 3.0 * (largest - x) + of_exponent)
        .collect();
    let p = probabilities(exponents);
    let of_sum: f64 = p.iter().zip(&of_terms).map(|(p, error)| p * error).sum();
    let of_steps = exponents.len() as f64 / 2.0 + 4.0;
    of_terms
        .iter()
        .map(|error| EPSILON * (error + of_sum + of_steps))
        .collect()
}

/// A row's probabilities with bounds on their errors.
pub(in crate::kernels) fn exact(exponents: &[f64], of_exponents: &[f64]) -> Vec<(f64, f64)> {
    let errors = relative_errors(exponents, of_exponents);
    let pairs = probabilities(exponents).into_iter().zip(errors);
    pairs
        .map(|(p, error)| (p, p * error + 2.0 * SMALLEST))
        .collect()
}

/// Scales of probabilities.
const SCALES: [f32; 3] = [1.0 / 2048.0, 1.0 / 512.0, 1.0 / 1024.0];

/// What a scale of a softmax twin's R2 is worth, so that it reaches 1.
pub(in crate::kernels) const SHIFT: u32 = 4;

/// Formats of probabilities, with the scales of a group of rows each: a twin has one for all.
pub(in crate::kernels) const CODED: [(Format, &[f32]); 4] = [
    (Format::SoftmaxTwin, SCALES.split_at(1).0),
    (Format::Uniform, &SCALES),
    (Format::Table, &SCALES),
    (Format::TwinTable, &SCALES),
];

/// Describes a mistake in the shader that the cases find.
pub(in crate::kernels) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "for (var i = lane; i < width; i += LANES) {\n        sum +=",
    wrong: "for (var i = lane + 1u; i < width; i += LANES) {\n        sum +=",
});

pub(in crate::kernels) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for [rows, width] in ROWS {
        for (factor, deviation) in [(1.0, 1.0), (0.125, 8.0), (0.125, 300.0), (0.125, 1e30)] {
            let name = format!("{rows}x{width}, scores to {deviation:e} times {factor}");
            let inputs = move || Random::new(width as u64).bell(rows * width, 5.0, deviation);
            let expected = move |scores: &Vec<f32>| -> Vec<(f64, f64)> {
                let rows = scores.chunks(width).flat_map(|scores| {
                    let exponents = scores.iter().map(|&x| f64::from(factor) * f64::from(x));
                    exact(&exponents.collect::<Vec<_>>(), &vec![0.0; width])
                });
                rows.collect()
            };
            // Three matrices where the rows allow it, so that scales take turns.
            let matrix_rows = if rows % 3 == 0 { rows / 3 } else { rows };
            for (format, scales) in CODED {
                let coded = CodedRows {
                    rows,
                    width,
                    matrix_rows,
                    format,
                    bits: 8,
                    scales,
                    shift: SHIFT,
                };
                cases.push(coded.case(
                    &name,
                    inputs,
                    move |commands, device, scores| {
                        softmax(commands, rows, width, factor, &device.upload(scores))
                    },
                    move |commands, device, scores, codes| {
                        let scores = device.upload(scores);
                        softmax_codes(commands, rows, width, factor, &scores, codes)
                    },
                    expected,
                ));
            }
            let floats = case(name, inputs, move |commands, device, scores| {
                softmax(commands, rows, width, factor, &device.upload(scores))
            });
            cases.push(floats.close(expected));
        }
    }
    cases.into_iter().flat_map(Case::by_row_division).collect()
}
