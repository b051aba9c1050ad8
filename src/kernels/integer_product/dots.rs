//! Products of bytes by the processor's instruction for sums of four of them (VNNI), where it has one: a tile of rows and
//! columns at a time, in registers, from codes in the order of words, as operands have them.

use super::combine;
use super::right_matrix::{Finish, LeftRows, RightMatrix, r1, r2, shifted, without_shift};
use crate::format::ProductRule;
use multiversion::multiversion;
use multiversion::target::match_target;
use std::cell::Cell;

/// Counts the rows of a tile.
pub(super) const ROWS: usize = 8;
/// Counts the columns of a tile.
const COLUMNS: usize = 32;

/// Holds a word of each row of a tile, its codes unsigned.
type Left = [u32; ROWS];
/// Holds a word of each column of a tile, its codes signed.
type Right = [u32; COLUMNS];
/// Counts the lanes of the widest vectors.
const LANES: usize = 16;
/// Holds something of each column of a tile, in vectors.
type Columns<T> = [[T; LANES]; COLUMNS / LANES];
type Sums = [Columns<i32>; ROWS];

/// Says whether this processor has such an instruction.
#[multiversion(targets("x86_64+avx512f+avx512vnni", "x86_64+avx2+avxvnni"))]
pub(super) fn are_quick() -> bool {
    match_target! {
        "x86_64+avx512f+avx512vnni" => true,
        "x86_64+avx2+avxvnni" => true,
        _ => false,
    }
}

/// Holds one matrix of a right operand in tiles.
pub(super) struct Tiles {
    words: usize,
    n: usize,
    /// `[tile][word]`, zero beyond the last column.
    tiles: Vec<Right>,
    /// The sum of each column's codes, `[tile]`.
    sums: Vec<Columns<i32>>,
}

impl Tiles {
    /// Takes codes, `[word][padded_columns]`, of `n` columns.
    pub(super) fn new(codes: &[u32], padded_columns: usize, n: usize) -> Self {
        let words = codes.len() / padded_columns;
        let tiles = n.div_ceil(COLUMNS);
        let mut matrix = Self {
            words,
            n,
            tiles: vec![[0; COLUMNS]; tiles * words],
            sums: vec![Columns::default(); tiles],
        };
        for (word, line) in codes.chunks_exact(padded_columns).enumerate() {
            for (tile, columns) in line[..n].chunks(COLUMNS).enumerate() {
                matrix.tiles[tile * words + word][..columns.len()].copy_from_slice(columns);
            }
        }
        let tiles = matrix.tiles.chunks_exact(words).zip(&mut matrix.sums);
        tiles.for_each(|(tile, sums)| add_up(tile, sums));
        matrix
    }
}

/// Adds up the codes of each column of a tile.
#[multiversion(targets = "simd")]
fn add_up(tile: &[Right], sums: &mut Columns<i32>) {
    for words in tile {
        for (sum, word) in sums.as_flattened_mut().iter_mut().zip(words) {
            let codes = word.to_le_bytes().map(|code| i32::from(code as i8));
            *sum += codes.iter().sum::<i32>();
        }
    }
}

/// Takes rows of codes, a `change` made to each word, as `[panel of rows][word]`.
fn fill(left: &LeftRows, change: impl Fn(u32) -> u32, panels: &mut Vec<Left>) {
    let words = left.codes.len() / left.padded_rows;
    panels.resize(left.rows.len().div_ceil(ROWS) * words, [0; ROWS]);
    for (word, line) in left.codes.chunks_exact(left.padded_rows).enumerate() {
        let (whole, rest) = line[left.rows.clone()].as_chunks::<ROWS>();
        for (panel, lanes) in whole.iter().enumerate() {
            panels[panel * words + word] = lanes.map(&change);
        }
        if !rest.is_empty() {
            let last = &mut panels[whole.len() * words + word];
            last[..rest.len()].copy_from_slice(rest);
            *last = last.map(&change);
        }
    }
}

thread_local! {
    /// What the thread's last rows have left: of their codes, or of those of each range, `[panel of rows][word]`.
    static PARTS: Cell<[Vec<Left>; 2]> = Cell::default();
}

impl RightMatrix for Tiles {
    fn shape(&self) -> [usize; 2] {
        [4 * self.words, self.n]
    }

    fn multiply(&self, left: &LeftRows, finish: &Finish, values: &mut [f32], stride: usize) {
        let mut parts = PARTS.take();
        let [first, second] = &mut parts;
        match left.rule {
            ProductRule::Signed => fill(left, shifted, first),
            ProductRule::Ranges { .. } => {
                fill(left, r1, first);
                fill(left, r2, second);
            }
        }
        multiply(self, left, &parts, finish, values, stride);
        PARTS.set(parts);
    }
}

