//! Codes: the quantizers, bit for bit, and the kernels of rows that write codes of what they compute. Such a float may be
//! another in its last bits, and where it lies between two codes, so may its code.

use super::super::random::Random;
use super::rows::{Normalised, WINDOWS, Windows, norm_name, norms, scores};
use super::{Case, CodeRange, Counted, Tolerance, token_order};
use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::kernels::{
    Format, Quantize, RowCodes, TokenOrder, View, fake_quantize, layer_norm, layer_norm_codes,
    permute_tokens, quantize, softmax, softmax_codes, window_softmax, window_softmax_codes,
};

pub(super) const FORMATS: [Format; 3] = [Format::Uniform, Format::SoftmaxTwin, Format::GeluTwin];

pub(super) fn format_name(format: Format) -> &'static str {
    match format {
        Format::Uniform => "uniform",
        Format::SoftmaxTwin => "softmax twin",
        Format::GeluTwin => "GELU twin",
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = quantizers();
    cases.extend(simulated());
    cases.extend(norm_codes());
    cases.extend(softmax_code_cases());
    cases.extend(window_codes());
    cases
}

/// Values that reach every branch of `format` at the scales of [`inverse_scales`]: beyond both ends, at ties, at zeros of
/// either sign, where a device may take an f32 for zero, and as far out as f32 goes.
fn values(format: Format, bits: u32, len: usize, random: &mut Random) -> Vec<f32> {
    let q = (1u32 << (bits - 1)) as f32;
    let signed = format != Format::SoftmaxTwin;
    let mut values = match signed {
        true => random.bell(len, 0.0, 1.0),
        false => random.unit(len),
    };
    if !signed {
        // Probabilities: most are near zero.
        for value in &mut values {
            *value = *value * *value * *value * *value;
        }
    }
    for (at, value) in values.iter_mut().enumerate() {
        let tie = ((at % q as usize) as f32 + 0.5) / q;
        match at % 13 {
            0 => *value = 0.0,
            1 => *value = 1.0,
            2 if signed => *value *= 1000.0,
            3 if signed => *value = -0.0,
            // Ties at the scale 1 / q of group 0.
            4 => *value = tie,
            5 if signed => *value = -tie,
            6 => *value = 1e-40,
            7 if signed => *value = if at % 2 == 0 { -1e30 } else { 1e30 },
            _ => {}
        }
    }
    values
}

/// `[jobs][groups][2]`; the first pair gives ties something to tie at.
fn inverse_scales(what: &Quantize, random: &mut Random) -> Vec<f32> {
    let q = (1u32 << (what.bits - 1)) as f32;
    let mut scales: Vec<f32> = random
        .unit(2 * what.jobs * what.groups)
        .iter()
        .enumerate()
        .map(|(at, unit)| {
            let width = if at % 2 == 0 { 0.3 } else { 1.0 };
            q / (width * (0.5 + unit))
        })
        .collect();
    scales[..2].copy_from_slice(&[q, q]);
    scales
}

fn quantizer(name: String, what: Quantize, len: usize) -> Case {
    let name = format!("{name}, {}, {} bits", format_name(what.format), what.bits);
    Case::exact("quantize", name, move |device| {
        let mut random = Random::new(1000 * len as u64 + u64::from(what.bits));
        let source = values(what.format, what.bits, len, &mut random);
        let scales = inverse_scales(&what, &mut random);
        quantize(
            device,
            &what,
            &device.upload(&source),
            &device.upload(&scales),
        )
    })
}

