//! `float_product` against a triple loop in f64.

use crate::harness::{EPSILON, Everywhere, RAGGED, Random, devices, strategies};
use ptq4vit_gpu::device::Commands;
use ptq4vit_gpu::kernels::{PackQuads, Product, STRATEGY_NAMES, View, float_product, pack_quads};

/// What lies in the output before the product: what no view names must stay.
const UNTOUCHED: f32 = -77.0;

fn index(view: &View, outer: usize, inner: usize, row: usize, column: usize) -> usize {
    [
        (1, view.offset),
        (outer, view.outer),
        (inner, view.inner),
        (row, view.row),
        (column, view.column),
    ]
    .iter()
    .map(|&(times, stride)| times * stride as usize)
    .sum()
}

/// Each output and its bound. A sum of k products, whatever its order and wherever products are fused into it, errs by
/// at most (k + 1) half-epsilons of the sum of magnitudes, to first order.
fn expected(
    product: &Product,
    a: &[f32],
    b: &[f32],
    bias: Option<&[f32]>,
    len: usize,
) -> Vec<(f64, f64)> {
    let mut out = vec![(f64::from(UNTOUCHED), 0.0); len];
    for outer in 0..product.batch[0] {
        for inner in 0..product.batch[1] {
            for row in 0..product.m {
                for column in 0..product.n {
                    let bias = bias.map_or(0.0, |bias| f64::from(bias[column]));
                    let (mut sum, mut magnitude) = (bias, bias.abs());
                    for k in 0..product.k {
                        let term = f64::from(a[index(&product.a, outer, inner, row, k)])
                            * f64::from(b[index(&product.b, outer, inner, k, column)]);
                        sum += term;
                        magnitude += term.abs();
                    }
                    let bound = (product.k + 1) as f64 * EPSILON / 2.0 * magnitude;
                    out[index(&product.out, outer, inner, row, column)] = (sum, bound);
                }
            }
        }
    }
    out
}

/// Runs `product` on random operands of the given lengths.
fn check(product: &Product, lengths: [usize; 3], with_bias: bool, everywhere: &Everywhere) {
    let mut random = Random::new(product.multiply_adds());
    let a = random.normal(lengths[0], 0.1, 1.0);
    let b = random.normal(lengths[1], 0.0, 1.0);
    let bias = with_bias.then(|| random.normal(product.n, 0.0, 1.0));
    let expected = expected(product, &a, &b, bias.as_deref(), lengths[2]);
    let what = format!("{}x{}x{}", product.m, product.k, product.n);
    everywhere.close(&what, &expected, |commands, device| {
        let bias = bias.as_ref().map(|bias| device.upload(bias));
        let out = device.upload(&vec![UNTOUCHED; lengths[2]]);
        let (a, b) = (device.upload(&a), device.upload(&b));
        float_product(commands, product, &a, &b, bias.as_ref(), &out);
        out
    });
}

