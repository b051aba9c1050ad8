//! Heads narrower and wider than the lanes of a row; lengths of many sizes, and rows without one.

use super::{Cosine, Part, cosine};
use crate::kernels::catalogue::{Case, EPSILON, Mistake, Random, SMALLEST, case, wide};

/// Describes a mistake in the shader that the cases find.
pub(in crate::kernels) const MISTAKE: Option<Mistake> = Some(Mistake {
    right: "scales[row % p.heads]",
    wrong: "scales[0]",
});

/// Queries, keys and values, and the heads' scales.
pub(in crate::kernels) struct Heads {
    pub qkv: Vec<f32>,
    pub scales: Vec<f32>,
}

impl Heads {
    pub fn new(shape: &Cosine) -> Self {
        let mut random = Random::new(shape.tokens as u64);
        let rows = (0..shape.rows()).flat_map(|row| {
            let (mean, deviation) = match row % 7 {
                3 => (10.0, 1.0),
                4 => (0.0, 1e-3),
                5 => (0.0, 0.0),
                6 => (0.0, 1e10),
                _ => (0.1, 2.0),
            };
            random.bell(shape.head_dim, mean, deviation)
        });
        Self {
            qkv: rows.collect(),
            scales: Random::new(1).bell(shape.heads, 20.0, 5.0),
        }
    }
}

/// Lists tokens, heads and features of a head.
pub(in crate::kernels) fn shapes() -> Vec<(String, Cosine)> {
    // The last has more workgroups than a dimension holds, where rows are shared.
    let sizes = [
        (1, 1, 1),
        (5, 3, 32),
        (9, 2, 33),
        (130, 4, 20),
        (87_500, 2, 1),
    ];
    let shape = |(tokens, heads, head_dim)| {
        let shape = Cosine {
            tokens,
            heads,
            head_dim,
        };
        (format!("{tokens}x3x{heads}x{head_dim}"), shape)
    };
    sizes.map(shape).to_vec()
}

/// The direction of a query or a key.
pub(in crate::kernels) struct Direction {
    pub length: f64,
    pub elements: Vec<f64>,
}

impl Direction {
    pub fn new(x: &[f64]) -> Self {
        let length = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
        Self {
            length,
            elements: x.iter().map(|x| x / length).collect(),
        }
    }

    /// Bounds the error of 1 / |x|, and of what two products more make of it, as a share: a sum of so many squares errs by
    /// as many half-epsilons, of which the root halves the share, and the inverse root by 2 epsilons in WGSL.
    pub fn error(&self) -> f64 {
        (self.elements.len() as f64 / 4.0 + 4.0) * EPSILON
    }
}

pub(in crate::kernels) fn cases() -> Vec<Case> {
    let cases = shapes().into_iter().map(|(name, shape)| {
        case(
            name,
            move || Heads::new(&shape),
            move |commands, device, Heads { qkv, scales }| {
                let (qkv, scales) = (device.upload(qkv), device.upload(scales));
                cosine(commands, &shape, &qkv, &scales)
            },
        )
        .close(move |Heads { qkv, scales }| {
            let rows = qkv.chunks(shape.head_dim).enumerate();
            let exact = rows.flat_map(|(row, x)| {
                let x = wide(x);
                let scale = match shape.part(row) {
                    Part::Query(head) => f64::from(scales[head]),
                    Part::Key => 1.0,
                    Part::Value => return x.into_iter().map(|x| (x, 0.0)).collect(),
                };
                let direction = Direction::new(&x);
                let scaled = direction.elements.iter().map(|n| n * scale);
                let bounded = scaled.map(|x| (x, x.abs() * direction.error() + SMALLEST));
                bounded.collect::<Vec<_>>()
            });
            exact.collect()
        })
    });
    cases.flat_map(Case::by_row_division).collect()
}
