//! Batched matrix products in f32: the FP network, forward and backward.

pub(super) mod cases;
mod timed;
pub(super) use cases::{MISTAKE, cases};
pub(super) use timed::TIMED;

use super::WORKGROUP;
use super::geometry::{Product, View};
use super::pack_quads::{PackQuads, pack_quads};
use super::strategy;
use crate::device::{Binding, Buffer, Commands, Device, Shader, Strategy};
use bytemuck::{Pod, Zeroable};
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};

pub(crate) static SHADER: Shader = Shader {
    name: "float_product",
    source: concat!(
        include_str!("../../shaders/shared/view.wgsl"),
        include_str!("../../shaders/float_product.wgsl"),
    ),
};

/// Limits the elements of a packed operand. Larger ones are packed and multiplied in parts, which share the memory.
const PART: usize = 8 << 20;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Parameters {
    out: View,
    problems: u32,
    inner: u32,
    m: u32,
    n: u32,
    k: u32,
    has_bias: u32,
    unused: [u32; 2],
}

#[cfg(test)]
super::layout_test::uniform!(Parameters {
    out,
    problems,
    inner,
    m,
    n,
    k,
    has_bias
});

/// Computes `out = a · b + bias` for every matrix of the batch; `bias` is `[n]` and optional. Elements of `out` that
/// the view doesn't name keep their values.
pub fn float_product(
    commands: &mut Commands,
    product: &Product,
    a: &Buffer<f32>,
    b: &Buffer<f32>,
    bias: Option<&Buffer<f32>>,
    out: &Buffer<f32>,
) {
    match commands.device() {
        Device::Cpu(_) => cpu(
            product,
            &a.host_slice(),
            &b.host_slice(),
            bias.map(Buffer::host_slice).as_deref(),
            &mut out.host_slice_mut(),
        ),
        Device::Gpu(gpu) => {
            let strategy = strategy::strategy(gpu, SHADER.name, product.m);
            for part in parts(*product) {
                append(commands, strategy, &part, a, b, bias, out);
            }
        }
    }
}

/// Appends one part of a product: both operands packed, then multiplied.
fn append(
    commands: &mut Commands,
    strategy: Strategy,
    product: &Product,
    a: &Buffer<f32>,
    b: &Buffer<f32>,
    bias: Option<&Buffer<f32>>,
    out: &Buffer<f32>,
) {
    let [left, right] = operands(product);
    let (left, right) = (
        pack_quads(commands, &left, a),
        pack_quads(commands, &right, b),
    );
    let parameters = Parameters {
        out: product.out,
        problems: product.problems() as u32,
        inner: product.batch[1] as u32,
        m: product.m as u32,
        n: product.n as u32,
        k: product.k as u32,
        has_bias: bias.is_some().into(),
        unused: [0; 2],
    };
    let bindings = [
        Binding::F32(&left),
        Binding::F32(&right),
        // Never read without `has_bias`; a binding must be something.
        Binding::F32(bias.unwrap_or(&left)),
        Binding::F32(out),
    ];
    match strategy {
        // Matrices of f16 would round the operands.
        Strategy::Registers | Strategy::Cooperative | Strategy::CooperativeInt8 => {
            let tiles = product.m.div_ceil(PackQuads::SIDE) * product.n.div_ceil(PackQuads::SIDE);
            let workgroups = (tiles * product.problems()).div_ceil(WORKGROUP);
            commands.dispatch(&SHADER, &[], &parameters, &bindings, workgroups);
        }
        Strategy::Tiled(tile) => commands.dispatch(
            SHADER.entry_point("tiled"),
            &strategy::constants(tile),
            &parameters,
            &bindings,
            strategy::workgroups(tile, product.m, product.n) * product.problems(),
        ),
        Strategy::Separate | Strategy::Fused { .. } => {
            unreachable!("{strategy} is a way to compute attention")
        }
    }
}

/// Describes the rows of `a` and the columns of `b`, for packing.
fn operands(product: &Product) -> [PackQuads; 2] {
    let operand = |lines, view| PackQuads {
        batch: product.batch,
        lines,
        k: product.k,
        view,
    };
    [
        operand(product.m, product.a),
        operand(product.n, product.b.transposed()),
    ]
}

/// Divides `product` into parts whose packed operands have at most [`PART`] elements, as far as fewer matrices or fewer
/// rows at a time can do that.
fn parts(product: Product) -> Vec<Product> {
    let [rows, columns] = operands(&product).map(|operand| operand.packed_len());
    match halves(product) {
        Some(halves) if rows > PART || (product.problems() > 1 && columns > PART) => {
            halves.into_iter().flat_map(parts).collect()
        }
        _ => vec![product],
    }
}

/// Divides `product` into two: half the matrices each, or half the rows of a single one.
fn halves(product: Product) -> Option<[Product; 2]> {
    let [outer, inner] = product.batch;
    let rest = |batch: [usize; 2], row: usize| Product {
        batch: [outer - batch[0], inner - batch[1]],
        m: product.m - row,
        a: product.a.from(batch, row),
        b: product.b.from(batch, 0),
        out: product.out.from(batch, row),
        ..product
    };
    let first = |batch, m| Product {
        batch,
        m,
        ..product
    };
    if outer > 1 {
        let half = outer / 2;
        return Some([first([half, inner], product.m), rest([half, 0], 0)]);
    }
    if inner > 1 {
        let half = inner / 2;
        return Some([first([1, half], product.m), rest([0, half], 0)]);
    }
    let half = (product.m / 2).next_multiple_of(PackQuads::SIDE);
    (half < product.m).then(|| [first([1, 1], half), rest([0, 0], half)])
}

/// Computes the product by a library, matrix by matrix: this is the oracle.
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

/// Shows one matrix of a batch to the library.
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

/// Computes `out[m, n] = a[m, k] · b[k, n]` by the library, rows shared out over the cores.
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
