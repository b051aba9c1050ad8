//! The method's formulas (paper, sections 3.1 and 3.2), written down once more in plain f64: what scales are worth, apart
//! from how they were found and computed.

use crate::network::Golden;
use ptq4vit_gpu::device::{Buffer, Device};
use ptq4vit_gpu::graph::{Record, Site};
use ptq4vit_gpu::kernels::{Format, Product, View};
use ptq4vit_gpu::quant::{Metric, Scale, Side, SitePlan, SiteScales};

/// What meets at a site, each matrix with contiguous rows.
pub struct Tensors {
    product: Product,
    /// `[problems][m][k]`.
    pub a: Vec<f32>,
    /// `[problems][n][k]`, the transpose of what A is multiplied by; a weight is `[n][k]`.
    pub b: Vec<f32>,
    /// `[n]`; none of a product of activations.
    bias: Option<Vec<f32>>,
    /// `[problems][m][n]`.
    pub out: Vec<f32>,
    /// ∂L/∂O, likewise.
    pub grad: Vec<f32>,
}

impl Tensors {
    /// The oracle's.
    pub fn of_the_oracle(golden: &Golden, site: &Site) -> Self {
        let answer = |part| Self::answer(golden, site, part).expect("the oracle's answer");
        let (weight, bias) = parameters(golden, site);
        Self {
            product: site.product(golden.images("input").len()),
            a: answer("a"),
            b: weight.unwrap_or_else(|| answer("b")),
            bias,
            out: answer("out"),
            grad: answer("grad"),
        }
    }

    /// The oracle's `a`, `b` (of two activations), `out` or `grad`, if it gave an answer.
    pub fn answer(golden: &Golden, site: &Site, part: &str) -> Option<Vec<f32>> {
        let name = format!("site/{}/{part}", site.name);
        golden.answers.shape(&name)?;
        let values = golden.answer(&name);
        if part != "b" {
            return Some(values);
        }
        let Product { batch, n, k, .. } = site.product(golden.images("input").len());
        let stored = View::new(0, [batch[1] * k * n, k * n], n, 1);
        Some(gathered(&values, stored.transposed(), batch, n, k))
    }

    /// Those that `record` has of the calibration batch.
    pub fn recorded(golden: &Golden, device: &Device, site: &Site, record: &Record) -> Self {
        let product = site.product(golden.images("input").len());
        let (m, n, k) = (product.m, product.n, product.k);
        let read = |buffer| device.read(buffer).unwrap();
        let gather = |values: &[f32], view, rows, columns| {
            gathered(values, view, product.batch, rows, columns)
        };
        let grad = record.grad.as_ref().expect("the backward pass came by");
        let (weight, bias) = parameters(golden, site);
        let activation = |b| gather(&read(b), product.b.transposed(), n, k);
        Self {
            product,
            a: gather(&read(&record.a), product.a, m, k),
            b: weight.unwrap_or_else(|| activation(record.b.as_ref().expect("a site has a B"))),
            bias,
            out: gather(&read(&record.out), product.out, m, n),
            grad: gather(&read(grad), product.out, m, n),
        }
    }

    /// Operands alone, as they come to the product of all images.
    pub fn of_operands(
        golden: &Golden,
        site: &Site,
        read: &mut dyn FnMut(&Buffer<f32>) -> Vec<f32>,
        a: &Buffer<f32>,
        b: Option<&Buffer<f32>>,
    ) -> Self {
        let product = site.product(golden.images("input").len());
        let (m, n, k) = (product.m, product.n, product.k);
        let mut gather = |buffer, view, rows| gathered(&read(buffer), view, product.batch, rows, k);
        let (weight, bias) = parameters(golden, site);
        Self {
            product,
            a: gather(a, product.a, m),
            b: weight
                .unwrap_or_else(|| gather(b.expect("a site has a B"), product.b.transposed(), n)),
            bias,
            out: Vec::new(),
            grad: Vec::new(),
        }
    }

