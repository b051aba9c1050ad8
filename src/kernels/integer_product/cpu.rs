//! The CPU version: a library multiplies the codes as 8-bit integers, and rows of its sums become what is asked for.

use super::{IntegerProduct, NextCodes, Operands, Residual, check_length, combine};
use crate::format::{ProductRule, half_range};
use crate::kernels::apart::{write_apart, write_each};
use crate::kernels::gelu;
use crate::kernels::quantize::{fill_rows, padded};
use crate::kernels::row_sums::{SIDE_BY_SIDE, row_sums, side_by_side};
use crate::kernels::width::{EVERY_LANE, Width};
use crate::kernels::word_order::{WORDS_AT_ONCE, read_rows};
use multiversion::multiversion;
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};
use rten_tensor::NdTensorView;
use std::cell::Cell;
use std::ops::Range;

/// Limits the rows of one block: enough for the library's product, few enough that the cores share the work and what is
/// made of them stays near.
const BLOCK_ROWS: usize = 128;
/// Limits the rows of one block from below, where there are few for each core.
const FEWEST_BLOCK_ROWS: usize = 32;
/// Divides the rows of one block: what the library multiplies at once has so many rows, or fewer.
const TILE_ROWS: usize = 8;
/// Multiplies unsigned bytes by signed ones, exactly.
type Library = GemmExecutor<u8, i8, i32>;

/// Says how codes of a left operand become the library's unsigned bytes.
#[derive(Clone, Copy)]
enum Parts {
    /// Signed codes, 128 added.
    Whole,
    /// The two halves of those, 128 at most. Some instruction sets add pairs of products in 16 bits, for which whole
    /// codes are too large.
    Halves,
    /// A twin's R1 codes, zero where a code is in R2, and its R2 codes.
    Ranges,
}

impl Parts {
    fn of(product: &IntegerProduct, library: &Library) -> Self {
        match product.a_format.rule() {
            ProductRule::Ranges { .. } => Self::Ranges,
            ProductRule::Signed if library.may_saturate() => Self::Halves,
            ProductRule::Signed => Self::Whole,
        }
    }

    /// Takes the codes of some rows apart, `[row][word]` for each part.
    fn split(
        self,
        codes: &[u32],
        padded_rows: usize,
        rows: &Range<usize>,
        parts: &mut [Vec<u32>; 2],
    ) {
        let [first, second] = parts;
        match self {
            Self::Whole => read_rows(codes, padded_rows, rows, shifted, first),
            Self::Halves => {
                read_rows(codes, padded_rows, rows, lower_half, first);
                read_rows(codes, padded_rows, rows, upper_half, second);
            }
            Self::Ranges => {
                read_rows(codes, padded_rows, rows, r1, first);
                read_rows(codes, padded_rows, rows, r2, second);
            }
        }
    }
}

fn shifted(lanes: u32) -> u32 {
    lanes ^ (0x80 * EVERY_LANE)
}

fn lower_half(lanes: u32) -> u32 {
    shifted(lanes) >> 1 & (0x7f * EVERY_LANE)
}

fn upper_half(lanes: u32) -> u32 {
    lower_half(lanes) + (lanes & EVERY_LANE)
}

fn r1(lanes: u32) -> u32 {
    lanes & !in_r2(lanes) & (0x7f * EVERY_LANE)
}

fn r2(lanes: u32) -> u32 {
    lanes & in_r2(lanes)
}

/// Masks the magnitudes of a twin's codes that are in R2.
fn in_r2(lanes: u32) -> u32 {
    (lanes >> 7 & EVERY_LANE) * 0x7f
}

/// Holds a product's operands as the library takes them.
struct Problem<'a> {
    product: &'a IntegerProduct,
    operands: &'a Operands<'a>,
    library: Library,
    parts: Parts,
    scales: &'a [f32],
    /// Factors and biases of the columns.
    affine: Option<(Vec<f32>, Vec<f32>)>,
    a: &'a [u32],
    b: &'a [RightMatrix],
}

