//! The kernels that treat rows one by one: `layer_norm`, `softmax`, their gradients, and `cross_entropy_backward`.

use crate::harness::{EPSILON, Everywhere, RAGGED, Random, gradient, wide};
use ptq4vit_gpu::kernels::{
    LayerNorm, WindowSoftmax, cross_entropy_backward, layer_norm, layer_norm_backward, softmax,
    softmax_backward, window_softmax,
};

pub const EPS: f32 = 1e-6;

/// Mean and standard deviation of a row.
fn statistics(x: &[f64]) -> (f64, f64) {
    let width = x.len() as f64;
    let mean = x.iter().sum::<f64>() / width;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width;
    (mean, (variance + f64::from(EPS)).sqrt())
}

pub fn normalised(x: &[f64]) -> Vec<f64> {
    let (mean, deviation) = statistics(x);
    x.iter().map(|x| (x - mean) / deviation).collect()
}

/// Bound on the error of one normalised element. A sum of `width` terms errs by at most `width` half-epsilons of their
/// magnitudes, and the mean's error counts in units of the deviation; the variance's error, that of the inverse root
/// (2 epsilons in WGSL) and of the steps after it are in proportion to the element.
pub fn normalised_error(x: &[f64], element: f64) -> f64 {
    let width = x.len() as f64;
    let (mean, deviation) = statistics(x);
    let magnitude = x.iter().map(|x| x.abs()).sum::<f64>() / width;
    let of_mean = ((width + 3.0) / 2.0 * magnitude + mean.abs()) / deviation;
    EPSILON * (of_mean * (1.0 + element.abs()) + (width / 4.0 + 6.0) * element.abs())
}

/// Shapes: rows, width, where the first row starts, elements between the starts of rows.
pub fn shapes() -> Vec<LayerNorm> {
    let mut shapes = Vec::new();
    for (rows, width) in RAGGED.into_iter().zip(RAGGED.into_iter().rev()) {
        for (input_offset, input_stride) in [(0, width), (0, width + 13), (7, width + 13)] {
            shapes.push((rows, width, input_offset, input_stride));
        }
    }
    // Class tokens and distillation tokens of five images of seven tokens.
    shapes.push((5, 768, 0, 7 * 768));
    shapes.push((5, 768, 768, 7 * 768));
    shapes
        .into_iter()
        .map(|(rows, width, input_offset, input_stride)| LayerNorm {
            rows,
            width,
            input_offset,
            input_stride,
            eps: EPS,
        })
        .collect()
}

/// A row far from zero, a row of tiny values (where eps counts), and ordinary ones; `rows · input_stride` elements, of
/// which a row's `width` from `input_offset` on are used.
pub fn layer_norm_input(norm: &LayerNorm) -> Vec<f32> {
    let mut random = Random::new((norm.rows * norm.input_stride) as u64);
    (0..norm.rows)
        .flat_map(|row| {
            let (mean, deviation) = match row % 5 {
                3 => (10.0, 1.0),
                4 => (0.0, 1e-3),
                _ => (0.1, 2.0),
            };
            random.normal(norm.input_stride, mean, deviation)
        })
        .collect()
}

#[test]
fn layer_norm_is_torchs() {
    let everywhere = Everywhere::new();
    for norm in shapes() {
        let input = layer_norm_input(&norm);
        let mut random = Random::new(1);
        let weight = random.normal(norm.width, 1.0, 0.5);
        let bias = random.normal(norm.width, 0.0, 0.5);
        let mut expected = Vec::new();
        for row in 0..norm.rows {
            let x = wide(&input[norm.input_offset + row * norm.input_stride..][..norm.width]);
            for (at, element) in normalised(&x).into_iter().enumerate() {
                let (weight, bias) = (f64::from(weight[at]), f64::from(bias[at]));
                let scaled = element * weight;
                let bound = weight.abs() * normalised_error(&x, element)
                    + EPSILON * (scaled.abs() + bias.abs());
                expected.push((scaled + bias, bound));
            }
        }
        everywhere.close(&format!("{norm:?}"), &expected, |commands, device| {
            layer_norm(
                commands,
                &norm,
                &device.upload(&input),
                &device.upload(&weight),
                &device.upload(&bias),
            )
        });
    }
}

