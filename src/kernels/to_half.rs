//! Floats to f16, on the fly: the operands of a `half_product`.

use super::WORKGROUP;
use super::geometry::{Product, View};
use crate::device::{Binding, Buffer, Commands, Device, Shader};
use bytemuck::{Pod, Zeroable};
use half::f16;
use rayon::prelude::*;

pub(crate) static SHADER: Shader = Shader {
    name: "to_half",
    source: concat!(
        // First, because it begins with what it enables.
        include_str!("../../shaders/to_half.wgsl"),
        include_str!("../../shaders/shared/view.wgsl"),
    ),
};

/// Rows and columns that one invocation writes, as in the shader, and what both are padded to.
const BLOCK: usize = 4;

/// What to round: a batch of matrices `[rows, columns]`.
#[derive(Clone, Copy, Debug)]
pub struct ToHalf {
    /// Where the values lie.
    pub source: View,
    /// Outer (images) and inner (heads) batch size.
    pub batch: [usize; 2],
    /// Rows of each matrix.
    pub rows: usize,
    /// Columns of each matrix.
    pub columns: usize,
}

impl ToHalf {
    /// The left operand of `product`, `[m, k]`.
    pub fn left(product: &Product) -> Self {
        Self {
            source: product.a,
            batch: product.batch,
            rows: product.m,
            columns: product.k,
        }
    }

    /// The right operand of `product`, `[k, n]`.
    pub fn right(product: &Product) -> Self {
        Self {
            source: product.b,
            batch: product.batch,
            rows: product.k,
            columns: product.n,
        }
    }

    /// Rows and columns of each matrix of the result.
    pub(super) fn padded(&self) -> [usize; 2] {
        [self.rows, self.columns].map(|side| side.next_multiple_of(BLOCK))
    }

    /// Values of the whole result.
    pub fn len(&self) -> usize {
        let [rows, columns] = self.padded();
        self.batch[0] * self.batch[1] * rows * columns
    }

    /// Whether there is nothing to round.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    source: View,
    outer: u32,
    inner: u32,
    rows: u32,
    columns: u32,
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    source,
    outer,
    inner,
    rows,
    columns,
});

/// `source` in f16, `[outer][inner][rows][columns]`, rows and columns padded to multiples of four with zeros. Values
/// beyond the range of f16 become the nearest of its ends. Which neighbour a value is rounded to that f16 doesn't have is
/// the driver's choice.
pub fn to_half(commands: &mut Commands, what: &ToHalf, source: &Buffer<f32>) -> Buffer<f16> {
    let out = commands.uninitialized(what.len());
    match commands.device() {
        Device::Cpu(_) => cpu(what, &source.host_slice(), &mut out.host_slice_mut()),
        Device::Gpu(_) => {
            let parameters = Parameters {
                source: what.source,
                outer: what.batch[0] as u32,
                inner: what.batch[1] as u32,
                rows: what.rows as u32,
                columns: what.columns as u32,
            };
            commands.dispatch(
                &SHADER,
                &[],
                &parameters,
                &[Binding::F32(source), Binding::F16(&out)],
                (what.len() / (BLOCK * BLOCK)).div_ceil(WORKGROUP),
            );
        }
    }
    out
}

fn cpu(what: &ToHalf, source: &[f32], out: &mut [f16]) {
    let [height, width] = what.padded();
    let largest = f16::MAX.to_f32();
    out.par_chunks_mut(width)
        .enumerate()
        .filter(|(line, _)| line % height < what.rows)
        .for_each(|(line, out)| {
            let (problem, row) = (line / height, line % height);
            let batch = [problem / what.batch[1], problem % what.batch[1]];
            for (column, out) in out[..what.columns].iter_mut().enumerate() {
                let value = source[what.source.at(batch, row, column)];
                *out = f16::from_f32(value.clamp(-largest, largest));
            }
        });
}
