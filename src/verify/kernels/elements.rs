//! The kernels that treat elements or tokens one by one.

use super::super::random::Random;
use super::{Case, EPSILON, RAGGED, SMALLEST, token_order};
use crate::kernels::{
    Embed, MeanTokens, Patches, TokenOrder, add, average, embed, embed_backward, gather_rows, gelu,
    gelu_backward, mean_tokens, mean_tokens_backward, patches, permute_tokens, scale_columns,
};

/// Elements of many workgroups, the last of which isn't full.
const MANY: usize = 100_003;
/// More rows than one dimension of a dispatch has workgroups.
const MANY_ROWS: usize = 70_000;

/// From one tail to the other, and the awkward inputs: zeros, tiny ones that a device may take for zero, huge ones.
fn gelu_inputs() -> Vec<f32> {
    let mut inputs: Vec<f32> = (-2_000..2_000).map(|step| step as f32 * 1e-2).collect();
    inputs.extend([
        0.0, -0.0, 1e-20, -1e-20, 1e-40, -1e-40, 100.0, -100.0, 1e20, -1e20,
    ]);
    inputs.extend(Random::new(5).bell(197, 0.0, 3.0));
    inputs
}

/// 0.5 · erfc(y / √2) within a factor of 2, which is enough for a bound: exp(-y² / 2) / (1 + y) lies so near it.
fn tail(y: f64) -> f64 {
    (-0.5 * y * y).exp() / (1.0 + y)
}

/// WGSL allows exp(z) an error of 3 + 2 |z| epsilons, here z = x² / 2. The fit's steps are worth 4 more.
fn exponential_error(x: f64) -> f64 {
    (7.0 + x * x) * EPSILON
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![gelu_case(), gelu_backward_case()];
    cases.extend(RAGGED.into_iter().chain([MANY]).flat_map(sums));
    cases.extend([(1, 1, 1, 1), (3, 3, 12, 4), (2, 3, 15, 3), (2, 2, 17, 5)].map(patches_case));
    cases.extend(
        [(1, 1, 1, 1), (3, 7, 1, 65), (2, 196, 2, 3), (3, 5, 2, 7)]
            .into_iter()
            .flat_map(embeddings),
    );
    cases.extend(
        [(1, 1, 1), (3, 7, 65), (2, 197, 3)]
            .into_iter()
            .flat_map(permutations),
    );
    cases.extend(
        [(1, 1, 1), (3, 7, 65), (2, 197, 3), (5, 49, 768)]
            .into_iter()
            .flat_map(means),
    );
    cases.extend([(1, 1), (3, 65), (197, 64), (MANY_ROWS, 3)].map(gathering));
    cases.extend([(1, 1), (3, 65), (197, 64), (MANY_ROWS, 71)].map(scaling));
    cases
}

/// Bound on both sides' errors of GELU's `result` for `x`.
pub(super) fn gelu_bound(x: f32, result: f32) -> f64 {
    let x = f64::from(x);
    // Where the tail is subtracted from 1, only its absolute error counts.
    let of_tail = 2.0 * x.abs() * tail(x.abs()) * exponential_error(x);
    let bound = of_tail + EPSILON * f64::from(result).abs();
    2.0 * (bound + (1.0 + x.abs().min(20.0)) * SMALLEST)
}

fn gelu_case() -> Case {
    let inputs = gelu_inputs();
    let of_inputs = inputs.clone();
    let bounds = move |expected: &[f32]| {
        let pairs = of_inputs.iter().zip(expected);
        pairs
            .map(|(&x, &expected)| gelu_bound(x, expected))
            .collect()
    };
    Case::close("gelu", "both tails", bounds, move |commands, device| {
        gelu(commands, &device.upload(&inputs))
    })
}

fn gelu_backward_case() -> Case {
    let inputs = gelu_inputs();
    let grad = Random::new(6).bell(inputs.len(), 0.0, 1.0);
    let (of_inputs, of_grad) = (inputs.clone(), grad.clone());
    let bounds = move |_: &[f32]| {
        let pairs = of_inputs.iter().zip(&of_grad);
        pairs
            .map(|(&x, &grad)| {
                let (x, grad) = (f64::from(x), f64::from(grad).abs());
                // The two terms, Φ and x · φ, cancel near -0.75, so each one's error counts.
                let inexact = 2.0 * tail(x.abs()) + x.abs() * (-0.5 * x * x).exp();
                let whole = if x < 0.0 { 2.0 * tail(-x) } else { 1.0 };
                let bound = inexact * exponential_error(x) + 2.0 * EPSILON * whole;
                let tiny = (1.0 + x.abs().min(20.0)) * SMALLEST;
                2.0 * (grad * (bound + tiny) + SMALLEST)
            })
            .collect()
    };
    Case::close(
        "gelu_backward",
        "both tails",
        bounds,
        move |commands, device| {
            gelu_backward(commands, &device.upload(&inputs), &device.upload(&grad))
        },
    )
}

/// Products round once.
fn scaling((rows, columns): (usize, usize)) -> Case {
    let name = format!("{rows}x{columns}");
    Case::exact("scale_columns", name, move |commands, device| {
        let mut random = Random::new(columns as u64);
        let input = device.upload(&random.bell(rows * columns, 0.0, 1.0));
        let factors = device.upload(&random.bell(columns, 0.0, 1.0));
        scale_columns(commands, &input, &factors)
    })
}