/// Holds a right operand's codes as the library wants them.
struct RightOperand {
    width: Width,
    /// `[job or 1][problem]`
    matrices: Vec<RightMatrix>,
}

/// Holds one matrix of a right operand, `[4 · words, n]`.
struct RightMatrix {
    packed: PackedBMatrix<i8>,
    /// The sum of each column's codes.
    sums: Vec<i32>,
}

impl RightOperand {
    /// Brings the codes of `product`'s right operand into the library's order.
    fn new(product: &IntegerProduct, library: &Library, stored: &[u32]) -> Self {
        let (width, words, columns) = (product.b_width, product.words(), padded(product.n));
        let stored_words = width.stored(words) * columns;
        let matrices = stored[..right_matrices(product) * stored_words]
            .par_chunks_exact(stored_words)
            .map(|stored| {
                let lanes = width.unpack(stored, words, columns);
                let mut codes = Vec::new();
                read_rows(&lanes, columns, &(0..product.n), |lanes| lanes, &mut codes);
                let codes: &[i8] = bytemuck::cast_slice(&codes);
                let shape = [product.n, 4 * words];
                RightMatrix {
                    packed: library.prepack_b(NdTensorView::from_data(shape, codes).transposed()),
                    sums: codes.chunks_exact(4 * words).map(sum).collect(),
                }
            })
            .collect();
        Self { width, matrices }
    }

    /// Says whether this is the right operand of such a product.
    fn fits(&self, product: &IntegerProduct) -> bool {
        let shape = (4 * product.words(), product.n);
        self.width == product.b_width
            && self.matrices.len() == right_matrices(product)
            && self
                .matrices
                .iter()
                .all(|it| (it.packed.rows(), it.packed.cols()) == shape)
    }
}

/// Counts the matrices of a product's right operand.
fn right_matrices(product: &IntegerProduct) -> usize {
    product.problems() * if product.b_per_job { product.jobs } else { 1 }
}

/// Holds memory that one block after the other uses.
#[derive(Default)]
struct Scratch {
    /// `[row][word]`
    parts: [Vec<u32>; 2],
    /// `[row][n]`; that of the first becomes the values.
    sums: [Vec<i32>; 2],
    column_scales: Vec<f32>,
}

thread_local! {
    /// What the thread's last block has left.
    static SCRATCH: Cell<Scratch> = Cell::default();
}

impl<'a> Problem<'a> {
    /// Runs `task` on the problem of `product` and `operands`.
    fn with<T>(
        product: &IntegerProduct,
        operands: &Operands,
        task: impl FnOnce(&Problem) -> T,
    ) -> T {
        check_length(product);
        let library = Library::default();
        let b = operands.b.derived(
            |b: &RightOperand| b.fits(product),
            |stored| RightOperand::new(product, &library, stored),
        );
        let affine = operands.affine.map(|affine| {
            let affine = affine.host_slice();
            let pairs = affine.as_chunks::<2>().0.iter();
            pairs.map(|&[factor, bias]| (factor, bias)).unzip()
        });
        task(&Problem {
            product,
            operands,
            parts: Parts::of(product, &library),
            library,
            scales: &operands.scales.host_slice(),
            affine,
            a: &operands.a.host_slice(),
            b: &b.matrices,
        })
    }

    /// Divides the rows of every job and matrix into blocks of at most `rows`.
    fn blocks(&self, rows: usize) -> Vec<Block> {
        let jobs = (0..self.product.jobs).flat_map(|job| {
            let problems = 0..self.product.problems();
            problems.map(move |problem| (job, problem))
        });
        jobs.flat_map(move |(job, problem)| {
            let firsts = (0..self.product.m).step_by(rows);
            firsts.map(move |first| Block {
                job,
                problem,
                rows: first..(first + rows).min(self.product.m),
            })
        })
        .collect()
    }

