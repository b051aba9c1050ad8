//! The kernels that treat rows one by one: LayerNorm, softmax, their gradients, and the loss's.

use super::super::random::Random;
use super::{Case, EPSILON, RAGGED, SMALLEST};
use crate::device::{Buffer, Device};
use crate::kernels::{
    LayerNorm, WindowSoftmax, cross_entropy_backward, layer_norm, layer_norm_backward, softmax,
    softmax_backward, window_softmax,
};

const EPS: f32 = 1e-6;

/// Rows to normalise.
#[derive(Clone)]
pub(super) struct Normalised {
    pub norm: LayerNorm,
    pub input: Vec<f32>,
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Normalised {
    /// Rows far from zero, of tiny values (where eps counts), constant ones, and ordinary ones.
    pub fn new(norm: LayerNorm) -> Self {
        let mut random = Random::new((norm.rows * norm.input_stride) as u64);
        let input = (0..norm.rows).flat_map(|row| {
            let (mean, deviation) = match row % 7 {
                3 => (10.0, 1.0),
                4 => (0.0, 1e-3),
                5 => (3.0, 0.0),
                6 => (0.0, 1e15),
                _ => (0.1, 2.0),
            };
            random.bell(norm.input_stride, mean, deviation)
        });
        let input = input.collect();
        let mut random = Random::new(1);
        Self {
            norm,
            input,
            weight: random.bell(norm.width, 1.0, 0.5),
            bias: random.bell(norm.width, 0.0, 0.5),
        }
    }

    pub fn shape(rows: usize, width: usize) -> LayerNorm {
        LayerNorm {
            rows,
            width,
            input_offset: 0,
            input_stride: width,
            eps: EPS,
        }
    }

    pub fn upload(&self, device: &Device) -> [Buffer<f32>; 3] {
        [&self.input, &self.weight, &self.bias].map(|data| device.upload(data))
    }

    fn row(&self, row: usize) -> Row {
        let start = self.norm.input_offset + row * self.norm.input_stride;
        Row::new(&self.input[start..][..self.norm.width])
    }

    /// Bounds on both sides' errors.
    pub fn bounds(&self) -> Vec<f64> {
        let rows = (0..self.norm.rows).flat_map(|row| {
            let row = self.row(row);
            let elements = row.elements.clone().into_iter().enumerate();
            elements.map(move |(at, element)| {
                let (weight, bias) = (f64::from(self.weight[at]), f64::from(self.bias[at]));
                let scaled = element * weight;
                let of_element = weight.abs() * row.error(element);
                2.0 * (of_element + EPSILON * (scaled.abs() + bias.abs())) + SMALLEST
            })
        });
        rows.collect()
    }
}

/// A normalised row in f64.
struct Row {
    /// Mean magnitude, mean and deviation of what was normalised.
    magnitude: f64,
    mean: f64,
    deviation: f64,
    elements: Vec<f64>,
}

impl Row {
    fn new(x: &[f32]) -> Self {
        let width = x.len() as f64;
        let wide = || x.iter().map(|&x| f64::from(x));
        let mean = wide().sum::<f64>() / width;
        let variance = wide().map(|x| (x - mean).powi(2)).sum::<f64>() / width;
        let deviation = (variance + f64::from(EPS)).sqrt();
        Self {
            magnitude: wide().map(f64::abs).sum::<f64>() / width,
            mean,
            deviation,
            elements: wide().map(|x| (x - mean) / deviation).collect(),
        }
    }

