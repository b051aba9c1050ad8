//! What the CPU's ways to multiply have in common: one matrix of a right operand, by which rows of codes are multiplied as
//! unsigned bytes.

use crate::format::ProductRule;
use crate::kernels::width::EVERY_LANE;
use std::ops::Range;

/// Multiplies by one matrix of a right operand, `[4 · words, n]`, whose codes it holds in an order of its own.
pub(super) trait RightMatrix: Send + Sync {
    /// Returns the rows and columns.
    fn shape(&self) -> [usize; 2];

    /// Computes the values of some rows, `[row][n]`, rows `stride` apart. What lies between and behind them stays.
    fn multiply(&self, left: &LeftRows, finish: &Finish, values: &mut [f32], stride: usize);
}

/// Holds rows of a left operand.
pub(super) struct LeftRows<'a> {
    /// One matrix of codes, `[word][padded_rows]`.
    pub codes: &'a [u32],
    /// The rows of that matrix, and those that pad it.
    pub padded_rows: usize,
    /// Which rows are asked for.
    pub rows: Range<usize>,
    /// How a lane is read.
    pub rule: ProductRule,
}

/// Says what becomes of sums, besides how a twin's two are combined.
pub(super) struct Finish<'a> {
    /// By how much a twin's sum of R2 is shifted left.
    pub shift: u32,
    /// `[n]`
    pub scales: &'a [f32],
    /// `[n]`
    pub biases: Option<&'a [f32]>,
}

/// Returns the exact sum, as a float, of codes that had 128 added, in a column whose codes of the right operand add up to
/// `column_sum`. With [`MAX_K`](super::MAX_K) of the largest codes, 65,535 · 255 · 128 still fits an `i32`.
#[inline(always)]
pub(super) fn without_shift(sum: i32, column_sum: i32) -> f32 {
    (sum - 128 * column_sum) as f32
}

/// Adds 128 to signed codes.
pub(super) fn shifted(lanes: u32) -> u32 {
    lanes ^ (0x80 * EVERY_LANE)
}

/// Picks a twin's codes in R1, zero where a code is in R2.
pub(super) fn r1(lanes: u32) -> u32 {
    lanes & !in_r2(lanes) & (0x7f * EVERY_LANE)
}

/// Picks a twin's codes in R2.
pub(super) fn r2(lanes: u32) -> u32 {
    lanes & in_r2(lanes)
}

/// Masks the magnitudes of a twin's codes that are in R2.
fn in_r2(lanes: u32) -> u32 {
    (lanes >> 7 & EVERY_LANE) * 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_the_sum_of_its_parts() {
        for code in 0..=u8::MAX {
            let lanes = u32::from_le_bytes([code, !code, 0, code]);
            for (lane, code) in lanes.to_le_bytes().into_iter().enumerate() {
                let [whole, r1, r2] = [shifted, r1, r2].map(|part| part(lanes).to_le_bytes()[lane]);
                assert_eq!(i32::from(whole) - 128, i32::from(code as i8));
                let expected = if code < 128 {
                    [code, 0]
                } else {
                    [0, code - 128]
                };
                assert_eq!([r1, r2], expected);
            }
        }
    }
}
