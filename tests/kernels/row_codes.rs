//! `layer_norm_codes`, `softmax_codes` and `window_softmax_codes`: on each device equal to `quantize` of the floats that
//! the same kernel gives there, and what the codes stand for within half a step of the formula.

use crate::harness::{EPSILON, Everywhere, RAGGED, Random, reordered, token_order, wide};
use crate::quantize::{FORMATS, worth};
use crate::rows::{
    EPS, layer_norm_input, normalised, normalised_error, probabilities, probability_errors, shapes,
};
use ptq4vit_gpu::device::{Buffer, Device};
use ptq4vit_gpu::kernels::{
    Format, LayerNorm, Quantize, RowCodes, TokenOrder, View, WindowSoftmax, layer_norm,
    layer_norm_codes, permute_tokens, quantize, softmax, softmax_codes, window_softmax,
    window_softmax_codes,
};

/// Rows of codes that are to be made.
struct Case<'a> {
    what: String,
    width: usize,
    format: Format,
    bits: u32,
    /// `scale_1` and `scale_2` of matrices, which take turns.
    scales: &'a [[f32; 2]],
    matrix_rows: usize,
    /// Each value by its formula, and a bound on the error of its float.
    exact: &'a [(f64, f64)],
}

impl Case<'_> {
    fn rows(&self) -> usize {
        self.exact.len() / self.width
    }

    fn scale(&self, row: usize) -> [f32; 2] {
        self.scales[row / self.matrix_rows % self.scales.len()]
    }

    /// What the code of one value stands for, and a bound.
    fn expected(&self, row: usize, (exact, error): (f64, f64)) -> (f64, f64) {
        let q = f64::from(1 << (self.bits - 1));
        let [scale_1, scale_2] = self.scale(row).map(f64::from);
        let (step, [low, high]) = match self.format {
            Format::Uniform => (scale_1, [-q * scale_1, (q - 1.0) * scale_1]),
            Format::SoftmaxTwin if exact + error < (q - 1.0) * scale_1 => (scale_1, [0.0, 1.0]),
            Format::GeluTwin if exact < 0.0 => (scale_1, [-(q - 1.0) * scale_1, 0.0]),
            Format::SoftmaxTwin | Format::GeluTwin => (scale_2, [0.0, (q - 1.0) * scale_2]),
        };
        // The inverse scale, the product with it and what the code stands for are rounded once each.
        let bound = step / 2.0 + error + 2.0 * EPSILON * exact.abs();
        (exact.clamp(low, high), bound)
    }

    /// `[row][word]` from `[matrix][word][row]`, without the rows that only pad a matrix.
    fn by_row(&self, device: &Device, codes: &Buffer<u32>) -> Buffer<u32> {
        let codes = device.read(codes).expect("codes");
        let (words, padded_rows) = (self.width.div_ceil(4), self.matrix_rows.div_ceil(4) * 4);
        let rows: Vec<u32> = (0..self.rows())
            .flat_map(|row| {
                let (matrix, row) = (row / self.matrix_rows, row % self.matrix_rows);
                (0..words).map(move |word| (matrix * words + word) * padded_rows + row)
            })
            .map(|at| codes[at])
            .collect();
        device.upload(&rows)
    }

    fn check(
        &self,
        everywhere: &Everywhere,
        floats: impl Fn(&Device) -> Buffer<f32>,
        codes: impl Fn(&Device, &RowCodes) -> Buffer<u32>,
    ) {
        let inverses = |groups: usize| -> Vec<f32> {
            let scales = self.scales.iter().cycle().take(groups);
            scales.flatten().map(|scale| 1.0 / scale).collect()
        };
        let codes = |device: &Device| {
            let groups = self.scales.len();
            let inverse_scales = device.upload(&inverses(groups));
            let how = RowCodes {
                format: self.format,
                bits: self.bits,
                inverse_scales: &inverse_scales,
                matrix_rows: self.matrix_rows,
                groups,
            };
            codes(device, &how)
        };
        let rows = self.rows();
        let matrices = rows / self.matrix_rows;
        let quantizer = Quantize {
            source: View::new(0, [0, self.matrix_rows * self.width], self.width, 1),
            batch: [1, matrices],
            rows: self.matrix_rows,
            k: self.width,
            jobs: 1,
            groups: matrices,
            inner_groups: 1,
            group_rows: self.matrix_rows,
            bits: self.bits,
            format: self.format,
        };
        everywhere.same(
            &self.what,
            |device| self.by_row(device, &codes(device)),
            |device| {
                let inverse_scales = device.upload(&inverses(matrices));
                let codes = quantize(device, &quantizer, &floats(device), &inverse_scales);
                self.by_row(device, &codes)
            },
        );

        let expected: Vec<_> = (0..rows * self.width)
            .map(|at| self.expected(at / self.width, self.exact[at]))
            .collect();
        everywhere.close(&self.what, &expected, |device| {
            let codes = self.by_row(device, &codes(device));
            let words = device.read(&codes).expect("codes");
            let values: Vec<f32> = words
                .chunks(quantizer.words())
                .enumerate()
                .flat_map(|(row, words)| {
                    let codes = words.iter().flat_map(|word| word.to_le_bytes());
                    codes
                        .take(self.width)
                        .map(move |code| worth(self.format, code, self.scale(row)))
                })
                .collect();
            device.upload(&values)
        });
    }
}