#[test]
fn linear_layers_of_ragged_sizes() {
    let everywhere = Everywhere::with_every_strategy();
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
fn gradients_of_a_linear_layer() {
    let (rows, inputs, outputs) = (65, 33, 7);
    let product = Product::linear(rows, inputs, outputs);
    let everywhere = Everywhere::with_every_strategy();
    let (x, weight, y) = (rows * inputs, outputs * inputs, rows * outputs);
    check(&product.backward_a(), [y, weight, x], false, &everywhere);
    check(&product.backward_b(), [x, y, weight], false, &everywhere);
}

/// The two products of attention, q · kᵀ and p · v, on heads that are interleaved in a buffer
/// `[images][tokens][3][heads][dim]`. The second writes one third of such a buffer, so that most of it must stay as it is.
pub fn attention([images, tokens, heads, dim]: [usize; 4]) -> (Product, Product) {
    let width = 3 * heads * dim;
    // Row t of image i: queries, keys or values.
    let third = |which: usize| View::new(which * heads * dim, [tokens * width, dim], width, 1);
    let scores = View::new(0, [heads * tokens * tokens, tokens * tokens], tokens, 1);
    let queries_keys = Product {
        batch: [images, heads],
        m: tokens,
        n: tokens,
        k: dim,
        a: third(0),
        b: third(1).transposed(),
        out: scores,
    };
    let scores_values = Product {
        batch: [images, heads],
        m: tokens,
        n: dim,
        k: tokens,
        a: scores,
        b: third(2),
        out: third(1),
    };
    (queries_keys, scores_values)
}

#[test]
fn attention_on_interleaved_heads() {
    let everywhere = Everywhere::with_every_strategy();
    for (images, tokens, heads, dim) in [(2, 17, 3, 5), (1, 65, 2, 16), (3, 1, 1, 1)] {
        let (queries_keys, scores_values) = attention([images, tokens, heads, dim]);
        let qkv_len = images * tokens * 3 * heads * dim;
        let scores_len = images * heads * tokens * tokens;
        let lengths = [qkv_len, qkv_len, scores_len];
        check(&queries_keys, lengths, false, &everywhere);
        check(
            &queries_keys.backward_b(),
            [qkv_len, scores_len, qkv_len],
            false,
            &everywhere,
        );
        let lengths = [scores_len, qkv_len, qkv_len];
        check(&scores_values, lengths, false, &everywhere);
    }
}

#[test]
fn packed_lines() {
    let everywhere = Everywhere::new();
    for (lines, k) in [(1, 1), (12, 16), (13, 17), (7, 65)] {
        let (images, heads) = (2, 3);
        let view = View::new(1, [heads * lines * k, lines * k], k, 1);
        // Lines along either side of the input.
        let sideways = View::new(1, [heads * lines * k, lines * k], 1, lines);
        for view in [view, sideways] {
            let operand = PackQuads {
                batch: [images, heads],
                lines,
                k,
                view,
            };
            let input = Random::new(k as u64).normal(1 + images * heads * lines * k, 0.0, 1.0);
            let mut expected = Vec::new();
            for problem in 0..images * heads {
                for step in 0..k {
                    for line in 0..lines.next_multiple_of(PackQuads::SIDE) {
                        let (outer, inner) = (problem / heads, problem % heads);
                        expected.push(input[index(&view, outer, inner, line.min(lines - 1), step)]);
                    }
                }
            }
            everywhere.equal(
                &format!("{lines} lines of {k}"),
                &expected,
                |commands, device| pack_quads(commands, &operand, &device.upload(&input)),
            );
        }
    }
}

/// Operands too large to be packed at once.
#[test]
fn products_in_parts() {
    let everywhere = Everywhere::with_every_strategy();
    let (k, n) = (4096, 3);
    let single = Product::linear(4099, k, n);
    check(&single, [4099 * k, n * k, 4099 * n], true, &everywhere);
    let batched = Product {
        batch: [3, 5],
        m: 140,
        n,
        k,
        a: View::new(0, [5 * 140 * k, 140 * k], k, 1),
        b: View::new(0, [5 * n * k, n * k], n, 1),
        out: View::new(0, [5 * 140 * n, 140 * n], n, 1),
    };
    check(
        &batched,
        [15 * 140 * k, 15 * n * k, 15 * 140 * n],
        false,
        &everywhere,
    );
}

/// All strategies add up in the same order, so a device's results don't depend on what it was tuned to.
#[test]
fn strategies_agree_bit_for_bit() {
    let (rows, inputs, outputs) = (130, 197, 67);
    let product = Product::linear(rows, inputs, outputs);
    let mut random = Random::new(0);
    let x = random.normal(rows * inputs, 0.0, 1.0);
    let weight = random.normal(outputs * inputs, 0.0, 1.0);
    let grad = random.normal(rows * outputs, 0.0, 1.0);
    for device in devices() {
        let run = |product: &Product, a: &[f32], b: &[f32]| {
            let out = device.zeros(product.m * product.n);
            let (a, b) = (device.upload(a), device.upload(b));
            let mut commands = Commands::new(&device);
            float_product(&mut commands, product, &a, &b, None, &out);
            commands.read(&out).expect("the product")
        };
        let results = strategies().into_iter().map(|strategy| {
            for name in STRATEGY_NAMES {
                device.set_strategy(name, strategy);
            }
            let forward = run(&product, &x, &weight);
            let backward_a = run(&product.backward_a(), &grad, &weight);
            let backward_b = run(&product.backward_b(), &x, &grad);
            (strategy, [forward, backward_a, backward_b])
        });
        let results: Vec<_> = results.collect();
        for (strategy, found) in &results[1..] {
            let same = *found == results[0].1;
            assert!(same, "{strategy:?} on {}", device.name());
        }
    }
}