    /// Counts the rows of a block where any number of them gives the same result: such that blocks are nearly equal.
    fn block_rows(&self) -> usize {
        let rows = self.product.jobs * self.product.problems() * self.product.m;
        let share = rows.div_ceil(2 * rayon::current_num_threads());
        let most = share.clamp(FEWEST_BLOCK_ROWS, BLOCK_ROWS);
        let blocks = self.product.m.div_ceil(most);
        self.product.m.div_ceil(blocks).next_multiple_of(TILE_ROWS)
    }

    /// Multiplies the rows of one block and hands the values, `[row][n]`, to `visit`.
    fn block<T>(&self, block: &Block, visit: impl FnOnce(&mut [f32]) -> T) -> T {
        // The library may put this thread to another block while others finish its own, which then finds new memory.
        let mut scratch = SCRATCH.take();
        let result = visit(self.values(block, &mut scratch));
        SCRATCH.set(scratch);
        result
    }

    /// Multiplies the rows of one block and returns the values, `[row][n]`.
    fn values<'s>(&self, block: &Block, scratch: &'s mut Scratch) -> &'s mut [f32] {
        let product = self.product;
        let of =
            |per_job: bool| usize::from(per_job) * block.job * product.problems() + block.problem;
        let padded_rows = padded(product.m);
        let a_words = product.words() * padded_rows;
        let a = &self.a[of(product.a_per_job) * a_words..][..a_words];
        let b = &self.b[of(product.b_per_job)];
        let Scratch {
            parts,
            sums: [sums, other_sums],
            column_scales,
        } = scratch;
        self.parts.split(a, padded_rows, &block.rows, parts);
        let shape = [block.rows.len(), 4 * product.words()];
        let multiply = |part: &[u32], beta, sums: &mut Vec<i32>| {
            sums.resize(block.rows.len() * product.n, 0);
            multiply(&self.library, part, shape, &b.packed, beta, sums);
        };

        let first_group = block.job * self.operands.groups
            + block.matrix(product)[1] * self.operands.inner_groups;
        let scales = self.scales[2 * first_group..].as_chunks::<2>().0;
        let shift = scales[0][1] as u32;
        column_scales.resize(product.n, 0.0);
        let groups = column_scales.chunks_mut(self.operands.group_columns);
        groups
            .zip(scales)
            .for_each(|(columns, [scale, _])| columns.fill(*scale));
        if let Some((factors, _)) = &self.affine {
            // As on GPUs a column's factor joins its scale: no value is rounded once more.
            let scales = column_scales.iter_mut().zip(factors);
            scales.for_each(|(scale, factor)| *scale *= factor);
        }

        let finish = |row: &mut [i32]| {
            let values = bytemuck::cast_slice_mut(row);
            scale(values, column_scales);
            if let Some((_, biases)) = &self.affine {
                add(values, biases);
            }
        };

        multiply(&parts[0], 0, sums);
        match product.a_format.rule() {
            ProductRule::Signed => {
                if let Parts::Halves = self.parts {
                    multiply(&parts[1], 1, sums);
                }
                for row in sums.chunks_exact_mut(product.n) {
                    to_floats(row, &b.sums);
                    finish(row);
                }
            }
            ProductRule::Ranges { r1_sign } => {
                multiply(&parts[1], 0, other_sums);
                let rows = sums.chunks_exact_mut(product.n);
                for (row, r2) in rows.zip(other_sums.chunks_exact(product.n)) {
                    combine_all(r1_sign, row, r2, shift);
                    finish(row);
                }
            }
        }
        bytemuck::cast_slice_mut(sums)
    }
}

