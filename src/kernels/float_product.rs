//! Batched matrix products in f32: the FP network, forward and backward.

use super::WORKGROUP;
use super::geometry::{Product, View};
use super::strategy;
use crate::device::{Binding, Buffer, Device, Shader, Strategy};
use bytemuck::{Pod, Zeroable};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};

pub(crate) static SHADER: Shader = Shader {
    name: "float_product",
    source: include_str!("../../shaders/float_product.wgsl"),
};

/// Rows and columns of an invocation, as in the shader.
const TILE: [usize; 2] = [8, 4];

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    a: View,
    b: View,
    out: View,
    outer: u32,
    inner: u32,
    m: u32,
    n: u32,
    k: u32,
    has_bias: u32,
    unused: [u32; 2],
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    a,
    b,
    out,
    outer,
    inner,
    m,
    n,
    k,
    has_bias
});

/// `out = a · b + bias` for every matrix of the batch; `bias` is `[n]` and optional. Elements of `out` that the view
/// doesn't name keep their values.
pub fn float_product(
    device: &Device,
    product: &Product,
    a: &Buffer<f32>,
    b: &Buffer<f32>,
    bias: Option<&Buffer<f32>>,
    out: &Buffer<f32>,
) {
    match device {
        Device::Cpu(_) => cpu(
            product,
            &a.host_slice(),
            &b.host_slice(),
            bias.map(Buffer::host_slice).as_deref(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(gpu) => {
            let parameters = Parameters {
                a: product.a,
                b: product.b,
                out: product.out,
                outer: product.batch[0] as u32,
                inner: product.batch[1] as u32,
                m: product.m as u32,
                n: product.n as u32,
                k: product.k as u32,
                has_bias: bias.is_some().into(),
                unused: [0; 2],
            };
            let bindings = [
                Binding::F32(a),
                Binding::F32(b),
                // Never read without `has_bias`; a binding must be something.
                Binding::F32(bias.unwrap_or(a)),
                Binding::F32(out),
            ];
            match strategy::strategy(gpu, SHADER.name, product.m) {
                // Matrices of f16 would round the operands.
                Strategy::Registers | Strategy::Cooperative => {
                    let tiles = product.m.div_ceil(TILE[0]) * product.n.div_ceil(TILE[1]);
                    let workgroups = (tiles * product.problems()).div_ceil(WORKGROUP);
                    gpu.dispatch(&SHADER, &[], &parameters, &bindings, workgroups);
                }
                Strategy::Tiled(tile) => gpu.dispatch(
                    SHADER.entry_point("tiled"),
                    &strategy::constants(tile),
                    &parameters,
                    &bindings,
                    strategy::workgroups(tile, product.m, product.n) * product.problems(),
                ),
            }
        }
    }
}

/// The oracle: a library's matrix product for each matrix of the batch.
fn cpu(product: &Product, a: &[f32], b: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let mut result = vec![0.0; product.m * product.n];
    for outer in 0..product.batch[0] {
        for inner in 0..product.batch[1] {
            dense(
                matrix(&product.a, [outer, inner], [product.m, product.k], a),
                matrix(&product.b, [outer, inner], [product.k, product.n], b),
                &mut result,
            );
            for (row, values) in result.chunks_exact(product.n).enumerate() {
                for (column, value) in values.iter().enumerate() {
                    out[product.out.at([outer, inner], row, column)] =
                        value + bias.map_or(0.0, |bias| bias[column]);
                }
            }
        }
    }
}

/// One matrix of a batch as the library sees it.
fn matrix<'a>(
    view: &View,
    batch: [usize; 2],
    shape: [usize; 2],
    data: &'a [f32],
) -> ArrayView2<'a, f32> {
    let shape = (shape[0], shape[1]).strides((view.row as usize, view.column as usize));
    ArrayView2::from_shape(shape, &data[view.matrix(batch[0], batch[1])..])
        .expect("a product's views lie within its buffers")
}

/// `out[m, n] = a[m, k] · b[k, n]` by the library, rows shared out over the cores.
pub(super) fn dense(a: ArrayView2<f32>, b: ArrayView2<f32>, out: &mut [f32]) {
    use rayon::prelude::*;
    let (rows, columns) = (a.nrows(), b.ncols());
    // One share per core; a share too small to keep a core busy costs more to hand out than it saves.
    let share = rows.div_ceil(rayon::current_num_threads()).max(64);
    out[..rows * columns]
        .par_chunks_mut(share * columns)
        .enumerate()
        .for_each(|(index, out)| {
            let first = index * share;
            let a = a.slice(ndarray::s![first..(first + share).min(rows), ..]);
            let mut out = ArrayViewMut2::from_shape((a.nrows(), columns), out)
                .expect("a share holds whole rows");
            general_mat_mul(1.0, &a, &b, 0.0, &mut out);
        });
}
