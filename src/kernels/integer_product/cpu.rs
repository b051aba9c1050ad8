//! The CPU version: blocks of rows are multiplied side by side, and the values of each become what is asked for.

use super::dots;
use super::library;
use super::right_matrix::{Finish, LeftRows, RightMatrix};
use super::{IntegerProduct, NextCodes, Operands, Residual, check_length};
use crate::format::half_range;
use crate::kernels::apart::{take_apart, write_apart, write_each};
use crate::kernels::gelu;
use crate::kernels::quantize::{fill_rows, padded};
use crate::kernels::row_sums::{SIDE_BY_SIDE, row_sums, side_by_side};
use crate::kernels::width::Width;
use crate::kernels::word_order::write_rows;
use multiversion::multiversion;
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Limits the rows of one block: enough for each word of the right operand, few enough that the cores share the work and what
/// is made of them stays near.
const BLOCK_ROWS: usize = 128;
/// Limits the rows of one block from below, where there are few for each core.
const FEWEST_BLOCK_ROWS: usize = 32;

/// Holds a product and its operands.
struct Problem<'a> {
    product: &'a IntegerProduct,
    operands: &'a Operands<'a>,
    scales: &'a [f32],
    /// Factors and biases of the columns.
    affine: Option<(Vec<f32>, Vec<f32>)>,
    a: &'a [u32],
    b: &'a [Box<dyn RightMatrix>],
}

/// Holds a right operand in the order that it is multiplied in.
struct RightOperand {
    width: Width,
    /// `[job or 1][problem]`
    matrices: Vec<Box<dyn RightMatrix>>,
}

impl RightOperand {
    /// Brings the codes of `product`'s right operand into that order: of the processor's instruction where it has one.
    fn new(product: &IntegerProduct, stored: &[u32]) -> Self {
        let (width, words, columns) = (product.b_width, product.words(), padded(product.n));
        let stored_words = width.stored(words) * columns;
        let matrices = stored[..right_matrices(product) * stored_words]
            .par_chunks_exact(stored_words)
            .map(|stored| -> Box<dyn RightMatrix> {
                let codes = width.unpack(stored, words, columns);
                if dots::are_quick() {
                    Box::new(dots::Tiles::new(&codes, columns, product.n))
                } else {
                    Box::new(library::Packed::new(&codes, columns, product.n))
                }
            })
            .collect();
        Self { width, matrices }
    }

    /// Says whether this is the right operand of such a product.
    fn fits(&self, product: &IntegerProduct) -> bool {
        let shape = [4 * product.words(), product.n];
        self.width == product.b_width
            && self.matrices.len() == right_matrices(product)
            && self.matrices.iter().all(|it| it.shape() == shape)
    }
}

/// Counts the matrices of a product's right operand.
fn right_matrices(product: &IntegerProduct) -> usize {
    product.problems() * if product.b_per_job { product.jobs } else { 1 }
}

