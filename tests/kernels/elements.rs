//! The kernels that treat elements one by one: `gelu`, `add`, `patches`, `embed` and their gradients.

use crate::harness::{EPSILON, Everywhere, RAGGED, Random, gradient, wide};
use ptq4vit_gpu::kernels::{
    Embed, Patches, add, embed, embed_backward, gelu, gelu_backward, patches,
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
    everywhere.close("gelu", &expected, |device| {
        gelu(device, &device.upload(&inputs))
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
    everywhere.close("gelu_backward", &expected, |device| {
        gelu_backward(device, &device.upload(&inputs), &device.upload(&grad))
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
fn add_rounds_once_and_reaches_every_element() {
    let everywhere = Everywhere::new();
    // The last needs more workgroups than one dimension of a dispatch holds.
    for len in RAGGED.into_iter().chain([64 * 65_535 + 77]) {
        let mut random = Random::new(len as u64);
        let (a, b) = (random.unit(len), random.unit(len));
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        everywhere.equal(&format!("add {len}"), &expected, |device| {
            add(device, &device.upload(&a), &device.upload(&b))
        });
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
        everywhere.equal(&format!("{shape:?}"), &expected, |device| {
            patches(device, &shape, &device.upload(&images))
        });
    }
}

#[test]
fn embed_puts_the_class_token_first() {
    let everywhere = Everywhere::new();
    for (batch, patches, dim) in [(1, 1, 1), (3, 7, 65), (2, 196, 3)] {
        let shape = Embed {
            batch,
            patches,
            dim,
        };
        let mut random = Random::new((batch * patches * dim) as u64);
        let patch_embeddings = random.unit(batch * patches * dim);
        let class_token = random.unit(dim);
        let positions = random.unit((patches + 1) * dim);
        let grad = random.unit(batch * (patches + 1) * dim);
        let (mut tokens, mut patch_grad) = (Vec::new(), Vec::new());
        for image in 0..batch {
            for token in 0..=patches {
                for element in 0..dim {
                    let value = match token {
                        0 => class_token[element],
                        _ => patch_embeddings[(image * patches + token - 1) * dim + element],
                    };
                    tokens.push(value + positions[token * dim + element]);
                    if token > 0 {
                        patch_grad.push(grad[(image * (patches + 1) + token) * dim + element]);
                    }
                }
            }
        }
        everywhere.equal(&format!("{shape:?}"), &tokens, |device| {
            embed(
                device,
                &shape,
                &device.upload(&patch_embeddings),
                &device.upload(&class_token),
                &device.upload(&positions),
            )
        });
        everywhere.equal(&format!("{shape:?} backward"), &patch_grad, |device| {
            embed_backward(device, &shape, &device.upload(&grad))
        });
    }
}