/// Computes `[rows][n]`: the product of a part of the codes, `[rows, k]`, with `b`, and `beta` times what `sums` held.
fn multiply(
    library: &Library,
    part: &[u32],
    shape: [usize; 2],
    b: &PackedBMatrix<i8>,
    beta: i32,
    sums: &mut [i32],
) {
    let a = NdTensorView::from_data(shape, bytemuck::cast_slice(part));
    // The library itself would pack the rows anew for each of its stretches of columns.
    let a = library.prepack_a(a);
    let options = GemmOptions {
        beta,
        ..GemmOptions::default()
    };
    library
        .gemm(sums, GemmInputA::Packed(&a), GemmInputB::Packed(b), options)
        .expect("the operands' shapes are those of the product");
}

/// Names some rows of one matrix under one job.
struct Block {
    job: usize,
    problem: usize,
    rows: Range<usize>,
}

impl Block {
    /// Returns the matrix's outer and inner index.
    fn matrix(&self, product: &IntegerProduct) -> [usize; 2] {
        [
            self.problem / product.batch[1],
            self.problem % product.batch[1],
        ]
    }
}

/// Computes [`integer_product`](super::integer_product).
pub(super) fn values(
    product: &IntegerProduct,
    operands: &Operands,
    residual: Option<Residual>,
    out: &mut [f32],
) {
    let order = residual.and_then(|residual| residual.order);
    let order = order.map(|order| (order, order.from.host_slice()));
    let residual = residual.map(|residual| residual.values.host_slice());
    let step = product.out.column as usize;
    let at = |block: &Block, row| product.out.at(block.matrix(product), row, 0);
    Problem::with(product, operands, |problem| {
        let rows = problem.block_rows();
        // Rows in another order are still rows of the same image.
        let rows = order
            .as_ref()
            .map_or(rows, |(_, from)| rows.next_multiple_of(from.len()));
        let span = |block: &Block| {
            let image = |row| match &order {
                Some((order, from)) => row / from.len() * order.tokens,
                None => row,
            };
            let first = block.job * product.job_stride;
            let start = first + at(block, image(block.rows.start));
            let last = first + at(block, image(block.rows.end) - 1);
            start..last + (product.n - 1) * step + 1
        };
        let write = |block: &Block, start: usize, out: &mut [f32]| {
            problem.block(block, |values| {
                let rows = values.chunks_exact_mut(product.n).zip(block.rows.clone());
                for (values, row) in rows {
                    let row = match &order {
                        Some((order, from)) => order.input_row(from, row),
                        None => Some(row),
                    };
                    let Some(row) = row else {
                        continue;
                    };
                    let at = at(block, row);
                    if let Some(residual) = &residual {
                        change_each(values, &residual[at..], step, |value, added| {
                            *value += added
                        });
                    }
                    let out = &mut out[block.job * product.job_stride + at - start..];
                    write_each(values, out, step);
                }
            });
        };
        let outer = |block: &Block| block.matrix(product)[0];
        write_apart(
            problem.blocks(rows),
            &[
                // Each block on its own, or those of all heads, which may lie side by side in a row.
                &|block: &Block| [block.job, block.problem, block.rows.start],
                &|block: &Block| [block.job, outer(block), block.rows.start],
                &|block: &Block| [block.job, 0, 0],
            ],
            span,
            write,
            out,
        );
    });
}

