//! Products of bytes by a library, for processors without the instruction that [`dots`](super::dots) are computed by.

use super::combine;
use super::right_matrix::{Finish, LeftRows, RightMatrix, r1, r2, shifted, without_shift};
use crate::format::ProductRule;
use crate::kernels::width::EVERY_LANE;
use crate::kernels::word_order::read_rows;
use multiversion::multiversion;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};
use rten_tensor::NdTensorView;
use std::cell::Cell;

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
    fn of(rule: ProductRule, library: &Library) -> Self {
        match rule {
            ProductRule::Ranges { .. } => Self::Ranges,
            ProductRule::Signed if library.may_saturate() => Self::Halves,
            ProductRule::Signed => Self::Whole,
        }
    }

    /// Takes the codes of some rows apart, `[row][word]` for each part.
    fn split(self, left: &LeftRows, parts: &mut [Vec<u32>; 2]) {
        let [first, second] = parts;
        match self {
            Self::Whole => read(left, shifted, first),
            Self::Halves => {
                read(left, lower_half, first);
                read(left, upper_half, second);
            }
            Self::Ranges => {
                read(left, r1, first);
                read(left, r2, second);
            }
        }
    }
}

/// Reads the rows, `change` made to each word; compiled for each such function, since a call for each word would be slow.
fn read(left: &LeftRows, change: impl Fn(u32) -> u32, part: &mut Vec<u32>) {
    read_rows(left.codes, left.padded_rows, &left.rows, change, part);
}

fn lower_half(lanes: u32) -> u32 {
    shifted(lanes) >> 1 & (0x7f * EVERY_LANE)
}

fn upper_half(lanes: u32) -> u32 {
    lower_half(lanes) + (lanes & EVERY_LANE)
}

/// Holds one matrix of a right operand as the library takes it.
pub(super) struct Packed {
    packed: PackedBMatrix<i8>,
    /// The sum of each column's codes.
    sums: Vec<i32>,
}

impl Packed {
    /// Takes codes, `[word][padded_columns]`, of `n` columns.
    pub(super) fn new(codes: &[u32], padded_columns: usize, n: usize) -> Self {
        let mut rows = Vec::new();
        read_rows(codes, padded_columns, &(0..n), |lanes| lanes, &mut rows);
        let k = rows.len() / n * 4;
        let codes: &[i8] = bytemuck::cast_slice(&rows);
        Self {
            packed: LIBRARY.with(|library| {
                library.prepack_b(NdTensorView::from_data([n, k], codes).transposed())
            }),
            sums: codes.chunks_exact(k).map(sum).collect(),
        }
    }

    /// Computes `[rows][n]`: the product with a part of the codes, and `beta` times what `sums` held.
    fn multiply(&self, part: &[u32], beta: i32, sums: &mut Vec<i32>) {
        let part: &[u8] = bytemuck::cast_slice(part);
        let rows = part.len() / self.packed.rows();
        sums.resize(rows * self.packed.cols(), 0);
        let a = NdTensorView::from_data([rows, self.packed.rows()], part);
        let options = GemmOptions {
            beta,
            ..GemmOptions::default()
        };
        let multiplied = LIBRARY.with(|library| {
            // The library itself would pack the rows anew for each of its stretches of columns.
            let a = library.prepack_a(a);
            let (a, b) = (GemmInputA::Packed(&a), GemmInputB::Packed(&self.packed));
            library.gemm(sums, a, b, options)
        });
        multiplied.expect("the operands' shapes are those of the product");
    }

    fn multiply_parts(
        &self,
        kind: Parts,
        left: &LeftRows,
        finish: &Finish,
        values: &mut [f32],
        stride: usize,
    ) {
        let Scratch {
            mut parts,
            sums: [mut sums, mut other_sums],
        } = SCRATCH.take();
        kind.split(left, &mut parts);
        self.multiply(&parts[0], 0, &mut sums);
        match kind {
            Parts::Whole => {}
            Parts::Halves => self.multiply(&parts[1], 1, &mut sums),
            Parts::Ranges => self.multiply(&parts[1], 0, &mut other_sums),
        }
        let n = self.packed.cols();
        for (row, values) in values.chunks_mut(stride).take(left.rows.len()).enumerate() {
            let (values, columns) = (&mut values[..n], row * n..(row + 1) * n);
            match left.rule {
                ProductRule::Signed => to_floats(&sums[columns], &self.sums, values),
                ProductRule::Ranges { r1_sign } => {
                    let r2 = &other_sums[columns.clone()];
                    combine_all(r1_sign, &sums[columns], r2, finish.shift, values);
                }
            }
            finish_row(finish, values);
        }
        SCRATCH.set(Scratch {
            parts,
            sums: [sums, other_sums],
        });
    }
}

