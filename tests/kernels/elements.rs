//! The kernels that treat elements or tokens one by one: `gelu`, `add`, `average`, `patches`, `embed`, `permute_tokens`,
//! `gather_rows`, `mean_tokens`, `scale_columns` and their gradients.

use crate::harness::{EPSILON, Everywhere, RAGGED, Random, gradient, reordered, token_order, wide};
use ptq4vit_gpu::kernels::{
    Embed, MeanTokens, Patches, TokenOrder, add, average, embed, embed_backward, gather_rows, gelu,
    gelu_backward, mean_tokens, mean_tokens_backward, patches, permute_tokens, scale_columns,
};
use std::f64::consts::{PI, SQRT_2};

fn cumulative(x: f64) -> f64 {
    0.5 * libm::erfc(-x / SQRT_2)
}

/// From one tail to the other, and the awkward inputs.
fn gelu_inputs() -> Vec<f32> {
    let mut inputs: Vec<f32> = (-20_000..20_000).map(|step| step as f32 * 1e-3).collect();
    inputs.extend([0.0, -0.0, 1e-20, -1e-20, 100.0, -100.0, 1e20, -1e20]);
    inputs.extend(Random::new(5).normal(197, 0.0, 3.0));
    inputs
}

/// WGSL allows exp(z) an error of 3 + 2 |z| epsilons, here z = x² / 2. The fit's steps are worth 4 more.
fn exponential_error(x: f64) -> f64 {
    (7.0 + x * x) * EPSILON
}

/// Below this, a device may take an f32 for zero.
const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

#[test]
fn gelu_is_the_exact_one() {
    let everywhere = Everywhere::new();
    let inputs = gelu_inputs();
    let expected: Vec<_> = wide(&inputs)
        .iter()
        .map(|&x| {
            let exact = x * cumulative(x);
            // Where the tail is subtracted from 1, only its absolute error counts.
            let tail = x.abs() * cumulative(-x.abs());
            let bound = tail * exponential_error(x) + EPSILON * exact.abs();
            (exact, bound + (1.0 + x.abs().min(20.0)) * SMALLEST)
        })
        .collect();
    everywhere.close("gelu", &expected, |commands, device| {
        gelu(commands, &device.upload(&inputs))
    });
}

#[test]
fn gelu_backward_is_its_derivative() {
    let everywhere = Everywhere::new();
    let inputs = gelu_inputs();
    let grad = Random::new(6).normal(inputs.len(), 0.0, 1.0);
    let expected: Vec<_> = wide(&inputs)
        .iter()
        .zip(&grad)
        .map(|(&x, &g)| {
            let g = f64::from(g);
            let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
            let exact = cumulative(x) + x * density;
            // The two terms cancel near -0.75, so each one's error counts.
            let inexact = cumulative(-x.abs()) + x.abs() * density;
            let bound = inexact * exponential_error(x) + 2.0 * EPSILON * cumulative(x);
            (
                g * exact,
                g.abs() * (bound + (1.0 + x.abs().min(20.0)) * SMALLEST) + SMALLEST,
            )
        })
        .collect();
    everywhere.close("gelu_backward", &expected, |commands, device| {
        gelu_backward(commands, &device.upload(&inputs), &device.upload(&grad))
    });

    // The formula above is indeed the derivative.
    let x: Vec<f64> = (-60..60).map(|step| f64::from(step) / 10.0).collect();
    let gelu = |x: &[f64]| x.iter().map(|&x| x * cumulative(x)).collect();
    let slopes = gradient(gelu, &x, &vec![1.0; x.len()]);
    for (x, slope) in x.iter().zip(slopes) {
        let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
        assert!((cumulative(*x) + x * density - slope).abs() < 1e-8);
    }
}