fn quantizers() -> Vec<Case> {
    let mut cases = Vec::new();
    let matrix = |rows, k, format, bits| Quantize {
        source: View::rows(k),
        batch: [1, 1],
        rows,
        k,
        jobs: 1,
        groups: 1,
        inner_groups: 0,
        group_rows: rows,
        bits,
        format,
    };
    for format in FORMATS {
        for (bits, rows, k) in [(8, 65, 197), (6, 7, 65), (4, 197, 7), (3, 3, 3), (2, 1, 1)] {
            let what = matrix(rows, k, format, bits);
            cases.push(quantizer(format!("{rows}x{k}"), what, rows * k));
        }
        for (rows, group_rows, k) in [(9usize, 3, 13), (10, 4, 8), (65, 1, 3)] {
            let what = Quantize {
                jobs: 3,
                groups: rows.div_ceil(group_rows),
                group_rows,
                ..matrix(rows, k, format, 6)
            };
            let name = format!("{rows}x{k}, a scale for {group_rows} rows");
            cases.push(quantizer(name, what, rows * k));
        }
    }
    // More jobs than one invocation writes. Queries are summed over dim, values over tokens: rows and columns exchanged.
    let (images, tokens, heads, dim) = (2, 7, 3, 5);
    let width = 3 * heads * dim;
    let third = |which: usize| View::new(which * heads * dim, [tokens * width, dim], width, 1);
    for (part, source, rows, k) in [
        ("queries", third(0), tokens, dim),
        ("values", third(2).transposed(), dim, tokens),
    ] {
        for inner_groups in [0, 1] {
            let what = Quantize {
                source,
                batch: [images, heads],
                jobs: 11,
                groups: if inner_groups == 0 { 1 } else { heads },
                inner_groups,
                ..matrix(rows, k, Format::Uniform, 8)
            };
            let scales = if inner_groups == 0 {
                "one scale"
            } else {
                "a scale for each head"
            };
            cases.push(quantizer(
                format!("{part}, {scales}"),
                what,
                images * tokens * width,
            ));
        }
    }
    cases
}

/// What codes stand for is rounded once.
fn simulated() -> Vec<Case> {
    let (images, tokens, heads, dim) = (2, 7, 3, 5);
    let width = 3 * heads * dim;
    let mut cases = Vec::new();
    for format in FORMATS {
        for bits in [8, 6, 3] {
            // Keys with a scale for each head.
            let what = Quantize {
                source: View::new(heads * dim, [tokens * width, dim], width, 1),
                batch: [images, heads],
                rows: tokens,
                k: dim,
                jobs: 1,
                groups: heads,
                inner_groups: 1,
                group_rows: tokens,
                bits,
                format,
            };
            let name = format!("keys, {}, {bits} bits", format_name(format));
            cases.push(Case::exact("fake_quantize", name, move |device| {
                let mut random = Random::new(u64::from(bits));
                let values = values(format, bits, images * tokens * width, &mut random);
                let inverses = inverse_scales(&what, &mut random);
                let pairs = inverses.as_chunks::<2>().0.iter();
                let scales: Vec<f32> = pairs
                    .flat_map(|&[one, two]| [1.0 / one, 1.0 / two, one, two])
                    .collect();
                fake_quantize(
                    device,
                    &what,
                    &device.upload(&values),
                    &device.upload(&scales),
                )
            }));
        }
    }
    cases
}

/// Rows of floats that become codes.
#[derive(Clone, Copy)]
struct Rows {
    rows: usize,
    width: usize,
    matrix_rows: usize,
    format: Format,
    bits: u32,
    /// `scale_1` of matrices, which take turns.
    scales: &'static [f32],
    /// `scale_2` in units of `scale_1`.
    ratio: f32,
}

impl Rows {
    fn inverses(&self, groups: usize) -> Vec<f32> {
        let scales = self.scales.iter().cycle().take(groups);
        scales
            .flat_map(|scale| [1.0 / scale, 1.0 / (scale * self.ratio)])
            .collect()
    }

    /// Which words of the result are no padding.
    fn inside(&self) -> Vec<bool> {
        let words = self.rows / self.matrix_rows * self.width.div_ceil(4);
        let padded_rows = self.matrix_rows.next_multiple_of(4);
        (0..words * padded_rows)
            .map(|at| at % padded_rows < self.matrix_rows)
            .collect()
    }