#[test]
fn layer_norm_backward_is_its_gradient() {
    let everywhere = Everywhere::new();
    for norm in shapes() {
        let input = layer_norm_input(&norm);
        let mut random = Random::new(2);
        let weight = wide(&random.normal(norm.width, 1.0, 0.5));
        let grad = random.normal(norm.rows * norm.width, 0.0, 1.0);
        let mut expected = vec![(0.0, 0.0); input.len()];
        for row in 0..norm.rows {
            let start = norm.input_offset + row * norm.input_stride;
            let x = wide(&input[start..][..norm.width]);
            let h: Vec<f64> = wide(&grad[row * norm.width..][..norm.width])
                .iter()
                .zip(&weight)
                .map(|(grad, weight)| grad * weight)
                .collect();
            let (_, deviation) = statistics(&x);
            let n = normalised(&x);
            let width = norm.width as f64;
            let mean_h = h.iter().sum::<f64>() / width;
            let mean_hn = h.iter().zip(&n).map(|(h, n)| h * n).sum::<f64>() / width;
            let exact: Vec<f64> = (0..norm.width)
                .map(|at| (h[at] - mean_h - n[at] * mean_hn) / deviation)
                .collect();
            if norm.width <= 65 && row < 5 {
                // The formula is indeed the gradient; a step of 1e-5 is short beside a deviation of 1e-3.
                let found = gradient(normalised, &x, &h);
                let largest = h.iter().fold(0.0f64, |a, h| a.max(h.abs())) / deviation;
                for (found, exact) in found.iter().zip(&exact) {
                    assert!((found - exact).abs() < 1e-3 * largest, "{found} {exact}");
                }
            }
            let mean_magnitude = |values: &mut dyn Iterator<Item = f64>| -> f64 {
                values.map(f64::abs).sum::<f64>() / width
            };
            let (h_size, hn_size) = (
                mean_magnitude(&mut h.iter().copied()),
                mean_magnitude(&mut h.iter().zip(&n).map(|(h, n)| h * n)),
            );
            // Every normalised element errs by no more than the largest.
            let largest = n.iter().fold(0.0f64, |a, n| a.max(n.abs()));
            let n_error = normalised_error(&x, largest);
            for (at, &exact) in exact.iter().enumerate() {
                let sums = (width / 2.0 + 4.0) * EPSILON * (h_size + n[at].abs() * hn_size);
                let elements = n_error * (h_size * n[at].abs() + hn_size);
                let steps = 4.0 * EPSILON * (h[at].abs() + mean_h.abs() + (n[at] * mean_hn).abs());
                let scale = (width / 4.0 + 6.0) * EPSILON * exact.abs() + n_error * exact.abs();
                expected[start + at] = (exact, (sums + elements + steps) / deviation + scale);
            }
        }
        let weight: Vec<f32> = weight.iter().map(|&weight| weight as f32).collect();
        everywhere.close(
            &format!("{norm:?} backward"),
            &expected,
            |commands, device| {
                layer_norm_backward(
                    commands,
                    &norm,
                    &device.upload(&input),
                    &device.upload(&weight),
                    &device.upload(&grad),
                )
            },
        );
    }
}

pub fn probabilities(scores: &[f64], factor: f64) -> Vec<f64> {
    let largest = scores.iter().fold(f64::NEG_INFINITY, |a, &x| a.max(x));
    let exponentials: Vec<f64> = scores
        .iter()
        .map(|x| (factor * (x - largest)).exp())
        .collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|x| x / sum).collect()
}

/// Bound on the relative error of a probability. WGSL allows exp(z) 3 + 2 |z| epsilons, z = factor · (x - max), which
/// errs by |z| itself; the sum of `width` exponentials errs by `width` half-epsilons and by its terms' errors, on
/// average over the probabilities; four more for the division.
pub fn probability_errors(scores: &[f64], factor: f64) -> Vec<f64> {
    let largest = scores.iter().fold(f64::NEG_INFINITY, |a, &x| a.max(x));
    let of_exponentials: Vec<f64> = scores
        .iter()
        .map(|x| 3.0 + 3.0 * factor * (largest - x))
        .collect();
    let of_sum: f64 = probabilities(scores, factor)
        .iter()
        .zip(&of_exponentials)
        .map(|(p, error)| p * error)
        .sum();
    of_exponentials
        .iter()
        .map(|error| EPSILON * (error + of_sum + scores.len() as f64 / 2.0 + 4.0))
        .collect()
}

/// Below this, a device may take an f32 for zero.
const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

#[test]
fn softmax_of_ragged_rows() {
    let everywhere = Everywhere::new();
    for (rows, width) in RAGGED.into_iter().zip(RAGGED.into_iter().rev()) {
        for (factor, deviation) in [(1.0, 1.0), (0.125, 8.0), (0.125, 300.0)] {
            let scores = Random::new(width as u64).normal(rows * width, 5.0, deviation);
            let mut expected = Vec::new();
            for row in scores.chunks(width) {
                let row = wide(row);
                let errors = probability_errors(&row, factor);
                let pairs = probabilities(&row, factor).into_iter().zip(errors);
                expected.extend(pairs.map(|(p, error)| (p, p * error + 2.0 * SMALLEST)));
            }
            let what = format!("softmax {rows}x{width}, factor {factor}, scores {deviation}");
            everywhere.close(&what, &expected, |commands, device| {
                softmax(
                    commands,
                    rows,
                    width,
                    factor as f32,
                    &device.upload(&scores),
                )
            });
        }
    }
}