/// Computes [`integer_product_codes`](super::integer_product_codes).
pub(super) fn codes(
    product: &IntegerProduct,
    operands: &Operands,
    next: &NextCodes,
    out: &mut [u32],
) {
    let (q, encoder) = (half_range(next.bits), next.encoder.host_slice());
    let words = product.n.div_ceil(4);
    Problem::with(product, operands, |problem| {
        let rows = problem.block_rows();
        let blocks = problem.blocks(rows);
        // `[block][row][word]`
        let codes: Vec<Vec<u32>> = blocks
            .par_iter()
            .map(|block| {
                let mut codes = vec![0; block.rows.len() * words];
                problem.block(block, |values| {
                    if let Some(form) = next.gelu {
                        gelu::apply(form, values);
                    }
                    fill_rows(next.format, q, product.n, values, &encoder, &mut codes);
                });
                codes
            })
            .collect();
        let blocks_down = product.m.div_ceil(rows);
        let matrix = |problem| [problem / product.batch[1], problem % product.batch[1]];
        let step = product.out.row as usize;
        let last = |first: usize| (first + WORDS_AT_ONCE).min(words) - 1;
        let span = |&[problem, first]: &[usize; 2]| {
            let start = product.out.at(matrix(problem), 0, first);
            start..product.out.at(matrix(problem), product.m - 1, last(first)) + 1
        };
        let write = |&[problem, first]: &[usize; 2], start: usize, out: &mut [u32]| {
            let of_problem = problem * blocks_down..(problem + 1) * blocks_down;
            for (block, codes) in blocks[of_problem.clone()].iter().zip(&codes[of_problem]) {
                for word in first..=last(first) {
                    let at = product.out.at(matrix(problem), block.rows.start, word) - start;
                    for (row, codes) in codes.chunks_exact(words).enumerate() {
                        // The first lane is the lowest byte, which on most machines it is already.
                        out[at + row * step] = u32::from_le(codes[word]);
                    }
                }
            }
        };
        let parts = (0..product.problems()).flat_map(|problem| {
            let firsts = (0..words).step_by(WORDS_AT_ONCE);
            firsts.map(move |first| [problem, first])
        });
        write_apart(
            parts.collect(),
            &[
                // Each on its own, or those of all images, which may lie side by side in a line of words.
                &|&[problem, first]| [problem, first],
                &|&[problem, first]| [problem % product.batch[1], first],
                &|_| [0, 0],
            ],
            span,
            write,
            out,
        );
    });
}