    /// The codes of floats on the CPU.
    fn quantized(&self, floats: &[f32]) -> Result<Vec<u32>> {
        let cpu = Device::cpu();
        let matrices = self.rows / self.matrix_rows;
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
        let inverses = cpu.upload(&self.inverses(matrices));
        cpu.read(&quantize(&cpu, &quantizer, &cpu.upload(floats), &inverses))
    }

    /// A case of a kernel that computes `floats`, which err by no more than `bounds`, and writes their codes.
    fn case(
        self,
        kernel: &'static str,
        name: String,
        floats: impl Fn(&Device) -> Buffer<f32> + Send + Sync + 'static,
        bounds: impl Fn(&[f32]) -> Vec<f64> + Send + Sync + 'static,
        codes: impl Fn(&Device, &RowCodes) -> Buffer<u32> + Send + Sync + 'static,
    ) -> Case {
        let name = format!(
            "codes of {name}, {}, {} bits",
            format_name(self.format),
            self.bits
        );
        let tolerance = Tolerance::Codes(Box::new(move || {
            let cpu = Device::cpu();
            let floats = cpu.read(&floats(&cpu))?;
            let bounds = bounds(&floats);
            let moved = |by: f64| -> Vec<f32> {
                let pairs = floats.iter().zip(&bounds);
                let moved = pairs.map(|(&float, bound)| (f64::from(float) + by * bound) as f32);
                match self.format {
                    // A probability is not negative, however it errs.
                    Format::SoftmaxTwin => moved.map(|x| x.max(0.0)).collect(),
                    _ => moved.collect(),
                }
            };
            Ok(CodeRange {
                format: self.format,
                ratio: self.ratio.into(),
                low: self.quantized(&moved(-1.0))?,
                high: self.quantized(&moved(1.0))?,
            })
        }));
        Case::new(kernel, name, tolerance, move |device| {
            let groups = self.scales.len();
            let inverse_scales = device.upload(&self.inverses(groups));
            let how = RowCodes {
                format: self.format,
                bits: self.bits,
                inverse_scales: &inverse_scales,
                matrix_rows: self.matrix_rows,
                groups,
            };
            Counted(codes(device, &how), self.inside())
        })
    }
}

/// Scales of normalised values, which the largest exceed.
const NORMALISED: [f32; 3] = [0.02, 0.05, 0.03];

fn norm_codes() -> Vec<Case> {
    let mut cases = Vec::new();
    for norm in norms() {
        let data = Normalised::new(norm);
        let rows = Rows {
            rows: norm.rows,
            width: norm.width,
            matrix_rows: norm.rows,
            format: Format::Uniform,
            bits: 8,
            scales: &NORMALISED[..1],
            ratio: 1.0,
        };
        let [of_floats, of_bounds] = [data.clone(), data.clone()];
        cases.push(rows.case(
            "layer_norm",
            norm_name(&norm),
            move |device| {
                let [input, weight, bias] = of_floats.upload(device);
                layer_norm(device, &norm, &input, &weight, &bias)
            },
            move |_| of_bounds.bounds(),
            move |device, codes| {
                let [input, weight, bias] = data.upload(device);
                layer_norm_codes(device, &norm, None, &input, &weight, &bias, codes)
            },
        ));
    }
    for (images, tokens, width) in [(1, 1, 1), (3, 7, 65), (2, 49, 96)] {
        for (format, bits) in [(Format::Uniform, 8), (Format::GeluTwin, 4)] {
            let shape = [images, tokens, width];
            cases.extend([false, true].map(|padded| reordered(shape, padded, format, bits)));
        }
    }
    cases
}