/// Scales of normalised values, which the largest exceed.
const NORMALISED: [[f32; 2]; 3] = [[0.02, 0.03], [0.05, 0.01], [0.03, 0.02]];
/// Scales of probabilities; those of a softmax twin's R2 reach 1.
const PROBABILITIES: [[f32; 2]; 3] = [
    [1.0 / 2048.0, 1.0 / 127.0],
    [1.0 / 512.0, 1.0 / 127.0],
    [1.0 / 1024.0, 1.0 / 127.0],
];

/// What LayerNorm's formula says of one row of the input, with bounds.
fn normalised_row(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<(f64, f64)> {
    let x = wide(x);
    normalised(&x)
        .into_iter()
        .enumerate()
        .map(|(at, element)| {
            let (weight, bias) = (f64::from(weight[at]), f64::from(bias[at]));
            let scaled = element * weight;
            let error = weight.abs() * normalised_error(&x, element)
                + EPSILON * (scaled.abs() + bias.abs());
            (scaled + bias, error)
        })
        .collect()
}

#[test]
fn layer_norm_codes_are_those_of_its_floats() {
    let everywhere = Everywhere::new();
    for norm in shapes() {
        let input = layer_norm_input(&norm);
        let mut random = Random::new(1);
        let weight = random.normal(norm.width, 1.0, 0.5);
        let bias = random.normal(norm.width, 0.0, 0.5);
        let exact: Vec<_> = (0..norm.rows)
            .flat_map(|row| {
                let x = &input[norm.input_offset + row * norm.input_stride..][..norm.width];
                normalised_row(x, &weight, &bias)
            })
            .collect();
        let case = Case {
            what: format!("{norm:?}"),
            width: norm.width,
            format: Format::Uniform,
            bits: 8,
            scales: &NORMALISED[..1],
            matrix_rows: norm.rows,
            exact: &exact,
        };
        let upload = |device: &Device| [&input, &weight, &bias].map(|data| device.upload(data));
        case.check(
            &everywhere,
            |device| {
                let [input, weight, bias] = upload(device);
                layer_norm(device, &norm, &input, &weight, &bias)
            },
            |device, codes| {
                let [input, weight, bias] = upload(device);
                layer_norm_codes(device, &norm, None, &input, &weight, &bias, codes)
            },
        );
    }
}

#[test]
fn layer_norm_codes_follow_the_order_of_tokens() {
    let everywhere = Everywhere::new();
    let sizes = [(1, 1, 1), (3, 7, 65), (2, 197, 3), (2, 49, 96)];
    let cases = sizes
        .into_iter()
        .flat_map(|size| [(size, false), (size, true)]);
    for ((images, tokens, width), padded) in cases {
        let norm = LayerNorm {
            rows: images * tokens,
            width,
            input_offset: 0,
            input_stride: width,
            eps: EPS,
        };
        let from = token_order(tokens, padded);
        let input = layer_norm_input(&norm);
        let mut random = Random::new(1);
        let weight = random.normal(width, 1.0, 0.5);
        let bias = random.normal(width, 0.0, 0.5);
        let rows = input.chunks_exact(width);
        let normalised: Vec<_> = rows
            .flat_map(|row| normalised_row(row, &weight, &bias))
            .collect();
        let exact = reordered(&from, tokens, width, &normalised);
        for (format, bits) in FORMATS.into_iter().zip([8, 6, 4]) {
            // Its values must not be negative.
            if format == Format::SoftmaxTwin {
                continue;
            }
            let case = Case {
                what: format!(
                    "{norm:?} in another order, padded: {padded}, {format:?} {bits} bits"
                ),
                width,
                format,
                bits,
                scales: &NORMALISED,
                matrix_rows: from.len(),
                exact: &exact,
            };
            let upload = |device: &Device| [&input, &weight, &bias].map(|data| device.upload(data));
            case.check(
                &everywhere,
                |device| {
                    let [input, weight, bias] = upload(device);
                    let rows = layer_norm(device, &norm, &input, &weight, &bias);
                    let from = &device.upload(&from);
                    permute_tokens(device, width, TokenOrder { from, tokens }, &rows)
                },
                |device, codes| {
                    let [input, weight, bias] = upload(device);
                    let from = &device.upload(&from);
                    let order = Some(TokenOrder { from, tokens });
                    layer_norm_codes(device, &norm, order, &input, &weight, &bias, codes)
                },
            );
        }
    }
}

/// Formats of probabilities, with the scales of a group of rows each: a twin has one for all.
const OF_PROBABILITIES: [(Format, &[[f32; 2]]); 2] = [
    (Format::SoftmaxTwin, PROBABILITIES.split_at(1).0),
    (Format::Uniform, &PROBABILITIES),
];

#[test]
fn softmax_codes_are_those_of_its_floats() {
    let everywhere = Everywhere::new();
    for (rows, width) in RAGGED.into_iter().zip(RAGGED.into_iter().rev()) {
        for (factor, deviation) in [(1.0, 1.0), (0.125, 8.0), (0.125, 300.0)] {
            let matrix_rows = rows;
            let rows = 4 * matrix_rows;
            let scores = Random::new(width as u64).normal(rows * width, 5.0, deviation);
            let exact: Vec<_> = scores
                .chunks(width)
                .flat_map(|row| {
                    let row = wide(row);
                    let errors = probability_errors(&row, factor);
                    let pairs = probabilities(&row, factor).into_iter().zip(errors);
                    pairs.map(|(p, error)| (p, p * error)).collect::<Vec<_>>()
                })
                .collect();
            for (format, scales) in OF_PROBABILITIES {
                let case = Case {
                    what: format!("{rows}x{width}, factor {factor}, {format:?}"),
                    width,
                    format,
                    bits: 8,
                    scales,
                    matrix_rows,
                    exact: &exact,
                };
                let factor = factor as f32;
                case.check(
                    &everywhere,
                    |device| softmax(device, rows, width, factor, &device.upload(&scores)),
                    |device, codes| {
                        let scores = device.upload(&scores);
                        softmax_codes(device, rows, width, factor, &scores, codes)
                    },
                );
            }
        }
    }
}

#[test]
fn window_softmax_codes_are_those_of_its_floats() {
    let everywhere = Everywhere::new();
    for (images, windows, heads, tokens) in [(1, 1, 1, 1), (2, 3, 5, 7), (3, 4, 2, 49)] {
        let shape = WindowSoftmax {
            images,
            windows,
            heads,
            tokens,
            factor: 0.25,
        };
        let mut random = Random::new(tokens as u64);
        let scores = random.normal(shape.rows() * tokens, 1.0, 8.0);
        let bias = random.normal(heads * tokens * tokens, 0.0, 2.0);
        let mask = random.normal(windows * tokens * tokens, 0.0, 2.0);
        let mut exact = Vec::new();
        for (row, scores) in scores.chunks(tokens).enumerate() {
            let (query, head) = (row % tokens, row / tokens % heads);
            let window = row / (tokens * heads) % windows;
            let biased: Vec<f64> = (0..tokens)
                .map(|key| {
                    f64::from(shape.factor) * f64::from(scores[key])
                        + f64::from(bias[(head * tokens + query) * tokens + key])
                        + f64::from(mask[(window * tokens + query) * tokens + key])
                })
                .collect();
            // The biased score itself is rounded three times, at a magnitude of at most 40.
            let errors = probability_errors(&biased, 1.0);
            let pairs = probabilities(&biased, 1.0).into_iter().zip(errors);
            exact.extend(pairs.map(|(p, error)| (p, p * (error + 120.0 * EPSILON))));
        }
        for (format, scales) in OF_PROBABILITIES {
            let case = Case {
                what: format!("{shape:?}, {format:?}"),
                width: tokens,
                format,
                bits: 8,
                scales: &scales[..scales.len().min(heads)],
                matrix_rows: tokens,
                exact: &exact,
            };
            let upload = |device: &Device| [&scores, &bias, &mask].map(|data| device.upload(data));
            case.check(
                &everywhere,
                |device| {
                    let [scores, bias, mask] = upload(device);
                    window_softmax(device, &shape, &scores, &bias, &mask)
                },
                |device, codes| {
                    let [scores, bias, mask] = upload(device);
                    window_softmax_codes(device, &shape, &scores, &bias, &mask, codes)
                },
            );
        }
    }
}