/// Multiplies the panels of some rows with each tile, and finishes the sums.
#[multiversion(targets("x86_64+avx512f+avx512vnni", "x86_64+avx2+avxvnni"))]
fn multiply(
    right: &Tiles,
    left: &LeftRows,
    parts: &[Vec<Left>; 2],
    finish: &Finish,
    values: &mut [f32],
    stride: usize,
) {
    let dots = |left: &[Left], right: &[Right]| -> Sums {
        match_target! {
            "x86_64+avx512f+avx512vnni" => avx512::dots(left, right),
            "x86_64+avx2+avxvnni" => avx::dots(left, right),
            _ => plain_dots(left, right),
        }
    };
    let words = right.words;
    let tiles = right.tiles.chunks_exact(words).zip(&right.sums);
    for (tile, (right_words, column_sums)) in tiles.enumerate() {
        let first = tile * COLUMNS;
        let columns = first..(first + COLUMNS).min(right.n);
        let scales = of_columns(&finish.scales[columns.clone()]);
        let biases = finish
            .biases
            .map(|biases| of_columns(&biases[columns.clone()]));
        // While a tile is in the core's first cache, all rows are multiplied with it.
        let panels = values.chunks_mut(ROWS * stride).enumerate();
        for (panel, values) in panels.take(left.rows.len().div_ceil(ROWS)) {
            let of_part = |part: &[Left]| dots(&part[panel * words..][..words], right_words);
            let [first_part, second_part] = parts;
            let sums = of_part(first_part);
            let ranges = match left.rule {
                ProductRule::Signed => None,
                ProductRule::Ranges { r1_sign } => Some((r1_sign, of_part(second_part))),
            };
            let rows = (left.rows.len() - panel * ROWS).min(ROWS);
            for (row, values) in values.chunks_mut(stride).take(rows).enumerate() {
                let scaled = match &ranges {
                    None => each(|v, lane| {
                        without_shift(sums[row][v][lane], column_sums[v][lane]) * scales[v][lane]
                    }),
                    Some((r1_sign, r2)) => each(|v, lane| {
                        let r1 = r1_sign * sums[row][v][lane];
                        combine(r1, r2[row][v][lane], finish.shift) * scales[v][lane]
                    }),
                };
                let finished = match &biases {
                    None => scaled,
                    Some(biases) => each(|v, lane| scaled[v][lane] + biases[v][lane]),
                };
                let finished: [f32; COLUMNS] = bytemuck::cast(finished);
                let values = &mut values[columns.clone()];
                match values.first_chunk_mut() {
                    Some(values) => *values = finished,
                    None => values.copy_from_slice(&finished[..values.len()]),
                }
            }
        }
    }
}

/// Copies what a tile's columns have, zero for those beyond the last.
fn of_columns(of_some: &[f32]) -> Columns<f32> {
    let mut of_all = [[0.0; LANES]; COLUMNS / LANES];
    of_all.as_flattened_mut()[..of_some.len()].copy_from_slice(of_some);
    of_all
}

/// Computes something of each column, a vector's lanes at a time, as the compiler then does it too.
#[inline(always)]
fn each(compute: impl Fn(usize, usize) -> f32) -> Columns<f32> {
    let mut all = [[0.0; LANES]; COLUMNS / LANES];
    for (v, all) in all.iter_mut().enumerate() {
        for (lane, value) in all.iter_mut().enumerate() {
            *value = compute(v, lane);
        }
    }
    all
}

/// Multiplies a panel with a tile, code by code.
fn plain_dots(left: &[Left], right: &[Right]) -> Sums {
    let mut sums = [Columns::default(); ROWS];
    for (left, right) in left.iter().zip(right) {
        for (sums, left) in sums.iter_mut().zip(left) {
            for (sum, right) in sums.as_flattened_mut().iter_mut().zip(right) {
                let codes = left.to_le_bytes().into_iter().zip(right.to_le_bytes());
                let products = codes.map(|(left, right)| i32::from(left) * i32::from(right as i8));
                *sum += products.sum::<i32>();
            }
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{COLUMNS, Left, ROWS, Right, Sums};
    use std::arch::x86_64::*;

    const LANES: usize = size_of::<__m512i>() / size_of::<i32>();

    /// Multiplies a panel with a tile, all of it at once.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn dots(left: &[Left], right: &[Right]) -> Sums {
        let mut sums = [[_mm512_setzero_si512(); COLUMNS / LANES]; ROWS];
        for (left, right) in left.iter().zip(right) {
            let right: [__m512i; COLUMNS / LANES] = bytemuck::cast(*right);
            for (sums, left) in sums.iter_mut().zip(left) {
                let left = _mm512_set1_epi32(*left as i32);
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = _mm512_dpbusd_epi32(*sum, left, right);
                }
            }
        }
        bytemuck::cast(sums)
    }
}

