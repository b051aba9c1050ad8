//! `half_product` and `to_half` against plain loops, wherever there is f16.

use crate::float_product::attention;
use crate::harness::{EPSILON, Everywhere, RAGGED, Random};
use half::f16;
use ptq4vit_gpu::kernels::{Product, ToHalf, View, half_product, to_half};

/// What lies in the output before the product: what no view names must stay.
const UNTOUCHED: f32 = -77.0;

fn index(view: &View, batch: [usize; 2], row: usize, column: usize) -> usize {
    let strides = [view.outer, view.inner, view.row, view.column];
    let places = [batch[0], batch[1], row, column];
    let steps = places.iter().zip(strides);
    view.offset as usize
        + steps
            .map(|(&place, stride)| place * stride as usize)
            .sum::<usize>()
}

/// Random values that f16 holds, so that converting them is exact.
fn halves(random: &mut Random, len: usize, mean: f32) -> Vec<f32> {
    let values = random.normal(len, mean, 1.0);
    let rounded = values.iter().map(|&value| f16::from_f32(value).to_f32());
    rounded.collect()
}

/// Each output and its bound. The products of two values in f16 are exact in f32, and a sum of k of them, whatever its
/// order, errs by at most k half-epsilons of the sum of magnitudes, to first order; the bias is one more term.
fn expected(
    product: &Product,
    a: &[f32],
    b: &[f32],
    bias: Option<&[f32]>,
    len: usize,
) -> Vec<(f64, f64)> {
    let mut out = vec![(f64::from(UNTOUCHED), 0.0); len];
    for problem in 0..product.problems() {
        let batch = [problem / product.batch[1], problem % product.batch[1]];
        for row in 0..product.m {
            for column in 0..product.n {
                let bias = bias.map_or(0.0, |bias| f64::from(bias[column]));
                let (mut sum, mut magnitude) = (bias, bias.abs());
                for k in 0..product.k {
                    let term = f64::from(a[index(&product.a, batch, row, k)])
                        * f64::from(b[index(&product.b, batch, k, column)]);
                    sum += term;
                    magnitude += term.abs();
                }
                let bound = product.k as f64 * EPSILON / 2.0 * magnitude;
                out[index(&product.out, batch, row, column)] = (sum, bound);
            }
        }
    }
    out
}

/// Runs `product` on random operands of the given lengths.
fn check(product: &Product, lengths: [usize; 3], with_bias: bool, everywhere: &Everywhere) {
    let mut random = Random::new(product.multiply_adds());
    let a = halves(&mut random, lengths[0], 0.1);
    let b = halves(&mut random, lengths[1], 0.0);
    let bias = with_bias.then(|| random.normal(product.n, 0.0, 1.0));
    let expected = expected(product, &a, &b, bias.as_deref(), lengths[2]);
    let what = format!("half {}x{}x{}", product.m, product.k, product.n);
    everywhere.close(&what, &expected, |commands, device| {
        let bias = bias.as_ref().map(|bias| device.upload(bias));
        let out = device.upload(&vec![UNTOUCHED; lengths[2]]);
        let a = to_half(commands, &ToHalf::left(product), &device.upload(&a));
        let b = to_half(commands, &ToHalf::right(product), &device.upload(&b));
        half_product(commands, product, &a, &b, bias.as_ref(), &out);
        out
    });
}

#[test]
fn linear_layers_of_ragged_sizes() {
    let everywhere = Everywhere::with_f16();
    for rows in RAGGED {
        for (inputs, outputs) in [(1, 1), (3, 7), (65, 3), (197, 65), (7, 197)] {
            let product = Product::linear(rows, inputs, outputs);
            let lengths = [rows * inputs, outputs * inputs, rows * outputs];
            check(&product, lengths, false, &everywhere);
            check(&product, lengths, true, &everywhere);
        }
    }
}

#[test]
fn attention_on_interleaved_heads() {
    let everywhere = Everywhere::with_f16();
    for (images, tokens, heads, dim) in [(2, 7, 3, 5), (1, 65, 2, 16), (3, 1, 1, 1)] {
        let (queries_keys, scores_values) = attention([images, tokens, heads, dim]);
        let qkv_len = images * tokens * 3 * heads * dim;
        let scores_len = images * heads * tokens * tokens;
        let lengths = [qkv_len, qkv_len, scores_len];
        check(&queries_keys, lengths, false, &everywhere);
        let lengths = [scores_len, qkv_len, qkv_len];
        check(&scores_values, lengths, false, &everywhere);
    }
}

/// Whether `found` is `value` or, where f16 doesn't have it, one of its two neighbours there: WGSL leaves open which.
fn is_rounded(found: f16, value: f32) -> bool {
    let value = value.clamp(-65504.0, 65504.0);
    let nearest = f16::from_f32(value);
    let error = f64::from(nearest) - f64::from(value);
    // The nearest one, or the next one on the other side of the value.
    let other = match error.partial_cmp(&0.0) {
        Some(std::cmp::Ordering::Greater) => Some(below(nearest)),
        Some(std::cmp::Ordering::Less) => Some(-below(-nearest)),
        _ => None,
    };
    found == nearest || other == Some(found)
}

/// The largest value of f16 below `value`.
fn below(value: f16) -> f16 {
    let bits = value.to_bits();
    f16::from_bits(match bits {
        0 => 0x8001,
        _ if value.is_sign_negative() => bits + 1,
        _ => bits - 1,
    })
}

#[test]
fn values_are_rounded_and_padded() {
    let everywhere = Everywhere::with_f16();
    let mut random = Random::new(5);
    let mut values = random.normal(2 * 7 * 9, 0.0, 3.0);
    // The ends of the range and what lies beyond, the smallest normal value, values on both sides of a half step.
    let special = [
        0.0,
        -0.0,
        65504.0,
        -65504.0,
        65520.0,
        -1e30,
        f32::MAX,
        6.103_515_6e-5,
        2049.0,
        -2051.0,
    ];
    values[..special.len()].copy_from_slice(&special);
    // Two matrices 7 x 9, read by columns: 9 x 7.
    let what = ToHalf {
        source: View::new(0, [0, 7 * 9], 1, 9),
        batch: [1, 2],
        rows: 9,
        columns: 7,
    };
    everywhere.each(
        "to_half",
        |commands, device| to_half(commands, &what, &device.upload(&values)),
        |name, found| {
            assert_eq!(found.len(), 2 * 12 * 8, "{name}: length");
            for (at, &found) in found.iter().enumerate() {
                let (matrix, row, column) = (at / 96, at / 8 % 12, at % 8);
                if row < 9 && column < 7 {
                    let value = values[matrix * 63 + column * 9 + row];
                    assert!(is_rounded(found, value), "{name}: {found} of {value}");
                } else {
                    assert_eq!(found.to_bits(), 0, "{name}: padding");
                }
            }
        },
    );
}