    /// Ô where only the operand of `side` is rounded, `[problems][m][n]`.
    pub fn one_sided(&self, plan: &SitePlan, side: Side, scales: &[Scale]) -> Vec<f64> {
        let Product { m, n, k, .. } = self.product;
        let heads = self.product.batch[1];
        let has_weight = plan.site.has_weight();
        let scheme = plan.operand(side);
        let group = |row: usize| match (side, has_weight) {
            (Side::A, _) => row / m % heads % scales.len(),
            (Side::B, true) => row * scales.len() / n,
            (Side::B, false) => row / n % heads,
        };
        let rounded = |values: &[f32], of_side| match side == of_side {
            true => quantized(values, k, scheme.format, scheme.bits, |row| {
                scales[group(row)]
            }),
            false => values.iter().copied().map(f64::from).collect(),
        };
        let (a, b) = (rounded(&self.a, Side::A), rounded(&self.b, Side::B));
        let row = |(row, a): (usize, &[f64])| -> Vec<f64> {
            let b = match has_weight {
                true => &b[..],
                false => &b[row / m * n * k..][..n * k],
            };
            let column = |(column, b): (usize, &[f64])| {
                let bias = self
                    .bias
                    .as_ref()
                    .map_or(0.0, |bias| f64::from(bias[column]));
                a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() + bias
            };
            b.chunks_exact(k).enumerate().map(column).collect()
        };
        a.chunks_exact(k).enumerate().flat_map(row).collect()
    }

    /// The score of such an Ô; rows run along the outputs that have scales of B to themselves.
    pub fn one_sided_score(
        &self,
        plan: &SitePlan,
        metric: Metric,
        (side, scales): (Side, &[Scale]),
    ) -> f64 {
        let estimate = self.one_sided(plan, side, scales);
        let has_weight = plan.site.has_weight();
        let column_groups = if has_weight { plan.groups(Side::B) } else { 1 };
        let len = self.product.n / column_groups;
        let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
        let lines = estimate
            .chunks_exact(len)
            .zip(self.out.chunks_exact(len))
            .zip(self.grad.chunks_exact(len));
        lines
            .map(|((estimate, out), grad)| line_score(metric, estimate, &wide(out), &wide(grad)))
            .sum()
    }

    /// Lays `values`, `[problems][m][n]`, out as the site's O.
    pub fn laid_out(&self, values: &[f64]) -> Vec<f32> {
        let Product {
            batch, m, n, out, ..
        } = self.product;
        let [outer, inner, row, column] =
            [out.outer, out.inner, out.row, out.column].map(|stride| stride as usize);
        let mut laid_out = vec![0.0; values.len()];
        for (index, &value) in values.iter().enumerate() {
            let (problem, of_problem) = (index / (m * n), index % (m * n));
            let first =
                out.offset as usize + problem / batch[1] * outer + problem % batch[1] * inner;
            laid_out[first + of_problem / n * row + of_problem % n * column] = value as f32;
        }
        laid_out
    }

    /// The mean of Ô - O of each output of a site with a weight, whose bias is `bias`.
    pub fn mean_errors(&self, plan: &SitePlan, scales: &SiteScales, bias: &[f32]) -> Vec<f64> {
        let Product { n, k, .. } = self.product;
        let a = quantized(&self.a, k, plan.a.format, plan.a.bits, |_| scales.a[0]);
        let group = |row: usize| scales.b[row * scales.b.len() / n];
        let b = quantized(&self.b, k, plan.b.format, plan.b.bits, group);
        let rows = a.len() / k;
        let column = |column: usize| {
            let b = &b[column * k..][..k];
            let errors = a.chunks_exact(k).enumerate().map(|(row, a)| {
                let estimate = a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                estimate + f64::from(bias[column]) - f64::from(self.out[row * n + column])
            });
            errors.sum::<f64>() / rows as f64
        };
        (0..n).map(column).collect()
    }

    /// The score of `scales` under `metric`. Every group of B has its own block of O, so scores sum over groups.
    pub fn score(&self, plan: &SitePlan, metric: Metric, scales: &SiteScales) -> f64 {
        let Product { m, n, k, .. } = self.product;
        let heads = self.product.batch[1];
        let has_weight = plan.site.has_weight();
        let column_groups = if has_weight { scales.b.len() } else { 1 };
        let scale_a = |row: usize| scales.a[row / m % heads % scales.a.len()];
        let scale_b = |row: usize| match has_weight {
            true => scales.b[row * column_groups / n],
            false => scales.b[row / n % heads],
        };
        let a = quantized(&self.a, k, plan.a.format, plan.a.bits, scale_a);
        let b = quantized(&self.b, k, plan.b.format, plan.b.bits, scale_b);
        let group = n / column_groups;
        let mut score = 0.0;
        for (row, a) in a.chunks_exact(k).enumerate() {
            let b = if has_weight {
                &b
            } else {
                &b[row / m * n * k..][..n * k]
            };
            let estimate: Vec<f64> = b
                .chunks_exact(k)
                .enumerate()
                .map(|(column, b)| {
                    let bias = self
                        .bias
                        .as_ref()
                        .map_or(0.0, |bias| f64::from(bias[column]));
                    a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() + bias
                })
                .collect();
            for (index, estimate) in estimate.chunks_exact(group).enumerate() {
                let line = |values: &[f32]| -> Vec<f64> {
                    let values = &values[row * n + index * group..][..group];
                    values.iter().copied().map(f64::from).collect()
                };
                score += line_score(metric, estimate, &line(&self.out), &line(&self.grad));
            }
        }
        score
    }
}

