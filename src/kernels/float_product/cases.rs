//! Layers of ragged sizes, a long sum, attention and gradients, also of operands that are too large to be packed at
//! once.

use super::float_product;
use crate::kernels::catalogue::{
    Case, EPSILON, Mistake, OF_FLOATS, RAGGED, Random, UNTOUCHED, case, place, third,
};
use crate::kernels::{Product, View};

/// A product under a name, on operands and an output of these lengths.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Shape {
    name: &'static str,
    pub product: Product,
    lens: [usize; 3],
    with_bias: bool,
}

/// What is multiplied, and added.
pub(in crate::kernels) struct Operands {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

impl Shape {
    fn new(name: &'static str, product: Product, lens: [usize; 3], with_bias: bool) -> Self {
        Self {
            name,
            product,
            lens,
            with_bias,
        }
    }

    fn linear(rows: usize, inputs: usize, outputs: usize, with_bias: bool) -> Self {
        let lens = [rows * inputs, outputs * inputs, rows * outputs];
        Self::new(
            "linear",
            Product::linear(rows, inputs, outputs),
            lens,
            with_bias,
        )
    }

    pub fn title(&self) -> String {
        let Product { m, n, k, .. } = self.product;
        let bias = if self.with_bias { ", bias" } else { "" };
        format!("{} {m}x{k}x{n}{bias}", self.name)
    }

    pub fn operands(&self) -> Operands {
        let mut random = Random::new(self.product.multiply_adds());
        Operands {
            a: random.bell(self.lens[0], 0.1, 1.0),
            b: random.bell(self.lens[1], 0.0, 1.0),
            bias: self
                .with_bias
                .then(|| random.bell(self.product.n, 0.0, 1.0)),
        }
    }

    /// Returns what lies in the output before the product.
    pub fn untouched(&self) -> Vec<f32> {
        vec![UNTOUCHED; self.lens[2]]
    }

    /// Computes each sum and a bound on its error. A sum of k products, whatever its order and wherever products are
    /// fused into it, errs by at most (k + 1) half-epsilons of the sum of magnitudes, to first order. What no view
    /// names stays.
    pub fn exact(&self, Operands { a, b, bias }: &Operands) -> Vec<(f64, f64)> {
        let product = &self.product;
        let mut out = vec![(f64::from(UNTOUCHED), 0.0); self.lens[2]];
        for problem in 0..product.batch[0] * product.batch[1] {
            let matrix = [problem / product.batch[1], problem % product.batch[1]];
            for row in 0..product.m {
                for column in 0..product.n {
                    let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[column]));
                    let (mut sum, mut magnitude) = (bias, bias.abs());
                    for k in 0..product.k {
                        let a = a[place(&product.a, matrix, row, k)];
                        let b = b[place(&product.b, matrix, k, column)];
                        let term = f64::from(a) * f64::from(b);
                        sum += term;
                        magnitude += term.abs();
                    }
                    let bound = (product.k + 1) as f64 / 2.0 * EPSILON * magnitude;
                    out[place(&product.out, matrix, row, column)] = (sum, bound);
                }
            }
        }
        out
    }
}

/// Layers, and the two products of attention on heads that are interleaved in a buffer
/// `[images][tokens][3][heads][dim]`. The second writes one third of such a buffer, so that most of it must stay as it
/// is.
pub(in crate::kernels) fn shapes() -> Vec<Shape> {
    let mut all = Vec::new();
    let sizes = [(1, 1), (3, 7), (65, 3), (197, 65), (7, 197)];
    for (rows, (inputs, outputs)) in RAGGED.into_iter().zip(sizes).chain([
        (65, (1, 1)),
        (13, (12, 13)),
        (129, (33, 65)),
        (17, (4099, 5)),
    ]) {
        all.extend([false, true].map(|with_bias| Shape::linear(rows, inputs, outputs, with_bias)));
    }
    for [images, tokens, heads, dim] in [[2, 17, 3, 5], [1, 65, 2, 16], [3, 1, 1, 1]] {
        let third = |which| third(which, [tokens, heads, dim]);
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
            n: dim,
            k: tokens,
            a: scores,
            b: third(2),
            out: third(1),
            ..queries_keys
        };
        let qkv = images * tokens * 3 * heads * dim;
        let scores = images * heads * tokens * tokens;
        all.push(Shape::new(
            "q · kᵀ",
            queries_keys,
            [qkv, qkv, scores],
            false,
        ));
        all.push(Shape::new(
            "p · v",
            scores_values,
            [scores, qkv, qkv],
            false,
        ));
    }
    all
}

/// Lists shapes of gradients, and of operands too large to be packed at once, of one matrix and of several.
fn more_shapes() -> [Shape; 4] {
    let (rows, inputs, outputs) = (65, 33, 7);
    let linear = Product::linear(rows, inputs, outputs);
    let (x, weight, y) = (rows * inputs, outputs * inputs, rows * outputs);
    let (m, k, n) = (140, 4096, 3);
    let several = Product {
        batch: [3, 5],
        m,
        n,
        k,
        a: View::new(0, [5 * m * k, m * k], k, 1),
        b: View::new(0, [5 * n * k, n * k], n, 1),
        out: View::new(0, [5 * m * n, m * n], n, 1),
    };
    let lens = [m * k, n * k, m * n].map(|len| 15 * len);
    [
        Shape::new("gradient of a", linear.backward_a(), [y, weight, x], false),
        Shape::new("gradient of b", linear.backward_b(), [x, y, weight], false),
        Shape::linear(2053, k, n, true),
        Shape::new("several", several, lens, false),
    ]
}

/// Describes a mistake in the shader that the cases find.
pub(in crate::kernels) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "value += bias[column];",
    wrong: "value += bias[max(column, 1u) - 1u];",
});

pub(in crate::kernels) fn cases() -> Vec<Case> {
    let shapes = shapes().into_iter().chain(more_shapes());
    let cases = shapes.map(|shape| {
        let case = case(
            shape.title(),
            move || shape.operands(),
            move |commands, device, operands| {
                let Operands { a, b, bias } = operands;
                let bias = bias.as_ref().map(|bias| device.upload(bias));
                let out = device.upload(&shape.untouched());
                let (a, b) = (device.upload(a), device.upload(b));
                float_product(commands, &shape.product, &a, &b, bias.as_ref(), &out);
                out
            },
        );
        let case = case.close(move |operands| shape.exact(operands));
        case.by_strategy(super::SHADER.name, &OF_FLOATS)
    });
    cases.collect()
}