/// Computes [`integer_product_error`](super::integer_product_error).
pub(super) fn error(
    product: &IntegerProduct,
    operands: &Operands,
    reference: &[f32],
    weight: Option<&[f32]>,
) -> Vec<f32> {
    let step = product.out.column as usize;
    let errors_of = |problem: &Problem, block: &Block| {
        let mut errors = vec![0.0; product.n.div_ceil(operands.group_columns)];
        problem.block(block, |values| {
            let rows = values.chunks_exact_mut(product.n).zip(block.rows.clone());
            for (values, row) in rows {
                let at = product.out.at(block.matrix(product), row, 0);
                change_each(values, &reference[at..], step, |value, of| *value -= of);
                if let Some(weight) = weight {
                    change_each(values, &weight[at..], step, |value, by| *value *= by);
                }
            }
            for rows in values.chunks(SIDE_BY_SIDE * product.n) {
                add_squares(rows, product.n, operands.group_columns, &mut errors);
            }
        });
        errors
    };
    Problem::with(product, operands, |problem| {
        let mut sums = vec![0.0; product.jobs * operands.groups];
        let blocks = problem.blocks(BLOCK_ROWS);
        let errors: Vec<Vec<f64>> = blocks
            .par_iter()
            .map(|block| errors_of(problem, block))
            .collect();
        for (block, errors) in blocks.iter().zip(errors) {
            let first_group = block.matrix(product)[1] * operands.inner_groups;
            let sums = &mut sums[block.job * operands.groups + first_group..];
            sums.iter_mut()
                .zip(errors)
                .for_each(|(sum, error)| *sum += error);
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    })
}

/// Adds the squares of at most [`SIDE_BY_SIDE`] rows of `n` values to the errors of their groups of columns, a row of a
/// group at once.
fn add_squares(rows: &[f32], n: usize, group_columns: usize, errors: &mut [f64]) {
    let count = rows.len() / n;
    for (group, error) in errors.iter_mut().enumerate() {
        let first = group * group_columns;
        let columns = first..(first + group_columns).min(n);
        let row = |row: usize| &rows[row * n..][columns.clone()];
        let sums = row_sums(side_by_side(count, row), |_, value| value * value);
        sums[..count]
            .iter()
            .for_each(|&sum| *error += f64::from(sum));
    }
}

/// Adds up the codes of a column.
#[multiversion(targets = "simd")]
fn sum(codes: &[i8]) -> i32 {
    codes.iter().map(|&code| i32::from(code)).sum()
}

/// Replaces the sums of a row by floats. Each code had 128 added, for which its column's codes are subtracted as often; with
/// [`MAX_K`](super::MAX_K) of the largest codes, 65,535 · 255 · 128 still fits an `i32`.
#[multiversion(targets = "simd")]
fn to_floats(sums: &mut [i32], column_sums: &[i32]) {
    for (sum, column_sum) in sums.iter_mut().zip(column_sums) {
        let exact = *sum - 128 * column_sum;
        *sum = (exact as f32).to_bits() as i32;
    }
}

/// Replaces the sums of R1 by floats: those of both ranges.
#[multiversion(targets = "simd")]
fn combine_all(r1_sign: i32, r1: &mut [i32], r2: &[i32], shift: u32) {
    for (r1, r2) in r1.iter_mut().zip(r2) {
        *r1 = combine(r1_sign * *r1, *r2, shift).to_bits() as i32;
    }
}

#[multiversion(targets = "simd")]
fn scale(values: &mut [f32], by: &[f32]) {
    for (value, scale) in values.iter_mut().zip(by) {
        *value *= scale;
    }
}

#[multiversion(targets = "simd")]
fn add(values: &mut [f32], others: &[f32]) {
    for (value, other) in values.iter_mut().zip(others) {
        *value += other;
    }
}

/// Changes each value of a row with another's, those of which lie `step` apart.
fn change_each(values: &mut [f32], others: &[f32], step: usize, change: impl Fn(&mut f32, f32)) {
    // Side by side, as they nearly always are, they are read as vectors.
    if step == 1 {
        let pairs = values.iter_mut().zip(others);
        pairs.for_each(|(value, &other)| change(value, other));
    } else {
        let pairs = values.iter_mut().zip(others.iter().step_by(step));
        pairs.for_each(|(value, &other)| change(value, other));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_the_sum_of_its_parts() {
        for code in 0..=u8::MAX {
            let lanes = u32::from_le_bytes([code, !code, 0, code]);
            for (lane, code) in lanes.to_le_bytes().into_iter().enumerate() {
                let [whole, lower, upper, r1, r2] = [shifted, lower_half, upper_half, r1, r2]
                    .map(|part| part(lanes).to_le_bytes()[lane]);
                assert_eq!(i32::from(whole) - 128, i32::from(code as i8));
                assert_eq!(
                    i32::from(lower) + i32::from(upper) - 2 * 64,
                    i32::from(code as i8)
                );
                // Two products by -128 are the largest sum that 16 bits must hold.
                assert!(lower.max(upper) <= 128);
                let expected = if code < 128 {
                    [code, 0]
                } else {
                    [0, code - 128]
                };
                assert_eq!([r1, r2], expected);
            }
        }
    }

    #[test]
    fn halves_give_the_same_sums() {
        let [rows, columns, words] = [5, 3, 9];
        let codes: Vec<u32> = (0..padded(rows) * words)
            .map(|word| (word as u32).wrapping_mul(0x9e37_79b9))
            .collect();
        let right: Vec<i8> = (0..columns * 4 * words).map(|at| (at * 37) as i8).collect();
        let library = Library::default();
        let right = NdTensorView::from_data([columns, 4 * words], &right[..]);
        let right = library.prepack_b(right.transposed());
        let [whole, halves] = [Parts::Whole, Parts::Halves].map(|kind| {
            let mut parts = [Vec::new(), Vec::new()];
            kind.split(&codes, padded(rows), &(0..rows), &mut parts);
            let mut sums = vec![0; rows * columns];
            for (part, beta) in parts.iter().filter(|part| !part.is_empty()).zip([0, 1]) {
                let shape = [rows, 4 * words];
                multiply(&library, part, shape, &right, beta, &mut sums);
            }
            sums
        });
        assert_eq!(whole, halves);
    }
}