#[cfg(target_arch = "x86_64")]
mod avx {
    use super::{COLUMNS, Left, ROWS, Right, Sums};
    use std::arch::x86_64::*;

    const LANES: usize = size_of::<__m256i>() / size_of::<i32>();
    /// Counts the vectors of columns, and the rows, whose sums the 16 registers hold beside the operands.
    const VECTORS: usize = 2;
    const ROWS_AT_ONCE: usize = 4;
    const PAIRS: usize = COLUMNS / LANES / VECTORS;

    /// Multiplies a panel with a tile, a part of it after the other.
    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn dots(left: &[Left], right: &[Right]) -> Sums {
        let mut all = [[[0; VECTORS * LANES]; PAIRS]; ROWS];
        for first in (0..ROWS).step_by(ROWS_AT_ONCE) {
            for pair in 0..PAIRS {
                let mut sums = [[_mm256_setzero_si256(); VECTORS]; ROWS_AT_ONCE];
                for (left, right) in left.iter().zip(right) {
                    let right: [[__m256i; VECTORS]; PAIRS] = bytemuck::cast(*right);
                    for (sums, left) in sums.iter_mut().zip(&left[first..]) {
                        let left = _mm256_set1_epi32(*left as i32);
                        for (sum, right) in sums.iter_mut().zip(right[pair]) {
                            *sum = _mm256_dpbusd_avx_epi32(*sum, left, right);
                        }
                    }
                }
                for (all, sums) in all[first..].iter_mut().zip(sums) {
                    all[pair] = bytemuck::cast(sums);
                }
            }
        }
        bytemuck::cast(all)
    }
}

#[cfg(test)]
mod tests {
    use super::super::library;
    use super::*;
    use crate::kernels::quantize::padded;

    /// Returns words of which every byte differs from its neighbours.
    fn words(count: usize, factor: u32) -> Vec<u32> {
        let at = 1..=count as u32;
        at.map(|at| at.wrapping_mul(factor)).collect()
    }

    #[multiversion(targets("x86_64+avx512f+avx512vnni"))]
    fn by_avx512(left: &[Left], right: &[Right]) -> Sums {
        match_target! {
            "x86_64+avx512f+avx512vnni" => avx512::dots(left, right),
            _ => not_here("AVX-512", left, right),
        }
    }

    #[multiversion(targets("x86_64+avx2+avxvnni"))]
    fn by_avx(left: &[Left], right: &[Right]) -> Sums {
        match_target! {
            "x86_64+avx2+avxvnni" => avx::dots(left, right),
            _ => not_here("AVX", left, right),
        }
    }

    fn not_here(name: &str, left: &[Left], right: &[Right]) -> Sums {
        println!("skipped: this processor has no VNNI of {name}");
        plain_dots(left, right)
    }

    #[test]
    fn every_instruction_gives_the_same_sums() {
        for count in [1, 3, 48] {
            let left = words(count * ROWS, 0x9e37_79b9);
            let right = words(count * COLUMNS, 0x85eb_ca6b);
            let (left, right) = (left.as_chunks().0, right.as_chunks().0);
            let expected = plain_dots(left, right);
            assert_eq!(by_avx512(left, right), expected, "{count} words");
            assert_eq!(by_avx(left, right), expected, "{count} words");
        }
    }

    #[test]
    fn the_library_gives_the_same_values() {
        for [m, n, k_words] in [[1, 1, 1], [9, 33, 5], [37, 70, 12]] {
            let left = words(padded(m) * k_words, 0x9e37_79b9);
            let right = words(padded(n) * k_words, 0x85eb_ca6b);
            let scales: Vec<f32> = (0..n).map(|column| 0.1 + column as f32).collect();
            let dots = Tiles::new(&right, padded(n), n);
            let library = library::Packed::new(&right, padded(n), n);
            assert_eq!(dots.shape(), [4 * k_words, n]);
            assert_eq!(library.shape(), [4 * k_words, n]);
            for rule in [ProductRule::Signed, ProductRule::Ranges { r1_sign: -1 }] {
                let left = LeftRows {
                    codes: &left,
                    padded_rows: padded(m),
                    rows: m / 3..m,
                    rule,
                };
                let finish = Finish {
                    shift: 5,
                    scales: &scales,
                    biases: (n > 1).then_some(&scales[..]),
                };
                let stride = n + 3;
                let values = |right: &dyn RightMatrix| {
                    // Behind these rows may be others.
                    let mut values = vec![0.25; (left.rows.len() + 2 * ROWS) * stride];
                    right.multiply(&left, &finish, &mut values, stride);
                    values
                };
                assert_eq!(values(&dots), values(&library), "{m} by {n}, {rule:?}");
            }
        }
    }
}
