//! Attention's scores within windows: one window; several with masks of their own; a window as Swin has them.

use super::{WindowSoftmax, window_softmax, window_softmax_codes};
use crate::device::{Buffer, Device};
use crate::kernels::catalogue::{Case, CodedRows, Mistake, Random, case};
use crate::kernels::softmax::cases::{CODED, SHIFT, exact};

/// Scores, biases, and masks that hide most of a row but never all of it.
struct Inputs {
    scores: Vec<f32>,
    bias: Vec<f32>,
    mask: Vec<f32>,
}

impl Inputs {
    fn new(shape: &WindowSoftmax) -> Self {
        let WindowSoftmax {
            windows,
            heads,
            tokens,
            ..
        } = *shape;
        let mut random = Random::new(tokens as u64);
        let mask = (0..windows * tokens * tokens).map(|at| {
            let shown = at * 7 % 5 == 0 || at / tokens % tokens == at % tokens;
            if shown { 0.0 } else { -100.0 }
        });
        Self {
            scores: random.bell(shape.rows() * tokens, 1.0, 8.0),
            bias: random.bell(heads * tokens * tokens, 0.0, 2.0),
            mask: mask.collect(),
        }
    }

    fn upload(&self, device: &Device) -> [Buffer<f32>; 3] {
        [&self.scores, &self.bias, &self.mask].map(|data| device.upload(data))
    }

    /// Computes the probabilities and bounds on their errors. The sum of score, bias and mask is rounded three times,
    /// in proportion to its parts.
    fn exact(&self, shape: &WindowSoftmax) -> Vec<(f64, f64)> {
        let WindowSoftmax {
            windows,
            heads,
            tokens,
            factor,
            ..
        } = *shape;
        let rows = self.scores.chunks(tokens).enumerate();
        rows.flat_map(|(row, scores)| {
            let (query, head) = (row % tokens, row / tokens % heads);
            let window = row / (tokens * heads) % windows;
            let exponents = (0..tokens).map(|key| {
                let parts = [
                    f64::from(factor) * f64::from(scores[key]),
                    f64::from(self.bias[(head * tokens + query) * tokens + key]),
                    f64::from(self.mask[(window * tokens + query) * tokens + key]),
                ];
                let magnitude: f64 = parts.iter().map(|part| part.abs()).sum();
                (parts.iter().sum::<f64>(), 1.5 * magnitude)
            });
            let (exponents, errors): (Vec<f64>, Vec<f64>) = exponents.unzip();
            exact(&exponents, &errors)
        })
        .collect()
    }
}

/// Describes a mistake in the shader that the cases find.
pub(in crate::kernels) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "let inverse = 1.0 / sum_of_lanes(sum, invocation);",
    wrong: "let inverse = 1.0001 / sum_of_lanes(sum, invocation);",
});

pub(in crate::kernels) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for [images, windows, heads, tokens] in [[1, 1, 1, 1], [2, 3, 5, 7], [3, 4, 2, 49]] {
        let name = format!("{images}x{windows} windows, {heads} heads, {tokens} tokens");
        let shape = WindowSoftmax {
            images,
            windows,
            heads,
            tokens,
            factor: 0.25,
        };
        for (format, scales) in CODED {
            let coded = CodedRows {
                rows: shape.rows(),
                width: tokens,
                matrix_rows: tokens,
                format,
                bits: 8,
                scales: &scales[..scales.len().min(heads)],
                shift: SHIFT,
            };
            cases.push(coded.case(
                &name,
                move || Inputs::new(&shape),
                move |commands, device, inputs| {
                    let [scores, bias, mask] = inputs.upload(device);
                    window_softmax(commands, &shape, &scores, &bias, &mask)
                },
                move |commands, device, inputs, codes| {
                    let [scores, bias, mask] = inputs.upload(device);
                    window_softmax_codes(commands, &shape, &scores, &bias, &mask, codes)
                },
                move |inputs| inputs.exact(&shape),
            ));
        }
        let floats = case(
            name,
            move || Inputs::new(&shape),
            move |commands, device, inputs| {
                let [scores, bias, mask] = inputs.upload(device);
                window_softmax(commands, &shape, &scores, &bias, &mask)
            },
        );
        cases.push(floats.close(move |inputs| inputs.exact(&shape)));
    }
    cases.into_iter().flat_map(Case::by_row_division).collect()
}
