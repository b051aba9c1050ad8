//! `quantize` and `fake_quantize` against the formulas of the formats, written out for one value at a time.

use crate::harness::{Everywhere, Random};
use ptq4vit_gpu::kernels::{Format, Quantize, View, fake_quantize, quantize};

/// Round half to even, from first principles.
fn round(x: f32) -> f32 {
    let (floor, fraction) = (x.floor(), x - x.floor());
    let up = fraction > 0.5 || (fraction == 0.5 && floor.rem_euclid(2.0) == 1.0);
    if up { floor + 1.0 } else { floor }
}

/// The code of one value: low seven bits and the flag of a twin, or two's complement.
fn code(format: Format, bits: u32, x: f32, inverse: [f32; 2]) -> u8 {
    let q = 2i32.pow(bits - 1);
    let clamped = |value: f32, low: i32| -> i32 {
        if value < low as f32 {
            low
        } else if value > (q - 1) as f32 {
            q - 1
        } else {
            value as i32
        }
    };
    let in_r2 = 128 + clamped(round(x * inverse[1]), 0);
    let code = match format {
        Format::Uniform => clamped(round(x * inverse[0]), -q).rem_euclid(256),
        Format::SoftmaxTwin if round(x * inverse[0]) > (q - 1) as f32 => in_r2,
        Format::SoftmaxTwin => clamped(round(x * inverse[0]), 0),
        Format::GeluTwin if x < 0.0 => clamped(round(-x * inverse[0]), 0),
        Format::GeluTwin => in_r2,
    };
    u8::try_from(code).expect("a code has eight bits")
}

fn expected(what: &Quantize, source: &[f32], inverse_scales: &[f32]) -> Vec<u32> {
    let mut words = Vec::new();
    let padded_rows = what.rows.div_ceil(4) * 4;
    for job in 0..what.jobs {
        for outer in 0..what.batch[0] {
            for inner in 0..what.batch[1] {
                let word_of = |row: usize, word: usize| -> u32 {
                    let mut packed = 0;
                    for lane in 0..4 {
                        let k = 4 * word + lane;
                        if row >= what.rows || k >= what.k {
                            continue;
                        }
                        let view = what.source;
                        let at = view.offset as usize
                            + outer * view.outer as usize
                            + inner * view.inner as usize
                            + row * view.row as usize
                            + k * view.column as usize;
                        let group = inner * what.inner_groups + row / what.group_rows;
                        let scale = 2 * (job * what.groups + group);
                        let inverse = [inverse_scales[scale], inverse_scales[scale + 1]];
                        let code = code(what.format, what.bits, source[at], inverse);
                        packed += u32::from(code) << (8 * lane);
                    }
                    packed
                };
                for word in 0..what.k.div_ceil(4) {
                    words.extend((0..padded_rows).map(|row| word_of(row, word)));
                }
            }
        }
    }
    words
}

/// Values that reach every branch of `format` at the scales of [`inverse_scales`]: beyond both ends, at ties, at zero.
fn values(format: Format, bits: u32, len: usize, random: &mut Random) -> Vec<f32> {
    let q = 2f32.powi(bits as i32 - 1);
    let mut values = match format {
        Format::Uniform | Format::GeluTwin => random.normal(len, 0.0, 1.0),
        Format::SoftmaxTwin => random.unit(len),
    };
    if format == Format::SoftmaxTwin {
        // Probabilities: most are near zero.
        for value in &mut values {
            *value = value.powi(6);
        }
    }
    for (at, value) in values.iter_mut().enumerate() {
        match at % 11 {
            0 => *value = 0.0,
            1 => *value = 1.0,
            2 if format != Format::SoftmaxTwin => *value *= 1000.0,
            3 if format != Format::SoftmaxTwin => *value = -0.0,
            // Ties at the scale 1 / q of group 0.
            4 => *value = ((at % q as usize) as f32 + 0.5) / q,
            5 if format != Format::SoftmaxTwin => {
                *value = -((at % q as usize) as f32 + 0.5) / q;
            }
            _ => {}
        }
    }
    values
}