fn reordered([images, tokens, width]: [usize; 3], padded: bool, format: Format, bits: u32) -> Case {
    let norm = Normalised::shape(images * tokens, width);
    let data = Normalised::new(norm);
    let from = token_order(tokens, padded);
    let rows = Rows {
        rows: images * from.len(),
        width,
        matrix_rows: from.len(),
        format,
        bits,
        scales: &NORMALISED,
        ratio: 2.0,
    };
    let [of_floats, of_bounds] = [data.clone(), data.clone()];
    let [floats_from, bounds_from] = [from.clone(), from.clone()];
    let with_padding = if padded { ", padded" } else { "" };
    rows.case(
        "layer_norm",
        format!("{images}x{tokens}x{width} in another order{with_padding}"),
        move |device| {
            let [input, weight, bias] = of_floats.upload(device);
            let rows = layer_norm(device, &norm, &input, &weight, &bias);
            let from = &device.upload(&floats_from);
            permute_tokens(device, width, TokenOrder { from, tokens }, &rows)
        },
        move |_| {
            let bounds = of_bounds.bounds();
            let rows = (0..images).flat_map(|image| {
                let tokens_of_image = bounds_from
                    .iter()
                    .map(move |&token| (image, token as usize));
                tokens_of_image.flat_map(|(image, token)| match token < tokens {
                    true => bounds[(image * tokens + token) * width..][..width].to_vec(),
                    false => vec![0.0; width],
                })
            });
            rows.collect()
        },
        move |device, codes| {
            let [input, weight, bias] = data.upload(device);
            let from = &device.upload(&from);
            let order = Some(TokenOrder { from, tokens });
            layer_norm_codes(device, &norm, order, &input, &weight, &bias, codes)
        },
    )
}

/// Scales of probabilities; those of a softmax twin's R2 reach 1.
const PROBABILITIES: [f32; 3] = [1.0 / 2048.0, 1.0 / 512.0, 1.0 / 1024.0];

/// Formats of probabilities, with the scales of a group of rows each: a twin has one for all.
const OF_PROBABILITIES: [(Format, &[f32]); 2] = [
    (Format::SoftmaxTwin, PROBABILITIES.split_at(1).0),
    (Format::Uniform, &PROBABILITIES),
];

fn softmax_code_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (data, deviation) in scores() {
        // Three matrices where the rows allow it, so that scales take turns.
        let matrix_rows = if data.rows.is_multiple_of(3) {
            data.rows / 3
        } else {
            data.rows
        };
        for (format, scales) in OF_PROBABILITIES {
            let rows = Rows {
                rows: data.rows,
                width: data.width,
                matrix_rows,
                format,
                bits: 8,
                scales,
                ratio: 16.0,
            };
            let [of_floats, of_bounds, data] = [data.clone(), data.clone(), data.clone()];
            cases.push(rows.case(
                "softmax",
                data.name(deviation),
                move |device| {
                    let scores = device.upload(&of_floats.scores);
                    softmax(
                        device,
                        of_floats.rows,
                        of_floats.width,
                        of_floats.factor,
                        &scores,
                    )
                },
                move |expected| of_bounds.bounds(expected),
                move |device, codes| {
                    let scores = device.upload(&data.scores);
                    softmax_codes(device, data.rows, data.width, data.factor, &scores, codes)
                },
            ));
        }
    }
    cases
}

fn window_codes() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in WINDOWS {
        for (format, scales) in OF_PROBABILITIES {
            let data = Windows::new(shape);
            let softmaxed = data.shape;
            let rows = Rows {
                rows: softmaxed.rows(),
                width: softmaxed.tokens,
                matrix_rows: softmaxed.tokens,
                format,
                bits: 8,
                scales: &scales[..scales.len().min(softmaxed.heads)],
                ratio: 16.0,
            };
            let [of_floats, of_bounds] = [data.clone(), data.clone()];
            cases.push(rows.case(
                "window_softmax",
                data.name(),
                move |device| {
                    let [scores, bias, mask] = of_floats.upload(device);
                    window_softmax(device, &softmaxed, &scores, &bias, &mask)
                },
                move |expected| of_bounds.bounds(expected),
                move |device, codes| {
                    let [scores, bias, mask] = data.upload(device);
                    window_softmax_codes(device, &softmaxed, &scores, &bias, &mask, codes)
                },
            ));
        }
    }
    cases
}