/// Sums round once, halving is exact.
fn sums(len: usize) -> [Case; 2] {
    let operands = move || {
        let operand = |step: usize| {
            (0..len)
                .map(|at| (at * step % 1013) as f32 * 1e-3)
                .collect()
        };
        let operands: [Vec<f32>; 2] = [operand(1), operand(577)];
        operands
    };
    let name = format!("{len}");
    [
        Case::exact("add", &*name, move |commands, device| {
            let [a, b] = operands().map(|operand| device.upload(&operand));
            add(commands, &a, &b)
        }),
        Case::exact("average", name, move |commands, device| {
            let [a, b] = operands().map(|operand| device.upload(&operand));
            average(commands, &a, &b)
        }),
    ]
}

/// The last size leaves a margin over.
fn patches_case((batch, channels, image_size, patch_size): (usize, usize, usize, usize)) -> Case {
    let shape = Patches {
        batch,
        channels,
        image_size,
        patch_size,
    };
    let name = format!("{batch}x{channels}x{image_size}x{image_size} by {patch_size}");
    Case::exact("patches", name, move |commands, device| {
        let pixels = batch * channels * image_size * image_size;
        let images: Vec<f32> = (0..pixels).map(|pixel| pixel as f32).collect();
        patches(commands, &shape, &device.upload(&images))
    })
}

fn embeddings((batch, patches, prefix, dim): (usize, usize, usize, usize)) -> [Case; 2] {
    let shape = Embed {
        batch,
        patches,
        prefix,
        dim,
    };
    let name = format!("{batch}x({prefix}+{patches})x{dim}");
    let data = |len: usize, seed: u64| Random::new(seed).unit(len);
    [
        Case::exact("embed", &*name, move |commands, device| {
            let of_patches = device.upload(&data(batch * patches * dim, 0));
            let first = device.upload(&data(prefix * dim, 1));
            let positions = device.upload(&data(shape.tokens() * dim, 2));
            embed(commands, &shape, &of_patches, &first, &positions)
        }),
        Case::exact("embed_backward", name, move |commands, device| {
            let grad = device.upload(&data(batch * shape.tokens() * dim, 3));
            embed_backward(commands, &shape, &grad)
        }),
    ]
}

fn permutations((images, tokens, dim): (usize, usize, usize)) -> [Case; 2] {
    [false, true].map(|padded| {
        let from = token_order(tokens, padded);
        let with_padding = if padded { ", padded" } else { "" };
        let name = format!("{images}x{tokens}x{dim}{with_padding}");
        Case::exact("permute_tokens", name, move |commands, device| {
            let input = Random::new(tokens as u64).unit(images * tokens * dim);
            let from = &device.upload(&from);
            let order = TokenOrder { from, tokens };
            permute_tokens(commands, dim, order, &device.upload(&input))
        })
    })
}

fn means((batch, tokens, dim): (usize, usize, usize)) -> [Case; 2] {
    let shape = MeanTokens { batch, tokens, dim };
    let mut random = Random::new(tokens as u64);
    let input = random.bell(batch * tokens * dim, 1.0, 2.0);
    let grad = random.bell(batch * dim, 0.0, 1.0);
    let of_input = input.clone();
    let bounds = move |_: &[f32]| {
        let images = of_input.chunks(tokens * dim);
        images
            .flat_map(|image| {
                (0..dim).map(move |element| {
                    // Each of `tokens` additions and the division err by half an epsilon of the magnitude so far.
                    let values = image[element..].iter().step_by(dim);
                    let magnitude = values.map(|x| f64::from(x.abs())).sum::<f64>() / tokens as f64;
                    2.0 * (tokens as f64 / 2.0 + 2.0) * EPSILON * magnitude
                })
            })
            .collect()
    };
    // WGSL's division errs by 2.5 ULP, an ULP being at most an epsilon.
    let of_division = |expected: &[f32]| {
        let shares = expected.iter();
        shares
            .map(|share| 3.0 * EPSILON * f64::from(share.abs()))
            .collect()
    };
    let name = format!("{batch}x{tokens}x{dim}");
    [
        Case::close("mean_tokens", &*name, bounds, move |commands, device| {
            mean_tokens(commands, &shape, &device.upload(&input))
        }),
        Case::close(
            "mean_tokens_backward",
            name,
            of_division,
            move |commands, device| mean_tokens_backward(commands, &shape, &device.upload(&grad)),
        ),
    ]
}

/// Two rows before the gathered ones and one after them stay zero.
fn gathering((count, dim): (usize, usize)) -> Case {
    const ROWS: usize = 211;
    Case::exact(
        "gather_rows",
        format!("{count}x{dim}"),
        move |commands, device| {
            let source = device.upload(&Random::new(dim as u64).unit(ROWS * dim));
            let chosen: Vec<u32> = (0..count).map(|at| (at * 89 % ROWS) as u32).collect();
            let out = device.zeros((count + 3) * dim);
            gather_rows(commands, dim, &source, &chosen, &out, 2);
            out
        },
    )
}
