//! Sums of rows on the CPU, each in the order of its elements. Several rows are added up side by side: each addition
//! waits for the last one to the same sum, but not for those of other rows.

/// Counts the rows that are added up side by side.
pub(super) const SIDE_BY_SIDE: usize = 8;

/// Adds up `term(row, element)` of each row's elements; the rows are of one length.
#[inline(always)]
pub(super) fn row_sums<const ROWS: usize>(
    rows: [&[f32]; ROWS],
    term: impl Fn(usize, f32) -> f32,
) -> [f32; ROWS] {
    let width = rows[0].len();
    let rows = rows.map(|row| &row[..width]);
    // As `sum` of an iterator begins.
    let mut sums = [-0.0; ROWS];
    for at in 0..width {
        for (row, (sum, values)) in sums.iter_mut().zip(rows).enumerate() {
            *sum += term(row, values[at]);
        }
    }
    sums
}

/// Picks the rows to add up side by side: the first `count` of them, the last one once more in the place of each that
/// there isn't.
#[inline(always)]
pub(super) fn side_by_side<'a>(
    count: usize,
    row: impl Fn(usize) -> &'a [f32],
) -> [&'a [f32]; SIDE_BY_SIDE] {
    std::array::from_fn(|at| row(at.min(count - 1)))
}