    /// Bound on the error of one normalised element. A sum of so many terms errs by at most as many half-epsilons of their
    /// magnitudes, and the mean's error counts in units of the deviation; the variance's error, that of the inverse root
    /// (2 epsilons in WGSL) and of the steps after it are in proportion to the element.
    fn error(&self, element: f64) -> f64 {
        let width = self.elements.len() as f64;
        let of_mean = ((width + 3.0) / 2.0 * self.magnitude + self.mean.abs()) / self.deviation;
        EPSILON * (of_mean * (1.0 + element.abs()) + (width / 4.0 + 6.0) * element.abs())
    }
}

/// Ragged rows that follow one another or don't, and the class and distillation tokens of five images of seven tokens.
pub(super) fn norms() -> Vec<LayerNorm> {
    let mut norms = Vec::new();
    for (rows, width) in RAGGED.into_iter().zip(RAGGED.into_iter().rev()) {
        norms.push(Normalised::shape(rows, width));
        norms.push(LayerNorm {
            input_offset: 7,
            input_stride: width + 13,
            ..Normalised::shape(rows, width)
        });
    }
    for token in [0, 768] {
        norms.push(LayerNorm {
            input_offset: token,
            input_stride: 7 * 768,
            ..Normalised::shape(5, 768)
        });
    }
    norms
}

/// A name for a LayerNorm.
pub(super) fn norm_name(norm: &LayerNorm) -> String {
    let LayerNorm {
        rows,
        width,
        input_offset,
        input_stride,
        ..
    } = norm;
    match (*input_offset, *input_stride) {
        (0, stride) if stride == *width => format!("{rows}x{width}"),
        (offset, stride) => format!("{rows}x{width} every {stride} from {offset}"),
    }
}

/// Rows of scores.
#[derive(Clone)]
pub(super) struct Scores {
    pub rows: usize,
    pub width: usize,
    pub factor: f32,
    pub scores: Vec<f32>,
}

impl Scores {
    pub fn new(rows: usize, width: usize, factor: f32, deviation: f32) -> Self {
        Self {
            rows,
            width,
            factor,
            scores: Random::new(width as u64).bell(rows * width, 5.0, deviation),
        }
    }

    pub fn name(&self, deviation: f32) -> String {
        let Self {
            rows,
            width,
            factor,
            ..
        } = self;
        format!("{rows}x{width}, scores to {deviation:e} times {factor}")
    }

    /// Bounds on both sides' errors of the `expected` probabilities.
    pub fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let rows = self
            .scores
            .chunks(self.width)
            .zip(expected.chunks(self.width));
        let factor = f64::from(self.factor);
        rows.flat_map(|(scores, expected)| {
            let exponents: Vec<f64> = scores.iter().map(|&x| factor * f64::from(x)).collect();
            probability_bounds(&exponents, expected, &vec![0.0; exponents.len()])
        })
        .collect()
    }
}

/// Bounds on both sides' errors of one row's probabilities. WGSL allows exp(z) 3 + 2 |z| epsilons, z the distance to the
/// largest exponent, which errs by |z| itself and by what the exponent errs (`of_exponents`, in epsilons each); the sum of
/// the exponentials errs by as many half-epsilons as there are and by its terms' errors, on average over the
/// probabilities; four more for the division.
fn probability_bounds(exponents: &[f64], expected: &[f32], of_exponents: &[f64]) -> Vec<f64> {
    let largest = exponents.iter().fold(f64::NEG_INFINITY, |a, &x| a.max(x));
    // Beyond a distance of 200 all is zero, and its error too.
    let distance = |x: f64| (largest - x).min(200.0);
    let of_one = |at: usize| 3.0 + 3.0 * distance(exponents[at]) + of_exponents[at];
    let probabilities = || expected.iter().enumerate();
    let of_sum: f64 = probabilities()
        .map(|(at, &p)| f64::from(p) * of_one(at))
        .sum();
    probabilities()
        .map(|(at, &p)| {
            let error = of_one(at) + of_sum + exponents.len() as f64 / 2.0 + 4.0;
            2.0 * (EPSILON * error * f64::from(p) + 2.0 * SMALLEST)
        })
        .collect()
}

/// Ragged rows of scores; of ordinary size, sharp ones, and so large that all but the largest count as nothing.
pub(super) fn scores() -> Vec<(Scores, f32)> {
    let mut all = Vec::new();
    for (rows, width) in RAGGED.into_iter().zip(RAGGED.into_iter().rev()) {
        for (factor, deviation) in [(1.0, 1.0), (0.125, 8.0), (0.125, 300.0), (0.125, 1e30)] {
            all.push((Scores::new(rows, width, factor, deviation), deviation));
        }
    }
    all
}

/// Attention's scores within windows, with biases, and masks that hide most of a row but never all of it.
#[derive(Clone)]
pub(super) struct Windows {
    pub shape: WindowSoftmax,
    pub scores: Vec<f32>,
    pub bias: Vec<f32>,
    pub mask: Vec<f32>,
}

impl Windows {
    pub fn new([images, windows, heads, tokens]: [usize; 4]) -> Self {
        let shape = WindowSoftmax {
            images,
            windows,
            heads,
            tokens,
            factor: 0.25,
        };
        let mut random = Random::new(tokens as u64);
        let mask = (0..windows * tokens * tokens).map(|at| {
            let shown = at * 7 % 5 == 0 || at / tokens % tokens == at % tokens;
            if shown { 0.0 } else { -100.0 }
        });
        Self {
            shape,
            scores: random.bell(shape.rows() * tokens, 1.0, 8.0),
            bias: random.bell(heads * tokens * tokens, 0.0, 2.0),
            mask: mask.collect(),
        }
    }