/// The weight and bias of a site that has them.
fn parameters(golden: &Golden, site: &Site) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
    let read = |part| {
        golden
            .weights
            .float(&format!("{}.{part}", site.name))
            .unwrap()
    };
    let sizes = site.weight();
    let has_bias = sizes.is_some_and(|sizes| sizes.has_bias);
    (
        sizes.map(|_| read("weight")),
        has_bias.then(|| read("bias")),
    )
}

/// The elements of a batch of matrices `[rows, columns]`, one after the other.
pub fn gathered(
    values: &[f32],
    view: View,
    batch: [usize; 2],
    rows: usize,
    columns: usize,
) -> Vec<f32> {
    let [outer, inner, row, column] =
        [view.outer, view.inner, view.row, view.column].map(|stride| stride as usize);
    let mut elements = Vec::with_capacity(batch[0] * batch[1] * rows * columns);
    for problem in 0..batch[0] * batch[1] {
        let first = view.offset as usize + problem / batch[1] * outer + problem % batch[1] * inner;
        for start in (0..rows).map(|index| first + index * row) {
            elements.extend((0..columns).map(|index| values[start + index * column]));
        }
    }
    elements
}

/// What the codes of `values`, in rows of `k`, stand for.
fn quantized(
    values: &[f32],
    k: usize,
    format: Format,
    bits: u32,
    scale: impl Fn(usize) -> Scale,
) -> Vec<f64> {
    let rows = values.chunks_exact(k).enumerate();
    rows.flat_map(|(row, values)| {
        let scale = scale(row);
        values
            .iter()
            .map(move |&x| value_of_code(format, bits, x, scale))
    })
    .collect()
}

/// The value that the code of `x` stands for.
fn value_of_code(format: Format, bits: u32, x: f32, scale: Scale) -> f64 {
    let q = f64::from(1u32 << (bits - 1));
    let (scale_1, scale_2) = (f64::from(scale.scale), f64::from(scale.scale_2()));
    let low = whole(x.abs(), scale.scale);
    let high = || whole(x, scale.scale_2()).clamp(0.0, q - 1.0) * scale_2;
    match format {
        Format::Uniform => whole(x, scale.scale).clamp(-q, q - 1.0) * scale_1,
        Format::SoftmaxTwin if low < q => low * scale_1,
        Format::GeluTwin if x < 0.0 => -low.min(q - 1.0) * scale_1,
        Format::SoftmaxTwin | Format::GeluTwin => high(),
        Format::Table | Format::TwinTable => unreachable!("no search finds tables"),
    }
}

/// The whole number that `x / scale` is nearest to. Where two are equally near but for rounding, f32 decides: it rounds the
/// inverse of the scale and the product with that. A score depends on which of the two it is, and either is right.
pub fn whole(x: f32, scale: f32) -> f64 {
    f64::from((x * (1.0 / scale)).round_ties_even())
}

/// A metric, for one row of a group.
fn line_score(metric: Metric, estimate: &[f64], out: &[f64], grad: &[f64]) -> f64 {
    let one_minus_cosine = |a: &[f64], b: &[f64]| {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    let centred = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|value| value - mean).collect::<Vec<_>>()
    };
    let errors = estimate.iter().zip(out).zip(grad);
    match metric {
        Metric::Hessian => errors.map(|((e, o), g)| (g * (e - o)).powi(2)).sum(),
        Metric::Mse => errors.map(|((e, o), _)| (e - o).powi(2)).sum(),
        Metric::Cosine => one_minus_cosine(estimate, out),
        Metric::Pearson => one_minus_cosine(&centred(estimate), &centred(out)),
        other => panic!("{other:?} has no definition here yet"),
    }
}
