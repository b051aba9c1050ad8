//! Cosine attention: queries and keys of length 1.

pub(super) mod cases;
pub(super) use cases::{MISTAKE, cases};

use super::rows;
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "cosine",
    source: concat!(
        include_str!("../../shaders/shared/rows.wgsl"),
        include_str!("../../shaders/cosine.wgsl"),
    ),
};

/// Sets the least length that is divided by, squared: torch's `normalize` has 1e-12.
pub(super) const LEAST_SQUARE: f32 = 1e-24;

/// Describes the shape of queries, keys and values, `[tokens, 3, heads, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Cosine {
    /// Tokens of all images.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Features of a head.
    pub head_dim: usize,
}

impl Cosine {
    /// Counts the rows, one head's part of a token each.
    pub(super) fn rows(&self) -> usize {
        self.tokens * 3 * self.heads
    }

    /// Returns what the row's elements are: queries, keys or values.
    pub(super) fn part(&self, row: usize) -> Part {
        match row / self.heads % 3 {
            0 => Part::Query(row % self.heads),
            1 => Part::Key,
            _ => Part::Value,
        }
    }
}

/// Says what a row's elements are.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// A query, of this head.
    Query(usize),
    Key,
    Value,
}

impl Part {
    /// Returns what a row's direction is multiplied by, of a query or a key.
    pub(super) fn scale(self, scales: &[f32]) -> Option<f32> {
        match self {
            Self::Query(head) => Some(scales[head]),
            Self::Key => Some(1.0),
            Self::Value => None,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    rows: u32,
    heads: u32,
    head_dim: u32,
    least_square: f32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    rows,
    heads,
    head_dim,
    least_square
});

/// Brings each head's queries and keys to length 1, and queries to their head's of `scales` `[heads]`. Values stay as they
/// are, and so does what has no length.
pub fn cosine(
    commands: &mut Commands,
    shape: &Cosine,
    qkv: &Buffer<f32>,
    scales: &Buffer<f32>,
) -> Buffer<f32> {
    let out = commands.uninitialized(qkv.len());
    match commands.device() {
        Device::Cpu(_) => cpu(
            shape,
            &qkv.host_slice(),
            &scales.host_slice(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(_) => {
            let parameters = Parameters {
                rows: shape.rows() as u32,
                heads: shape.heads as u32,
                head_dim: shape.head_dim as u32,
                least_square: LEAST_SQUARE,
            };
            rows::dispatch(
                commands,
                rows::LANES,
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(qkv), Binding::F32(scales), Binding::F32(&out)],
                shape.rows(),
            );
        }
    }
    out
}

fn cpu(shape: &Cosine, qkv: &[f32], scales: &[f32], out: &mut [f32]) {
    out.par_chunks_mut(shape.head_dim)
        .zip(qkv.par_chunks(shape.head_dim))
        .enumerate()
        .for_each(|(row, (out, x))| {
            let scale = shape.part(row).scale(scales);
            let factor = scale.map_or(1.0, |scale| inverse_length(square(x)) * scale);
            for (out, x) in out.iter_mut().zip(x) {
                *out = x * factor;
            }
        });
}

/// Computes |x|².
pub(super) fn square(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum()
}

/// Computes 1 / |x| from |x|².
pub(super) fn inverse_length(square: f32) -> f32 {
    1.0 / square.max(LEAST_SQUARE).sqrt()
}