/// `[jobs][groups][2]`; the first pair gives ties something to tie at.
fn inverse_scales(what: &Quantize, random: &mut Random) -> Vec<f32> {
    let q = 2f32.powi(what.bits as i32 - 1);
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

fn check(what: &Quantize, len: usize, everywhere: &Everywhere) {
    let mut random = Random::new(1000 * len as u64 + u64::from(what.bits));
    let source = values(what.format, what.bits, len, &mut random);
    let scales = inverse_scales(what, &mut random);
    let expected = expected(what, &source, &scales);
    assert_eq!(expected.len(), what.len());
    let name = format!(
        "{:?} {} bits {}x{}",
        what.format, what.bits, what.rows, what.k
    );
    everywhere.equal(&name, &expected, |commands, device| {
        quantize(
            commands,
            what,
            &device.upload(&source),
            &device.upload(&scales),
        )
    });
}

pub const FORMATS: [Format; 3] = [Format::Uniform, Format::SoftmaxTwin, Format::GeluTwin];

#[test]
fn every_format_and_bit_width() {
    let everywhere = Everywhere::new();
    for format in FORMATS {
        for (bits, rows, k) in [(8, 65, 197), (6, 7, 65), (4, 197, 7), (3, 3, 3), (2, 1, 1)] {
            let what = Quantize {
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
            check(&what, rows * k, &everywhere);
        }
    }
}

#[test]
fn scales_per_head_and_jobs_of_interleaved_heads() {
    let everywhere = Everywhere::new();
    // More jobs than one invocation writes.
    let (images, tokens, heads, dim, jobs) = (2, 7, 3, 5, 11);
    let width = 3 * heads * dim;
    let third = |which: usize| View::new(which * heads * dim, [tokens * width, dim], width, 1);
    // Queries and keys are summed over dim, values over tokens: these have rows and columns exchanged.
    for (source, rows, k) in [
        (third(0), tokens, dim),
        (third(1), tokens, dim),
        (third(2).transposed(), dim, tokens),
    ] {
        for inner_groups in [0, 1] {
            let what = Quantize {
                source,
                batch: [images, heads],
                rows,
                k,
                jobs,
                groups: if inner_groups == 0 { 1 } else { heads },
                inner_groups,
                group_rows: rows,
                bits: 8,
                format: Format::Uniform,
            };
            check(&what, images * tokens * width, &everywhere);
        }
    }
}

#[test]
fn scales_per_block_of_rows() {
    let everywhere = Everywhere::new();
    for format in FORMATS {
        for (rows, group_rows, k) in [(9, 3, 13), (10, 4, 8), (65, 1, 3)] {
            let what = Quantize {
                source: View::rows(k),
                batch: [1, 1],
                rows,
                k,
                jobs: 3,
                groups: rows.div_ceil(group_rows),
                inner_groups: 0,
                group_rows,
                bits: 6,
                format,
            };
            check(&what, rows * k, &everywhere);
        }
    }
}

/// What a code stands for.
pub fn worth(format: Format, code: u8, scale: [f32; 2]) -> f32 {
    let magnitude = f32::from(code % 128);
    match (format, code >= 128) {
        (Format::Uniform, _) => f32::from(code as i8) * scale[0],
        (Format::SoftmaxTwin, false) => magnitude * scale[0],
        (Format::GeluTwin, false) => -magnitude * scale[0],
        (Format::SoftmaxTwin | Format::GeluTwin, true) => magnitude * scale[1],
    }
}

#[test]
fn fake_quantize_gives_what_the_codes_stand_for() {
    let everywhere = Everywhere::new();
    let (images, tokens, heads, dim) = (2, 7, 3, 5);
    let width = 3 * heads * dim;
    for format in FORMATS {
        for bits in [8, 6, 3] {
            // Keys with a scale for each head.
            let source = View::new(heads * dim, [tokens * width, dim], width, 1);
            let what = Quantize {
                source,
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
            let mut random = Random::new(u64::from(bits));
            let values = values(format, bits, images * tokens * width, &mut random);
            let inverse = inverse_scales(&what, &mut random);
            let scales: Vec<f32> = inverse
                .chunks(2)
                .flat_map(|pair| [1.0 / pair[0], 1.0 / pair[1], pair[0], pair[1]])
                .collect();
            let mut expected = Vec::new();
            for image in 0..images {
                for head in 0..heads {
                    for token in 0..tokens {
                        for k in 0..dim {
                            let at =
                                heads * dim + (image * tokens + token) * width + head * dim + k;
                            let scale = &scales[4 * head..][..4];
                            let code = code(format, bits, values[at], [scale[2], scale[3]]);
                            expected.push(worth(format, code, [scale[0], scale[1]]));
                        }
                    }
                }
            }
            let name = format!("fake {format:?} {bits} bits");
            everywhere.equal(&name, &expected, |commands, device| {
                fake_quantize(
                    commands,
                    &what,
                    &device.upload(&values),
                    &device.upload(&scales),
                )
            });
        }
    }
}