#[test]
fn sums_round_once_and_reach_every_element() {
    let everywhere = Everywhere::new();
    // The last needs more workgroups than one dimension of a dispatch holds.
    for len in RAGGED.into_iter().chain([64 * 65_535 + 77]) {
        let mut random = Random::new(len as u64);
        let (a, b) = (random.unit(len), random.unit(len));
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        everywhere.equal(&format!("add {len}"), &expected, |commands, device| {
            add(commands, &device.upload(&a), &device.upload(&b))
        });
        // Halving is exact.
        let expected: Vec<f32> = expected.iter().map(|sum| sum / 2.0).collect();
        everywhere.equal(&format!("average {len}"), &expected, |commands, device| {
            average(commands, &device.upload(&a), &device.upload(&b))
        });
    }
}

#[test]
fn each_column_has_its_factor() {
    let everywhere = Everywhere::new();
    // The last needs more workgroups than one dimension of a dispatch holds.
    for (rows, columns) in [(1, 1), (3, 65), (197, 64), (64 * 65_535 / 7 + 11, 7)] {
        let mut random = Random::new(columns as u64);
        let (input, factors) = (
            random.unit(rows * columns),
            random.normal(columns, 0.0, 1.0),
        );
        // Rounded once.
        let expected: Vec<f32> = (0..rows * columns)
            .map(|at| input[at] * factors[at % columns])
            .collect();
        everywhere.equal(
            &format!("scale_columns {rows}x{columns}"),
            &expected,
            |commands, device| {
                scale_columns(commands, &device.upload(&input), &device.upload(&factors))
            },
        );
    }
}