    pub fn name(&self) -> String {
        let WindowSoftmax {
            images,
            windows,
            heads,
            tokens,
            ..
        } = self.shape;
        format!("{images}x{windows} windows, {heads} heads, {tokens} tokens")
    }

    pub fn upload(&self, device: &Device) -> [Buffer<f32>; 3] {
        [&self.scores, &self.bias, &self.mask].map(|data| device.upload(data))
    }

    /// The biased score itself is rounded three times, in proportion to its parts.
    pub fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let WindowSoftmax {
            windows,
            heads,
            tokens,
            factor,
            ..
        } = self.shape;
        let rows = self.scores.chunks(tokens).zip(expected.chunks(tokens));
        rows.enumerate()
            .flat_map(|(row, (scores, expected))| {
                let (query, head) = (row % tokens, row / tokens % heads);
                let window = row / (tokens * heads) % windows;
                let (biased, errors): (Vec<f64>, Vec<f64>) = (0..tokens)
                    .map(|key| {
                        let parts = [
                            f64::from(factor) * f64::from(scores[key]),
                            f64::from(self.bias[(head * tokens + query) * tokens + key]),
                            f64::from(self.mask[(window * tokens + query) * tokens + key]),
                        ];
                        let magnitude: f64 = parts.iter().map(|part| part.abs()).sum();
                        (parts.iter().sum::<f64>(), 1.5 * magnitude)
                    })
                    .unzip();
                probability_bounds(&biased, expected, &errors)
            })
            .collect()
    }
}

/// One window; several with masks of their own; a window as Swin has them.
pub(super) const WINDOWS: [[usize; 4]; 3] = [[1, 1, 1, 1], [2, 3, 5, 7], [3, 4, 2, 49]];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for norm in norms() {
        let data = Normalised::new(norm);
        let of_bounds = data.clone();
        let bounds = move |_: &[f32]| of_bounds.bounds();
        cases.push(Case::close(
            "layer_norm",
            norm_name(&norm),
            bounds,
            move |commands, device| {
                let [input, weight, bias] = data.upload(device);
                layer_norm(commands, &norm, &input, &weight, &bias)
            },
        ));
        cases.push(norm_gradient(norm));
    }
    for (data, deviation) in scores() {
        let name = data.name(deviation);
        let of_bounds = data.clone();
        let bounds = move |expected: &[f32]| of_bounds.bounds(expected);
        cases.push(Case::close(
            "softmax",
            name,
            bounds,
            move |commands, device| {
                let scores = device.upload(&data.scores);
                softmax(commands, data.rows, data.width, data.factor, &scores)
            },
        ));
    }
    for shape in WINDOWS {
        let data = Windows::new(shape);
        let (name, of_bounds) = (data.name(), data.clone());
        let bounds = move |expected: &[f32]| of_bounds.bounds(expected);
        cases.push(Case::close(
            "window_softmax",
            name,
            bounds,
            move |commands, device| {
                let [scores, bias, mask] = data.upload(device);
                window_softmax(commands, &data.shape, &scores, &bias, &mask)
            },
        ));
    }
    cases.extend(
        RAGGED
            .into_iter()
            .zip(RAGGED.into_iter().rev())
            .map(softmax_gradient),
    );
    for (rows, classes) in [(1, 1), (3, 197), (65, 10), (7, 1000)] {
        // At 40, 1 - p is about 1e-15 and a winner's p - 1 would be zero in f32. Without a lead, ties are likely enough.
        for lead in [0.0, 10.0, 40.0] {
            cases.push(loss_gradient(rows, classes, lead));
        }
    }
    cases
}