/// Holds memory that one block after the other uses.
#[derive(Default)]
struct Scratch {
    column_scales: Vec<f32>,
    /// `[row][n]`
    values: Vec<f32>,
    /// `[row][word]`
    codes: Vec<u32>,
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
        let b = operands.b.derived(
            |b: &RightOperand| b.fits(product),
            |stored| RightOperand::new(product, stored),
        );
        let affine = operands.affine.map(|affine| {
            let affine = affine.host_slice();
            let pairs = affine.as_chunks::<2>().0.iter();
            pairs.map(|&[factor, bias]| (factor, bias)).unzip()
        });
        task(&Problem {
            product,
            operands,
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
        self.product.m.div_ceil(blocks).next_multiple_of(dots::ROWS)
    }

    /// Multiplies the rows of one block and writes the values, `[row][n]`, rows `stride` apart; `column_scales` is memory.
    fn multiply(
        &self,
        block: &Block,
        column_scales: &mut Vec<f32>,
        values: &mut [f32],
        stride: usize,
    ) {
        let product = self.product;
        let of =
            |per_job: bool| usize::from(per_job) * block.job * product.problems() + block.problem;
        let padded_rows = padded(product.m);
        let words = product.words() * padded_rows;
        let first_group = block.job * self.operands.groups
            + block.matrix(product)[1] * self.operands.inner_groups;
        let scales = self.scales[2 * first_group..].as_chunks::<2>().0;
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
        self.b[of(product.b_per_job)].multiply(
            &LeftRows {
                codes: &self.a[of(product.a_per_job) * words..][..words],
                padded_rows,
                rows: block.rows.clone(),
                rule: product.a_format.rule(),
            },
            &Finish {
                shift: scales[0][1] as u32,
                scales: column_scales,
                biases: self.affine.as_ref().map(|(_, biases)| &biases[..]),
            },
            values,
            stride,
        );
    }

    /// Multiplies the rows of one block and hands the values, `[row][n]`, to `visit`, and memory for their codes.
    fn block<T>(&self, block: &Block, visit: impl FnOnce(&mut [f32], &mut Vec<u32>) -> T) -> T {
        with_scratch(|scratch| {
            let Scratch {
                column_scales,
                values,
                codes,
            } = scratch;
            values.resize(block.rows.len() * self.product.n, 0.0);
            self.multiply(block, column_scales, values, self.product.n);
            visit(values, codes)
        })
    }
}

/// Runs `task` with what the thread's last block has left.
fn with_scratch<T>(task: impl FnOnce(&mut Scratch) -> T) -> T {
    // This thread may be put to another block while others finish its own, which then finds new memory.
    let mut scratch = SCRATCH.take();
    let result = task(&mut scratch);
    SCRATCH.set(scratch);
    result
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
    let [stride, step] = [product.out.row, product.out.column].map(|step| step as usize);
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
        // Rows that stay where they are, as they nearly always do, become values in their place.
        let in_place = |block: &Block, start: usize, out: &mut [f32]| {
            let at = at(block, block.rows.start);
            let out = &mut out[block.job * product.job_stride + at - start..];
            with_scratch(|scratch| {
                problem.multiply(block, &mut scratch.column_scales, out, stride);
            });
            if let Some(residual) = &residual {
                let rows = out.chunks_mut(stride).zip(residual[at..].chunks(stride));
                for (out, added) in rows.take(block.rows.len()) {
                    add(&mut out[..product.n], added);
                }
            }
        };
        let elsewhere = |block: &Block, start: usize, out: &mut [f32]| {
            problem.block(block, |values, _| {
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
        let is_in_place = order.is_none() && step == 1;
        write_apart(
            problem.blocks(rows),
            &[
                // Each block on its own, or those of all heads, which may lie side by side in a row.
                &|block: &Block| [block.job, block.problem, block.rows.start],
                &|block: &Block| [block.job, outer(block), block.rows.start],
                &|block: &Block| [block.job, 0, 0],
            ],
            span,
            |block, start, out| match is_in_place {
                true => in_place(block, start, out),
                false => elsewhere(block, start, out),
            },
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
        let blocks = problem.blocks(problem.block_rows());
        let line = |block: &Block, word| {
            let start = product
                .out
                .at(block.matrix(product), block.rows.start, word);
            start..start + block.rows.len()
        };
        let lines = |block| (0..words).map(move |word| line(block, word));
        let stretches = take_apart(blocks.iter().map(lines), out);
        let tasks = blocks.par_iter().zip(stretches);
        tasks.for_each(|(block, mut stretch)| {
            problem.block(block, |values, codes| {
                if let Some(form) = next.gelu {
                    gelu::apply(form, values);
                }
                // Lanes that have no value are zero.
                codes.clear();
                codes.resize(block.rows.len() * words, 0);
                fill_rows(next.format, q, product.n, values, &encoder, codes);
                write_rows(codes, &mut stretch);
            });
        });
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
        problem.block(block, |values, _| {
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