#[test]
fn patches_are_in_the_order_of_a_convolution() {
    let everywhere = Everywhere::new();
    // The last one leaves a margin over.
    for (batch, channels, image_size, patch_size) in
        [(1, 1, 1, 1), (3, 3, 12, 4), (2, 3, 15, 3), (2, 2, 17, 5)]
    {
        let shape = Patches {
            batch,
            channels,
            image_size,
            patch_size,
        };
        let images: Vec<f32> = (0..batch * channels * image_size * image_size)
            .map(|pixel| pixel as f32)
            .collect();
        let grid = image_size / patch_size;
        let mut expected = Vec::new();
        for image in 0..batch {
            for down in 0..grid {
                for across in 0..grid {
                    for channel in 0..channels {
                        for line in 0..patch_size {
                            for column in 0..patch_size {
                                let y = down * patch_size + line;
                                let x = across * patch_size + column;
                                let plane = image * channels + channel;
                                expected.push(images[(plane * image_size + y) * image_size + x]);
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(expected.len(), shape.rows() * shape.width());
        everywhere.equal(&format!("{shape:?}"), &expected, |commands, device| {
            patches(commands, &shape, &device.upload(&images))
        });
    }
}

#[test]
fn embed_puts_the_prefix_first() {
    let everywhere = Everywhere::new();
    for (batch, patches, prefix, dim) in [(1, 1, 1, 1), (3, 7, 1, 65), (2, 196, 2, 3), (3, 5, 2, 7)]
    {
        let shape = Embed {
            batch,
            patches,
            prefix,
            dim,
        };
        let tokens = prefix + patches;
        let mut random = Random::new((batch * patches * dim) as u64);
        let patch_embeddings = random.unit(batch * patches * dim);
        let first = random.unit(prefix * dim);
        let positions = random.unit(tokens * dim);
        let grad = random.unit(batch * tokens * dim);
        let (mut expected, mut patch_grad) = (Vec::new(), Vec::new());
        for image in 0..batch {
            for token in 0..tokens {
                for element in 0..dim {
                    let value = match token.checked_sub(prefix) {
                        None => first[token * dim + element],
                        Some(patch) => patch_embeddings[(image * patches + patch) * dim + element],
                    };
                    expected.push(value + positions[token * dim + element]);
                    if token >= prefix {
                        patch_grad.push(grad[(image * tokens + token) * dim + element]);
                    }
                }
            }
        }
        everywhere.equal(&format!("{shape:?}"), &expected, |commands, device| {
            embed(
                commands,
                &shape,
                &device.upload(&patch_embeddings),
                &device.upload(&first),
                &device.upload(&positions),
            )
        });
        everywhere.equal(
            &format!("{shape:?} backward"),
            &patch_grad,
            |commands, device| embed_backward(commands, &shape, &device.upload(&grad)),
        );
    }
}

#[test]
fn permute_tokens_follows_the_order_and_the_inverse_leads_back() {
    let everywhere = Everywhere::new();
    let sizes = [(1, 1, 1), (3, 7, 65), (2, 197, 3)];
    let cases = sizes
        .into_iter()
        .flat_map(|size| [(size, false), (size, true)]);
    for ((images, tokens, dim), padded) in cases {
        let from = token_order(tokens, padded);
        let mut inverse = vec![0; tokens];
        for (place, &token) in from.iter().enumerate() {
            if (token as usize) < tokens {
                inverse[token as usize] = place as u32;
            }
        }
        let input = Random::new(tokens as u64).unit(images * tokens * dim);
        let expected = reordered(&from, tokens, dim, &input);
        let what = format!("permute_tokens {images}x{tokens}x{dim}, padded: {padded}");
        everywhere.equal(&what, &expected, |commands, device| {
            let from = &device.upload(&from);
            let order = TokenOrder { from, tokens };
            permute_tokens(commands, dim, order, &device.upload(&input))
        });
        everywhere.equal(&format!("{what} back"), &input, |commands, device| {
            let order = TokenOrder {
                from: &device.upload(&inverse),
                tokens: from.len(),
            };
            permute_tokens(commands, dim, order, &device.upload(&expected))
        });
    }
}

#[test]
fn mean_tokens_and_its_gradient() {
    let everywhere = Everywhere::new();
    for (batch, tokens, dim) in [(1, 1, 1), (3, 7, 65), (2, 197, 3), (5, 49, 768)] {
        let shape = MeanTokens { batch, tokens, dim };
        let mut random = Random::new(tokens as u64);
        let input = random.normal(batch * tokens * dim, 1.0, 2.0);
        let grad = random.normal(batch * dim, 0.0, 1.0);
        let mut expected = Vec::new();
        for image in input.chunks(tokens * dim) {
            for element in 0..dim {
                let values = || image[element..].iter().step_by(dim).map(|&x| f64::from(x));
                // Each of `tokens` additions and the division err by half an epsilon of the magnitude so far.
                let magnitude = values().map(f64::abs).sum::<f64>() / tokens as f64;
                let bound = (tokens as f64 / 2.0 + 2.0) * EPSILON * magnitude;
                expected.push((values().sum::<f64>() / tokens as f64, bound));
            }
        }
        everywhere.close(&format!("{shape:?}"), &expected, |commands, device| {
            mean_tokens(commands, &shape, &device.upload(&input))
        });
        // WGSL's division errs by 2.5 ULP, an ULP being at most an epsilon.
        let expected: Vec<_> = grad
            .chunks(dim)
            .flat_map(|grad| std::iter::repeat_n(grad, tokens).flatten())
            .map(|&grad| f64::from(grad) / tokens as f64)
            .map(|share| (share, 2.5 * EPSILON * share.abs()))
            .collect();
        everywhere.close(
            &format!("{shape:?} backward"),
            &expected,
            |commands, device| mean_tokens_backward(commands, &shape, &device.upload(&grad)),
        );
    }
}

#[test]
fn gather_rows_copies_the_named_rows_and_leaves_the_others() {
    let everywhere = Everywhere::new();
    for (count, dim) in [(1, 1), (3, 65), (197, 64), (70_000, 3), (7, 197)] {
        let rows = 211;
        let source = Random::new(dim as u64).normal(rows * dim, 0.0, 1.0);
        let chosen: Vec<u32> = (0..count).map(|i| (i * 89 % rows) as u32).collect();
        // Two rows before the gathered ones and one after them stay zero.
        let mut expected = vec![0.0; 2 * dim];
        for &row in &chosen {
            expected.extend(&source[row as usize * dim..][..dim]);
        }
        expected.extend(vec![0.0; dim]);
        everywhere.equal(
            &format!("gather_rows {count}x{dim}"),
            &expected,
            |commands, device| {
                let out = device.zeros((count + 3) * dim);
                gather_rows(commands, dim, &device.upload(&source), &chosen, &out, 2);
                out
            },
        );
    }
}