fn norm_gradient(norm: LayerNorm) -> Case {
    let data = Normalised::new(norm);
    let grad = Random::new(2).bell(norm.rows * norm.width, 0.0, 1.0);
    let (of_bounds, of_grad) = (data.clone(), grad.clone());
    let bounds = move |expected: &[f32]| {
        let mut bounds = vec![0.0; expected.len()];
        for row in 0..norm.rows {
            let start = norm.input_offset + row * norm.input_stride;
            let grads = of_grad[row * norm.width..][..norm.width].iter();
            let scaled = grads.zip(&of_bounds.weight);
            let h: Vec<f64> = scaled
                .map(|(grad, weight)| f64::from(*grad) * f64::from(*weight))
                .collect();
            let row = of_bounds.row(row);
            let width = norm.width as f64;
            let n = &row.elements;
            let hn = || h.iter().zip(n).map(|(h, n)| h * n);
            let (mean_h, mean_hn) = (h.iter().sum::<f64>() / width, hn().sum::<f64>() / width);
            let h_size = h.iter().map(|h| h.abs()).sum::<f64>() / width;
            let hn_size = hn().map(f64::abs).sum::<f64>() / width;
            // Every normalised element errs by no more than the largest.
            let n_error = row.error(n.iter().fold(0.0f64, |a, n| a.max(n.abs())));
            for at in 0..norm.width {
                let exact = f64::from(expected[start + at]).abs();
                let sums = (width / 2.0 + 4.0) * EPSILON * (h_size + n[at].abs() * hn_size);
                let elements = n_error * (h_size * n[at].abs() + hn_size);
                let steps = 4.0 * EPSILON * (h[at].abs() + mean_h.abs() + (n[at] * mean_hn).abs());
                let scale = (width / 4.0 + 6.0) * EPSILON * exact + n_error * exact;
                bounds[start + at] =
                    2.0 * ((sums + elements + steps) / row.deviation + scale + SMALLEST);
            }
        }
        bounds
    };
    Case::close(
        "layer_norm_backward",
        norm_name(&norm),
        bounds,
        move |commands, device| {
            let [input, weight, _] = data.upload(device);
            layer_norm_backward(commands, &norm, &input, &weight, &device.upload(&grad))
        },
    )
}

fn softmax_gradient((rows, width): (usize, usize)) -> Case {
    const FACTOR: f32 = 0.125;
    let mut random = Random::new(width as u64);
    // Any rows that sum to about 1 will do; nothing here depends on how they came about.
    let given: Vec<f32> = random
        .unit(rows * width)
        .iter()
        .map(|p| p * 2.0 / width as f32)
        .collect();
    let grad = random.bell(rows * width, 0.0, 1.0);
    let (of_given, of_grad) = (given.clone(), grad.clone());
    let bounds = move |_: &[f32]| {
        let rows = of_given.chunks(width).zip(of_grad.chunks(width));
        rows.flat_map(|(given, grad)| {
            let pairs = || {
                given
                    .iter()
                    .zip(grad)
                    .map(|(p, g)| (f64::from(*p), f64::from(g.abs())))
            };
            let magnitude: f64 = pairs().map(|(p, g)| p * g).sum();
            // A sum of `width` products, then four steps.
            let sum = (width as f64 + 1.0) / 2.0 * EPSILON * magnitude;
            let bounds = pairs().map(move |(p, g)| {
                let steps = sum + 4.0 * EPSILON * (g + magnitude);
                2.0 * (f64::from(FACTOR) * p * steps + SMALLEST)
            });
            bounds.collect::<Vec<_>>()
        })
        .collect()
    };
    Case::close(
        "softmax_backward",
        format!("{rows}x{width}"),
        bounds,
        move |commands, device| {
            let (given, grad) = (device.upload(&given), device.upload(&grad));
            softmax_backward(commands, rows, width, FACTOR, &given, &grad)
        },
    )
}

/// Logits in quarters, so that some are equal, with a winner `lead` above the others' usual size.
fn loss_gradient(rows: usize, classes: usize, lead: f32) -> Case {
    let mut logits = Random::new((rows * classes) as u64).bell(rows * classes, 0.0, 2.0);
    for (row, logits) in logits.chunks_mut(classes).enumerate() {
        logits
            .iter_mut()
            .for_each(|logit| *logit = (4.0 * *logit).floor() / 4.0);
        logits[row * 31 % classes] += lead;
    }
    let of_logits = logits.clone();
    let bounds = move |expected: &[f32]| {
        let rows = of_logits.chunks(classes).zip(expected.chunks(classes));
        rows.flat_map(|(logits, expected)| {
            let exponents: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
            let magnitudes: Vec<f32> = expected.iter().map(|p| p.abs()).collect();
            probability_bounds(&exponents, &magnitudes, &vec![0.0; classes])
        })
        .collect()
    };
    let name = format!("{rows}x{classes}, a lead of {lead}");
    Case::close(
        "cross_entropy_backward",
        name,
        bounds,
        move |commands, device| {
            cross_entropy_backward(commands, rows, classes, &device.upload(&logits))
        },
    )
}