#[test]
fn window_softmax_adds_the_bias_of_the_head_and_the_mask_of_the_window() {
    let everywhere = Everywhere::new();
    for (images, windows, heads, tokens) in
        [(1, 1, 1, 1), (2, 3, 5, 7), (3, 4, 2, 49), (2, 1, 3, 65)]
    {
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
        // Mostly masked, but never all of a row.
        let mask: Vec<f32> = (0..windows * tokens * tokens)
            .map(|at| {
                if at * 7 % 5 == 0 || at / tokens % tokens == at % tokens {
                    0.0
                } else {
                    -100.0
                }
            })
            .collect();
        let mut expected = Vec::new();
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
            // The biased score itself is rounded three times, at a magnitude of at most 120.
            let errors = probability_errors(&biased, 1.0);
            let pairs = probabilities(&biased, 1.0).into_iter().zip(errors);
            expected.extend(
                pairs.map(|(p, error)| (p, p * (error + 360.0 * EPSILON) + 2.0 * SMALLEST)),
            );
        }
        everywhere.close(&format!("{shape:?}"), &expected, |commands, device| {
            let (bias, mask) = (device.upload(&bias), device.upload(&mask));
            window_softmax(commands, &shape, &device.upload(&scores), &bias, &mask)
        });
    }
}

#[test]
fn softmax_backward_is_its_gradient() {
    const FACTOR: f64 = 0.125;
    let everywhere = Everywhere::new();
    for (rows, width) in RAGGED.into_iter().zip(RAGGED.into_iter().rev()) {
        let mut random = Random::new(width as u64);
        let scores = random.normal(rows * width, 0.0, 16.0);
        let grad = random.normal(rows * width, 0.0, 1.0);
        let mut given = Vec::new();
        let mut expected = Vec::new();
        for (scores, grad) in scores.chunks(width).zip(grad.chunks(width)) {
            let (scores, grad) = (wide(scores), wide(grad));
            let p = probabilities(&scores, FACTOR);
            given.extend(p.iter().map(|&p| p as f32));
            let exact = gradient(|x| probabilities(x, FACTOR), &scores, &grad);
            let magnitude: f64 = p.iter().zip(&grad).map(|(p, g)| p * g.abs()).sum();
            for ((exact, p), g) in exact.into_iter().zip(p).zip(grad) {
                // A sum of `width` products of rounded probabilities, then four steps; 1e-9 for the differences.
                let sum = (width as f64 + 1.0) / 2.0 * EPSILON * magnitude;
                let bound = FACTOR * p * (sum + 4.0 * EPSILON * (g.abs() + magnitude));
                expected.push((exact, bound + 1e-9));
            }
        }
        let what = format!("softmax backward {rows}x{width}");
        everywhere.close(&what, &expected, |commands, device| {
            let (given, grad) = (device.upload(&given), device.upload(&grad));
            softmax_backward(commands, rows, width, FACTOR as f32, &given, &grad)
        });
    }
}

/// Logits with a winner `lead` above the others' usual size.
fn logits(rows: usize, classes: usize, lead: f32) -> Vec<f32> {
    let mut logits = Random::new((rows * classes) as u64).normal(rows * classes, 0.0, 2.0);
    for (row, logits) in logits.chunks_mut(classes).enumerate() {
        logits[row * 31 % classes] += lead;
    }
    logits
}

fn argmax(row: &[f64]) -> usize {
    let largest = row.iter().fold(f64::NEG_INFINITY, |a, &x| a.max(x));
    row.iter().position(|&x| x == largest).expect("a maximum")
}

#[test]
fn cross_entropy_backward_keeps_the_digits_of_sure_rows() {
    let everywhere = Everywhere::new();
    for (rows, classes) in [(1, 1), (3, 197), (65, 10), (7, 1000)] {
        // At 40, 1 - p is about 1e-15 and a winner's p - 1 would be zero in f32.
        for lead in [0.0, 10.0, 40.0] {
            let logits = logits(rows, classes, lead);
            let mut expected = Vec::new();
            for row in logits.chunks(classes) {
                let row = wide(row);
                let winner = argmax(&row);
                let p = probabilities(&row, 1.0);
                let errors = probability_errors(&row, 1.0);
                let others = (0..classes).filter(|&at| at != winner);
                let (mut sum, mut sum_error) = (0.0, 0.0f64);
                for at in others {
                    sum += p[at];
                    sum_error = sum_error.max(errors[at]);
                }
                for at in 0..classes {
                    let (value, error) = if at == winner {
                        (-sum, sum_error + classes as f64 / 2.0 * EPSILON)
                    } else {
                        (p[at], errors[at])
                    };
                    expected.push((value, value.abs() * error));
                }
            }
            let what = format!("cross_entropy_backward {rows}x{classes}, lead {lead}");
            everywhere.close(&what, &expected, |commands, device| {
                cross_entropy_backward(commands, rows, classes, &device.upload(&logits))
            });
        }
    }
}

#[test]
fn cross_entropy_backward_is_the_gradient_and_ties_go_to_the_first() {
    let everywhere = Everywhere::new();
    let row = [0.5f32, 2.0, -1.0, 2.0, 1.75];
    let loss = |x: &[f64]| vec![-probabilities(x, 1.0)[1].ln()];
    let expected: Vec<_> = gradient(loss, &wide(&row), &[1.0])
        .into_iter()
        .map(|gradient| (gradient, 20.0 * EPSILON))
        .collect();
    everywhere.close(
        "cross_entropy_backward of a tie",
        &expected,
        |commands, device| cross_entropy_backward(commands, 1, row.len(), &device.upload(&row)),
    );
}
