//! The CPU version: a library multiplies the codes as 8-bit integers, and rows of its sums become what is asked for.

use super::{IntegerProduct, NextCodes, Operands, Residual, check_length, combine};
use crate::format::{ProductRule, half_range};
use crate::kernels::gelu;
use crate::kernels::quantize::{fill, padded};
use crate::kernels::width::{EVERY_LANE, Width};
use multiversion::multiversion;
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix, QuantParams};
use rten_tensor::NdTensorView;
use std::ops::Range;

/// Limits the rows of one block: enough for the library's product, few enough that the cores share the work.
const BLOCK_ROWS: usize = 128;
/// Limits the rows of one block from below, where there are few for each core.
const FEWEST_BLOCK_ROWS: usize = 32;
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

    /// Returns the byte that a zero becomes, in each part.
    fn zero_point(self) -> u8 {
        match self {
            Self::Whole => 128,
            Self::Halves => 64,
            Self::Ranges => 0,
        }
    }

    /// Takes the codes of some rows apart: `[rows][words]` for each part.
    fn split(self, codes: &[u32], padded_rows: usize, rows: &Range<usize>) -> Vec<Vec<u32>> {
        let part = |of: fn(u32) -> u32| row_major(codes, padded_rows, rows, of);
        match self {
            Self::Whole => vec![part(shifted)],
            Self::Halves => vec![part(lower_half), part(upper_half)],
            Self::Ranges => vec![part(r1), part(r2)],
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

/// Brings some rows of an operand `[word][padded_rows]` into the order `[row][word]`, `part` of each word.
fn row_major(
    codes: &[u32],
    padded_rows: usize,
    rows: &Range<usize>,
    part: impl Fn(u32) -> u32,
) -> Vec<u32> {
    let words = codes.len() / padded_rows;
    let mut ordered = vec![0; rows.len() * words];
    for (word, line) in codes.chunks_exact(padded_rows).enumerate() {
        let places = ordered[word..].iter_mut().step_by(words);
        for (place, &lanes) in places.zip(&line[rows.clone()]) {
            // The first lane is the lowest byte, which on most machines it is already.
            *place = part(lanes).to_le();
        }
    }
    ordered
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
    b: &'a [PackedBMatrix<i8>],
}

/// Holds a right operand's codes as the library wants them.
struct RightOperand {
    width: Width,
    /// `[job or 1][problem]`, each `[4 · words, n]`
    matrices: Vec<PackedBMatrix<i8>>,
}

impl RightOperand {
    /// Brings the codes of `product`'s right operand into the library's order.
    fn new(product: &IntegerProduct, library: &Library, stored: &[u32]) -> Self {
        let (width, words, columns) = (product.b_width, product.words(), padded(product.n));
        let stored_words = width.stored(words) * columns;
        let matrices = stored[..right_matrices(product) * stored_words]
            .par_chunks_exact(stored_words)
            .map(|stored| {
                let codes = width.unpack(stored, words, columns);
                let codes = row_major(&codes, columns, &(0..product.n), |lanes| lanes);
                let shape = [product.n, 4 * words];
                let codes = NdTensorView::from_data(shape, bytemuck::cast_slice(&codes));
                library.prepack_b(codes.transposed())
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
                .all(|it| (it.rows(), it.cols()) == shape)
    }
}

/// Counts the matrices of a product's right operand.
fn right_matrices(product: &IntegerProduct) -> usize {
    product.problems() * if product.b_per_job { product.jobs } else { 1 }
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

    /// Counts the rows of a block where any number of them gives the same result.
    fn block_rows(&self) -> usize {
        let rows = self.product.jobs * self.product.problems() * self.product.m;
        let share = rows.div_ceil(2 * rayon::current_num_threads());
        share.clamp(FEWEST_BLOCK_ROWS, BLOCK_ROWS)
    }

    /// Multiplies the rows of one block and hands the values of each to `visit`, with its number.
    fn for_each_row(&self, block: &Block, mut visit: impl FnMut(usize, &mut [f32])) {
        let product = self.product;
        let of =
            |per_job: bool| usize::from(per_job) * block.job * product.problems() + block.problem;
        let padded_rows = padded(product.m);
        let a_words = product.words() * padded_rows;
        let a = &self.a[of(product.a_per_job) * a_words..][..a_words];
        let b = &self.b[of(product.b_per_job)];
        let parts = self.parts.split(a, padded_rows, &block.rows);
        let shape = [block.rows.len(), 4 * product.words()];
        let zero_point = self.parts.zero_point();
        let sums_of = |parts: &[Vec<u32>]| sums(&self.library, zero_point, parts, shape, b);

        let scales = &self.scales[2 * block.job * self.operands.groups..];
        let first_group = block.matrix(product)[1] * self.operands.inner_groups;
        let group = |column| first_group + column / self.operands.group_columns;
        // As on GPUs a column's factor joins its scale: no value is rounded once more.
        let column_scales: Vec<f32> = (0..product.n)
            .map(|column| {
                let factors = self.affine.as_ref().map(|(factors, _)| factors);
                scales[2 * group(column)] * factors.map_or(1.0, |factors| factors[column])
            })
            .collect();
        let finish = |values: &mut [f32]| {
            scale(values, &column_scales);
            if let Some((_, biases)) = &self.affine {
                add(values, biases);
            }
        };

        let mut values = vec![0.0; product.n];
        match product.a_format.rule() {
            ProductRule::Signed => {
                let sums = sums_of(&parts);
                for (row, sums) in block.rows.clone().zip(sums.chunks_exact(product.n)) {
                    to_floats(sums, &mut values);
                    finish(&mut values);
                    visit(row, &mut values);
                }
            }
            ProductRule::Ranges { r1_sign } => {
                let shift = scales[2 * first_group + 1] as u32;
                let [r1, r2] = [0, 1].map(|part| sums_of(&parts[part..=part]));
                let rows = r1.chunks_exact(product.n).zip(r2.chunks_exact(product.n));
                for (row, (r1, r2)) in block.rows.clone().zip(rows) {
                    combine_all(r1_sign, r1, r2, shift, &mut values);
                    finish(&mut values);
                    visit(row, &mut values);
                }
            }
        }
    }
}

/// Computes `[rows][n]`: the products of `parts`, each `[rows, k]`, with `b`, added up.
fn sums(
    library: &Library,
    zero_point: u8,
    parts: &[Vec<u32>],
    [rows, k]: [usize; 2],
    b: &PackedBMatrix<i8>,
) -> Vec<i32> {
    let zero_points = vec![zero_point; rows];
    let mut sums = vec![0; rows * b.cols()];
    for (index, part) in parts.iter().enumerate() {
        let a = NdTensorView::from_data([rows, k], bytemuck::cast_slice(part));
        let options = GemmOptions {
            beta: i32::from(index > 0),
            a_quant: Some(QuantParams {
                zero_point: &zero_points,
            }),
            ..GemmOptions::default()
        };
        library
            .gemm(
                &mut sums,
                GemmInputA::Unpacked(a),
                GemmInputB::Packed(b),
                options,
            )
            .expect("the operands' shapes are those of the product");
    }
    sums
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
            problem.for_each_row(block, |row, values| {
                let row = match &order {
                    Some((order, from)) => order.input_row(from, row),
                    None => Some(row),
                };
                let Some(row) = row else {
                    return;
                };
                let at = at(block, row);
                if let Some(residual) = &residual {
                    let added = residual[at..].iter().step_by(step);
                    values
                        .iter_mut()
                        .zip(added)
                        .for_each(|(value, added)| *value += added);
                }
                let places = out[block.job * product.job_stride + at - start..].iter_mut();
                places
                    .step_by(step)
                    .zip(values)
                    .for_each(|(place, value)| *place = *value);
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
        // `[block][row][word]`
        let codes: Vec<Vec<u32>> = problem
            .blocks(rows)
            .par_iter()
            .map(|block| {
                let mut codes = vec![0; block.rows.len() * words];
                problem.for_each_row(block, |row, values| {
                    if let Some(form) = next.gelu {
                        gelu::apply(form, values);
                    }
                    let codes = &mut codes[(row - block.rows.start) * words..][..words];
                    fill(
                        next.format,
                        q,
                        values,
                        &encoder,
                        bytemuck::cast_slice_mut(codes),
                    );
                });
                codes
            })
            .collect();
        let lines: Vec<[usize; 2]> = (0..product.problems())
            .flat_map(|problem| (0..words).map(move |word| [problem, word]))
            .collect();
        let matrix = |problem| [problem / product.batch[1], problem % product.batch[1]];
        let step = product.out.row as usize;
        let span = |&[problem, word]: &[usize; 2]| {
            let start = product.out.at(matrix(problem), 0, word);
            start..start + (product.m - 1) * step + 1
        };
        let blocks_down = product.m.div_ceil(rows);
        let write = |&[problem, word]: &[usize; 2], start: usize, out: &mut [u32]| {
            let first = product.out.at(matrix(problem), 0, word) - start;
            let codes = codes[problem * blocks_down..][..blocks_down].iter();
            let codes = codes.flat_map(|codes| codes[word..].iter().step_by(words));
            let places = out[first..].iter_mut().step_by(step);
            // The first lane is the lowest byte, which on most machines it is already.
            places
                .zip(codes)
                .for_each(|(place, code)| *place = u32::from_le(*code));
        };
        write_apart(lines, &[&|&line| line, &|_| [0, 0]], span, write, out);
    });
}

/// Computes [`integer_product_error`](super::integer_product_error).
pub(super) fn error<'a>(
    product: &IntegerProduct,
    operands: &Operands,
    reference: &'a [f32],
    weight: Option<&'a [f32]>,
) -> Vec<f32> {
    let step = product.out.column as usize;
    let errors_of = |problem: &Problem, block: &Block| {
        let mut errors = vec![0.0; product.n.div_ceil(operands.group_columns)];
        problem.for_each_row(block, |row, values| {
            let at = product.out.at(block.matrix(product), row, 0);
            let line = |values: &'a [f32]| values[at..].iter().step_by(step);
            values
                .iter_mut()
                .zip(line(reference))
                .for_each(|(value, reference)| *value -= reference);
            if let Some(weight) = weight {
                values
                    .iter_mut()
                    .zip(line(weight))
                    .for_each(|(value, weight)| *value *= weight);
            }
            let groups = values.chunks(operands.group_columns);
            for (error, values) in errors.iter_mut().zip(groups) {
                *error += f64::from(values.iter().map(|value| value * value).sum::<f32>());
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

#[multiversion(targets = "simd")]
fn to_floats(sums: &[i32], values: &mut [f32]) {
    for (value, &sum) in values.iter_mut().zip(sums) {
        *value = sum as f32;
    }
}

#[multiversion(targets = "simd")]
fn combine_all(r1_sign: i32, r1: &[i32], r2: &[i32], shift: u32, values: &mut [f32]) {
    for ((value, r1), r2) in values.iter_mut().zip(r1).zip(r2) {
        *value = combine(r1_sign * r1, *r2, shift);
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

/// Runs `write` on every item with the slice of `out` that it may write to and the slice's place: side by side for those
/// whose spans lie apart, one after another for those that have the same key. The keys are tried in turn.
fn write_apart<I: Sync + Send, K: Ord, T: Send>(
    mut items: Vec<I>,
    keys: &[&dyn Fn(&I) -> K],
    span: impl Fn(&I) -> Range<usize>,
    write: impl Fn(&I, usize, &mut [T]) + Sync,
    out: &mut [T],
) {
    for key in keys {
        items.sort_by_key(key);
        let mut groups: Vec<(Range<usize>, &[I])> = items
            .chunk_by(|a, b| key(a) == key(b))
            .map(|group| {
                let spans = group.iter().map(&span);
                let span = spans.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
                (span.expect("no group is empty"), group)
            })
            .collect();
        groups.sort_by_key(|(span, _)| span.start);
        if groups.is_sorted_by(|(a, _), (b, _)| a.end <= b.start) {
            let mut rest = (0, out);
            let tasks: Vec<_> = groups
                .into_iter()
                .map(|(span, group)| {
                    let (at, slice) = std::mem::take(&mut rest);
                    let (slice, after) = slice[span.start - at..].split_at_mut(span.len());
                    rest = (span.end, after);
                    (span.start, slice, group)
                })
                .collect();
            tasks.into_par_iter().for_each(|(start, slice, group)| {
                group.iter().for_each(|item| write(item, start, slice));
            });
            return;
        }
    }
    unreachable!("the last key puts together whatever lies between other items' places");
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
        let [whole, halves] = [Parts::Whole, Parts::Halves].map(|parts| {
            let split = parts.split(&codes, padded(rows), &(0..rows));
            sums(
                &library,
                parts.zero_point(),
                &split,
                [rows, 4 * words],
                &right,
            )
        });
        assert_eq!(whole, halves);
    }
}
