//! Products of floats, in f32 and of operands in f16, and what lays out or rounds their operands.

use super::super::random::Random;
use super::{Case, EPSILON, RAGGED};
use crate::device::{Commands, Device};
use crate::kernels::{
    PackQuads, Product, ToHalf, View, float_product, half_product, pack_quads, to_half,
};
use half::f16;

/// What lies in the output before the product: what no view names must stay.
const UNTOUCHED: f32 = -77.0;

/// A product and what it takes.
#[derive(Clone)]
struct Data {
    product: Product,
    a: Vec<f32>,
    b: Vec<f32>,
    bias: Option<Vec<f32>>,
    len: usize,
}

impl Data {
    /// Operands and an output of the given lengths.
    fn new(product: Product, [a, b, len]: [usize; 3], with_bias: bool) -> Self {
        let mut random = Random::new(product.multiply_adds());
        Self {
            product,
            a: random.bell(a, 0.1, 1.0),
            b: random.bell(b, 0.0, 1.0),
            bias: with_bias.then(|| random.bell(product.n, 0.0, 1.0)),
            len,
        }
    }

    /// Bounds on both sides' errors. A sum of k products, whatever its order and wherever products are fused into it, errs
    /// by at most (k + 1) half-epsilons of the sum of magnitudes, to first order.
    fn bounds(&self) -> Vec<f64> {
        let cpu = Device::cpu();
        let magnitudes = |values: &[f32]| -> Vec<f32> { values.iter().map(|x| x.abs()).collect() };
        let out = cpu.zeros(self.len);
        let bias = self.bias.as_ref().map(|bias| cpu.upload(&magnitudes(bias)));
        let (a, b) = (
            cpu.upload(&magnitudes(&self.a)),
            cpu.upload(&magnitudes(&self.b)),
        );
        let commands = &mut Commands::new(&cpu);
        float_product(commands, &self.product, &a, &b, bias.as_ref(), &out);
        let sums = cpu.read(&out).expect("the CPU's memory can be read");
        let sums = sums.into_iter().map(f64::from);
        sums.map(|sum| (self.product.k + 2) as f64 * EPSILON * sum)
            .collect()
    }

    fn float_case(self, name: &str) -> Case {
        let of_bounds = self.clone();
        let bounds = move |_: &[f32]| of_bounds.bounds();
        let case = Case::close(
            "float_product",
            self.name(name),
            bounds,
            move |commands, device| {
                let bias = self.bias.as_ref().map(|bias| device.upload(bias));
                let out = device.upload(&vec![UNTOUCHED; self.len]);
                let (a, b) = (device.upload(&self.a), device.upload(&self.b));
                float_product(commands, &self.product, &a, &b, bias.as_ref(), &out);
                out
            },
        );
        case.by_strategy("float_product")
    }

    /// The operands are rounded to f16 on the CPU: what is compared is the product alone.
    fn half_case(self, name: &str) -> Case {
        let of_bounds = self.clone();
        let bounds = move |_: &[f32]| of_bounds.bounds();
        let case = Case::close(
            "half_product",
            self.name(name),
            bounds,
            move |commands, device| {
                let cpu = Device::cpu();
                let rounded = |what: &ToHalf, values: &[f32]| {
                    let rounded = to_half(&mut Commands::new(&cpu), what, &cpu.upload(values));
                    device.upload(&cpu.read(&rounded).expect("the CPU's memory can be read"))
                };
                let a = rounded(&ToHalf::left(&self.product), &self.a);
                let b = rounded(&ToHalf::right(&self.product), &self.b);
                let bias = self.bias.as_ref().map(|bias| device.upload(bias));
                let out = device.upload(&vec![UNTOUCHED; self.len]);
                half_product(commands, &self.product, &a, &b, bias.as_ref(), &out);
                out
            },
        );
        case.in_f16()
    }

    fn name(&self, of: &str) -> String {
        let Product { m, n, k, .. } = self.product;
        let bias = if self.bias.is_some() { ", bias" } else { "" };
        format!("{of} {m}x{k}x{n}{bias}")
    }
}

