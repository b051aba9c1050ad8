//! Batched matrix products in f32: the FP network, forward and backward.

pub(super) mod cases;
mod timed;
pub(super) use cases::{MISTAKE, cases};
pub(super) use timed::TIMED;

use super::WORKGROUP;
use super::apart::{write_apart, write_each};
use super::geometry::{Product, View};
use super::pack_quads::{PackQuads, pack_quads};
use super::strategy;
use crate::device::{Binding, Buffer, Commands, Device, Shader, Strategy};
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};
use rten_tensor::NdTensorView;
use std::cell::Cell;
use std::ops::Range;

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

/// Limits the rows that one task of the CPU version multiplies.
const BLOCK_ROWS: usize = 128;

thread_local! {
    /// Memory that one block after the other uses.
    static VALUES: Cell<Vec<f32>> = Cell::default();
}

/// Computes the product by a library, block by block of rows: this is the oracle.
pub(super) fn cpu(product: &Product, a: &[f32], b: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let library = GemmExecutor::<f32, f32, f32>::default();
    let &Product { batch, m, n, k, .. } = product;
    let problems = (0..product.problems()).map(|problem| [problem / batch[1], problem % batch[1]]);
    let problems: Vec<[usize; 2]> = problems.collect();
    // Without packing, the library would sum a single row in another order than that row among others.
    let right: Vec<PackedBMatrix<f32>> = problems
        .par_iter()
        .map(|&problem| library.prepack_b(matrix(&product.b, problem, 0, [k, n], b)))
        .collect();
    let share = (problems.len() * m).div_ceil(2 * rayon::current_num_threads());
    let rows = m.div_ceil(m.div_ceil(share.clamp(1, BLOCK_ROWS)));
    let blocks = problems.iter().zip(&right).flat_map(|(&problem, right)| {
        let firsts = (0..m).step_by(rows);
        firsts.map(move |first| (problem, right, first..(first + rows).min(m)))
    });
    let step = product.out.column as usize;
    type Block<'a> = ([usize; 2], &'a PackedBMatrix<f32>, Range<usize>);
    write_apart(
        blocks.collect(),
        &[
            // Each block on its own, or those of all heads, which may lie side by side in a row.
            &|(problem, _, rows): &Block| [problem[0], problem[1], rows.start],
            &|(problem, _, rows): &Block| [problem[0], 0, rows.start],
            &|_| [0; 3],
        ],
        |(problem, _, rows)| {
            let last = product.out.at(*problem, rows.end - 1, n - 1);
            product.out.at(*problem, rows.start, 0)..last + 1
        },
        |(problem, right, rows), start, out| {
            let mut values = VALUES.take();
            values.resize(rows.len() * n, 0.0);
            let left = matrix(&product.a, *problem, rows.start, [rows.len(), k], a);
            let (left, right) = (GemmInputA::Unpacked(left), GemmInputB::Packed(right));
            library
                .gemm(&mut values, left, right, GemmOptions::default())
                .expect("the operands' shapes are those of the product");
            for (values, row) in values.chunks_exact_mut(n).zip(rows.clone()) {
                if let Some(bias) = bias {
                    let pairs = values.iter_mut().zip(bias);
                    pairs.for_each(|(value, bias)| *value += bias);
                }
                write_each(
                    values,
                    &mut out[product.out.at(*problem, row, 0) - start..],
                    step,
                );
            }
            VALUES.set(values);
        },
        out,
    );
}

/// Shows rows of one matrix of a batch, from `first` on, to the library.
fn matrix<'a>(
    view: &View,
    batch: [usize; 2],
    first: usize,
    shape: [usize; 2],
    data: &'a [f32],
) -> NdTensorView<'a, f32, 2> {
    let strides = [view.row as usize, view.column as usize];
    NdTensorView::from_data_with_strides(shape, &data[view.at(batch, first, 0)..], strides)
        .expect("a product's views lie within its buffers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_alone_has_the_same_bits_as_among_others() {
        let (rows, inputs, outputs) = (131, 1100, 37);
        let values = |seed: usize, count: usize| -> Vec<f32> {
            let value = |at: usize| ((at + seed) * 7919 % 1009) as f32 / 500.0 - 1.0;
            (0..count).map(value).collect()
        };
        let (a, weight) = (values(1, rows * inputs), values(2, outputs * inputs));
        let product = |rows, a: &[f32]| {
            let mut out = vec![0.0; rows * outputs];
            cpu(
                &Product::linear(rows, inputs, outputs),
                a,
                &weight,
                None,
                &mut out,
            );
            out
        };
        let together = product(rows, &a);
        let alone = a.chunks_exact(inputs).flat_map(|row| product(1, row));
        assert!(alone.eq(together));
    }
}