impl RightMatrix for Packed {
    fn shape(&self) -> [usize; 2] {
        [self.packed.rows(), self.packed.cols()]
    }

    fn multiply(&self, left: &LeftRows, finish: &Finish, values: &mut [f32], stride: usize) {
        self.multiply_parts(
            LIBRARY.with(|library| Parts::of(left.rule, library)),
            left,
            finish,
            values,
            stride,
        );
    }
}

/// Holds memory that one block after the other uses.
#[derive(Default)]
struct Scratch {
    /// `[row][word]`
    parts: [Vec<u32>; 2],
    /// `[row][n]`
    sums: [Vec<i32>; 2],
}

thread_local! {
    /// What multiplies, which knows the instructions of the processor.
    static LIBRARY: Library = Library::default();

    /// What the thread's last block has left.
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// Adds up the codes of a column.
#[multiversion(targets = "simd")]
fn sum(codes: &[i8]) -> i32 {
    codes.iter().map(|&code| i32::from(code)).sum()
}

/// Makes floats of the sums of a row.
#[multiversion(targets = "simd")]
fn to_floats(sums: &[i32], column_sums: &[i32], values: &mut [f32]) {
    for (value, (sum, column_sum)) in values.iter_mut().zip(sums.iter().zip(column_sums)) {
        *value = without_shift(*sum, *column_sum);
    }
}

/// Makes floats of the sums of a twin's ranges.
#[multiversion(targets = "simd")]
fn combine_all(r1_sign: i32, r1: &[i32], r2: &[i32], shift: u32, values: &mut [f32]) {
    for (value, (r1, r2)) in values.iter_mut().zip(r1.iter().zip(r2)) {
        *value = combine(r1_sign * r1, *r2, shift);
    }
}

/// Scales a row, and adds its biases.
#[multiversion(targets = "simd")]
fn finish_row(finish: &Finish, values: &mut [f32]) {
    let scaled = values.iter_mut().zip(finish.scales);
    scaled.for_each(|(value, scale)| *value *= scale);
    if let Some(biases) = finish.biases {
        let biased = values.iter_mut().zip(biases);
        biased.for_each(|(value, bias)| *value += bias);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::quantize::padded;

    #[test]
    fn halves_give_the_same_values() {
        let [rows, columns, words] = [5, 3, 9];
        let codes = |rows: usize, factor: u32| -> Vec<u32> {
            let words = 0..(padded(rows) * words) as u32;
            words.map(|word| word.wrapping_mul(factor)).collect()
        };
        let left = codes(rows, 0x9e37_79b9);
        let right = Packed::new(&codes(columns, 0x85eb_ca6b), padded(columns), columns);
        let left = LeftRows {
            codes: &left,
            padded_rows: padded(rows),
            rows: 0..rows,
            rule: ProductRule::Signed,
        };
        let finish = Finish {
            shift: 0,
            scales: &vec![1.0; columns],
            biases: None,
        };
        let [whole, halves] = [Parts::Whole, Parts::Halves].map(|kind| {
            let mut values = vec![0.0; rows * columns];
            right.multiply_parts(kind, &left, &finish, &mut values, columns);
            values
        });
        assert_eq!(whole, halves);
    }

    #[test]
    fn halves_are_small_and_add_up() {
        for code in 0..=u8::MAX {
            let lanes = u32::from_le_bytes([code, !code, 0, code]);
            for (lane, code) in lanes.to_le_bytes().into_iter().enumerate() {
                let [lower, upper] =
                    [lower_half, upper_half].map(|part| part(lanes).to_le_bytes()[lane]);
                assert_eq!(
                    i32::from(lower) + i32::from(upper) - 2 * 64,
                    i32::from(code as i8)
                );
                // Two products by -128 are the largest sum that 16 bits must hold.
                assert!(lower.max(upper) <= 128);
            }
        }
    }
}