/// The two products of attention, q · kᵀ and p · v, on heads that are interleaved in a buffer
/// `[images][tokens][3][heads][dim]`. The second writes one third of such a buffer, so that most of it must stay as it is.
fn attention([images, tokens, heads, dim]: [usize; 4]) -> (Product, Product) {
    let width = 3 * heads * dim;
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

/// Every product that is compared, with a name: layers of ragged sizes, a long sum, attention.
fn products() -> Vec<(&'static str, Data)> {
    let mut all = Vec::new();
    let sizes = [(1, 1), (3, 7), (65, 3), (197, 65), (7, 197)];
    for (rows, (inputs, outputs)) in RAGGED.into_iter().zip(sizes).chain([
        (65, (1, 1)),
        (13, (12, 13)),
        (129, (33, 65)),
        (17, (4099, 5)),
    ]) {
        let lengths = [rows * inputs, outputs * inputs, rows * outputs];
        for with_bias in [false, true] {
            let product = Product::linear(rows, inputs, outputs);
            all.push(("linear", Data::new(product, lengths, with_bias)));
        }
    }
    for [images, tokens, heads, dim] in [[2, 17, 3, 5], [1, 65, 2, 16], [3, 1, 1, 1]] {
        let (queries_keys, scores_values) = attention([images, tokens, heads, dim]);
        let qkv = images * tokens * 3 * heads * dim;
        let scores = images * heads * tokens * tokens;
        all.push(("q · kᵀ", Data::new(queries_keys, [qkv, qkv, scores], false)));
        all.push(("p · v", Data::new(scores_values, [scores, qkv, qkv], false)));
    }
    all
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, data) in products() {
        cases.push(data.clone().half_case(name));
        cases.push(data.float_case(name));
    }
    let (rows, inputs, outputs) = (65, 33, 7);
    let product = Product::linear(rows, inputs, outputs);
    let (x, weight, y) = (rows * inputs, outputs * inputs, rows * outputs);
    let of_a = Data::new(product.backward_a(), [y, weight, x], false);
    let of_b = Data::new(product.backward_b(), [x, y, weight], false);
    cases.push(of_a.float_case("gradient of a"));
    cases.push(of_b.float_case("gradient of b"));
    cases.extend(packed());
    cases.extend(rounded());
    cases
}

/// Lines along either side of the input.
fn packed() -> Vec<Case> {
    let (images, heads) = (2, 3);
    let mut cases = Vec::new();
    for (lines, k) in [(1, 1), (12, 16), (13, 17), (7, 65)] {
        let strides = [heads * lines * k, lines * k];
        for (what, view) in [
            ("lines", View::new(1, strides, k, 1)),
            ("columns", View::new(1, strides, 1, lines)),
        ] {
            let operand = PackQuads {
                batch: [images, heads],
                lines,
                k,
                view,
            };
            let name = format!("{lines} {what} of {k}");
            cases.push(Case::exact("pack_quads", name, move |commands, device| {
                let input = Random::new(k as u64).unit(1 + images * heads * lines * k);
                pack_quads(commands, &operand, &device.upload(&input))
            }));
        }
    }
    cases
}

/// The ends of f16's range and what lies beyond, the smallest normal value, values on both sides of a half step. WGSL
/// leaves open which neighbour in f16 a value becomes.
fn rounded() -> Vec<Case> {
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
    let mut cases = Vec::new();
    for (rows, columns) in [(9, 7), (1, 1), (65, 197)] {
        // Two matrices, read by columns.
        let what = ToHalf {
            source: View::new(0, [0, rows * columns], 1, rows),
            batch: [1, 2],
            rows,
            columns,
        };
        let bounds = |expected: &[f32]| {
            let values = expected.iter();
            values.map(|&value| half_step(value)).collect()
        };
        let name = format!("{rows}x{columns}");
        let case = Case::close("to_half", name, bounds, move |commands, device| {
            let mut values = Random::new(5).bell(2 * rows * columns, 0.0, 3.0);
            values
                .iter_mut()
                .zip(special)
                .for_each(|(value, special)| *value = special);
            to_half(commands, &what, &device.upload(&values))
        });
        cases.push(case.in_f16());
    }
    cases
}

/// The distance of a value of f16 to the next one away from zero; below the normal ones, what a device may take for zero.
fn half_step(value: f32) -> f64 {
    let magnitude = f64::from(value).abs().max(f16::MIN_POSITIVE.to_f64());
    let step = f64::from(f16::EPSILON) * 2f64.powi(magnitude.log2().floor() as i32);
    if value.abs() < f16::MIN_POSITIVE.to_f32() {
        f16::MIN_POSITIVE.to_f64()
    } else {
        step
    }
}
